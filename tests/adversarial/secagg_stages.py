"""Stages of the moves in `test_secagg_moves`: each sets the scene for one kind of attack.

A stage returns what to watch and what to try. Statements that members and hubs are given here count
as verified; those for the log are really signed. Nothing here asserts a refusal.
"""

from collections.abc import Callable

import msgspec
import numpy as np

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
    unmasked,
    values_of,
    verified,
    without,
)
from tests.worlds import HUB, NAMES, World, digest, key, runner, small_plan
from treaty.aggregation.quantization import RING_TYPES
from treaty.ids import MemberId
from treaty.models.specification import WEIGHT, MultilayerPerceptron
from treaty.protocol import secagg_coordinator as hub
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_epoch import MemberEpoch
from treaty.protocol.secagg_keys import Group, survivors_digest
from treaty.protocol.secagg_lifecycle import RosterFixed
from treaty.protocol.secagg_member import (
    ConfirmationLogged,
    InputLogged,
    MemberSlot,
    RoundEnded,
    SurvivorsAnnounced,
)
from treaty.protocol.secagg_messages import RoundAbandoned, RoundCode
from treaty.protocol.secagg_opening import check_result
from treaty.protocol.statements import Predicate, Verified, seal_statement
from treaty.studies.queries import CONTRIBUTORS, ROWS

Watch = Callable[[], object]
Act = Callable[[], object]
Played = tuple[Watch, Act]

FORMAT = "format"
ZERO = "0" * 64
NOT_REDUCED = "ed" + "ff" * 30 + "7f"
"""2^255 - 19, a second spelling of the point 0."""
WINDING = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
"""A point of order 8 on Curve25519."""


def watch_node(node: Node) -> Watch:
    """Watch a member's machines, disk and everything it has sent."""
    return lambda: (
        dict(node.disk.records),
        dict(node.disk.secrets),
        node.epoch,
        node.slot,
        tuple(node.sent),
    )


REVEAL = messages.Reveal(
    charter=tag("charter"),
    author="m01",
    context=tag("x"),
    survivors=tag("x"),
    self_shares={},
    round_shares={},
)


# --- stages: members ---------------------------------------------------------------------------


def before_epoch(hybrid: bool = False, **fields: object) -> Played:
    group = group_of(4, hybrid=hybrid)
    node = Node(group, group.members[0])
    _, effects = hub.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
    opened = changed(published(effects, messages.EpochOpened), **fields)
    return watch_node(node), lambda: node.join(opened)


def opening_of(group: Group) -> Verified[messages.EpochOpened]:
    """The opening that an honest coordinator makes."""
    _, effects = hub.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
    return published(effects, messages.EpochOpened)


def epoch_again(number: int) -> Played:
    federation = ready(dealt(group_of(4)))
    node = federation.nodes["m01"]
    _, effects = hub.CoordinatorEpoch.begin(federation.group, tag("plan"), number, 2)
    opened = published(effects, messages.EpochOpened)
    return watch_node(node), lambda: node.join(opened, last=1)


def roster_stage(hybrid: bool = False) -> tuple[Node, RosterFixed]:
    group = group_of(4, hybrid=hybrid)
    federation = dealt(group)
    assert federation.roster is not None
    node = Node(group, group.members[0])
    _, effects = hub.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
    node.join(published(effects, messages.EpochOpened))
    return node, RosterFixed(federation.roster, federation.keys, node.secret)


def roster(
    edit: Callable[[tuple[str, ...]], tuple[str, ...]] = tuple, **fields: object
) -> Callable[[], Played]:
    """A roster with other entries, or other fields."""

    def play() -> Played:
        node, event = roster_stage()
        listed = edit(event.roster.predicate.keys)
        forged = changed(event.roster, **({"keys": listed} | fields))
        return watch_node(node), lambda: node.on_epoch(
            RosterFixed(forged, event.keys, event.secret)
        )

    return play


def swapped(place: int, *, hybrid: bool = False, **fields: object) -> Callable[[], Played]:
    """A roster in which one entry is another signed key statement."""

    def play() -> Played:
        node, event = roster_stage(hybrid)
        keys = list(event.keys)
        own = {name: value(event) if callable(value) else value for name, value in fields.items()}
        keys[place] = changed(keys[place], **own)
        forged = changed(event.roster, keys=tuple(one.digest for one in keys))
        return watch_node(node), lambda: node.on_epoch(
            RosterFixed(forged, tuple(keys), event.secret)
        )

    return play


def of_peer(place: int, name: str) -> Callable[[RosterFixed], object]:
    return lambda event: getattr(event.keys[place].predicate, name)


def first_key(value: str) -> Callable[[RosterFixed], object]:
    return lambda event: (value, *event.keys[1].predicate.round_keys[1:])


def consistent_roster_of_another_epoch() -> Played:
    """Every entry and the roster itself agree with each other, not with this member's epoch."""
    node, event = roster_stage()
    keys = tuple(changed(one, opened=tag("x")) for one in event.keys)
    forged = changed(event.roster, opened=tag("x"), keys=tuple(one.digest for one in keys))
    return watch_node(node), lambda: node.on_epoch(RosterFixed(forged, keys, event.secret))


def roster_when_ready() -> Played:
    federation = ready(dealt(group_of(4)))
    node = federation.nodes["m01"]
    assert federation.roster is not None
    forged = RosterFixed(changed(federation.roster, epoch=2), federation.keys, b"")
    return watch_node(node), lambda: node.on_epoch(forged)


def dealing(
    sealed: dict[str, object] | None = None,
    *,
    columns: Callable[[dict[str, bytes]], object] | None = None,
    shares: Callable[[dict[str, object]], object] | None = None,
) -> Callable[[], Played]:
    """An end of dealing that is not what the dealers signed."""

    def play() -> Played:
        federation = dealt(group_of(5), lost_keys=["m05"])
        node, event = federation.nodes["m01"], federation.sealed_event("m01")
        forged = with_field(event, "sealed", changed(event.sealed, **(sealed or {})))
        if columns is not None:
            forged = with_field(forged, "columns", columns(dict(event.columns)))
        if shares is not None:
            forged = with_field(forged, "shares", shares(dict(event.shares)))
        return watch_node(node), lambda: node.on_epoch(forged)  # type: ignore[arg-type]  # changed

    return play


def with_field(event: object, name: str, value: object) -> object:
    """Return an event with one field changed."""
    fields = {one: getattr(event, one) for one in event.__dataclass_fields__}  # type: ignore[attr-defined]  # an event
    return type(event)(**(fields | {name: value}))


def opened_round(size: int = 4, colluders: int = 1) -> Round:
    return open_round(ready(dealt(group_of(size, colluders), slots=3)), expected_of())


def opening(**fields: object) -> Callable[[], Played]:
    """An opening of a round that the member does not expect."""

    def play() -> Played:
        turn = opened_round(5)
        node = turn.node("m01")
        forged = changed(turn.opened, **fields)
        return watch_node(node), lambda: node.begin(forged, turn.expected)

    return play


def opening_too_early() -> Played:
    node = dealt(group_of(4)).nodes["m01"]
    turn = opened_round()
    return watch_node(node), lambda: node.begin(turn.opened, turn.expected)


def opening_with_a_stranger() -> Played:
    turn = open_round(ready(dealt(group_of(5), lost_shares=["m03"])), expected_of())
    node = turn.node("m01")
    forged = changed(turn.opened, participants=("m01", "m02", "m03", "m04"))
    return watch_node(node), lambda: node.begin(forged, turn.expected)


def replayed_slot(after_restart: bool) -> Callable[[], Played]:
    def play() -> Played:
        turn = opened_round()
        node = turn.node("m01")
        node.contribute(node.begin(turn.opened, turn.expected), values_of("m01", turn.expected))
        if after_restart:
            node.restart()
        # Another context in the same slot: the two masks would be independent, the seeds not.
        forged = changed(turn.opened, participants=("m01", "m02", "m03"))
        return watch_node(node), lambda: node.begin(forged, turn.expected)

    return play


def slot_after_a_restored_backup() -> Played:
    turn = opened_round()
    node = turn.node("m01")
    records, secrets = dict(node.disk.records), dict(node.disk.secrets)
    node.contribute(node.begin(turn.opened, turn.expected), values_of("m01", turn.expected))
    node.disk.records, node.disk.secrets = records, secrets
    node.restart()
    # The store has forgotten the input; the log, from which the floor comes, has not.
    return watch_node(node), lambda: node.begin(turn.opened, turn.expected, floor=0)


def an_earlier_slot() -> Played:
    turn = opened_round()
    node = turn.node("m01")
    later = changed(turn.opened, slot=2)
    node.contribute(node.begin(later, turn.expected), values_of("m01", turn.expected))
    return watch_node(node), lambda: node.begin(turn.opened, turn.expected)


def headers_in(
    size: int = 4, lost: tuple[str, ...] = (), colluders: int = 1
) -> tuple[Round, Verified[messages.SurvivorsSealed]]:
    """A round whose inputs are in, with the headers shown to everyone."""
    turn = send_inputs(opened_round(size, colluders), lost)
    for name in turn.opened.predicate.participants:
        for header in turn.headers.values():
            turn.node(name).on_slot(InputLogged(header))
    return turn, published(turn.effects, messages.SurvivorsSealed)


Survivors = tuple[messages.Survivor, ...]


def survivors(
    edit: Callable[[Survivors], Survivors] = tuple, **fields: object
) -> Callable[[], Played]:
    """A survivor set that is not what the logged inputs make."""

    def play() -> Played:
        turn, sealed = headers_in()
        node = turn.node("m01")
        chosen = edit(sealed.predicate.survivors)
        forged = changed(sealed, **({"survivors": chosen} | fields))
        return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(forged, node.slot_secret))

    return play


def entry(survivor: messages.Survivor, **fields: object) -> messages.Survivor:
    return msgspec.structs.replace(survivor, **fields)


def without_a_header() -> Played:
    turn = send_inputs(opened_round())
    sealed = published(turn.effects, messages.SurvivorsSealed)
    node = turn.node("m01")
    for name in ("m01", "m02", "m03"):
        node.on_slot(InputLogged(turn.headers[name]))
    return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret))


def survivor_from_outside() -> Played:
    federation = ready(dealt(group_of(5), slots=3))
    turn = send_inputs(open_round(federation, expected_of(), exclude=["m05"]))
    sealed = published(turn.effects, messages.SurvivorsSealed)
    stranger = messages.Survivor(member="m05", header=tag("x"), root=tag("x"))
    forged = changed(sealed, survivors=(*sealed.predicate.survivors, stranger))
    node = turn.node("m01")
    for header in turn.headers.values():
        node.on_slot(InputLogged(header))
    return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(forged, node.slot_secret))


def second_set_after_an_answer(restart: bool) -> Callable[[], Played]:
    def play() -> Played:
        turn, sealed = headers_in(5)
        node = turn.node("m01")
        node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret))
        if restart:
            node.restart()
        fewer = changed(sealed, survivors=sealed.predicate.survivors[:4])
        return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(fewer, node.slot_secret))

    return play


def confirmed_stage() -> tuple[Round, Node, Verified[messages.SurvivorsConfirmed]]:
    turn, sealed = headers_in(10, ("m10", "m09", "m08"), 3)
    node = turn.node("m01")
    (said,) = node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret))
    assert isinstance(said, messages.SurvivorsConfirmed)
    turn.sealed = sealed
    return turn, node, verified(said)


def second_set_after_a_confirmation() -> Played:
    turn, node, said = confirmed_stage()
    assert turn.sealed is not None
    late = verified(
        messages.MaskedInput(
            charter=said.predicate.charter,
            author="m08",
            context=said.predicate.context,
            length=5,
            root=tag("r"),
            blob=tag("b"),
        )
    )
    node.on_slot(InputLogged(late))
    more = (
        *turn.sealed.predicate.survivors,
        messages.Survivor(member="m08", header=late.digest, root=tag("r")),
    )
    forged = changed(turn.sealed, survivors=more)
    return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(forged, node.slot_secret))


def confirmation(**fields: object) -> Callable[[], Played]:
    """A confirmation that is not of a survivor, or not of this set."""

    def play() -> Played:
        _, node, said = confirmed_stage()
        forged = changed(said, **({"author": "m02"} | fields))
        return watch_node(node), lambda: node.on_slot(ConfirmationLogged(forged, node.slot_secret))

    return play


def too_few_confirmations() -> Played:
    """Not refused but not enough: below t nothing may be revealed, whoever says it again."""
    _, node, said = confirmed_stage()
    for name in ("m01", "m02", "m03", "m04", "m05", "m06"):
        node.on_slot(ConfirmationLogged(changed(said, author=name), node.slot_secret))
    forged = changed(said, author="m10")
    return watch_node(node), lambda: node.on_slot(ConfirmationLogged(forged, node.slot_secret))


def header(**fields: object) -> Callable[[], Played]:
    """A header that does not hold."""

    def play() -> Played:
        turn = send_inputs(opened_round(5), ["m05"])
        node = turn.node("m01")
        node.on_slot(InputLogged(turn.headers["m02"]))
        forged = changed(turn.headers["m02"], **fields)
        return watch_node(node), lambda: node.on_slot(InputLogged(forged))

    return play


def same_question(survivors_again: bool) -> Callable[[], Played]:
    """The same question in a later slot, for another set."""

    def play() -> Played:
        turn, sealed = headers_in(5)
        announce(turn, sealed, turn.federation.group.members)
        if not survivors_again:
            fewer = changed(
                turn.opened, slot=1, attempt=1, participants=("m01", "m02", "m03", "m04")
            )
            node = turn.node("m01")
            return watch_node(node), lambda: node.begin(fewer, turn.expected)
        again = send_inputs(open_round(turn.federation, expected_of(), attempt=1), lost=["m05"])
        node = again.node("m01")
        for one in again.headers.values():
            node.on_slot(InputLogged(one))
        smaller = published(again.effects, messages.SurvivorsSealed)
        return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(smaller, node.slot_secret))

    return play


def renumbered() -> Played:
    """A published sum that left the model as it was: the same question under a later number."""
    turn, sealed = headers_in(5)
    announce(turn, sealed, turn.federation.group.members)
    node = turn.node("m01")
    later = {"round": 1, "query": tag("query 1"), "previous": tag("a forged sum")}
    expected = with_field(turn.expected, "round", 1)
    expected = with_field(expected, "query", tag("query 1"))
    expected = with_field(expected, "previous", tag("a forged sum"))
    four = ("m01", "m02", "m03", "m04")
    forged = changed(turn.opened, slot=1, participants=four, **later)
    return watch_node(node), lambda: node.begin(forged, expected)  # type: ignore[arg-type]  # changed


def another_vector() -> Played:
    turn, sealed = headers_in(5)
    announce(turn, sealed, turn.federation.group.members)
    again = open_round(turn.federation, expected_of(), attempt=1)
    node = again.node("m01")
    need = node.begin(again.opened, again.expected)
    return watch_node(node), lambda: node.contribute(need, values_of("other", again.expected))


def survivors_before_any_input() -> Played:
    turn, sealed = headers_in()
    other = open_round(turn.federation, expected_of(number=1))
    node = other.node("m01")
    node.begin(other.opened, other.expected)
    forged = changed(sealed, context=node.slot.context)  # type: ignore[union-attr]  # begun
    return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(forged, node.slot_secret))


def survivors_after_the_end() -> Played:
    turn, sealed = headers_in()
    node = turn.node("m01")
    secret = node.slot_secret
    node.on_slot(RoundEnded())
    # The coordinator kept a copy of the statement, the member no copy of the secret.
    return watch_node(node), lambda: node.on_slot(SurvivorsAnnounced(sealed, secret))


def charter_changed() -> Played:
    federation = ready(dealt(group_of(4)))
    node = federation.nodes["m01"]
    record = next(data for name, data in node.disk.records.items() if "epoch" in name)
    other = without(federation.group, charter=tag("another charter"))
    return watch_node(node), lambda: MemberEpoch.restore(other, MemberId("m01"), record)


def round_of_another_epoch() -> Played:
    turn, _ = headers_in()
    node = turn.node("m01")
    assert node.slot is not None
    record = node.slot.encode()
    stranger = ready(dealt(group_of(5))).nodes["m01"]
    assert stranger.epoch is not None
    epoch = stranger.epoch
    return watch_node(stranger), lambda: MemberSlot.restore(epoch, record)


# --- stages: an honest coordinator against a malicious member ----------------------------------


def against_epoch(stage: str, event: Callable[[Federation], object]) -> Callable[[], Played]:
    """A statement that an honest coordinator should not log."""

    def play() -> Played:
        hybrid = stage == "hybrid"
        federation = dealt(group_of(4, hybrid=hybrid))
        if stage == "ready":
            ready(federation)
        if stage == "keys":
            group = federation.group
            state, effects = hub.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
            opened = published(effects, messages.EpochOpened)
            state, _ = state.step(hub.OpenedLogged(opened))
            state, _ = state.step(hub.KeysLogged(federation.keys[0]))
            federation.hub = state
        if stage == "shares":
            group = federation.group
            assert federation.roster is not None
            state, effects = hub.CoordinatorEpoch.begin(group, tag("plan"), 1, 2)
            state, _ = state.step(hub.OpenedLogged(published(effects, messages.EpochOpened)))
            for one in federation.keys:
                state, _ = state.step(hub.KeysLogged(one))
            state, _ = state.step(hub.RosterLogged(federation.roster))
            state, _ = state.step(hub.SharesLogged(federation.shares["m01"]))
            federation.hub = state
        made = event(federation)
        return lambda: federation.hub, lambda: federation.hub.step(made)  # type: ignore[arg-type]  # one of its events

    return play


def at_the_end_of_dealing(**fields: object) -> Callable[[], Played]:
    """An end of dealing that an honest coordinator's own log contradicts."""

    def play() -> Played:
        federation = dealt(group_of(5), lost_shares=["m05"])
        assert federation.roster is not None and federation.sealed is not None
        state, effects = hub.CoordinatorEpoch.begin(federation.group, tag("plan"), 1, 2)
        state, _ = state.step(hub.OpenedLogged(published(effects, messages.EpochOpened)))
        for keys in federation.keys:
            state, _ = state.step(hub.KeysLogged(keys))
        state, _ = state.step(hub.RosterLogged(federation.roster))
        for shares in federation.shares.values():
            state, _ = state.step(hub.SharesLogged(shares))
        forged = changed(federation.sealed, **fields)
        return lambda: state, lambda: state.step(hub.SealedLogged(forged))

    return play


def ready_of_a_member_that_dealt_nothing() -> Played:
    federation = dealt(group_of(5), lost_shares=["m05"])
    said = ready_of(federation, author="m05")
    return lambda: federation.hub, lambda: federation.hub.step(said)


def ready_twice() -> Played:
    federation = dealt(group_of(4, hybrid=True))
    said = ready_of(federation)
    federation.hub, _ = federation.hub.step(said)
    commitments = said.ready.predicate.pair_commitments[::-1]
    other = hub.ReadyLogged(changed(said.ready, pair_commitments=commitments), said.wraps)
    return lambda: federation.hub, lambda: federation.hub.step(other)


def hybrid_keys(**fields: object) -> Played:
    federation = dealt(group_of(4, hybrid=True))
    state, effects = hub.CoordinatorEpoch.begin(federation.group, tag("plan"), 1, 2)
    state, _ = state.step(hub.OpenedLogged(published(effects, messages.EpochOpened)))
    forged = hub.KeysLogged(changed(federation.keys[1], **fields))
    return lambda: state, lambda: state.step(forged)


def too_few_left() -> Played:
    federation = ready(dealt(group_of(4)))
    gone = frozenset({"m01", "m02"})
    return lambda: federation.hub, lambda: federation.hub.next_round(expected_of(), exclude=gone)


def after_a_decline() -> Played:
    turn = opened_round(5)
    node = turn.node("m01")
    (said,) = node.contribute(
        node.begin(turn.opened, turn.expected), values_of("m01", turn.expected)
    )
    turn.give(hub.DeclineLogged(decline(turn, "m01")))
    assert isinstance(said, messages.MaskedInput)
    arrived = hub.InputArrived(verified(said))
    return lambda: turn.hub, lambda: turn.hub.step(arrived)


def decline(turn: Round, name: str) -> Verified[messages.InputDeclined]:
    return verified(
        messages.InputDeclined(
            charter=turn.federation.group.charter,
            author=name,
            context=turn.hub.context,
            code=messages.DeclineCode.SITE_DECLINED,
        )
    )


def confirmation_of(
    turn: Round, name: str, survivors: str
) -> Verified[messages.SurvivorsConfirmed]:
    return verified(
        messages.SurvivorsConfirmed(
            charter=turn.federation.group.charter,
            author=name,
            context=turn.hub.context,
            survivors=survivors,
        )
    )


def ready_of(federation: Federation, **fields: object) -> hub.ReadyLogged:
    """What the first member would say, with other fields."""
    (said,) = federation.nodes["m01"].on_epoch(federation.sealed_event("m01"))
    assert isinstance(said, messages.EpochReady)
    wraps = federation.nodes["m01"].disk.blobs.get(said.wraps or "")
    return hub.ReadyLogged(changed(verified(said), **fields), wraps)


def complaint(federation: Federation, **fields: object) -> hub.ComplaintLogged:
    said = messages.ShareComplaint(
        charter=federation.group.charter,
        author="m01",
        epoch_hash=str(federation.hub.epoch_hash),
        dealer="m02",
        slot=0,
        key=ZERO,
    )
    column = federation.columns[federation.shares["m02"].predicate.columns["m03"]]
    return hub.ComplaintLogged(changed(verified(said), **fields), column)


def against_round(
    event: Callable[[Round], object], *, sealed: bool = False, answered: bool = False
) -> Callable[[], Played]:
    def play() -> Played:
        turn = send_inputs(opened_round(5), ["m05"] if sealed else ())
        if not sealed:
            turn = open_round(turn.federation, expected_of(number=1))
            for name in ("m01", "m02"):
                node = turn.node(name)
                need = node.begin(turn.opened, turn.expected)
                (said,) = node.contribute(need, values_of(name, turn.expected))
                assert isinstance(said, messages.MaskedInput)
                turn.headers[name] = verified(said)
                turn.give(hub.InputArrived(turn.headers[name]))
        else:
            turn.sealed = published(turn.effects, messages.SurvivorsSealed)
            turn.give(hub.SurvivorsLogged(turn.sealed))
            if answered:
                turn.give(hub.RevealLogged(answer_of(turn, "m01")))
        made = event(turn)
        return lambda: turn.hub, lambda: turn.hub.step(made)  # type: ignore[arg-type]  # one of its events

    return play


def answer_of(turn: Round, name: str, **fields: object) -> Verified[messages.Reveal]:
    """A member's answer as a malicious one would make it."""
    assert turn.hub.survivors is not None
    names = turn.hub.survivor_names
    gone = set(turn.opened.predicate.participants) - set(names)
    body = messages.Reveal(
        charter=turn.federation.group.charter,
        author=name,
        context=turn.hub.context,
        survivors=turn.hub.survivors,
        self_shares=dict.fromkeys(names, "1" * 64),
        round_shares=dict.fromkeys(gone, "1" * 64),
    )
    return changed(verified(body), **fields)


# --- stages: the log, with signatures ----------------------------------------------------------

A, B, C, D = NAMES[:4]


def running() -> World:
    world = World()
    world.start()
    world.open_epoch()
    return world


def dealing_world() -> World:
    world = World()
    world.start()
    world.begin_epoch()
    for name in world.names:
        world.send_keys(name)
    world.fix_roster()
    for name in world.names:
        world.deal(name)
    return world


def in_round() -> World:
    world = running()
    world.open_round()
    return world


def collecting() -> World:
    world = in_round()
    world.send_input(A)
    return world


def collecting_all() -> World:
    world = in_round()
    for name in (A, B, C, D):
        world.send_input(name)
    return world


def revealing() -> World:
    world = in_round()
    world.collect((A, B, C))
    return world


def sealed_unconfirmed() -> World:
    world = World(6)
    world.start()
    world.open_epoch()
    world.open_round()
    for name in NAMES[:4]:
        world.send_input(name)
    world.seal()
    return world


def suspended() -> World:
    world = World(5)
    world.start()
    world.propose_and_suspend(NAMES[4])
    world.open_epoch()
    return world


def locked() -> World:
    world = in_round()
    world.collect()
    world.reveal(B)
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_REVEALS)
    world.open_round()
    for name in (B, C, D):
        world.send_input(name)
    return world


def misled(weight: int, first: int, *, audited: bool = False) -> World:
    """The coordinator opens a sum, keeps it, and publishes another: all its own, signed and logged.

    `first` grid steps in one weight of the model, divided by `weight`; zero moves nothing. Then the
    next round is opened, and one input less arrives.
    """
    world = World()
    model = MultilayerPerceptron(hidden=(2,), rounds=4)
    plan = small_plan(world.state.charter, world.contract, model=model)
    settings = msgspec.structs.replace(plan.aggregation, audited=audited)
    world.start(msgspec.structs.replace(plan, aggregation=settings))
    world.open_epoch()
    world.run_round()
    world.run_round()
    before = world.study.progress
    world.open_round()
    world.collect()
    for name in world.names:
        world.reveal(name)
    layout = before.expected_query().layout
    forged = np.zeros(layout.length, RING_TYPES[layout.ring_bits])
    forged[0] = first
    at = 0
    for part in layout.segments:
        # What else a sum must say to be plausible; the updates themselves stay zero.
        if part.name == WEIGHT:
            forged[at] = weight << part.scale_bits
        elif part.name in (ROWS, CONTRIBUTORS):
            forged[at] = min(4 * part.bound, 160 if part.name == ROWS else 4)
        at += part.length
    world.result(forged)
    after = world.study.progress
    assert (after.model_digest == before.model_digest) is (first == 0)
    assert float(np.max(np.abs(after.model.flat() - before.model.flat()))) < 3e-7
    world.open_round()
    for name in (A, B, C):
        world.send_input(name)
    return world


def unmoved() -> World:
    """The published sum left the model as it was: the next query is the same but for its number."""
    return misled(1, 0)


def answered() -> World:
    world = revealing()
    for name in (A, B, C):
        world.reveal(name)
    return world


def log(stage: Callable[[], World], act: Callable[[World], object]) -> Callable[[], Played]:
    def play() -> Played:
        world = stage()
        return lambda: (world.state, tuple(world.entries)), lambda: act(world)

    return play


def signed_by(
    world: World, kind: type[Predicate], author: str, signer: str, **fields: object
) -> object:
    """Offer a statement of `author` under another key."""
    keys = {"member": runner(B), "outsider": key("an outsider"), "hub": key("hub runner")}
    return world.offer(seal_statement(world.write(kind, author, **fields), keys[signer]))


def sealed_by_member(world: World) -> object:
    return signed_by(
        world,
        messages.SurvivorsSealed,
        HUB,
        "member",
        context=world.context,
        survivors=world.survivors(),
    )


def input_of(world: World, author: str, signer: str, **fields: object) -> object:
    said: dict[str, object] = {
        "context": world.context,
        "length": world.study.progress.expected_query().layout.length,
        "root": digest("r"),
        "blob": digest("b"),
    }
    return signed_by(world, messages.MaskedInput, author, signer, **(said | fields))


def total_of(world: World, length: int) -> object:
    return world.result(np.zeros(length, np.uint64))


# --- stages: the auditor -----------------------------------------------------------------------


def result_in_another_order() -> Played:
    """Sealed survivors out of order, with the digest that follows from them."""
    federation = ready(dealt(group_of(4)))
    turn = send_inputs(open_round(federation, expected_of()))
    finish(turn)
    _, made, _ = unmasked(turn)
    assert turn.sealed is not None
    turned = turn.sealed.predicate.survivors[::-1]
    sealed = msgspec.structs.replace(turn.sealed.predicate, survivors=turned)
    digest_of = survivors_digest(turn.hub.context, turned, federation.group)
    forged = msgspec.structs.replace(made, survivors=digest_of)
    return lambda: forged, lambda: check_result(
        federation.group,
        turn.opened.predicate,
        federation.hub.peers,
        federation.hub.ready,
        federation.hub.dealers,
        sealed,
        forged,
    )


def result(*, few: bool = False, **fields: object) -> Callable[[], Played]:
    """A published result that does not follow from the log."""

    def play() -> Played:
        federation = ready(dealt(group_of(4, hybrid=True)))
        turn = send_inputs(open_round(federation, expected_of()), [] if few else ["m04"])
        finish(turn)
        _, published_result, _ = unmasked(turn)
        assert turn.sealed is not None
        sealed = turn.sealed.predicate
        made = dict(fields)
        if few:
            sealed = msgspec.structs.replace(sealed, survivors=sealed.survivors[:2])
            made["survivors"] = survivors_digest(
                turn.hub.context, sealed.survivors, federation.group
            )
        if made.get("pair_seeds") == "short":
            made["pair_seeds"] = {"m04": published_result.pair_seeds["m04"][1:]}
        if made.get("self_seeds") == "one false":
            made["self_seeds"] = {**published_result.self_seeds, "m01": "1" * 64}
        forged = msgspec.structs.replace(published_result, **made)
        return lambda: forged, lambda: check_result(
            federation.group,
            turn.opened.predicate,
            federation.hub.peers,
            federation.hub.ready,
            federation.hub.dealers,
            sealed,
            forged,
        )

    return play
