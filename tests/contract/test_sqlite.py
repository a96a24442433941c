"""What only the SQLite store promises: refusals of files, modes, durability settings.

Planted faults that these tests caught: foreign file adopted; newer schema
adopted; mode not checked; synchronous=NORMAL; busy not mapped; the version
compared outside the transaction; deleted values left in the file; a reader that writes
or makes files; a write through a reader; SQLite's own size of the cache; a log that is extended at
the first commit, or at every one, or never; what it is extended with committed; a full disk, or
another writer, in the way of that taken for an error; room taken where there is little; damage that
shows then said in SQLite's words.
"""

import os
import resource
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError
from treaty.ports import Batch
from treaty.stores.files import write_private_file
from treaty.stores.sqlite import (
    _COMMITS_BEFORE_EXTENDING,
    _LOG_BYTES,
    APPLICATION_ID,
    SCHEMA_VERSION,
    SMALL_BLOB_BYTES,
    SqliteStore,
)


def fill(path: Path, statement: str = "CREATE TABLE t (a)") -> bytes:
    raw = sqlite3.connect(path)
    raw.execute(statement)
    raw.commit()
    raw.close()
    path.chmod(0o600)
    return path.read_bytes()


def test_the_database_and_its_log_are_private_and_marked(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.commit(Batch(puts=(("key", b"value"),)))
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(path.name for path in files) == ["s.db", "s.db-shm", "s.db-wal"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    store.close()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["s.db"]
    assert int.from_bytes((tmp_path / "s.db").read_bytes()[68:72]) == APPLICATION_ID


def test_durability_is_full(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    # Reaches inside: no caller can see these settings, and power loss cannot be tested.
    connection = store._database.connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_of_a_large_file_little_is_held_in_memory(tmp_path: Path) -> None:
    """However many rounds there were: a negative number counts KiB."""
    store = SqliteStore(tmp_path / "s.db")
    assert store._database.connection.execute("PRAGMA cache_size").fetchone() == (-256,)
    store.close()


def test_a_file_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    before = fill(path)
    with pytest.raises(ResourceError, match=r"database of another program.*choose another path"):
        SqliteStore(path)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.db"]


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    SqliteStore(path).close()
    before = fill(path, f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(ResourceError, match=r"schema 2, expected 1.*newer version of Treaty"):
        SqliteStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database" * 100, bytes(4096)])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.db"
    write_private_file(path, content)
    with pytest.raises(ResourceError, match=r"not a database of Treaty|damaged"):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    write_private_file(tmp_path / "s.db", b"")
    store = SqliteStore(tmp_path / "s.db")
    store.commit(Batch(puts=(("key", b"value"),)))
    store.close()


def test_a_database_open_to_others_or_missing_its_directory_is_refused(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "s.db").close()
    (tmp_path / "s.db").chmod(0o644)
    with pytest.raises(ResourceError, match=r"mode 0644, expected 0600.*chmod 600"):
        SqliteStore(tmp_path / "s.db")
    with pytest.raises(ResourceError, match="create its directory first"):
        SqliteStore(tmp_path / "missing" / "s.db")
    with pytest.raises(ResourceError, match=r"is a directory|not a regular file"):
        SqliteStore(tmp_path)


def test_damage_is_reported_and_not_repaired_by_guessing(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.commit(Batch(appends=(("log", 0, tuple(bytes([n]) * 900 for n in range(60))),)))
    store.check()
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(ResourceError, match=r"damaged.*restore the newest backup"):
        _read_all(path)


def _read_all(path: Path) -> None:
    store = SqliteStore(path)
    try:
        store.read("log")
    finally:
        store.close()


def test_a_missing_record_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.commit(Batch(appends=(("log", 0, (b"a", b"b", b"c")),)))
    fill(path, "DELETE FROM records WHERE data = x'62'")
    assert store.read("log", 0, 1) == [b"a"]
    with pytest.raises(ResourceError, match=r"found 2 records, expected 3.*damaged"):
        store.read("log")
    store.close()


def test_a_locked_database_is_reported_after_the_timeout(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", busy_timeout_ms=20)
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ResourceError, match="another process holds it"):
        store.commit(Batch(puts=(("key", b"value"),)))
    other.execute("ROLLBACK")
    other.close()
    store.commit(Batch(puts=(("key", b"value"),)))
    assert store.get("key") == b"value"
    store.close()


def test_two_connections_cannot_append_at_the_same_place(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path / "s.db"), SqliteStore(tmp_path / "s.db")
    assert first.version("log") == second.version("log") == 0
    first.commit(Batch(appends=(("log", 0, (b"first",)),)))
    with pytest.raises(ResourceError, match="stale version"):
        second.commit(Batch(appends=(("log", 0, (b"second",)),)))
    assert second.read("log") == [b"first"]
    first.close()
    second.close()


def test_the_version_is_compared_under_the_write_lock(tmp_path: Path) -> None:
    """Sixty appends by two threads with their own connections: each version is won once."""
    import threading

    SqliteStore(tmp_path / "s.db").close()
    won: list[int] = []

    def run() -> None:
        # Longer than usual: a disk that stalls under the other thread is not the matter.
        store = SqliteStore(tmp_path / "s.db", busy_timeout_ms=60_000)
        while (version := store.version("log")) < 60:
            try:
                store.commit(Batch(appends=(("log", version, (str(version).encode(),)),)))
            except ResourceError as error:
                assert "stale version" in str(error)
            else:
                won.append(version)
        store.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(60))


def test_a_backup_is_a_whole_private_older_state(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.commit(Batch(appends=(("log", 0, (b"a",)),), blobs=(b"blob",)))
    store.back_up(tmp_path / "copy.db")
    store.commit(Batch(appends=(("log", 1, (b"b",)),)))
    with pytest.raises(ResourceError, match="cannot create"):
        store.back_up(tmp_path / "copy.db")
    store.close()
    copy = SqliteStore(tmp_path / "copy.db")
    assert copy.read("log") == [b"a"]
    copy.close()


def test_a_deleted_value_is_gone_from_the_closed_file(tmp_path: Path) -> None:
    value = b"something that was deleted" * 10
    store = SqliteStore(tmp_path / "s.db")
    store.commit(Batch(puts=(("key", value), ("other", b"stays"))))
    store.commit(Batch(deletes=("key",)))
    store.close()
    assert value not in (tmp_path / "s.db").read_bytes()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("busy", [False, True], ids=["closed", "in use"])
def test_a_reader_sees_everything_and_changes_nothing(tmp_path: Path, busy: bool) -> None:
    path = tmp_path / "s.db"
    large = b"l" * (SMALL_BLOB_BYTES + 1)
    store = SqliteStore(path)
    store.commit(
        Batch(appends=(("log", 0, (b"a", b"b")),), puts=(("key", b"v"),), blobs=(b"small", large))
    )
    if not busy:
        store.close()
    (tmp_path / "blobs" / "incoming").rmdir()
    before = contents(tmp_path)
    reader = SqliteStore(path, read_only=True)
    assert (reader.read("log"), reader.get("key")) == ([b"a", b"b"], b"v")
    assert [reader.blobs.get(sha256(one)) for one in (b"small", large)] == [b"small", large]
    with pytest.raises(ResourceError, match="cannot be written"):
        reader.commit(Batch(puts=(("key", b"w"),)))
    reader.close()
    after = contents(tmp_path)
    # The index of a write-ahead log in use holds the readers' marks, and no data.
    assert {file for file in before | after if before.get(file) != after.get(file)} <= {
        tmp_path / "s.db-shm"
    }
    store.close()


def test_a_reader_refuses_what_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with pytest.raises(ResourceError):
        SqliteStore(path, read_only=True)
    assert list(tmp_path.iterdir()) == []
    path.touch(0o600)
    with pytest.raises(ResourceError, match="empty database"):
        SqliteStore(path, read_only=True)
    path.unlink()
    fill(path)
    with pytest.raises(ResourceError, match="another program"):
        SqliteStore(path, read_only=True)


def _commit(store: SqliteStore, first: int, count: int) -> tuple[bytes, ...]:
    """Commit `count` records, one at a time; return all that the stream then has to hold."""
    for number in range(first, first + count):
        store.commit(Batch(appends=(("log", number, (b"%d" % number * 500,)),)))
    return tuple(b"%d" % number * 500 for number in range(first + count))


def test_the_log_is_extended_once_and_holds_what_was_committed(tmp_path: Path) -> None:
    """Read as it lies after a crash, with the rolled-back pages behind the committed ones."""
    store, log = SqliteStore(tmp_path / "s.db"), tmp_path / "s.db-wal"
    _commit(store, 0, _COMMITS_BEFORE_EXTENDING - 1)
    assert 0 < log.stat().st_size < 200_000
    held = _commit(store, _COMMITS_BEFORE_EXTENDING - 1, 1)
    extended = log.stat().st_size
    assert 0.9 * _LOG_BYTES < extended < 1.1 * _LOG_BYTES
    for more in (0, 3):
        held = _commit(store, len(held), more)
        assert log.stat().st_size == extended
        copy = tmp_path / f"copy-{more}.db"
        for end in ("", "-wal"):
            shutil.copy(f"{tmp_path / 's.db'}{end}", f"{copy}{end}")
        again = SqliteStore(copy)
        again.check()
        assert tuple(again.read("log")) == held
        assert again._database.connection.execute("SELECT count(*) FROM blobs").fetchone() == (0,)
        again.close()
    store.close()
    assert (tmp_path / "s.db").stat().st_size < 100_000


def test_the_log_starts_again_within_its_size(tmp_path: Path) -> None:
    store, log = SqliteStore(tmp_path / "s.db"), tmp_path / "s.db-wal"
    held = _commit(store, 0, _COMMITS_BEFORE_EXTENDING)
    extended = log.stat().st_size
    while len(held) < 1000:
        held = _commit(store, len(held), 100)
    assert log.stat().st_size < 1.2 * extended
    store.close()
    again = SqliteStore(tmp_path / "s.db")
    assert tuple(again.read("log")) == held
    again.close()


def test_a_disk_without_room_for_a_longer_log_stops_nothing(tmp_path: Path) -> None:
    store, log = SqliteStore(tmp_path / "s.db"), tmp_path / "s.db-wal"
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
    try:
        held = _commit(store, 0, _COMMITS_BEFORE_EXTENDING + 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert log.stat().st_size <= 1 << 20
    store.check()
    store.close()
    again = SqliteStore(tmp_path / "s.db")
    assert tuple(again.read("log")) == held
    again.close()


def test_where_room_is_short_no_more_is_taken_than_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = os.statvfs(tmp_path)
    monkeypatch.setattr(
        os,
        "statvfs",
        lambda _: SimpleNamespace(f_bavail=16_383, f_frsize=4096, f_bfree=room.f_bfree),
    )
    store = SqliteStore(tmp_path / "s.db")
    held = _commit(store, 0, _COMMITS_BEFORE_EXTENDING + 1)
    assert (tmp_path / "s.db-wal").stat().st_size < 200_000
    assert tuple(store.read("log")) == held
    store.close()


def test_damage_that_shows_when_the_log_is_extended_is_said_like_any_other(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    _commit(store, 0, 1)
    store._database.connection.execute("DROP TABLE blobs")
    store._database.connection.execute("CREATE TABLE blobs (digest, data CHECK (data IS NULL))")
    with pytest.raises(ResourceError, match=r"s\.db"):
        store._database.extend_log()
    assert not store._database.connection.in_transaction
    store.close()


def test_another_writer_is_waited_for_and_then_left_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", busy_timeout_ms=10)
    held, size = _commit(store, 0, 2), (tmp_path / "s.db-wal").stat().st_size
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._database.extend_log()
    assert (tmp_path / "s.db-wal").stat().st_size == size
    other.execute("ROLLBACK")
    other.close()
    assert tuple(store.read("log")) == held == _commit(store, 2, 0)
    store.close()
