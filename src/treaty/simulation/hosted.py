"""Hosted: the process in which some members of a simulation live.

Guarantees:
  * The stores, secrets, ledgers and keys of its members are opened here and nowhere else.
  * It holds the simulation's lock as long as it lives, so that nobody opens them meanwhile.
  * It does one order at a time and ends when the simulation ends, however that came.

Run by `treaty.simulation.hosting` alone: ``python -P -m treaty.simulation.hosted SOCKET LOCK`` with
two open file descriptors.
"""

import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from treaty.engines.object_checks import check_arrived, check_offer
from treaty.errors import ResourceError, TreatyError, UsageError, VerificationError, code_of
from treaty.ids import Digest, MemberId
from treaty.node.participant import Participant
from treaty.node.runtime import deliver
from treaty.ports import Delivery
from treaty.simulation.hosting_wire import (
    Close,
    Deliver,
    Done,
    Failed,
    Fetch,
    Found,
    Offered,
    Open,
    Order,
    Quiet,
    Sent,
    Start,
    Submit,
    receive_order,
    send_message,
)
from treaty.wiring import Storage, open_participant

__all__ = ["Host", "HostedEngine", "main"]


class HostedEngine:
    """A member's `Engine`: frames come with an order, and leave with its answer."""

    def __init__(self, host: "Host", member: MemberId, peers: tuple[MemberId, ...]) -> None:
        self._host = host
        self._member = member
        self._peers = peers
        self.waiting: deque[tuple[MemberId, bytes]] = deque()
        self.severed = False

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """See `treaty.ports.Engine.send`."""
        self._check_connected()
        self._host.left.append(Sent(self._member, recipient, frame, key))

    def receive(self) -> Delivery | None:
        """See `treaty.ports.Engine.receive`. What is handed out is acknowledged with the answer."""
        if not self.waiting:
            return None
        sender, frame = self.waiting.popleft()
        return Delivery(sender, frame, _nothing)

    def offer(self, digest: Digest, data: bytes) -> None:
        """See `treaty.ports.Engine.offer`."""
        check_offer(digest, data)
        self._check_connected()
        self._host.left.append(Offered(self._member, digest, data))

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """See `treaty.ports.Engine.fetch`."""
        self._check_connected()
        data = self._host.fetch(self._member, digest, most_bytes)
        check_arrived(digest, data)
        return data

    def peers(self) -> tuple[MemberId, ...]:
        """See `treaty.ports.Engine.peers`."""
        return self._peers

    def _check_connected(self) -> None:
        if self.severed:
            raise ResourceError(
                f"the engine cannot be reached by {self._member!r}: try again later"
            )


class Host:
    """The members of one process, and what left them since the last answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._engines: dict[str, HostedEngine] = {}
        self._members: dict[str, Participant] = {}
        self._storages: list[Storage] = []
        self.left: list[Sent | Offered] = []

    def serve(self) -> None:
        """Carry out orders until the other end closes or says so."""
        try:
            while (order := receive_order(self._connection)) is not None:
                if isinstance(order, Close):
                    break
                answer = self._answer(order)
                self.left = []
                send_message(self._connection, answer)
        finally:
            for storage in self._storages:
                storage.store.close()

    def fetch(self, member: MemberId, digest: Digest, most_bytes: int) -> bytes:
        """Return an object that the simulation's engine holds, or raise what it raised."""
        send_message(self._connection, Fetch(member, digest, most_bytes))
        answer = receive_order(self._connection)
        if not isinstance(answer, Found):
            raise ResourceError("the simulation ended before an object was fetched")
        if answer.data is None:
            if answer.code:
                raise VerificationError(answer.text, code=answer.code)
            raise ResourceError(answer.text)
        return answer.data

    def _answer(self, order: Order) -> Done | Failed:
        try:
            moved = self._carry_out(order)
        except TreatyError as error:
            # The simulation raises it again. Anything else is a bug: it ends this process, with
            # its traceback on the common standard error.
            return Failed(type(error).__name__, str(error), code_of(error), tuple(self.left))
        return Done(moved, tuple(self.left))

    def _carry_out(self, order: Order) -> bool:
        if isinstance(order, Start | Deliver | Quiet | Submit):
            for name, engine in self._engines.items():
                engine.severed = name in order.severed
        match order:
            case Open():
                self._open(order)
                return False
            case Start():
                for member in self._members.values():
                    member.start()
                return False
            case Deliver():
                for frame in order.frames:
                    waiting = self._engines[frame.recipient].waiting
                    waiting.append((MemberId(frame.sender), order.data[frame.place]))
                # A list: every member takes its turn, also after one has moved.
                return any([deliver(member) for member in self._members.values()])  # noqa: C419
            case Quiet():
                return any([member.on_quiet() for member in self._members.values()])  # noqa: C419
            case Submit():
                documents = {Digest(name): data for name, data in order.documents.items()}
                self._members[order.member].submit(order.statement, documents)
                return False
            case Found() | Close():
                raise UsageError(f"{type(order).__name__} is no order of its own")

    def _open(self, order: Open) -> None:
        everyone = tuple(sorted({*order.everyone, order.coordinator}))
        for text in order.members:
            name = MemberId(text)
            place = Path(order.directory) / "parties" / name
            peers = tuple(MemberId(one) for one in everyone if one != name)
            engine = HostedEngine(self, name, peers)
            storage = Storage.on_disk(place)
            self._storages.append(storage)
            self._engines[name] = engine
            self._members[name] = open_participant(
                place,
                name=name,
                coordinator=MemberId(order.coordinator),
                anchor=Digest(order.anchor),
                engine=engine,
                storage=storage,
            )


def _nothing() -> None:
    """The whole turn is acknowledged by its answer."""


def main(arguments: Sequence[str]) -> int:
    """Serve on the open socket named first; the second descriptor is the lock, held to the end."""
    # Ctrl-C goes to every process of a terminal: the simulation decides, and this one follows it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with socket.socket(fileno=int(arguments[0])) as connection:
            Host(connection).serve()
    except ResourceError as error:
        sys.stderr.write(f"a process of the simulation ends: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
