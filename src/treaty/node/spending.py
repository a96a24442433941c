"""Spending: what a study's queries cost the data set of this site, in its ledger.

Between the member's machines, which know queries and rounds, and the `BudgetKeeper`, which knows
partitions and envelopes. A site without a registered data set keeps no ledger, shows no head, and
takes no part in a study that promises differential privacy.

Invariants (docs/spec/privacy.md, section 7):
  * Every vector is paid for, or recorded as not private, before it is masked. One that the plan
    did not reserve, fresh noise for another set of members, is paid from an account of its own.
  * A site whose ledger lacks what the log, or its own store, shows of it sits out.
  * An evaluation shows the site's own model and intercept too, which come from training rows: an
    exact one is a release over both partitions.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from treaty.crypto.canonical import DigestField, Record, decode, digest_of, encode
from treaty.errors import PolicyError
from treaty.governance.exposure import Artefact
from treaty.ids import Digest, MemberId
from treaty.node.budget import BudgetKeeper, Claim
from treaty.node.dataset import caps_of
from treaty.ports import EventStore
from treaty.privacy.ledger_entries import (
    GENESIS,
    HOLDOUT,
    TRAINING,
    Capped,
    LedgerHead,
    PrivateEvent,
)
from treaty.privacy.terms import NoisedTerms, holdout_releases
from treaty.protocol.consortium import Consortium
from treaty.protocol.ledger_trail import LedgerTrail
from treaty.protocol.releases import releases_of
from treaty.protocol.secure_round import RoundRecord
from treaty.protocol.study import Study
from treaty.studies.noise import cohort_of, noise_terms, planned_events
from treaty.studies.queries import Query, QueryKind, noised_kinds

__all__ = [
    "LEDGER_KEY",
    "PARTITIONS_OF",
    "Spending",
    "partition_of",
    "require_ledger",
    "shown_head",
]

LEDGER_KEY = "ledger/shown"
"""The ledger head of the newest input that this store holds."""

PARTITIONS_OF: Mapping[QueryKind, tuple[str, ...]] = MappingProxyType(
    {
        QueryKind.SUPPORT: (TRAINING,),
        QueryKind.STATISTICS: (TRAINING,),
        QueryKind.NEWTON: (TRAINING,),
        QueryKind.AVERAGING: (TRAINING,),
        QueryKind.EVALUATION: (HOLDOUT, TRAINING),
    }
)
"""The partitions whose rows an exact sum of each kind discloses, where training is exact."""

ENVELOPE_OF: Mapping[QueryKind, str] = MappingProxyType(
    {
        QueryKind.COUNT: "statistics",
        QueryKind.DESCENT: "training",
        QueryKind.SUFFICIENT: "training",
        QueryKind.SCORES: "evaluation",
    }
)
"""The envelope from which a noised sum is paid."""


class _Shown(Record, frozen=True):
    """The head of the last stored input, and the re-base in force when it was made."""

    head: LedgerHead
    rebase: DigestField


class _FreshRelease(Record, frozen=True):
    """The account of one vector beyond what a plan reserved."""

    format: Literal["treaty.fresh-release/v1"] = "treaty.fresh-release/v1"
    plan: DigestField
    release: DigestField
    cohort: DigestField


class Spending:
    """The account of one site; with `keeper` None there is nothing to pay from."""

    def __init__(self, name: MemberId, keeper: BudgetKeeper | None, store: EventStore) -> None:
        self._name = name
        self._keeper = keeper
        self._store = store
        self._accounts: dict[Digest, Digest] = {}
        self._caps: tuple[Digest, tuple[Capped, ...]] | None = None
        self._stored: bytes | None = None
        self._is_read = False

    @property
    def keeper(self) -> BudgetKeeper | None:
        """Return the ledger's keeper, if the site registered its data set."""
        return self._keeper

    def follow(self, state: Consortium) -> None:
        """Take in what the log says: the charter's caps, this site's last head, a re-base.

        Raises `PolicyError` ``ledger-lost``. A lock stands in the way of every later decision.
        """
        keeper = self._keeper
        if keeper is None or state.membership is None:
            return
        digest = state.membership.history.digest
        if self._caps is None or self._caps[0] != digest:
            self._caps = digest, caps_of(state.charter, digest)
        keeper.cap(*self._caps)
        if not self._is_read:
            self._stored, self._is_read = self._store.get(LEDGER_KEY), True
        trail = state.trail(self._name)
        keeper.confirm(trail, shown_head(self._stored, trail))

    def admit(self, state: Consortium, study: Study) -> None:
        """Take up a study: reserve what it may charge. Its content is recorded where it is read.

        Raises `PolicyError` when the ledger does not hold it; the cause is for the journal.
        """
        private = isinstance(study.plan.privacy, NoisedTerms)
        keeper = require_ledger(self._keeper) if private else self._keeper
        if keeper is None:
            return
        self.follow(state)
        if not private:
            _ = keeper.head
            return
        claims = [
            Claim(partition_of(kind), ENVELOPE_OF[kind], (event,))
            for kind, event in _events(study).items()
        ]
        keeper.reserve(study.identity, claims)

    def pay(
        self,
        study: Study,
        record: RoundRecord,
        query: Query,
        payload: Digest,
    ) -> LedgerHead | None:
        """Pay for the vector with digest `payload` before it is masked; return the head to show.

        An exact sum is recorded as not private over every partition whose rows it shows. Raises
        `PolicyError`: then the vector must not leave.
        """
        envelope = ENVELOPE_OF.get(query.kind)
        keeper = self._keeper if envelope is None else require_ledger(self._keeper)
        if keeper is None:
            return None
        if envelope is None:
            name = query.kind.artefact.value
            return keeper.disclose(study.identity, _disclosed_by(study, query.kind), name)
        account = _payer_of(keeper, record, query, payload)
        if account is not None:
            self._accounts[payload] = account
            return keeper.head
        event = msgspec.structs.replace(_events(study)[query.kind], count=1)
        cohort = digest_of(list(record.participants))
        account = self._account(keeper, study, record, query, cohort)
        if account != study.identity:
            keeper.reserve(account, [Claim(partition_of(query.kind), envelope, (event,))])
        head = keeper.charge(
            plan=account,
            partition=partition_of(query.kind),
            envelope=envelope,
            query=record.question,
            model=Digest(query.model),
            cohort=cohort,
            payload=payload,
            event=event,
        )
        self._accounts[payload] = account
        if account == study.identity:
            return head
        keeper.close(account)
        return keeper.head

    def _account(
        self,
        keeper: BudgetKeeper,
        study: Study,
        record: RoundRecord,
        query: Query,
        cohort: Digest,
    ) -> Digest:
        """Return the account that a vector is paid from: the plan's, or one of its own.

        The plan reserved every query once. What is asked again with fresh noise, or of others, is
        reserved anew, where envelope and cap have room for it.
        """
        releases = releases_of(query.question)
        paid = {
            (asked, others)
            for plan, partition, asked, model, others in keeper.state.slots
            if (plan, partition, model) == (study.identity, partition_of(query.kind), query.model)
            and asked in releases
        }
        if not paid or (record.question, cohort) in paid:
            return study.identity
        return _own_account(study, record.question, cohort)

    def report(self, study: Study) -> None:
        """Record this site's own exact figures, before they are stored for sending."""
        if self._keeper is not None:
            self._keeper.disclose(study.identity, (HOLDOUT, TRAINING), Artefact.SITE_METRIC.value)

    def sent(self, plan: Digest, payload: Digest) -> None:
        """Note that a paid vector is on its way."""
        if self._keeper is not None:
            self._keeper.sent(self._accounts.get(payload, plan), payload)

    def finish(self, study: Study) -> None:
        """Give up what a study that is over had reserved and did not charge."""
        if self._keeper is None:
            return
        kept = self._keeper.state.plans.items()
        ours = {study.identity, *_own_accounts(study)}
        for plan in {plan for (plan, _, _), account in kept if account.is_open} & ours:
            self._keeper.close(Digest(plan))

    def awaits(self, state: Consortium, rebase: Digest) -> bool:
        """Say whether the ledger is locked and the log lacks the officer's statement `rebase`."""
        if self._keeper is None or not self._keeper.lock:
            return False
        known = state.trail(self._name).rebases.values()
        return all(one.digest != rebase for one in known)

    def record(self, state: Consortium, head: LedgerHead | None) -> tuple[tuple[str, bytes], ...]:
        """Return what the store keeps beside an input that shows `head`."""
        if head is None:
            return ()
        # It is read again, whatever becomes of the transaction that this goes into.
        self._is_read = False
        shown = _Shown(head=head, rebase=_rebase_of(state.trail(self._name), head))
        return ((LEDGER_KEY, encode(shown)),)


def _events(study: Study) -> dict[QueryKind, PrivateEvent]:
    """Return the most that a study may charge, by kind of noised sum."""
    cohort = cohort_of(study.history.effective().parameters())
    events = planned_events(study.plan, study.contract, cohort)
    found = dict(zip(noised_kinds(study.plan), events, strict=True))
    for holdout in holdout_releases(noise_terms(study.plan), cohort):
        found[QueryKind.SCORES] = holdout
    return found


def partition_of(kind: QueryKind) -> str:
    """Return the partition whose rows a noised sum is over."""
    return HOLDOUT if kind is QueryKind.SCORES else TRAINING


def _payer_of(
    keeper: BudgetKeeper, record: RoundRecord, query: Query, payload: Digest
) -> Digest | None:
    """Return the account that paid for this very vector of this release, whoever was asked then.

    Of one release one set of members is answered, so its bytes are opened once at most.
    """
    wanted = (partition_of(query.kind), record.question, query.model)
    for (plan, *slot, _), paid in keeper.state.slots.items():
        if paid == payload and tuple(slot) == wanted:
            return Digest(plan)
    return None


def _own_account(study: Study, release: Digest, cohort: Digest) -> Digest:
    return digest_of(_FreshRelease(plan=study.identity, release=release, cohort=cohort))


def _own_accounts(study: Study) -> Iterator[Digest]:
    """Yield the accounts from which vectors of `study` beyond its plan can have been paid.

    A process that ended between reserving and charging has left one open.
    """
    asked = {(past.question, past.participants) for past in study.rounds if past.participants}
    for release, participants in asked:
        yield _own_account(study, release, digest_of(list(participants)))


def _disclosed_by(study: Study, kind: QueryKind) -> tuple[str, ...]:
    """Return the partitions whose rows an exact sum shows.

    Where training is noised, an evaluation holds the federated model alone, which is paid for.
    """
    if kind is QueryKind.EVALUATION and isinstance(study.plan.privacy, NoisedTerms):
        return (HOLDOUT,)
    return PARTITIONS_OF[kind]


def shown_head(kept: bytes | None, trail: LedgerTrail) -> LedgerHead | None:
    """Return the head in a stored `LEDGER_KEY`, unless the officer has accepted its loss since."""
    if kept is None:
        return None
    shown = decode(kept, _Shown)
    # What was shown before a re-base is part of the loss.
    return shown.head if shown.rebase == _rebase_of(trail, shown.head) else None


def _rebase_of(trail: LedgerTrail, head: LedgerHead) -> Digest:
    rebase = trail.rebase_to(Digest(head.ledger))
    return GENESIS if rebase is None else rebase.digest


def require_ledger(keeper: BudgetKeeper | None) -> BudgetKeeper:
    """Return the keeper; `PolicyError` (``no-ledger``) where no data set is registered."""
    if keeper is None:
        raise PolicyError(
            "the study promises differential privacy and this site registered no data set: "
            "expected a ledger, run treaty budget register",
            code="no-ledger",
        )
    return keeper
