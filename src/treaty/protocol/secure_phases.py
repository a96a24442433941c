"""Phases of epochs and rounds as the log tells them, and what may follow in each.

The tables of `secure_round.EpochRecord` and `RoundRecord`; the rules beside them stand there.
"""

from types import MappingProxyType

from treaty.ids import SingleEnum
from treaty.protocol.machine import Transitions
from treaty.protocol.secagg_messages import (
    EpochClosed,
    EpochKeys,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    InputDeclined,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundOpened,
    RoundResult,
    ShareComplaint,
    SurvivorsConfirmed,
    SurvivorsSealed,
)

__all__ = ["EPOCH_TRANSITIONS", "ROUND_TRANSITIONS", "EpochPhase", "RoundPhase"]


class EpochPhase(SingleEnum):
    """Where the set-up of keys and shares stands."""

    KEYS = "keys"
    DEALING = "dealing"
    OPENING = "opening"
    CLOSED = "closed"


class RoundPhase(SingleEnum):
    """Where one secure sum stands."""

    COLLECTING = "collecting"
    REVEALING = "revealing"
    PUBLISHED = "published"
    ABANDONED = "abandoned"


EPOCH_TRANSITIONS: Transitions[EpochPhase] = MappingProxyType(
    {
        (EpochPhase.KEYS, EpochKeys): frozenset({EpochPhase.KEYS}),
        (EpochPhase.KEYS, EpochRoster): frozenset({EpochPhase.DEALING}),
        (EpochPhase.KEYS, EpochClosed): frozenset({EpochPhase.CLOSED}),
        (EpochPhase.DEALING, EpochShares): frozenset({EpochPhase.DEALING}),
        (EpochPhase.DEALING, EpochSealed): frozenset({EpochPhase.OPENING}),
        (EpochPhase.DEALING, EpochClosed): frozenset({EpochPhase.CLOSED}),
        (EpochPhase.OPENING, EpochReady): frozenset({EpochPhase.OPENING}),
        (EpochPhase.OPENING, ShareComplaint): frozenset({EpochPhase.OPENING}),
        (EpochPhase.OPENING, RoundOpened): frozenset({EpochPhase.OPENING}),
        (EpochPhase.OPENING, EpochClosed): frozenset({EpochPhase.CLOSED}),
    }
)

ROUND_TRANSITIONS: Transitions[RoundPhase] = MappingProxyType(
    {
        (RoundPhase.COLLECTING, MaskedInput): frozenset({RoundPhase.COLLECTING}),
        (RoundPhase.COLLECTING, InputDeclined): frozenset({RoundPhase.COLLECTING}),
        (RoundPhase.COLLECTING, SurvivorsSealed): frozenset({RoundPhase.REVEALING}),
        (RoundPhase.COLLECTING, RoundAbandoned): frozenset({RoundPhase.ABANDONED}),
        (RoundPhase.REVEALING, SurvivorsConfirmed): frozenset({RoundPhase.REVEALING}),
        (RoundPhase.REVEALING, Reveal): frozenset({RoundPhase.REVEALING}),
        (RoundPhase.REVEALING, RoundResult): frozenset({RoundPhase.PUBLISHED}),
        (RoundPhase.REVEALING, RoundAbandoned): frozenset({RoundPhase.ABANDONED}),
    }
)
