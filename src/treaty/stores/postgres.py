"""PostgreSQL store: the state that replicas of a coordinator share, one transaction a commit.

Guarantees: those of `treaty.ports`, as the SQLite store gives them, and those of
`treaty.stores.postgres_link`: all of a batch or nothing, durable on return, versions compared under
the one writer's lock. Blobs of every size are rows, in pieces of 1 MiB, so that every replica reads
them; those of a batch are part of its transaction, so a failed commit leaves nothing behind.

Integrity of the content is not this module's business: records are signed and chained, blobs are
compared with their digest whenever they are read.

LIMIT: what was deleted stays in the server's files until they are vacuumed, in its write-ahead log
and in its backups. A coordinator keeps no secret in its store.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError
from treaty.ids import Digest
from treaty.ports import Batch, check_name
from treaty.stores.blobs import CHUNK_BYTES, check_digest, mismatch, missing
from treaty.stores.memory import check_range, stale
from treaty.stores.postgres_link import PostgresLink, Session

__all__ = ["PostgresBlobs", "PostgresStore"]


class PostgresStore:
    """An `EventStore` in a PostgreSQL database; `blobs` is the `BlobStore` in the same.

    `address` are libpq's words for the database, `password` its password unless libpq finds one.
    `epoch` is that of the lease under which this process writes (`treaty.stores.postgres_lease`).
    Raises `UsageError` for an address that names no database, `ResourceError` for everything that
    the server may do.
    """

    def __init__(
        self, address: str, password: str | None = None, *, epoch: int = 0, read_only: bool = False
    ) -> None:
        self._link = PostgresLink(address, password, epoch=epoch, read_only=read_only)
        self.blobs = PostgresBlobs(self._link)

    def version(self, stream: str) -> int:
        """See `treaty.ports.EventStore.version`."""
        check_name(stream, "stream")
        with self._link.lock, self._link.errors("read"):
            return _locate(self._link.connection, stream)[1]

    def read(self, stream: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        """See `treaty.ports.EventStore.read`."""
        check_name(stream, "stream")
        check_range(start, limit)
        with self._link.lock, self._link.errors("read"):
            connection = self._link.connection
            number, version = _locate(connection, stream)
            end = version if limit is None else min(version, start + limit)
            if start >= end:
                return []
            rows = connection.execute(
                "SELECT data FROM treaty.records "
                "WHERE stream = %s AND place >= %s AND place < %s ORDER BY place",
                (number, start, end),
                binary=True,
            ).fetchall()
        if len(rows) != end - start:
            raise ResourceError(
                f"stream {stream!r} in {self._link.name}: found {len(rows)} records, "
                f"expected {end - start}: the database is damaged, restore the newest backup"
            )
        return [data for (data,) in rows]

    def get(self, key: str) -> bytes | None:
        """See `treaty.ports.EventStore.get`."""
        check_name(key, "key")
        with self._link.lock, self._link.errors("read"):
            row = self._link.connection.execute(
                "SELECT value FROM treaty.entries WHERE name = %s", (key,), binary=True
            ).fetchone()
        return None if row is None else bytes(row[0])

    def commit(self, batch: Batch) -> None:
        """See `treaty.ports.EventStore.commit`. The persist point is `batch.label`."""
        with self._link.transaction(batch.label) as connection:
            if sum(map(len, batch.blobs)) > CHUNK_BYTES:
                # Large blobs travel before this process becomes the one writer, so that the lease
                # can be renewed meanwhile; a batch that is stale already need not carry them.
                self._link.look(connection)
                _require_versions(connection, batch)
            else:
                self._link.claim(connection)
            for blob in dict.fromkeys(batch.blobs):
                self.blobs.keep(connection, sha256(blob), blob)
            self._link.claim(connection)
            for stream, expected, records in batch.appends:
                _append(connection, stream, expected, records)
            with connection.cursor() as cursor:
                if batch.puts:
                    cursor.executemany(
                        "INSERT INTO treaty.entries VALUES (%s, %b) "
                        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                        batch.puts,
                    )
                if batch.deletes:
                    cursor.execute(
                        "DELETE FROM treaty.entries WHERE name = ANY (%s)", (list(batch.deletes),)
                    )

    def close(self) -> None:
        """See `treaty.ports.EventStore.close`."""
        self._link.close()


class PostgresBlobs:
    """A `BlobStore` over the rows of the database."""

    def __init__(self, link: PostgresLink) -> None:
        self._link = link

    def put(self, data: bytes) -> Digest:
        """See `treaty.ports.BlobStore.put`. Persist point ``blob``."""
        digest = sha256(data)
        if not self._holds(digest):
            with self._link.transaction("blob") as connection:
                self._store(connection, _pieces(data), lambda: digest)
        return digest

    def keep(self, connection: Session, digest: Digest, data: bytes) -> None:
        """Store `data` in an open transaction, in place of a damaged copy."""
        if not self._holds(digest):
            self._store(connection, _pieces(data), lambda: digest)

    def get(self, digest: Digest) -> bytes:
        """See `treaty.ports.BlobStore.get`."""
        check_digest(digest)
        data = b"".join(self._read(digest))
        found = sha256(data)
        if found != digest:
            raise mismatch(digest, found)
        return data

    def has(self, digest: Digest) -> bool:
        """See `treaty.ports.BlobStore.has`."""
        check_digest(digest)
        return self._number(digest) is not None

    def delete(self, digest: Digest) -> None:
        """See `treaty.ports.BlobStore.delete`. Persist point ``blob-delete``."""
        check_digest(digest)
        if self._number(digest) is not None:
            with self._link.transaction("blob-delete") as connection:
                connection.execute("DELETE FROM treaty.blobs WHERE digest = %s", (digest,))

    def put_chunks(self, chunks: Iterable[bytes]) -> Digest:
        """See `treaty.ports.BlobStore.put_chunks`. Persist point ``blob``."""
        digester = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for chunk in chunks:
                digester.update(chunk)
                yield from _pieces(chunk) if chunk else ()

        with self._link.transaction("blob") as connection:
            self._store(connection, hashed(), lambda: Digest(digester.hexdigest()))
        return Digest(digester.hexdigest())

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """See `treaty.ports.BlobStore.chunks`.

        The rows are read twice: nothing is handed out before all of it was checked.
        """
        check_digest(digest)
        digester = hashlib.sha256()
        for piece in self._read(digest):
            digester.update(piece)
        found = Digest(digester.hexdigest())
        if found != digest:
            raise mismatch(digest, found)
        return self._read(digest)

    def _read(self, digest: Digest) -> Iterator[bytes]:
        number = self._number(digest)
        if number is None:
            raise missing(digest)

        def pieces() -> Iterator[bytes]:
            for place in range(1 << 31):
                with self._link.lock, self._link.errors("read"):
                    row = self._link.connection.execute(
                        "SELECT data FROM treaty.pieces WHERE blob = %s AND place = %s",
                        (number, place),
                        binary=True,
                    ).fetchone()
                if row is None:
                    return
                yield bytes(row[0])

        return pieces()

    def _holds(self, digest: Digest) -> bool:
        """Say whether the object is here and whole."""
        if self._number(digest) is None:
            return False
        digester = hashlib.sha256()
        for piece in self._read(digest):
            digester.update(piece)
        return digester.hexdigest() == digest

    def _number(self, digest: Digest) -> int | None:
        with self._link.lock, self._link.errors("read"):
            row = self._link.connection.execute(
                "SELECT id FROM treaty.blobs WHERE digest = %s", (digest,)
            ).fetchone()
        return None if row is None else int(row[0])

    def _store(
        self,
        connection: Session,
        pieces: Iterable[bytes],
        name: Callable[[], Digest],
    ) -> None:
        """Write the pieces under a waiting name, then rename; `name` is asked once all are there.

        Nobody sees the waiting name: both happen in one transaction.
        """
        row = connection.execute(
            "INSERT INTO treaty.blobs (digest) VALUES ('waiting ' || gen_random_uuid()) "
            "RETURNING id"
        ).fetchone()
        number = _number_in(row)
        for place, piece in enumerate(pieces):
            connection.execute(
                "INSERT INTO treaty.pieces VALUES (%s, %s, %b)", (number, place, piece)
            )
        digest = name()
        self._link.claim(connection)
        connection.execute("DELETE FROM treaty.blobs WHERE digest = %s", (digest,))
        connection.execute("UPDATE treaty.blobs SET digest = %s WHERE id = %s", (digest, number))


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield `data` in pieces of at most `CHUNK_BYTES`."""
    return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))


def _locate(connection: Session, stream: str) -> tuple[int, int]:
    """Return number and version of `stream`; (0, 0) if it was never written."""
    row = connection.execute(
        "SELECT id, version FROM treaty.streams WHERE name = %s", (stream,)
    ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _require_versions(connection: Session, batch: Batch) -> None:
    for stream, expected, _ in batch.appends:
        found = _locate(connection, stream)[1]
        if found != expected:
            raise stale(stream, found, expected)


def _append(connection: Session, stream: str, expected: int, records: tuple[bytes, ...]) -> None:
    number, found = _locate(connection, stream)
    if found != expected:
        raise stale(stream, found, expected)
    if not records:
        return
    version = found + len(records)
    if found:
        connection.execute(
            "UPDATE treaty.streams SET version = %s WHERE id = %s", (version, number)
        )
    else:
        row = connection.execute(
            "INSERT INTO treaty.streams (name, version) VALUES (%s, %s) RETURNING id",
            (stream, version),
        ).fetchone()
        number = _number_in(row)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO treaty.records VALUES (%s, %s, %b)",
            [(number, place, data) for place, data in enumerate(records, found)],
        )


def _number_in(row: tuple[int, ...] | None) -> int:
    """Return the number that an insertion gave."""
    if row is None:
        raise ResourceError("the database confirms no insertion: look into the server's log")
    return row[0]
