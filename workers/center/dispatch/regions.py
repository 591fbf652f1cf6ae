"""The region of an address: by a table of CIDR networks, else by a MaxMind file (GeoLite2 or GeoIP2, Country or City)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

import maxminddb
import structlog
from prometheus_client import Counter

from infra.networks import NetworkTable
from infra.peers import MAPPED, UNKNOWN, is_v4

log = structlog.get_logger("center")
refused = Counter("longwire_center_geo_refused_total", "MaxMind files that could not be read")

_UNREAD: Final = (0, 0)


class Regions:
    """`of(address)`. The file is read anew by `refresh()` when another one is in its place; one that can't be read is logged and
    counted, and the last good one goes on."""

    def __init__(
        self, networks: Mapping[str, str], geo: Path | None = None, geo_regions: Mapping[str, str] | None = None
    ) -> None:
        """`networks`: CIDR → region; `geo_regions`: code of a country or continent (`DE`, `EU`) → region; a country without one
        is a region of its own, by its code in lower case."""
        self._networks = NetworkTable(networks)
        self._geo = geo
        self._by_code = {code.upper(): region for code, region in (geo_regions or {}).items()}
        self._reader: maxminddb.Reader | None = None
        self._stamp = _UNREAD
        self.refresh()

    def of(self, address: int) -> str:
        """The region, "" if there is none known. `address`: `infra.peers`."""
        found = self._networks.get(address)
        if found is not None or self._reader is None or address == UNKNOWN:
            return found or ""
        ip = IPv4Address(address ^ MAPPED) if is_v4(address) else IPv6Address(address)
        try:
            return self._named(self._reader.get(ip))
        except (ValueError, maxminddb.InvalidDatabaseError):  # IPv6 in a file of IPv4; a file that is damaged inside
            return ""

    def refresh(self) -> None:
        """Read the file if it is not the one that was read."""
        if self._geo is None:
            return
        try:
            stat = self._geo.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._reader = maxminddb.open_database(self._geo)
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
            refused.inc()
            log.error("MaxMind file refused, the last good one stays", file=str(self._geo), error=str(error)[:200])

    def _named(self, record: Any) -> str:
        fields = record if isinstance(record, dict) else {}
        codes = [_code(fields, "country", "iso_code"), _code(fields, "continent", "code")]
        return next((self._by_code[code] for code in codes if code in self._by_code), codes[0].lower())


def _code(record: dict[str, Any], part: str, name: str) -> str:
    found = record.get(part)
    value = found.get(name) if isinstance(found, dict) else None
    return value.upper() if isinstance(value, str) else ""
