"""Large groups: chosen holders, their bounds, and whole rounds over a graph that is not complete.

The rounds run on the machines of small groups; only who holds and who masks differs. Planted
faults that these tests caught: a dropped member's masks cancelled with everybody; masks with the
own holders alone; a fast answer in a large group; a choice that does not depend on the roster; a
nonce taken without its commitment; columns for others than the chosen holders; the threshold of
the complete graph used for chosen holders; an answer counted for owners whose shares it does not
hold; a tail summed without its last term; losses counted with the owner's own share; the one-way
post-quantum key from the wrong side; a bound over no lost members.
"""

import itertools
import json
from fractions import Fraction
from math import comb, log2
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    changed,
    dealt,
    expected_of,
    finish,
    group_of,
    open_round,
    plain_sum,
    published,
    ready,
    send_inputs,
    tag,
    unmasked,
    verified,
)
from treaty.crypto.keys import SigningKey
from treaty.errors import PolicyError, UsageError, VerificationError
from treaty.governance.quorum import MOST_MEMBERS
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_coordinator import RoundPhase
from treaty.protocol.secagg_degree import (
    COMPLETE_UP_TO,
    Degree,
    degree_of,
    parted_bits,
)
from treaty.protocol.secagg_graph import Graph, chosen_holders
from treaty.protocol.secagg_opening import check_result
from treaty.protocol.secure_round import EpochRecord
from treaty.protocol.statements import MAX_ENTRY_BYTES, seal_statement

VECTORS = Path(__file__).parents[2] / "vectors" / "v1" / "secagg_degree.json"


# --- degrees ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", json.loads(VECTORS.read_text(encoding="utf-8"))["rows"], ids=str)
def test_the_degrees_are_frozen(row: dict[str, int | None]) -> None:
    found = degree_of(row["members"], row["max_colluders"], row["min_survivors"])  # type: ignore[arg-type]  # only results may be null
    wanted = (row["holders"], row["threshold"])
    assert wanted == ((None, None) if found is None else (found.holders, found.threshold))


def above(population: int, marked: int, drawn: int, limit: int) -> Fraction:
    """P[more than `limit` marked of `drawn`], from the definition."""
    ways = sum(
        comb(marked, count) * comb(population - marked, drawn - count)
        for count in range(limit + 1, drawn + 1)
    )
    return Fraction(ways, comb(population, drawn))


@pytest.mark.parametrize(("members", "corrupt", "lost"), [(129, 6, 6), (200, 20, 20), (300, 15, 9)])
def test_a_degree_keeps_its_promises_and_one_less_does_not(
    members: int, corrupt: int, lost: int
) -> None:
    """Exact fractions against what the derivation says, at the degree found and just below."""

    def holds(holders: int) -> bool:
        worst = next(
            x
            for x in range(holders + 1)
            if members * above(members - 1, corrupt, holders, x) <= Fraction(1, 2**41)
        )
        threshold = (holders + 1 + worst) // 2 + 1
        if threshold > holders:
            return False
        late = members * above(members - 1, lost, holders, holders - threshold)
        return late <= Fraction(1, 2**20)

    found = degree_of(members, corrupt, members - lost)
    assert found is not None
    assert holds(found.holders)
    assert not holds(found.holders - 1)
    # Never both seeds: two majorities among the honest holders share a member.
    worst = 2 * found.threshold - found.holders - 2
    assert 2 * found.threshold > found.holders + 1 + worst >= found.holders + 1


def test_small_groups_and_hopeless_ones_are_complete() -> None:
    assert degree_of(COMPLETE_UP_TO, 6, 122) is None
    assert degree_of(COMPLETE_UP_TO + 1, 6, 122) is not None
    assert degree_of(500, 165, 335) is None


def chance_of_parting(members: int, corrupt: int, lost: int, holders: int, least: int) -> Fraction:
    """The expected number of ways in which some choice of survivors falls into two, exactly."""
    honest = members - corrupt
    miss = [
        Fraction(comb(members - 1 - x, holders), comb(members - 1, holders)) for x in range(honest)
    ]
    return sum(
        (
            comb(honest, gone)
            * comb(honest - gone, small)
            * miss[honest - gone - small] ** small
            * miss[small] ** (honest - gone - small)
            for gone in range(lost + 1)
            for small in range(least, (honest - gone) // 2 + 1)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize(
    "numbers",
    [(12, 1, 4, 5, 3), (16, 2, 6, 4, 2), (20, 1, 9, 6, 3), (40, 2, 18, 8, 3), (60, 2, 25, 8, 3)],
)
def test_the_bound_on_parting_is_above_the_exact_sum(numbers: tuple[int, ...]) -> None:
    members, corrupt, lost, holders, least = numbers
    bits = parted_bits(members, corrupt, members - lost, holders, least)
    assert bits <= -log2(chance_of_parting(*numbers))


def test_the_exact_sum_is_over_every_set() -> None:
    """Counted one by one for a small instance."""
    members, corrupt, lost, holders, least = 8, 1, 2, 3, 2
    honest = range(members - corrupt)
    miss = [Fraction(comb(members - 1 - x, holders), comb(members - 1, holders)) for x in honest]
    total = Fraction(0)
    for gone in range(lost + 1):
        for removed in itertools.combinations(honest, gone):
            rest = [one for one in honest if one not in removed]
            for small in range(least, len(rest) // 2 + 1):
                for part in itertools.combinations(rest, small):
                    large = len(rest) - len(part)
                    total += miss[large] ** small * miss[small] ** large
    assert total == chance_of_parting(members, corrupt, lost, holders, least)


def test_a_degree_that_could_never_open_or_open_twice_is_refused() -> None:
    for holders, threshold in ((4, 2), (4, 6), (4, 0)):
        with pytest.raises(UsageError):
            Degree(holders, threshold)
    assert Degree(4, 3).threshold == 3


# --- choices ---------------------------------------------------------------------------------


def test_choices_are_uniform_and_follow_from_nonce_and_roster() -> None:
    """Chi-square over all subsets of two of four: 5 degrees of freedom, alarm below 1 in 10^6."""
    group = group_of(5, profile=Degree(2, 2))
    counts: dict[tuple[str, ...], int] = {}
    for draw in range(3000):
        one = chosen_holders(group, "m01", group.members, tag("epoch"), f"{draw:064x}")
        assert len(one) == 2 and "m01" not in one
        counts[one] = counts.get(one, 0) + 1
    assert len(counts) == 6
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 37
    again = [
        chosen_holders(group, "m01", group.members, tag("epoch"), "1" * 64),
        chosen_holders(group, "m01", group.members, tag("epoch"), "1" * 64),
    ]
    assert again[0] == again[1]
    varied = {chosen_holders(group, "m01", group.members, tag(f"{k}"), "1" * 64) for k in range(40)}
    assert len(varied) > 3


def test_who_holds_and_who_masks_follows_from_the_choices() -> None:
    group = group_of(5, profile=Degree(2, 2))
    names = group.members
    choices = {"m01": {"m02", "m03"}, "m02": {"m03", "m04"}, "m03": {"m04", "m05"}}
    choices |= {"m04": {"m05", "m01"}, "m05": {"m01", "m02"}}
    graph = Graph(group, names, 2, {name: frozenset(one) for name, one in choices.items()})
    assert graph.holds("m02", "m01") and not graph.holds("m01", "m02") and graph.holds("m01", "m01")
    assert graph.owners("m01", names) == {"m01", "m04", "m05"}
    assert graph.partners("m01") == ("m02", "m03", "m04", "m05")
    assert graph.opens({"m01", "m02"}, ["m01"]) and not graph.opens({"m01", "m04"}, ["m01"])
    assert graph.fast_survivors(5) == 6
    whole = Graph(group_of(5), names, 4)
    assert whole.partners("m02") == ("m01", "m03", "m04", "m05")
    assert whole.opens(set(names[:4]), names) and not whole.opens(set(names[:3]), names)
    assert whole.fast_survivors(5) == whole.group.fast_survivors(5)


# --- rounds ----------------------------------------------------------------------------------


def checked(federation: Federation, turn: Round, result: messages.RoundResult) -> object:
    """Run the offline check of a result."""
    assert turn.sealed is not None
    hub = federation.hub
    return check_result(
        hub.group,
        turn.opened.predicate,
        hub.peers,
        hub.ready,
        hub.dealers,
        turn.sealed.predicate,
        result,
        graph=hub.graph,
    )


@settings(max_examples=25)
@given(
    size=st.integers(5, 10),
    bits=st.sampled_from([16, 32, 64]),
    length=st.integers(1, 40),
    hybrid=st.booleans(),
    data=st.data(),
)
def test_the_opened_sum_is_exact_or_nothing_is_opened(
    size: int, bits: int, length: int, hybrid: bool, data: st.DataObject
) -> None:
    """It is opened if and only if enough holders of every participant's shares answer."""
    holders = data.draw(st.integers(2, size - 2))
    threshold = data.draw(st.integers((holders + 1) // 2 + 1, holders))
    group = group_of(size, 1, hybrid=hybrid, profile=Degree(holders, threshold))
    spare = size - group.min_survivors
    names = data.draw(st.permutations(group.members))
    cut = data.draw(st.integers(0, spare))
    late = data.draw(st.integers(0, cut))
    federation = ready(dealt(group, slots=1, lost_shares=names[:late]))
    expected = expected_of(length, bits)
    turn = send_inputs(open_round(federation, expected), lost=names[late:cut])
    finish(turn, silent=names[size - data.draw(st.integers(0, spare - cut)) :])
    if turn.hub.phase is RoundPhase.REVEALING:
        turn.give(coordinator.Deadline())
    answered = frozenset(turn.hub.reveals)
    enough = federation.hub.graph.opens(answered, turn.opened.predicate.participants)  # type: ignore[union-attr]  # dealing is over
    confirmed = len(turn.hub.confirmed) >= group.share_threshold
    if turn.hub.phase is RoundPhase.ABANDONED:
        assert not (enough and confirmed)
        return
    assert enough and confirmed
    words, result, plan = unmasked(turn)
    assert words == plain_sum(turn, turn.hub.survivor_names)
    assert set(turn.hub.survivor_names) == set(names[cut:])
    assert sorted(checked(federation, turn, result)) == sorted(plan)  # type: ignore[call-overload]


def test_in_a_large_group_nobody_answers_before_a_set_is_confirmed() -> None:
    federation = ready(dealt(group_of(6, profile=Degree(3, 3))))
    turn = send_inputs(open_round(federation, expected_of()))
    finish(turn)
    for name in federation.group.members:
        kinds = [type(one) for one in turn.node(name).sent]
        assert kinds.index(messages.SurvivorsConfirmed) < kinds.index(messages.Reveal)
    assert unmasked(turn)[0] == plain_sum(turn, federation.group.members)


def test_a_member_answers_for_those_alone_whose_shares_it_holds() -> None:
    federation = ready(dealt(group_of(8, profile=Degree(3, 3))))
    turn = send_inputs(open_round(federation, expected_of()), lost=["m08"])
    finish(turn)
    graph = turn.hub.graph
    for name, reveal in turn.hub.reveals.items():
        given_ = set(reveal.predicate.self_shares) | set(reveal.predicate.round_shares)
        assert given_ == graph.owners(name, federation.group.members)
    few = [one for one in turn.hub.reveals.values() if len(one.predicate.self_shares) > 1]
    shares = dict(few[0].predicate.self_shares)
    shares.pop(next(iter(shares)))
    fresh = coordinator.CoordinatorRound.begin(federation.hub, turn.opened.predicate)
    for event in (*map(coordinator.InputArrived, turn.headers.values()), coordinator.Deadline()):
        fresh, _ = fresh.step(event)
    assert turn.sealed is not None
    fresh, _ = fresh.step(coordinator.SurvivorsLogged(turn.sealed))
    with pytest.raises(VerificationError) as refusal:
        fresh.step(coordinator.RevealLogged(changed(few[0], self_shares=shares)))
    assert refusal.value.code == "reveal-malformed"


CHOICE_FAULTS = {
    "no nonce": (lambda s: {"nonce": None}, "nonce-missing"),
    "another nonce": (lambda s: {"nonce": "7" * 64}, "nonce-differs"),
    "a holder left out": (
        lambda s: {"columns": dict([*s.columns.items()][1:])},
        "shares-malformed",
    ),
    "one holder more": (
        lambda s: {"columns": {**s.columns, **dict.fromkeys(others_of(s), tag("x"))}},
        "shares-malformed",
    ),
}


def others_of(shares: messages.EpochShares) -> list[str]:
    """The members that `shares` gives nothing."""
    names = group_of(8).members
    return [one for one in names if one != shares.author and one not in shares.columns]


def collecting(federation: Federation) -> coordinator.CoordinatorEpoch:
    """The coordinator of `federation` when the roster has just been logged."""
    hub, (ask,) = coordinator.CoordinatorEpoch.begin(federation.group, tag("plan"), 1, 2)
    assert isinstance(ask.predicate, messages.EpochOpened) and federation.roster is not None
    events = [coordinator.OpenedLogged(verified(ask.predicate))]
    events += [coordinator.KeysLogged(one) for one in federation.keys]  # type: ignore[misc]  # events
    events += [coordinator.RosterLogged(federation.roster)]  # type: ignore[list-item]  # events
    for event in events:
        hub, _ = hub.step(event)
    return hub


@pytest.mark.parametrize("name", CHOICE_FAULTS)
def test_a_dealer_does_not_choose_its_holders(name: str) -> None:
    """Members and the coordinator refuse, each by itself."""
    federation = dealt(group_of(8, profile=Degree(3, 3)))
    assert federation.roster is not None and federation.sealed is not None
    change, code = CHOICE_FAULTS[name]
    shares = federation.shares["m02"]
    false = changed(shares, **change(shares.predicate))
    with pytest.raises(VerificationError) as refusal:
        collecting(federation).step(coordinator.SharesLogged(false))
    assert refusal.value.code == code
    for member in ("m01", "m03"):
        event = federation.sealed_event(member)
        node = federation.nodes[member]
        said = {**event.shares, "m02": false}
        with pytest.raises(VerificationError) as refusal:
            node.on_epoch(type(event)(event.sealed, said, event.columns, event.secret))
        # Who was to get a column misses that first.
        assert refusal.value.code in {code, "column-missing"}


def test_large_groups_bring_their_commitment_and_small_ones_none() -> None:
    large, small = group_of(6, profile=Degree(3, 3)), group_of(6)
    for group, other in ((large, small), (small, large)):
        keys = dealt(group).keys[0].predicate
        assert (keys.graph is None) == (group is small)
        stranger = coordinator.CoordinatorEpoch.begin(other, tag("plan"), 1, 2)[0]
        ask = coordinator.CoordinatorEpoch.begin(other, tag("plan"), 1, 2)[1][0].predicate
        assert isinstance(ask, messages.EpochOpened)
        stranger, _ = stranger.step(coordinator.OpenedLogged(verified(ask)))
        with pytest.raises(VerificationError) as refusal:
            stranger.step(coordinator.KeysLogged(verified(keys)))
        assert refusal.value.code == "keys-malformed"


def test_too_few_holders_end_the_round_and_nothing_is_opened() -> None:
    """Everybody who holds one member's shares is lost after the inputs."""
    federation = ready(dealt(group_of(9, profile=Degree(2, 2))))
    turn = send_inputs(open_round(federation, expected_of()))
    graph = federation.hub.graph
    assert graph is not None
    quiet = [name for name in graph.dealers if graph.holds(name, "m01")]
    finish(turn, silent=quiet)
    assert turn.hub.phase is RoundPhase.REVEALING
    turn.give(coordinator.Deadline())
    ended = published(turn.effects[-1:], messages.RoundAbandoned)
    assert ended.predicate.code is messages.RoundCode.TOO_FEW_REVEALS


def test_two_hundred_members_round_with_derived_numbers() -> None:
    """Nothing is forced here: charter numbers alone give the graph; 5 % are lost."""
    group = group_of(200, 10, least=190)
    federation = ready(dealt(group, slots=1))
    graph = federation.hub.graph
    assert graph is not None and graph.choices is not None
    assert group.degree(200) == Degree(30, 21) and graph.threshold == 21
    degrees = sorted(len(graph.partners(name)) for name in graph.dealers)
    assert degrees[0] > 30 and degrees[-1] < 90
    turn = send_inputs(open_round(federation, expected_of(3, 32)), lost=group.members[::20])
    finish(turn)
    words, result, plan = unmasked(turn)
    assert words == plain_sum(turn, turn.hub.survivor_names)
    assert len(turn.hub.survivor_names) == 190
    assert sorted(checked(federation, turn, result)) == sorted(plan)  # type: ignore[call-overload]


def test_a_large_group_can_shrink_to_a_complete_one_within_an_epoch() -> None:
    """The roster decides: 125 of 140 members are few enough for everyone to hold everything."""
    group = group_of(140, 5, least=120)
    federation = dealt(group, slots=1, lost_keys=group.members[:15])
    assert federation.shares["m16"].predicate.nonce is None
    assert len(federation.shares["m16"].predicate.columns) == 124
    with pytest.raises(PolicyError):
        federation.hub.next_round(expected_of())


def test_the_largest_statement_of_the_largest_consortium_fits_into_an_entry() -> None:
    """Names of 63 characters; the envelope with its signature."""
    names = [f"{'m' * 59}{place:04d}" for place in range(MOST_MEMBERS)]
    survivors = tuple(
        messages.Survivor(member=name, header=tag(name), root=tag(name)) for name in names
    )
    base = {"charter": tag("c"), "author": names[0], "context": tag("x")}
    for body in (
        messages.SurvivorsSealed(**base, survivors=survivors),
        messages.RoundResult(
            **base,
            survivors=tag("s"),
            sum=tag("s"),
            self_seeds=dict.fromkeys(names, "1" * 64),
            round_seeds={},
            pair_seeds={},
        ),
    ):
        sealed = seal_statement(body, SigningKey.generate(bytes(32)))
        assert len(sealed) <= MAX_ENTRY_BYTES


@pytest.mark.parametrize(
    ("nonce", "code"), [(None, "nonce-missing"), ("7" * 64, "nonce-differs")], ids=str
)
def test_the_fold_refuses_a_choice_by_another_nonce_than_committed_to(
    nonce: str | None, code: str
) -> None:
    """Also when the columns are exactly those that this nonce, or none, would choose."""
    group = group_of(8, profile=Degree(3, 3))
    federation = dealt(group)
    _, (ask,) = coordinator.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
    assert isinstance(ask.predicate, messages.EpochOpened) and federation.roster is not None
    record = EpochRecord(group, verified(ask.predicate))
    for statement in (*federation.keys, federation.roster):
        record = record.step(statement)
    true = federation.shares["m02"]
    epoch_hash = true.predicate.epoch_hash
    holders = chosen_holders(group, "m02", group.members, epoch_hash, nonce)
    false = changed(true, nonce=nonce, columns=dict.fromkeys(holders, tag("column")))
    with pytest.raises(VerificationError) as refusal:
        record.step(false)
    assert refusal.value.code == code
    assert record.step(true).shares["m02"] == true  # type: ignore[index]  # a name
