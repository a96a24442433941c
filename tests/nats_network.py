"""A NATS server on loopback with a coordinator and members, for tests with the mark `nats`."""

import contextlib
import fcntl
import functools
import os
import random
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO
from unittest import mock

from treaty.crypto.keys import SigningKey
from treaty.deployment.server import NatsServer
from treaty.engines import streams
from treaty.engines.jetstream import JetStreamEngine, NatsParty
from treaty.engines.server_config import ServerSettings, server_config
from treaty.engines.subjects import Subjects
from treaty.ids import MemberId, Timestamp
from treaty.ports import Engine
from treaty.stores.system import MemoryJournal

CONSORTIUM = "x.example"
NOW = Timestamp(1_764_000_000_000)

FRAME_S = 60.0
"""How long a frame, or a connection, is waited for: a bound on a test that hangs, no measure."""

_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on now, and that no other call returns, here or elsewhere.

    Not one that the system gives to outgoing connections: while a server is down, a client that
    tries to reach it could be given the server's own port, and keep it from coming back. It belongs
    to this process as long as that lives: whoever asked for it listens later, and not all the time.
    """
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(20_000, 32_000)
        if port in _given or not _is_free(port) or not _reserve(port):
            continue
        _given.add(port)
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As a server asks for it: a connection that has just ended does not stand in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


@functools.cache
def _reservations() -> BinaryIO:
    """Open the file on whose bytes this user's processes hold locks, one for each port."""
    return (Path(tempfile.gettempdir()) / f"treaty-test-ports-{os.getuid()}").open("ab")


def _reserve(port: int) -> bool:
    with contextlib.suppress(OSError):
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        return True
    return False


class NatsNetwork:
    """A server in `directory` for `hub` and `members`, and the ends that were opened on it."""

    def __init__(
        self,
        directory: Path,
        hub: MemberId,
        members: Iterable[MemberId],
        *,
        websocket: bool = False,
        ack_wait_s: float = FRAME_S,
    ) -> None:
        """`ack_wait_s` is after how long without a word of its reader a frame comes again.

        That of the product is short: a frame comes twice where a process is held up for longer, as
        receivers must bear. Where a test is not about that, it should not come.
        """
        self.ack_wait_s = ack_wait_s
        self.hub, self.members = hub, tuple(members)
        self.keys = {
            name: SigningKey(bytes([number + 1]) * 32)
            for number, name in enumerate((hub, *self.members))
        }
        self.tls = SigningKey(b"t" * 32)
        self.port = free_port()
        self.websocket_port = free_port() if websocket else 0
        self.subjects = Subjects(CONSORTIUM, hub)
        self.settings = ServerSettings(
            str(directory / "server"), "127.0.0.1", self.port, self.websocket_port
        )
        self.server = NatsServer(self.settings)
        self.server.install_certificate(self.tls, "localhost", NOW)
        self.let_in(self.members)
        self.server.ensure()
        self.journals: dict[MemberId, MemoryJournal] = {}
        self.engines: dict[MemberId, JetStreamEngine] = {}

    def let_in(self, members: Iterable[MemberId]) -> None:
        """Make exactly `members` known to the server."""
        known = {member: [self.keys[member].public] for member in members}
        self.server.apply(
            server_config(self.settings, self.subjects, self.keys[self.hub].public, known)
        )

    def party(self, name: MemberId, **changes: object) -> NatsParty:
        """Return the settings of `name`, some of them changed."""
        settings: dict[str, object] = {
            "url": f"tls://127.0.0.1:{self.port}",
            "pin": self.tls.public.keyid,
            "key": self.keys[name],
            "name": name,
            "consortium": CONSORTIUM,
            "coordinator": self.hub,
            "members": self.members if name == self.hub else (),
        }
        return NatsParty(**(settings | changes))  # type: ignore[arg-type]  # passed through

    def open(self, name: MemberId, **changes: object) -> JetStreamEngine:
        """Open an end that is not remembered; the caller closes it."""
        journal = self.journals.setdefault(name, MemoryJournal())
        with mock.patch.object(streams, "ACK_WAIT_S", self.ack_wait_s):
            engine = JetStreamEngine(self.party(name, **changes), journal)
            try:
                engine.connect(FRAME_S)
            except BaseException:
                engine.close()
                raise
        return engine

    # --- what the contract suite asks of a network ----------------------------------------------

    def endpoint(self, name: MemberId) -> Engine:
        """Return the end of `name`, opened at first need; the hub's first, it makes the streams."""
        if self.hub not in self.engines:
            self.engines[self.hub] = self.open(self.hub)
        if name not in self.engines:
            self.engines[name] = self.open(name)
        return self.engines[name]

    def restart(self, name: MemberId) -> None:
        """End the process of `name`, as far as the engine can tell; the next end is a new one."""
        self.engines.pop(name).close()

    def look(self, engine: Engine, expected: int) -> None:
        """Wait until `expected` frames wait at `engine`, and a little more for one too many."""
        assert isinstance(engine, JetStreamEngine)
        end = time.monotonic() + FRAME_S
        while time.monotonic() < end and engine.waiting < expected:
            time.sleep(0.005)
        if engine.waiting <= expected:
            time.sleep(0.05)

    def close(self) -> None:
        """Close every end, then the server."""
        for engine in self.engines.values():
            engine.close()
        self.server.stop()
