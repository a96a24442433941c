"""A consortium whose coordinator runs twice, over one database and one message server.

The replicas are two directories with the same keys and settings, as on two machines; of the message
server's directory they share one. It is a process of its own, which ends with neither of them.
"""

import shutil
import subprocess
from dataclasses import dataclass, field

from tests.network_rig import HUB, Rig, treaty
from tests.postgres_server import PostgresServer
from tests.standstill import go_on, stand_still
from treaty.deployment.server import find_server

SECOND = "second"
"""The directory of the other replica; the first one's is that of the rig's coordinator."""

REPLICAS = (HUB, SECOND)
LEASE_S = 5
"""Of a machine whose disk stalls a replica may lose its lease, rightly: not shorter than this."""


@dataclass
class ReplicaRig(Rig):
    """A `Rig` with two replicas over a database of `database`."""

    database: PostgresServer | None = None
    name: str = ""
    server: "subprocess.Popen[bytes] | None" = field(default=None)

    def prepare_replicas(self) -> None:
        """Prepare the coordinator, the sites and, as a copy of its files, the second replica."""
        assert self.database is not None
        self.name = self.database.database()
        self.prepare(
            *("--other-server", "--lease", str(LEASE_S)),
            *("--store", f"postgres:{self.database.address(self.name)}"),
        )
        (self.root / "server").mkdir()
        self.place(SECOND).mkdir(mode=0o700)
        shutil.copytree(self.place(HUB) / "keys", self.place(SECOND) / "keys")
        for file in ("coordinator", "terms", "charter", "store"):
            shutil.copy(self.place(HUB) / f"{file}.json", self.place(SECOND))
        shutil.copy(self.place(HUB) / "anchor.txt", self.place(SECOND))
        for name in REPLICAS:
            (self.place(name) / "server").symlink_to("../server")

    def start_replicas(self, first: str = HUB, **variables: str) -> None:
        """Start one replica, the message server that it configures, and the other replica."""
        other = next(name for name in REPLICAS if name != first)
        self.start(first, **variables)
        self.until(lambda: (self.root / "server" / "server.conf").exists(), "no configuration")
        self.serve()
        self.until(lambda: self.is_active(first), f"{first} does not become active")
        self.start(other)
        self.until(lambda: "stands by" in self.children[other].said, f"{other} does not stand by")

    def serve(self) -> None:
        """Start the message server, unless it runs."""
        if self.server is None:
            self.server = subprocess.Popen(
                [str(find_server()), "-c", str((self.root / "server" / "server.conf").resolve())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def is_active(self, name: str) -> bool:
        """Say whether a replica's present process has said that it has the lease."""
        return "active, with the lease" in self.children[name].said

    def pause(self, name: str) -> None:
        """Let a process stand still, as on a machine that sleeps."""
        stand_still(self.children[name].process.pid)

    def wake(self, name: str) -> None:
        """Let it go on."""
        go_on(self.children[name].process.pid)

    def holder(self) -> str:
        """Return who holds the lease, by its row: "" where it was given back, not run out."""
        assert self.database is not None
        [(found,)] = self.database.sql("SELECT holder FROM treaty.control", self.name)
        return str(found)

    def close(self) -> None:
        """End every process."""
        for child in self.children.values():
            if child.process.poll() is None:
                # A paused process ends by this alone.
                child.process.kill()
                child.process.wait(20)
        if self.server is not None:
            self.server.kill()
            self.server.wait(20)

    def status(self, name: str) -> dict[str, object]:
        """Return what the status of a replica says of the lease."""
        import json

        found = json.loads(
            treaty("coordinator", "status", "--dir", self.place(name), "--format", "json")
        )
        assert found["problems"] == {}, found
        replica = found["replica"]
        assert isinstance(replica, dict)
        return replica
