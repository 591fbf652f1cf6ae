"""The optional C sender: built where a compiler is (`python -m gateway.broadcast.native`, by `make install`), never needed."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

from gateway.native import Library

SENDER: Final = Library(Path(__file__).with_name("sender.c"))
LIBRARY: Final = SENDER.path

build = SENDER.build


def load() -> ctypes.CDLL | None:
    """The library, if it was built, and knows all that is called."""
    library = SENDER.load()
    if library is None:
        return None
    if not hasattr(library, "lw_send_each"):
        return None  # of an older release
    library.lw_open.argtypes, library.lw_open.restype = [ctypes.c_uint], ctypes.c_void_p
    library.lw_close.argtypes, library.lw_close.restype = [ctypes.c_void_p], None
    pointer = ctypes.c_void_p
    library.lw_send.argtypes = [pointer, pointer, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, pointer]
    library.lw_send.restype = ctypes.c_int
    library.lw_send_each.argtypes = [pointer, pointer, ctypes.c_int, ctypes.c_char_p, pointer, pointer]
    library.lw_send_each.restype = ctypes.c_int
    return library
