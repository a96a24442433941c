"""Hosting: members of a simulation in processes of their own, so that all processors work.

A simulation takes turns: the coordinator, then the members in order, who speak to nobody but the
coordinator. So members may take theirs at the same time: a host takes the frames of its members
before the turn, and what left them enters the engine after it, in the order of the members. Every
mailbox then holds the same frames in the same order as with one process, and every log the same
entries.

Guarantees:
  * Nothing is shared between parties but frames: a member's stores are open in its host alone.
  * A host that ends early ends the run with a `ResourceError`; nothing waits for it.
  * Hosts end with the simulation, also when that is killed: they see the socket close. Until the
    last one is gone, `wait_for_hosts` keeps others from opening the same stores.

LIMIT: what a host sent in the turn in which it fails is not carried. It is in the members' stores,
and they send it again when the simulation is opened again.
"""

import fcntl
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from treaty.engines.embedded import EmbeddedEngine, EmbeddedNetwork
from treaty.errors import (
    FormatError,
    PeerError,
    PolicyError,
    ResourceError,
    TreatyError,
    UsageError,
    VerificationError,
)
from treaty.ids import Digest, MemberId
from treaty.ports import Delivery
from treaty.simulation.hosting_wire import (
    Close,
    Deliver,
    Done,
    Failed,
    Fetch,
    Found,
    Frame,
    Open,
    Order,
    Quiet,
    Sent,
    Start,
    Submit,
    receive_answer,
    send_message,
)

__all__ = ["MemberHost", "share_out", "wait_for_hosts"]

LOCK_FILE = "hosts.lock"
"""Held by every host of a simulation's directory while it lives."""

_PLAIN: Mapping[str, type[TreatyError]] = MappingProxyType(
    {kind.__name__: kind for kind in (UsageError, PeerError, FormatError, ResourceError)}
)
_WITH_CODE: Mapping[str, type[VerificationError] | type[PolicyError]] = MappingProxyType(
    {"VerificationError": VerificationError, "PolicyError": PolicyError}
)

_PATIENCE_S = 30.0
_INTERVAL_S = 0.02


class MemberHost:
    """A process that hosts `members` of the simulation in `directory`. It opens them at once.

    `opened` waits until it has; then one order at a time: `start`, `begin` and `finish` of a turn,
    `on_quiet`, `submit`.
    """

    def __init__(
        self,
        directory: Path,
        network: EmbeddedNetwork,
        members: Sequence[MemberId],
        *,
        everyone: Sequence[MemberId],
        coordinator: MemberId,
        anchor: Digest,
    ) -> None:
        self.members = tuple(members)
        self._network = network
        self._engines = {name: network.endpoint(name) for name in self.members}
        self._taken: list[Delivery] = []
        self._waits = False
        self._broken = ""
        self._connection, theirs = socket.socketpair()
        try:
            self._process = _process(directory, theirs)
        except OSError as error:
            self._connection.close()
            raise ResourceError(
                f"no process can be started for {self._names()}: {error}"
            ) from error
        finally:
            theirs.close()
        self._order(
            Open(
                str(directory.absolute()),
                anchor,
                coordinator,
                tuple(everyone),
                self.members,
            )
        )

    @property
    def process_id(self) -> int:
        """Return the identity of the process."""
        return self._process.pid

    def opened(self) -> None:
        """Wait until the members are open; raises what opening them raised."""
        self._answered()

    def start(self) -> None:
        """Let every member say where its log ends."""
        self._order(Start(self._severed()))
        self._answered()

    def submit(
        self, member: MemberId, statement: bytes, documents: Mapping[Digest, bytes] | None = None
    ) -> None:
        """Let `member` send what its officer signed; see `Participant.submit`."""
        named = {str(digest): data for digest, data in (documents or {}).items()}
        self._order(Submit(member, statement, named, self._severed()))
        self._answered()

    def begin(self) -> None:
        """Hand the members what waits for them, and let them work."""
        frames = []
        places: dict[bytes, int] = {}
        for name, engine in self._engines.items():
            while (delivery := engine.receive()) is not None:
                self._taken.append(delivery)
                place = places.setdefault(delivery.frame, len(places))
                frames.append(Frame(name, delivery.sender, place))
        self._order(Deliver(tuple(frames), tuple(places), self._severed()))

    def finish(self) -> bool:
        """Wait until the members have worked, let go what left them; say whether any moved."""
        moved = self._answered()
        taken, self._taken = self._taken, []
        for delivery in taken:
            delivery.ack()
        return moved

    def on_quiet(self) -> bool:
        """Let time pass for every member; say whether anything was done."""
        self._order(Quiet(self._severed()))
        return self._answered()

    def close(self) -> None:
        """Let the process close its stores and end; a second call does nothing."""
        if self._process.poll() is None and not self._broken:
            try:
                if self._waits:
                    self._answered()
                send_message(self._connection, Close())
            except TreatyError:
                # It is closed all the same: whatever failed in its last turn was raised before,
                # or belongs to a run that nobody waits for any more.
                pass
        self._broken = self._broken or "it was closed"
        self._connection.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ResourceError(
                f"the process of {self._names()} did not end within {_PATIENCE_S:.0f} s and was "
                "killed: what it had stored is whole, open the simulation again"
            ) from None

    # --- parts --------------------------------------------------------------------------------

    def _names(self) -> str:
        return ", ".join(self.members)

    def _severed(self) -> frozenset[str]:
        return self._network.severed & frozenset(self.members)

    def _order(self, order: Order) -> None:
        if self._broken:
            raise ResourceError(
                f"the process of {self._names()} is gone ({self._broken}): open the simulation "
                "again, it goes on from what is stored"
            )
        if self._waits:
            # A run was left in the middle of a turn: what came of it counts.
            self.finish()
        try:
            send_message(self._connection, order)
        except ResourceError:
            self._lost()
        self._waits = True

    def _answered(self) -> bool:
        """Wait for the end of the order, serving what the host asks meanwhile."""
        while True:
            answer = receive_answer(self._connection)
            if answer is None:
                self._lost()
            elif isinstance(answer, Fetch):
                self._serve(answer)
            else:
                self._waits = False
                self._release(answer)
                if isinstance(answer, Failed):
                    raise _error(answer)
                return answer.moved

    def _serve(self, asked: Fetch) -> None:
        engine = self._engines[MemberId(asked.member)]
        try:
            found = Found(engine.fetch(Digest(asked.digest), asked.most_bytes))
        except ResourceError as error:
            found = Found(None, str(error))
        except VerificationError as error:
            found = Found(None, str(error), error.code)
        send_message(self._connection, found)

    def _release(self, answer: Done | Failed) -> None:
        for one in answer.left:
            engine: EmbeddedEngine = self._engines[MemberId(one.sender)]
            if isinstance(one, Sent):
                engine.send(MemberId(one.recipient), one.data, one.key)
            else:
                engine.offer(Digest(one.digest), one.data)

    def _lost(self) -> NoReturn:
        try:
            status = self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._broken = f"signal {-status}" if status < 0 else f"exit code {status}"
        raise ResourceError(
            f"the process of {self._names()} ended in the middle of the run ({self._broken}): "
            "see what it wrote to standard error, then open the simulation again"
        )


def _process(directory: Path, connection: socket.socket) -> subprocess.Popen[bytes]:
    """Start a process that serves `connection`. It alone holds the lock when this returns."""
    lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Several hosts of one simulation share it; who opens the directory anew takes it alone.
        fcntl.flock(lock, fcntl.LOCK_SH)
        return subprocess.Popen(
            [
                sys.executable,
                *("-P", "-m", "treaty.simulation.hosted"),
                *(str(connection.fileno()), str(lock)),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(connection.fileno(), lock),
        )
    finally:
        os.close(lock)


def share_out(
    members: Sequence[MemberId], processes: int
) -> tuple[tuple[MemberId, ...], list[tuple[MemberId, ...]]]:
    """Return the members of this process and those of each other one, in order.

    Each of at most `processes` takes about the same number, this one the lesser share, because the
    coordinator lives here.
    """
    count = min(processes, len(members))
    bounds = [len(members) * number // count for number in range(count + 1)]
    parts = [tuple(members[a:b]) for a, b in itertools.pairwise(bounds)]
    return parts[0], parts[1:]


def wait_for_hosts(directory: Path) -> None:
    """Wait until no host of an earlier simulation lives; `ResourceError` when one stays."""
    path = directory / LOCK_FILE
    if not path.exists():
        return
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise ResourceError(
                        f"another process hosts members of {directory}: close that simulation first"
                    ) from None
                time.sleep(_INTERVAL_S)
            else:
                return
    finally:
        os.close(lock)


def _error(failed: Failed) -> TreatyError:
    """Return the error that a host met, as this process would have raised it."""
    if failed.kind in _WITH_CODE:
        return _WITH_CODE[failed.kind](failed.text, code=failed.code)
    return _PLAIN.get(failed.kind, ResourceError)(failed.text)
