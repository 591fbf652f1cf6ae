"""`make fuzz SECONDS=60`: the fuzzer for so long, what it did, and what it found. Inputs are kept in build/fuzz.

With names of files: run each of these inputs once, and say what it does.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path("build/fuzz")
CORPUS: Final = FOLDER / "corpus"
LARGEST: Final = 4 * 97
"""Bytes of an input: as many genes as a program has."""
SEEDS: Final = 64


def plant() -> None:
    """Begin with inputs that connect, so that what is behind a CONNECT is found at once."""
    chance = random.Random(1)
    for number in range(SEEDS):
        genes = chance.randbytes(4) + bytes((0, 0, chance.choice((0, 2, 4, 64)), 0)) + chance.randbytes(4 * chance.randrange(20))
        (CORPUS / f"seed-{number}").write_bytes(genes)


def fuzz(seconds: int) -> int:
    """Run, and show. Returns the number of findings."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    plant()
    inputs, crashes = len(list(CORPUS.iterdir())), set(FOLDER.glob("crash-*"))
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LARGEST}",
        f"-artifact_prefix={FOLDER}/",
        "-timeout=20",
        "-len_control=0",
        "-rss_limit_mb=2048",
    ]
    command = [sys.executable, "-m", "tests.fuzz.target", *options, "-print_final_stats=1", str(CORPUS)]
    executions, said = "0", []
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if match := re.match(r"#(\d+)\s+pulse.*cov: (\d+)", line):
                print(f"{match[1]} executions, {match[2]} edges", flush=True)
            elif match := re.match(r"stat::number_of_executed_units:\s*(\d+)", line):
                executions = match[1]
            else:
                said = [*said[-60:], line]
    found = {*FOLDER.glob("crash-*"), *FOLDER.glob("timeout-*"), *FOLDER.glob("oom-*")} - crashes
    print(f"{executions} executions, {len(list(CORPUS.iterdir())) - inputs} new inputs, {len(found)} findings")
    if process.returncode and not found:
        print("".join(said), end="")
    return len(found) or process.returncode


def main(arguments: list[str]) -> int:
    if arguments and not arguments[0].isdigit():
        return replay(arguments)
    before = set(FOLDER.glob("*-*"))
    bad = fuzz(int(arguments[0]) if arguments else 60)
    new = sorted(str(path) for path in set(FOLDER.glob("*-*")) - before)
    return replay(new) or int(bool(bad))


def replay(paths: list[str]) -> int:
    """What each input does."""
    from tests.fuzz.edge import check
    from tests.fuzz.grammar import program

    bad = 0
    for path in paths:
        data = Path(path).read_bytes()
        try:
            check(data)
        except Exception as error:
            bad += 1
            print(f"{path}: {type(error).__name__}: {error}\n  bytes.fromhex({data.hex()!r})")
            for step in program(data):
                print(f"  {repr(step)[:160]}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
