"""What happens to a coordinator's round of secure aggregation, and what the round orders.

The events and effects of `secagg_coordinator.CoordinatorRound`; what they do stands there.
"""

from dataclasses import dataclass, field

from treaty.aggregation.masking import MaskPlan
from treaty.ids import Digest
from treaty.protocol.secagg_messages import (
    InputDeclined,
    MaskedInput,
    Reveal,
    SurvivorsConfirmed,
    SurvivorsSealed,
)
from treaty.protocol.statements import Verified

__all__ = [
    "Blame",
    "ConfirmationLogged",
    "DeclineLogged",
    "InputArrived",
    "NeedSum",
    "RevealLogged",
    "SumReady",
    "SurvivorsLogged",
]


@dataclass(frozen=True, slots=True)
class NeedSum:
    """Order: `recompute_sum` of the survivors' blobs with `plan`, store it, report `SumReady`."""

    survivors: tuple[str, ...]
    blobs: tuple[Digest, ...]
    ring_bits: int
    length: int
    plan: MaskPlan = field(repr=False)


@dataclass(frozen=True, slots=True)
class Blame:
    """Report: these members signed something that does not hold."""

    members: frozenset[str]
    reason: str


@dataclass(frozen=True, slots=True)
class InputArrived:
    """A header stands in the log; its blob has the digest and the root that it names."""

    header: Verified[MaskedInput]


@dataclass(frozen=True, slots=True)
class DeclineLogged:
    """A participant sends no input."""

    declined: Verified[InputDeclined]


@dataclass(frozen=True, slots=True)
class SurvivorsLogged:
    """The survivors stand in the log."""

    sealed: Verified[SurvivorsSealed]


@dataclass(frozen=True, slots=True)
class ConfirmationLogged:
    """A survivor confirmed the set."""

    confirmed: Verified[SurvivorsConfirmed]


@dataclass(frozen=True, slots=True)
class RevealLogged:
    """A survivor answered."""

    reveal: Verified[Reveal]


@dataclass(frozen=True, slots=True)
class SumReady:
    """The sum is stored under `digest`, or `refused`: the claims do not bound its inputs."""

    digest: Digest
    refused: bool = False
