"""Kill points: a test facility that stops the process around a durable write.

Every durable write of the stores passes through `persist_point(label)`. Two
environment variables, read at each point and unset in normal operation, act there:

  * ``TREATY_KILL_AT="label:n:before"`` (or ``after``): the process kills itself
    with SIGKILL right before, or right after, the n-th write (from 1) with that label;
  * ``TREATY_KILL_TRACE=file``: the label of every completed write is appended to
    the file, one a line, so that a campaign can list the points of a clean run.

Writes without a label count under the empty label. Counters are per process.
A malformed variable is refused with `UsageError` before anything is written.

LIMIT: SIGKILL leaves what the operating system already took; loss of power is
not imitated. What survives that rests on the fsync calls beside each point.
"""

import os
import signal
import threading
from collections import Counter
from types import TracebackType

from treaty.errors import UsageError

__all__ = ["KILL_VARIABLE", "TRACE_VARIABLE", "persist_point"]

KILL_VARIABLE = "TREATY_KILL_AT"
TRACE_VARIABLE = "TREATY_KILL_TRACE"

_counts: Counter[str] = Counter()
_lock = threading.Lock()


class persist_point:  # noqa: N801 - a context manager, used like a function
    """Surround one durable write; count it, and die where the environment says so."""

    __slots__ = ("_fatal", "_label")

    def __init__(self, label: str) -> None:
        self._label = label
        self._fatal = ""

    def __enter__(self) -> None:
        order = os.environ.get(KILL_VARIABLE)
        if not order:
            return
        label, number, moment = _parse(order)
        if label != self._label:
            return
        with _lock:
            _counts[label] += 1
            reached = _counts[label] == number
        if reached and moment == "before":
            _die()
        self._fatal = moment if reached else ""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            return
        path = os.environ.get(TRACE_VARIABLE)
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(self._label + "\n")
        if self._fatal:
            _die()


def _parse(order: str) -> tuple[str, int, str]:
    parts = order.rsplit(":", 2)
    if (
        len(parts) != 3
        or not (parts[1].isascii() and parts[1].isdigit())
        or int(parts[1]) < 1
        or parts[2] not in ("before", "after")
    ):
        raise UsageError(
            f"{KILL_VARIABLE} is {order!r}, expected label:n:before or label:n:after with n >= 1"
        )
    return parts[0], int(parts[1]), parts[2]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
