"""Replica: one of two coordinators over one store, of which only the holder of the lease acts.

`Replica` stands by until the lease is its own; `GatedEngine` lets nothing in or out once the lease
is over, and has nothing to say before there is a connection, so that a coordinator can be put
together from its store first. What is written is guarded by the store itself (docs/spec/storage.md,
section 7); what is sent is guarded here, as well as a clock can: a frame that leaves a moment too
late repeats what stands in the log.

A coordinator whose loop hangs gets on with nothing, and loses its lease although the thread that
renews it lives: `Replica` counts its questions whether it may act, of which every turn of the loop
and every use of the engine asks one, the engine the pieces of large objects that have passed.

A coordinator with a store of its own is a replica without a lease: it is always the active one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from treaty.deployment.monitor import Monitor
from treaty.engines.jetstream import JetStreamEngine
from treaty.errors import ResourceError
from treaty.ids import Digest, MemberId
from treaty.ports import Delivery, Journal
from treaty.stores.shared import lease_on, lease_state, replica_name, shared_store
from treaty.wiring import Storage

__all__ = ["STILL_S", "GatedEngine", "Replica", "Replicated", "replicated"]

LOOKS = 10
"""How often a standby looks whether the lease is free, while one lasts."""

STILL_S = 120.0
"""How long an active replica may stand still before its lease is no longer renewed.

Longer than the sum of the largest vectors takes; a large object that arrives is no standstill.
"""

START_S = 1800.0
"""How long it may read its log, before it serves."""


@dataclass(frozen=True, slots=True)
class Replicated:
    """How the replica in a directory stands: its role, and who holds the lease.

    `role` is ``active``, ``standby``, ``stopped``, or ``unknown`` where the database says nothing.
    """

    role: str
    name: str
    epoch: int = 0
    holder: str = ""
    left_ms: int = 0

    def rows(self) -> list[tuple[str, str]]:
        """Return it for people."""
        if self.role == "unknown":
            return [("replica", "unknown: the database does not answer")]
        if self.holder:
            held = f"epoch {self.epoch}, {self.holder}, {self.left_ms / 1000:.1f} s left"
        else:
            held = f"free, last epoch {self.epoch}"
        return [("replica", self.role), ("lease", held)]


def replicated(directory: Path, *, running: bool) -> Replicated | None:
    """Return how the replica in `directory` stands, None for a coordinator without replicas."""
    settings = shared_store(directory)
    if settings is None:
        return None
    name = replica_name(directory)
    try:
        found = lease_state(directory, settings)
    except ResourceError:
        # The check of the database, beside this, says why.
        return Replicated("unknown", name)
    mine = found.is_held and found.holder == name
    role = ("active" if mine else "standby") if running else "stopped"
    holder = found.holder if found.is_held else ""
    return Replicated(role, name, found.epoch, holder, found.left_ms)


class Replica:
    """The coordinator in `directory` as one of several, or as the only one."""

    def __init__(self, directory: Path, still_s: float = STILL_S) -> None:
        self._directory = directory
        self._settings = shared_store(directory)
        self._lease = None if self._settings is None else lease_on(directory, self._settings)
        self._still_s = still_s
        self._turns = 0

    @property
    def epoch(self) -> int:
        """Return the epoch of the lease; 0 where there is none."""
        return 0 if self._lease is None else self._lease.epoch

    def stand_by(
        self,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        journal: Journal,
        monitor: Monitor,
    ) -> bool:
        """Return True once this process holds the lease, False when it was told to stop."""
        if self._lease is None or self._settings is None:
            return True
        told = ""
        pause = self._settings.lease_ms / 1000 / LOOKS
        while not self._lease.take():
            holder = self._lease.state().holder
            if holder != told:
                told = holder
                say(f"stands by: {holder or 'another replica'} is active")
                journal.note("standby", f"{holder} holds the lease")
            monitor.awaits("lease", ())
            if stop():
                return False
            time.sleep(pause)
        self._lease.keep_while(lambda: self._turns, int(1000 * START_S))
        say(f"active, with the lease of epoch {self._lease.epoch}")
        journal.note("lease-taken", f"epoch {self._lease.epoch}")
        return True

    def serves(self, moved: Callable[[], int]) -> None:
        """From now on keep the lease only while this process gets on; `moved` is the engine's."""
        if self._lease is not None:
            self._lease.keep_while(lambda: (self._turns, moved()), int(1000 * self._still_s))

    def require(self) -> None:
        """Raise `ResourceError` "lease lost" unless this process may act now."""
        self._turns += 1
        if self._lease is not None:
            self._lease.require()

    def storage(self) -> Storage:
        """Open the state, for writing under the lease."""
        return Storage.of_coordinator(self._directory, self.epoch)

    def release(self) -> None:
        """Let another replica take over at once."""
        if self._lease is not None:
            self._lease.release()


class GatedEngine:
    """An `Engine` that works between `open` and the end of the lease."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._inner: JetStreamEngine | None = None

    def open(self, inner: JetStreamEngine) -> None:
        """Let frames through to `inner`. What another one did not acknowledge comes again."""
        self._inner = inner

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """See `treaty.ports.Engine.send`. Keys of different epochs are different messages."""
        epoch = self._replica.epoch
        if recipient not in self.peers():
            raise ResourceError(f"there are no streams for {recipient} yet: it has just joined")
        self._engine().send(recipient, frame, f"{epoch}/{key}" if epoch else key)

    def receive(self) -> Delivery | None:
        """See `treaty.ports.Engine.receive`."""
        return self._engine().receive()

    def offer(self, digest: Digest, data: bytes) -> None:
        """See `treaty.ports.Engine.offer`."""
        self._engine().offer(digest, data)

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """See `treaty.ports.Engine.fetch`."""
        return self._engine().fetch(digest, most_bytes)

    def peers(self) -> tuple[MemberId, ...]:
        """See `treaty.ports.Engine.peers`."""
        return () if self._inner is None else self._inner.peers()

    def wait(self, timeout_s: float) -> bool:
        """See `treaty.engines.jetstream.JetStreamEngine.wait`."""
        return self._engine().wait(timeout_s)

    @property
    def is_connected(self) -> bool:
        """Say whether the connection stands now, as far as is known."""
        return self._inner is not None and self._inner.is_connected

    @property
    def moved(self) -> int:
        """Return how many pieces of large objects have passed."""
        return 0 if self._inner is None else self._inner.moved

    @property
    def connections(self) -> int:
        """Return how often the connection was made; read it after `is_connected`."""
        return 0 if self._inner is None else self._inner.connections

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._inner is not None:
            self._inner.close()

    def _engine(self) -> JetStreamEngine:
        self._replica.require()
        if self._inner is None:
            raise ResourceError("the message server is not reached yet: try again")
        return self._inner
