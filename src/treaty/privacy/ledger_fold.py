"""One entry after another: the rules of a privacy ledger, applied to a state being built.

What is refused, and why, stands in docs/spec/privacy.md, section 7; `treaty.privacy.ledger` is what
callers use.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, assert_never

import msgspec

from treaty.crypto.canonical import digest_of
from treaty.errors import PolicyError, UsageError
from treaty.privacy.accountant import total_signal_to_noise
from treaty.privacy.events import Event
from treaty.privacy.ledger_budget import check_fits, envelope_limit
from treaty.privacy.ledger_entries import (
    LOST,
    PARTITIONS,
    Capped,
    Charged,
    Closed,
    Disclosed,
    Entry,
    Fingerprinted,
    Named,
    Opened,
    PrivateEvent,
    Rebased,
    Reserved,
    Sent,
)

if TYPE_CHECKING:
    from treaty.privacy.ledger import LedgerState

__all__ = [
    "Counts",
    "Fold",
    "PlanAccount",
    "PlanKey",
    "Slot",
    "counts_of",
    "events_of",
    "refuse_sent_slot",
    "slot_of",
]

Counts = Mapping[PrivateEvent, int]
"""Releases of each kind; a kind is an event whose count is one."""


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """A plan's reservation in one envelope: what was `asked`, and what is `left` uncharged."""

    partition: str
    envelope: str
    asked: Counts
    left: Counts
    is_open: bool


PlanKey = tuple[str, str, str]
"""Plan, partition, envelope."""

Slot = tuple[str, str, str, str, str]
"""Plan, partition, query, model, cohort."""


class Fold:
    """A state being built: private copies, so that a long replay takes linear time."""

    def __init__(self, state: "LedgerState") -> None:
        """Begin with a copy of `state`."""
        self._state = state
        self.heads = list(state.heads)
        self._fingerprints = set(state.fingerprints)
        self._named = state.named
        self._caps = dict(state.caps)
        self._plans = dict(state.plans)
        self._slots = dict(state.slots)
        self._unsent = set(state.unsent)
        self._sent = set(state.sent)
        self._spend = {key: dict(counts) for key, counts in state.spend.items()}
        self._disclosed = set(state.disclosed)
        self._losses = set(state.accepted_losses)
        self._lock = state.lock

    def frozen(self) -> "LedgerState":
        """Return the state that was built."""
        return replace(
            self._state,
            heads=tuple(self.heads),
            fingerprints=frozenset(self._fingerprints),
            named=self._named,
            caps=MappingProxyType(self._caps),
            plans=MappingProxyType(self._plans),
            slots=MappingProxyType(self._slots),
            unsent=frozenset(self._unsent),
            sent=frozenset(self._sent),
            spend=MappingProxyType(self._spend),
            disclosed=frozenset(self._disclosed),
            accepted_losses=frozenset(self._losses),
            lock=self._lock,
        )

    def apply(self, entry: Entry, *, checked: bool) -> None:
        """Take one entry in, or raise `PolicyError` or `UsageError` and change nothing.

        With `checked` a reservation is projected against envelope and cap.
        """
        action = entry.action
        # A locked ledger still learns of caps and content, and of what happened anyway.
        if self._lock is not None and isinstance(action, Reserved | Charged):
            raise PolicyError(
                "the ledger is locked: an earlier part of it is missing; an officer must sign a "
                "re-base",
                code=self._lock.value,
            )
        match action:
            case Opened():
                raise PolicyError("a ledger is opened once", code="already-open")
            case Fingerprinted():
                self._fingerprints.add(action.fingerprint)
            case Named():
                self._on_named(action)
            case Capped():
                self._on_capped(action)
            case Reserved():
                self._on_reserved(action, checked)
            case Charged():
                self._on_charged(action)
            case Sent():
                self._on_sent(action)
            case Closed():
                self._on_closed(action)
            case Disclosed():
                self._disclosed.add((action.plan, action.partition, action.name))
            case Rebased():
                self._on_rebased(action)
            case _:
                assert_never(action)
        self.heads.append(digest_of(entry))

    def _on_named(self, action: Named) -> None:
        known = self._named
        if known is not None and action.naming != known.naming:
            raise PolicyError(
                "persons were named otherwise in earlier studies on this data set: another naming "
                "would move them between training and holdout; keep the contract's person_id and "
                "the adapter's way to it",
                code="person-naming",
            )
        if known is not None and action.size_bytes < known.size_bytes:
            raise PolicyError("the file is shorter than it was", code="rows-moved")
        self._named = action

    def _on_capped(self, action: Capped) -> None:
        names = [envelope.name for envelope in action.envelopes]
        if not names or len(set(names)) != len(names):
            raise UsageError("expected at least one envelope, each named once")
        total = sum(envelope.per_mille for envelope in action.envelopes)
        if total > 1000:
            raise UsageError(f"envelopes add up to {total} thousandths, expected at most 1000")
        self._caps[action.partition] = action

    def _on_reserved(self, action: Reserved, checked: bool) -> None:
        key = (action.plan, action.partition, action.envelope)
        if key in self._plans:
            raise PolicyError("this plan already has its reservation", code="plan-known")
        cap = self._caps.get(action.partition)
        if cap is None:
            raise PolicyError(f"no charter caps the partition {action.partition}", code="no-cap")
        if action.envelope not in {envelope.name for envelope in cap.envelopes}:
            raise PolicyError(f"the cap has no envelope {action.envelope}", code="no-cap")
        if not action.events:
            raise UsageError("a reservation needs at least one event")
        left = counts_of(action.events)
        account = PlanAccount(
            partition=action.partition,
            envelope=action.envelope,
            asked=MappingProxyType(dict(left)),
            left=MappingProxyType(left),
            is_open=True,
        )
        if checked:
            self._check_budget(cap, account)
        self._plans[key] = account

    def _on_charged(self, action: Charged) -> None:
        owner = (action.plan, action.partition, action.envelope)
        account = self._plans.get(owner)
        if account is None:
            raise PolicyError("the plan has no reservation here", code="not-reserved")
        if not account.is_open:
            raise PolicyError(
                "the plan is closed: nothing more is charged to it", code="plan-closed"
            )
        slot = slot_of(action)
        earlier = self._slots.get(slot)
        if earlier == action.payload:
            raise PolicyError(
                "this vector is already paid: send the stored bytes", code="already-paid"
            )
        if earlier is not None:
            refuse_sent_slot(action.plan, earlier, self._sent)
        left = dict(account.left)
        key = _kind(action.event)
        if left.get(key, 0) < action.event.count:
            raise PolicyError(
                f"the reservation has {left.get(key, 0)} releases of this kind left, "
                f"{action.event.count} asked: noise, rate, clip or number differ from the plan",
                code="not-reserved",
            )
        left[key] -= action.event.count
        self._plans[owner] = replace(account, left=MappingProxyType(left))
        self._slots[slot] = action.payload
        self._unsent.add((action.plan, action.payload))
        self._charge(account.partition, account.envelope, key, action.event.count)

    def _on_sent(self, action: Sent) -> None:
        pair = (action.plan, action.payload)
        if pair not in self._unsent and pair not in self._sent:
            raise PolicyError("a vector is sent only after it is charged", code="not-charged")
        self._unsent.discard(pair)
        self._sent.add(pair)

    def _on_closed(self, action: Closed) -> None:
        owned = [key for key in self._plans if key[0] == action.plan]
        if not owned:
            raise PolicyError("the plan has no reservation", code="not-reserved")
        self._close(owned)

    def _close(self, keys: Iterable[PlanKey]) -> None:
        nothing = MappingProxyType(dict[PrivateEvent, int]())
        for key in keys:
            self._plans[key] = replace(self._plans[key], is_open=False, left=nothing)

    def _on_rebased(self, action: Rebased) -> None:
        found = {(item.partition, item.envelope): item.event for item in action.assumed}
        if len(found) != len(action.assumed):
            raise PolicyError("a re-base names an envelope twice", code="rebase-too-low")
        spent = dict(found)
        for cap in self._caps.values():
            for envelope in cap.envelopes:
                event = found.pop((cap.partition, envelope.name), None)
                limit = envelope_limit(cap, envelope)
                if event is None or total_signal_to_noise([event]) < limit:
                    raise PolicyError(
                        f"a re-base must count the whole envelope {envelope.name} of "
                        f"{cap.partition} as spent",
                        code="rebase-too-low",
                    )
        if found:
            raise PolicyError("a re-base names an envelope without a cap", code="no-cap")
        for (partition, name), event in spent.items():
            self._charge(partition, name, _kind(event), event.count)
        # What was lost over a partition without a cap has no bound at all.
        for partition in PARTITIONS:
            if partition not in self._caps:
                self._disclosed.add((action.statement, partition, LOST))
        # Prevents a plan from spending once more what the lost part had charged to it.
        self._close(list(self._plans))
        self._losses.add((action.lost_count, action.lost_head))
        self._lock = None

    def _charge(self, partition: str, envelope: str, key: PrivateEvent, count: int) -> None:
        counts = self._spend.setdefault((partition, envelope), {})
        counts[key] = counts.get(key, 0) + count

    def _check_budget(self, cap: Capped, asked: PlanAccount) -> None:
        """Refuse when charged, reserved and asked together pass the envelope or the cap."""
        inside: dict[str, list[Event]] = {one.name: [] for one in cap.envelopes}
        for account in (*self._plans.values(), asked):
            if account.partition == cap.partition:
                inside.setdefault(account.envelope, []).extend(events_of(account.left))
        for (partition, envelope), counts in self._spend.items():
            if partition == cap.partition:
                inside.setdefault(envelope, []).extend(events_of(counts))
        check_fits(cap, asked.envelope, inside)


def slot_of(charge: Charged) -> Slot:
    """Return what is paid once for one payload."""
    return charge.plan, charge.partition, charge.query, charge.model, charge.cohort


def refuse_sent_slot(plan: str, earlier: str, sent: Set[tuple[str, str]]) -> None:
    """Raise `PolicyError` ``slot-taken`` if the `earlier` payload of a slot was sent."""
    if (plan, earlier) in sent:
        raise PolicyError(
            "other bytes were sent for this slot: send those again, or open a new query",
            code="slot-taken",
        )


def _kind(event: PrivateEvent) -> PrivateEvent:
    return msgspec.structs.replace(event, count=1)


def counts_of(events: Iterable[PrivateEvent]) -> dict[PrivateEvent, int]:
    """Return how many releases of each kind `events` are; a kind is an event with count one."""
    counts: dict[PrivateEvent, int] = {}
    for event in events:
        key = _kind(event)
        counts[key] = counts.get(key, 0) + event.count
    return counts


def events_of(counts: Counts) -> list[Event]:
    """Return `counts` as events."""
    return [
        msgspec.structs.replace(kind, count=count) for kind, count in counts.items() if count > 0
    ]
