"""Phase clock: since when a party waits for what it waits for, by its own clock.

The log does not say when an entry was made, so each party keeps the moment at which its copy
entered the present phase, in the same transaction as the entry. It is for the party's own people;
nothing follows from it, and it never leaves.
"""

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, Record, sha256
from treaty.errors import FormatError
from treaty.ids import Timestamp
from treaty.protocol.consortium import Consortium
from treaty.protocol.waiting import awaited, phase_of

__all__ = ["SINCE_KEY", "PhaseClock", "waiting_since"]

SINCE_KEY = "phase-since"


class _Since(Record):
    at: Count
    phase: DigestField


class PhaseClock:
    """Remembers when the present phase began; `kept` is what the store holds under `SINCE_KEY`."""

    def __init__(self, kept: bytes | None) -> None:
        self._phase = "" if kept is None else canonical.decode(kept, _Since).phase

    def puts(self, state: Consortium, now: Timestamp) -> tuple[tuple[str, bytes], ...]:
        """Return what to store with the entries that lead to `state`: nothing in the same phase."""
        phase = _name(state)
        if phase == self._phase:
            return ()
        self._phase = phase
        return ((SINCE_KEY, canonical.encode(_Since(at=now, phase=phase))),)


def waiting_since(kept: bytes | None, state: Consortium) -> Timestamp | None:
    """Return since when `state` waits, None where the store does not say so of this phase."""
    if kept is None:
        return None
    try:
        found = canonical.decode(kept, _Since)
    except FormatError:
        return None
    return Timestamp(found.at) if found.phase == _name(state) else None


def _name(state: Consortium) -> str:
    phase = phase_of(state)
    # What a running study waits for stands in its phase, and comes before all else.
    what = phase[-1] if phase else None
    if what is None:
        waits = awaited(state)
        what = None if waits is None else waits.what
    return sha256(repr((phase, what)).encode())
