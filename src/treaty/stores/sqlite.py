"""SQLite store: one party's durable state in one file, one short transaction a commit.

Guarantees: write-ahead log with ``synchronous=FULL``, so a commit that returned
survives the loss of power; all of a batch or nothing; the version of every
stream is compared inside the transaction, so two processes on one file cannot
both append at the same place. Blobs up to 64 KiB are rows of the same
transaction; larger ones become files, durable before the commit. A failed commit
may leave such a file behind, complete and unreferenced. The file has mode 0600.

Assumes a local file system (SQLite's locks do not hold on most network shares)
and one connection per party. Integrity of the content is not this module's
business: records are signed and chained, blobs are named by their digest.

A file of another program, a newer schema, a damaged, locked or full database:
each is a `ResourceError` that says what to do, and the file is left as it was.

Layout (schema 1): a record's row id is stream number * 2^40 + position, so
appending writes to the end of one tree and reading a stream is one range.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError
from treaty.ids import Digest
from treaty.ports import Batch, check_name
from treaty.stores.blobs import CHUNK_BYTES, BlobDirectory, check_digest, mismatch
from treaty.stores.files import (
    PRIVATE_MODE,
    Translated,
    check_private,
    os_errors,
    sync_directory,
)
from treaty.stores.kill_points import persist_point
from treaty.stores.memory import check_range, stale

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "SMALL_BLOB_BYTES", "SqliteBlobs", "SqliteStore"]

APPLICATION_ID = 0x54525459
"""``TRTY``, at byte 68 of the file: tells our databases from other SQLite files."""

SCHEMA_VERSION = 1
SMALL_BLOB_BYTES = 64 * 1024

_POSITION_BITS = 40
_BUSY_TIMEOUT_MS = 5000
_CACHE_KIB = 256
"""Of the file's pages a connection keeps so much; the others are read again from the system's."""
_LOG_BYTES = 1000 * 4096
"""The write-ahead log is folded into the database once it is this long, SQLite's default."""

_ROOM_BYTES = 64 * 1024 * 1024
"""With less room than this on the disk nothing is taken before it is needed."""

_COMMITS_BEFORE_EXTENDING = 8
"""A store that is opened for a few commits leaves the log as short as they make it."""

_SCHEMA = """
CREATE TABLE streams (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version INTEGER NOT NULL
) STRICT;
CREATE TABLE records (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
"""
_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space and try again",
    sqlite3.SQLITE_BUSY: "another process holds it: stop the other agent of this party",
    sqlite3.SQLITE_LOCKED: "another process holds it: stop the other agent of this party",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: restore the newest backup",
    sqlite3.SQLITE_NOTADB: "it is not a database of Treaty: check the path, "
    "or restore the newest backup",
    sqlite3.SQLITE_READONLY: "it cannot be written: check its owner, its mode and the disk",
    sqlite3.SQLITE_PERM: "permission denied: check its owner and its mode",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the path and the mode of its directory",
    sqlite3.SQLITE_IOERR: "the disk did not take the write: check free space, "
    "file size limit (ulimit -f) and the disk, then try again",
    sqlite3.SQLITE_TOOBIG: "a value is larger than SQLite stores: put it as a blob",
}


class _Errors(Translated):
    kind = sqlite3.Error
    __slots__ = ()

    def remedy(self, error: Exception) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return _REMEDIES.get(code, f"unexpected answer of the database ({error})")


class _Database:
    """The connection, its lock and the translation of its errors."""

    def __init__(self, path: Path, busy_timeout_ms: int, *, read_only: bool) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        if read_only:
            check_private(path)
        else:
            self._prepare_file()
        with self.errors("open"):
            connection = sqlite3.connect(
                _read_only_address(path) if read_only else path,
                uri=read_only,
                isolation_level=None,
                check_same_thread=False,
                timeout=busy_timeout_ms / 1000,
            )
        try:
            with self.errors("open"):
                (_judge if read_only else _set_up)(connection, path)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _prepare_file(self) -> None:
        """Create the file with mode 0600 before SQLite would, with the mode of the umask."""
        with os_errors(self.path, "create"):
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                os.close(os.open(self.path, flags, PRIVATE_MODE))
            except FileExistsError:
                pass
            else:
                sync_directory(self.path.parent)
        check_private(self.path)

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ResourceError("the store is closed: open it again")
        return self._connection

    def errors(self, doing: str) -> "_Errors":
        """Turn what SQLite raises in the block into a `ResourceError` that says what to do."""
        return _Errors(self.path, doing)

    @contextmanager
    def transaction(self, label: str) -> Iterator[sqlite3.Connection]:
        """One write transaction, rolled back whole on any exception."""
        with self.lock, self.errors("write"):
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                with persist_point(label):
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def extend_log(self) -> None:
        """Let the write-ahead log's file grow at once to where SQLite uses it from its start again.

        A commit within the file's size costs the disk a write less than one that makes it longer.
        What does not fit into the cache goes to the log before a commit, and stays in the file when
        it is rolled back; whoever reads the log passes over it, as over what is left of a process
        that ended there. Nothing is promised: where room is short, or another process is writing,
        the log grows with its commits instead.
        """
        with self.lock, self.errors("write"):
            disk = os.statvfs(self.path)
            if disk.f_bavail * disk.f_frsize < _ROOM_BYTES:
                return
            connection = self.connection
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO blobs VALUES ('', zeroblob(?))", (_LOG_BYTES,))
            except sqlite3.OperationalError:
                # The database is as it was, and what is wrong will meet the next commit.
                pass
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        with self.lock, self.errors("close"):
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    """Judge the file before changing anything in it; make the tables in an empty one."""
    if _is_new(connection, path):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have been faster: judge again under the lock.
        if _is_new(connection, path):
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("COMMIT")
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise ResourceError(
            f"{path}: found journal mode {mode}, expected wal; put it on a local file system"
        )
    connection.execute("PRAGMA synchronous=FULL")
    # Deleted values are overwritten in the file, not only unlinked from it.
    connection.execute("PRAGMA secure_delete=ON")
    # A file that someone else prepared must not run functions named in its schema.
    connection.execute("PRAGMA trusted_schema=OFF")
    # A negative number counts KiB. By default it would be 2 MiB, filled in some ten rounds.
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")


def _read_only_address(path: Path) -> str:
    """Return the address that opens `path` for reading and leaves no file beside it.

    Without a write-ahead log nobody is writing, and then the file may be read as it lies there;
    opening it in the usual way would need to make the log's index.
    """
    waiting = path.with_name(path.name + "-wal").exists()
    return f"{path.absolute().as_uri()}?mode=ro" + ("" if waiting else "&immutable=1")


def _judge(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is not a store; change nothing."""
    connection.execute("PRAGMA trusted_schema=OFF")
    if _is_new(connection, path):
        raise ResourceError(f"{path} is an empty database: expected a party's store")


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application == 0 and tables == 0:
        return True
    if application != APPLICATION_ID:
        raise ResourceError(
            f"{path} is a database of another program (application id {application:#x}, "
            f"expected {APPLICATION_ID:#x}): choose another path"
        )
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema != SCHEMA_VERSION:
        raise ResourceError(
            f"{path} has schema {schema}, expected {SCHEMA_VERSION}: it was written by a newer "
            "version of Treaty, install that one"
        )
    return False


class SqliteStore:
    """An `EventStore` in one SQLite file; large blobs are files in `blob_directory`.

    `blob_directory` is by default ``blobs`` beside the database. The directory
    of the database must exist. `blobs` is the `BlobStore` over both places.
    With `read_only` nothing on the disk changes, and writing is a `ResourceError`.
    Raises `ResourceError` as said at the top.
    """

    def __init__(
        self,
        path: Path,
        blob_directory: Path | None = None,
        *,
        busy_timeout_ms: int = _BUSY_TIMEOUT_MS,
        read_only: bool = False,
    ) -> None:
        self._database = _Database(path, busy_timeout_ms, read_only=read_only)
        self._commits = 0
        try:
            files = BlobDirectory(blob_directory or path.parent / "blobs", read_only=read_only)
        except BaseException:
            self._database.close()
            raise
        self.blobs = SqliteBlobs(self._database, files)

    def version(self, stream: str) -> int:
        """See `treaty.ports.EventStore.version`."""
        check_name(stream, "stream")
        with self._database.lock, self._database.errors("read"):
            _, version = _locate(self._database.connection, stream)
            return version

    def read(self, stream: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        """See `treaty.ports.EventStore.read`."""
        check_name(stream, "stream")
        check_range(start, limit)
        with self._database.lock, self._database.errors("read"):
            connection = self._database.connection
            number, version = _locate(connection, stream)
            end = version if limit is None else min(version, start + limit)
            if start >= end:
                return []
            first = number << _POSITION_BITS
            rows = connection.execute(
                "SELECT data FROM records WHERE id >= ? AND id < ? ORDER BY id",
                (first + start, first + end),
            ).fetchall()
        if len(rows) != end - start:
            raise ResourceError(
                f"stream {stream!r} in {self._database.path}: found {len(rows)} records, "
                f"expected {end - start}: the database is damaged, restore the newest backup"
            )
        return [data for (data,) in rows]

    def get(self, key: str) -> bytes | None:
        """See `treaty.ports.EventStore.get`."""
        check_name(key, "key")
        with self._database.lock, self._database.errors("read"):
            row = self._database.connection.execute(
                "SELECT value FROM entries WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def commit(self, batch: Batch) -> None:
        """See `treaty.ports.EventStore.commit`. The persist point is `batch.label`."""
        large = [blob for blob in batch.blobs if len(blob) > SMALL_BLOB_BYTES]
        if large:
            # A batch that is stale already must not leave files behind.
            for stream, expected, _ in batch.appends:
                found = self.version(stream)
                if found != expected:
                    raise stale(stream, found, expected)
            for blob in large:
                self.blobs.put(blob)
        with self._database.transaction(batch.label) as connection:
            for stream, expected, records in batch.appends:
                _append(connection, stream, expected, records)
            if batch.puts:
                connection.executemany(
                    "INSERT INTO entries VALUES (?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    batch.puts,
                )
            if batch.deletes:
                connection.executemany(
                    "DELETE FROM entries WHERE key = ?", [(key,) for key in batch.deletes]
                )
            for blob in batch.blobs:
                if len(blob) <= SMALL_BLOB_BYTES:
                    _insert_blob(connection, sha256(blob), blob)
        self._commits += 1
        if self._commits == _COMMITS_BEFORE_EXTENDING:
            self._database.extend_log()

    def close(self) -> None:
        """See `treaty.ports.EventStore.close`. Folds the write-ahead log into the file."""
        self._database.close()

    def check(self) -> None:
        """Read the whole database; raise `ResourceError` if any of it is damaged."""
        with self._database.lock, self._database.errors("check"):
            (answer,) = self._database.connection.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise ResourceError(
                f"{self._database.path} is damaged ({answer}): restore the newest backup"
            )

    def back_up(self, path: Path) -> None:
        """Write a consistent copy of the database (without large blobs) to a new file.

        Raises `ResourceError` if `path` exists. A restored copy is an older
        state: the callers find out by comparing with what their peers hold.
        """
        with os_errors(path, "create"):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_MODE))
        with self._database.lock, self._database.errors("back up"):
            self._database.connection.execute("VACUUM INTO ?", (str(path),))
        with os_errors(path, "write"):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
            sync_directory(path.parent)


class SqliteBlobs:
    """A `BlobStore` over the rows of the database and the files beside it."""

    def __init__(self, database: _Database, files: BlobDirectory) -> None:
        self._database = database
        self._files = files

    def put(self, data: bytes) -> Digest:
        """See `treaty.ports.BlobStore.put`. Persist point ``blob``."""
        if len(data) > SMALL_BLOB_BYTES:
            return self._files.put(data)
        digest = sha256(data)
        if self._row(digest) != data:
            with self._database.transaction("blob") as connection:
                _insert_blob(connection, digest, data)
        return digest

    def get(self, digest: Digest) -> bytes:
        """See `treaty.ports.BlobStore.get`."""
        check_digest(digest)
        data = self._row(digest)
        if data is None:
            return self._files.get(digest)
        found = sha256(data)
        if found != digest:
            raise mismatch(digest, found)
        return data

    def has(self, digest: Digest) -> bool:
        """See `treaty.ports.BlobStore.has`."""
        check_digest(digest)
        with self._database.lock, self._database.errors("read"):
            row = self._database.connection.execute(
                "SELECT 1 FROM blobs WHERE digest = ?", (digest,)
            ).fetchone()
        return row is not None or self._files.has(digest)

    def delete(self, digest: Digest) -> None:
        """See `treaty.ports.BlobStore.delete`. Persist point ``blob-delete``."""
        check_digest(digest)
        if self._row(digest) is not None:
            with self._database.transaction("blob-delete") as connection:
                connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
        self._files.delete(digest)

    def put_chunks(self, chunks: Iterable[bytes]) -> Digest:
        """See `treaty.ports.BlobStore.put_chunks`. Always a file, whatever its size."""
        return self._files.put_chunks(chunks)

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """See `treaty.ports.BlobStore.chunks`."""
        check_digest(digest)
        data = self._row(digest)
        if data is None:
            return self._files.chunks(digest)
        found = sha256(data)
        if found != digest:
            raise mismatch(digest, found)
        return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))

    def _row(self, digest: Digest) -> bytes | None:
        with self._database.lock, self._database.errors("read"):
            row = self._database.connection.execute(
                "SELECT data FROM blobs WHERE digest = ?", (digest,)
            ).fetchone()
        return None if row is None else bytes(row[0])


def _locate(connection: sqlite3.Connection, stream: str) -> tuple[int, int]:
    """Return number and version of `stream`; (0, 0) if it was never written."""
    row = connection.execute("SELECT id, version FROM streams WHERE name = ?", (stream,)).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _append(
    connection: sqlite3.Connection, stream: str, expected: int, records: tuple[bytes, ...]
) -> None:
    number, found = _locate(connection, stream)
    if found != expected:
        raise stale(stream, found, expected)
    if not records:
        return
    version = found + len(records)
    if found:
        connection.execute("UPDATE streams SET version = ? WHERE id = ?", (version, number))
    else:
        cursor = connection.execute(
            "INSERT INTO streams (name, version) VALUES (?, ?)", (stream, version)
        )
        number = int(cursor.lastrowid or 0)
    first = (number << _POSITION_BITS) + found
    connection.executemany("INSERT INTO records VALUES (?, ?)", enumerate(records, first))


def _insert_blob(connection: sqlite3.Connection, digest: Digest, data: bytes) -> None:
    connection.execute(
        "INSERT INTO blobs VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET data = excluded.data",
        (digest, data),
    )
