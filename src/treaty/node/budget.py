"""Budget keeper: a site's own privacy ledger at work, over its port.

It asks the rules of `treaty.privacy.ledger` for every step, makes the entry durable, and only then
lets the caller go on: reserve at admission, charge after noise is drawn and before masking, record
what was sent, close. A release without noise is recorded by name before it is masked.

Guarantees (docs/spec/privacy.md, section 7):
  * What `charge` or `disclose` returned for is on the disk. A process that ends at any other moment
    may have charged too much, never too little.
  * Whatever was sent before is free; whatever differs is a charge of its own, or is refused.
  * Nothing is charged, reserved or disclosed while the ledger lacks what the shared log says of it.
  * Several nodes may use one ledger: each reads what the others appended before it decides.

Refusals are `PolicyError` with the codes of `LedgerState.append`, ``ledger-lost`` and the locks';
their causes are for the site's journal. Left to others: drawing the noise, the officer's signature,
and posting the head.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from treaty.errors import FormatError, PolicyError, ResourceError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.node.dataset import RegisteredDataset, content_digest
from treaty.ports import Ledger
from treaty.privacy.events import Event
from treaty.privacy.ledger import LedgerState, Lock, counts_of, replay
from treaty.privacy.ledger_entries import (
    Action,
    Capped,
    Charged,
    Closed,
    Disclosed,
    Fingerprinted,
    LedgerHead,
    PrivateEvent,
    Reserved,
    Sent,
)
from treaty.protocol.ledger_trail import LedgerTrail

__all__ = ["BudgetKeeper", "Claim"]

_ATTEMPTS = 5
"""How often a step is decided again because another process appended first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The most that a plan may charge to one envelope of one partition."""

    partition: str
    envelope: str
    events: tuple[PrivateEvent, ...]


class BudgetKeeper:
    """The ledger of one registered data set."""

    def __init__(
        self,
        ledger: Ledger,
        dataset: RegisteredDataset,
        *,
        content: Callable[[], bytes] | None = None,
    ) -> None:
        """`content` returns the bytes of the data set's file as they are now."""
        self._ledger = ledger
        self._dataset = dataset
        self._content = content
        self._sent: list[Sent] = []
        self._state: LedgerState | None = None
        self._trail = LedgerTrail()
        self._shown: LedgerHead | None = None
        self._caps: tuple[Capped, ...] = ()
        self._refresh()

    @property
    def dataset(self) -> RegisteredDataset:
        """Return the data set whose ledger this is."""
        return self._dataset

    @property
    def state(self) -> LedgerState:
        """Return what the ledger's entries add up to; `PolicyError` ``ledger-lost`` without one."""
        self._refresh()
        return self._known()

    @property
    def head(self) -> LedgerHead:
        """Return what is published of the ledger now; `PolicyError` as `state`, or the lock's."""
        state = self.state
        self._unlocked(state)
        return state.published

    @property
    def lock(self) -> str:
        """Return why nothing can be charged now, empty where nothing stands against it."""
        try:
            self._unlocked(self.state)
        except PolicyError as refusal:
            return refusal.code
        return ""

    # --- what the shared log says -------------------------------------------------------------

    def confirm(
        self, trail: LedgerTrail, shown: LedgerHead | None = None, *, carry_out: bool = True
    ) -> None:
        """Take in what the log says of this site's ledgers; call before anything is decided.

        `shown` is the head of the last input in the site's own store, which the log may lack. A
        ledger that lacks, or contradicts, the head that the log shows last is locked, and so is
        one that the log does not know while it knows another. A re-base of this ledger that stands
        in the log is carried out here, once: everything that the caps allow counts as spent; unless
        not `carry_out`, for who only looks.
        """
        self._trail, self._shown = trail, shown
        self._refresh()
        state = self._known()
        rebase = trail.rebase_to(state.heads[0])
        if rebase is None or not carry_out:
            return
        body, statement = rebase.predicate, rebase.digest
        loss = (body.lost_count, Digest(body.lost.head))
        if loss not in state.accepted_losses:
            self._decide(
                lambda now: (
                    () if loss in now.accepted_losses else (now.rebasing(statement, *loss),)
                ),
                "ledger-rebase",
                locked=True,
            )

    def cap(self, charter: Digest, caps: Iterable[Capped]) -> None:
        """Record the caps of the charter in force, where they differ from those recorded last."""
        wanted = tuple(caps)
        if any(one.charter != charter for one in wanted):
            raise UsageError("expected caps of the charter named beside them")
        self._caps = wanted
        self._decide(self._new_caps, "ledger-cap", locked=True)

    def _new_caps(self, state: LedgerState) -> list[Capped]:
        return [one for one in self._caps if state.caps.get(one.partition) != one]

    # --- a plan's life ------------------------------------------------------------------------

    def register_content(self) -> Digest | None:
        """Record the fingerprint of what the data set holds now, and return it.

        Content inherits all spend. Call before rows are read, and compare after.
        """
        if self._content is None:
            return None
        found = self._dataset.fingerprint(content_digest(self._content()))
        self._decide(
            lambda state: (
                () if found in state.fingerprints else (Fingerprinted(fingerprint=found),)
            ),
            "ledger-content",
        )
        return found

    def name_persons(self, naming: str, *, by_place: bool) -> None:
        """Record how persons are known, before any of them is put into a noised sum.

        `naming` is `SiteData.naming`; `by_place` says that persons have no identifier: then the
        file may only grow at its end. Raises `PolicyError` ``person-naming`` for another naming
        than before, ``rows-moved`` for a file that does not begin with what it held before: either
        would move persons from one partition to the other.
        """
        data = self._content() if by_place and self._content is not None else b""
        wanted = self._dataset.named(naming, data.rstrip())

        def new(state: LedgerState) -> Sequence[Action]:
            known = state.named
            if known is None or known.naming != wanted.naming:
                return (wanted,)
            before = self._dataset.named(naming, data[: known.size_bytes])
            ends = data[known.size_bytes : known.size_bytes + 1]
            if by_place and (before.start != known.start or ends not in (b"", b"\r", b"\n")):
                raise PolicyError(
                    "the file does not begin with the rows that it held in earlier studies: "
                    "without identifiers persons are known by their place; append rows only, or "
                    "keep an identifier and name it in the contract",
                    code="rows-moved",
                )
            return () if wanted == known else (wanted,)

        self._decide(new, "ledger-naming")

    def reserve(self, plan: Digest, claims: Iterable[Claim]) -> None:
        """Reserve the most that `plan` may ever charge: all claims, or none.

        Repeating the same claims changes nothing. Raises `PolicyError`: ``budget`` when charged,
        reserved and asked together pass envelope and reserve, or the cap; ``plan-known`` for other
        claims than before, ``plan-closed``, ``no-cap``, or a lock's.
        """
        wanted = tuple(
            Reserved(plan=plan, partition=one.partition, envelope=one.envelope, events=one.events)
            for one in claims
        )

        def new(state: LedgerState) -> Sequence[Action]:
            asked = [one for one in wanted if not _is_reserved(state, one)]
            # Prevents another consortium on this data set, whose node appended its own charter's
            # caps since, from lending its budget to this plan: the plan is held to its charter's.
            return [*self._new_caps(state), *asked] if asked else ()

        self._decide(new, "ledger-reserve")

    def charge(
        self,
        *,
        plan: Digest,
        partition: str,
        envelope: str,
        query: Digest,
        model: Digest,
        cohort: Digest,
        payload: Digest,
        event: PrivateEvent,
    ) -> LedgerHead:
        """Pay for one noised vector and return the head to publish with it.

        `query` is the question asked without its number, `cohort` the digest of who takes part,
        `payload` that of the vector before masking. Call when noise is drawn and before the vector
        is masked, stored for sending or sent; on return the charge is durable. The same bytes for
        the same slot are paid already and cost nothing. Raises `PolicyError`: ``not-reserved``,
        ``slot-taken``, ``plan-closed`` or the lock's; then the vector must not leave.
        """
        asked = Charged(
            plan=plan,
            partition=partition,
            envelope=envelope,
            query=query,
            model=model,
            cohort=cohort,
            payload=payload,
            event=event,
        )
        return self._decide(lambda state: () if state.is_paid(asked) else (asked,), "ledger-charge")

    def disclose(self, plan: Digest, partitions: Iterable[str], name: str) -> LedgerHead:
        """Record releases without noise over `partitions`, by name, and return the head.

        Call before the release is masked or sent; on return the entries are durable. Repeating
        the same plan, partition and name changes nothing. Raises `PolicyError`, the lock's.
        """
        wanted = tuple(
            Disclosed(plan=plan, partition=partition, name=name) for partition in partitions
        )
        return self._decide(
            lambda state: [
                one for one in wanted if (plan, one.partition, name) not in state.disclosed
            ],
            "ledger-disclose",
        )

    def sent(self, plan: Digest, payload: Digest) -> None:
        """Note that a paid vector left. It becomes durable with the next entry.

        Losing the note costs nothing: the vector stays paid, and is sent again from the store.
        """
        state = self._state
        note = Sent(plan=plan, payload=payload)
        if state is not None and (plan, payload) in state.unsent and note not in self._sent:
            self._sent.append(note)

    def close(self, plan: Digest) -> None:
        """End a plan: what it reserved and did not charge becomes free. Repeating is harmless."""
        self._decide(
            lambda state: (
                (Closed(plan=plan),)
                if any(key[0] == plan and one.is_open for key, one in state.plans.items())
                else ()
            ),
            "ledger-close",
            locked=True,
        )

    # --- figures ------------------------------------------------------------------------------

    def release(self) -> None:
        """Let go of the ledger; later calls raise `ResourceError`."""
        self._ledger.close()

    def entries(self) -> list[bytes]:
        """Return the ledger's entries as stored."""
        return self._ledger.read()

    def events(self, partition: str) -> tuple[Event, ...]:
        """Return all that was charged to a partition by any study, disclosures included."""
        return self.state.events(partition)

    def epsilon(self, partition: str) -> float:
        """Return epsilon spent on a partition, rounded up; infinite with any disclosure.

        Guarantee: as `LedgerState.epsilon`. Raises `PolicyError` ``no-cap``.
        """
        return self.state.epsilon(partition)

    # --- parts --------------------------------------------------------------------------------

    def _decide(
        self,
        actions: Callable[[LedgerState], Iterable[Action]],
        label: str,
        *,
        locked: bool = False,
    ) -> LedgerHead:
        """Append what `actions` asks for in the present state, durably, and return the head.

        When another process appends first, everything is decided anew on what it left.
        """
        for _ in range(_ATTEMPTS):
            self._refresh()
            state = self._known()
            if not locked:
                self._unlocked(state)
            asked = list(actions(state))
            if not asked:
                return state.published
            notes = [one for one in self._sent if (one.plan, one.payload) in state.unsent]
            entries: list[bytes] = []
            following = state
            for action in (*notes, *asked):
                step = following.append(action)
                following = step.state
                entries.append(step.entry)
            try:
                self._ledger.append(state.count, entries, label)
            except ResourceError:
                if not self._ledger.read(state.count):
                    raise
                continue
            self._state = following
            self._sent.clear()
            return following.published
        raise ResourceError("the ledger is written by others all the time: try again")

    def _refresh(self) -> None:
        """Take in what other processes appended."""
        known = self._state
        entries = self._ledger.read(0 if known is None else known.count)
        if not entries:
            return
        try:
            state = replay(entries) if known is None else replay(entries, onto=known)
        except (FormatError, VerificationError) as error:
            raise ResourceError(
                f"the ledger of {self._dataset.identity} is damaged: {error}; keep it as evidence, "
                "move it away and let an officer sign a re-base"
            ) from error
        opening = state.opening
        own = self._dataset.opening(bytes.fromhex(opening.salt), recovers=opening.recovers)
        if opening != own:
            raise ResourceError(
                f"the ledger found is not that of {self._dataset.identity} with its partition key: "
                "restore the data set's key file, which never changes"
            )
        self._state = state

    def _known(self) -> LedgerState:
        if self._state is None:
            raise PolicyError(
                f"the ledger of {self._dataset.identity} is lost: an officer must sign a re-base",
                code="ledger-lost",
            )
        return self._state

    def _unlocked(self, state: LedgerState) -> None:
        """Refuse while the ledger lacks what the log shows, or was opened after a loss."""
        ledger = state.heads[0]
        shown = self._trail.head_of(ledger)
        lock = None
        kept = self._shown
        moved = kept is not None and kept.ledger != ledger and not self._trail.vouches(ledger)
        if moved or not self._trail.admits(ledger):
            lock = Lock.FORKED
        for one in (shown, kept):
            if one is not None and one.ledger == ledger:
                state = state.confirmed(one.count, Digest(one.head))
        lock = state.lock or lock
        if lock is not None:
            raise PolicyError(
                f"the ledger of {self._dataset.identity} is locked: an earlier part of it is "
                "missing; an officer must sign a re-base",
                code=lock.value,
            )


def _is_reserved(state: LedgerState, asked: Reserved) -> bool:
    """Say whether this very claim stands; refuse another one of the same plan."""
    account = state.plans.get((asked.plan, asked.partition, asked.envelope))
    if account is None:
        return False
    if dict(account.asked) != counts_of(asked.events):
        raise PolicyError("this plan has another reservation already", code="plan-known")
    if not account.is_open:
        raise PolicyError("the plan is closed: nothing more is charged to it", code="plan-closed")
    return True
