"""JetStream engine: one party's end of a NATS server with durable streams.

The coordinator is the hub: it sends to every member and every member to it, never members to one
another. Guarantees beside those of the port (docs/spec/transport.md, sections 3 and 4):
  * A frame is handed over when the server has stored it. Its `Nats-Msg-Id` is sender, recipient and
    key, so that a repetition within the server's window is one message. The coordinator, which
    sends to many at once, does not wait for each: a frame that the server has not confirmed in time
    is said at the next one to the same recipient, and at the end all are waited for.
  * A frame leaves its stream when it is acknowledged. The coordinator's unacknowledged frames come
    again at its start, in their places; a member's within `ACK_WAIT_S` after its process ended.
  * No message exceeds `CHUNK_BYTES` and a header: larger frames and objects go in chunks.
  * The server is not trusted: who sent a frame is what the stream's name says, until a signature
    proves it; chunks and objects are taken by their digests only.

An asyncio loop in a thread of its own does the talking; the port's methods wait for it, `receive`
does not. `wait` returns when a frame is there, so that a process need not look all the time.
"""

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.engines.chunks import CHUNK_BYTES
from treaty.engines.nats_link import Incoming, Link, LinkSettings
from treaty.engines.object_checks import check_offer
from treaty.engines.objects import CHUNK_S, Objects
from treaty.engines.streams import ACK_WAIT_S, prepare
from treaty.engines.subjects import Subjects
from treaty.errors import (
    PeerError,
    ResourceError,
    TreatyError,
    UsageError,
)
from treaty.ids import Digest, MemberId
from treaty.ports import FRAME_LIMIT_BYTES, Delivery, Journal

__all__ = ["JetStreamEngine", "NatsParty"]

SEND_S = 5.0
"""How long a send waits for the server to confirm, connecting again where it must."""

PULL_S = 30
HUB_BATCH = 8
MEMBER_BATCH = 256
QUEUE_LIMIT_BYTES = 32 << 20
"""Frames that wait in this process; above it nothing more is asked for."""

OBJECT_HEADER = "Treaty-Object"
"""Names the digest of a frame that travels as an object because it exceeds one chunk."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NatsParty:
    """Who this party is, and the consortium's server.

    `members` are the members whose streams the coordinator keeps; a member names only itself.
    """

    url: str
    pin: Digest
    key: SigningKey = field(repr=False)
    name: MemberId
    consortium: str
    coordinator: MemberId
    members: tuple[MemberId, ...] = ()

    @property
    def is_hub(self) -> bool:
        """Say whether this party is the coordinator."""
        return self.name == self.coordinator


@dataclass(slots=True, eq=False)
class _Held:
    """A frame that was received and not yet acknowledged; `reply` acknowledges it."""

    sender: MemberId
    frame: bytes
    reply: str
    place: tuple[str, str]


class JetStreamEngine:
    """One party's `Engine` on a NATS server. Close it to end its thread."""

    def __init__(self, party: NatsParty, journal: Journal) -> None:
        self._party = party
        self._journal = journal
        self._subjects = Subjects(party.consortium, party.coordinator)
        self._arrived = threading.Condition()
        self._queue: deque[_Held] = deque()
        self._held: dict[tuple[str, str], _Held] = {}
        self._queued_bytes = 0
        self._acknowledged: list[str] = []
        self._saying: set[asyncio.Future[None]] = set()
        self._sending: set[Future[None]] = set()
        self._sending_bytes = 0
        self._unsent: dict[MemberId, ResourceError] = {}
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._bug: BaseException | None = None
        self._ready = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"engine-{party.name}", daemon=True
        )
        self._thread.start()
        self._link: Link = self._call(self._begin(), SEND_S)

    # --- the port -----------------------------------------------------------------------------

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """See `treaty.ports.Engine.send`."""
        if len(frame) > FRAME_LIMIT_BYTES:
            raise UsageError(
                f"frame of {len(frame)} bytes, expected at most {FRAME_LIMIT_BYTES}: "
                "offer it and send its digest"
            )
        if recipient not in self.peers():
            raise UsageError(
                f"{recipient!r} is not a party here: expected one of {', '.join(self.peers())}"
            )
        with self._arrived:
            failure = self._unsent.pop(recipient, None)
        if failure is not None:
            raise failure
        work = self._send(recipient, frame, key)
        if self._party.is_hub and self._link.is_up and len(frame) <= CHUNK_BYTES:
            self._send_later(recipient, work, len(frame))
        else:
            self._call(work, SEND_S + CHUNK_S)

    def receive(self) -> Delivery | None:
        """See `treaty.ports.Engine.receive`."""
        with self._arrived:
            if self._closed or not self._queue:
                return None
            held = self._queue.popleft()
            self._queued_bytes -= len(held.frame)

        def acknowledge() -> None:
            self._acknowledge(held)

        return Delivery(held.sender, held.frame, acknowledge)

    def offer(self, digest: Digest, data: bytes) -> None:
        """See `treaty.ports.Engine.offer`. What was half sent before is completed."""
        check_offer(digest, data)
        self._call(self._objects.offer(digest, data), CHUNK_S * (2 + len(data) // CHUNK_BYTES))

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """See `treaty.ports.Engine.fetch`. Chunks that arrived before a loss are kept."""
        return self._call(self._objects.fetch(digest, most_bytes), None)

    def peers(self) -> tuple[MemberId, ...]:
        """See `treaty.ports.Engine.peers`."""
        if self._party.is_hub:
            return tuple(sorted(self._party.members))
        return (self._party.coordinator,)

    # --- beside the port ----------------------------------------------------------------------

    def connect(self, timeout_s: float) -> None:
        """Return when the server has accepted this party; else raise why it did not.

        A wrong certificate or a refused key is final, an absent server is waited for.
        """
        self._call(self._connected(timeout_s), timeout_s + SEND_S)

    def wait(self, timeout_s: float) -> bool:
        """Return when a frame has arrived or the time is over; say whether there is a frame."""
        with self._arrived:
            if not self._queue and not self._closed:
                self._arrived.wait(timeout_s)
            return bool(self._queue)

    @property
    def waiting(self) -> int:
        """Return how many frames `receive` would return now."""
        with self._arrived:
            return len(self._queue)

    @property
    def is_connected(self) -> bool:
        """Say whether the connection stands now, as far as is known."""
        return self._link.is_up

    @property
    def key_refused(self) -> bool:
        """Say whether the server refused this party's transport key when it was tried last."""
        return self._link.key_refused

    @property
    def moved(self) -> int:
        """Return how many pieces of large objects have passed, either way."""
        return self._objects.moved

    @property
    def connections(self) -> int:
        """Return how often the connection was made; read it after `is_connected`."""
        return self._link.connections

    def close(self) -> None:
        """End the connection and the thread. What was not acknowledged comes again elsewhere."""
        with self._arrived:
            if self._closed:
                return
            self._closed = True
            self._arrived.notify_all()
            sending = set(self._sending)
        # What was accepted leaves, as far as the server is there.
        wait_for(sending, SEND_S)
        with contextlib.suppress(ResourceError):
            self._call(self._end(), SEND_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SEND_S)
        if not self._thread.is_alive():
            self._loop.close()

    # --- the thread ---------------------------------------------------------------------------

    def _begin_call(self, work: Coroutine[Any, Any, _T]) -> "Future[_T]":
        if self._bug is not None:
            work.close()
            raise RuntimeError("the engine's thread has failed") from self._bug
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _call(self, work: Coroutine[Any, Any, _T], timeout_s: float | None) -> _T:
        future = self._begin_call(work)
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            future.cancel()
            raise ResourceError("the engine did not answer in time: try again") from error
        except asyncio.CancelledError as error:
            raise ResourceError("the engine is closed") from error

    async def _begin(self) -> Link:
        party = self._party
        link = Link(
            LinkSettings(
                party.url, party.pin, party.key, self._subjects.inbox(party.name), party.name
            ),
            self._journal.note,
        )
        offerers = party.members if party.is_hub else (party.coordinator,)
        self._objects = Objects(link, self._subjects, party.name, offerers)
        link.start()
        self._spawn(self._keep(link))
        self._spawn(self._keep_held(link))
        return link

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` run as long as the engine lives; if it ends by a bug, say so at every call."""
        task = asyncio.create_task(work)

        def ended(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                self._bug = done.exception()

        task.add_done_callback(ended)
        self._tasks.append(task)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()
        # What the library has left running belongs to this loop, which ends now.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for one in rest:
            one.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _connected(self, timeout_s: float) -> None:
        end = self._loop.time() + timeout_s
        await self._link.connected(timeout_s, give_up=True)
        while not self._ready:
            if self._loop.time() > end:
                raise ResourceError("the engine's streams could not be prepared in time: try again")
            await asyncio.sleep(0.005)

    async def _keep(self, link: Link) -> None:
        """Prepare the streams once connected, then read them as long as the engine lives."""
        while True:
            await _until_up(link)
            try:
                if self._party.is_hub:
                    await prepare(link, self._subjects, self._party.members)
                break
            except TreatyError as error:
                self._journal.note("unreachable", str(error))
                await asyncio.sleep(0.2)
        me = self._party.name
        readers = (
            [(member, self._subjects.up_stream(member)) for member in self._party.members]
            if self._party.is_hub
            else [(self._party.coordinator, self._subjects.down_stream(me))]
        )
        self._ready = True
        for sender, stream in readers:
            self._spawn(self._read(link, sender, stream))

    # --- receiving ----------------------------------------------------------------------------

    async def _read(self, link: Link, sender: MemberId, stream: str) -> None:
        """Ask for the frames of one stream, again whenever what was asked for is used up."""
        ask = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{self._subjects.consumer(self._party.name)}"
        # A member's consumer hands out the next frame only when the one before is acknowledged,
        # which keeps their order; so what a member asks for at once costs no memory.
        batch = HUB_BATCH if self._party.is_hub else MEMBER_BATCH
        wanted = msgspec.json.encode({"batch": batch, "expires": PULL_S * 10**9})
        while True:
            await _until_up(link)
            try:
                inbox, queue = await link.subscribe(self._subjects.frames_from(sender))
                for number in itertools.count(1):
                    reply = f"{inbox}.{number}"
                    await link.publish(ask, wanted, reply=reply)
                    await self._take_batch(link, sender, stream, queue, (reply, batch))
                    while self._queued_bytes > QUEUE_LIMIT_BYTES:
                        await asyncio.sleep(0.01)
            except TreatyError:
                # The link notes causes; here the stream is only asked again.
                await asyncio.sleep(0.05)

    async def _take_batch(
        self,
        link: Link,
        sender: MemberId,
        stream: str,
        queue: "asyncio.Queue[Incoming | TreatyError]",
        asked: tuple[str, int],
    ) -> None:
        """Take what answers one request, until it is used up, refused or over."""
        reply, batch = asked
        taken = 0
        while taken < batch:
            try:
                # Not `wait_for`, which makes a task of every wait.
                async with asyncio.timeout(PULL_S + SEND_S):
                    found = await queue.get()
            except TimeoutError:
                return
            if isinstance(found, TreatyError):
                raise found
            if not found.status:
                await self._take(link, sender, stream, found)
                taken += 1
            elif found.subject == reply:
                # 404 and 408: nothing came; 409 and 503: the consumer is not there now.
                await asyncio.sleep(0.2 if found.status in (409, 503) else 0)
                return

    async def _take(self, link: Link, sender: MemberId, stream: str, found: Incoming) -> None:
        place = (stream, _sequence(found.reply))
        with self._arrived:
            known = self._held.get(place)
            if known is not None:
                # It came again before it was acknowledged: it still waits here.
                known.reply = found.reply
                return
        frame = found.data
        digest = found.headers.get(OBJECT_HEADER)
        if digest is not None:
            try:
                frame = await self._objects.fetch(Digest(digest), FRAME_LIMIT_BYTES)
            except ResourceError:
                # It is not acknowledged, so the server hands it out again.
                return
            except PeerError as error:
                self._journal.note("refused.frame-object", f"{sender}: {error}")
                await link.publish(found.reply, b"+TERM")
                return
        held = _Held(sender, frame, found.reply, place)
        with self._arrived:
            self._held[place] = held
            self._queue.append(held)
            self._queued_bytes += len(frame)
            self._arrived.notify_all()

    async def _keep_held(self, link: Link) -> None:
        """Tell the server that what is held here is being worked on, so that it does not repeat."""
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            with self._arrived:
                replies = [held.reply for held in self._held.values()]
            for reply in replies:
                with contextlib.suppress(ResourceError):
                    await link.publish(reply, b"+WPI")

    def _acknowledge(self, held: _Held) -> None:
        with self._arrived:
            if self._closed or self._held.get(held.place) is not held:
                return
            del self._held[held.place]
            self._acknowledged.append(held.reply)
            if len(self._acknowledged) > 1:
                # What was acknowledged before still waits for the loop, which takes all at once.
                return
        self._loop.call_soon_threadsafe(self._spawn_acknowledgements)

    def _spawn_acknowledgements(self) -> None:
        work = asyncio.ensure_future(self._say_acknowledged())
        self._saying.add(work)
        work.add_done_callback(self._saying.discard)

    async def _say_acknowledged(self) -> None:
        with self._arrived:
            replies, self._acknowledged = self._acknowledged, []
        for reply in replies:
            # A lost acknowledgement means one repetition, which receivers bear.
            with contextlib.suppress(ResourceError):
                await self._link.publish(reply, b"+ACK")

    # --- sending ------------------------------------------------------------------------------

    def _send_later(
        self, recipient: MemberId, work: Coroutine[Any, Any, None], size_bytes: int
    ) -> None:
        """Let `work` send while the caller goes on; its failure is said at the next send.

        Sends begin in the order of the calls, and each publishes before it waits.
        """
        with self._arrived:
            full = self._sending_bytes > QUEUE_LIMIT_BYTES
        if full:
            self._call(work, SEND_S + CHUNK_S)
            return

        def done(future: "Future[None]") -> None:
            with self._arrived:
                self._sending.discard(future)
                self._sending_bytes -= size_bytes
                if future.cancelled():
                    return
                error = future.exception()
                if isinstance(error, ResourceError):
                    self._unsent[recipient] = error
                elif error is not None:
                    self._bug = error

        future = self._begin_call(work)
        with self._arrived:
            self._sending.add(future)
            self._sending_bytes += size_bytes
        future.add_done_callback(done)

    async def _send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        me, hub = self._party.name, self._party.is_hub
        subject = self._subjects.down(recipient) if hub else self._subjects.up(me)
        headers = {"Nats-Msg-Id": f"{me}>{recipient}/{key}"}
        if len(frame) > CHUNK_BYTES:
            digest = sha256(frame)
            await self._objects.offer(digest, frame)
            headers[OBJECT_HEADER] = digest
            frame = b""
        await self._objects.store(subject, frame, headers, SEND_S)


def _sequence(reply: str) -> str:
    """Return the stream's number of a message from the subject that acknowledges it."""
    parts = reply.split(".")
    # $JS.ACK.stream.consumer.deliveries.number.order.time.pending, with domain and account before
    # the stream in newer servers, and one token more behind.
    place = 5 if len(parts) <= 9 else 7
    return parts[place] if len(parts) > place else reply


async def _until_up(link: Link) -> None:
    while True:
        with contextlib.suppress(TreatyError):
            await link.connected(PULL_S)
            return
