"""Faults: what an engine may do to a message, by a rule anyone can repeat.

A `FaultPlan` is asked once for every attempt to carry something and answers with
faults. `SeededFaults` decides from the seed and the message alone (SHA-256 of
sender, recipient, key and attempt), so neither threads nor the order of other
messages change what happens, and a failing run is repeated by its seed.

For tests and the simulator: no engine between institutions takes a plan.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from treaty.errors import UsageError
from treaty.ids import MemberId, SingleEnum

__all__ = ["Fault", "FaultPlan", "FaultRule", "InjectedFault", "Occasion", "SeededFaults"]


class Fault(SingleEnum):
    """What happens to one frame, or to one fetch of a large object."""

    DROP = "drop"
    """It never arrives; sending again under the same key is a new attempt. A fetch fails."""

    DELAY = "delay"
    """It arrives after `amount` more looks of the recipient; later frames overtake it."""

    DUPLICATE = "duplicate"
    """It arrives `amount` times more."""

    REORDER = "reorder"
    """It overtakes up to `amount` frames that wait already."""

    CORRUPT = "corrupt"
    """Bit number `amount` (modulo its length) is flipped; a new attempt may come through."""

    LOSE_REPLY = "lose-reply"
    """It is carried, but the sender is told that the engine failed."""


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One fault and how much of it, at least 1."""

    fault: Fault
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Occasion:
    """One attempt to carry something.

    `attempt` counts from 1 per sender, recipient and key. `is_bulk` marks the
    fetch of a large object: `key` is its digest then, and only DROP and CORRUPT act.
    """

    sender: MemberId
    recipient: MemberId
    key: str
    attempt: int
    size_bytes: int
    is_bulk: bool = False


class FaultPlan(Protocol):
    """Decides what happens to each attempt; the same occasion must get the same answer."""

    def faults(self, occasion: Occasion) -> tuple[InjectedFault, ...]:
        """Return the faults of this attempt; none for an honest engine."""


@dataclass(frozen=True, slots=True)
class FaultRule:
    """`fault` strikes `per_mille` of the attempts between these parties (None: anyone).

    `attempts` bounds it to the first attempts at a message (None: all of them),
    so that a sender who persists gets through. `most` bounds the amount.
    """

    fault: Fault
    per_mille: int
    senders: frozenset[MemberId] | None = None
    recipients: frozenset[MemberId] | None = None
    attempts: int | None = None
    most: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.per_mille <= 1000:
            raise UsageError(f"per_mille is {self.per_mille}, expected 0 to 1000")
        if self.most < 1:
            raise UsageError(f"most is {self.most}, expected at least 1")

    def covers(self, occasion: Occasion) -> bool:
        """Say whether the rule speaks of this attempt at all."""
        return (
            (self.senders is None or occasion.sender in self.senders)
            and (self.recipients is None or occasion.recipient in self.recipients)
            and (self.attempts is None or occasion.attempt <= self.attempts)
        )


@dataclass(frozen=True, slots=True)
class SeededFaults:
    """A `FaultPlan` of independent rules under one seed."""

    seed: int
    rules: tuple[FaultRule, ...]

    def faults(self, occasion: Occasion) -> tuple[InjectedFault, ...]:
        """See `FaultPlan.faults`."""
        found = []
        for number, rule in enumerate(self.rules):
            if not rule.covers(occasion):
                continue
            fields = (self.seed, number, occasion.sender, occasion.recipient, occasion.key)
            text = "\n".join(str(field) for field in (*fields, occasion.attempt))
            draw = hashlib.sha256(text.encode()).digest()
            if int.from_bytes(draw[:8]) % 1000 < rule.per_mille:
                amount = int.from_bytes(draw[8:16])
                if rule.fault is not Fault.CORRUPT:
                    amount = 1 + amount % rule.most
                found.append(InjectedFault(rule.fault, amount))
        return tuple(found)
