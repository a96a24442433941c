"""Pair seeds of a result: in the statement where they are few, in a blob where they are many.

Planted and caught: the blob not asked for by the fold; a blob of few seeds, or one beside seeds in
the statement, accepted; a blob read whatever its size; seeds of the blob not compared with what
was committed to; the blob left out of the audit's plan; results of few lost members with a blob.
"""

import msgspec
import pytest

from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    dealt,
    expected_of,
    finish,
    group_of,
    open_round,
    plain_sum,
    published,
    ready,
    send_inputs,
    unmasked,
    verified,
)
from treaty.crypto import canonical
from treaty.errors import FormatError, ResourceError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_audit import AuditCase
from treaty.protocol.secagg_opening import check_result
from treaty.protocol.secagg_pairs import (
    MAX_INLINE,
    PairSeedList,
    largest_pairs,
    pair_seeds_of,
    placed_pairs,
)
from treaty.protocol.secure_round import EpochRecord, RoundPhase, RoundRecord
from treaty.protocol.statements import seal_statement

from tests.worlds import COORDINATOR  # isort: skip

SIZE = 25
LOST = 11


class Opened:
    """A hybrid round of which 11 of 25 members are lost: 264 pair seeds."""

    def __init__(self) -> None:
        federation = ready(dealt(group_of(SIZE, hybrid=True), slots=1))
        self.federation: Federation = federation
        self.lost = federation.group.members[:LOST]
        self.turn: Round = send_inputs(open_round(federation, expected_of()), lost=self.lost)
        finish(self.turn)
        self.words, self.result, self.plan = unmasked(self.turn)
        [self.blob] = [
            effect.blob
            for effect in self.turn.effects
            if isinstance(effect, coordinator.Publish) and effect.blob is not None
        ]

    def record(self) -> RoundRecord:
        """Return the round as the fold holds it before the result."""
        survivors, reveals = Digest(self.result.survivors), self.turn.hub.reveals
        return self.turn.record(RoundPhase.REVEALING, survivors=survivors, reveals=reveals)

    def find(self, digest: Digest) -> bytes:
        """Return the blob by its digest."""
        if digest != canonical.sha256(self.blob):
            raise ResourceError(f"no blob {digest[:16]}")
        return self.blob


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


def missing(digest: Digest) -> bytes:
    raise ResourceError(f"no blob {digest[:16]}")


def seeds(count: int) -> dict[str, tuple[str, ...]]:
    return {"a": ("1" * 64,) * (count - 1), "b": ("2" * 64,)}


def test_many_pair_seeds_stand_in_a_blob_that_the_result_names(opened: Opened) -> None:
    result = opened.result
    assert opened.words == plain_sum(opened.turn, opened.turn.hub.survivor_names)
    assert result.pair_seeds == {} and result.pairs == canonical.sha256(opened.blob)
    found = pair_seeds_of(result, opened.find, len(opened.blob))
    assert set(found) == set(opened.lost)
    assert all(len(one) == SIZE - 1 for one in found.values())
    assert len(opened.blob) <= largest_pairs(LOST, SIZE - 1)


def test_few_pair_seeds_stand_in_the_result() -> None:
    assert placed_pairs(seeds(MAX_INLINE)) == (seeds(MAX_INLINE), None)
    inline, blob = placed_pairs(seeds(MAX_INLINE + 1))
    assert inline == {} and blob is not None
    assert canonical.decode(blob, PairSeedList).seeds == seeds(MAX_INLINE + 1)
    federation = ready(dealt(group_of(4, hybrid=True), slots=1))
    turn = send_inputs(open_round(federation, expected_of()), lost=["m04"])
    finish(turn)
    _, result, _ = unmasked(turn)
    assert result.pairs is None and len(result.pair_seeds["m04"]) == 3
    assert b'"pairs"' not in canonical.encode(result)


def test_the_largest_result_fits_a_log_entry() -> None:
    """Of 200 members with the longest names, and as many pair seeds as stand in a result.

    Each lost member has at least 32 partners in a group of that size.
    """
    names = [f"{number:03}" + "n" * 60 for number in range(200)]
    each = dict.fromkeys(names, "f" * 64)
    pairs = dict.fromkeys(names[: MAX_INLINE // 32], ("f" * 64,) * 32)
    result = messages.RoundResult(
        charter="f" * 64,
        author=MemberId("n" * 63),
        context="f" * 64,
        survivors="f" * 64,
        sum="f" * 64,
        self_seeds={name: each[name] for name in names[100:]},
        round_seeds={name: each[name] for name in names[:100]},
        pair_seeds=pairs,
    )
    assert seal_statement(result, COORDINATOR)


def test_the_fold_asks_for_the_blob(opened: Opened) -> None:
    with pytest.raises(ResourceError):
        opened.record().step(verified(opened.result), missing)
    after = opened.record().step(verified(opened.result), opened.find)
    assert after.phase is RoundPhase.PUBLISHED
    assert set(after.pair_seeds) == set(opened.lost)
    assert after.largest_pairs >= len(opened.blob)


def test_an_audit_and_an_outsider_take_the_masks_off_with_the_blobs_seeds(opened: Opened) -> None:
    hub, turn = opened.federation.hub, opened.turn
    assert turn.sealed is not None
    found = pair_seeds_of(opened.result, opened.find, len(opened.blob))

    def plan(pairs: object) -> object:
        return check_result(
            hub.group,
            turn.opened.predicate,
            hub.peers,
            hub.ready,
            hub.dealers,
            turn.sealed.predicate,  # type: ignore[union-attr]  # sealed above
            opened.result,
            graph=hub.graph,
            pairs=pairs,  # type: ignore[arg-type]  # planted
        )

    assert sorted(plan(found)) == sorted(opened.plan)  # type: ignore[call-overload]  # a plan
    first = opened.lost[0]
    for wrong, code in (
        (None, "seeds-incomplete"),
        ({}, "seeds-incomplete"),
        ({**found, first: found[first][:-1]}, "seed-differs"),
        ({**found, first: ("1" * 64, *found[first][1:])}, "seed-differs"),
    ):
        with pytest.raises(VerificationError) as refusal:
            plan(wrong)
        assert refusal.value.code == code
    epoch = EpochRecord(
        hub.group,
        verified(
            messages.EpochOpened(
                charter=hub.group.charter,
                author="hub",
                epoch=1,
                plan="0" * 64,
                slots=hub.slots,
                suite=hub.group.suite,
                max_colluders=hub.group.max_colluders,
                min_survivors=hub.group.min_survivors,
            )
        ),
        keys={name: verified(one) for name, one in hub.peers.items()},  # type: ignore[misc]  # names
        sealed=opened.federation.sealed,
        graph=hub.graph,
        ready={name: verified(one) for name, one in hub.ready.items()},  # type: ignore[misc]  # names
    )
    case = AuditCase(epoch, opened.record().step(verified(opened.result), opened.find))
    assert sorted(case.plan()) == sorted(opened.plan)


@pytest.mark.parametrize("place", ["both", "few", "none"])
def test_seeds_in_the_wrong_place_are_refused(opened: Opened, place: str) -> None:
    few = canonical.encode(PairSeedList(seeds=seeds(MAX_INLINE)))
    blob = {"both": opened.blob, "few": few, "none": canonical.encode(PairSeedList(seeds={}))}
    changes: dict[str, object] = {"pairs": canonical.sha256(blob[place])}
    if place == "both":
        changes["pair_seeds"] = {"m01": ("1" * 64,)}
    result = msgspec.structs.replace(opened.result, **changes)
    with pytest.raises(VerificationError) as refusal:
        pair_seeds_of(result, lambda _: blob[place], 1 << 20)
    assert refusal.value.code == "seeds-misplaced"


def test_a_blob_that_is_none_or_too_large_is_refused(opened: Opened) -> None:
    most = opened.record().largest_pairs
    many = PairSeedList(seeds={f"m{k:02}": ("1" * 64,) * (SIZE + 5) for k in range(SIZE)})
    for data in (b"", b"{}", opened.blob + b" ", canonical.encode(many)):
        with pytest.raises(FormatError):
            pair_seeds_of(opened.result, lambda _, data=data: data, most)  # type: ignore[misc]


def test_results_from_before_there_were_blobs_stay_readable(opened: Opened) -> None:
    """Whatever their number, where they fitted an entry."""
    found = dict(pair_seeds_of(opened.result, opened.find, len(opened.blob)))
    before = msgspec.structs.replace(opened.result, pairs=None, pair_seeds=found)
    assert pair_seeds_of(before, missing, 0) == found
    text = canonical.encode(before)
    assert canonical.decode(text, messages.RoundResult) == before
    assert published([coordinator.Publish(before)], messages.RoundResult).predicate == before
