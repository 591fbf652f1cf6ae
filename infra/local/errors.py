"""The one exception of this package, and its sentences: each names the thing, the value and the way out."""

from pathlib import Path

GIB = 1 << 30


class LocalBrokerError(Exception):
    """A local broker cannot run; the text is a sentence for the person at the terminal."""


def port_taken(name: str, port: int) -> LocalBrokerError:
    """Someone else listens where `name` should."""
    return LocalBrokerError(
        f"{name}: port {port} on 127.0.0.1 is taken by another program; stop that program, or give {name} another port."
    )


def no_space(folder: Path, need: int, free: int) -> LocalBrokerError:
    """`free` bytes are left in `folder`, `need` are wanted."""
    return LocalBrokerError(
        f"{folder}: {free / GIB:.2f} GiB are free and {need / GIB:.2f} GiB are needed; "
        "free some space, or choose a folder on another disk."
    )


def folder_in_use(folder: Path) -> LocalBrokerError:
    """Another process runs its brokers in this data folder."""
    return LocalBrokerError(
        f"{folder}: another Longwire runs its brokers in this folder; stop it first, or choose another data folder."
    )


def no_program(name: str, tried: str, mend: str) -> LocalBrokerError:
    """No executable was found for `name`; `mend` says what to install."""
    return LocalBrokerError(f"{name}: no usable program found (tried {tried}); {mend}.")


def died(name: str, reason: str, log: Path, tail: str) -> LocalBrokerError:
    """The program ended before it answered."""
    return LocalBrokerError(f"{name} ended while starting: {reason}. The end of its log, {log}:\n{tail}")


def not_ready(name: str, seconds: float, log: Path, tail: str) -> LocalBrokerError:
    """The program runs, but did not answer in time."""
    return LocalBrokerError(f"{name} did not answer within {seconds:.0f} s; it was stopped. The end of its log, {log}:\n{tail}")


def no_jars(reason: str, log: Path, tail: str) -> LocalBrokerError:
    """Kafka's jars are not in the cache and could not be fetched."""
    return LocalBrokerError(
        f"kafka: its jars could not be fetched: {reason}. Check the network (proxies are taken from HTTPS_PROXY, "
        f"certificates from the system's store) and start again. The end of the log, {log}:\n{tail}"
    )
