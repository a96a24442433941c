"""Stores in memory: the reference that the durable ones are compared with.

They keep every promise of the ports except durability, and serve unit tests and
the simulator. What they hold is gone with the process.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, UsageError
from treaty.ids import Digest
from treaty.ports import Batch, check_name
from treaty.stores.blobs import CHUNK_BYTES, check_digest, mismatch, missing
from treaty.stores.ledger_file import check_record, stale_ledger
from treaty.stores.secret_files import check_secret_name, missing_secret

__all__ = ["MemoryBlobs", "MemoryLedger", "MemorySecrets", "MemoryStore", "check_range", "stale"]


def stale(stream: str, found: int, expected: int) -> ResourceError:
    """Return the error for a batch made from an older state than the stored one."""
    return ResourceError(
        f"stale version of stream {stream!r}: found {found} records, expected {expected}; "
        "read the stream again before committing"
    )


def check_range(start: int, limit: int | None) -> None:
    """Refuse a negative start or limit of a read."""
    if start < 0 or (limit is not None and limit < 0):
        raise UsageError(f"start {start} and limit {limit}: expected 0 or more")


class MemoryBlobs:
    """A `BlobStore` in a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[Digest, bytes] = {}

    def put(self, data: bytes) -> Digest:
        """See `treaty.ports.BlobStore.put`."""
        digest = sha256(data)
        self._objects[digest] = bytes(data)
        return digest

    def get(self, digest: Digest) -> bytes:
        """See `treaty.ports.BlobStore.get`."""
        check_digest(digest)
        data = self._objects.get(digest)
        if data is None:
            raise missing(digest)
        found = sha256(data)
        if found != digest:
            raise mismatch(digest, found)
        return data

    def has(self, digest: Digest) -> bool:
        """See `treaty.ports.BlobStore.has`."""
        check_digest(digest)
        return digest in self._objects

    def delete(self, digest: Digest) -> None:
        """See `treaty.ports.BlobStore.delete`."""
        check_digest(digest)
        self._objects.pop(digest, None)

    def put_chunks(self, chunks: Iterable[bytes]) -> Digest:
        """See `treaty.ports.BlobStore.put_chunks`."""
        return self.put(b"".join(chunks))

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """See `treaty.ports.BlobStore.chunks`."""
        data = self.get(digest)
        return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))


class MemoryStore:
    """An `EventStore` in dictionaries, with its blobs in `blobs`."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self._streams: dict[str, list[bytes]] = {}
        self._values: dict[str, bytes] = {}
        self._open = True

    def version(self, stream: str) -> int:
        """See `treaty.ports.EventStore.version`."""
        check_name(stream, "stream")
        self._check_open()
        return len(self._streams.get(stream, ()))

    def read(self, stream: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        """See `treaty.ports.EventStore.read`."""
        check_name(stream, "stream")
        check_range(start, limit)
        self._check_open()
        end = None if limit is None else start + limit
        return self._streams.get(stream, [])[start:end]

    def get(self, key: str) -> bytes | None:
        """See `treaty.ports.EventStore.get`."""
        check_name(key, "key")
        self._check_open()
        return self._values.get(key)

    def commit(self, batch: Batch) -> None:
        """See `treaty.ports.EventStore.commit`."""
        self._check_open()
        for stream, expected, _ in batch.appends:
            found = len(self._streams.get(stream, ()))
            if found != expected:
                raise stale(stream, found, expected)
        for blob in batch.blobs:
            self.blobs.put(blob)
        for stream, _, records in batch.appends:
            self._streams.setdefault(stream, []).extend(records)
        self._values.update(batch.puts)
        for key in batch.deletes:
            self._values.pop(key, None)

    def close(self) -> None:
        """See `treaty.ports.EventStore.close`."""
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise ResourceError("the store is closed: open it again")


class MemoryLedger:
    """A `Ledger` in a list. `records` may be shared by several, as a file is by processes."""

    def __init__(self, records: list[bytes] | None = None) -> None:
        self.records = [] if records is None else records
        self._open = True

    def read(self, start: int = 0) -> list[bytes]:
        """See `treaty.ports.Ledger.read`."""
        check_range(start, None)
        self._check_open()
        return self.records[start:]

    def append(self, count: int, records: Sequence[bytes], label: str = "ledger") -> None:
        """See `treaty.ports.Ledger.append`."""
        self._check_open()
        for record in records:
            check_record(record)
        if records and len(self.records) != count:
            raise stale_ledger(len(self.records), count)
        self.records += records

    def close(self) -> None:
        """See `treaty.ports.Ledger.close`."""
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise ResourceError("the ledger is closed: open it again")


class MemorySecrets:
    """A `SecretFile` in a dictionary. Python cannot promise to erase memory."""

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return "MemorySecrets()"

    def write(self, name: str, data: bytes) -> None:
        """See `treaty.ports.SecretFile.write`."""
        check_secret_name(name)
        self._secrets[name] = data

    def write_all(self, items: Mapping[str, bytes]) -> None:
        """See `treaty.ports.SecretFile.write_all`."""
        for name in items:
            check_secret_name(name)
        for name, data in items.items():
            self.write(name, data)

    def read(self, name: str) -> bytes:
        """See `treaty.ports.SecretFile.read`."""
        check_secret_name(name)
        if name not in self._secrets:
            raise missing_secret(name)
        return self._secrets[name]

    def erase(self, name: str) -> None:
        """See `treaty.ports.SecretFile.erase`."""
        check_secret_name(name)
        self._secrets.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """See `treaty.ports.SecretFile.names`."""
        return tuple(sorted(self._secrets))
