"""The coordinator's end of a message server sends to many without waiting for each.

Planted and caught: a failure that nobody hears of, one that a frame sent as an object passes over,
one that is heard by another recipient's sender, an end that closes before what it accepted has
left, sends that overtake one another.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.nats_network import FRAME_S, NatsNetwork
from tests.standstill import go_on, stand_still
from treaty.engines import jetstream
from treaty.engines.chunks import CHUNK_BYTES
from treaty.engines.jetstream import JetStreamEngine
from treaty.errors import ResourceError
from treaty.ids import MemberId
from treaty.ports import Engine

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

A, B, C = MemberId("a"), MemberId("b"), MemberId("c")
PATIENT_S = 60.0
"""How long a send waits where nothing is to be lost, however slow the machine is."""

BEYOND_S = 0.5
"""How long a frame too many is waited for; a member gets the next in milliseconds."""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[NatsNetwork]:
    made = NatsNetwork(tmp_path, C, (A, B))
    for name in (C, A, B):
        made.endpoint(name)
    yield made
    made.close()


@pytest.fixture
def paused(net: NatsNetwork) -> Iterator[int]:
    """The server stands still; the connections stay."""
    pid = net.server.pid()
    assert pid is not None
    stand_still(pid)
    yield pid
    go_on(pid)


def frames(net: NatsNetwork, engine: Engine, count: int) -> list[bytes]:
    """Receive and acknowledge `count` frames, and whatever comes beyond them."""
    found: list[bytes] = []
    end = time.monotonic() + FRAME_S
    while time.monotonic() < end and len(found) < count:
        net.look(engine, 1)
        found += received(engine)
    time.sleep(BEYOND_S)
    return found + received(engine)


def received(engine: Engine) -> list[bytes]:
    """Receive and acknowledge what waits."""
    found: list[bytes] = []
    while (delivery := engine.receive()) is not None:
        found.append(delivery.frame)
        delivery.ack()
    return found


def test_frames_leave_in_order_and_nobody_waits_for_the_server(
    net: NatsNetwork, paused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "SEND_S", PATIENT_S)
    c = net.endpoint(C)
    assert isinstance(c, JetStreamEngine)
    for number in range(20):
        c.send(A, b"%d" % number, f"{number}")
        c.send(B, b"%d" % number, f"{number}")
    # Every call has returned, and the server has confirmed nothing.
    assert len(c._sending) == 40
    go_on(paused)
    for name in (A, B):
        assert frames(net, net.endpoint(name), 20) == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("size", [6, CHUNK_BYTES + 1], ids=["small", "as an object"])
def test_what_the_server_does_not_confirm_is_said_at_the_next_frame_to_the_same_member(
    net: NatsNetwork, paused: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "SEND_S", PATIENT_S)
    second = b"s" * size
    c = net.endpoint(C)
    assert isinstance(c, JetStreamEngine)
    with pytest.MonkeyPatch.context() as brief:
        brief.setattr(jetstream, "SEND_S", 1.0)
        c.send(A, b"first", "first")
        end = time.monotonic() + PATIENT_S
        while c._sending:
            assert time.monotonic() < end, "the server is waited for without end"
            time.sleep(0.01)
    go_on(paused)
    c.send(B, b"other", "other")
    with pytest.raises(ResourceError, match="try again"):
        c.send(A, second, "second")
    # It was said once; whoever persists gets everything through, and nothing twice.
    c.send(A, b"first", "first")
    c.send(A, second, "second")
    assert frames(net, net.endpoint(A), 2) == [b"first", second]
    assert frames(net, net.endpoint(B), 1) == [b"other"]


def test_what_was_accepted_leaves_before_the_end_closes(
    net: NatsNetwork, paused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the connection's buffers hold, to a server that goes on in a moment."""
    monkeypatch.setattr(jetstream, "SEND_S", PATIENT_S)
    c = net.endpoint(C)
    sent = [bytes([number]) * 3_000_000 for number in range(6)]
    for number, frame in enumerate(sent):
        c.send(A, frame, f"{number}")
    timer = threading.Timer(0.7, go_on, (paused,))
    timer.start()
    net.restart(C)
    timer.join()
    assert frames(net, net.endpoint(A), len(sent)) == sent
