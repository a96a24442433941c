"""Atomic files, private files and the published directory.

Planted faults that these tests caught: mode of the umask; key files overwritten;
too-open mode accepted; a differing tile accepted; a shrinking checkpoint
accepted; checkpoint written before the tiles; paths outside ``tile/``; pipes and
devices opened as files are.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from treaty.errors import ResourceError, UsageError
from treaty.stores.files import (
    make_directory,
    read_file,
    read_private_file,
    write_file,
    write_new_private_file,
    write_private_file,
)
from treaty.stores.tiles import PublicationDirectory


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"first")
    write_file(path, b"second")
    assert read_file(path) == b"second"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(ResourceError, match="larger than expected: at most 5 bytes"):
        read_file(path, limit=5)
    assert read_file(path, limit=6) == b"second"


def test_failures_of_the_system_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(b"")
    table: list[tuple[Callable[[], object], str]] = [
        (lambda: write_file(tmp_path / "no" / "file", b""), "create its directory first"),
        (lambda: write_file(tmp_path / "directory", b""), "is a directory"),
        (lambda: read_file(tmp_path / "missing"), "does not exist"),
        (lambda: read_private_file(tmp_path / "missing"), "does not exist"),
        (lambda: make_directory(tmp_path / "file" / "below"), "is a file, expected a directory"),
    ]
    for call, remedy in table:
        with pytest.raises(ResourceError, match=remedy):
            call()
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]


@pytest.mark.timeout(10)
def test_a_pipe_or_device_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe without a writer would be waited for, and a device may never end."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ResourceError, match="expected a file, got a pipe or a device"):
            read_file(path)
    with pytest.raises(ResourceError, match="is not a regular file"):
        read_private_file(tmp_path / "pipe")


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = os.umask(0)
    try:
        write_new_private_file(path, b"seed")
        write_private_file(tmp_path / "other", b"seed")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ResourceError, match="exists already"):
        write_new_private_file(path, b"another seed")
    assert read_private_file(path) == b"seed"
    assert sorted(os.listdir(tmp_path)) == ["key", "other"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_new_private_file(path, b"very secret seed")
    path.chmod(mode)
    with pytest.raises(ResourceError, match=f"mode {mode:04o}, expected 0600.*chmod 600") as caught:
        read_private_file(path)
    assert "very secret seed" not in str(caught.value)
    path.chmod(0o400)
    assert read_private_file(path) == b"very secret seed"


def test_a_key_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="not a regular file"):
        read_private_file(tmp_path)


def note(size: int | str, root: str = "root") -> bytes:
    return f"log.example\n{size}\n{root}\n".encode()


def test_tiles_and_checkpoint_are_published_and_repeated(tmp_path: Path) -> None:
    log = PublicationDirectory(tmp_path / "public" / "log")
    assert log.checkpoint() is None
    tiles = {"tile/0/000.p/3": b"a", "tile/entries/x001/x234/067": b"b", "tile/1/255": b"c"}
    for _ in range(2):
        log.publish(tiles, note(3))
    assert log.checkpoint() == note(3)
    assert {path: log.read(path) for path in tiles} == tiles
    stored = [p for p in (tmp_path / "public").rglob("*") if p.is_file()]
    assert len(stored) == 4
    assert {p.stat().st_mode & 0o777 for p in stored} == {0o644}


def test_a_published_tile_never_changes(tmp_path: Path) -> None:
    log = PublicationDirectory(tmp_path)
    log.publish({"tile/0/000": b"a"}, note(256))
    with pytest.raises(ResourceError, match=r"tile/0/000 differs from the log.*never changes"):
        log.publish({"tile/0/000": b"b", "tile/0/001": b"c"}, note(512))
    assert log.checkpoint() == note(256) and log.read("tile/0/000") == b"a"


def test_the_published_size_never_shrinks(tmp_path: Path) -> None:
    log = PublicationDirectory(tmp_path)
    log.publish({}, note(10))
    log.publish({}, note(10, "more cosignatures"))
    with pytest.raises(ResourceError, match=r"size 10, got a checkpoint of size 9.*older state"):
        log.publish({"tile/0/000.p/9": b"x"}, note(9))
    assert log.checkpoint() == note(10, "more cosignatures")
    assert not (tmp_path / "tile").exists()


@pytest.mark.parametrize(
    "path",
    ["", "checkpoint", "tile/../x", "/tile/0/000", "tile/0/0", "tile/0/000/../../../x",
     "tile/0/x00/000", "tile/0/000.p/1/2", "tile/0/000\n", "tile/100/000", "tile/data/000"],
)  # fmt: skip
def test_only_paths_of_tiles_are_written(tmp_path: Path, path: str) -> None:
    log = PublicationDirectory(tmp_path / "log")
    with pytest.raises(UsageError, match="expected tile/"):
        log.publish({path: b"x"}, note(1))
    with pytest.raises(UsageError, match="expected tile/"):
        log.read(path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "log"]


@pytest.mark.parametrize("size", ["", "01", "-1", "1.0", "x", "9" * 17])
def test_what_is_no_checkpoint_is_not_published(tmp_path: Path, size: str) -> None:
    log = PublicationDirectory(tmp_path)
    with pytest.raises(UsageError, match="origin and its size"):
        log.publish({}, note(size))
    (tmp_path / "checkpoint").write_bytes(note(size))
    with pytest.raises(ResourceError, match="is not a checkpoint: restore it"):
        log.publish({}, note(1))
