"""Every move goes through the table: what it does not list is the peer's fault or our own.

Planted and caught: an event without a place in the phase taken; a move that the table does not
allow made.
"""

from enum import Enum

import pytest

from tests.worlds import refused
from treaty.errors import UsageError
from treaty.protocol.machine import Transitions, advance, expect


class _Door(Enum):
    OPEN = "open"
    SHUT = "shut"
    LOCKED = "locked"


class _Pushed:
    """Somebody pushes."""


class _Turned:
    """Somebody turns the key."""


TABLE: Transitions[_Door] = {
    (_Door.OPEN, _Pushed): frozenset({_Door.SHUT}),
    (_Door.SHUT, _Pushed): frozenset({_Door.OPEN, _Door.SHUT}),
    (_Door.SHUT, _Turned): frozenset({_Door.LOCKED}),
}


@pytest.mark.parametrize("phase", _Door)
@pytest.mark.parametrize("event", [_Pushed(), _Turned()], ids=["pushed", "turned"])
@pytest.mark.parametrize("following", _Door)
def test_exactly_the_moves_of_the_table_are_made(
    phase: _Door, event: object, following: _Door
) -> None:
    """An event out of place is refused as a peer's, another phase after it as our own mistake."""
    allowed = TABLE.get((phase, type(event)))
    if allowed is None:
        with refused("out-of-order"):
            expect(TABLE, phase, event)
        with refused("out-of-order"):
            advance(TABLE, phase, event, following)
        return
    expect(TABLE, phase, event)
    if following in allowed:
        assert advance(TABLE, phase, event, following) is following
        return
    with pytest.raises(UsageError, match=f"no move from {phase.value} to {following.value}"):
        advance(TABLE, phase, event, following)
