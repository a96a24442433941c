"""T-48: a two-faced coordinator and surplus noise: what an opened sum still carries, counted out.

The model of `test_two_faced` with the noise that each honest member retains: of k survivors it was
shown, 1 / (k - c) of the variance when it answered, all of its share when it did not. Whatever the
coordinator shows to whom, and whatever it asks again in other slots of the same release, a sum that
it can bare carries at least the whole variance. When the machine answers at once and when it first
confirms is tested in tests/unit/protocol/test_surplus.py.

Planted and caught: answers at once wherever exact sums have them (`fast_survivors` without
`surplus`); at once where two may be missing; shares of variance / k; in the model, keys opened in
one slot for one set and in another for another.
"""

from collections.abc import Iterable
from fractions import Fraction
from itertools import product
from random import Random

import pytest

from tests.adversarial.test_two_faced import (
    NOBODY,
    Set,
    Slot,
    View,
    Views,
    options,
    subsets,
)
from tests.unit.protocol.secagg_rig import group_of
from treaty.privacy.surplus import tiers_for
from treaty.protocol.secagg_keys import Group

VARIANCE = 1 << 60


def retained(group: Group, survivors: int | None, limit: int = 4) -> Fraction:
    """Return what a member retains that answered for so many, None for one that did not answer."""
    tiers = tiers_for(VARIANCE, group.cohort, limit)
    least = group.min_survivors
    return Fraction(tiers.retained_for(least if survivors is None else survivors), VARIANCE)


def left(group: Group, inside: Set, opened: dict[int, Set]) -> Fraction:
    """Return the noise of the honest members `inside` a sum, of those `opened` what is left."""
    return sum(
        (retained(group, len(opened[name]) if name in opened else None) for name in inside),
        start=Fraction(0),
    )


def check_noise(slot: Slot, views: Views) -> Fraction | None:
    """Check one behaviour in one slot; return the noise of the bare sum, if there is one."""
    _, sums = slot.bare(views)
    for inside in sums:
        found = left(slot.group, inside, slot.answers(views))
        assert found >= 1, (views, inside)
        return found
    return None


@pytest.mark.parametrize(("size", "colluders"), [(3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (5, 3)])
def test_no_behaviour_leaves_less_than_the_whole_noise(size: int, colluders: int) -> None:
    """Every choice of participants and every set for every honest member, one context."""
    group = group_of(size, colluders)
    found = set()
    for participants in subsets(range(size), group.min_survivors):
        slot = Slot(group, (participants,), surplus=True)
        for shown in product(*(options(slot, name, 1) for name in slot.honest)):
            found.add(check_noise(slot, dict(zip(slot.honest, shown, strict=True))))
    # It is reached: less could not be promised to come off. (Parts are rounded up.)
    assert 1 <= min(one for one in found if one is not None) < 1 + Fraction(1, 1 << 40)


@pytest.mark.parametrize(("size", "colluders"), [(3, 1), (4, 1), (5, 2)])
def test_nor_do_two_contexts_in_one_slot(size: int, colluders: int) -> None:
    """Some members are shown one round, some another, in the same slot."""
    group = group_of(size, colluders)
    everybody = frozenset(range(size))
    for second in subsets(range(size), group.min_survivors):
        slot = Slot(group, (everybody, second), surplus=True)
        for shown in product(*(options(slot, name, 2) for name in slot.honest)):
            check_noise(slot, dict(zip(slot.honest, shown, strict=True)))


def sampled(size: int, colluders: int, count: int, *, surplus: bool) -> list[tuple[Slot, Views]]:
    """Return mixtures of few sets, which come nearest to a threshold."""
    group = group_of(size, colluders)
    draw = Random(size * 100 + colluders)
    drawn = []
    for _ in range(count):
        everybody = frozenset(range(size))
        some = list(subsets(range(size), group.min_survivors))
        participants = everybody if draw.random() < 0.7 else draw.choice(some)
        slot = Slot(group, (participants,), surplus=surplus)
        pool = [View(0, one) for one in subsets(participants, group.min_survivors)]
        few = draw.sample(pool, min(len(pool), draw.choice((1, 2, 3, 6))))
        views: dict[int, View | None] = {}
        for name in slot.honest:
            fitting: list[View | None] = [one for one in few if name in one.survivors]
            views[name] = draw.choice(
                fitting if fitting and draw.random() < 0.93 else [None, View(0, NOBODY)]
            )
        drawn.append((slot, views))
    return drawn


@pytest.mark.parametrize(("size", "colluders"), [(6, 1), (6, 2), (7, 1), (7, 2)])
def test_nor_do_sampled_behaviours_of_larger_groups(size: int, colluders: int) -> None:
    found = [check_noise(*one) for one in sampled(size, colluders, 6_000, surplus=True)]
    assert sum(one is not None for one in found) > 50


def test_answers_at_once_would_leave_too_little() -> None:
    """Why members confirm first: six members, one of them lost to three of the others only."""
    group = group_of(6)
    everybody, without = frozenset(range(6)), frozenset({0, 1, 2, 3, 5})
    views = {name: View(0, without) for name in (0, 1, 2)}
    views |= {3: View(0, everybody), 4: View(0, NOBODY)}
    # 3 believes that 4 sent an input too; 4 was never asked.
    for surplus, fourth in ((False, retained(group, 6)), (True, retained(group, None))):
        slot = Slot(group, (everybody,), surplus=surplus)
        _, sums = slot.bare(views)
        assert sums == [frozenset({0, 1, 2, 3})]
        found = left(group, sums[0], slot.answers(views))
        assert found == 3 * retained(group, 5) + fourth
        assert found >= 1 if surplus else found < Fraction(96, 100)


# --- over all slots of one release --------------------------------------------------------------


def answered(
    group: Group, sets: dict[int, Set | None], participants: Set, asked: Set
) -> tuple[Slot, dict[int, Set], dict[int, View | None]]:
    """Return who answers in one slot: those `asked` whose one set lies within the participants.

    Everybody among the participants who is bound to nothing beyond them sends an input.
    """
    slot = Slot(group, (participants,), surplus=True)
    views: dict[int, View | None] = {}
    for name, bound in sets.items():
        if name not in participants or (bound is not None and not bound <= participants):
            views[name] = None
        elif bound is None or name not in asked:
            views[name] = View(0, NOBODY)
        else:
            views[name] = View(0, bound)
    return slot, slot.answers(views), views


def check_release(group: Group, sets: dict[int, Set | None], asks: Iterable[Set]) -> int:
    """Check all slots of a release whose honest members are bound to `sets`; count bare sums."""
    size = len(group.members)
    everyone = frozenset(sets)
    rounds = list(subsets(range(size), group.min_survivors))
    # Keys opened in any slot are known in all.
    opened: dict[int, Set] = {}
    for participants in rounds:
        opened |= answered(group, sets, participants, everyone)[1]
    count = 0
    for participants in rounds:
        for asked in asks:
            slot, _, views = answered(group, sets, participants, asked)
            for inside in slot.bare(views)[1]:
                assert left(group, inside, opened) >= 1, (sets, participants, asked)
                count += 1
    return count


@pytest.mark.parametrize(("size", "colluders"), [(3, 1), (4, 1), (4, 2), (5, 2)])
def test_a_release_over_all_its_slots_leaves_the_whole_noise(size: int, colluders: int) -> None:
    """Every set for every honest member, every choice of participants, every subset asked."""
    group = group_of(size, colluders)
    honest = range(size - colluders)
    asks = list(subsets(honest, 0))
    every = list(subsets(range(size), group.min_survivors))
    choices = [[None, *(one for one in every if name in one)] for name in honest]
    found = sum(
        check_release(group, dict(zip(honest, sets, strict=True)), asks)
        for sets in product(*choices)
    )
    assert found > 0


@pytest.mark.parametrize(("size", "colluders"), [(5, 1), (6, 1), (6, 2), (7, 1), (7, 2)])
def test_a_release_of_a_larger_group_leaves_the_whole_noise(size: int, colluders: int) -> None:
    """Sampled, few different sets; fast answers in one slot, confirmed ones in another."""
    group = group_of(size, colluders)
    honest = range(size - colluders)
    every = list(subsets(range(size), group.min_survivors))
    draw = Random(size * 7 + colluders)
    found = 0
    for _ in range(60 if size > 5 else 200):
        few = draw.sample(every, draw.choice((1, 2, 3)))
        sets: dict[int, Set | None] = {}
        for name in honest:
            fitting: list[Set | None] = [one for one in few if name in one]
            sets[name] = draw.choice(fitting or [None])
        asks = [frozenset(honest), *draw.sample(list(subsets(honest, group.min_honest)), 3)]
        found += check_release(group, sets, asks)
    assert found > 0
