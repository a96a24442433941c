"""Strangers, members and servers that do what they may not, against a real NATS server.

Each case sees the refusal and its reason, and that what was attempted had no effect. Ids are those
of docs/threat-model.md, section 4.6.

Planted and caught: the pin not compared, TLS 1.2 allowed by the server, suspended keys left in the
configuration, a configuration that is not reloaded, permissions for all subjects, Msg-Ids shared by
all posts of one stream, chunks that are not compared, an object taken by its header alone, all
pieces sent again, no second connection after a loss, a permission error that only times out, a
frame whose object is forged delivered as it is.
"""

import asyncio
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import PolicyError, ResourceError, TreatyError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.ports import OBJECT_LIMIT_BYTES

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.nats_network import FRAME_S
from tests.nats_network import NatsNetwork as Network
from treaty.engines.chunks import CHUNK_BYTES, HEAD, header_of, pieces
from treaty.engines.jetstream import JetStreamEngine, NatsParty
from treaty.engines.nats_link import Link, LinkSettings, _NkeyClient
from treaty.stores.system import MemoryJournal

pytestmark = pytest.mark.nats

HUB, A, B = MemberId("hub.example"), MemberId("a.example"), MemberId("b.example")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A server for the cases that leave it as it was."""
    network = Network(tmp_path_factory.mktemp("nats"), HUB, (A, B))
    for name in (HUB, A, B):
        network.endpoint(name)
    yield network
    network.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Network]:
    """A server for the cases that change it."""
    network = Network(tmp_path, HUB, (A, B))
    yield network
    network.close()


def until(condition: Callable[[], bool], seconds: float = FRAME_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def frames(network: Network, name: MemberId, expected: int) -> list[tuple[MemberId, bytes]]:
    """Receive and acknowledge what waits for `name`."""
    engine = network.engines[name]
    found = []
    network.look(engine, min(expected, 1))
    while len(found) < expected or engine.waiting:
        delivery = engine.receive()
        if delivery is None:
            until(lambda: engine.waiting > 0)
            continue
        found.append((delivery.sender, delivery.frame))
        delivery.ack()
    return found


def as_member(network: Network, name: MemberId, act: Callable[[Link], Awaitable[object]]) -> object:
    """Do what the software of `name` would never do, with the key of `name`."""

    async def run() -> object:
        settings = network.party(name)
        link = Link(
            LinkSettings(
                settings.url, settings.pin, settings.key, network.subjects.inbox(name), name
            ),
            lambda event, detail: None,
        )
        link.start()
        try:
            await link.connected(FRAME_S)
            return await act(link)
        finally:
            await link.close()

    return asyncio.run(run())


# --- T-60: strangers ------------------------------------------------------------------------------


def test_t60_a_stranger_with_the_servers_certificate_is_not_let_in(shared: Network) -> None:
    """The certificate is no secret and proves nothing about who connects."""
    with pytest.raises(PolicyError, match="does not accept this party's transport key") as refused:
        shared.open(A, key=SigningKey(b"stranger" * 4))
    assert refused.value.code == "key-refused"


def test_t60_without_a_key_or_tls_nothing_is_answered(shared: Network) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=FRAME_S) as plain:
        plain.sendall(b"CONNECT {}\r\nPING\r\n")
        plain.settimeout(FRAME_S)
        try:
            said = plain.recv(4096)
        except ConnectionError:
            said = b""
        assert b"INFO" not in said and b"PONG" not in said
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", shared.port), timeout=FRAME_S) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    with (
        socket.create_connection(("127.0.0.1", shared.port), timeout=FRAME_S) as plain,
        context.wrap_socket(plain) as secured,
    ):
        assert secured.version() == "TLSv1.3"
        secured.sendall(b"CONNECT {}\r\nPING\r\n")
        said = b""
        while piece := secured.recv(4096):
            said += piece
        assert b"Authorization Violation" in said and b"PONG" not in said


# --- T-61: another server -------------------------------------------------------------------------


def test_t61_a_server_with_another_key_is_refused_before_anything_is_said(
    shared: Network,
) -> None:
    other = SigningKey(b"o" * 32).public.keyid
    with pytest.raises(VerificationError, match="the charter pins") as refused:
        shared.open(A, pin=other)
    assert refused.value.code == "wrong-certificate"


def test_t61_a_server_that_asks_for_more_than_a_nonce_gets_no_signature() -> None:
    """See tests/unit/crypto/test_transport_keys.py; here the client's own way to it."""
    client = _NkeyClient(SigningKey(b"k" * 32))
    assert client._public_nkey is not None and client._public_nkey.startswith("U")


def test_t61_an_address_where_no_tls_server_listens_says_so(tmp_path: Path) -> None:
    with socket.socket() as plain:
        plain.bind(("127.0.0.1", 0))
        plain.listen()
        port = plain.getsockname()[1]

        def answer() -> None:
            peer, _ = plain.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        party = NatsParty(
            url=f"tls://127.0.0.1:{port}",
            pin=Digest("0" * 64),
            key=SigningKey(b"k" * 32),
            name=A,
            consortium="x.example",
            coordinator=HUB,
        )
        journal = MemoryJournal()
        engine = JetStreamEngine(party, journal)
        try:
            # An absent server is waited for; what is said then is what was met before.
            until(lambda: bool(journal.lines))
            with pytest.raises(TreatyError, match="check the address"):
                engine.connect(0.1)
        finally:
            engine.close()
            thread.join()
    journal = MemoryJournal()
    engine = JetStreamEngine(replace(party, url="tls://127.0.0.1:1"), journal)
    try:
        until(lambda: bool(journal.lines))
        with pytest.raises(ResourceError, match="nobody listens at"):
            engine.connect(0.3)
    finally:
        engine.close()


# --- T-62: a member reaches for what is not its own -----------------------------------------------


def test_t62_a_member_that_publishes_as_another_is_refused(shared: Network) -> None:
    names = shared.subjects
    for subject in (names.up(B), names.down(B), f"{names.objects(B)}.{'0' * 64}.head"):
        with pytest.raises(PolicyError, match="permits this party no publish to") as refused:
            as_member(
                shared, A, lambda link, to=subject: link.request(to, b"forged", timeout_s=FRAME_S)
            )
        assert refused.value.code == "not-permitted"
    assert frames(shared, HUB, 0) == []


def test_t62_a_member_that_reads_anothers_frames_is_refused(shared: Network) -> None:
    names = shared.subjects
    shared.engines[HUB].send(B, b"for b alone", "t62")
    asks = [
        f"$JS.API.CONSUMER.MSG.NEXT.{names.down_stream(B)}.{names.consumer(B)}",
        f"$JS.API.DIRECT.GET.{names.object_stream(B)}.{names.objects(B)}.{'0' * 64}.head",
        f"$JS.API.STREAM.MSG.GET.{names.down_stream(B)}",
        # Who makes a consumer chooses where the server publishes: no member may, not its own.
        f"$JS.API.CONSUMER.CREATE.{names.down_stream(A)}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{names.down_stream(A)}.{names.consumer(A)}",
        f"$JS.API.STREAM.PURGE.{names.up_stream(B)}",
        f"$JS.API.STREAM.DELETE.{names.up_stream(A)}",
        "$JS.API.STREAM.NAMES",
        f"$JS.ACK.{names.down_stream(B)}.{names.consumer(B)}.1.1.1.1.1",
    ]
    for subject in asks:
        with pytest.raises(PolicyError, match="permits this party no publish to"):
            as_member(shared, A, lambda link, to=subject: link.request(to, b"", timeout_s=FRAME_S))
    assert frames(shared, B, 1) == [(HUB, b"for b alone")]


def test_t62_a_refusal_is_noted_and_the_connection_goes_on(shared: Network) -> None:
    async def reach(link: Link) -> object:
        with pytest.raises(PolicyError):
            await link.request(shared.subjects.up(B), b"forged", timeout_s=FRAME_S)
        answer = await link.request(shared.subjects.up(A), b"honest", timeout_s=FRAME_S)
        return link.connections, answer.status

    assert as_member(shared, A, reach) == (1, 0)
    assert frames(shared, HUB, 1) == [(A, b"honest")]


def test_t62_a_foreign_message_id_swallows_nothing(shared: Network) -> None:
    """Streams are one per member, so a number that another will use next is only one's own."""
    shared.endpoint(A)
    headers = {"Nats-Msg-Id": f"{B}>{HUB}/next"}
    as_member(
        shared,
        A,
        lambda link: link.request(
            shared.subjects.up(A), b"early", headers=headers, timeout_s=FRAME_S
        ),
    )
    shared.engines[B].send(HUB, b"the real one", "next")
    found = frames(shared, HUB, 2)
    assert sorted(found) == [(A, b"early"), (B, b"the real one")]


# --- T-63: suspended ------------------------------------------------------------------------------


def test_t63_a_suspended_members_open_connection_closes(own: Network) -> None:
    for name in (HUB, A, B):
        own.endpoint(name)
    before = own.engines[B]
    own.engines[A].send(HUB, b"before", "1")
    own.let_in([B])
    until(lambda: not own.engines[A].is_connected)
    with pytest.raises(ResourceError, match="transport key"):
        own.engines[A].send(HUB, b"after", "2")
    until(lambda: any("key-refused" in event for event, _ in own.journals[A].lines))
    assert frames(own, HUB, 1) == [(A, b"before")]
    before.send(HUB, b"still here", "3")
    assert frames(own, HUB, 1) == [(B, b"still here")]
    assert before.is_connected and own.engines[HUB].is_connected
    # Taken back: the same process is let in again, without being started anew.
    own.let_in([A, B])
    until(lambda: own.engines[A].is_connected)
    own.engines[A].send(HUB, b"readmitted", "4")
    assert frames(own, HUB, 1) == [(A, b"readmitted")]


# --- T-64: repetition and loss --------------------------------------------------------------------


def test_t64_a_replayed_envelope_is_one_message_while_the_server_remembers(
    shared: Network,
) -> None:
    for _ in range(3):
        shared.engines[A].send(HUB, b"once", "replay")
    assert frames(shared, HUB, 1) == [(A, b"once")]


def test_t64_what_the_server_held_survives_its_end_and_everyone_comes_back(
    own: Network,
) -> None:
    for name in (HUB, A, B):
        own.endpoint(name)
    own.engines[HUB].send(A, b"held 1", "1")
    own.engines[HUB].send(B, b"held 2", "2")
    until(lambda: not own.engines[HUB]._sending)  # the coordinator's sends are confirmed later
    first = own.server.pid()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: own.server.pid() is None)
    with pytest.raises(ResourceError):
        own.engines[A].send(HUB, b"nobody is there", "3")
    assert own.server.ensure()
    assert own.server.pid() != first
    until(lambda: all(own.engines[name].is_connected for name in (HUB, A, B)))
    own.engines[A].send(HUB, b"after", "4")
    assert frames(own, HUB, 1) == [(A, b"after")]
    assert frames(own, A, 1) == [(HUB, b"held 1")]
    assert frames(own, B, 1) == [(HUB, b"held 2")]


# --- T-65: objects --------------------------------------------------------------------------------


def test_t65_a_half_sent_object_is_completed_and_only_what_is_missing_is_sent(
    shared: Network,
) -> None:
    data = bytes(range(256)) * (3 * CHUNK_BYTES // 256)
    digest = sha256(data)
    names = shared.subjects

    async def send_half(link: Link) -> object:
        for piece, content in ((HEAD, header_of(data)), ("1", pieces(data)[1])):
            await link.request(names.piece(A, digest, piece), content, timeout_s=FRAME_S)
        return None

    as_member(shared, A, send_half)
    with pytest.raises(ResourceError, match="half sent"):
        shared.engines[HUB].fetch(digest, OBJECT_LIMIT_BYTES)
    stored: list[str] = []
    engine = shared.engines[A]
    store = engine._objects.store

    async def counting(subject: str, *rest: object) -> None:
        stored.append(subject.rpartition(".")[2])
        await store(subject, *rest)  # type: ignore[arg-type]  # passed through

    engine._objects.store = counting  # type: ignore[method-assign]  # looks on, changes nothing
    try:
        engine.offer(digest, data)
        assert sorted(stored) == ["0", "2"]
        engine.offer(digest, data)
        assert sorted(stored) == ["0", "2"]
    finally:
        engine._objects.store = store  # type: ignore[method-assign]  # as it was
    assert shared.engines[HUB].fetch(digest, OBJECT_LIMIT_BYTES) == data


@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("another piece", "another piece 0"),
        ("another object", "arrived with digest"),
        ("no header", "no valid header"),
        ("another size", "arrived with digest"),
    ],
)
def test_t65_an_object_that_is_not_what_was_asked_for_is_refused(
    shared: Network, case: str, match: str
) -> None:
    data = case.encode() * 10
    digest = sha256(data)
    names = shared.subjects
    head, body = {
        "another piece": (header_of(data), b"forged"),
        "another object": (header_of(b"forged"), b"forged"),
        "no header": (b"{}", data),
        "another size": (header_of(data).replace(b'"size_bytes":', b'"size_bytes":9'), data),
    }[case]

    async def send(link: Link) -> object:
        await link.request(names.piece(A, digest, HEAD), head, timeout_s=FRAME_S)
        await link.request(names.piece(A, digest, "0"), body, timeout_s=FRAME_S)
        return None

    as_member(shared, A, send)
    with pytest.raises(VerificationError, match=match) as refused:
        shared.engines[HUB].fetch(digest, OBJECT_LIMIT_BYTES)
    assert refused.value.code == "blob-mismatch"
    # Another member's honest copy is found beside the forged one.
    shared.engines[B].offer(digest, data)
    assert shared.engines[HUB].fetch(digest, OBJECT_LIMIT_BYTES) == data


def test_t65_a_frame_that_names_a_forged_object_is_dropped_and_stops_nobody(
    shared: Network,
) -> None:
    names = shared.subjects
    digest = sha256(b"promised")

    async def send(link: Link) -> object:
        await link.request(names.piece(A, digest, HEAD), header_of(b"promised"), timeout_s=FRAME_S)
        await link.request(names.piece(A, digest, "0"), b"forged", timeout_s=FRAME_S)
        await link.request(names.up(A), b"", headers={"Treaty-Object": digest}, timeout_s=FRAME_S)
        await link.request(names.up(A), b"next", timeout_s=FRAME_S)
        return None

    as_member(shared, A, send)
    assert frames(shared, HUB, 1) == [(A, b"next")]
    until(lambda: any("frame-object" in event for event, _ in shared.journals[HUB].lines))


# --- WebSocket ------------------------------------------------------------------------------------


def test_the_same_holds_over_websocket(tmp_path: Path) -> None:
    """For sites behind proxies that pass nothing else: same pin, same keys, same frames."""
    pytest.importorskip("aiohttp", reason="nats: aiohttp is not installed")
    network = Network(tmp_path, HUB, (A, B), websocket=True)
    try:
        network.endpoint(HUB)
        url = f"wss://127.0.0.1:{network.websocket_port}"
        with pytest.raises(VerificationError, match="the charter pins"):
            network.open(A, url=url, pin=SigningKey(b"o" * 32).public.keyid)
        with pytest.raises(PolicyError, match="transport key"):
            network.open(A, url=url, key=SigningKey(b"stranger" * 4))
        site = network.open(A, url=url)
        network.engines[A] = site
        site.send(HUB, b"through a proxy", "1")
        assert frames(network, HUB, 1) == [(A, b"through a proxy")]
        network.engines[HUB].send(A, bytes(5 << 20), "2")
        assert frames(network, A, 1) == [(HUB, bytes(5 << 20))]
    finally:
        network.close()
