"""Table: operation x {lost, stored but reported failed} x {going on, restart}.

A disk may fail before it stored anything, or after it stored everything. The
caller sees the same `ResourceError`. In every row the store holds exactly the
old state or exactly the new one, and repeating the same batch ends in exactly
the new one: it is stored now, or "stale version" says that it was stored before.

Planted faults that these tests caught: records committed before values; a
failed transaction left open.
"""

from pathlib import Path

import pytest

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError
from treaty.ports import Batch
from treaty.stores.memory import MemoryStore
from treaty.stores.sqlite import SMALL_BLOB_BYTES, SqliteStore

LARGE = b"l" * (SMALL_BLOB_BYTES + 1)
OLD = Batch(
    appends=(("log", 0, (b"a", b"b")),), puts=(("kept", b"1"), ("dropped", b"2")), blobs=(b"old",)
)
OPERATIONS: dict[str, Batch] = {
    "first append to a stream": Batch(appends=(("fresh", 0, (b"x", b"y")),)),
    "append to a stream": Batch(appends=(("log", 2, (b"c",)),)),
    "append to two streams": Batch(appends=(("log", 2, (b"c",)), ("fresh", 0, (b"x",)))),
    "put": Batch(puts=(("kept", b"9"), ("new", b"3"))),
    "delete": Batch(deletes=("dropped",)),
    "small blob": Batch(blobs=(b"new",)),
    "everything at once": Batch(
        appends=(("log", 2, (b"c", b"d")),),
        puts=(("kept", b"9"),),
        deletes=("dropped",),
        blobs=(b"new",),
    ),
    "everything, with a large blob": Batch(
        appends=(("log", 2, (b"c",)),), puts=(("kept", b"9"),), blobs=(b"new", LARGE)
    ),
    "pure condition": Batch(appends=(("log", 2, ()),), puts=(("kept", b"9"),)),
}


class FailingConnection:
    """Stands between the store and SQLite; the next COMMIT fails, before or after it acts."""

    def __init__(self, store: SqliteStore, *, stored: bool) -> None:
        import sqlite3

        self.real = store._database.connection
        self.stored = stored
        self.error = sqlite3.OperationalError("disk I/O error")
        self.error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        self.armed = True

    def execute(self, statement: str, values: tuple[str | bytes | int, ...] = ()) -> object:
        if statement == "COMMIT" and self.armed:
            self.armed = False
            if self.stored:
                self.real.execute("COMMIT")
            raise self.error
        return self.real.execute(statement, values)

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


def observe(store: SqliteStore | MemoryStore) -> object:
    """Everything a caller can see, but for the large blob, which may be there early."""
    return (
        {stream: store.read(stream) for stream in ("log", "fresh")},
        {stream: store.version(stream) for stream in ("log", "fresh")},
        {key: store.get(key) for key in ("kept", "dropped", "new")},
        {blob: store.blobs.has(sha256(blob)) for blob in (b"old", b"new")},
    )


@pytest.mark.parametrize("restarts", [False, True], ids=["going-on", "restart"])
@pytest.mark.parametrize("stored", [False, True], ids=["lost", "stored-but-reported-failed"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failed_commit_is_whole_or_nothing_and_can_be_repeated(
    tmp_path: Path, operation: str, stored: bool, restarts: bool
) -> None:
    batch = OPERATIONS[operation]
    before, after = MemoryStore(), MemoryStore()
    for reference in (before, after):
        reference.commit(OLD)
    after.commit(batch)

    store = SqliteStore(tmp_path / "s.db")
    store.commit(OLD)
    # The only seam below the store: no port lies between it and SQLite.
    store._database._connection = FailingConnection(store, stored=stored)  # type: ignore[assignment]
    with pytest.raises(ResourceError, match="the disk did not take the write"):
        store.commit(batch)
    if restarts:
        store.close()
        store = SqliteStore(tmp_path / "s.db")
    assert observe(store) == observe(after if stored else before)

    try:
        store.commit(batch)
    except ResourceError as error:
        assert stored and any(records for _, _, records in batch.appends)
        assert "stale version" in str(error)
    assert observe(store) == observe(after)
    assert all(store.blobs.get(sha256(blob)) == blob for blob in batch.blobs)
    store.check()
    store.close()


def test_a_restored_backup_is_a_consistent_older_state(tmp_path: Path) -> None:
    """The store cannot know that it is old; the version shows it to callers who compare."""
    store = SqliteStore(tmp_path / "s.db")
    store.commit(OLD)
    store.back_up(tmp_path / "copy.db")
    store.commit(Batch(appends=(("log", 2, (b"c",)),)))
    store.close()
    (tmp_path / "copy.db").replace(tmp_path / "s.db")
    restored = SqliteStore(tmp_path / "s.db")
    assert restored.read("log") == [b"a", b"b"]
    with pytest.raises(ResourceError, match="found 2 records, expected 3"):
        restored.commit(Batch(appends=(("log", 3, (b"d",)),)))
    restored.close()
