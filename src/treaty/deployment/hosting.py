"""Hosting: several sites on one machine, each a process of its own that shares what never changes.

Guarantees (docs/spec/transport.md, section 6):
  * Each site has a process, and in it its own directory, keys, connection, store and random
    numbers. What the processes share are the pages of the loaded program, which were written before
    any key was read; whatever one of them writes is its own.
  * A site that ends changes nothing for the others. One that failed in a way that starting again
    may mend is started again, as a supervisor of a single site would do.
  * The sites end with this process, however it ends.

Must be called before this process has threads: a fork takes along only the one that calls it.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

from treaty.errors import PeerError, PolicyError, UsageError

__all__ = ["RESTART_S", "host"]

RESTART_S = 5.0
"""How long a site rests before it is started again; that of the units under ``deploy/``."""

_FINAL = (UsageError.exit_code, PeerError.exit_code, PolicyError.exit_code)
"""Exit codes that starting again does not mend."""

LOOK_S = 0.1
END_S = 60.0
"""How long a site may take to end once it is told to."""


def host(
    sites: Mapping[str, Callable[[Callable[[], bool]], int]],
    stop: Callable[[], bool],
    say: Callable[[str], None],
    *,
    restart_s: float = RESTART_S,
) -> int:
    """Run every one of `sites` in a process of its own until `stop` says so, or all have ended.

    Each takes a function that says whether it is to end, and returns its exit code. Returns the
    first code that was not 0 and that stayed, else 0. A code stays that starting again does not
    mend, and one of a site that had not been started again when `stop` said so.
    """
    if threading.active_count() > 1:
        raise UsageError("sites are hosted before there are threads")
    gc.collect()
    # What is loaded now is left alone by every child's collector, so that its pages stay shared.
    gc.freeze()
    running: dict[int, str] = {}
    # By name: when it is started, and the code with which it ended before.
    waiting: dict[str, tuple[float, int]] = dict.fromkeys(sites, (0.0, 0))
    final = 0
    try:
        while (running or waiting) and not stop():
            for name in [one for one, (at, _) in waiting.items() if at <= time.monotonic()]:
                del waiting[name]
                running[_start(sites[name], stop)] = name
            for pid, code in _ended(running):
                name = running.pop(pid)
                if code == 0:
                    say(f"{name} has ended")
                elif code in _FINAL:
                    final = final or code
                    say(f"{name} has ended with exit code {code}; the others go on")
                else:
                    waiting[name] = (time.monotonic() + restart_s, code)
                    say(f"{name} has ended with exit code {code}: started again in {restart_s:g} s")
            time.sleep(LOOK_S)
    finally:
        final = final or next((code for _, code in waiting.values() if code), 0)
        final = _end(running) or final
    return final


def _start(site: Callable[[Callable[[], bool]], int], stop: Callable[[], bool]) -> int:
    """Start one site; return its process id."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # Whose parent has gone has nobody left who would tell it to end.
        code = site(lambda: stop() or os.getppid() != parent)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not the way out of the process it was: that belongs to the parent.
        os._exit(code)


def _ended(running: Mapping[int, str]) -> list[tuple[int, int]]:
    """Return the processes that have ended, with their exit codes; -9 for one that was killed."""
    found = []
    for pid in running:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _end(running: dict[int, str]) -> int:
    """Tell every site to end and wait for it; return the first exit code that was not 0."""
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    first = 0
    end = time.monotonic() + END_S
    while running:
        for pid, code in _ended(running):
            del running[pid]
            first = first or code
        if running and time.monotonic() > end:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(LOOK_S)
    return first
