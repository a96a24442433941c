"""Round of the coordinator: collect inputs, seal the survivors, rebuild seeds, publish the sum.

Collecting -> Revealing -> Summing -> Published, or Abandoned. A fold over the coordinator's own log
(docs/spec/secagg.md, section 6): phases move when a statement is logged, effects say what to append
next. Guarantees:
  * Members that are lost before their input, or between input and answer, do not stop a round
    while `min_survivors` inputs and `share_threshold` answers remain; below that it is
    abandoned, never opened.
  * Every rebuilt seed is compared with its owner's commitment. A false share is worked around
    while enough true ones are there, and its author is named.

The bulk work is ordered (`NeedSum`); what the sum means is judged by others. A caller that
opens a round again uses a new slot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

from treaty.crypto.canonical import sha256
from treaty.errors import UsageError, VerificationError
from treaty.ids import Digest, SingleEnum
from treaty.protocol.machine import Transitions, advance, expect
from treaty.protocol.secagg_enrolment import (
    ComplaintLogged,
    CoordinatorEpoch,
    Deadline,
    EpochFailed,
    KeysLogged,
    OpenedLogged,
    Publish,
    ReadyLogged,
    RosterLogged,
    RoundLogged,
    SealedLogged,
    SharesLogged,
)
from treaty.protocol.secagg_graph import Graph
from treaty.protocol.secagg_keys import Group, context_of, survivors_digest
from treaty.protocol.secagg_messages import (
    InputDeclined,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    RoundResult,
    Survivor,
    SurvivorsConfirmed,
    SurvivorsSealed,
)
from treaty.protocol.secagg_opening import (
    dropped_pair_seeds,
    rebuild,
    unmask_plan,
)
from treaty.protocol.secagg_pairs import placed_pairs
from treaty.protocol.secagg_round_events import (
    Blame,
    ConfirmationLogged,
    DeclineLogged,
    InputArrived,
    NeedSum,
    RevealLogged,
    SumReady,
    SurvivorsLogged,
)
from treaty.protocol.statements import Verified

__all__ = [
    "TRANSITIONS",
    "Blame",
    "ComplaintLogged",
    "ConfirmationLogged",
    "CoordinatorEpoch",
    "CoordinatorRound",
    "Deadline",
    "DeclineLogged",
    "EpochFailed",
    "InputArrived",
    "KeysLogged",
    "NeedSum",
    "OpenedLogged",
    "Publish",
    "ReadyLogged",
    "RevealLogged",
    "RosterLogged",
    "RoundLogged",
    "RoundPhase",
    "SealedLogged",
    "SharesLogged",
    "SumReady",
    "SurvivorsLogged",
]


class RoundPhase(SingleEnum):
    """Where the coordinator's round stands."""

    COLLECTING = "collecting"
    REVEALING = "revealing"
    SUMMING = "summing"
    PUBLISHED = "published"
    ABANDONED = "abandoned"


Event: TypeAlias = (
    InputArrived
    | DeclineLogged
    | SurvivorsLogged
    | ConfirmationLogged
    | RevealLogged
    | SumReady
    | Deadline
)
Effect: TypeAlias = Publish | NeedSum | Blame

_P = RoundPhase
TRANSITIONS: Transitions[RoundPhase] = MappingProxyType(
    {
        (_P.COLLECTING, InputArrived): frozenset({_P.COLLECTING, _P.ABANDONED}),
        (_P.COLLECTING, DeclineLogged): frozenset({_P.COLLECTING, _P.ABANDONED}),
        (_P.COLLECTING, Deadline): frozenset({_P.COLLECTING, _P.ABANDONED}),
        (_P.COLLECTING, SurvivorsLogged): frozenset({_P.REVEALING}),
        (_P.REVEALING, ConfirmationLogged): frozenset({_P.REVEALING}),
        (_P.REVEALING, RevealLogged): frozenset({_P.REVEALING, _P.SUMMING, _P.ABANDONED}),
        (_P.REVEALING, Deadline): frozenset({_P.SUMMING, _P.ABANDONED}),
        (_P.SUMMING, RevealLogged): frozenset({_P.SUMMING}),
        (_P.SUMMING, ConfirmationLogged): frozenset({_P.SUMMING}),
        (_P.SUMMING, SumReady): frozenset({_P.PUBLISHED, _P.ABANDONED}),
        (_P.SUMMING, Deadline): frozenset({_P.SUMMING}),
        **{
            (phase, late): frozenset({phase})
            for phase in (_P.PUBLISHED, _P.ABANDONED)
            for late in (ConfirmationLogged, RevealLogged, Deadline)
        },
    }
)


@dataclass(frozen=True, slots=True)
class _Seeds:
    self_seeds: Mapping[str, str] = field(repr=False)
    round_seeds: Mapping[str, str] = field(repr=False)
    pair_seeds: Mapping[str, tuple[str, ...]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CoordinatorRound:
    """One round as the coordinator's log tells it. `surplus`: answers may take noise off."""

    epoch: CoordinatorEpoch
    opened: RoundOpened
    context: Digest
    surplus: bool = False
    phase: RoundPhase = RoundPhase.COLLECTING
    inputs: Mapping[str, Verified[MaskedInput]] = field(default_factory=dict)
    declined: frozenset[str] = frozenset()
    sealed: SurvivorsSealed | None = None
    survivors: Digest | None = None
    confirmed: frozenset[str] = frozenset()
    reveals: Mapping[str, Verified[Reveal]] = field(default_factory=dict)
    claimed: bool = False
    liars: frozenset[str] = frozenset()
    seeds: _Seeds | None = field(default=None, repr=False)

    @staticmethod
    def begin(
        epoch: CoordinatorEpoch,
        opened: RoundOpened,
        *,
        surplus: bool = False,
        claimed: bool = False,
    ) -> "CoordinatorRound":
        """Return the round of a logged opening (`CoordinatorEpoch.next_round` makes one)."""
        context = context_of(epoch.group.charter, opened)
        return CoordinatorRound(epoch, opened, context, surplus, claimed=claimed)

    @property
    def group(self) -> Group:
        """Return who counts and how many are needed."""
        return self.epoch.group

    @property
    def graph(self) -> Graph:
        """Return who holds whose shares. Raises `UsageError` before dealing is over."""
        if self.epoch.graph is None:
            raise UsageError("a round needs an epoch whose dealing is over")
        return self.epoch.graph

    @property
    def survivor_names(self) -> tuple[str, ...]:
        """Return the members whose inputs are in the sum, once sealed."""
        return () if self.sealed is None else tuple(one.member for one in self.sealed.survivors)

    @property
    def silent(self) -> frozenset[str]:
        """Return the members whose next message is awaited."""
        if self.phase is RoundPhase.COLLECTING:
            return frozenset(self.opened.participants) - set(self.inputs) - self.declined
        if self.phase is RoundPhase.REVEALING:
            return frozenset(self.survivor_names) - set(self.reveals)
        return frozenset()

    def step(self, event: Event) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        """Return the next state and what to append; a refusal means: do not log the statement.

        Raises `VerificationError`: ``wrong-context``, ``not-a-participant``, ``second-input``,
        ``second-reveal``, ``declined``, ``wrong-shape``, ``survivors-differ``,
        ``reveal-malformed``, ``out-of-order``.
        """
        expect(TRANSITIONS, self.phase, event)
        match event:
            case InputArrived():
                return self._on_input(event)
            case DeclineLogged():
                author = self._author(event.declined, self.opened.participants)
                if author in self.inputs:
                    raise VerificationError(f"{author} sent an input before", code="second-input")
                return replace(self, declined=self.declined | {author})._when_complete(event)
            case SurvivorsLogged():
                return self._on_survivors(event), ()
            case ConfirmationLogged():
                author = self._author(event.confirmed, self.survivor_names)
                self._check_survivors(event.confirmed.predicate.survivors)
                return replace(self, confirmed=self.confirmed | {author}), ()
            case RevealLogged():
                return self._on_reveal(event)
            case SumReady():
                return self._on_sum(event)
            case Deadline():
                return self._on_deadline(event)

    def _on_input(self, event: InputArrived) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        author = self._author(event.header, self.opened.participants)
        before = self.inputs.get(author)
        if before is not None and before.digest != event.header.digest:
            raise VerificationError(f"{author} sent another input before", code="second-input")
        if author in self.declined:
            raise VerificationError(f"{author} declined this round", code="declined")
        if event.header.predicate.length != self.opened.length:
            raise VerificationError(
                f"expected {self.opened.length} words of {author}, "
                f"got {event.header.predicate.length}",
                code="wrong-shape",
            )
        if before is not None:
            return self, ()
        inputs = MappingProxyType({**self.inputs, author: event.header})
        return replace(self, inputs=inputs)._when_complete(event)

    def _on_survivors(self, event: SurvivorsLogged) -> "CoordinatorRound":
        sealed = event.sealed.predicate
        if sealed.context != self.context or sealed != self._sealed():
            raise VerificationError(
                "the survivors are not the members whose inputs are in the log",
                code="survivors-differ",
            )
        digest = survivors_digest(self.context, sealed.survivors, self.group)
        moved = replace(self, sealed=sealed, survivors=digest)
        return moved._move(event, RoundPhase.REVEALING)

    def _on_reveal(self, event: RevealLogged) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        author = self._author(event.reveal, self.survivor_names)
        reveal = event.reveal.predicate
        self._check_survivors(reveal.survivors)
        before = self.reveals.get(author)
        if before is not None:
            if before.digest != event.reveal.digest:
                raise VerificationError(f"{author} answered before", code="second-reveal")
            return self, ()
        held = self.graph.owners(author, self.opened.participants)
        inside = frozenset(self.survivor_names)
        if set(reveal.self_shares) != held & inside or set(reveal.round_shares) != held - inside:
            raise VerificationError(
                f"expected of {author} one share of the right kind of each participant it serves",
                code="reveal-malformed",
            )
        reveals = MappingProxyType({**self.reveals, author: event.reveal})
        kept = replace(self, reveals=reveals)
        # In a large group no small number of answers is enough, and where answers take noise off
        # every one counts: all answer, or time is up.
        early = self._opens_early and len(reveals) >= self.graph.threshold
        if self.phase is RoundPhase.REVEALING and (early or not kept.silent):
            return kept._try_to_open(event)
        return kept, ()

    @property
    def _opens_early(self) -> bool:
        # A claim that is not made is one that the others must explain.
        return self.graph.choices is None and not self.surplus and not self.claimed

    def _try_to_open(self, event: Event) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        """Rebuild and check all seeds; with too many false shares, wait for more answers."""
        answers = {name: one.predicate for name, one in self.reveals.items()}
        own, gone = rebuild(self.graph, self.opened, self.epoch.peers, self.survivor_names, answers)
        liars = (own.liars | gone.liars) - self.liars
        blame: tuple[Effect, ...] = (Blame(liars, "false share"),) if liars else ()
        kept = replace(self, liars=self.liars | liars)
        unopened = own.missing | gone.missing
        if unopened:
            if not kept.silent or isinstance(event, Deadline):
                return kept._abandon(event, RoundCode.SEEDS_DO_NOT_HOLD, unopened, blame)
            return kept, blame
        pairs: dict[str, tuple[str, ...]] = {}
        if self.group.hybrid:
            for name, seed in gone.seeds.items():
                opened = dropped_pair_seeds(
                    self.group,
                    self.opened,
                    self.epoch.ready[name],
                    len(self.graph.partners(name)),
                    seed,
                    self.epoch.wraps[name],
                )
                if opened is None:
                    only = frozenset({name})
                    return kept._abandon(event, RoundCode.SEEDS_DO_NOT_HOLD, only, blame)
                pairs[name] = opened
        seeds = _Seeds(own.seeds, gone.seeds, pairs)
        summing = replace(kept, seeds=seeds)._move(event, RoundPhase.SUMMING)
        return summing, (*blame, summing._need_sum(seeds))

    def _need_sum(self, seeds: _Seeds) -> NeedSum:
        names, slot = self.survivor_names, self.opened.slot
        pairs = {
            name: dict(zip(self.graph.partners(name), keys, strict=True))
            for name, keys in seeds.pair_seeds.items()
        }
        plan = unmask_plan(
            self.group,
            self.opened,
            self.epoch.number,
            names,
            seeds.self_seeds,
            seeds.round_seeds,
            {name: self.epoch.peers[name].round_keys[slot] for name in names},
            pairs,
            graph=self.graph,
        )
        blobs = tuple(Digest(self.inputs[name].predicate.blob) for name in names)
        return NeedSum(names, blobs, self.opened.ring_bits, self.opened.length, plan)

    def _on_sum(self, event: SumReady) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        if event.refused:
            return self._abandon(event, RoundCode.CLAIMS_REFUSED)
        moved = self._move(event, RoundPhase.PUBLISHED)
        if self.seeds is None or self.survivors is None:
            return moved, ()
        pairs, blob = placed_pairs(self.seeds.pair_seeds)
        result = RoundResult(
            charter=self.group.charter,
            author=self.group.coordinator,
            context=self.context,
            survivors=self.survivors,
            sum=event.digest,
            self_seeds=dict(self.seeds.self_seeds),
            round_seeds=dict(self.seeds.round_seeds),
            pair_seeds=pairs,
            pairs=None if blob is None else sha256(blob),
        )
        return moved, (Publish(result, blob),)

    def _on_deadline(self, event: Deadline) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        match self.phase:
            case RoundPhase.COLLECTING:
                if len(self.inputs) >= self.group.min_survivors:
                    return self, (Publish(self._sealed()),)
                return self._abandon(event, RoundCode.TOO_FEW_INPUTS)
            case RoundPhase.REVEALING:
                threshold = self.group.share_threshold
                fast = self.graph.fast_survivors(
                    len(self.opened.participants), surplus=self.surplus
                )
                answered = self.graph.opens(frozenset(self.reveals), self.opened.participants)
                if answered and not self._opens_early:
                    return self._try_to_open(event)
                if answered:
                    code = RoundCode.SEEDS_DO_NOT_HOLD
                elif len(self.survivor_names) < fast and len(self.confirmed) < threshold:
                    code = RoundCode.TOO_FEW_CONFIRMATIONS
                else:
                    code = RoundCode.TOO_FEW_REVEALS
                return self._abandon(event, code)
            case _:
                return self, ()

    def _when_complete(self, event: Event) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        """Seal as soon as nobody is awaited; abandon as soon as too few can come."""
        if len(self.opened.participants) - len(self.declined) < self.group.min_survivors:
            return self._abandon(event, RoundCode.TOO_FEW_INPUTS)
        if not self.silent:
            return self, (Publish(self._sealed()),)
        return self, ()

    def _abandon(
        self,
        event: Event,
        code: RoundCode,
        owners: frozenset[str] = frozenset(),
        before: tuple[Effect, ...] = (),
    ) -> tuple["CoordinatorRound", tuple[Effect, ...]]:
        abandoned = RoundAbandoned(
            charter=self.group.charter,
            author=self.group.coordinator,
            context=self.context,
            code=code,
        )
        blame: tuple[Effect, ...] = (Blame(owners, "seed does not hold"),) if owners else ()
        moved = self._move(event, RoundPhase.ABANDONED)
        return moved, (*before, *blame, Publish(abandoned))

    def _author(
        self,
        statement: Verified[MaskedInput]
        | Verified[InputDeclined]
        | Verified[SurvivorsConfirmed]
        | Verified[Reveal],
        allowed: tuple[str, ...],
    ) -> str:
        author = str(statement.author)
        if statement.predicate.context != self.context:
            raise VerificationError(
                f"the statement of {author} is of another round", code="wrong-context"
            )
        if author not in allowed:
            raise VerificationError(f"{author} does not take part", code="not-a-participant")
        return author

    def _check_survivors(self, digest: str) -> None:
        if digest != self.survivors:
            raise VerificationError(
                "the statement is about another set of survivors", code="survivors-differ"
            )

    def _sealed(self) -> SurvivorsSealed:
        return SurvivorsSealed(
            charter=self.group.charter,
            author=self.group.coordinator,
            context=self.context,
            survivors=tuple(
                Survivor(
                    member=name,
                    header=self.inputs[name].digest,
                    root=self.inputs[name].predicate.root,
                )
                for name in self.opened.participants
                if name in self.inputs
            ),
        )

    def _move(self, event: object, following: RoundPhase) -> "CoordinatorRound":
        return replace(self, phase=advance(TRANSITIONS, self.phase, event, following))
