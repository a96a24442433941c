"""Epochs and rounds as the log tells them: what everyone may check, the auditor included.

`EpochRecord` and `RoundRecord` fold the statements of secure aggregation by the public rules; what
a member must check before it parts with a secret is the member machine's business, and
recomputing the sum the verifier's (docs/spec/secagg.md).

Invariants:
  * One key, share and readiness statement per member and epoch; one header, one answer per member
    and round; a second, different one is refused (``equivocation``).
  * Every statement names its own epoch or round; a statement from another one has no effect.
  * A slot is used once; rounds of an epoch use rising slots.
  * Only members of the roster deal, only dealers are ready, only ready members take part.
  * The survivors are exactly the members whose inputs are logged, with the roots logged.
  * Only survivors answer, after `share_threshold` confirmations where there are few of them.
  * An answer opens the keys of the noise that its survivors do not need, or none.
  * A result needs answers of at least `share_threshold` members to one survivor set.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar, cast

import msgspec
from msgspec.structs import replace

from treaty.errors import VerificationError
from treaty.ids import Digest, MemberId
from treaty.protocol.machine import advance
from treaty.protocol.secagg_claims import check_abandoned, check_claim
from treaty.protocol.secagg_graph import Graph, check_choice, chosen_holders
from treaty.protocol.secagg_keys import Group, context_of, epoch_hash_of, survivors_digest
from treaty.protocol.secagg_messages import (
    EpochClosed,
    EpochKeys,
    EpochOpened,
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
from treaty.protocol.secagg_pairs import PairSeeds, largest_pairs, pair_seeds_of
from treaty.protocol.secure_phases import (
    EPOCH_TRANSITIONS,
    ROUND_TRANSITIONS,
    EpochPhase,
    RoundPhase,
)
from treaty.protocol.statements import (
    Body,
    Documents,
    SignerKind,
    Verified,
    of_kind,
    registered,
)
from treaty.protocol.surplus import check_committed, check_opened

__all__ = ["EpochPhase", "EpochRecord", "RoundPhase", "RoundRecord"]

P = TypeVar("P", bound=Body)


class EpochRecord(msgspec.Struct, frozen=True):
    """One epoch: its opening, the members' keys, shares and readiness, and the last slot used."""

    group: Group
    opened: Verified[EpochOpened]
    phase: EpochPhase = EpochPhase.KEYS
    keys: Mapping[MemberId, Verified[EpochKeys]] = msgspec.field(default_factory=dict)
    roster: Verified[EpochRoster] | None = None
    shares: Mapping[MemberId, Verified[EpochShares]] = msgspec.field(default_factory=dict)
    sealed: Verified[EpochSealed] | None = None
    graph: Graph | None = None
    ready: Mapping[MemberId, Verified[EpochReady]] = msgspec.field(default_factory=dict)
    complaints: tuple[Verified[ShareComplaint], ...] = ()
    last_slot: int = -1

    @property
    def number(self) -> int:
        """Return the epoch's number."""
        return self.opened.predicate.epoch

    @property
    def epoch_hash(self) -> Digest | None:
        """Return the hash of the roster, None before there is one."""
        if self.roster is None:
            return None
        return epoch_hash_of(self.group.charter, self.number, self.roster.predicate.keys)

    def without_statements(self) -> "EpochRecord":
        """Return what is kept of an epoch in which nothing more happens: number, phase, slots."""
        return EpochRecord(self.group, self.opened, self.phase, last_slot=self.last_slot)

    def step(self, verified: Verified[Body]) -> "EpochRecord":
        """Return the record after one statement of the epoch; `VerificationError` otherwise."""
        body = verified.predicate
        if registered(type(body)).signer is SignerKind.RUNNER:
            # A runner key is not enough: observers may have one.
            self.group.index(body.author)
        match body:
            case EpochKeys():
                self._names(body.epoch, body.opened)
                self._move(body, EpochPhase.KEYS)
                keys = _once(self.keys, of_kind(verified, EpochKeys))
                slots = self.opened.predicate.slots
                self._shape(
                    len(body.round_keys) == len(body.commitments) == slots
                    and (body.kem is not None) == self.group.hybrid
                    and (body.graph is not None) == self.group.large,
                    f"{slots} round keys and commitments of {body.author}",
                )
                return replace(self, keys=keys)
            case EpochRoster():
                return self._on_roster(body, of_kind(verified, EpochRoster))
            case EpochShares():
                self._move(body, EpochPhase.DEALING)
                self._of_roster(body.epoch_hash)
                self._among(body.author, self._listed())
                shares = _once(self.shares, of_kind(verified, EpochShares))
                roster, dealer = self._roster(), self.keys[MemberId(body.author)].predicate
                holders = chosen_holders(
                    self.group, body.author, roster, body.epoch_hash, body.nonce
                )
                self._shape(
                    set(body.columns) == set(holders),
                    f"one column of {body.author} for every holder of its shares",
                )
                check_choice(self.group, dealer, roster, body.epoch_hash, body)
                return replace(self, shares=shares)
            case EpochSealed():
                return self._on_sealed(body, of_kind(verified, EpochSealed))
            case EpochReady():
                self._move(body, EpochPhase.OPENING)
                self._of_roster(body.epoch_hash)
                self._among(body.author, self._dealers())
                ready = _once(self.ready, of_kind(verified, EpochReady))
                pairs = self.opened.predicate.slots if self.group.hybrid else 0
                self._shape(
                    len(body.pair_commitments) == pairs
                    and (body.wraps is not None) == self.group.hybrid,
                    f"{pairs} pair commitments of {body.author}",
                )
                return replace(self, ready=ready)
            case ShareComplaint():
                self._move(body, EpochPhase.OPENING)
                self._of_roster(body.epoch_hash)
                self._among(body.author, self._dealers())
                return self._on_complaint(of_kind(verified, ShareComplaint))
            case EpochClosed():
                if body.epoch != self.number:
                    raise VerificationError("another epoch is closed", code="wrong-epoch")
                return replace(self, phase=self._move(body, EpochPhase.CLOSED))
            case _:
                raise VerificationError(
                    f"{type(body).__name__} is no statement of an epoch", code="out-of-order"
                )

    def use_slot(self, opened: RoundOpened) -> "EpochRecord":
        """Return the record with the slot of `opened` spent."""
        self._move(opened, EpochPhase.OPENING)
        self._of_roster(opened.epoch_hash)
        self.group.check_order(opened.participants, "participants")
        if not self.last_slot < opened.slot < self.opened.predicate.slots:
            raise VerificationError(
                f"slot {opened.slot} is used or beyond the epoch: the last was {self.last_slot} "
                f"of {self.opened.predicate.slots}",
                code="slot-used",
            )
        strange = set(opened.participants) - set(self.ready)
        if strange:
            raise VerificationError(
                f"{sorted(strange)[0]} is not ready in this epoch", code="not-in-epoch"
            )
        self._enough(len(opened.participants), "participants")
        return replace(self, last_slot=opened.slot)

    def _on_roster(self, body: EpochRoster, verified: Verified[EpochRoster]) -> "EpochRecord":
        self._names(body.epoch, body.opened)
        phase = self._move(body, EpochPhase.DEALING)
        logged = {statement.digest: author for author, statement in self.keys.items()}
        if not set(body.keys) <= set(logged):
            raise VerificationError("the roster names keys that are not logged", code="unlogged")
        self.group.check_order([logged[Digest(one)] for one in body.keys], "members of a roster")
        self._enough(len(body.keys), "members in the roster")
        return replace(self, phase=phase, roster=verified)

    def _on_sealed(self, body: EpochSealed, verified: Verified[EpochSealed]) -> "EpochRecord":
        phase = self._move(body, EpochPhase.OPENING)
        self._of_roster(body.epoch_hash)
        strange = set(body.dealers) - set(self.shares)
        if strange:
            raise VerificationError(
                f"{sorted(strange)[0]} dealt no shares in the log", code="unlogged"
            )
        self.group.check_order(body.dealers, "dealers")
        self._enough(len(body.dealers), "dealers")
        dealt = {dealer: self.shares[MemberId(dealer)].predicate for dealer in body.dealers}
        graph = Graph.of(self.group, self._roster(), dealt)
        return replace(self, phase=phase, sealed=verified, graph=graph)

    def _on_complaint(self, verified: Verified[ShareComplaint]) -> "EpochRecord":
        if any(before.digest == verified.digest for before in self.complaints):
            raise VerificationError(
                f"{verified.author} has complained of this already", code="replayed"
            )
        return replace(self, complaints=(*self.complaints, verified))

    def _listed(self) -> frozenset[MemberId]:
        """The members whose keys the roster names."""
        named = set() if self.roster is None else set(self.roster.predicate.keys)
        return frozenset(member for member, one in self.keys.items() if one.digest in named)

    def _roster(self) -> tuple[MemberId, ...]:
        """The members of the roster in its order."""
        listed = self._listed()
        return tuple(member for member in self.group.members if member in listed)

    def _dealers(self) -> frozenset[str]:
        return frozenset() if self.sealed is None else frozenset(self.sealed.predicate.dealers)

    def _among(self, author: str, members: frozenset[MemberId] | frozenset[str]) -> None:
        if author not in members:
            raise VerificationError(f"{author} is not in this epoch", code="not-in-epoch")

    def _shape(self, fits: bool, expected: str) -> None:
        # Prevents a round that nobody can check, and content beside the purpose.
        if not fits:
            raise VerificationError(f"expected {expected}", code="malformed")

    def _enough(self, count: int, what: str) -> None:
        if count < self.group.min_survivors:
            raise VerificationError(
                f"{count} {what}, expected at least {self.group.min_survivors}", code="too-few"
            )

    def _of_roster(self, epoch_hash: str) -> None:
        # Prevents statements of an earlier epoch from being sequenced into this one.
        if epoch_hash != self.epoch_hash:
            raise VerificationError("the statement is for another epoch", code="wrong-epoch")

    def _names(self, epoch: int, opened: str) -> None:
        if epoch != self.number or opened != self.opened.digest:
            raise VerificationError("the statement is for another epoch", code="wrong-epoch")

    def _move(self, body: Body, following: EpochPhase) -> EpochPhase:
        return advance(EPOCH_TRANSITIONS, self.phase, body, following)


class RoundRecord(msgspec.Struct, frozen=True):
    """One secure sum: who sent, who is in, who answered, and what came out.

    `question` is what the members' locks are on: the query without its number in the study.
    `members_in` are those whose inputs are in the sum, once sealed; with `few` of them answers wait
    for confirmations. `tiers` as in `Expected`; with a `claim_bound` answers hold claims.
    """

    group: Group
    opened: Verified[RoundOpened]
    question: Digest
    context: Digest
    graph: Graph
    tiers: tuple[int, ...] = ()
    phase: RoundPhase = RoundPhase.COLLECTING
    inputs: Mapping[MemberId, Verified[MaskedInput]] = msgspec.field(default_factory=dict)
    declined: Mapping[MemberId, Verified[InputDeclined]] = msgspec.field(default_factory=dict)
    sealed: Verified[SurvivorsSealed] | None = None
    survivors: Digest | None = None
    members_in: tuple[MemberId, ...] = ()
    few: bool = False
    confirmed: Mapping[MemberId, Verified[SurvivorsConfirmed]] = msgspec.field(default_factory=dict)
    reveals: Mapping[MemberId, Verified[Reveal]] = msgspec.field(default_factory=dict)
    result: Verified[RoundResult] | None = None
    pair_seeds: PairSeeds = msgspec.field(default_factory=dict)
    claim_bound: int | None = None
    abandoned: Verified[RoundAbandoned] | None = None

    @staticmethod
    def begin(
        group: Group,
        opened: Verified[RoundOpened],
        question: Digest,
        graph: Graph,
        tiers: tuple[int, ...] = (),
        claim_bound: int | None = None,
    ) -> "RoundRecord":
        """Return the record of a round that has just opened in an epoch with this graph."""
        at = context_of(Digest(opened.predicate.charter), opened.predicate)
        return RoundRecord(group, opened, question, at, graph, tiers, claim_bound=claim_bound)

    @property
    def participants(self) -> tuple[MemberId, ...]:
        """Return the members asked for an input."""
        return cast("tuple[MemberId, ...]", self.opened.predicate.participants)

    @property
    def is_over(self) -> bool:
        """Say whether the round has a result or was abandoned."""
        return self.phase in (RoundPhase.PUBLISHED, RoundPhase.ABANDONED)

    def step(self, verified: Verified[Body], documents: Documents) -> "RoundRecord":
        """Return the record after one statement of the round; `VerificationError` otherwise.

        `documents` gives the blob of pair seeds that a result may name, by digest.
        """
        body = verified.predicate
        if getattr(body, "context", None) != self.context:
            raise VerificationError("the statement is bound to another round", code="wrong-context")
        by_member = registered(type(body)).signer is SignerKind.RUNNER
        if by_member and body.author not in self.participants:
            raise VerificationError(
                f"{body.author} is no participant of this round", code="not-in-round"
            )
        match body:
            case MaskedInput():
                self._move(body, RoundPhase.COLLECTING)
                if body.length != self.opened.predicate.length:
                    raise VerificationError(
                        f"input of {body.length} words, expected {self.opened.predicate.length}",
                        code="wrong-length",
                    )
                check_committed(body, self.tiers)
                return replace(self, inputs=_once(self.inputs, of_kind(verified, MaskedInput)))
            case Reveal():
                return self._on_reveal(body, of_kind(verified, Reveal))
            case InputDeclined():
                self._move(body, RoundPhase.COLLECTING)
                declined = _once(self.declined, of_kind(verified, InputDeclined))
                return replace(self, declined=declined)
            case SurvivorsSealed():
                return self._on_sealed(body, of_kind(verified, SurvivorsSealed))
            case SurvivorsConfirmed():
                self._move(body, RoundPhase.REVEALING)
                self._same_survivors(body.survivors)
                self._survivor(body.author)
                confirmed = _once(self.confirmed, of_kind(verified, SurvivorsConfirmed))
                return replace(self, confirmed=confirmed)
            case RoundResult():
                return self._on_result(body, of_kind(verified, RoundResult), documents)
            case RoundAbandoned():
                phase = self._move(body, RoundPhase.ABANDONED)
                check_abandoned(body, self.claim_bound)
                return replace(self, phase=phase, abandoned=of_kind(verified, RoundAbandoned))
            case _:
                raise VerificationError(
                    f"{type(body).__name__} is no statement of a round", code="out-of-order"
                )

    def _on_sealed(
        self, body: SurvivorsSealed, verified: Verified[SurvivorsSealed]
    ) -> "RoundRecord":
        phase = self._move(body, RoundPhase.REVEALING)
        named = {one.member: (one.header, one.root) for one in body.survivors}
        logged = {
            member: (header.digest, header.predicate.root) for member, header in self.inputs.items()
        }
        if len(named) != len(body.survivors) or named != logged:
            # Prevents a logged update from being left out, and an unlogged one from being added.
            odd = sorted(
                name
                for name in set(named) | set(logged)
                if named.get(name) != logged.get(MemberId(name))
            )
            raise VerificationError(
                f"the survivors differ from the logged inputs at {', '.join(odd) or 'one member'}",
                code="unlogged",
            )
        if len(named) < self.group.min_survivors:
            raise VerificationError(
                f"{len(named)} survivors, expected at least {self.group.min_survivors}",
                code="too-few",
            )
        inside = tuple(MemberId(one.member) for one in body.survivors)
        self.group.check_order(inside, "survivors")
        return replace(
            self,
            phase=phase,
            sealed=verified,
            survivors=survivors_digest(self.context, body.survivors, self.group),
            members_in=inside,
            few=len(inside)
            < self.graph.fast_survivors(len(self.participants), surplus=bool(self.tiers)),
        )

    def _on_reveal(self, body: Reveal, verified: Verified[Reveal]) -> "RoundRecord":
        self._move(body, RoundPhase.REVEALING)
        self._same_survivors(body.survivors)
        self._survivor(body.author)
        if self.few and len(self.confirmed) < self.group.share_threshold:
            raise VerificationError(
                f"{body.author} answers after {len(self.confirmed)} confirmations, expected at "
                f"least {self.group.share_threshold} with {len(self.members_in)} survivors",
                code="not-confirmed",
            )
        if not body.self_shares.keys().isdisjoint(body.round_shares):
            raise VerificationError(
                f"{body.author} reveals both kinds of share of one member", code="both-shares"
            )
        held = self.graph.owners(body.author, self.participants)
        inside = held.intersection(self.members_in)
        if body.self_shares.keys() - inside or body.round_shares.keys() - (held - inside):
            raise VerificationError(
                f"{body.author} reveals shares for the wrong members", code="wrong-shares"
            )
        header = self.inputs[MemberId(body.author)].predicate
        query = self.opened.predicate.query
        check_opened(body, header, self.tiers, len(self.members_in), query)
        check_claim(body, self.claim_bound, self.opened.predicate.ring_bits)
        return replace(self, reveals=_once(self.reveals, verified))

    @property
    def largest_pairs(self) -> int:
        """Return the most bytes of a blob of pair seeds that a result can name."""
        return largest_pairs(len(self._dropped()), len(self.group.members))

    def _on_result(
        self, body: RoundResult, verified: Verified[RoundResult], documents: Documents
    ) -> "RoundRecord":
        phase = self._move(body, RoundPhase.PUBLISHED)
        self._same_survivors(body.survivors)
        if not self.graph.opens(frozenset(self.reveals), self.participants):
            raise VerificationError(
                f"{len(self.reveals)} members answered, expected at least "
                f"{self.graph.threshold} holders of every participant's shares",
                code="too-few",
            )
        if set(body.self_seeds) != set(self.members_in) or set(body.round_seeds) != self._dropped():
            raise VerificationError(
                "the revealed seeds are not those of the survivors and of the dropped",
                code="wrong-shares",
            )
        pairs = pair_seeds_of(body, documents, self.largest_pairs)
        return replace(self, phase=phase, result=verified, pair_seeds=pairs)

    def _dropped(self) -> set[MemberId]:
        return set(self.participants) - set(self.members_in)

    def _survivor(self, author: str) -> None:
        if author not in self.members_in:
            raise VerificationError(f"{author} is no survivor of this round", code="not-in-round")

    def _same_survivors(self, digest: str) -> None:
        if digest != self.survivors:
            raise VerificationError(
                "the statement is about another set of survivors", code="two-survivor-sets"
            )

    def _move(self, body: Body, following: RoundPhase) -> RoundPhase:
        return advance(ROUND_TRANSITIONS, self.phase, body, following)


def _once(
    known: Mapping[MemberId, Verified[P]], verified: Verified[P]
) -> Mapping[MemberId, Verified[P]]:
    """Return `known` with `verified`; a second statement of one author is refused."""
    before = known.get(verified.author)
    if before is not None:
        kind = type(verified.predicate).__name__
        code = "replayed" if before.digest == verified.digest else "equivocation"
        raise VerificationError(f"{verified.author} has sent its {kind} already", code=code)
    return MappingProxyType({**known, verified.author: verified})
