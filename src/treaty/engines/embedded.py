"""Embedded engine: every party in one process, one mailbox each, no server.

Guarantees: frames of one sender arrive in the order sent; a frame whose key the
recipient's mailbox remembers is not carried again (the last 65,536 keys are
remembered); what was received but not acknowledged comes again, in its old
place, after `restart`. Nothing waits and nothing sleeps: a delayed frame
counts the recipient's looks, so a run is the same on every machine.

Every byte that leaves a party is recorded, including what a fault then loses:
`egress` is the evidence for tests that nothing else left.

Assumes one process. A `FaultPlan` makes the engine hostile; `sever` and `heal`
cut a party off. Frames are kept by reference and in memory only.
"""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from treaty.crypto.canonical import sha256
from treaty.engines.faults import Fault, FaultPlan, InjectedFault, Occasion
from treaty.engines.object_checks import check_arrived, check_offer, check_size
from treaty.errors import ResourceError, UsageError
from treaty.ids import Digest, MemberId
from treaty.ports import FRAME_LIMIT_BYTES, Delivery

__all__ = ["ENGINE", "EgressRecord", "EmbeddedEngine", "EmbeddedNetwork", "Passage"]

ENGINE = MemberId("*")
"""Stands in an `EgressRecord` for the engine: the recipient of offers, the sender of fetches."""

_REMEMBERED_KEYS = 65_536


class Passage(Enum):
    """How bytes passed: from a party as a frame or an offer, or to a party as a fetch."""

    FRAME = "frame"
    OFFER = "offer"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """Bytes that left `sender` towards `recipient`; `content` only where capture is on."""

    sender: MemberId
    recipient: MemberId
    size_bytes: int
    digest: Digest
    passage: Passage
    content: bytes | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class _Message:
    sender: MemberId
    frame: bytes
    visible_at: int


class _Mailbox:
    """What waits for one party, what it holds unacknowledged, and which keys it remembers."""

    def __init__(self) -> None:
        self.waiting: deque[_Message] = deque()
        self.unacknowledged: OrderedDict[int, _Message] = OrderedDict()
        self.looks = 0
        self._deliveries = 0
        self._keys: OrderedDict[tuple[MemberId, str], None] = OrderedDict()

    def remembers(self, sender: MemberId, key: str) -> bool:
        return (sender, key) in self._keys

    def remember(self, sender: MemberId, key: str) -> None:
        self._keys[sender, key] = None
        if len(self._keys) > _REMEMBERED_KEYS:
            self._keys.popitem(last=False)

    def take(self) -> tuple[int, _Message] | None:
        self.looks += 1
        for position, message in enumerate(self.waiting):
            if message.visible_at <= self.looks:
                del self.waiting[position]
                self._deliveries += 1
                self.unacknowledged[self._deliveries] = message
                return self._deliveries, message
        return None

    def restart(self) -> None:
        self.waiting.extendleft(reversed(self.unacknowledged.values()))
        self.unacknowledged.clear()


class EmbeddedNetwork:
    """The engine that all parties of one process share; `endpoint` gives each its port.

    With `capture`, egress records hold the bytes themselves (for tests).
    """

    def __init__(
        self,
        members: Iterable[MemberId],
        *,
        faults: FaultPlan | None = None,
        capture: bool = False,
        frame_limit_bytes: int = FRAME_LIMIT_BYTES,
    ) -> None:
        self._mailboxes = {member: _Mailbox() for member in sorted(members)}
        self._faults = faults
        self._capture = capture
        self._frame_limit_bytes = frame_limit_bytes
        self._objects: dict[Digest, tuple[MemberId, bytes]] = {}
        self._attempts: Counter[tuple[MemberId, MemberId, str]] = Counter()
        self._severed: set[MemberId] = set()
        self._egress: list[EgressRecord] = []
        self._hashed: tuple[bytes, Digest] | None = None
        self._lock = threading.RLock()

    def endpoint(self, member: MemberId) -> "EmbeddedEngine":
        """Return the port of `member`. Raises `UsageError` if it is not one of the parties."""
        self._mailbox(member)
        return EmbeddedEngine(self, member)

    def restart(self, member: MemberId) -> None:
        """Forget what `member` held unacknowledged as delivered: it comes again, first.

        Acknowledgements of deliveries from before the restart do nothing.
        """
        with self._lock:
            self._mailbox(member).restart()

    def sever(self, member: MemberId) -> None:
        """Cut `member` off: it cannot send or fetch, and receives nothing until `heal`."""
        with self._lock:
            self._mailbox(member)
            self._severed.add(member)

    def heal(self, member: MemberId) -> None:
        """Connect `member` again; what was sent to it meanwhile waits for it."""
        with self._lock:
            self._severed.discard(member)

    @property
    def severed(self) -> frozenset[MemberId]:
        """Return the parties that are cut off now."""
        with self._lock:
            return frozenset(self._severed)

    def withdraw(self, digest: Digest) -> None:
        """Drop an offered object, to give its memory back; if there is none, do nothing."""
        with self._lock:
            self._objects.pop(digest, None)

    def pending(self, member: MemberId | None = None) -> int:
        """Return how many frames wait, are delayed or are unacknowledged (for one, or all)."""
        with self._lock:
            boxes = self._mailboxes.values() if member is None else (self._mailbox(member),)
            return sum(len(box.waiting) + len(box.unacknowledged) for box in boxes)

    @property
    def egress(self) -> tuple[EgressRecord, ...]:
        """Everything that left a party (and each fetch), in order."""
        with self._lock:
            return tuple(self._egress)

    def clear_egress(self) -> None:
        """Forget the records so far; long simulations do so after each round."""
        with self._lock:
            self._egress.clear()

    def _mailbox(self, member: MemberId) -> _Mailbox:
        if member not in self._mailboxes:
            raise UsageError(
                f"{member!r} is not a party here: expected one of {', '.join(self._mailboxes)}"
            )
        return self._mailboxes[member]

    def _send(self, sender: MemberId, recipient: MemberId, frame: bytes, key: str) -> None:
        if len(frame) > self._frame_limit_bytes:
            raise UsageError(
                f"frame of {len(frame)} bytes, expected at most {self._frame_limit_bytes}: "
                "offer it and send its digest"
            )
        with self._lock:
            mailbox = self._mailbox(recipient)
            if recipient == sender:
                raise UsageError(f"{sender!r} sends to itself, expected another party")
            self._check_connected(sender)
            self._record(sender, recipient, frame, self._digest(frame), Passage.FRAME)
            if mailbox.remembers(sender, key):
                return
            faults = self._consider(sender, recipient, key, len(frame), is_bulk=False)
            by_kind = {injected.fault: injected.amount for injected in faults}
            if Fault.DROP in by_kind:
                return
            message = _Message(sender, frame, mailbox.looks + by_kind.get(Fault.DELAY, 0))
            if Fault.CORRUPT in by_kind:
                message.frame = _flip(frame, by_kind[Fault.CORRUPT])
            else:
                mailbox.remember(sender, key)
                self._attempts.pop((sender, recipient, key), None)
            position = len(mailbox.waiting) - by_kind.get(Fault.REORDER, 0)
            mailbox.waiting.insert(max(position, 0), message)
            for _ in range(by_kind.get(Fault.DUPLICATE, 0)):
                mailbox.waiting.append(_Message(sender, message.frame, message.visible_at))
            if Fault.LOSE_REPLY in by_kind:
                raise ResourceError("the engine did not confirm: try again with the same key")

    def _receive(self, member: MemberId) -> Delivery | None:
        with self._lock:
            if member in self._severed:
                return None
            mailbox = self._mailbox(member)
            taken = mailbox.take()
            if taken is None:
                return None
            number, message = taken

        def acknowledge() -> None:
            with self._lock:
                # After a restart the frame has a new number, so a late
                # acknowledgement by the process that died does nothing.
                mailbox.unacknowledged.pop(number, None)

        return Delivery(message.sender, message.frame, acknowledge)

    def _offer(self, member: MemberId, digest: Digest, data: bytes) -> None:
        check_offer(digest, data)
        with self._lock:
            self._check_connected(member)
            if digest not in self._objects:
                self._record(member, ENGINE, data, digest, Passage.OFFER)
                self._objects[digest] = (member, data)

    def _fetch(self, member: MemberId, digest: Digest, most_bytes: int) -> bytes:
        with self._lock:
            self._check_connected(member)
            if digest not in self._objects:
                raise ResourceError(
                    f"object {digest} is not offered by anyone: try again once a peer offers it"
                )
            offerer, data = self._objects[digest]
            check_size(digest, len(data), most_bytes)
            faults = self._consider(offerer, member, digest, len(data), is_bulk=True)
            kinds = {injected.fault: injected.amount for injected in faults}
            if Fault.DROP in kinds:
                raise ResourceError(f"the engine lost object {digest} on the way: try again")
            if Fault.CORRUPT in kinds:
                data = _flip(data, kinds[Fault.CORRUPT])
            self._record(ENGINE, member, data, digest, Passage.FETCH)
        check_arrived(digest, data)
        return data

    def _consider(
        self, sender: MemberId, recipient: MemberId, key: str, size_bytes: int, *, is_bulk: bool
    ) -> tuple[InjectedFault, ...]:
        if self._faults is None:
            return ()
        route = (sender, recipient, key)
        self._attempts[route] += 1
        occasion = Occasion(sender, recipient, key, self._attempts[route], size_bytes, is_bulk)
        return self._faults.faults(occasion)

    def _digest(self, frame: bytes) -> Digest:
        """Return the SHA-256 of `frame`. A feed goes to every member in turn, as one object."""
        if self._hashed is None or self._hashed[0] is not frame:
            self._hashed = frame, sha256(frame)
        return self._hashed[1]

    def _record(
        self, sender: MemberId, recipient: MemberId, data: bytes, digest: Digest, passage: Passage
    ) -> None:
        content = data if self._capture else None
        self._egress.append(EgressRecord(sender, recipient, len(data), digest, passage, content))

    def _check_connected(self, member: MemberId) -> None:
        if member in self._severed:
            raise ResourceError(f"the engine cannot be reached by {member!r}: try again later")


class EmbeddedEngine:
    """One party's `Engine` on an `EmbeddedNetwork`."""

    def __init__(self, network: EmbeddedNetwork, member: MemberId) -> None:
        self._network = network
        self._member = member

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """See `treaty.ports.Engine.send`."""
        self._network._send(self._member, recipient, frame, key)

    def receive(self) -> Delivery | None:
        """See `treaty.ports.Engine.receive`."""
        return self._network._receive(self._member)

    def offer(self, digest: Digest, data: bytes) -> None:
        """See `treaty.ports.Engine.offer`."""
        self._network._offer(self._member, digest, data)

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """See `treaty.ports.Engine.fetch`."""
        return self._network._fetch(self._member, digest, most_bytes)

    def peers(self) -> tuple[MemberId, ...]:
        """See `treaty.ports.Engine.peers`."""
        return tuple(name for name in self._network._mailboxes if name != self._member)


def _flip(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit changed; an empty frame has none to change."""
    if not data:
        return data
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)
