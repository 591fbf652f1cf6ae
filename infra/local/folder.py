"""What a folder must be before brokers use it: on a disk with room, and in nobody else's use."""

import fcntl
import os
import shutil
from pathlib import Path

from infra.local.errors import folder_in_use, no_space


def require_space(folder: Path, need: int) -> None:
    """Raise LocalBrokerError unless `need` bytes are free where `folder` (which exists) is."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise no_space(folder, need, free)


class FolderLock:
    """An advisory lock (flock(2)) on a file: it ends with the process, however that ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool = False) -> None:
        """Take the lock, unless it is held; if another process has it, wait, or else raise LocalBrokerError."""
        if self._descriptor is not None:
            return
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as problem:
            os.close(descriptor)
            raise folder_in_use(self._file.parent) from problem
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; nothing to do if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
