"""Hosting wire: what passes between a simulation and the processes that host its members.

A message is 8 bytes of length (little-endian) and a MessagePack value of one of the closed types
below. Both ends are this program on this machine, joined by a socket pair that nobody else can
open; what the frames inside say is verified by the nodes, as always. Nothing is pickled.
"""

import socket
from typing import Final, TypeVar

import msgspec

from treaty.errors import ResourceError

__all__ = [
    "Answer",
    "Close",
    "Deliver",
    "Done",
    "Failed",
    "Fetch",
    "Found",
    "Frame",
    "Offered",
    "Open",
    "Order",
    "Quiet",
    "Sent",
    "Start",
    "Submit",
    "receive_answer",
    "receive_order",
    "send_message",
]

_T = TypeVar("_T")

_LENGTH_BYTES: Final = 8
_MAX_MESSAGE_BYTES: Final = 1 << 33


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of every message."""


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A frame on its way to `recipient`, a member hosted there: `Deliver.data[place]`."""

    recipient: str
    sender: str
    place: int


class Open(_Message, frozen=True):
    """Open the stores of `members`, some of `everyone`, below `directory`, and their nodes."""

    directory: str
    anchor: str
    coordinator: str
    everyone: tuple[str, ...]
    members: tuple[str, ...]


class Start(_Message, frozen=True):
    """Let every member say where its log ends. Those `severed` cannot send, here and below."""

    severed: frozenset[str] = frozenset()


class Deliver(_Message, frozen=True):
    """A turn: let every member take its frames. What several are sent is in `data` once."""

    frames: tuple[Frame, ...]
    data: tuple[bytes, ...]
    severed: frozenset[str] = frozenset()


class Submit(_Message, frozen=True):
    """Let `member` send what its officer signed, with the documents it names."""

    member: str
    statement: bytes
    documents: dict[str, bytes]
    severed: frozenset[str] = frozenset()


class Quiet(_Message, frozen=True):
    """Let time pass for every member."""

    severed: frozenset[str] = frozenset()


class Found(_Message, frozen=True):
    """What a `Fetch` asked for; without `data` why there is none, with a code where it is wrong."""

    data: bytes | None
    text: str = ""
    code: str = ""


class Close(_Message, frozen=True):
    """Close the stores and end."""


Order = Open | Start | Deliver | Submit | Quiet | Found | Close
"""What a host is told."""


class Sent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A frame that `sender` hands to the engine."""

    sender: str
    recipient: str
    data: bytes
    key: str


class Offered(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A large object that `sender` offers."""

    sender: str
    digest: str
    data: bytes


class Done(_Message, frozen=True):
    """The order is carried out; what left the members meanwhile, in order."""

    moved: bool
    left: tuple[Sent | Offered, ...]


class Fetch(_Message, frozen=True):
    """`member` needs an offered object of at most `most_bytes` before it can go on."""

    member: str
    digest: str
    most_bytes: int


class Failed(_Message, frozen=True):
    """The order failed with an error of ours; what left the members before it."""

    kind: str
    text: str
    code: str
    left: tuple[Sent | Offered, ...] = ()


Answer = Done | Fetch | Failed
"""What a host says."""

_ENCODER = msgspec.msgpack.Encoder()
_ORDERS = msgspec.msgpack.Decoder(Order)
_ANSWERS = msgspec.msgpack.Decoder(Answer)


def send_message(connection: socket.socket, message: Order | Answer) -> None:
    """Send one message whole; `ResourceError` when the other end is gone."""
    data = _ENCODER.encode(message)
    try:
        connection.sendall(len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    except OSError as error:
        raise ResourceError(f"the other process of the simulation is gone: {error}") from error


def receive_order(connection: socket.socket) -> Order | None:
    """Return the next order, None when the other end is gone. Waits."""
    data = _receive(connection)
    return None if data is None else _decoded(_ORDERS, data)


def receive_answer(connection: socket.socket) -> Answer | None:
    """Return the next answer, None when the other end is gone. Waits."""
    data = _receive(connection)
    return None if data is None else _decoded(_ANSWERS, data)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], data: bytearray) -> _T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ResourceError(f"no message between processes of a simulation: {error}") from error


def _receive(connection: socket.socket) -> bytearray | None:
    length = _exactly(connection, _LENGTH_BYTES)
    if length is None:
        return None
    size = int.from_bytes(length, "little")
    if size > _MAX_MESSAGE_BYTES:
        raise ResourceError(f"a message of {size} bytes, expected at most {_MAX_MESSAGE_BYTES}")
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytearray | None:
    """Return the next `size` bytes; None when the connection ends before them."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            count = connection.recv_into(view)
        except ConnectionError:
            return None
        if not count:
            return None
        view = view[count:]
    return data
