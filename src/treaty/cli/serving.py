"""Serving: the process of a party, as a program of its own.

A command that serves (`treaty coordinator up`, `treaty site up`) reads its words and then becomes
this program, in the same process: for weeks it holds neither the parser of command lines nor what
only other commands need (docs/adr/0021). `serve` does the same in the calling
process, `become` in its place.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from treaty.cli.failures import told
from treaty.cli.output import Format, emit, escape_unencodable
from treaty.errors import UsageError

__all__ = ["Order", "become", "main", "serve"]


@dataclass(frozen=True, slots=True)
class Order:
    """Which party is to serve, and how it is watched; texts as on the command line.

    `directories` is one, or for sites several, each of which is hosted in a process of its own.
    """

    is_hub: bool
    directories: tuple[str, ...]
    anchor: str = ""
    metrics: str = ""
    log: str = ""
    level: str = "info"
    as_json: bool = False


def become(order: Order) -> NoReturn:
    """Replace this process by one that serves. What was printed has left."""
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: where the command is given is no place to load modules from.
    program = (sys.executable, "-P", "-m", "treaty.cli.serving", json.dumps(asdict(order)))
    os.execv(program[0], program)


def serve(order: Order) -> int:
    """Serve until told to stop (SIGTERM, Ctrl-C); return the exit code of hosted sites, else 0."""
    say = _teller(order.as_json)
    with _until_stopped() as stop:
        if len(order.directories) > 1:
            return _host(order, stop, say)
        _run(order, order.directories[0], stop, say)
    return 0


def _run(
    order: Order, directory: str, stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    from treaty.deployment.monitor import monitor_of

    monitor = monitor_of(order.metrics, order.log, order.level)
    if order.is_hub:
        from treaty.deployment.hub import HubProcess

        HubProcess(Path(directory), say, monitor).run(stop)
        return
    from treaty.deployment.agent import SiteProcess

    SiteProcess(Path(directory), order.anchor, say, monitor).run(stop)


def _host(order: Order, stop: Callable[[], bool], say: Callable[[str], None]) -> int:
    """Run several sites, each in a process of its own."""
    # Loaded before the processes part, so that they share it.
    from treaty.deployment import agent  # noqa: F401 - see above
    from treaty.deployment.hosting import host

    if order.metrics:
        raise UsageError("--metrics serves one site: leave it out, or start the sites one by one")
    places = [os.path.realpath(one) for one in order.directories]
    if len(set(places)) < len(places):
        raise UsageError("a site's directory is named twice: name each once")

    def site(directory: str) -> Callable[[Callable[[], bool]], int]:
        def run(ends: Callable[[], bool]) -> int:
            try:
                _run(order, directory, ends, say)
            except BaseException as error:  # noqa: BLE001 - the outermost loop of this site's process
                return told(error, order.as_json, where=directory)
            return 0

        return run

    return host({one: site(one) for one in order.directories}, stop, say)


@contextmanager
def _until_stopped() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether this process was told to stop (SIGTERM, Ctrl-C)."""
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: stopped
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _teller(as_json: bool) -> Callable[[str], None]:
    """Return what tells people, or programs, of the way of a process: one line each."""

    def say(line: str) -> None:
        emit(Format.JSON if as_json else Format.TABLE, {"said": line}, [line])
        sys.stdout.flush()

    return say


def main(words: list[str]) -> int:
    """Serve as the one word says, which `become` wrote; return the exit code."""
    found = json.loads(words[0])
    order = Order(**{**found, "directories": tuple(found["directories"])})
    try:
        # This process does nothing else, so nobody misses what is not loaded.
        from treaty.deployment.loading import let_go, load

        load(("treaty.deployment.hub" if order.is_hub else "treaty.deployment.agent",))
        let_go()
        return serve(order)
    except BaseException as error:  # noqa: BLE001 - the outermost loop: one line for whatever it is
        return told(error, order.as_json)


if __name__ == "__main__":
    escape_unencodable()
    sys.exit(main(sys.argv[1:]))
