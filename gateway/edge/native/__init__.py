"""The optional C reader: built where a compiler is (`python -m gateway.edge.native`, by `make install`), never needed."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

from gateway.native import Library

READER: Final = Library(Path(__file__).with_name("reader.c"))


def load() -> ctypes.CDLL | None:
    """The library, if it was built, on a system with epoll."""
    library = READER.load()
    if library is None or not hasattr(library, "lw_turn") or not hasattr(library, "lw_accept"):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.lw_turn.argtypes = [number, number, pointer, number, pointer, number, number, pointer, pointer, pointer]
    library.lw_turn.restype = number
    library.lw_accept.argtypes = [number, number, pointer, pointer]
    library.lw_accept.restype = number
    return library
