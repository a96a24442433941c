"""What a party holds in memory of rounds and studies that are over: figures, no statements.

Counted is what can be reached from the folded log, not megabytes.

Planted and caught: a round that is kept with its statements; a study that is over and keeps its
epoch, completed or halted; an epoch that is kept in the next one; a statement that keeps the bytes
it was read from; a record that keeps, with each round, those of all rounds before.
"""

import gc
import types
from collections import Counter
from itertools import pairwise

from tests.worlds import World, small_plan
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import HaltCode, StudyHalted
from treaty.protocol.secagg_messages import EpochClosed
from treaty.protocol.secure_round import EpochRecord, RoundRecord
from treaty.protocol.statements import Verified

OBJECTS_A_ROUND = 10
"""The round's record, its digests and numbers, and a line of the trace; who was in is the group."""
REFERENCES_A_ROUND = 27
"""From and to them."""

CODE = (type, types.ModuleType, types.FunctionType, types.CodeType, types.BuiltinFunctionType)
ENTRY_BYTES = 200
"""A key or a digest has fewer, an entry of the log has more."""


def held(state: Consortium) -> list[object]:
    """Return every object that can be reached from `state`, each once."""
    found: list[object] = []
    seen: set[int] = set()
    rest: list[object] = [state]
    while rest:
        one = rest.pop()
        if id(one) in seen or isinstance(one, CODE):
            continue
        seen.add(id(one))
        found.append(one)
        rest += gc.get_referents(one)
    return found


def kinds(state: Consortium) -> Counter[type]:
    """Return how many of each type can be reached from `state`."""
    return Counter(type(one) for one in held(state))


def running() -> World:
    """Return a world whose study runs in its first epoch."""
    world = World(5)
    world.start()
    world.open_epoch()
    return world


def test_a_round_that_is_over_leaves_none_of_its_statements() -> None:
    """They stand in the log; the folded log has their figures."""
    world = running()
    before = kinds(world.state)
    for number in range(1, 4):
        world.run_round()
        after = kinds(world.state)
        assert after[Verified] == before[Verified]
        assert (after[RoundRecord], after[ClosedRound]) == (0, number)
    world.open_round()
    assert kinds(world.state)[Verified] == before[Verified] + 1


def test_every_round_adds_the_same_few_objects() -> None:
    """However many there were before it: memory grows with their number, by little."""
    world = running()
    sizes = []
    while not world.study.progress.finished:
        world.run_round()
        found = held(world.state)
        sizes.append((len(found), len(gc.get_referents(*found))))
    # The first two sums are others: support and statistics. The last ones end the training, and
    # evaluate it.
    grown = [(a[0] - b[0], a[1] - b[1]) for b, a in pairwise(sizes[2:-2])]
    assert len(grown) >= 2
    assert set(grown) == {(OBJECTS_A_ROUND, REFERENCES_A_ROUND)}


def test_an_epoch_is_not_kept_beside_the_next_one() -> None:
    """It holds the keys of every member for each of its rounds."""
    world = running()
    world.run_round()
    before = kinds(world.state)
    for _ in range(2):
        epoch = world.study.epoch
        assert epoch is not None
        world.say(EpochClosed, epoch=epoch.number, code="exhausted")
        world.open_epoch()
        world.run_round()
        after = kinds(world.state)
        assert (after[EpochRecord], after[Verified]) == (1, before[Verified])


def test_a_study_that_is_completed_keeps_no_keys() -> None:
    """The parties of a consortium hold all its studies."""
    world = World(5)
    before = kinds(world.state)[Verified]
    for number, name in enumerate(("first", "second", "third"), 1):
        world.start(small_plan(world.state.charter, world.contract, study=name))
        world.run_study()
        world.complete()
        after = kinds(world.state)
        # Of each study one small statement: the opening of its last epoch.
        assert (after[EpochRecord], after[Verified]) == (number, before + number)


def test_a_study_that_is_halted_keeps_neither_keys_nor_round() -> None:
    """What was answered in its open round is kept as the figures of an abandoned one."""
    world = running()
    world.run_round()
    world.open_round()
    world.collect()
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.NOT_CONVERGED)
    after = kinds(world.state)
    assert (after[EpochRecord], after[RoundRecord], after[Verified]) == (1, 0, 1)
    assert after[ClosedRound] == 2


def test_no_statement_is_held_as_the_bytes_it_was_read_from() -> None:
    """A member would hold an open round and its epoch twice."""
    world = running()
    world.open_round()
    world.collect()
    entries = {
        one for one in held(world.state) if isinstance(one, bytes) and len(one) > ENTRY_BYTES
    }
    assert kinds(world.state)[Verified] > 20
    assert entries == set()
