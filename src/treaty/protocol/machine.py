"""Moves of every lifecycle go through one table-checked function.

A lifecycle module has a `Phase` enum, event dataclasses, a table
``(phase, event type) -> phases that may follow`` and a frozen state with a `step` method.
`advance` refuses a move that the table does not list: a move from a phase in which the event has no
place is the peer's fault (`VerificationError`, code ``out-of-order``); a move to an
unlisted phase is ours (`UsageError`).
"""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from treaty.errors import UsageError, VerificationError

__all__ = ["Transitions", "advance", "expect"]


PhaseT = TypeVar("PhaseT", bound=Enum)
Transitions = Mapping[tuple[PhaseT, type], frozenset[PhaseT]]


def expect(table: Transitions[PhaseT], phase: PhaseT, event: object) -> None:
    """Raise `VerificationError` unless `event` has a place in `phase`."""
    if (phase, type(event)) not in table:
        raise _out_of_order(phase, event)


def advance(table: Transitions[PhaseT], phase: PhaseT, event: object, following: PhaseT) -> PhaseT:
    """Return `following` if the table allows the move."""
    allowed = table.get((phase, type(event)))
    if allowed is None:
        raise _out_of_order(phase, event)
    if following not in allowed:
        raise UsageError(
            f"no move from {phase.value} to {following.value} on {type(event).__name__}"
        )
    return following


def _out_of_order(phase: Enum, event: object) -> VerificationError:
    return VerificationError(
        f"{type(event).__name__} has no place in phase {phase.value}", code="out-of-order"
    )
