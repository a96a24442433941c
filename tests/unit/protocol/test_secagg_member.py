"""Everything a member refuses, each with its code, and what it keeps across crashes.

After each refusal the machine is as it was: states are values, and the disk is compared.

Planted faults that these tests caught: each numbered check of `MemberSlot.begin`, `_on_survivors`,
`MemberEpoch.begin`, `check_roster` and `_on_sealed` taken out, one at a time; `Send` ordered with
`Persist`; the lock forgotten on answering; the own header believed from the log alone; a second
set answered after a confirmation; the slot's secret kept after the answer; a share of the
wrong kind; the survivors' digest without the roots; what another seed gave taken for this one's;
what was derived kept once the epoch is ready, or closed.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product

import msgspec
import pytest

from tests.unit.protocol.secagg_rig import (
    Federation,
    Node,
    Round,
    announce,
    changed,
    dealt,
    expected_of,
    finish,
    group_of,
    open_round,
    published,
    ready,
    send_inputs,
    tag,
    values_of,
    verified,
    without,
)
from treaty.crypto import canonical
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.ids import MemberId
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_effects import EraseSecret, NeedInput, Persist, Persisted, Send
from treaty.protocol.secagg_epoch import MemberEpoch
from treaty.protocol.secagg_keys import Group, SlotSecrets, mask_plan
from treaty.protocol.secagg_lifecycle import (
    EPOCH_TRANSITIONS,
    SLOT_KEY,
    SLOT_TRANSITIONS,
    EpochEnded,
    EpochPhase,
    RosterFixed,
    SlotPhase,
)
from treaty.protocol.secagg_member import (
    ConfirmationLogged,
    InputLogged,
    InputReady,
    MemberSlot,
    RoundEnded,
    SurvivorsAnnounced,
)
from treaty.protocol.statements import Verified

Refusal = (PolicyError, VerificationError)


def refused(node: Node, code: str, act: Callable[[], object]) -> None:
    """Check that `act` is refused with `code` and leaves disk and state alone."""
    before = (dict(node.disk.records), dict(node.disk.secrets), node.epoch, node.slot)
    with pytest.raises(Refusal) as refusal:
        act()
    assert refusal.value.code == code
    assert (node.disk.records, node.disk.secrets, node.epoch, node.slot) == before


def opening(group: Group, **fields: object) -> Verified[messages.EpochOpened]:
    """Return an opening of an epoch with some fields changed."""
    _, effects = coordinator.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
    return changed(published(effects, messages.EpochOpened), **fields)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"epoch": 0}, "epoch-not-new"),
        ({"plan": tag("other")}, "wrong-plan"),
        ({"suite": messages.HYBRID_SUITE}, "wrong-parameters"),
        ({"max_colluders": 0}, "wrong-parameters"),
        ({"min_survivors": 2}, "wrong-parameters"),
        ({"charter": tag("other")}, "wrong-parameters"),
        ({"slots": 9}, "too-many-slots"),
    ],
)
def test_an_epoch_that_the_charter_does_not_give_is_refused(
    fields: dict[str, object], code: str
) -> None:
    group = group_of(4)
    node = Node(group, group.members[0])
    refused(node, code, lambda: node.join(opening(group, **fields)))


def test_a_stranger_has_no_epoch() -> None:
    group = group_of(4)
    node = Node(group, MemberId("stranger"))
    refused(node, "not-a-member", lambda: node.join(opening(group)))


def test_thresholds_below_the_derived_ones_are_no_group() -> None:
    for fields in ({"share_threshold": 2}, {"min_survivors": 2}, {"max_colluders": 2}):
        with pytest.raises(UsageError):
            without(group_of(4), **fields)


def keyed(count: int = 4) -> tuple[Federation, Node, RosterFixed]:
    """Return a federation before dealing, its first member, and the roster event."""
    group = group_of(count)
    federation = dealt(group)
    assert federation.roster is not None
    node = Node(group, group.members[0])
    _, effects = coordinator.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
    node.join(published(effects, messages.EpochOpened))
    return federation, node, RosterFixed(federation.roster, federation.keys, node.secret)


def with_keys(event: RosterFixed, place: int, **fields: object) -> RosterFixed:
    """Return the roster with one entry changed and listed by its new digest."""
    keys = list(event.keys)
    keys[place] = changed(keys[place], **fields)
    roster = changed(event.roster, keys=tuple(one.digest for one in keys))
    return RosterFixed(roster, tuple(keys), event.secret)


LOW_ORDER = "0" * 64


def test_a_roster_that_does_not_hold_is_refused() -> None:
    _, node, event = keyed()
    names = event.roster.predicate.keys
    peer = event.keys[1].predicate

    def listed(keys: tuple[str, ...]) -> RosterFixed:
        return RosterFixed(changed(event.roster, keys=keys), event.keys, event.secret)

    rows = [
        (RosterFixed(changed(event.roster, epoch=2), event.keys, event.secret), "wrong-epoch"),
        (RosterFixed(changed(event.roster, opened=tag("x")), event.keys, b""), "wrong-epoch"),
        (RosterFixed(event.roster, event.keys[:3], event.secret), "keys-missing"),
        (listed(names[::-1]), "member-order"),
        (listed((*names, names[-1])), "member-order"),
        (listed(names[:2]), "too-few-members"),
        (with_keys(event, 1, author="m00"), "not-a-member"),
        (with_keys(event, 1, epoch=2), "wrong-epoch"),
        (with_keys(event, 1, round_keys=peer.round_keys[:1]), "keys-malformed"),
        (with_keys(event, 1, commitments=peer.commitments[:1]), "keys-malformed"),
        (with_keys(event, 1, kem="0" * 2368), "keys-malformed"),
        (with_keys(event, 1, transport=event.keys[2].predicate.transport), "keys-repeat"),
        (with_keys(event, 1, transport=peer.round_keys[0]), "keys-repeat"),
        (with_keys(event, 1, transport=LOW_ORDER), "low-order-key"),
        (with_keys(event, 1, round_keys=(LOW_ORDER, peer.round_keys[1])), "low-order-key"),
        (with_keys(event, 0, commitments=peer.commitments), "own-keys-differ"),
        (with_keys(event, 0, transport=peer.transport[:-2] + "00"), "own-keys-differ"),
    ]
    for bad, code in rows:
        refused(node, code, lambda bad=bad: node.on_epoch(bad))  # type: ignore[misc]  # loop value
    node.on_epoch(event)
    assert node.epoch is not None and node.epoch.phase is EpochPhase.DEALT
    refused(node, "out-of-order", lambda: node.on_epoch(event))


def test_a_roster_without_this_member_ends_its_epoch() -> None:
    _, node, event = keyed()
    roster = changed(event.roster, keys=event.roster.predicate.keys[1:])
    node.on_epoch(RosterFixed(roster, event.keys, event.secret))
    assert node.epoch is not None and node.epoch.phase is EpochPhase.CLOSED
    assert node.disk.secrets == {}


def test_another_roster_is_another_epoch_and_nothing_opens() -> None:
    """A coordinator that shows two rosters splits the members; no shares cross."""
    federation, node, event = keyed(5)
    shorter = changed(event.roster, keys=event.roster.predicate.keys[:4])
    node.on_epoch(RosterFixed(shorter, event.keys, event.secret))
    assert node.epoch is not None
    assert node.epoch.epoch_hash != federation.hub.epoch_hash
    federation.nodes["m01"] = node
    refused(node, "wrong-epoch", lambda: node.on_epoch(federation.sealed_event("m01")))


def test_dealing_that_does_not_hold_is_refused() -> None:
    federation = dealt(group_of(4))
    node = federation.nodes["m01"]
    good = federation.sealed_event("m01")
    shares = good.shares["m02"]

    def sealed(**fields: object) -> object:
        return altered(good, sealed=changed(good.sealed, **fields))

    rows = [
        (sealed(epoch_hash=tag("x")), "wrong-epoch"),
        (sealed(dealers=("m02", "m01", "m03")), "member-order"),
        (sealed(dealers=("m01", "m02")), "too-few-members"),
        (altered(good, shares={**good.shares, "m02": good.shares["m03"]}), "shares-missing"),
        (altered(good, shares={}), "shares-missing"),
        (
            altered(good, shares={**good.shares, "m02": changed(shares, epoch_hash=tag("x"))}),
            "wrong-epoch",
        ),
        (altered(good, columns={}), "column-missing"),
        (altered(good, columns={**good.columns, "m02": good.columns["m03"]}), "column-differs"),
    ]
    for bad, code in rows:
        refused(node, code, lambda bad=bad: node.on_epoch(bad))  # type: ignore[misc]  # loop value
    three = group_of(5)
    other = dealt(three, lost_keys=["m05"])
    event = other.sealed_event("m01")
    dealers = (*event.sealed.predicate.dealers, "m05")
    bad = altered(event, sealed=changed(event.sealed, dealers=dealers))
    refused(other.nodes["m01"], "not-in-roster", lambda: other.nodes["m01"].on_epoch(bad))


def altered(event: object, **fields: object) -> object:
    """Return the event dataclass with other fields."""
    return replace(event, **fields)  # type: ignore[type-var]  # an event


@pytest.mark.parametrize("hybrid", [False, True])
def test_no_record_holds_a_secret_and_ready_members_keep_only_slot_files(hybrid: bool) -> None:
    federation = ready(dealt(group_of(4, hybrid=hybrid)))
    for node in federation.nodes.values():
        assert set(node.disk.secrets) == {"epoch-000001-slot-0000", "epoch-000001-slot-0001"}
        stored = b"".join(node.disk.records.values())
        for data in node.disk.secrets.values():
            secret = msgspec.json.decode(data)
            seeds = [secret["self_seed"], secret["agreement"], *secret["pair_seeds"].values()]
            shares = [*secret["self_shares"].values(), *secret["round_shares"].values()]
            for text in (*seeds, *shares):
                assert text.encode() not in stored
                assert all(text.encode() not in canonical.encode(one) for one in node.sent)


def test_what_was_derived_before_is_what_a_restart_derives_and_ends_with_the_seed() -> None:
    """With it, without it, and with another member's the step is the same; then it is gone."""
    federation = dealt(group_of(4))
    node, event = federation.nodes["m01"], federation.sealed_event("m01")
    epoch, foreign = node.epoch, federation.nodes["m02"].epoch
    assert epoch is not None and foreign is not None
    assert epoch.derived is not None and foreign.derived is not None
    assert "derived" not in repr(epoch)
    moved, effects = epoch.step(event)
    assert moved.derived is None
    for derived in (None, foreign.derived):
        again, same = replace(epoch, derived=derived).step(event)
        assert (again, same) == (moved, effects)
        assert again.derived is None
    closed, _ = epoch.step(EpochEnded())
    assert closed.derived is None


def test_ending_an_epoch_leaves_no_secret() -> None:
    for stage in ("keys", "dealt", "ready"):
        federation = dealt(group_of(4))
        if stage == "ready":
            ready(federation)
        node = keyed()[1] if stage == "keys" else federation.nodes["m01"]
        node.on_epoch(EpochEnded())
        assert node.disk.secrets == {}
        assert node.epoch is not None and node.epoch.phase is EpochPhase.CLOSED
        node.disk.secrets["epoch-000001"] = b"left by a crash before it was erased"
        node.restart()
        assert node.epoch is not None and node.epoch.phase is EpochPhase.CLOSED
        assert node.disk.secrets == {}


# --- rounds ---------------------------------------------------------------------------------


def opened_round(size: int = 4, colluders: int = 1) -> Round:
    """Return a round of a ready federation, opened but not yet begun by anyone."""
    return open_round(ready(dealt(group_of(size, colluders), slots=3)), expected_of())


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"epoch_hash": tag("x")}, "wrong-epoch"),
        ({"slot": 3}, "slot-out-of-range"),
        ({"participants": ("m02", "m01", "m03")}, "member-order"),
        ({"participants": ("m01", "m01", "m02")}, "member-order"),
        ({"participants": ("m01", "m02", "zz")}, "not-a-member"),
        ({"participants": ("m02", "m03", "m04")}, "not-a-participant"),
        ({"participants": ("m01", "m02")}, "too-few-participants"),
        ({"plan": tag("x")}, "wrong-plan"),
        ({"query": tag("x")}, "wrong-query"),
        ({"code": tag("x")}, "wrong-code"),
        ({"model": tag("x")}, "wrong-model"),
        ({"length": 6}, "wrong-shape"),
        ({"ring_bits": 32}, "wrong-shape"),
        ({"round": 1}, "wrong-round"),
        ({"previous": tag("x")}, "wrong-previous"),
    ],
)
def test_a_round_that_the_member_does_not_expect_is_refused(
    fields: dict[str, object], code: str
) -> None:
    turn = opened_round()
    node = turn.node("m01")
    refused(node, code, lambda: node.begin(changed(turn.opened, **fields), turn.expected))


def test_a_participant_without_shares_is_refused() -> None:
    turn = open_round(ready(dealt(group_of(5), lost_shares=["m03"])), expected_of())
    node = turn.node("m01")
    bad = changed(turn.opened, participants=("m01", "m02", "m03", "m04"))
    refused(node, "not-in-epoch", lambda: node.begin(bad, turn.expected))


def test_no_round_before_the_shares_are_open() -> None:
    federation = dealt(group_of(4))
    node = federation.nodes["m01"]
    turn = opened_round()
    refused(node, "epoch-not-ready", lambda: node.begin(turn.opened, turn.expected))


def test_a_slot_takes_one_input_for_ever() -> None:
    """Also after a restart, and when an old backup was restored but the log remembers."""
    turn = opened_round()
    node = turn.node("m01")
    backup = dict(node.disk.records)
    files = dict(node.disk.secrets)
    node.contribute(node.begin(turn.opened, turn.expected), values_of("m01", turn.expected))
    refused(node, "slot-used", lambda: node.begin(turn.opened, turn.expected))
    node.restart()
    refused(node, "slot-used", lambda: node.begin(turn.opened, turn.expected))
    node.disk.records, node.disk.secrets = backup, files
    node.restart()
    refused(node, "slot-used", lambda: node.begin(turn.opened, turn.expected, floor=0))


def test_an_input_leaves_only_when_it_is_on_the_disk() -> None:
    turn = opened_round()
    node = turn.node("m01")
    node.begin(turn.opened, turn.expected)
    assert node.slot is not None
    waiting, effects = node.slot.step(InputReady(tag("v"), tag("r"), tag("b")))
    assert [type(effect) for effect in effects] == [Persist]
    (order,) = effects
    assert isinstance(order, Persist)
    assert {key.split("/")[1] for key, _ in order.records} == {"slot", "lock", "epoch"}
    with pytest.raises(UsageError):
        waiting.step(Persisted("another"))
    sent, out = waiting.step(Persisted(order.token))
    assert [type(effect) for effect in out] == [Send]
    restored = MemberSlot.restore(sent.epoch, dict(order.records)[SLOT_KEY])
    assert restored.repeat() == out
    assert restored.phase is SlotPhase.INPUT_SENT


def test_sends_of_the_tables_follow_persisted_alone() -> None:
    """Phases in which something was sent are entered by `Persisted` only."""
    for table, sent in (
        (EPOCH_TRANSITIONS, {EpochPhase.KEYS_SENT, EpochPhase.DEALT, EpochPhase.READY}),
        (SLOT_TRANSITIONS, {SlotPhase.INPUT_SENT, SlotPhase.CONFIRMED, SlotPhase.ANSWERED}),
    ):
        for (phase, event), following in table.items():  # type: ignore[attr-defined]  # a mapping
            if event is not Persisted:
                assert not (following & sent) - {phase}, (phase, event)


def sealed_round(
    size: int = 4, lost: tuple[str, ...] = (), colluders: int = 1
) -> tuple[Round, Verified[messages.SurvivorsSealed]]:
    """Return a round whose inputs are in, with the headers shown to everyone."""
    turn = send_inputs(opened_round(size, colluders), lost)
    for name in turn.opened.predicate.participants:
        for header in turn.headers.values():
            turn.node(name).on_slot(InputLogged(header))
    return turn, published(turn.effects, messages.SurvivorsSealed)


def test_survivors_that_do_not_hold_are_refused() -> None:
    turn, sealed = sealed_round()
    node = turn.node("m01")
    all_four = sealed.predicate.survivors

    def survivors(*entries: messages.Survivor) -> SurvivorsAnnounced:
        return SurvivorsAnnounced(changed(sealed, survivors=entries), node.slot_secret)

    other = msgspec.structs.replace
    rows = [
        (SurvivorsAnnounced(changed(sealed, context=tag("x")), b""), "wrong-context"),
        (survivors(*all_four[::-1]), "member-order"),
        (survivors(*all_four[:3], all_four[2]), "member-order"),
        (survivors(*all_four[:3], other(all_four[3], member="zz")), "not-a-member"),
        (survivors(*all_four[1:]), "left-out"),
        (survivors(other(all_four[0], root=tag("x")), *all_four[1:]), "own-root-differs"),
        (
            survivors(all_four[0], other(all_four[1], root=tag("x")), *all_four[2:]),
            "header-differs",
        ),
        (
            survivors(all_four[0], other(all_four[1], header=tag("x")), *all_four[2:]),
            "header-differs",
        ),
        (survivors(*all_four[:2]), "too-few-survivors"),
    ]
    for bad, code in rows:
        refused(node, code, lambda bad=bad: node.on_slot(bad))  # type: ignore[misc]  # loop value


def test_a_survivor_without_a_logged_header_is_refused() -> None:
    turn = send_inputs(opened_round())
    sealed = published(turn.effects, messages.SurvivorsSealed)
    node = turn.node("m01")
    for name in ("m01", "m02", "m03"):
        node.on_slot(InputLogged(turn.headers[name]))
    refused(
        node,
        "header-missing",
        lambda: node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret)),
    )


def test_a_survivor_outside_the_participants_is_refused() -> None:
    federation = ready(dealt(group_of(5), slots=3))
    turn = send_inputs(open_round(federation, expected_of(), exclude=["m05"]))
    sealed = published(turn.effects, messages.SurvivorsSealed)
    stranger = messages.Survivor(member="m05", header=tag("x"), root=tag("x"))
    node = turn.node("m01")
    bad = changed(sealed, survivors=(*sealed.predicate.survivors, stranger))
    refused(
        node,
        "survivor-not-participant",
        lambda: node.on_slot(SurvivorsAnnounced(bad, node.slot_secret)),
    )


def test_headers_that_do_not_hold_are_refused() -> None:
    turn = send_inputs(opened_round())
    node, header = turn.node("m01"), turn.headers["m02"]
    node.on_slot(InputLogged(header))
    rows = [
        (changed(header, context=tag("x")), "wrong-context"),
        (changed(header, author="m09"), "not-a-participant"),
        (changed(header, root=tag("x")), "second-input"),
        (changed(turn.headers["m03"], length=6), "wrong-shape"),
    ]
    for bad, code in rows:
        refused(node, code, lambda bad=bad: node.on_slot(InputLogged(bad)))  # type: ignore[misc]  # loop value
    before = node.slot
    node.on_slot(InputLogged(header))
    assert node.slot == before


def test_one_answer_per_slot_and_the_same_one_again() -> None:
    """The answer is repeated for the same set and refused for any other."""
    turn, sealed = sealed_round(5, ())
    node = turn.node("m01")
    event = SurvivorsAnnounced(sealed, node.slot_secret)
    (first,) = node.on_slot(event)
    assert node.slot_secret is None
    (again,) = node.on_slot(SurvivorsAnnounced(sealed))
    assert again == first and isinstance(first, messages.Reveal)
    fewer = changed(sealed, survivors=sealed.predicate.survivors[:4])
    refused(node, "slot-answered", lambda: node.on_slot(SurvivorsAnnounced(fewer)))
    assert node.restart() == [again]
    refused(node, "slot-answered", lambda: node.on_slot(SurvivorsAnnounced(fewer)))


def test_an_answer_never_holds_both_shares_of_one_member() -> None:
    turn, sealed = sealed_round(4, ("m04",))
    for name in turn.opened.predicate.participants[:3]:
        node = turn.node(name)
        secret = node.slot_secret
        assert secret is not None
        kept = msgspec.json.decode(secret)
        (answer,) = node.on_slot(SurvivorsAnnounced(sealed, secret))
        assert isinstance(answer, messages.Reveal)
        assert set(answer.self_shares) == {"m01", "m02", "m03"}
        assert set(answer.round_shares) == {"m04"}
        assert answer.self_shares == {k: kept["self_shares"][k] for k in answer.self_shares}
        assert answer.round_shares == {"m04": kept["round_shares"]["m04"]}


def test_a_confirmation_binds_as_an_answer_does() -> None:
    turn, sealed = sealed_round(10, ("m10", "m09", "m08"), 3)
    node = turn.node("m01")
    (said,) = node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret))
    assert isinstance(said, messages.SurvivorsConfirmed)
    assert node.slot is not None and node.slot.phase is SlotPhase.CONFIRMED
    # The coordinator now shows one of the three as present after all, too late.
    header = messages.MaskedInput(
        charter=said.charter,
        author="m08",
        context=said.context,
        length=5,
        root=tag("r"),
        blob=tag("b"),
    )
    logged = verified(header)
    node.on_slot(InputLogged(logged))
    entry = messages.Survivor(member="m08", header=logged.digest, root=tag("r"))
    more = changed(sealed, survivors=(*sealed.predicate.survivors, entry))
    refused(node, "slot-answered", lambda: node.on_slot(SurvivorsAnnounced(more, node.slot_secret)))
    rows = [
        (changed(verified(said), context=tag("x")), "wrong-context"),
        (changed(verified(said), author="m10"), "not-a-participant"),
        (changed(verified(said), survivors=tag("x")), "confirmation-differs"),
    ]
    for bad, code in rows:
        refused(
            node,
            code,
            lambda bad=bad: node.on_slot(ConfirmationLogged(bad, node.slot_secret)),  # type: ignore[misc]  # loop value
        )
    for count, name in enumerate(turn.hub.survivor_names or [f"m0{k}" for k in range(1, 8)]):
        confirmed = changed(verified(said), author=name)
        answers = node.on_slot(ConfirmationLogged(confirmed, node.slot_secret))
        repeated = node.on_slot(ConfirmationLogged(confirmed, node.slot_secret))
        assert bool(answers) == (count == 6) and not repeated
    assert node.slot.phase is SlotPhase.ANSWERED


def test_a_restart_between_confirmation_and_answer_loses_nothing() -> None:
    turn, sealed = sealed_round(10, ("m10", "m09", "m08"), 3)
    node = turn.node("m01")
    (said,) = node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret))
    assert node.restart() == [said]
    assert isinstance(said, messages.SurvivorsConfirmed)
    assert node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret)) == [said]
    answers = []
    for k in range(1, 8):
        confirmed = changed(verified(said), author=f"m0{k}")
        answers += node.on_slot(ConfirmationLogged(confirmed, node.slot_secret))
    assert [type(one) for one in answers] == [messages.Reveal]


def test_a_question_is_answered_for_one_set_and_one_vector() -> None:
    """In a later slot the same vector is asked for, and another set is refused until resumed."""
    turn, sealed = sealed_round(5)
    node, federation = turn.node("m01"), turn.federation
    announce(turn, sealed, federation.group.members)
    assert len(sealed.predicate.survivors) == 5
    again = open_round(federation, expected_of(), attempt=1)
    need = node.begin(again.opened, again.expected)
    assert need.vector == canonical.sha256(turn.inputs["m01"].tobytes())
    other = values_of("somebody else", again.expected)
    refused(node, "vector-differs", lambda: node.contribute(need, other))
    fewer = changed(again.opened, participants=("m01", "m02", "m03", "m04"))
    refused(node, "locked-set", lambda: node.begin(fewer, again.expected))
    send_inputs(again, lost=["m05"])
    late = published(again.effects, messages.SurvivorsSealed)
    for header in again.headers.values():
        node.on_slot(InputLogged(header))
    refused(node, "locked-set", lambda: node.on_slot(SurvivorsAnnounced(late, node.slot_secret)))
    third = open_round(federation, expected_of(), attempt=2)
    assert node.begin(third.opened, third.expected).vector == need.vector


def test_a_resumed_question_may_differ_by_those_alone_who_approved() -> None:
    """The vector stays; the set may lose or gain who approved, and nobody else."""
    turn, sealed = sealed_round(6)
    node, federation = turn.node("m01"), turn.federation
    announce(turn, sealed, federation.group.members)
    again = open_round(federation, expected_of(), attempt=1)
    fewer = changed(again.opened, participants=("m01", "m02", "m03", "m04", "m05"))
    for freed in ((), ("m05",)):
        refused(
            node, "locked-set", lambda freed=freed: node.begin(fewer, again.expected, freed=freed)
        )  # type: ignore[misc]  # loop value
    need = node.begin(fewer, again.expected, freed=("m06",))
    assert need.vector == canonical.sha256(turn.inputs["m01"].tobytes())
    for name in ("m02", "m03", "m04", "m05"):
        federation.nodes[name].begin(fewer, again.expected, freed=("m06",))
    headers = {}
    for name in fewer.predicate.participants:
        member = federation.nodes[name]
        assert member.slot is not None
        plan = mask_plan(
            member.group,
            name,
            fewer.predicate.participants,
            canonical.decode(member.slot_secret or b"", SlotSecrets),
            member.slot.context,
            fewer.predicate.epoch_hash,
        )
        ask = NeedInput(member.slot.context, need.length, need.ring_bits, plan)
        (header,) = member.contribute(ask, turn.inputs[name])
        headers[name] = verified(header)
    first, *rest = headers.values()
    node.on_slot(InputLogged(first, tuple(rest)))  # type: ignore[arg-type]  # headers
    rows = tuple(
        messages.Survivor(member=name, header=one.digest, root=one.predicate.root)  # type: ignore[attr-defined]  # a header
        for name, one in headers.items()
    )
    small = messages.SurvivorsSealed(
        charter=federation.group.charter,
        author="hub",
        context=node.slot.context,  # type: ignore[union-attr]  # open
        survivors=rows[:4],
    )
    refused(
        node,
        "locked-set",
        lambda: node.on_slot(SurvivorsAnnounced(verified(small), node.slot_secret)),
    )
    whole = msgspec.structs.replace(small, survivors=rows)
    assert node.on_slot(SurvivorsAnnounced(verified(whole), node.slot_secret))


def test_ending_a_round_burns_its_slot() -> None:
    turn, sealed = sealed_round()
    node = turn.node("m01")
    secret = node.slot_secret
    node.on_slot(RoundEnded())
    assert node.slot_secret is None
    refused(node, "out-of-order", lambda: node.on_slot(SurvivorsAnnounced(sealed, secret)))


def test_a_later_slot_burns_the_earlier_ones() -> None:
    turn = opened_round()
    node, federation = turn.node("m01"), turn.federation
    object.__setattr__(federation.hub, "next_slot", 2)
    later = open_round(federation, expected_of())
    node.contribute(node.begin(later.opened, later.expected), values_of("m01", later.expected))
    assert set(node.disk.secrets) == {"epoch-000001-slot-0002"}


def test_the_callers_mistakes_are_usage_errors() -> None:
    turn, sealed = sealed_round()
    node = turn.node("m01")
    assert node.slot is not None
    with pytest.raises(UsageError):
        node.on_slot(SurvivorsAnnounced(sealed))
    wrong = node.disk.secrets["epoch-000001-slot-0001"]
    with pytest.raises(UsageError):
        node.on_slot(SurvivorsAnnounced(sealed, wrong))
    fresh = opened_round()
    epoch = fresh.node("m01").epoch
    assert epoch is not None
    with pytest.raises(UsageError):
        MemberSlot.begin(epoch, fresh.opened, fresh.expected, secret=wrong)


def test_stored_records_are_read_strictly() -> None:
    turn, _ = sealed_round()
    node = turn.node("m01")
    assert node.epoch is not None
    with pytest.raises(FormatError):
        MemberEpoch.restore(node.group, node.me, b"{}")
    with pytest.raises(PolicyError) as refusal:
        MemberEpoch.restore(without(node.group, charter=tag("next")), node.me, node.epoch.encode())
    assert refusal.value.code == "charter-changed"
    with pytest.raises(FormatError):
        MemberSlot.restore(dealt(group_of(4)).nodes["m01"].epoch, node.disk.records[SLOT_KEY])  # type: ignore[arg-type]  # it has one


def test_secrets_show_nothing_but_their_type() -> None:
    turn = opened_round()
    node = turn.node("m01")
    need = node.begin(turn.opened, turn.expected)
    secret = need.plan[0][0]
    for shown in (repr(need), repr(node.slot), repr(node.epoch)):
        assert secret.hex() not in shown and repr(secret) not in shown
    assert EraseSecret("x") == EraseSecret("x")


# --- a coordinator with two faces -------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["model", "query", "plan", "code", "previous", "attempt", "round"]
)
def test_members_that_were_shown_different_rounds_reveal_nothing(field: str) -> None:
    """Inputs under another context are no headers of this one: the sum of both never opens."""
    federation = ready(dealt(group_of(4)))
    turn = open_round(federation, expected_of())
    other_value: object = 7 if field in ("attempt", "round") else tag("crafted")
    crafted = changed(turn.opened, **{field: other_value})
    send_inputs(turn, lost=["m04"])
    node = turn.node("m04")
    node.restart()
    expected = (
        turn.expected if field == "attempt" else altered(turn.expected, **{field: other_value})
    )
    victim = Node(federation.group, MemberId("m04"))
    victim.disk, victim.epoch = node.disk, ready_epoch(federation)
    need = victim.begin(crafted, expected)  # type: ignore[arg-type]  # expected round of the victim
    (header,) = victim.contribute(need, turn.inputs["m04"])
    assert isinstance(header, messages.MaskedInput)
    honest = turn.node("m01")
    refused(honest, "wrong-context", lambda: honest.on_slot(InputLogged(verified(header))))


def ready_epoch(federation: Federation) -> MemberEpoch:
    """Return the fourth member's epoch before it used any slot."""
    fresh = ready(dealt(federation.group)).nodes["m04"].epoch
    assert fresh is not None
    return fresh


def test_a_two_faced_coordinator_gets_no_smaller_sum_than_promised() -> None:
    """Every way to show each honest member one of the sets it would answer, for n = 4 and 5.

    From the shares it collects, with those of the colluders, the coordinator may open a member's
    self seed or its round seed. Never both; and if a bare sum can be formed at all, at least
    `min_honest` honest inputs are in it.
    """
    for size in (4, 5):
        group = group_of(size)
        members = list(range(size))
        honest = members[group.max_colluders :]
        fast = group.fast_survivors(size)
        sets = [frozenset(some) for k in range(fast, size + 1) for some in combinations(members, k)]
        threshold, helpers = group.share_threshold, group.max_colluders
        for views in product(*[[s for s in sets if who in s] + [None] for who in honest]):
            opened, cancelled = set(), set()
            for owner in honest:
                own = sum(1 for view in views if view is not None and owner in view)
                gone = sum(1 for view in views if view is not None and owner not in view)
                if own + helpers >= threshold:
                    opened.add(owner)
                if gone + helpers >= threshold:
                    cancelled.add(owner)
            assert not opened & cancelled
            if opened and opened | cancelled == set(honest):
                assert len(opened) >= group.min_honest


def test_finish_reaches_every_phase() -> None:
    """The happy path visits what the refusals above start from."""
    turn, _ = sealed_round()
    finish(turn)
    assert {turn.node(name).slot.phase for name in turn.hub.survivor_names} == {  # type: ignore[union-attr]  # begun
        SlotPhase.ANSWERED
    }
