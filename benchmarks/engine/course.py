"""Course: how far a measurement has come, when it must end, and who told it to.

A measurement that waits for other processes must end by itself: at its limit, or when it is told to
(SIGTERM, Ctrl-C), with what it has measured until then. Signals raise nothing where they arrive, so
that no process is started and then forgotten; whoever waits asks `Course.check` all the time.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Course", "CutOffError", "told_to_end"]

SAY_S = 10.0


class CutOffError(Exception):
    """The measurement ends before its end; the words say why."""


_told: list[int] = []
"""The signals that came while `told_to_end` was in force."""


@contextmanager
def told_to_end() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM and Ctrl-C end measurements where they ask; yield whether one has come."""

    def tell(number: int, frame: object) -> None:
        _told.append(number)

    before = {one: signal.signal(one, tell) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(_told)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        _told.clear()


class Course:
    """The course of one measurement of at most `limit_s` seconds; what it says goes to stderr."""

    def __init__(self, name: str, limit_s: float) -> None:
        self._name = name
        self._limit_s = limit_s
        self._began = self._said = time.monotonic()
        self._looking: Callable[[], str] = lambda: "preparing"
        self.marks: dict[str, float] = {}
        """Seconds from the beginning to what was reached."""

    @property
    def seconds(self) -> float:
        """Return for how long it has lasted."""
        return time.monotonic() - self._began

    def check(self) -> None:
        """Say where it stands, every now and then; raise `CutOffError` when it must end."""
        if _told:
            raise CutOffError(f"told to end by {signal.Signals(_told[0]).name}")
        if self.seconds > self._limit_s:
            raise CutOffError(f"not within {self._limit_s:g} s")
        if time.monotonic() - self._said > SAY_S:
            self.say(self._looking())

    def awaits(self, look: Callable[[], str]) -> None:
        """Let `look` tell from now on what is waited for."""
        self._looking = look

    def reached(self, what: str) -> None:
        """Mark that `what` is done."""
        self.marks[what] = round(self.seconds, 1)
        self.say(what.replace("_", " "))

    def say(self, words: str) -> None:
        """Say one line."""
        self._said = time.monotonic()
        print(f"{self._name}, {self.seconds:.0f} s: {words}", file=sys.stderr, flush=True)
