"""PostgreSQL link: one connection to the database that replicas of a coordinator share.

Guarantees (docs/spec/storage.md, section 7):
  * A transaction is committed as a whole, and only if the epoch in the row of control is the one
    this link was given: the row is locked until the commit, so that writers come one after another
    and a replica that lost its lease changes nothing.
  * A commit that returned is on the server's disk: ``synchronous_commit`` is on, and a server that
    runs without ``fsync`` is refused.
  * Every wait has an end, also when the server stops answering or the way to it is cut. A
    transaction whose client pauses is ended by the server within `IDLE_MS`.
  * Every failure is a `ResourceError` in words of this module. Nothing that the library or the
    server says goes into it: that could hold the password, or what was stored.

A lost connection is made again by the next call. What failed is not repeated here.
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import conninfo, pq

from treaty.errors import ResourceError, UsageError
from treaty.stores.kill_points import persist_point

__all__ = ["SCHEMA_VERSION", "PostgresLink", "Session", "lease_lost", "parse_address"]

SCHEMA_VERSION = 1

CONNECT_S = 5
STATEMENT_MS = 30_000
LOCK_MS = 10_000
IDLE_MS = 5_000
CALL_S = 35.0
"""The longest wait for one answer: a little more than the server itself allows a statement."""

_CREATION_LOCK = 0x54525459
_SCHEMA = """
CREATE SCHEMA treaty;
CREATE TABLE treaty.control (
    one integer PRIMARY KEY CHECK (one = 1),
    program text NOT NULL,
    version integer NOT NULL,
    epoch bigint NOT NULL,
    holder text NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE TABLE treaty.streams (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    version bigint NOT NULL
);
CREATE TABLE treaty.records (
    stream bigint NOT NULL,
    place bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (stream, place)
);
CREATE TABLE treaty.entries (name text COLLATE "C" PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE treaty.blobs (
    digest text COLLATE "C" PRIMARY KEY,
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE
);
CREATE TABLE treaty.pieces (
    blob bigint NOT NULL REFERENCES treaty.blobs (id) ON DELETE CASCADE,
    place integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (blob, place)
);
ALTER TABLE treaty.records ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE treaty.pieces ALTER COLUMN data SET STORAGE EXTERNAL;
INSERT INTO treaty.control VALUES (1, 'treaty', 1, 0, '', '-infinity')
"""
_SETTINGS = {
    "search_path": "pg_catalog",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "statement_timeout": str(STATEMENT_MS),
    "lock_timeout": str(LOCK_MS),
    "idle_in_transaction_session_timeout": str(IDLE_MS),
    "application_name": "treaty",
}
_KEEPALIVE = {
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SECRET_WORDS = frozenset({"password", "sslpassword"})
_REMEDIES = {
    "28P01": "the server refuses the password: mend postgres.password, PGPASSWORD or PGPASSFILE",
    "28000": "the server refuses this user: check the user and the server's pg_hba.conf",
    "3D000": "there is no such database: create it, owned by the user that connects",
    "3F000": "its tables are gone: restore the newest backup",
    "42P01": "its tables are gone: restore the newest backup",
    "42501": "permission denied: let the user create a schema, or own the schema treaty",
    "25006": "the server is read-only: connect to the one that takes writes",
    "53100": "the server's disk is full: free some space there and try again",
    "53200": "the server is out of memory: mend that and try again",
    "53300": "the server has no connection left: raise max_connections",
    "55P03": "another process holds its lock: try again",
    "57014": "the server did not finish in time: see what it is busy with, and try again",
    "58030": "the server's disk reported an error: check the disk before going on",
    "XX001": "the database is damaged: restore the newest backup",
    "XX002": "the database is damaged: restore the newest backup",
}
_CLASSES = {
    "08": "the connection was lost: see that the server runs and is reached, and try again",
    "25": "the server ended the transaction, which had paused too long: try again",
    "28": "the server refuses this user: check user, password and the server's pg_hba.conf",
    "40": "the server gave the transaction up: try again",
    "53": "the server has run out of something: look into its log",
    "57": "the server shuts down or starts: see that it runs, and try again",
    "58": "the server's disk reported an error: check the disk before going on",
}
_UNREACHABLE = "no server answers: see that it runs and is reached, and try again"

_T = TypeVar("_T")

Session: TypeAlias = psycopg.Connection[tuple[Any, ...]]
"""An open connection, for the statements of the modules beside this one."""


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for no answer longer than `CALL_S`, whatever the network does."""

    call_s = CALL_S

    def wait(
        self,
        gen: Generator[Any, Any, _T],
        interval: float = 0.1,
        timeout: float | None = None,
    ) -> _T:
        """Wait for the answer that `gen` reads; end the connection when it does not come."""
        try:
            return super().wait(gen, interval, self.call_s if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                # An answer that came later would be taken for that of the next question.
                self.pgconn.finish()
            raise


def parse_address(text: str) -> str:
    """Return `text`, the words by which libpq finds a database; raise `UsageError` if they do not.

    A password is refused: whoever lists processes or reads settings would see it.
    """
    try:
        words = conninfo.conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        # The library's message quotes the text, and with it perhaps a password.
        raise UsageError(
            "the address of the database cannot be read: expected words such as "
            "host=db.example dbname=treaty user=treaty sslmode=verify-full"
        ) from None
    if _SECRET_WORDS & words.keys():
        raise UsageError(
            "the address of the database holds a password: put it into the file "
            "postgres.password of the coordinator's directory (mode 0600), or into PGPASSFILE"
        )
    if not words.get("dbname") and not words.get("service"):
        raise UsageError("the address names no database: add dbname=NAME")
    return text


def _named(text: str) -> str:
    """Return how messages call the database at `text`: its name and host, nothing else."""
    words = conninfo.conninfo_to_dict(text)
    host = words.get("host") or words.get("hostaddr") or words.get("service") or "this machine"
    return f"database {words.get('dbname') or 'of the service'} at {host}"


class PostgresLink:
    """The connection, its lock, its transactions, and the translation of its errors.

    `epoch` is the fencing token of who writes here, 0 for who never asks for a lease: such a
    writer is refused as soon as a lease was ever taken. With `read_only` nothing can be written
    and nothing is created.
    """

    def __init__(
        self, address: str, password: str | None = None, *, epoch: int = 0, read_only: bool = False
    ) -> None:
        self._address = parse_address(address)
        self._password = password
        self.name = _named(address)
        self.epoch = epoch
        self.read_only = read_only
        self.lock = threading.RLock()
        self._closed = False
        self._claimed = False
        self._connection: _Connection | None = None
        with self.lock, self.errors("open"):
            self._judge(self.connection)

    def __repr__(self) -> str:
        return f"PostgresLink({self.name})"

    @property
    def connection(self) -> _Connection:
        """Return the connection, made anew if it was lost."""
        if self._closed:
            raise ResourceError("the store is closed: open it again")
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn what the library raises in the block into a `ResourceError` that says what to do."""
        try:
            yield
        except psycopg.Error as error:
            # No cause is kept: its text could hold a secret, and its frames the password.
            raise ResourceError(f"cannot {doing} {self.name}: {_remedy(error)}") from None

    @contextmanager
    def transaction(self, label: str) -> Iterator[Session]:
        """One write transaction, rolled back whole on any exception.

        The block may `claim` the right to write at once; else that happens right before the commit.
        """
        with self.lock, self.errors("write"):
            connection = self.connection
            if self.read_only:
                raise ResourceError(f"{self.name} was opened for reading: it cannot be written")
            connection.execute("BEGIN")
            self._claimed = False
            try:
                yield connection
                self.claim(connection)
                with persist_point(label):
                    connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    def claim(self, connection: Session) -> None:
        """Become the one writer until the transaction ends.

        Raises `ResourceError` "lease lost" when the epoch is not this link's. What was read before
        may have changed; what is read afterwards holds at the commit.
        """
        if not self._claimed:
            self._compare(
                connection.execute(
                    "SELECT epoch, holder FROM treaty.control WHERE one = 1 FOR UPDATE"
                ).fetchone()
            )
            self._claimed = True

    def look(self, connection: Session) -> None:
        """Refuse at once what `claim` would refuse now, without keeping others from writing."""
        self._compare(
            connection.execute("SELECT epoch, holder FROM treaty.control WHERE one = 1").fetchone()
        )

    def _compare(self, row: tuple[Any, ...] | None) -> None:
        if row is None:
            raise ResourceError(f"{self.name} lacks its row of control: restore the newest backup")
        epoch, holder = row
        if epoch != self.epoch:
            raise lease_lost(self.epoch, int(epoch), str(holder))

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        with self.lock:
            self._closed = True
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _connect(self) -> _Connection:
        words: dict[str, Any] = dict(_KEEPALIVE)
        given = conninfo.conninfo_to_dict(self._address)
        words = {key: value for key, value in words.items() if key not in given}
        if self._password is not None:
            words["password"] = self._password
        connection = _Connection.connect(self._address, autocommit=True, **words)
        try:
            for setting, value in _SETTINGS.items():
                connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
            if self.read_only:
                connection.execute("SET default_transaction_read_only = on")
        except BaseException:
            connection.close()
            raise
        return connection

    def _judge(self, connection: _Connection) -> None:
        """Refuse what cannot be a store, before anything is changed; make the tables if new."""
        (fsync,) = _row(connection.execute("SHOW fsync").fetchone())
        if fsync != "on":
            raise ResourceError(
                f"{self.name}: the server runs with fsync {fsync}, expected on: it may lose "
                "what it has confirmed"
            )
        if self._is_made(connection):
            return
        if self.read_only:
            raise ResourceError(f"{self.name} is empty: expected a coordinator's store")
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
            # Another process may have been faster: judge again under the lock.
            if not self._is_made(connection):
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
            with persist_point("schema"):
                connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise

    def _is_made(self, connection: _Connection) -> bool:
        (schemas, tables) = _row(
            connection.execute(
                "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'treaty'), "
                "(SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n "
                "ON n.oid = c.relnamespace WHERE n.nspname = 'treaty' AND c.relkind = 'r' "
                "AND c.relname IN "
                "('control', 'streams', 'records', 'entries', 'blobs', 'pieces'))"
            ).fetchone()
        )
        if not schemas:
            return False
        if tables != 6:
            raise ResourceError(
                f"{self.name} has a schema treaty of another program ({tables} of 6 tables): "
                "choose another database"
            )
        found = connection.execute("SELECT program, version FROM treaty.control").fetchall()
        if found != [("treaty", SCHEMA_VERSION)]:
            version = found[0][1] if len(found) == 1 else "none"
            raise ResourceError(
                f"{self.name} has schema {version}, expected {SCHEMA_VERSION}: it was written by a "
                "newer version of Treaty, install that one"
            )
        return True

    def _roll_back(self, connection: _Connection) -> None:
        """Undo the transaction; where that fails too, end the connection, which undoes it."""
        if connection.closed:
            return
        try:
            if connection.info.transaction_status != pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()


def lease_lost(own: int, epoch: int, holder: str) -> ResourceError:
    """Return the error of a writer whose lease another has taken."""
    if not own:
        return ResourceError(
            f"lease lost: {holder or 'a replica'} took the lease of epoch {epoch}, and this "
            "process has none"
        )
    return ResourceError(
        f"lease lost: {holder or 'a replica'} took over with epoch {epoch}, this process had "
        f"epoch {own} and has stopped; start it again, and it stands by"
    )


def _row(found: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """Return the one row of an answer that always has one."""
    return () if found is None else found


def _remedy(error: psycopg.Error) -> str:
    code = error.sqlstate or ""
    if code:
        known = _REMEDIES.get(code) or _CLASSES.get(code[:2])
        return known or f"the server answers with the error {code}: look into its log"
    # Before there is a session libpq gives no code, only the server's words. LIMIT: a server that
    # speaks another language than English is not understood here.
    said = str(error)
    for words, code in (
        ("password authentication failed", "28P01"),
        ("no password supplied", "28P01"),
        ("pg_hba.conf", "28000"),
        ("too many clients", "53300"),
        ("remaining connection slots", "53300"),
        ("read-only", "25006"),
    ):
        if words in said:
            return _REMEDIES[code]
    if "does not exist" in said:
        return _REMEDIES["3D000" if 'database "' in said else "28000"]
    if "certificate" in said or "SSL" in said:
        return "the server's certificate is not accepted: check sslmode and sslrootcert"
    return _UNREACHABLE
