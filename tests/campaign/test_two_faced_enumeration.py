"""T-02, T-03, T-08, T-18: all that a two-faced coordinator can collect from six, seven members.

`tests/adversarial/test_two_faced.py` has the model and enumerates three to five members. Here the
same rules are written a second time, over whole arrays of behaviours at once: every honest member
is shown any context and any set of survivors that it would not refuse outright, or is never asked,
or sends nothing; fast answers and confirmed answers mix. Rows are compared with that model.

| members | c | contexts in the slot | ``ci`` | ``full`` |
|---|---|---|---|---|
| 6 | 1, 2 | 1, every set of participants | complete | complete |
| 7 | 2 | 1 | complete, everybody takes part | complete, every set of participants |
| 7 | 1 | 1 | 20 million of 191 million | complete, everybody takes part |
| 6 | 2 | 2, every second set | complete | complete |
| 6 | 1 | 2 | 10 million of 52 million, everybody in both | complete, every second set |
| 7 | 1, 2 | 2, everybody in both | 4 million each | 100 million each, seeded |

Sets of participants are taken up to permutations of the honest members and of the colluders.

Never both seeds of one member; never two bare sums in a slot; never a bare sum under `min_honest`
honest inputs; and the bound is reached where the enumeration is complete, so it is not stated more
strongly than it holds. ``full`` stores the counts in `results/two_faced.json`.

Planted faults that this campaign caught: u_fast one lower; one share less for a seed; an answer
below u_fast without confirmations; and, by comparison with the model: one confirmation too few; an
answer for headers that are not of its context.
"""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.adversarial.test_two_faced import NOBODY, Slot, View, options, subsets
from tests.unit.protocol.secagg_rig import group_of
from treaty.protocol.secagg_keys import Group

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
RESULTS = Path(__file__).parent / "results" / "two_faced.json"
SEED = 20_261_129

Ints = NDArray[np.int16]
Flags = NDArray[np.bool_]


@dataclass
class Found:
    """What an enumeration saw."""

    behaviours: int = 0
    bare: int = 0
    smallest: int = 99
    rows: list[dict[str, object]] = field(default_factory=list)


def mask(names: frozenset[int]) -> int:
    """Return a set of members as bits."""
    return sum(1 << name for name in names)


class Enumerator:
    """All behaviours of one slot: `shown[m]` are the (context, set) codes of honest member m.

    A code is (context, bits); context -1 is a member that sends nothing; no bits, one not asked.
    """

    def __init__(self, group: Group, participants: tuple[frozenset[int], ...]) -> None:
        self.slot = Slot(group, participants)
        self.group, self.honest = group, self.slot.honest
        self.colluders = mask(self.slot.colluders)
        self.taking = np.array([mask(one) for one in participants] + [0], np.int16)
        self.fast = np.array([group.fast_survivors(len(one)) for one in participants] + [99])
        count = 1 << len(group.members)
        self.size = np.array([bits.bit_count() for bits in range(count)], np.int8)
        self.helpers = self.size[np.arange(count) & self.colluders]
        self.codes = []
        for name in self.honest:
            views = options(self.slot, name, len(participants))
            self.codes.append(
                [(-1, 0) if one is None else (one.context, mask(one.survivors)) for one in views]
            )

    def blocks(self, inner: int, sample: int | None, draw: random.Random) -> Iterator[list[Ints]]:
        """Return arrays of behaviours: the last `inner` members vary within a block.

        With `sample`, so many behaviours in whole blocks whose outer members are drawn.
        """
        outer, inside = self.codes[:-inner], self.codes[-inner:]
        grids = np.meshgrid(*(np.arange(len(one)) for one in inside), indexing="ij")
        fixed = [
            np.array(one, np.int16)[grid.ravel()] for one, grid in zip(inside, grids, strict=True)
        ]
        width = len(fixed[0])
        if sample is None:
            choices: Iterator[tuple[tuple[int, int], ...]] = product(*outer)
        else:
            turns = -(-sample // width)
            choices = (tuple(draw.choice(one) for one in outer) for _ in range(turns))
        for chosen in choices:
            yield [np.broadcast_to(np.array(one, np.int16), (width, 2)) for one in chosen] + fixed

    def judge(self, shown: list[Ints]) -> tuple[Flags, Flags, list[Flags], list[Ints]]:
        """Return self and round seeds that open, and for each context: bare or not, its size."""
        group, honest = self.group, self.honest
        contexts = len(self.taking) - 1
        asked = [one[:, 1] for one in shown]
        where = [one[:, 0] for one in shown]
        senders = []
        for context in range(contexts):
            sent = np.full(len(asked[0]), self.colluders, np.int16)
            for name in honest:
                sent |= np.where(where[name] == context, 1 << name, 0).astype(np.int16)
            senders.append(sent)
        answers = []
        for name in honest:
            allowed = np.zeros(len(asked[0]), np.int16)
            for context in range(contexts):
                here = where[name] == context
                allowed = np.where(here, senders[context] & self.taking[context], allowed)
            accepted = (asked[name] != 0) & (asked[name] & ~allowed == 0)
            accepted &= self.size[asked[name]] >= group.min_survivors
            same = np.zeros(len(asked[0]), np.int8)
            for other in honest:
                same += (asked[other] == asked[name]) & (where[other] == where[name])
            enough = self.size[asked[name]] >= self.fast[where[name]]
            enough |= same + self.helpers[asked[name]] >= group.share_threshold
            answers.append(accepted & enough)
        needed = group.share_threshold - group.max_colluders
        own, gone = [], []
        for owner in honest:
            counted_in = np.zeros(len(asked[0]), np.int8)
            counted_out = np.zeros(len(asked[0]), np.int8)
            for name in honest:
                inside = (asked[name] >> owner & 1).astype(bool)
                counted_in += answers[name] & inside
                present = (self.taking[where[name]] >> owner & 1).astype(bool)
                counted_out += answers[name] & ~inside & present
            own.append(counted_in >= needed)
            gone.append(counted_out >= needed)
        bare, sizes = [], []
        for context in range(contexts):
            one_sum = np.ones(len(asked[0]), bool)
            size = np.zeros(len(asked[0]), np.int16)
            for name in honest:
                if not self.taking[context] >> name & 1:
                    continue
                closed = ~gone[name]
                size += closed
                one_sum &= ~closed | (own[name] & (where[name] == context))
            bare.append(one_sum & (size > 0))
            sizes.append(size)
        return np.array(own), np.array(gone), bare, sizes

    def run(self, inner: int, sample: int | None = None, seed: int = SEED) -> Found:
        """Check every behaviour, or `sample` of them."""
        found = Found()
        for shown in self.blocks(inner, sample, random.Random(seed)):
            own, gone, bare, sizes = self.judge(shown)
            assert not (own & gone).any(), "both seeds of one member"
            total = sum(one.astype(np.int8) for one in bare)
            assert not np.any(total > 1), "two bare sums"
            for one_sum, size in zip(bare, sizes, strict=True):
                if one_sum.any():
                    least = int(size[one_sum].min())
                    assert least >= self.group.min_honest, "a small bare sum"
                    found.smallest = min(found.smallest, least)
                    found.bare += int(one_sum.sum())
            found.behaviours += len(shown[0])
        return found


def participants_of(size: int, colluders: int) -> list[frozenset[int]]:
    """Return every set of participants that a member accepts, one of each kind.

    Two sets are of one kind when a permutation of the honest members, or of the colluders, makes
    one of the other: nothing in the rules tells them apart, and everybody is its own kind.
    """
    honest = size - colluders
    kinds: dict[tuple[int, int], frozenset[int]] = {}
    for one in subsets(range(size), group_of(size, colluders).min_survivors):
        inside = sum(name < honest for name in one)
        kinds.setdefault((inside, len(one) - inside), one)
    return list(kinds.values())


_rows: list[dict[str, object]] = []


def record(
    size: int, colluders: int, contexts: int, sets: int, complete: bool, found: Found
) -> None:
    """Keep a row of the stored table."""
    _rows.append(
        {
            "members": size,
            "colluders": colluders,
            "contexts": contexts,
            "kinds_of_participants": sets,
            "complete": complete,
            "behaviours": found.behaviours,
            "bare_sums": found.bare,
            "smallest": found.smallest,
            "min_honest": group_of(size, colluders).min_honest,
        }
    )
    if FULL:
        RESULTS.write_text(
            json.dumps(
                {
                    "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                    "command": "TREATY_CAMPAIGN=full python -m pytest "
                    "tests/campaign/test_two_faced_enumeration.py",
                    "violations": 0,
                    "enumerations": _rows,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )


def merged(parts: list[Found]) -> Found:
    """Return the sum of several enumerations."""
    return Found(
        sum(one.behaviours for one in parts),
        sum(one.bare for one in parts),
        min(one.smallest for one in parts),
    )


def enumerate_one_context(
    size: int, colluders: int, sets: list[frozenset[int]], sample: int | None = None
) -> Found:
    """Enumerate a slot with one context for each set of participants."""
    group = group_of(size, colluders)
    inner = min(3, len(Enumerator(group, (sets[0],)).honest))
    found = merged([Enumerator(group, (one,)).run(inner, sample) for one in sets])
    record(size, colluders, 1, len(sets), sample is None, found)
    return found


def enumerate_two_contexts(
    size: int, colluders: int, seconds: list[frozenset[int]], sample: int | None = None
) -> Found:
    """Enumerate a slot opened twice: to everybody, and to each of `seconds`."""
    group = group_of(size, colluders)
    everybody = frozenset(range(size))
    found = merged([Enumerator(group, (everybody, one)).run(3, sample) for one in seconds])
    record(size, colluders, 2, len(seconds), sample is None, found)
    return found


@pytest.mark.timeout(0 if FULL else 400)
@pytest.mark.parametrize(("size", "colluders"), [(6, 1), (6, 2), (7, 2), (7, 1)])
def test_one_context(size: int, colluders: int) -> None:
    everybody = [frozenset(range(size))]
    every = participants_of(size, colluders)
    sets = every if size == 6 or (FULL and colluders == 2) else everybody
    sample = 20_000_000 if (size, colluders) == (7, 1) and not FULL else None
    found = enumerate_one_context(size, colluders, sets, sample)
    least = group_of(size, colluders).min_honest
    assert found.smallest == least if sample is None else found.smallest >= least
    assert found.bare


@pytest.mark.timeout(0 if FULL else 400)
@pytest.mark.parametrize(("size", "colluders"), [(6, 2), (6, 1), (7, 2), (7, 1)])
def test_two_contexts_in_one_slot(size: int, colluders: int) -> None:
    everybody = [frozenset(range(size))]
    every = participants_of(size, colluders)
    if size == 6:
        short = not FULL and colluders == 1
        seconds = everybody if short else every
        found = enumerate_two_contexts(size, colluders, seconds, 10_000_000 if short else None)
    else:
        found = enumerate_two_contexts(
            size, colluders, everybody, 100_000_000 if FULL else 4_000_000
        )
    assert found.smallest >= group_of(size, colluders).min_honest
    assert found.bare


@pytest.mark.parametrize(("size", "colluders", "contexts"), [(6, 1, 1), (7, 2, 1), (6, 2, 2)])
def test_the_arrays_say_what_the_model_says(size: int, colluders: int, contexts: int) -> None:
    """Row by row, for drawn blocks: the same seeds and the same bare sums."""
    group = group_of(size, colluders)
    one = Enumerator(group, (frozenset(range(size)),) * contexts)
    draw = random.Random(size)
    bare_rows = 0
    for _ in range(12):
        (shown,) = one.blocks(3, 1, draw)
        own, gone, bare, sizes = one.judge(shown)
        rows = draw.sample(range(len(shown[0])), 60)
        rows += [int(at) for at in np.flatnonzero(bare[0])[:30]]
        for row in rows:
            views: dict[int, View | None] = {}
            for name in one.honest:
                context, bits = (int(x) for x in shown[name][row])
                names = frozenset(at for at in range(size) if bits >> at & 1) or NOBODY
                views[name] = None if context < 0 else View(context, names)
            opened, sums = one.slot.bare(views)
            assert opened.self_seeds == {n for n in one.honest if own[n][row]}
            assert opened.round_seeds == {n for n in one.honest if gone[n][row]}
            found = [
                int(size_of[row])
                for is_bare, size_of in zip(bare, sizes, strict=True)
                if is_bare[row]
            ]
            assert [len(inside) for inside in sums] == found
            bare_rows += bool(found)
    assert bare_rows


def test_the_stored_enumeration_says_what_it_is() -> None:
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert stored["violations"] == 0
    complete = {
        (row["members"], row["colluders"], row["contexts"])
        for row in stored["enumerations"]
        if row["complete"]
    }
    assert complete >= {(6, 1, 1), (6, 2, 1), (7, 1, 1), (7, 2, 1), (6, 1, 2), (6, 2, 2)}
    for row in stored["enumerations"]:
        assert row["smallest"] >= row["min_honest"] >= 2
