"""`GET /`: the API on one page, rendered from the OpenAPI document, without scripts and without anything from elsewhere."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any, Final

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
section { border-top: 1px solid #d0d7de; padding: .5rem 0 1rem }
h2 { font: 600 1.05rem/1.4 ui-monospace, monospace }
h2 b { display: inline-block; min-width: 4rem; color: #0550ae }
pre { background: #f6f8fa; padding: .75rem; overflow-x: auto; font-size: .875rem }
dt { float: left; clear: left; width: 3.5rem; font-family: ui-monospace, monospace } dd { margin-left: 4rem }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } pre { background: #161b22 } h2 b, a { color: #79c0ff }
}
"""


_KEY: Final = " Send the API key as <code>Authorization: Bearer …</code>."


def render(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    sections = [
        _section(method, path, operation, document)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    title = escape(info["title"])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title} {escape(info['version'])}</h1>"
        f'<p>{_prose(info["description"])}{_KEY} The whole contract: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}</html>"
    )


def _section(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    key = "" if operation.get("security") else " No API key."
    description = _prose(operation.get("description", ""))
    answers = "".join(
        f"<dt>{status}</dt><dd>{_prose(each['description'])}</dd>" for status, each in operation["responses"].items()
    )
    return (
        f"<section><h2><b>{method.upper()}</b>{escape(path)}</h2><p>{description}{key}</p>"
        f"{_parameters(operation)}{_example(operation, document)}<dl>{answers}</dl></section>"
    )


def _prose(text: str) -> str:
    """Text of a docstring: what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _parameters(operation: dict[str, Any]) -> str:
    names = [f"<code>{escape(each['name'])}</code> ({escape(each['in'])})" for each in operation.get("parameters", ())]
    return f"<p>Parameters: {', '.join(names)}</p>" if names else ""


def _example(operation: dict[str, Any], document: dict[str, Any]) -> str:
    body = operation.get("requestBody")
    if body is None:
        return ""
    if "application/json" not in body["content"]:  # a list: one form a media type
        forms = ((media_type, content["example"]) for media_type, content in body["content"].items())
        return "".join(f"<p><code>{escape(media_type)}</code></p><pre>{escape(example)}</pre>" for media_type, example in forms)
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    examples = document["components"]["schemas"][name].get("examples", ())
    return "".join(f"<pre>{escape(json.dumps(example, indent=2))}</pre>" for example in examples)
