"""Epochs and rounds: what everyone may check, refused by code.

Planted and caught: keys, columns and commitments of another number; a roster of too few, out of
order, or of keys not logged; a statement of an earlier epoch taken; a dealer that dealt nothing; a
member ready that did not deal; an observer's keys; slots used again or beyond the epoch;
participants repeated to make a quorum; an input of another length; survivors that omit, add, repeat
or reorder inputs; another context; two answers; an answer of a member that is not in the sum, with
both shares, with shares of a stranger, before the confirmations; a result after too few answers, of
other seeds, for another set.
"""

import msgspec
import pytest

from tests.worlds import HUB, NAMES, World, digest, refused, runner
from treaty.ids import MemberId
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_messages import (
    CloseCode,
    DeclineCode,
    EpochClosed,
    EpochKeys,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    InputDeclined,
    MaskedInput,
    RoundAbandoned,
    RoundCode,
    ShareComplaint,
    Survivor,
    SurvivorsConfirmed,
)
from treaty.protocol.secure_round import EpochPhase, EpochRecord, RoundPhase, RoundRecord
from treaty.protocol.statements import Verified, of_kind, open_statement, seal_statement

A, B, C, D = NAMES[:4]


def running(members: int = 4) -> World:
    world = World(members)
    world.start()
    return world


def with_keys(members: int = 4) -> World:
    world = running(members)
    world.begin_epoch()
    for name in world.names:
        world.send_keys(name)
    return world


def dealing() -> World:
    world = with_keys()
    world.fix_roster()
    return world


def dealt() -> World:
    world = dealing()
    for name in world.names:
        world.deal(name)
    return world


def ready(members: int = 4) -> World:
    world = running(members)
    world.open_epoch()
    return world


def collecting(members: int = 4) -> World:
    world = ready(members)
    world.open_round()
    return world


def revealing(survivors: tuple[str, ...] = NAMES[:4], members: int = 4) -> World:
    world = collecting(members)
    world.collect(survivors)
    return world


def epoch_of(world: World) -> EpochRecord:
    epoch = world.study.epoch
    assert epoch is not None
    return epoch


def round_of(world: World) -> RoundRecord:
    record = world.study.round
    assert record is not None
    return record


# --- setting up an epoch --------------------------------------------------------------------------


def test_an_epoch_goes_from_keys_to_rounds_to_its_end() -> None:
    world = with_keys()
    assert epoch_of(world).phase is EpochPhase.KEYS
    assert epoch_of(world).epoch_hash is None
    world.fix_roster()
    assert epoch_of(world).phase is EpochPhase.DEALING
    assert epoch_of(world).epoch_hash == world.epoch_hash
    for name in world.names:
        world.deal(name)
    world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=world.names)
    assert epoch_of(world).phase is EpochPhase.OPENING
    for name in world.names:
        world.ready(name)
    assert set(epoch_of(world).ready) == set(world.names)
    with world.refuses("wrong-epoch"):
        world.say(EpochClosed, epoch=2, code=CloseCode.FINISHED)
    world.say(EpochClosed, epoch=1, code=CloseCode.FINISHED)
    assert epoch_of(world).phase is EpochPhase.CLOSED
    with world.refuses("out-of-order"):
        world.say(EpochClosed, epoch=1, code=CloseCode.FINISHED)
    world.begin_epoch()
    assert epoch_of(world).number == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 2},
        {"epoch": 0},
        {"slots": 33},
        {"suite": "cesa1-x25519-mlkem768"},
        {"max_colluders": 2},
        {"min_survivors": 2},
        {"min_survivors": 4},
    ],
)
def test_an_epochs_parameters_are_the_charters(changes: dict[str, object]) -> None:
    world = running()
    with world.refuses("altered-parameters"):
        world.begin_epoch(**changes)


def test_an_epoch_belongs_to_a_study_and_stands_alone() -> None:
    world = running()
    with world.refuses("no-study"):
        world.begin_epoch(plan=digest("another"))
    world.begin_epoch()
    with world.refuses("out-of-order"):
        world.begin_epoch()


def test_keys_are_sent_once_and_for_this_epoch() -> None:
    world = running()
    with world.refuses("out-of-order"):
        world.say(
            EpochKeys,
            A,
            epoch=1,
            opened=digest("o"),
            transport=digest("t"),
            kem=None,
            round_keys=(),
            commitments=(),
        )
    world.begin_epoch()
    for changes in ({"epoch": 2}, {"opened": digest("another")}):
        with world.refuses("wrong-epoch"):
            world.send_keys(A, **changes)
    world.send_keys(A)
    entry = world.entries[-1]
    with world.refuses("replayed"):
        world.offer(entry)
    with world.refuses("equivocation"):
        world.send_keys(A, transport=digest("another"))


def test_keys_shares_and_readiness_have_the_epochs_shape() -> None:
    world = running()
    world.begin_epoch()
    fifteen = [digest(f"{place}") for place in range(15)]
    shapes: list[dict[str, object]] = [
        {"round_keys": fifteen},
        {"commitments": fifteen},
        {"kem": "00" * 1184},
    ]
    for changes in shapes:
        with world.refuses("malformed"):
            world.send_keys(A, **changes)
    for name in world.names:
        world.send_keys(name)
    world.fix_roster()
    whole = {peer: digest(peer) for peer in (B, C, D)}
    for columns in ({}, {B: digest("b"), C: digest("c")}, whole | {A: digest("a")}):
        with world.refuses("malformed"):
            world.say(EpochShares, A, epoch_hash=world.epoch_hash, columns=columns)
    for name in world.names:
        world.deal(name)
    world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=world.names)
    for pairs, wraps in (((digest("pair"),), None), ((), digest("wraps"))):
        with world.refuses("malformed"):
            world.say(
                EpochReady, A, epoch_hash=world.epoch_hash, pair_commitments=pairs, wraps=wraps
            )


def test_a_roster_is_logged_keys_in_the_charters_order() -> None:
    world = with_keys()
    digests = [epoch_of(world).keys[name].digest for name in world.names]
    with world.refuses("unlogged"):
        world.fix_roster([*digests[:3], digest("unlogged")])
    with world.refuses("too-few"):
        world.fix_roster(digests[:2])
    with world.refuses("member-order"):
        world.fix_roster([digests[1], digests[0], digests[2]])
    with world.refuses("member-order"):
        world.fix_roster([digests[0], digests[1], digests[1]])
    for changes in ({"epoch": 2}, {"opened": digest("another")}):
        fields = {"epoch": 1, "opened": epoch_of(world).opened.digest, "keys": digests} | changes
        with world.refuses("wrong-epoch"):
            world.say(EpochRoster, **fields)
    world.fix_roster(digests[1:])
    with world.refuses("not-in-epoch"):
        world.deal(A)
    with world.refuses("out-of-order"):
        world.send_keys(A)


def test_statements_of_an_earlier_epoch_have_no_effect() -> None:
    """The keys of a later epoch differ, so its hash does: nothing old can be sequenced again."""
    world = dealt()
    old = world.entries[-4:]
    world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=world.names)
    sealed = world.entries[-1]
    world.ready(A)
    was_ready = world.entries[-1]
    world.say(EpochClosed, epoch=1, code=CloseCode.SUPERSEDED)
    world.begin_epoch()
    for name in world.names:
        world.send_keys(name)
    world.fix_roster()
    for entry in old:
        with world.refuses("wrong-epoch"):
            world.offer(entry)
    for name in world.names:
        world.deal(name)
    with world.refuses("wrong-epoch"):
        world.offer(sealed)
    world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=world.names)
    with world.refuses("wrong-epoch"):
        world.offer(was_ready)
    complaint = {"epoch_hash": digest("old"), "dealer": B, "slot": 0, "key": digest("key")}
    with world.refuses("wrong-epoch"):
        world.say(ShareComplaint, A, **complaint)


def test_dealers_dealt_and_are_enough() -> None:
    world = dealing()
    for name in (A, B, C):
        world.deal(name)
    with world.refuses("equivocation"):
        world.say(EpochShares, A, epoch_hash=world.epoch_hash, columns={})
    for code, dealers in (
        ("unlogged", (A, B, C, D)),
        ("too-few", (A, B)),
        ("member-order", (A, C, B)),
        ("member-order", (A, B, B)),
    ):
        with world.refuses(code):
            world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=dealers)
    world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=(A, B, C))
    with world.refuses("not-in-epoch"):
        world.ready(D)
    world.ready(A)
    with world.refuses("equivocation"):
        world.say(
            EpochReady,
            A,
            epoch_hash=world.epoch_hash,
            pair_commitments=(digest("x"),),
            wraps=None,
        )


def test_a_complaint_stands_once_and_comes_from_a_dealer() -> None:
    world = dealt()
    world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=(A, B, C))
    fields = {"epoch_hash": world.epoch_hash, "dealer": B, "slot": 0, "key": digest("key")}
    world.say(ShareComplaint, A, **fields)
    with world.refuses("replayed"):
        world.say(ShareComplaint, A, **fields)
    with world.refuses("not-in-epoch"):
        world.say(ShareComplaint, D, **fields)
    world.say(ShareComplaint, A, **(fields | {"slot": 1}))
    assert len(epoch_of(world).complaints) == 2


# --- opening a round ------------------------------------------------------------------------------


def test_a_slot_is_used_once_and_slots_rise() -> None:
    world = ready()
    for slot in (16, 63):
        with world.refuses("slot-used"):
            world.open_round(slot=slot)
    world.open_round(slot=3)
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_INPUTS)
    for slot in (0, 3):
        with world.refuses("slot-used"):
            world.open_round(slot=slot)
    world.open_round(slot=15)


def test_participants_are_ready_in_order_and_enough() -> None:
    world = dealt()
    world.say(EpochSealed, epoch_hash=world.epoch_hash, dealers=world.names)
    for name in (A, B, C):
        world.ready(name)
    for code, participants in (
        ("not-in-epoch", world.names),
        ("too-few", (A, B)),
        ("member-order", (A, B, B)),
        ("member-order", (B, A, C)),
        ("not-a-member", (A, B, HUB)),
    ):
        with world.refuses(code):
            world.open_round(participants=participants)
    with world.refuses("wrong-epoch"):
        world.open_round(participants=(A, B, C), epoch_hash=digest("another"))
    world.open_round(participants=(A, B, C))
    with world.refuses("not-in-round"):
        world.send_input(D)


# --- inputs ---------------------------------------------------------------------------------------


def test_an_input_is_sent_once_in_its_round_with_its_length() -> None:
    world = collecting()
    with world.refuses("wrong-length"):
        world.send_input(A, length=3)
    with world.refuses("wrong-context"):
        world.send_input(A, context=digest("another"))
    world.send_input(A)
    entry = world.entries[-1]
    with world.refuses("replayed"):
        world.offer(entry)
    with world.refuses("equivocation"):
        world.send_input(A, blob=digest("another"))
    world.say(InputDeclined, B, context=world.context, code=DeclineCode.SITE_DECLINED)
    with world.refuses("replayed"):
        world.say(InputDeclined, B, context=world.context, code=DeclineCode.SITE_DECLINED)
    with world.refuses("equivocation"):
        world.say(InputDeclined, B, context=world.context, code=DeclineCode.PROTOCOL_REFUSED)
    assert set(round_of(world).inputs) == {A}
    assert set(round_of(world).declined) == {B}


def test_nothing_is_sent_without_a_round() -> None:
    world = ready()
    body = {"context": digest("c"), "length": 4, "root": digest("r"), "blob": digest("b")}
    with world.refuses("out-of-order"):
        world.say(MaskedInput, A, **body)


# --- survivors ------------------------------------------------------------------------------------


def test_survivors_are_exactly_the_logged_inputs() -> None:
    world = collecting()
    for name in world.names:
        world.send_input(name)
    good = world.survivors()
    forged = msgspec.structs.replace(good[3], root=digest("another"))
    relabelled = msgspec.structs.replace(good[3], header=good[2].header)
    stranger = Survivor(member="stranger.example", header=digest("h"), root=digest("r"))
    for survivors in (
        good[:3],
        good[1:],
        [],
        [*good, good[0]],
        [*good[:3], forged],
        [*good[:3], relabelled],
        [*good, stranger],
    ):
        with world.refuses("unlogged"):
            world.seal(survivors)
    with world.refuses("member-order"):
        world.seal(good[::-1])
    world.seal(good)
    assert round_of(world).members_in == world.names
    assert round_of(world).phase is RoundPhase.REVEALING
    with world.refuses("out-of-order"):
        world.seal(good)
    with world.refuses("out-of-order"):
        world.send_input(A)


def test_too_few_inputs_are_never_opened() -> None:
    world = collecting()
    for name in (A, B):
        world.send_input(name)
    with world.refuses("too-few"):
        world.seal()
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_INPUTS)
    assert world.study.round is None
    assert world.study.rounds[-1].phase is RoundPhase.ABANDONED
    assert world.study.round is None


# --- answers --------------------------------------------------------------------------------------


def test_answers_are_for_one_set_of_survivors() -> None:
    world = revealing()
    with world.refuses("two-survivor-sets"):
        world.reveal(A, survivors=digest("another"))
    with world.refuses("two-survivor-sets"):
        world.say(SurvivorsConfirmed, A, context=world.context, survivors=digest("another"))
    world.reveal(A)
    entry = world.entries[-1]
    with world.refuses("replayed"):
        world.offer(entry)
    with world.refuses("equivocation"):
        world.reveal(A, self_shares={})


@pytest.mark.parametrize(
    "code, self_of, round_of_",
    [
        ("both-shares", (A, B, C), (A,)),
        ("both-shares", (A, B, C, D), (D,)),
        ("wrong-shares", (A, B, C, D), ()),
        ("wrong-shares", (A, B), (C,)),
        ("wrong-shares", (A, B, C), (D, "thur.example")),
        ("wrong-shares", (A, B, C, "stranger.example"), (D,)),
    ],
)
def test_shares_are_of_one_kind_for_each_member(
    code: str, self_of: tuple[str, ...], round_of_: tuple[str, ...]
) -> None:
    world = revealing((A, B, C))
    with world.refuses(code):
        world.reveal(
            A,
            self_shares={name: digest(f"z {name}") for name in self_of},
            round_shares={name: digest(f"u {name}") for name in round_of_},
        )


def test_shares_of_a_member_outside_the_round_are_refused() -> None:
    world = ready(5)
    world.open_round(participants=NAMES[:4])
    world.collect()
    with world.refuses("wrong-shares"):
        world.reveal(A, round_shares={NAMES[4]: digest("u")})


def test_who_is_not_in_the_sum_neither_confirms_nor_answers() -> None:
    world = revealing((A, B, C))
    with world.refuses("not-in-round"):
        world.reveal(D)
    with world.refuses("not-in-round"):
        world.confirm(D)


def test_few_survivors_confirm_before_they_answer() -> None:
    world = collecting(6)
    for name in NAMES[:4]:
        world.send_input(name)
    assert world.study.group.fast_survivors(6) == 5
    world.seal()
    for count, name in enumerate(NAMES[:4]):
        assert count < world.study.group.share_threshold
        with world.refuses("not-confirmed"):
            world.reveal(A)
        world.confirm(name)
    with world.refuses("replayed"):
        world.confirm(A)
    world.reveal(A)


def test_all_survivors_answer_at_once() -> None:
    world = revealing(NAMES[:5], 6)
    world.reveal(A)
    assert round_of(world).confirmed == {}


# --- results --------------------------------------------------------------------------------------


def test_a_result_needs_the_threshold_of_answers_and_all_seeds() -> None:
    world = revealing((A, B, C))
    total = world.total()
    for name in (A, B):
        world.reveal(name)
    with world.refuses("too-few"):
        world.result(total)
    world.reveal(C)
    seeds = {name: digest(name) for name in (A, B, C, D)}
    others: list[dict[str, object]] = [
        {"self_seeds": {}},
        {"self_seeds": seeds},
        {"round_seeds": {}},
        {"round_seeds": {A: digest("u")}},
        {"round_seeds": seeds},
    ]
    for changes in others:
        with world.refuses("wrong-shares"):
            world.result(total, **changes)
    with world.refuses("two-survivor-sets"):
        world.result(total, survivors=digest("another"))
    world.result(total)
    assert world.study.rounds[-1].phase is RoundPhase.PUBLISHED
    assert world.study.round is None
    assert world.study.last_result == world.state_digest()


def test_a_result_before_the_survivors_is_out_of_order() -> None:
    world = collecting()
    with world.refuses("out-of-order"):
        world.result(world.total(), survivors=digest("none"))
    with world.refuses("out-of-order"):
        world.reveal(A, survivors=digest("none"))


# --- who may speak at all -------------------------------------------------------------------------


def keys_of(world: World, author: str) -> Verified[EpochKeys]:
    """Return the verified keys of a member, not yet folded."""
    body = world.write(
        EpochKeys,
        author,
        epoch=1,
        opened=epoch_of(world).opened.digest,
        transport=digest("t"),
        kem=None,
        round_keys=(digest("k"),) * 16,
        commitments=(digest("c"),) * 16,
    )
    data = seal_statement(body, runner(author))
    return of_kind(open_statement(data, world.state.members.directory), EpochKeys)


def test_a_runner_key_alone_does_not_make_a_member_of_the_group() -> None:
    """A member that left the group keeps its key in the charter; its keys are refused."""
    world = running(5)
    world.begin_epoch()
    record = epoch_of(world)
    fewer = {name: one for name, one in world.first.members.items() if name != NAMES[4]}
    smaller = msgspec.structs.replace(world.first, members=fewer)
    group = Group.of(smaller)
    late = EpochRecord(group, record.opened)
    with refused("not-a-member"):
        late.step(keys_of(world, NAMES[4]))
    assert MemberId(NAMES[4]) not in group.members
    kept = late.step(keys_of(world, NAMES[0]))
    assert set(kept.keys) == {NAMES[0]}


def test_records_refuse_what_is_not_theirs() -> None:
    world = collecting()
    foreign = round_of(world).opened
    with refused("out-of-order"):
        epoch_of(world).step(foreign)
    with refused("wrong-context"):
        round_of(world).step(foreign, world.find)
