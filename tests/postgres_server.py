"""A PostgreSQL server of the tests' own, for tests with the mark `postgres`.

The server's programs refuse to run as root: then they run as the user ``postgres`` that the
system's package makes, or as ``nobody``. It listens on a socket in its own directory and, for
tests of passwords and of cut ways, on loopback. It is durable like any other.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.nats_network import free_port

PLACES = ("/usr/lib/postgresql", "/usr/pgsql")
PASSWORD = "correct horse battery"


def programs() -> Path | None:
    """Return the directory of `initdb` and `pg_ctl`, the newest, or None."""
    beside = shutil.which("initdb")
    if beside is not None:
        return Path(beside).resolve().parent
    found = [path for place in PLACES for path in Path(place).glob("*/bin") if _whole(path)]
    return max(found, key=lambda path: int(path.parent.name.split(".")[0]), default=None)


def _whole(path: Path) -> bool:
    return (path / "initdb").exists() and (path / "pg_ctl").exists()


def _user() -> str | None:
    """Return the user the server runs as, None for the present one."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"


@dataclass
class PostgresServer:
    """A server below `root`, and the databases that tests made on it."""

    root: Path
    port: int = field(default_factory=free_port)
    made: int = 0

    def __post_init__(self) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._user = _user()
        self.root.chmod(0o755)
        for name in ("data", "socket"):
            (self.root / name).mkdir(mode=0o700 if name == "data" else 0o755)
            if self._user is not None:
                shutil.chown(self.root / name, self._user)
        secret = self.root / "secret"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        self.run(
            *("initdb", "-D", self.data, "-U", "treaty", "-E", "UTF8", "--locale=C", "--no-sync"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"),
        )
        secret.unlink()
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\n"
                f"unix_socket_directories = '{self.root / 'socket'}'\n"
                "max_connections = 40\nshared_buffers = 16MB\nlog_min_messages = fatal\n"
            )
        self.start()

    @property
    def data(self) -> Path:
        """Return the directory of its files."""
        return self.root / "data"

    def run(self, program: str, *words: str | Path, check: bool = True) -> str:
        """Run one of the server's programs; return what it printed."""
        done = subprocess.run(
            [str(self._programs / program), *map(str, words)],
            user=self._user,
            group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
            extra_groups=None if self._user is None else [],
            cwd=self.root,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def start(self, *options: str) -> None:
        """Start it, with these settings besides."""
        words = " ".join(f"-c {one}" for one in options)
        log = self.data / "server.log"
        self.run("pg_ctl", "start", "-w", "-D", self.data, "-l", log, "-o", words)

    def stop(self, mode: str = "fast") -> None:
        """Stop it; with ``immediate`` as a crash would."""
        self.run("pg_ctl", "stop", "-w", "-D", self.data, "-m", mode, check=False)

    def pid(self) -> int:
        """Return the process id of the server."""
        return int((self.data / "postmaster.pid").read_text().split("\n")[0])

    def address(self, database: str = "postgres") -> str:
        """Return the address of a database by the socket, where no password is asked for."""
        return f"host={self.root / 'socket'} port={self.port} user=treaty dbname={database}"

    def loopback(self, database: str = "postgres") -> str:
        """Return the address of a database over loopback, where the password is asked for."""
        return f"host=127.0.0.1 port={self.port} user=treaty dbname={database} sslmode=disable"

    def database(self) -> str:
        """Make a new, empty database; return its name."""
        self.made += 1
        name = f"t{self.made}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement, as somebody beside Treaty would; return the rows."""
        import psycopg

        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def running(
    later: Callable[[Callable[[], None]], object] = lambda remove: remove(),
) -> Iterator[PostgresServer]:
    """A server while the block lasts, in a directory that its user can reach.

    `later` is given the removal of its files: after many tests they are tens of thousands.
    """
    root = Path(tempfile.mkdtemp(prefix="treaty-pg-"))
    server = None
    try:
        server = PostgresServer(root)
        yield server
    finally:
        if server is not None:
            server.stop("immediate")
        later(lambda: shutil.rmtree(root, ignore_errors=True))
