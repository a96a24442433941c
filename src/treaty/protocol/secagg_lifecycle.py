"""Lifecycles of a member in secure aggregation: phases, events, tables and durable records.

The diagrams in docs/spec/secagg.md (section 9) are drawn from `EPOCH_TRANSITIONS` and
`SLOT_TRANSITIONS`. The machines are `secagg_epoch.MemberEpoch` and `secagg_member.MemberSlot`;
what may happen in which phase is only here.

Records of rounds hold no secret that is not about to be published: an answer's shares are in
them because the answer must be sent again, byte for byte, after a crash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, MemberName, Record
from treaty.ids import Digest, SingleEnum
from treaty.privacy.ledger_entries import LedgerHead
from treaty.protocol.machine import Transitions
from treaty.protocol.secagg_effects import Persisted
from treaty.protocol.secagg_messages import (
    DeclineCode,
    EpochKeys,
    EpochRoster,
    EpochSealed,
    EpochShares,
    MaskedInput,
    Names,
    Reveal,
    RoundOpened,
    SurvivorsConfirmed,
    SurvivorsSealed,
)
from treaty.protocol.statements import Verified

__all__ = [
    "EPOCH_KEY",
    "EPOCH_TRANSITIONS",
    "SLOT_KEY",
    "SLOT_TRANSITIONS",
    "ConfirmationLogged",
    "DealingSealed",
    "Declined",
    "EpochEnded",
    "EpochEvent",
    "EpochPhase",
    "Expected",
    "Header",
    "InputLogged",
    "InputReady",
    "Lock",
    "RosterFixed",
    "RoundEnded",
    "SlotEvent",
    "SlotPhase",
    "SlotState",
    "SurvivorsAnnounced",
    "lock_key",
    "noise_secret_name",
]

EPOCH_KEY = "secagg/epoch"


class EpochPhase(SingleEnum):
    """Where a member's epoch stands."""

    INIT = "init"
    KEYS_SENT = "keys-sent"
    DEALING = "dealing"
    DEALT = "dealt"
    OPENING = "opening"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class RosterFixed:
    """The roster is logged. `keys` are the epoch's key statements, `secret` its secret file."""

    roster: Verified[EpochRoster]
    keys: tuple[Verified[EpochKeys], ...]
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DealingSealed:
    """Dealing is over. `columns` are this member's sealed columns, by dealer."""

    sealed: Verified[EpochSealed]
    shares: Mapping[str, Verified[EpochShares]]
    columns: Mapping[str, bytes]
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """The epoch is closed, superseded or forbidden: nothing of it may remain."""


EpochEvent = Persisted | RosterFixed | DealingSealed | EpochEnded

EPOCH_TRANSITIONS: Transitions[EpochPhase] = MappingProxyType(
    {
        (EpochPhase.INIT, Persisted): frozenset({EpochPhase.KEYS_SENT}),
        (EpochPhase.KEYS_SENT, RosterFixed): frozenset({EpochPhase.DEALING, EpochPhase.CLOSED}),
        (EpochPhase.DEALING, Persisted): frozenset({EpochPhase.DEALT}),
        (EpochPhase.DEALT, DealingSealed): frozenset({EpochPhase.OPENING, EpochPhase.CLOSED}),
        (EpochPhase.OPENING, Persisted): frozenset({EpochPhase.READY}),
        (EpochPhase.CLOSED, Persisted): frozenset({EpochPhase.CLOSED}),
        **{(phase, EpochEnded): frozenset({EpochPhase.CLOSED}) for phase in EpochPhase},
    }
)


SLOT_KEY = "secagg/slot"


class SlotPhase(SingleEnum):
    """Where a member's round stands."""

    AWAITING_INPUT = "awaiting-input"
    INPUT_PERSISTING = "input-persisting"
    INPUT_SENT = "input-sent"
    CONFIRM_PERSISTING = "confirm-persisting"
    CONFIRMED = "confirmed"
    ANSWER_PERSISTING = "answer-persisting"
    ANSWERED = "answered"
    ABORTED = "aborted"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the member itself knows the round must be, from the plan and the published sums.

    `question` is the query without its number in the study: what the lock is on. `tiers` are the
    numbers of survivors from which the first, second, ... part of a member's noise comes off
    again; empty where all noise stays in.
    """

    plan: Digest
    query: Digest
    question: Digest
    code: Digest
    model: Digest
    length: int
    ring_bits: int
    round: int
    previous: Digest
    tiers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class InputReady:
    """The masked vector is stored: digests of the vector before masking, its root, its bytes.

    `noise` is the commitment to the key of the noise in it, where there is noise, `surplus` those
    to the keys of the parts that may come off again, and `keys` what the file of these keys must
    hold; null where the file is that of the same vector already.
    `ledger` is the head of the privacy ledger that has paid for it, if the site keeps one.
    """

    vector: Digest
    root: Digest
    blob: Digest
    noise: Digest | None = None
    ledger: LedgerHead | None = None
    surplus: tuple[Digest, ...] = ()
    keys: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Declined:
    """The site takes no part in this round."""

    code: DeclineCode


@dataclass(frozen=True, slots=True)
class InputLogged:
    """A participant's header stands in the log; `others` are headers that stand there too."""

    header: Verified[MaskedInput]
    others: tuple[Verified[MaskedInput], ...] = ()


@dataclass(frozen=True, slots=True)
class SurvivorsAnnounced:
    """The coordinator asks to open the sum.

    `secret` is the content of the slot's file, `noise` that of the file of noise keys, if any.
    `claim` is this member's in a sketched round (`secagg_claims`).
    """

    sealed: Verified[SurvivorsSealed]
    secret: bytes | None = field(default=None, repr=False)
    noise: bytes | None = field(default=None, repr=False)
    claim: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ConfirmationLogged:
    """A participant bound itself to a set of survivors.

    `secret` and `noise` as in `SurvivorsAnnounced`; `others` are confirmations that stand in the
    log too.
    """

    confirmed: Verified[SurvivorsConfirmed]
    secret: bytes | None = field(default=None, repr=False)
    others: tuple[Verified[SurvivorsConfirmed], ...] = ()
    noise: bytes | None = field(default=None, repr=False)
    claim: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """The log says that the round has a result or was abandoned.

    With `published` keys of noise are of no use any more: there were some and the sum is out.
    """

    published: bool = False


SlotEvent = (
    InputReady
    | Declined
    | Persisted
    | InputLogged
    | SurvivorsAnnounced
    | ConfirmationLogged
    | RoundEnded
)

_S = SlotPhase
_LISTENING = (
    _S.AWAITING_INPUT,
    _S.INPUT_PERSISTING,
    _S.INPUT_SENT,
    _S.CONFIRM_PERSISTING,
    _S.CONFIRMED,
    _S.ANSWER_PERSISTING,
    _S.ANSWERED,
)
SLOT_TRANSITIONS: Transitions[SlotPhase] = MappingProxyType(
    {
        (_S.AWAITING_INPUT, InputReady): frozenset({_S.INPUT_PERSISTING}),
        (_S.AWAITING_INPUT, Declined): frozenset({_S.ABORTED}),
        (_S.INPUT_PERSISTING, Persisted): frozenset({_S.INPUT_SENT}),
        (_S.INPUT_SENT, SurvivorsAnnounced): frozenset(
            {_S.CONFIRM_PERSISTING, _S.ANSWER_PERSISTING}
        ),
        (_S.CONFIRM_PERSISTING, Persisted): frozenset({_S.CONFIRMED}),
        (_S.CONFIRM_PERSISTING, SurvivorsAnnounced): frozenset({_S.CONFIRM_PERSISTING}),
        (_S.CONFIRM_PERSISTING, ConfirmationLogged): frozenset({_S.CONFIRM_PERSISTING}),
        (_S.CONFIRMED, SurvivorsAnnounced): frozenset({_S.CONFIRMED}),
        (_S.CONFIRMED, ConfirmationLogged): frozenset({_S.CONFIRMED, _S.ANSWER_PERSISTING}),
        (_S.ANSWER_PERSISTING, Persisted): frozenset({_S.ANSWERED}),
        (_S.ANSWER_PERSISTING, SurvivorsAnnounced): frozenset({_S.ANSWER_PERSISTING}),
        (_S.ANSWER_PERSISTING, ConfirmationLogged): frozenset({_S.ANSWER_PERSISTING}),
        (_S.ANSWERED, SurvivorsAnnounced): frozenset({_S.ANSWERED}),
        (_S.ANSWERED, ConfirmationLogged): frozenset({_S.ANSWERED}),
        **{(phase, InputLogged): frozenset({phase}) for phase in _LISTENING},
        **{(phase, RoundEnded): frozenset({_S.CLOSED}) for phase in SlotPhase},
    }
)


class Header(Record):
    digest: DigestField
    root: DigestField


class Lock(Record):
    """What one question was answered with, for ever: vector before masking, set of survivors."""

    format: Literal["treaty.secagg-lock/v1"] = "treaty.secagg-lock/v1"
    vector: DigestField
    survivors: Names | None


class SlotState(Record):
    """What is durable of a round; holds shares only once they are on their way to the log."""

    format: Literal["treaty.secagg-slot/v1"] = "treaty.secagg-slot/v1"
    phase: SlotPhase
    opened: RoundOpened
    question: DigestField
    context: DigestField
    headers: dict[MemberName, Header] = msgspec.field(default_factory=dict)
    input: MaskedInput | None = None
    lock: Lock | None = None
    freed: Names = ()
    survivors: DigestField | None = None
    sealed: SurvivorsSealed | None = None
    confirmed_by: Names = ()
    confirmation: SurvivorsConfirmed | None = None
    reveal: Reveal | None = None
    tiers: tuple[Count, ...] | msgspec.UnsetType = msgspec.UNSET


def noise_secret_name(epoch: int) -> str:
    """Return the name of the secret file of noise keys, which a question keeps over slots."""
    return f"epoch-{epoch:06d}-slot-noise"


def lock_key(plan: str, question: str, model: str) -> str:
    """Return the name of the record that says how a question was answered."""
    return "secagg/lock/" + canonical.digest_of((plan, question, model))
