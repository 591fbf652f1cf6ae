"""Become another program that dies with its parent: `python leash.py PARENT PROGRAM [ARGUMENT …]`.

A script, so that nothing of Python runs between the fork and the exec of a supervisor with threads; and it becomes the
program, so that its pid is the one the supervisor knows. The kernel's promise (Linux, prctl(2) PR_SET_PDEATHSIG)
survives the exec.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL at the parent's death; where the kernel has no such call, do without."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call: nobody is left to send the signal
        sys.exit(f"the parent {parent} is gone")


def main() -> None:
    """Leash this process, then become the program."""
    parent, program, *arguments = sys.argv[1:]
    die_with_parent(int(parent))
    try:
        os.execv(program, [program, *arguments])  # noqa: S606
    except OSError as problem:
        sys.exit(f"{program}: {problem.strerror}")


if __name__ == "__main__":
    main()
