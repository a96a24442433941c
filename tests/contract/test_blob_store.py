"""One suite for `treaty.ports.BlobStore`, run on every implementation.

Planted faults that these tests caught: content not compared with its name on
`get`; `chunks` handing out pieces before checking; a put that trusts a damaged
copy; `delete` of one place only; a failing iterable that leaves an object.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.ports import BlobStore
from treaty.stores.blobs import CHUNK_BYTES, BlobDirectory
from treaty.stores.memory import MemoryBlobs
from treaty.stores.sqlite import SMALL_BLOB_BYTES, SqliteStore

SIZES = (0, 1, SMALL_BLOB_BYTES, SMALL_BLOB_BYTES + 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 3)


def content(size: int) -> bytes:
    return (b"0123456789abcdef!" * (size // 17 + 1))[:size]


POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture(params=["memory", "directory", "sqlite", POSTGRES])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    match request.param:
        case "memory":
            yield MemoryBlobs()
        case "directory":
            yield BlobDirectory(tmp_path / "blobs")
        case "postgres":
            from treaty.stores.postgres import PostgresStore

            server = request.getfixturevalue("postgres")
            shared = PostgresStore(server.address(server.database()))
            yield shared.blobs
            shared.close()
        case _:
            store = SqliteStore(tmp_path / "s.db")
            yield store.blobs
            store.close()


@pytest.mark.parametrize("size", SIZES)
def test_an_object_comes_back_by_its_digest(blobs: BlobStore, size: int) -> None:
    data = content(size)
    digest = blobs.put(data)
    assert digest == sha256(data) == blobs.put(data)
    assert blobs.has(digest)
    assert blobs.get(digest) == data
    pieces = list(blobs.chunks(digest))
    assert b"".join(pieces) == data
    assert max(map(len, pieces), default=0) <= CHUNK_BYTES
    blobs.delete(digest)
    blobs.delete(digest)
    assert not blobs.has(digest)


@pytest.mark.parametrize("size", SIZES)
def test_pieces_make_the_same_object_as_the_whole(blobs: BlobStore, size: int) -> None:
    data = content(size)
    digest = blobs.put_chunks(data[at : at + 65_000] for at in range(0, size, 65_000))
    assert digest == sha256(data) == blobs.put(data)
    assert blobs.get(digest) == data == b"".join(blobs.chunks(digest))
    blobs.delete(digest)
    assert not blobs.has(digest)


def test_a_missing_object_is_said_to_be_missing(blobs: BlobStore) -> None:
    digest = sha256(b"never stored")
    calls: list[Callable[[], object]] = [lambda: blobs.get(digest), lambda: blobs.chunks(digest)]
    for call in calls:
        with pytest.raises(ResourceError, match=f"blob {digest} is not stored here: fetch it"):
            call()


@pytest.mark.parametrize("name", ["", "../" * 21 + "x", "A" * 64, "a" * 63, "a" * 65])
def test_a_name_that_is_no_digest_reaches_no_file(blobs: BlobStore, name: str) -> None:
    digest = Digest(name)
    calls: list[Callable[[], object]] = [
        lambda: blobs.get(digest),
        lambda: blobs.has(digest),
        lambda: blobs.delete(digest),
        lambda: blobs.chunks(digest),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="64 lower-case hexadecimal"):
            call()


def test_an_iterable_that_fails_stores_nothing(blobs: BlobStore) -> None:
    def failing() -> Iterator[bytes]:
        yield b"first"
        raise VerificationError("the peer sent something else")

    with pytest.raises(VerificationError, match="something else"):
        blobs.put_chunks(failing())
    assert not blobs.has(sha256(b"first"))


@pytest.mark.parametrize("kind", ["directory", "sqlite"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "zeros"])
def test_a_damaged_file_is_refused_and_a_new_put_mends_it(
    tmp_path: Path, kind: str, damage: str
) -> None:
    data = content(2 * SMALL_BLOB_BYTES)
    store = SqliteStore(tmp_path / "s.db") if kind == "sqlite" else None
    blobs: BlobStore = store.blobs if store else BlobDirectory(tmp_path / "blobs")
    digest = blobs.put(data)
    damaged = {
        "flip": bytes([data[0] ^ 1]) + data[1:],
        "truncate": data[:-1],
        "empty": b"",
        "zeros": bytes(len(data)),
    }[damage]
    (tmp_path / "blobs" / digest[:2] / digest).write_bytes(damaged)
    for call in (lambda: blobs.get(digest), lambda: blobs.chunks(digest)):
        with pytest.raises(VerificationError, match="fetch it again") as caught:
            call()
        assert caught.value.code == "blob-mismatch"
    assert blobs.put(data) == digest
    assert blobs.get(digest) == data
    if store:
        store.close()


def test_a_damaged_row_is_refused_and_a_new_put_mends_it(tmp_path: Path) -> None:
    import sqlite3

    store = SqliteStore(tmp_path / "s.db")
    digest = store.blobs.put(b"small")
    raw = sqlite3.connect(tmp_path / "s.db")
    raw.execute("UPDATE blobs SET data = x'00'")
    raw.commit()
    raw.close()
    for call in (lambda: store.blobs.get(digest), lambda: store.blobs.chunks(digest)):
        with pytest.raises(VerificationError, match="fetch it again"):
            call()
    store.blobs.put(b"small")
    assert store.blobs.get(digest) == b"small"
    store.close()


def test_leftovers_of_a_killed_write_vanish_after_an_hour(tmp_path: Path) -> None:
    import os

    incoming = tmp_path / "blobs" / "incoming"
    BlobDirectory(tmp_path / "blobs")
    old, fresh = incoming / "1-0", incoming / "2-0"
    for leftover in (old, fresh):
        leftover.write_bytes(b"partial")
    os.utime(old, (0, 0))
    BlobDirectory(tmp_path / "blobs")
    assert not old.exists() and fresh.exists()


def test_blob_files_are_private(tmp_path: Path) -> None:
    digest = BlobDirectory(tmp_path / "blobs").put(b"data")
    assert (tmp_path / "blobs" / digest[:2] / digest).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "blobs").stat().st_mode & 0o777 == 0o700
