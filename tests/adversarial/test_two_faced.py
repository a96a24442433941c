"""T-02, T-03, T-06, T-08: what a coordinator with two faces can collect, and what it opens.

The coordinator shows every honest member whatever round and whatever survivors it likes, takes what
they answer, and adds everything that c colluding members know. From shares alone the model below
says which seeds it can rebuild, and from those which sums it can bare. Never both seeds of one
member; never a bare sum with fewer than `min_honest` honest inputs; never two different bare sums
of one question.

* Exhaustive for n = 3, 4, 5 with c = 1: all participants, two contexts in one slot, all survivors,
  silence, confirmations; and for n = 4 two slots for one question.
* Sampled, seeded, for n = 6, 7 with c = 1, 2, and for two slots with n = 5, 6.
* The model's honest member is compared with the machine for every set, and its arithmetic with
  seeds rebuilt from real shares.

A mask of two members is gone only when one of their round seeds is known or when both inputs are
in the sum, and an input is bare only when its self seed is known. So the members whose round seeds
stay closed are either all in the sum, or there is no sum.

Planted faults that these tests caught: u_fast one lower; the share threshold one lower; an answer
below u_fast without confirmations; one confirmation too few; an answer for a set without the member
itself; an answer for fewer than `min_survivors`; round shares of survivors in an answer.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations, product
from random import Random

import msgspec
import pytest

from tests.unit.protocol.secagg_rig import (
    Round,
    dealt,
    expected_of,
    group_of,
    open_round,
    ready,
    send_inputs,
    verified,
)
from treaty.crypto import canonical, shamir
from treaty.errors import PolicyError, VerificationError
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_effects import Persist
from treaty.protocol.secagg_keys import Group, SlotSecrets
from treaty.protocol.secagg_lifecycle import SlotPhase
from treaty.protocol.secagg_member import ConfirmationLogged, InputLogged, SurvivorsAnnounced
from treaty.protocol.secagg_opening import holds_round_seed, holds_self_seed

Set = frozenset[int]
NOBODY: Set = frozenset()
Views = Mapping[int, "View | None"]


@dataclass(frozen=True)
class View:
    """What one honest member was shown: the context it sent its input in, and the survivors.

    No survivors: it sent its input and was never asked to answer.
    """

    context: int
    survivors: Set


@dataclass(frozen=True)
class Slot:
    """One slot of a group whose last `c` members collude; `participants` are those of each context.

    An honest member sends one input in a slot, so it is in one context or in none. With `surplus`
    answers open keys of noise (`test_two_faced_noise`).
    """

    group: Group
    participants: tuple[Set, ...]
    surplus: bool = False

    @property
    def colluders(self) -> Set:
        """The last c members."""
        size = len(self.group.members)
        return frozenset(range(size - self.group.max_colluders, size))

    @property
    def honest(self) -> tuple[int, ...]:
        """Everybody else."""
        return tuple(range(len(self.group.members) - self.group.max_colluders))

    def answers(self, views: Views) -> dict[int, Set]:
        """Return whose answer for which set the coordinator gets, at most.

        At `u_fast` or above at once; below, when `share_threshold` survivors confirm the same set
        of the same context, the colluders among them. Delivering fewer messages gives it less.
        """
        given: dict[int, Set] = {}
        for name, view in views.items():
            if view is None or not self.accepts(name, view, views):
                continue
            taking = len(self.participants[view.context])
            fast = self.group.fast_survivors(taking, surplus=self.surplus)
            confirmed = sum(1 for other in self.honest if views.get(other) == view)
            helpers = len(self.colluders & view.survivors)
            if len(view.survivors) >= fast or confirmed + helpers >= self.group.share_threshold:
                given[name] = view.survivors
        return given

    def accepts(self, name: int, view: View, views: Views) -> bool:
        """Say whether the member takes the set: itself in it, headers of one context, enough."""
        senders = {
            other for other, shown in views.items() if shown and shown.context == view.context
        } | self.colluders
        return (
            name in view.survivors
            and view.survivors <= senders & self.participants[view.context]
            and len(view.survivors) >= self.group.min_survivors
        )

    def opened(self, answers: Mapping[int, Set], participants: Mapping[int, Set]) -> "Opened":
        """Return the honest members whose seeds can be rebuilt.

        An answer holds the self share of each survivor and the round share of every other
        participant of its context; the colluders hold a share of everything.
        """
        own = dict.fromkeys(self.honest, 0)
        gone = dict.fromkeys(self.honest, 0)
        for name, survivors in answers.items():
            for owner in self.honest:
                if owner in survivors:
                    own[owner] += 1
                elif owner in participants[name]:
                    gone[owner] += 1
        needed = self.group.share_threshold - self.group.max_colluders
        return Opened(
            frozenset(owner for owner, count in own.items() if count >= needed),
            frozenset(owner for owner, count in gone.items() if count >= needed),
        )

    def bare(self, views: Views) -> tuple["Opened", list[Set]]:
        """Return the open seeds, and for each context the honest inputs of its bare sum."""
        asked = {name: self.participants[view.context] for name, view in views.items() if view}
        opened = self.opened(self.answers(views), asked)
        sums = []
        for context, participants in enumerate(self.participants):
            # A mask stays on an input of this context for each partner whose round seed is closed,
            # unless the partner's own input of this context is in the sum too.
            closed = frozenset(self.honest) & participants - opened.round_seeds
            sent = {name for name, view in views.items() if view and view.context == context}
            if closed and closed <= opened.self_seeds & sent:
                sums.append(closed)
        return opened, sums


@dataclass(frozen=True)
class Opened:
    """The honest members of whom the self seed, or the round seed, can be rebuilt."""

    self_seeds: Set
    round_seeds: Set


def subsets(of: Iterable[int], least: int) -> Iterator[Set]:
    """Return the subsets with at least `least` members."""
    items = tuple(of)
    sizes = range(least, len(items) + 1)
    return map(frozenset, chain.from_iterable(combinations(items, size) for size in sizes))


def options(slot: Slot, name: int, contexts: int) -> list["View | None"]:
    """Return everything that a member may be shown that it would not refuse outright."""
    shown: list[View | None] = [None]
    for context in range(contexts):
        if name in slot.participants[context]:
            sets = subsets(slot.participants[context], slot.group.min_survivors)
            shown += [View(context, NOBODY)]
            shown += [View(context, one) for one in sets if name in one]
    return shown


def check(slot: Slot, views: Views) -> int | None:
    """Check one behaviour; return the size of the bare sum, if there is one."""
    opened, sums = slot.bare(views)
    assert not opened.self_seeds & opened.round_seeds
    assert len(sums) <= 1
    for inside in sums:
        assert len(inside) >= slot.group.min_honest
    return len(sums[0]) if sums else None


@pytest.mark.parametrize("size", [3, 4, 5])
def test_no_behaviour_opens_both_seeds_or_a_small_sum(size: int) -> None:
    """Every choice of participants and every set for every honest member, one context."""
    group = group_of(size)
    found = set()
    for participants in subsets(range(size), group.min_survivors):
        slot = Slot(group, (participants,))
        for shown in product(*(options(slot, name, 1) for name in slot.honest)):
            found.add(check(slot, dict(zip(slot.honest, shown, strict=True))))
    # The bound is reached, so the promise is not stated more strongly than it holds.
    assert min(one for one in found if one is not None) == group.min_honest


@pytest.mark.parametrize("size", [3, 4, 5])
def test_two_contexts_in_one_slot_open_one_sum_at_most(size: int) -> None:
    """Some members are shown one round, some another, in the same slot."""
    group = group_of(size)
    everybody = frozenset(range(size))
    for second in subsets(range(size), group.min_survivors):
        slot = Slot(group, (everybody, second))
        for shown in product(*(options(slot, name, 2) for name in slot.honest)):
            check(slot, dict(zip(slot.honest, shown, strict=True)))


@pytest.mark.parametrize(("size", "colluders"), [(6, 1), (6, 2), (7, 1), (7, 2)])
def test_sampled_behaviours_of_larger_groups(size: int, colluders: int) -> None:
    """Mixtures of few sets, which come nearest to a threshold, and of any."""
    group = group_of(size, colluders)
    draw = Random(size * 10 + colluders)
    found = set()
    for _ in range(12_000):
        least = group.min_survivors
        participants = draw.choice(
            list(subsets(range(size), least)) if draw.random() < 0.3 else [frozenset(range(size))]
        )
        second = draw.choice([participants, frozenset(range(size))])
        slot = Slot(group, (participants, second))
        contexts = 1 if draw.random() < 0.7 else 2
        pool = [
            View(context, one)
            for context in range(contexts)
            for one in subsets(slot.participants[context], least)
        ]
        few = draw.sample(pool, min(len(pool), draw.choice((1, 2, 3, 6, 99))))
        views = {}
        for name in slot.honest:
            fitting: list[View | None] = [one for one in few if name in one.survivors]
            views[name] = draw.choice(
                fitting if fitting and draw.random() < 0.93 else [None, View(0, NOBODY)]
            )
        found.add(check(slot, views))
    smallest = min(one for one in found if one is not None)
    assert smallest >= group.min_honest
    assert None in found


def locked_slots(slot: Slot, views: Views, asked: Iterable[Set]) -> set[Set]:
    """Return the bare sums of several slots for one question.

    A member answers each time it is asked, for its one set: the lock.
    """
    sums = set()
    for who in asked:
        # All send their inputs in each slot; only the members in `who` are asked to answer.
        given = {n: one for n, one in slot.answers(views).items() if n in who}
        opened = slot.opened(given, dict.fromkeys(given, slot.participants[0]))
        assert not opened.self_seeds & opened.round_seeds
        closed = frozenset(slot.honest) - opened.round_seeds
        if closed and closed <= opened.self_seeds:
            sums.add(closed)
    return sums


def test_one_question_in_many_slots_opens_one_sum() -> None:
    """Exhaustive for four members: every set for each, every subset asked in each slot."""
    group = group_of(4)
    slot = Slot(group, (frozenset(range(4)),))
    asks = list(subsets(slot.honest, 0))
    for shown in product(*(options(slot, name, 1) for name in slot.honest)):
        sums = locked_slots(slot, dict(zip(slot.honest, shown, strict=True)), asks)
        assert len(sums) <= 1


@pytest.mark.parametrize(("size", "colluders"), [(5, 1), (6, 1), (7, 2)])
def test_one_question_in_many_slots_opens_one_sum_in_larger_groups(
    size: int, colluders: int
) -> None:
    group = group_of(size, colluders)
    slot = Slot(group, (frozenset(range(size)),))
    asks = list(subsets(slot.honest, 0))
    draw = Random(size)
    choices = {name: options(slot, name, 1) for name in slot.honest}
    opened = 0
    for _ in range(600):
        few = draw.sample(choices[0], min(3, len(choices[0])))
        views = {}
        for name in slot.honest:
            fitting = [one for one in few if one and name in one.survivors]
            views[name] = draw.choice(fitting or choices[name])
        sums = locked_slots(slot, views, asks)
        assert len(sums) <= 1
        opened += len(sums)
    assert opened


# --- the model's honest member is the machine --------------------------------------------------


@cache
def sent_round(size: int, colluders: int) -> Round:
    """A round to which everybody has sent an input, with every header shown to everybody."""
    turn = send_inputs(open_round(ready(dealt(group_of(size, colluders), slots=1)), expected_of(2)))
    for name in turn.opened.predicate.participants:
        for header in turn.headers.values():
            turn.node(name).on_slot(InputLogged(header))
    return turn


def announcement(turn: Round, survivors: Set) -> messages.SurvivorsSealed:
    names = [turn.federation.group.members[place] for place in sorted(survivors)]
    return messages.SurvivorsSealed(
        charter=turn.federation.group.charter,
        author="hub",
        context=turn.hub.context,
        survivors=tuple(
            messages.Survivor(
                member=name,
                header=turn.headers[name].digest,
                root=turn.headers[name].predicate.root,
            )
            for name in names
        ),
    )


def reaction(turn: Round, name: int, survivors: Set) -> SlotPhase | None:
    """Return where one set leads the machine, None for a refusal. The machine stays as it was."""
    node = turn.node(turn.federation.group.members[name])
    assert node.slot is not None
    event = SurvivorsAnnounced(verified(announcement(turn, survivors)), node.slot_secret)
    try:
        moved, _ = node.slot.step(event)
    except (PolicyError, VerificationError):
        return None
    return moved.phase


@pytest.mark.parametrize(("size", "colluders"), [(3, 1), (4, 1), (5, 1), (6, 1), (6, 2), (7, 2)])
def test_the_machine_decides_about_every_set_as_the_model_does(size: int, colluders: int) -> None:
    turn = sent_round(size, colluders)
    group = turn.federation.group
    everybody = frozenset(range(size))
    slot = Slot(group, (everybody,))
    fast = group.fast_survivors(size)
    shown: Views = dict.fromkeys(range(size), View(0, everybody))
    for name, survivors in product(slot.honest, subsets(range(size), 0)):
        expected = None
        if slot.accepts(name, View(0, survivors), shown):
            expected = (
                SlotPhase.ANSWER_PERSISTING
                if len(survivors) >= fast
                else SlotPhase.CONFIRM_PERSISTING
            )
        assert reaction(turn, name, survivors) is expected


def collected(turn: Round, views: Views) -> dict[str, messages.Reveal]:
    """Let the machines, not the model, answer; colluders confirm whatever is asked."""
    group = turn.federation.group
    slot = Slot(group, (frozenset(range(len(group.members))),))
    given: dict[str, messages.Reveal] = {}
    confirmations: dict[Set, list[messages.SurvivorsConfirmed]] = {}
    waiting = []
    for place, view in views.items():
        if not view or not view.survivors:
            continue
        name = group.members[place]
        node = turn.node(name)
        assert node.slot is not None
        secret = node.slot_secret
        sealed = verified(announcement(turn, view.survivors))
        moved, effects = node.slot.step(SurvivorsAnnounced(sealed, secret))
        assert [type(effect) for effect in effects] == [Persist]
        if moved.state.reveal is not None:
            given[name] = moved.state.reveal
            continue
        assert moved.state.confirmation is not None
        confirmations.setdefault(view.survivors, []).append(moved.state.confirmation)
        # As after `Persisted`: the machine may take confirmations now.
        state = msgspec.structs.replace(moved.state, phase=SlotPhase.CONFIRMED)
        waiting.append((name, view, type(moved)(moved.epoch, state), secret))
    for name, view, machine, secret in waiting:
        heard = list(confirmations[view.survivors])
        heard += [
            msgspec.structs.replace(heard[0], author=group.members[place])
            for place in sorted(slot.colluders & view.survivors)
        ]
        for one in heard:
            if machine.phase is SlotPhase.CONFIRMED:
                machine, _ = machine.step(ConfirmationLogged(verified(one), secret))
        if machine.state.reveal is not None:
            given[name] = machine.state.reveal
    return given


def rebuilt(turn: Round, given: Mapping[str, messages.Reveal]) -> Opened:
    """Rebuild every seed that the collected and the colluders' shares give."""
    group = turn.federation.group
    slot = Slot(group, (frozenset(range(len(group.members))),))
    known = []
    for place in slot.colluders:
        secret = turn.node(group.members[place]).slot_secret
        assert secret is not None
        own = canonical.decode(secret, SlotSecrets)
        known.append((group.members[place], own.self_shares, own.round_shares))
    for name, reveal in given.items():
        known.append((name, reveal.self_shares, reveal.round_shares))
    found: tuple[set[int], set[int]] = (set(), set())
    peers = turn.federation.hub.peers
    for place in slot.honest:
        owner = group.members[place]
        for kind, holds in ((0, holds_self_seed), (1, holds_round_seed)):
            shares = {
                group.index(name): int(tables[kind][owner], 16)
                for name, *tables in known
                if owner in tables[kind]
            }
            if len(shares) < group.share_threshold:
                continue
            some = dict(list(shares.items())[: group.share_threshold])
            assert holds(group, peers[owner], owner, 0, shamir.combine(some))
            found[kind].add(place)
    return Opened(frozenset(found[0]), frozenset(found[1]))


@pytest.mark.parametrize(("size", "colluders"), [(4, 1), (5, 1), (6, 1), (7, 2)])
def test_real_shares_open_what_the_model_says_and_no_more(size: int, colluders: int) -> None:
    turn = sent_round(size, colluders)
    group = turn.federation.group
    slot = Slot(group, (frozenset(range(size)),))
    draw = Random(size)
    kinds = set()
    for _ in range(40):
        choices = options(slot, 0, 1)
        few = draw.sample(choices, min(3, len(choices)))
        views: dict[int, View | None] = {}
        for name in slot.honest:
            fitting = [one for one in few if one and name in one.survivors]
            # Everybody has sent its input in this round; some are not asked.
            views[name] = draw.choice(fitting or options(slot, name, 1)) or View(0, NOBODY)
        answers = slot.answers(views)
        given = collected(turn, views)
        assert set(given) == {group.members[name] for name in answers}
        everyone = dict.fromkeys(answers, slot.participants[0])
        opened = slot.opened(answers, everyone)
        assert rebuilt(turn, given) == opened
        kinds.add((bool(opened.self_seeds), bool(opened.round_seeds)))
    assert (True, False) in kinds
