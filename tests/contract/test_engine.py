"""One suite for `treaty.ports.Engine`, run on every implementation.

Planted faults that these tests caught: last in, first out; the key ignored; keys
shared between recipients or senders; acknowledged frames delivered again;
unacknowledged frames lost at a restart or put behind newer ones; the frame limit
off by one; an acknowledgement from before a restart that counts; a fetch that is
not compared with its digest, or with what its reader expects at most; sends that leave no
egress record, or one with the digest of the frame before; on the message server, frames
acknowledged on receipt, a member handed many frames at once, the hub's consumer kept at a restart.
"""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from treaty.crypto.canonical import sha256
from treaty.engines.embedded import ENGINE, EgressRecord, EmbeddedEngine, EmbeddedNetwork, Passage
from treaty.engines.faults import Fault, FaultRule, InjectedFault, Occasion, SeededFaults
from treaty.errors import ResourceError, UsageError, VerificationError
from treaty.ids import MemberId
from treaty.ports import FRAME_LIMIT_BYTES, OBJECT_LIMIT_BYTES, Delivery, Engine

A, B, C = MemberId("a.example"), MemberId("b.example"), MemberId("c.example")


class Net(Protocol):
    """What the suite asks of a network: ends, and the end of a party's process."""

    def endpoint(self, member: MemberId, /) -> Engine: ...

    def restart(self, member: MemberId, /) -> None: ...

    def look(self, engine: Engine, expected: int, /) -> None: ...


class Embedded(EmbeddedNetwork):
    """The reference: whatever was sent is there at once."""

    def look(self, engine: Engine, expected: int) -> None:
        """Nothing to wait for."""


@pytest.fixture
def network() -> EmbeddedNetwork:
    return EmbeddedNetwork((C, A, B), capture=True)


@pytest.fixture(params=["embedded", pytest.param("jetstream", marks=pytest.mark.nats)])
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Net]:
    """Each implementation, with C as the hub: no engine need carry frames between A and B."""
    if request.param == "embedded":
        yield Embedded((C, A, B))
        return
    from tests.nats_network import FRAME_S, NatsNetwork
    from treaty.engines.streams import ACK_WAIT_S

    wait_s = ACK_WAIT_S if "comes_again" in request.node.name else FRAME_S
    nats = NatsNetwork(tmp_path, C, (A, B), ack_wait_s=wait_s)
    try:
        yield nats
    finally:
        nats.close()


def drain(engine: Engine, *, ack: bool = True) -> list[tuple[MemberId, bytes]]:
    found = []
    while delivery := engine.receive():
        found.append((delivery.sender, delivery.frame))
        if ack:
            delivery.ack()
    return found


def arrived(net: Net, member: MemberId, expected: int) -> list[tuple[MemberId, bytes]]:
    """Return the frames for `member`, acknowledged: the expected number, or those too many."""
    found: list[tuple[MemberId, bytes]] = []
    engine = net.endpoint(member)
    while True:
        # A member may be handed its frames one by one.
        net.look(engine, min(expected - len(found), 1))
        new = drain(engine)
        found += new
        if not new:
            return found


class Every:
    """A plan that does the same to every attempt up to the given one."""

    def __init__(self, *faults: InjectedFault, attempts: int = 10**9) -> None:
        self.given = faults
        self.attempts = attempts

    def faults(self, occasion: Occasion) -> tuple[InjectedFault, ...]:
        return self.given if occasion.attempt <= self.attempts else ()


def test_frames_arrive_in_the_order_sent_and_name_their_sender(net: Net) -> None:
    a, b, c = (net.endpoint(member) for member in (A, B, C))
    assert c.receive() is None
    for number in range(5):
        a.send(C, b"a%d" % number, f"a{number}")
        b.send(C, b"b%d" % number, f"b{number}")
        c.send(A, b"c%d" % number, f"c{number}")
    assert arrived(net, B, 0) == []
    found = arrived(net, C, 10)
    assert [frame for sender, frame in found if sender == A] == [b"a%d" % n for n in range(5)]
    assert [frame for sender, frame in found if sender == B] == [b"b%d" % n for n in range(5)]
    assert arrived(net, A, 5) == [(C, b"c%d" % n) for n in range(5)]
    assert c.receive() is None and a.receive() is None


def test_one_key_is_one_message_per_sender_and_recipient(net: Net) -> None:
    a, b, c = (net.endpoint(member) for member in (A, B, C))
    a.send(C, b"first", "key")
    a.send(C, b"second", "key")
    assert arrived(net, C, 1) == [(A, b"first")]
    a.send(C, b"third", "key")
    assert arrived(net, C, 0) == []
    b.send(C, b"from b", "key")
    c.send(A, b"to a", "key")
    c.send(B, b"to b", "key")
    c.send(B, b"to b again", "key")
    assert arrived(net, C, 1) == [(B, b"from b")]
    assert arrived(net, A, 1) == [(C, b"to a")]
    assert arrived(net, B, 1) == [(C, b"to b")]


def test_what_was_not_acknowledged_comes_again_in_its_place(net: Net) -> None:
    a, c = net.endpoint(A), net.endpoint(C)
    for number in range(4):
        a.send(C, b"%d" % number, str(number))
    net.look(c, 4)
    first = [c.receive() for _ in range(3)]
    assert all(first)
    middle = first[1]
    assert isinstance(middle, Delivery)
    middle.ack()
    middle.ack()
    net.look(c, 1)
    net.restart(C)
    a.send(C, b"4", "4")
    a.send(C, b"1", "1")
    assert arrived(net, C, 4) == [(A, frame) for frame in (b"0", b"2", b"3", b"4")]
    net.restart(C)
    assert arrived(net, C, 0) == []


def test_a_members_unacknowledged_frame_comes_again_before_later_ones(net: Net) -> None:
    a, c = net.endpoint(A), net.endpoint(C)
    for number in range(3):
        c.send(A, b"%d" % number, str(number))
    net.look(a, 1)
    assert a.receive() is not None
    net.restart(A)
    c.send(A, b"3", "3")
    assert arrived(net, A, 4) == [(C, frame) for frame in (b"0", b"1", b"2", b"3")]


def test_an_acknowledgement_from_before_the_restart_does_not_count(net: Net) -> None:
    net.endpoint(A).send(C, b"frame", "key")
    c = net.endpoint(C)
    net.look(c, 1)
    old = c.receive()
    assert old is not None
    net.restart(C)
    net.look(net.endpoint(C), 1)
    again = net.endpoint(C).receive()
    old.ack()
    net.restart(C)
    assert again is not None and arrived(net, C, 1) == [(A, b"frame")]


def test_a_frame_over_the_limit_is_refused_and_says_how_to_send_it(net: Net) -> None:
    a, c = net.endpoint(A), net.endpoint(C)
    frame = bytes(range(256)) * (FRAME_LIMIT_BYTES // 256)
    a.send(C, frame, "fits")
    c.send(A, frame, "fits")
    with pytest.raises(UsageError, match="offer it and send its digest"):
        a.send(C, bytes(FRAME_LIMIT_BYTES + 1), "too large")
    assert arrived(net, C, 1) == [(A, frame)]
    assert arrived(net, A, 1) == [(C, frame)]


def test_only_the_parties_are_reached(net: Net) -> None:
    assert net.endpoint(C).peers() == (A, B)
    assert C in net.endpoint(A).peers() and A not in net.endpoint(A).peers()
    for sender, recipient in ((A, MemberId("x")), (A, A), (C, MemberId("x")), (C, C)):
        with pytest.raises(UsageError, match=r"not a party here|sends to itself"):
            net.endpoint(sender).send(recipient, b"", "key")
    assert arrived(net, C, 0) == []


def test_large_objects_go_by_digest(net: Net) -> None:
    a, b, c = (net.endpoint(member) for member in (A, B, C))
    data = bytes(range(256)) * (FRAME_LIMIT_BYTES // 256) + b"rest"
    digest = sha256(data)
    with pytest.raises(ResourceError, match="not offered by anyone: try again"):
        c.fetch(digest, OBJECT_LIMIT_BYTES)
    with pytest.raises(UsageError, match="offer of digest"):
        a.offer(digest, b"something else")
    a.offer(digest, data)
    b.offer(digest, data)
    assert c.fetch(digest, OBJECT_LIMIT_BYTES) == data
    with pytest.raises(ResourceError):
        a.fetch(sha256(b"nobody has it"), OBJECT_LIMIT_BYTES)
    c.offer(sha256(b""), b"")
    c.offer(digest, data)
    assert (
        a.fetch(digest, OBJECT_LIMIT_BYTES) == data
        and b.fetch(sha256(b""), OBJECT_LIMIT_BYTES) == b""
    )


def test_an_object_larger_than_its_reader_expects_is_not_read(net: Net) -> None:
    a, c = net.endpoint(A), net.endpoint(C)
    data = bytes(FRAME_LIMIT_BYTES + 1)
    a.offer(sha256(data), data)
    with pytest.raises(VerificationError) as refused:
        c.fetch(sha256(data), len(data) - 1)
    assert refused.value.code == "blob-too-large"
    assert c.fetch(sha256(data), len(data)) == data


def test_a_withdrawn_object_is_gone(network: EmbeddedNetwork) -> None:
    a, c = network.endpoint(A), network.endpoint(C)
    a.offer(sha256(b"object"), b"object")
    network.withdraw(sha256(b"object"))
    network.withdraw(sha256(b"object"))
    with pytest.raises(ResourceError):
        c.fetch(sha256(b"object"), OBJECT_LIMIT_BYTES)


def test_only_a_party_has_an_end(network: EmbeddedNetwork) -> None:
    with pytest.raises(UsageError, match="not a party here"):
        network.endpoint(MemberId("x"))


def test_every_byte_that_leaves_is_on_record(network: EmbeddedNetwork) -> None:
    a, c = network.endpoint(A), network.endpoint(C)
    a.send(C, b"frame", "key")
    a.send(C, b"frame", "key")
    a.offer(sha256(b"object"), b"object")
    a.offer(sha256(b"object"), b"object")
    c.fetch(sha256(b"object"), OBJECT_LIMIT_BYTES)
    frame = EgressRecord(A, C, 5, sha256(b"frame"), Passage.FRAME, b"frame")
    digest = sha256(b"object")
    assert network.egress == (
        frame,
        frame,
        EgressRecord(A, ENGINE, 6, digest, Passage.OFFER, b"object"),
        EgressRecord(ENGINE, C, 6, digest, Passage.FETCH, b"object"),
    )
    network.clear_egress()
    assert not network.egress


def test_without_capture_the_records_hold_no_content() -> None:
    network = EmbeddedNetwork((A, C), faults=Every(InjectedFault(Fault.DROP)))
    network.endpoint(A).send(C, b"lost", "key")
    assert network.egress == (EgressRecord(A, C, 4, sha256(b"lost"), Passage.FRAME),)


def test_every_record_holds_the_digest_of_its_own_frame() -> None:
    """One feed goes to many as one object; the digest is that object's, never the last one's."""
    network = EmbeddedNetwork((A, C))
    feed, other = b"feed", b"else"
    for number, frame in enumerate((feed, feed, other, feed)):
        network.endpoint(A).send(C, frame, str(number))
    assert [one.digest for one in network.egress] == [
        sha256(one) for one in (feed, feed, other, feed)
    ]


def test_a_severed_party_fails_loudly_and_finds_its_frames_later(
    network: EmbeddedNetwork,
) -> None:
    a, c = network.endpoint(A), network.endpoint(C)
    network.sever(C)
    a.send(C, b"meanwhile", "1")
    digest = sha256(b"object")
    a.offer(digest, b"object")
    assert c.receive() is None
    acts: list[Callable[[], object]] = [
        lambda: c.send(A, b"lost", "2"),
        lambda: c.fetch(digest, OBJECT_LIMIT_BYTES),
        lambda: c.offer(digest, b"object"),
    ]
    for act in acts:
        with pytest.raises(ResourceError, match="cannot be reached"):
            act()
    assert a.receive() is None
    network.heal(C)
    assert drain(c) == [(A, b"meanwhile")]


FAULT_TABLE: list[tuple[Fault, int, list[bytes], list[bytes]]] = [
    # fault of the third of four frames, its amount, what arrives at once, what arrives
    # after the same frame is sent again under the same key
    (Fault.DROP, 1, [b"0", b"1", b"3"], [b"2"]),
    (Fault.DUPLICATE, 2, [b"0", b"1", b"2", b"2", b"2", b"3"], []),
    (Fault.REORDER, 1, [b"0", b"2", b"1", b"3"], []),
    (Fault.REORDER, 9, [b"2", b"0", b"1", b"3"], []),
    (Fault.CORRUPT, 0, [b"0", b"1", b"3", b"3"], [b"2"]),
    (Fault.DELAY, 5, [b"0", b"1", b"3", b"2"], []),
]


@pytest.mark.parametrize(("fault", "amount", "at_once", "after_repeat"), FAULT_TABLE)
def test_each_fault_does_what_it_says(
    fault: Fault, amount: int, at_once: list[bytes], after_repeat: list[bytes]
) -> None:
    class Third:
        def faults(self, occasion: Occasion) -> tuple[InjectedFault, ...]:
            struck = occasion.key == "2" and occasion.attempt == 1
            return (InjectedFault(fault, amount),) if struck else ()

    network = EmbeddedNetwork((A, C), faults=Third())
    a, c = network.endpoint(A), network.endpoint(C)
    for number in range(4):
        a.send(C, b"%d" % number, str(number))
    found = [c.receive() for _ in range(10)]
    assert [delivery.frame for delivery in found if delivery] == at_once
    a.send(C, b"2", "2")
    assert [frame for _, frame in drain(c)] == after_repeat


def test_a_lost_reply_is_reported_although_the_frame_arrived() -> None:
    network = EmbeddedNetwork((A, C), faults=Every(InjectedFault(Fault.LOSE_REPLY), attempts=1))
    a, c = network.endpoint(A), network.endpoint(C)
    with pytest.raises(ResourceError, match="try again with the same key"):
        a.send(C, b"frame", "key")
    a.send(C, b"frame", "key")
    assert drain(c) == [(A, b"frame")]


def test_a_lost_or_corrupt_object_is_refused_and_can_be_fetched_again() -> None:
    digest = sha256(b"object")
    for fault, error in ((Fault.DROP, ResourceError), (Fault.CORRUPT, VerificationError)):
        network = EmbeddedNetwork((A, C), faults=Every(InjectedFault(fault), attempts=1))
        network.endpoint(A).offer(digest, b"object")
        c = network.endpoint(C)
        with pytest.raises(error, match=r"try again|fetch it again"):
            c.fetch(digest, OBJECT_LIMIT_BYTES)
        assert c.fetch(digest, OBJECT_LIMIT_BYTES) == b"object"


def test_the_engine_keeps_frames_order_keys_and_acknowledgements_in_every_sequence() -> None:
    """Compare with a list per party: sends, repeats, receives, late and lost acks, restarts."""

    class Comparison(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.network = EmbeddedNetwork((A, B, C))
            self.waiting: dict[MemberId, deque[tuple[MemberId, bytes]]] = {
                member: deque() for member in (A, B, C)
            }
            self.held: dict[MemberId, list[tuple[tuple[MemberId, bytes], Delivery]]] = {
                member: [] for member in (A, B, C)
            }
            self.seen: set[tuple[MemberId, MemberId, int]] = set()

        @rule(pair=st.permutations([A, B, C]), key=st.integers(0, 9))
        def send(self, pair: list[MemberId], key: int) -> None:
            sender, recipient = pair[:2]
            frame = b"%d" % key
            self.network.endpoint(sender).send(recipient, frame, str(key))
            if (sender, recipient, key) not in self.seen:
                self.seen.add((sender, recipient, key))
                self.waiting[recipient].append((sender, frame))

        @rule(member=st.sampled_from([A, B, C]))
        def receive(self, member: MemberId) -> None:
            delivery = self.network.endpoint(member).receive()
            if not self.waiting[member]:
                assert delivery is None
                return
            expected = self.waiting[member].popleft()
            assert delivery is not None and (delivery.sender, delivery.frame) == expected
            self.held[member].append((expected, delivery))

        @rule(member=st.sampled_from([A, B, C]), which=st.integers(0, 9))
        def acknowledge(self, member: MemberId, which: int) -> None:
            if self.held[member]:
                _, delivery = self.held[member].pop(which % len(self.held[member]))
                delivery.ack()

        @rule(member=st.sampled_from([A, B, C]))
        def restart(self, member: MemberId) -> None:
            self.network.restart(member)
            for message, delivery in reversed(self.held[member]):
                self.waiting[member].appendleft(message)
                delivery.ack()
            self.held[member].clear()

        @invariant()
        def nothing_is_lost_or_made_up(self) -> None:
            for member in (A, B, C):
                count = len(self.waiting[member]) + len(self.held[member])
                assert self.network.pending(member) == count

    run_state_machine_as_test(
        Comparison,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_sender_who_persists_gets_everything_through(seed: int) -> None:
    """Every fault at 30 per cent for two attempts: repeated sends and one receiver's memory
    give each frame at least once, and the rest is corrupt, which a digest shows."""
    rules = tuple(FaultRule(fault, 300, attempts=2) for fault in Fault)
    network = EmbeddedNetwork((A, C), faults=SeededFaults(seed, rules))
    a, c = network.endpoint(A), network.endpoint(C)
    frames = {sha256(b"%d" % number): b"%d" % number for number in range(30)}
    accepted: set[bytes] = set()
    for _ in range(3):
        for digest, frame in frames.items():
            try:
                a.send(C, frame, digest)
            except ResourceError:
                continue
    while network.pending(C):
        delivery = c.receive()
        if delivery:
            delivery.ack()
            if delivery.frame in frames.values():
                accepted.add(delivery.frame)
    assert accepted == set(frames.values())


def test_every_implementation_fits_the_port(network: EmbeddedNetwork) -> None:
    engine: Engine = network.endpoint(A)
    assert isinstance(engine, EmbeddedEngine)
