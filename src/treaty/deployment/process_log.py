"""Process log: what a running party did, one JSON object a line, for the people who operate it.

Guarantee: a line holds an event of `EVENTS` and that event's fields: whole numbers, closed words,
names of parties. There is no field for free text, so no row, no message of a peer and no cause of
a refusal can stand in it. Causes stay in the party's journal, which is another file and never
leaves the party (docs/spec/operate.md).

A line that cannot be written is counted, and the party goes on: a full disk of the log must not
stop a study.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType

from treaty.errors import ResourceError, UsageError
from treaty.ids import MemberId
from treaty.ports import Clock
from treaty.stores.system import SystemClock

__all__ = ["EVENTS", "Level", "ProcessLog"]

_WORD = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
"""Closed words, and names of parties, which the charter holds to the same letters."""


class Level(IntEnum):
    """How much a line matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


EVENTS: Mapping[str, tuple[Level, tuple[str, ...]]] = MappingProxyType(
    {
        "blamed": (Level.WARNING, ()),
        "confinement": (Level.INFO, ("code",)),
        "connection.down": (Level.WARNING, ()),
        "connection.up": (Level.INFO, ()),
        "document.missing": (Level.WARNING, ()),
        "endpoint.listens": (Level.INFO, ("port",)),
        "epoch.failed": (Level.WARNING, ()),
        "frame.refused": (Level.WARNING, ("code",)),
        "held-back": (Level.WARNING, ("code",)),
        "lease.taken": (Level.WARNING, ()),
        "log.grew": (Level.DEBUG, ("size",)),
        "noted": (Level.INFO, ()),
        "peer.unreachable": (Level.WARNING, ()),
        "process.failed": (Level.ERROR, ("code",)),
        "process.started": (Level.INFO, ("pid",)),
        "process.stopped": (Level.INFO, ()),
        "round.abandoned": (Level.WARNING, ("abandoned",)),
        "round.published": (Level.INFO, ("published",)),
        "secret.lost": (Level.ERROR, ()),
        "server.configured": (Level.INFO, ()),
        "server.restarted": (Level.WARNING, ()),
        "site.declined": (Level.WARNING, ()),
        "standby": (Level.INFO, ()),
        "statement.refused": (Level.WARNING, ("code",)),
        "sum.disputed": (Level.ERROR, ()),
        "waits": (Level.INFO, ("what", "parties")),
    }
)
"""Every event, its level and its fields. Names do not change; new ones may be added."""


class ProcessLog:
    """Lines of `level` and above, to standard error or appended to the file at `path`."""

    def __init__(
        self, path: Path | None, level: Level = Level.INFO, *, clock: Clock | None = None
    ) -> None:
        self._path = path
        self._level = level
        self._clock = clock or SystemClock()
        self.party = ""
        self.lost = 0
        """How many lines could not be written."""

    def check(self) -> None:
        """Raise `ResourceError` when the file cannot be written now."""
        if self._path is None:
            return
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        except OSError as error:
            raise ResourceError(
                f"cannot write the log {self._path}: {error.strerror}; name another with --log"
            ) from error

    def emit(self, event: str, **fields: int | str | tuple[MemberId, ...]) -> None:
        """Write one line. Raises `UsageError` for an event or field that is not listed."""
        level, names = EVENTS.get(event, (None, ()))
        if level is None or set(fields) != set(names):
            raise UsageError(f"event {event} with {sorted(fields)}: expected one of EVENTS")
        for name, value in fields.items():
            _check(name, value)
        if level < self._level:
            return
        line = json.dumps(
            {
                "at_ms": self._clock.now(),
                "event": event,
                "level": level.name.lower(),
                "party": self.party,
                **fields,
            },
            sort_keys=True,
        )
        try:
            self._write((line + "\n").encode())
        except OSError:
            self.lost += 1

    def _write(self, line: bytes) -> None:
        if self._path is None:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            return
        # Opened for each line, so that a file that was moved away is begun anew.
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(handle, line) != len(line):
                raise OSError("short write")
        finally:
            os.close(handle)


def _check(name: str, value: int | str | tuple[MemberId, ...]) -> None:
    match value:
        case bool():
            holds = False
        case int():
            holds = True
        case str():
            holds = _WORD.fullmatch(value) is not None
        case tuple():
            holds = all(_WORD.fullmatch(one) is not None for one in value)
    if not holds:
        raise UsageError(
            f"field {name}: expected a whole number, a closed word or names of parties"
        )
