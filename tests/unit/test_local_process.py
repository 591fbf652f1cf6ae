"""One supervised child: its log, its end, its leash; the port and the folder it is given."""

import asyncio
import os
import shutil
import socket
import sys
from collections import namedtuple
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from infra.local.errors import LocalBrokerError
from infra.local.folder import FolderLock, require_space
from infra.local.ports import HOST, PortLease
from infra.local.process import LOG_LIMIT, Child, server_environment

DEADLINE = 10.0
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[Child]:
    made = Child("sleeper", tmp_path / "logs" / "sleeper.log")
    yield made
    await made.kill()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_given_a_configuration_of_openssl_then_servers_have_it_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENSSL_CONF", "/etc/longwire/openssl.cnf")
    monkeypatch.setenv("SOME_SECRET", "s")
    passed = server_environment()
    assert passed["OPENSSL_CONF"] == "/etc/longwire/openssl.cnf"
    assert "SOME_SECRET" not in passed


async def test_given_a_child_that_ends_by_itself_then_its_exit_and_its_last_lines_are_known(child: Child) -> None:
    await child.start(python("print('one'); print('two'); raise SystemExit(3)"))
    ended = await child.exited()
    assert (ended.code, ended.asked, ended.reason) == (3, False, "exited with code 3")
    assert child.tail(1) == "two"
    assert child.pid is None


async def test_given_a_second_start_then_the_tail_is_only_of_that_one(child: Child) -> None:
    await child.start(python("print('first')"))
    await child.exited()
    await child.start(python("pass"))
    await child.exited()
    assert child.tail() == "(empty)"
    assert child.log.read_text() == "first\n"


async def test_given_a_running_child_when_started_again_then_it_is_refused(child: Child) -> None:
    await child.start(python("import time; time.sleep(60)"))
    with pytest.raises(RuntimeError, match=f"running with pid {child.pid}"):
        await child.start(python("pass"))


async def test_given_a_child_when_stopped_then_it_ends_by_term_and_a_second_stop_does_nothing(child: Child) -> None:
    await child.start(python("import time; print('up', flush=True); time.sleep(60)"))
    await until(lambda: child.tail() == "up")
    await child.stop(DEADLINE)
    await child.stop(DEADLINE)
    assert (await child.exited()).reason == "was killed by SIGTERM, as asked"


async def test_given_a_child_that_ignores_term_when_stopped_then_it_is_killed_after_the_grace(child: Child) -> None:
    await child.start(python(STUBBORN))
    await until(lambda: child.tail() == "up")
    await child.stop(0.1)
    assert (await child.exited()).reason == "was killed by SIGKILL, as asked"


async def test_given_a_paused_child_when_resumed_or_stopped_then_it_goes_on_or_ends(child: Child) -> None:
    await child.start(python("import time; print('up', flush=True); time.sleep(60)"))
    await until(lambda: child.tail() == "up")
    process = psutil.Process(child.pid)
    child.pause()
    await until(lambda: process.status() == psutil.STATUS_STOPPED)
    child.resume()
    await until(lambda: process.status() != psutil.STATUS_STOPPED)
    child.pause()
    await child.stop(DEADLINE)
    assert (await child.exited()).reason == "was killed by SIGTERM, as asked"


async def test_given_a_child_then_it_leads_a_session_and_gets_none_of_our_secrets(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGWIRE_SECRET", "s3cret")
    await child.start(python("import os; print(os.getsid(0) == os.getpid(), 'LONGWIRE_SECRET' in os.environ)"))
    await child.exited()
    assert child.tail() == "True False"


async def test_given_a_program_that_is_not_there_then_the_log_names_it(child: Child) -> None:
    await child.start(["/no/such/program"])
    assert (await child.exited()).code == 1
    assert child.tail() == "/no/such/program: No such file or directory"


async def test_given_a_log_beyond_its_limit_when_started_then_it_is_set_aside(child: Child) -> None:
    child.log.parent.mkdir()
    child.log.write_bytes(b"x" * (LOG_LIMIT + 1))
    await child.start(python("print('new')"))
    await child.exited()
    assert child.log.read_text() == "new\n"
    assert child.log.with_name("sleeper.log.1").stat().st_size == LOG_LIMIT + 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the leash is a call of Linux")
async def test_given_a_supervisor_when_it_is_killed_then_its_child_dies_with_it(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from infra.local.process import Child

async def main():
    child = Child("sleeper", Path({str(tmp_path)!r}) / "sleeper.log")
    await child.start([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
    while child.tail() != "up":
        await asyncio.sleep(0.01)
    print(child.pid, flush=True)
    await child.exited()

asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    supervisor = await asyncio.create_subprocess_exec(*python(code), stdout=asyncio.subprocess.PIPE, env=environment)
    assert supervisor.stdout is not None
    sleeper = psutil.Process(int(await supervisor.stdout.readline()))
    supervisor.kill()
    await supervisor.communicate()
    await until(lambda: not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE)


def test_given_a_lease_then_a_server_may_listen_on_its_port_again_and_again() -> None:
    lease = PortLease("kafka")
    for _ in range(2):
        lease.hand_over()
        with socket.create_server((HOST, lease.port)), socket.create_connection((HOST, lease.port)):
            pass
    lease.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets a port be held beside its server")
def test_given_a_lease_while_its_server_is_down_then_nobody_without_reuse_gets_the_port() -> None:
    lease = PortLease("kafka")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, lease.port))
    lease.close()


def test_given_a_port_on_which_another_program_listens_then_the_error_names_it_and_the_way_out() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LocalBrokerError, match=rf"redis: port {port} on 127\.0\.0\.1 is taken.*another port"):
            PortLease("redis", port)


def test_given_a_folder_that_is_locked_then_a_second_user_is_refused_until_it_is_released(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "lock"), FolderLock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(LocalBrokerError, match=f"{tmp_path}: another Longwire"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_given_a_full_disk_then_the_error_says_how_much_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(1 << 40, 1 << 40, 1 << 29))
    with pytest.raises(LocalBrokerError, match=r"0\.50 GiB are free and 1\.00 GiB are needed; free some space"):
        require_space(tmp_path, 1 << 30)
    require_space(tmp_path, 1 << 29)
