"""Whole epochs and rounds against plain integers, with losses, liars and complaints.

Planted faults that these tests caught: the sign of a pair mask by the wrong order; a dropped
member's masks not cancelled; shares of the wrong kind for a dropped member; one answer too many
asked for; a seed published without comparing it; a liar not named; a complaint believed without
its key; the post-quantum key left out of the pair key; the wrong transport direction for the
lower member; `fast_survivors` off by one; a decline that is not counted; a survivor left out; a
blamed dealer kept; repeated keys that the coordinator logs.
"""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    changed,
    dealt,
    expected_of,
    feed_ready,
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
from treaty.crypto import canonical, shamir
from treaty.errors import PolicyError, VerificationError
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_coordinator import RoundPhase
from treaty.protocol.secagg_effects import EraseSecret
from treaty.protocol.secagg_enrolment import EnrolmentPhase
from treaty.protocol.secagg_keys import survivors_digest
from treaty.protocol.secagg_lifecycle import DealingSealed
from treaty.protocol.secagg_member import Declined, InputLogged, SurvivorsAnnounced
from treaty.protocol.secagg_opening import check_result, recover


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
    size=st.integers(3, 10),
    bits=st.sampled_from([16, 32, 64]),
    length=st.integers(1, 40),
    hybrid=st.booleans(),
    data=st.data(),
)
def test_the_opened_sum_is_exact_whatever_was_lost(
    size: int, bits: int, length: int, hybrid: bool, data: st.DataObject
) -> None:
    """Members are lost before dealing, before their input and before their answer."""
    group = group_of(size, data.draw(st.integers(1, max(1, (size - 1) // 3))), hybrid=hybrid)
    spare = size - group.min_survivors
    names = data.draw(st.permutations(group.members))
    cut = data.draw(st.integers(0, spare))
    late = data.draw(st.integers(0, cut))
    federation = ready(dealt(group, slots=1, lost_keys=names[:late]))
    expected = expected_of(length, bits)
    turn = send_inputs(open_round(federation, expected), lost=names[late:cut])
    quiet = len(turn.hub.inputs) - group.share_threshold
    finish(turn, silent=names[size - data.draw(st.integers(0, quiet)) :] if quiet else ())
    words, result, plan = unmasked(turn)
    assert words == plain_sum(turn, turn.hub.survivor_names)
    assert set(turn.hub.survivor_names) == set(names[cut:])
    assert sorted(checked(federation, turn, result)) == sorted(plan)  # type: ignore[call-overload]
    assert turn.hub.phase is RoundPhase.PUBLISHED


def test_every_slot_has_other_masks_and_the_sum_holds_in_each() -> None:
    federation = ready(dealt(group_of(4), slots=3))
    blobs: set[str] = set()
    for number in range(3):
        turn = send_inputs(open_round(federation, expected_of(number=number)))
        finish(turn)
        words, _, _ = unmasked(turn)
        assert words == plain_sum(turn, federation.group.members)
        blobs |= {one.predicate.blob for one in turn.headers.values()}
    assert len(blobs) == 12
    assert federation.hub.exhausted
    with pytest.raises(PolicyError) as refusal:
        federation.hub.next_round(expected_of(number=3))
    assert refusal.value.code == "epoch-exhausted"


@pytest.mark.parametrize(
    ("size", "colluders", "threshold", "fast"),
    [
        (3, 1, 3, 3),
        (4, 1, 3, 3),
        (5, 1, 4, 4),
        (10, 1, 6, 8),
        (10, 3, 7, 8),
        (20, 6, 14, 17),
        (25, 8, 17, 21),
        (100, 33, 67, 83),
        (100, 10, 56, 78),
    ],
)
def test_the_fast_path_needs_as_many_survivors_as_the_argument_says(
    size: int, colluders: int, threshold: int, fast: int
) -> None:
    group = group_of(size, colluders)
    assert group.share_threshold == threshold
    assert group.fast_survivors(size) == fast
    n, c, t = size, colluders, threshold
    safe = [
        (n - c) - (n - c) * (n - u) // (t - c) >= group.min_honest
        for u in range(group.min_survivors, n + 1)
    ]
    assert safe.index(True) + group.min_survivors == fast


def test_few_survivors_are_confirmed_before_anything_is_revealed() -> None:
    federation = ready(dealt(group_of(10, 3)))
    turn = send_inputs(open_round(federation, expected_of()), lost=federation.group.members[:3])
    assert federation.group.fast_survivors(10) == 8
    finish(turn)
    words, _, _ = unmasked(turn)
    assert words == plain_sum(turn, turn.hub.survivor_names)
    for name in turn.hub.survivor_names:
        kinds = [type(one) for one in turn.node(name).sent]
        assert kinds.index(messages.SurvivorsConfirmed) < kinds.index(messages.Reveal)
    assert len(turn.hub.confirmed) == 7


@pytest.mark.parametrize(
    ("lost", "silent", "code"),
    [
        (3, 0, messages.RoundCode.TOO_FEW_INPUTS),
        (0, 3, messages.RoundCode.TOO_FEW_REVEALS),
        (1, 2, messages.RoundCode.TOO_FEW_REVEALS),
    ],
)
def test_below_the_threshold_a_round_is_abandoned(
    lost: int, silent: int, code: messages.RoundCode
) -> None:
    federation = ready(dealt(group_of(5, least=3)))
    assert federation.group.min_survivors == 4
    turn = open_round(federation, expected_of())
    send_inputs(turn, lost=federation.group.members[:lost])
    if turn.hub.phase is RoundPhase.COLLECTING:
        finish(turn, silent=federation.group.members[-silent:])
        turn.give(coordinator.Deadline())
    assert turn.hub.phase is RoundPhase.ABANDONED
    assert published(turn.effects[-1:], messages.RoundAbandoned).predicate.code is code
    assert not [effect for effect in turn.effects if isinstance(effect, coordinator.NeedSum)]


def test_missing_confirmations_abandon_the_round() -> None:
    federation = ready(dealt(group_of(10, 3)))
    turn = send_inputs(open_round(federation, expected_of()), lost=federation.group.members[:3])
    finish(turn, silent=federation.group.members[-1:])
    assert not turn.hub.reveals
    turn.give(coordinator.Deadline())
    ended = published(turn.effects[-1:], messages.RoundAbandoned)
    assert ended.predicate.code is messages.RoundCode.TOO_FEW_CONFIRMATIONS


def test_declines_are_no_inputs_and_too_many_end_the_round_at_once() -> None:
    federation = ready(dealt(group_of(4)))
    turn = open_round(federation, expected_of())
    for count, name in enumerate(federation.group.members[:2]):
        node = turn.node(name)
        node.begin(turn.opened, turn.expected)
        (said,) = node.on_slot(Declined(messages.DeclineCode.SITE_DECLINED))
        assert isinstance(said, messages.InputDeclined)
        assert node.slot_secret is None
        turn.give(coordinator.DeclineLogged(verified(said)))
        assert (turn.hub.phase is RoundPhase.ABANDONED) == (count == 1)


@pytest.mark.parametrize("kind", ["self_shares", "round_shares"])
def test_a_false_share_is_worked_around_and_its_author_is_named(kind: str) -> None:
    federation = ready(dealt(group_of(7, 1)))
    names = federation.group.members
    turn = send_inputs(open_round(federation, expected_of()), lost=names[-1:])
    turn.sealed = published(turn.effects, messages.SurvivorsSealed)
    turn.give(coordinator.SurvivorsLogged(turn.sealed))
    for name in names[:6]:
        node = turn.node(name)
        for header in turn.headers.values():
            node.on_slot(InputLogged(header))
        (answer,) = node.on_slot(SurvivorsAnnounced(turn.sealed, node.slot_secret))
        if name == names[1]:
            shares = dict(getattr(answer, kind))
            shares[next(iter(shares))] = "0" * 63 + "5"
            answer = msgspec.structs.replace(answer, **{kind: shares})
        turn.give(coordinator.RevealLogged(verified(answer)))
    assert turn.hub.liars == {names[1]}
    (blame,) = [effect for effect in turn.effects if isinstance(effect, coordinator.Blame)]
    assert blame.members == {names[1]}
    words, _, _ = unmasked(turn)
    assert words == plain_sum(turn, names[:6])


def test_a_seed_that_no_subset_gives_abandons_the_round() -> None:
    federation = ready(dealt(group_of(4)))
    names = federation.group.members
    turn = send_inputs(open_round(federation, expected_of()), lost=names[-1:])
    turn.sealed = published(turn.effects, messages.SurvivorsSealed)
    turn.give(coordinator.SurvivorsLogged(turn.sealed))
    for name in names[:3]:
        node = turn.node(name)
        for header in turn.headers.values():
            node.on_slot(InputLogged(header))
        (answer,) = node.on_slot(SurvivorsAnnounced(turn.sealed, node.slot_secret))
        assert isinstance(answer, messages.Reveal)
        shares = dict.fromkeys(answer.self_shares, "f" * 64)
        answer = msgspec.structs.replace(answer, self_shares=shares)
        turn.give(coordinator.RevealLogged(verified(answer)))
    assert turn.hub.phase is RoundPhase.ABANDONED


def test_recovery_needs_exactly_the_threshold() -> None:
    group = group_of(4)
    shares = shamir.deal(77, 3, [1, 2, 3, 4], lambda n: bytes(range(n)))
    by_name = {
        name: {"m01": shamir.encode_element(shares[group.index(name)]).hex()}
        for name in group.members
    }
    whole = recover(group, by_name, lambda owner, seed: seed == 77)
    assert int(whole.seeds["m01"], 16) == 77 and not whole.missing
    two = recover(group, {name: by_name[name] for name in group.members[:2]}, lambda o, s: s == 77)
    assert two.missing == {"m01"}
    assert recover(group, {}, lambda o, s: True).seeds == {}


RESULT_FAULTS = {
    "another context": ({"context": tag("x")}, "wrong-context"),
    "another set": ({"survivors": tag("x")}, "survivors-differ"),
    "no self seed": ({"self_seeds": {}}, "seeds-incomplete"),
    "both seeds": ({"round_seeds": {"m01": "1" * 64}}, "seeds-incomplete"),
    "pair seeds in the classical suite": ({"pair_seeds": {"m04": ()}}, "seeds-incomplete"),
}


@pytest.mark.parametrize("name", RESULT_FAULTS)
def test_a_result_that_does_not_follow_from_the_log_is_refused(name: str) -> None:
    federation = ready(dealt(group_of(4)))
    turn = send_inputs(open_round(federation, expected_of()), lost=["m04"])
    finish(turn)
    _, result, _ = unmasked(turn)
    fields, code = RESULT_FAULTS[name]
    with pytest.raises(VerificationError) as refusal:
        checked(federation, turn, msgspec.structs.replace(result, **fields))
    assert refusal.value.code == code


def test_a_result_over_too_few_survivors_is_refused() -> None:
    """Also when everything else about it is consistent."""
    federation = ready(dealt(group_of(4)))
    turn = send_inputs(open_round(federation, expected_of()))
    finish(turn)
    _, result, _ = unmasked(turn)
    assert turn.sealed is not None
    two = turn.sealed.predicate.survivors[:2]
    turn.sealed = changed(turn.sealed, survivors=two)
    digest = survivors_digest(turn.hub.context, two, federation.group)
    with pytest.raises(VerificationError) as refusal:
        checked(federation, turn, msgspec.structs.replace(result, survivors=digest))
    assert refusal.value.code == "too-few-survivors"


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_published_seed_that_was_not_committed_to_is_refused(hybrid: bool) -> None:
    federation = ready(dealt(group_of(4, hybrid=hybrid)))
    turn = send_inputs(open_round(federation, expected_of()), lost=["m04"])
    finish(turn)
    _, result, _ = unmasked(turn)
    wrong = [
        {"self_seeds": {**result.self_seeds, "m01": "1" * 64}},
        {"round_seeds": {"m04": "1" * 64}},
    ]
    if hybrid:
        seeds = ("1" * 64, *result.pair_seeds["m04"][1:])
        wrong += [{"pair_seeds": {"m04": seeds}}, {"pair_seeds": {"m04": seeds[1:]}}]
    for fields in wrong:
        with pytest.raises(VerificationError) as refusal:
            checked(federation, turn, msgspec.structs.replace(result, **fields))
        assert refusal.value.code == "seed-differs"


def spoil(federation: Federation, dealer: str, recipient: str, at: int) -> None:
    """Let `dealer` sign a column for `recipient` with one byte changed."""
    shares = federation.shares[dealer]
    column = bytearray(federation.columns[shares.predicate.columns[recipient]])
    column[at] ^= 1
    digest = canonical.sha256(column)
    federation.columns[digest] = bytes(column)
    columns = {**shares.predicate.columns, recipient: digest}
    federation.shares[dealer] = changed(shares, columns=columns)
    replaced = {**federation.hub.shares, dealer: federation.shares[dealer]}
    object.__setattr__(federation.hub, "shares", replaced)


@pytest.mark.parametrize(
    ("at", "out"),
    [(40, {"m02"}), (112 + 100, {"m02"}), (3, {"m01", "m02"})],
    ids=["sealed share of slot 0", "tag of slot 1", "key commitment"],
)
def test_a_share_that_does_not_open_is_complained_about(at: int, out: set[str]) -> None:
    """A dealer of a bad share is out; when the commitment is in dispute, both are."""
    federation = dealt(group_of(6))
    spoil(federation, "m02", "m01", at)
    ready(federation)
    assert federation.hub.excluded == out
    assert federation.hub.phase is EnrolmentPhase.READY
    epoch = federation.nodes["m01"].epoch
    assert epoch is not None and epoch.dealers == ("m01", "m03", "m04", "m05", "m06")
    turn = send_inputs(open_round(federation, expected_of()))
    finish(turn)
    assert unmasked(turn)[0] == plain_sum(turn, turn.hub.survivor_names)


def test_a_column_of_another_size_counts_against_its_dealer() -> None:
    federation = dealt(group_of(5))
    shares = federation.shares["m02"]
    digest = canonical.sha256(b"short")
    federation.columns[digest] = b"short"
    bad = changed(shares, columns={**shares.predicate.columns, "m01": digest})
    federation.shares["m02"] = bad
    object.__setattr__(federation.hub, "shares", {**federation.hub.shares, "m02": bad})
    ready(federation)
    assert federation.hub.excluded == {"m02"}


def test_a_false_complaint_costs_its_author_its_place() -> None:
    federation = ready(dealt(group_of(5)))
    node = federation.nodes["m01"]
    complaint = messages.ShareComplaint(
        charter=federation.group.charter,
        author="m01",
        epoch_hash=str(federation.hub.epoch_hash),
        dealer="m02",
        slot=0,
        key="0" * 64,
    )
    feed_ready(federation, complaint)
    assert federation.hub.excluded == {"m01", "m02"}
    assert node.epoch is not None


def test_wraps_that_do_not_open_abandon_the_round_and_name_the_member() -> None:
    federation = ready(dealt(group_of(4, hybrid=True)))
    broken = bytes(len(federation.hub.wraps["m04"]))
    object.__setattr__(federation.hub, "wraps", {**federation.hub.wraps, "m04": broken})
    turn = send_inputs(open_round(federation, expected_of()), lost=["m04"])
    finish(turn)
    assert turn.hub.phase is RoundPhase.ABANDONED
    blames = [effect for effect in turn.effects if isinstance(effect, coordinator.Blame)]
    assert [blame.members for blame in blames] == [{"m04"}]


def test_a_lost_dealer_is_left_out_and_learns_it() -> None:
    federation = ready(dealt(group_of(5), lost_shares=["m03"]))
    assert federation.hub.dealers == ("m01", "m02", "m04", "m05")
    node = federation.nodes["m03"]
    assert federation.sealed is not None
    node.on_epoch(DealingSealed(federation.sealed, federation.shares, {}, node.secret))
    assert node.epoch is not None and node.epoch.phase.value == "closed"
    assert node.disk.secrets == {}


@pytest.mark.parametrize("stage", ["keys", "shares", "ready"])
def test_an_epoch_with_too_few_members_fails(stage: str) -> None:
    group = group_of(4)
    federation = dealt(group)
    hub = federation.hub
    if stage == "keys":
        hub, effects = coordinator.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
        hub, _ = hub.step(coordinator.OpenedLogged(published(effects, messages.EpochOpened)))
    elif stage == "shares":
        object.__setattr__(hub, "phase", EnrolmentPhase.COLLECTING_SHARES)
        object.__setattr__(hub, "shares", {})
    hub, out = hub.step(coordinator.Deadline())
    assert hub.phase is EnrolmentPhase.FAILED
    assert out == (coordinator.EpochFailed(messages.CloseCode.TOO_FEW_MEMBERS),)


def test_what_the_coordinator_should_not_log_is_refused() -> None:
    federation = ready(dealt(group_of(4)))
    turn = send_inputs(open_round(federation, expected_of()), lost=["m04"])
    header = turn.headers["m01"]
    rows: list[tuple[object, str]] = [
        (coordinator.InputArrived(changed(header, context=tag("x"))), "wrong-context"),
        (coordinator.InputArrived(changed(header, author="m09")), "not-a-participant"),
        (coordinator.InputArrived(changed(header, blob=tag("x"))), "second-input"),
        (coordinator.InputArrived(changed(header, author="m04", length=6)), "wrong-shape"),
    ]
    for event, code in rows:
        with pytest.raises(VerificationError) as refusal:
            turn.hub.step(event)  # type: ignore[arg-type]  # one of its events
        assert refusal.value.code == code, event
    sealed = published(turn.effects, messages.SurvivorsSealed)
    fewer = changed(sealed, survivors=sealed.predicate.survivors[:2])
    with pytest.raises(VerificationError) as refusal:
        turn.hub.step(coordinator.SurvivorsLogged(fewer))
    assert refusal.value.code == "survivors-differ"
    finish(turn)
    answer = next(iter(turn.hub.reveals.values()))
    fresh = coordinator.CoordinatorRound.begin(federation.hub, turn.opened.predicate)
    for one in turn.headers.values():
        fresh, _ = fresh.step(coordinator.InputArrived(one))
    fresh, _ = fresh.step(coordinator.SurvivorsLogged(sealed))
    for fields, code in (
        ({"survivors": tag("x")}, "survivors-differ"),
        ({"author": "m04"}, "not-a-participant"),
        ({"self_shares": {}}, "reveal-malformed"),
        ({"round_shares": answer.predicate.self_shares}, "reveal-malformed"),
    ):
        with pytest.raises(VerificationError) as refusal:
            fresh.step(coordinator.RevealLogged(changed(answer, **fields)))
        assert refusal.value.code == code
    fresh, _ = fresh.step(coordinator.RevealLogged(answer))
    with pytest.raises(VerificationError) as refusal:
        fresh.step(
            coordinator.RevealLogged(
                changed(answer, self_shares={**answer.predicate.self_shares, "m01": "1" * 64})
            )
        )
    assert refusal.value.code == "second-reveal"


def test_an_answered_slot_leaves_no_secret_behind() -> None:
    federation = ready(dealt(group_of(4), slots=2))
    turn = send_inputs(open_round(federation, expected_of()))
    finish(turn)
    for node in federation.nodes.values():
        assert set(node.disk.secrets) == {"epoch-000001-slot-0001"}
        assert node.slot is not None
        assert EraseSecret("epoch-000001-slot-0000") in node.slot.repeat()


@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_keys_that_stand_in_an_epoch_twice_do_not_come_into_the_log(whose: str) -> None:
    """T-16: else everybody refuses the roster that holds them, and one member stops every epoch."""
    group = group_of(4)
    federation = dealt(group)
    hub, effects = coordinator.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
    hub, _ = hub.step(coordinator.OpenedLogged(published(effects, messages.EpochOpened)))
    first, second, *rest = federation.keys
    hub, _ = hub.step(coordinator.KeysLogged(first))
    taken = (first if whose == "another's" else second).predicate.round_keys[0]
    with pytest.raises(VerificationError) as refusal:
        hub.step(coordinator.KeysLogged(changed(second, transport=taken)))
    assert refusal.value.code == "keys-repeat"
    for one in (second, *rest):
        hub, effects = hub.step(coordinator.KeysLogged(one))
    hub, _ = hub.step(coordinator.RosterLogged(published(effects, messages.EpochRoster)))
    assert hub.phase is EnrolmentPhase.COLLECTING_SHARES
