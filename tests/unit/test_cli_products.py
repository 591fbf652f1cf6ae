"""`pushctl product` and `pushctl audit`: what is asked of center, and what its answers look like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import Center, forget_settings, pushctl, system_at


@pytest.fixture
def center(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Center]:
    forget_settings(monkeypatch, tmp_path)
    made = Center()
    system_at(tmp_path, center=made.url)
    yield made
    made.close()


def test_given_changes_of_a_product_then_each_asks_center(center: Center, tmp_path: Path) -> None:
    for status in (201, 200, 200):
        center.will(status, {"name": "shop", "rate": 500})
    made = pushctl("product", "create", "--data", tmp_path, "shop", "rate=500", 'services=["echo"]', "--reason", "new")
    assert (made.exit_code, '"rate": 500' in made.stdout) == (0, True)
    assert pushctl("product", "set", "--data", tmp_path, "shop", "queue=null", "service_timeout=5s").exit_code == 0
    assert pushctl("product", "show", "--data", tmp_path, "shop").exit_code == 0
    center.will(204, b"")
    assert pushctl("product", "remove", "--data", tmp_path, "shop", "--yes").stdout == "shop is removed\n"
    assert center.asked == [
        ("PUT", "/v1/products/shop?reason=new", {"rate": 500, "services": ["echo"]}),
        ("PATCH", "/v1/products/shop", {"queue": None, "service_timeout": "5s"}),
        ("GET", "/v1/products/shop", None),
        ("DELETE", "/v1/products/shop", None),
    ]
    assert pushctl("product", "set", "--data", tmp_path, "shop", "rate").exit_code == 2


def test_given_pages_then_all_of_them_are_listed(center: Center, tmp_path: Path) -> None:
    center.will(200, {"products": [{"name": "a", "rate": 1, "queue": True, "bound": 2}], "next": "x"})
    center.will(200, {"products": [{"name": "b", "rate": 3, "queue": False, "bound": 0}], "next": None})
    listed = pushctl("product", "list", "--data", tmp_path)
    assert listed.stdout == "a: 1/s, 2 bound, own queue\nb: 3/s, 0 bound\n"
    assert [path for _, path, _ in center.asked] == ["/v1/products?limit=100&cursor=", "/v1/products?limit=100&cursor=x"]


def test_given_an_audit_then_so_many_records_are_shown_newest_first(center: Center, tmp_path: Path) -> None:
    record = {"product": "shop", "subject": "queue", "action": "rate", "by": "ann", "at_ms": 1_790_000_000_000}
    record |= {"before": "off", "after": "500/s", "reason": "the sale"}
    center.will(200, {"records": [], "next": "x"})
    center.will(200, {"records": [record, record], "next": "y"})
    shown = pushctl("audit", "--data", tmp_path, "--product", "shop", "--limit", 1)
    assert shown.stdout == "2026-09-21T14:13:20+00:00 ann: queue rate: off → 500/s (the sale)\n"
