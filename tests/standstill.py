"""Let another process stand still, and know that it does, or that it has ended."""

import contextlib
import os
import signal
import time
from pathlib import Path

WITHIN_S = 60


def stand_still(pid: int) -> None:
    """Stop the process and return when every one of its threads has stopped.

    The signal alone is no more than a request: a thread that runs on the other processor may still
    answer a message that is sent after it.
    """
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + WITHIN_S
    while set(_states(pid)) != {"T"}:
        assert time.monotonic() < end, f"process {pid} does not stop"
        time.sleep(0.001)


def go_on(pid: int) -> None:
    """Let it run again; harmless where it does."""
    os.kill(pid, signal.SIGCONT)


def has_ended(pid: int) -> bool:
    """Say whether it has ended, although its parent may not have asked for its exit code."""
    return set(_states(pid)) <= {"Z", "X"}


def _states(pid: int) -> list[str]:
    """Return the state of each thread: the letter behind its name, which may contain anything.

    Of a process that is not there, none.
    """
    found: list[str] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # A thread may end before its turn comes.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                line = (thread / "stat").read_text(encoding="utf-8")
                found.append(line.rpartition(")")[2].split()[0])
    return found
