"""Broadcasts as text for a terminal: what is watched, shown, listed, estimated, and what was done to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from infra.ops.show import rendered

Document = dict[str, Any]

FUNNEL: Final = ("sent", "written", "acked", "rejected", "deferred", "capped", "waiting", "too_large", "expired", "repeated")
"""What became of the persons; `targeted` is before them, `uncertain` after them."""
ROOM_COUNTS: Final = ("sent", "written", "acked", "rejected", "repeated", "skipped", "waiting")
ALWAYS: Final = ("sent", "acked", "rejected", "waiting")
"""Shown also where they are 0."""
TIMES: Final = (("starts", "start_ms"), ("started", "started_ms"), ("ends", "expires_ms"), ("completed", "completed_ms"))
STYLES: Final = {"running": "green", "completed": "bold green", "paused": "yellow", "halted": "bold red", "cancelled": "red"}
BAR_WIDTH: Final = 40


# --- watching ----------------------------------------------------------------------------------------------------------


def watch_view(document: Document, rate: float) -> Group:
    """What is drawn while a job is watched: a bar, the rate, the funnel, and the times to the acknowledgement."""
    head = Text.assemble(
        (str(document["id"]), "bold"), "  ", str(document.get("product") or ""), "  ", _state(document), no_wrap=True
    )
    bar = Table.grid(padding=(0, 2))
    drawn = ProgressBar(
        total=1, completed=_progress(document), width=BAR_WIDTH, complete_style="green", finished_style="bold green"
    )
    bar.add_row(drawn, _walked(document), _speed(document, rate))
    lines = [Text(line) for line in (funnel_line(document), *_details(document))]
    return Group(head, bar, *lines)


def plain_line(document: Document, rate: float) -> str:
    """The same in one line, for a pipe or a log."""
    at = datetime.now(UTC).strftime("%H:%M:%S")
    parts = [at, _state(document).plain, _walked(document), _speed(document, rate), funnel_line(document), *_details(document)]
    return "  ".join(part for part in parts if part)


def funnel_line(document: Document) -> str:
    """`targeted 1,000 → sent 620  acked 598  …`: what happened is shown, and what matters also where it did not."""
    totals = document.get("totals") or {}
    shown = [f"{_word(name)} {_count(totals, name):,}" for name in FUNNEL if _count(totals, name) or name in ALWAYS]
    if document.get("uncertain"):
        shown.append(f"uncertain {int(document['uncertain']):,}")
    return f"targeted {int(document.get('targeted') or 0):,} → {'  '.join(shown)}"


def _state(document: Document) -> Text:
    state, reason = str(document["state"]), document.get("reason")
    return Text.assemble((state, STYLES.get(state, "")), f": {reason}" if reason else "")


def _walked(document: Document) -> str:
    return f"{_progress(document):.0%}"


def _speed(document: Document, rate: float) -> str:
    """The rate that is measured, what it may be, and when it is through."""
    if document["state"] != "running":
        return ""
    asked, pace = int(document.get("rate") or 0), document.get("pace")
    allowed = f"of {asked:,}/s" if pace is None or round(pace) == asked else f"of {round(pace):,}/s now, {asked:,}/s asked for"
    eta = document.get("eta_s")
    return f"{rate:,.0f}/s {allowed}" + (f"  {span(eta)} left" if eta is not None else "")


def _details(document: Document) -> list[str]:
    """Lines that a job has only at times."""
    lines = []
    if times := document.get("ack_ms"):
        lines.append("time to ack  " + "  ".join(f"{name} {milliseconds(value)}" for name, value in times.items()))
    if canary := document.get("canary"):
        lines.append(f"canary {canary['share_bp'] / 100:g}%: {canary['state']}")
    if document["state"] == "running" and (pressure := float(document.get("pressure") or 1)) < 1:
        lines.append(f"slowed down to {pressure:.0%}: the product's health page is slow")
    return lines


# --- showing -----------------------------------------------------------------------------------------------------------


def job_text(document: Document) -> str:
    """A job: its state, its numbers, then its counts, room by room."""
    head = f"{document.get('id')}: {_state(document).plain}, {_walked(document)} of {int(document.get('targeted') or 0):,}"
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(document):
        facts.add_row(f"  {name}", value)
    table = Table("ROOM", *(_right(name) for name in ROOM_COUNTS), box=None)
    for row in document.get("rooms") or []:
        table.add_row(str(row["room"]), *(f"{_count(row.get('counts') or {}, name):,}" for name in ROOM_COUNTS))
    table.add_row("all", *(f"{_count(document.get('totals') or {}, name):,}" for name in ROOM_COUNTS))
    return rendered(head, facts, "", table)


def _facts(document: Document) -> list[tuple[str, str]]:
    facts = [
        ("product", str(document.get("product") or "")),
        ("rate", f"{int(document.get('rate') or 0):,}/s, priority {document.get('priority') or 'normal'}"),
        ("funnel", funnel_line(document)),
    ]
    facts += [
        (name, moment(document[field]))
        for name, field in (
            ("starts", "start_ms"),
            ("started", "started_ms"),
            ("ends", "expires_ms"),
            ("completed", "completed_ms"),
        )
        if document.get(field)
    ]
    if document.get("eta_s") is not None:
        facts.append(("left", span(document["eta_s"])))
    return facts + [("", line) for line in _details(document)]


def list_text(document: Document) -> str:
    """One row a job, newest first."""
    jobs = document["broadcasts"]
    if not jobs:
        return "no broadcasts"
    table = Table("ID", "PRODUCT", "STATE", *(_right(name) for name in ("done", "rate", "sent", "acked")), "STARTED", box=None)
    for job in jobs:
        totals = job.get("totals") or {}
        table.add_row(
            Text(str(job["id"]), no_wrap=True),
            str(job["product"]),
            str(job["state"]),
            _walked(job),
            f"{int(job.get('rate') or 0):,}/s",
            f"{_count(totals, 'sent'):,}",
            f"{_count(totals, 'acked') + _count(totals, 'written'):,}",
            moment(job["started_ms"]) if job.get("started_ms") else "",
        )
    return rendered(table, *(["there are more: --limit shows them"] if document.get("next") else []))


def audit_text(document: Document) -> str:
    """One row an action, newest last."""
    if not document["records"]:
        return "nothing was done to it yet"
    table = Table("WHEN", "WHO", "ACTION", "FROM", "TO", "WHY", box=None)
    for row in document["records"]:
        words = (row["by"], row["action"], row["before"], row["after"], row["reason"] or "")
        table.add_row(moment(row["at_ms"]), *words)
    return rendered(table, *([] if document["whole"] else ["older ones were left out: pushctl tail audit --since beginning"]))


def estimate_text(document: Document) -> str:
    """Whom a broadcast would reach."""
    about = "about " if document["offline_estimated"] else ""
    lines = [f"{document['online']:,} online now, through in {span(document['takes_s'])} at {document['rate']:,}/s"]
    if document["offline"] is None:
        lines.append("offline: not known, Kafka did not answer")
    else:
        lines.append(f"{about}{document['offline']:,} offline, of {about}{document['known']:,} that have bound the product")
    table = Table("ROOM", _right("persons"), box=None)
    for row in document["rooms"]:
        table.add_row(str(row["room"]), f"{row['persons']:,}" if row["persons"] is not None else str(row["error"]))
    return rendered(*lines, *([table] if document["rooms"] else ["no room is live"]), "nothing was sent")


def watched_text(document: Document) -> str:
    """How a watched job ended, in one line."""
    totals = document.get("totals") or {}
    sent, targeted = _count(totals, "sent"), int(document.get("targeted") or 0)
    state = _state(document).plain
    if not targeted and not sent:
        return f"{state}: nobody who is bound was online; late joiners get it until it expires"
    return f"{state}: sent to {sent:,} of {targeted:,} persons online, {_count(totals, 'acked'):,} acknowledged so far"


# --- numbers -----------------------------------------------------------------------------------------------------------


def moment(ms: int) -> str:
    """A time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """`8 s`, `2 min 5 s`, `3 h 20 min`, `4 d 2 h`: two units at most."""
    whole = max(0, round(seconds))
    for size, word, smaller, less in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {word}" + (f" {rest} {less}" if rest else "")
    return f"{whole} s"


def milliseconds(value: float | None) -> str:
    """`42 ms`, `1.2 s`; None is longer than the owner tells apart."""
    if value is None:
        return "over an hour"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def _progress(document: Document) -> float:
    return min(1.0, max(0.0, float(document.get("progress") or 0)))


def _count(totals: Document, name: str) -> int:
    return int(totals.get(name) or 0)


def _right(name: str) -> Column:
    return Column(name.upper(), justify="right")


def _word(name: str) -> str:
    return name.replace("_", " ")
