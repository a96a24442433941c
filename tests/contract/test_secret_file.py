"""One suite for `treaty.ports.SecretFile`, run on every implementation.

Planted faults that these tests caught: erase without overwriting; overwrite of a
value that leaves the old bytes; a half erased file read as a key of zeros; a
leftover hard link wiped together with the living value; names with a path, given one by one, in
a row or by a pack; a pack whose regions do not fill it; a secret too large to be read again; a
region of a pack read by others.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from treaty.crypto import canonical
from treaty.errors import ResourceError, UsageError
from treaty.ports import SecretFile
from treaty.stores.memory import MemorySecrets
from treaty.stores.secret_files import SecretDirectory

SECRET = bytes(range(1, 33))


@pytest.fixture(params=["memory", "directory"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> SecretFile:
    return MemorySecrets() if request.param == "memory" else SecretDirectory(tmp_path / "epoch-1")


def test_a_secret_comes_back_until_it_is_erased(secrets: SecretFile) -> None:
    secrets.write("slot-2", SECRET)
    secrets.write("slot-1", b"")
    assert secrets.names() == ("slot-1", "slot-2")
    assert secrets.read("slot-2") == SECRET
    assert secrets.read("slot-1") == b""
    secrets.write("slot-2", b"another")
    assert secrets.read("slot-2") == b"another"
    secrets.erase("slot-2")
    secrets.erase("slot-2")
    assert secrets.names() == ("slot-1",)
    with pytest.raises(ResourceError, match="never written or is erased"):
        secrets.read("slot-2")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "A", "-a", ".a", "a" * 129, "a\n"])
def test_a_name_cannot_leave_the_directory(secrets: SecretFile, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: secrets.write(name, SECRET),
        lambda: secrets.write_all({"slot": SECRET, name: SECRET}),
        lambda: secrets.read(name),
        lambda: secrets.erase(name),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="secret name"):
            call()
    assert secrets.names() == ()


def test_no_secret_shows_in_a_repr(secrets: SecretFile) -> None:
    secrets.write("slot-1", SECRET)
    assert SECRET.hex() not in repr(secrets) and repr(SECRET) not in repr(secrets)


def test_erasing_zeroes_the_bytes_on_the_disk(tmp_path: Path) -> None:
    secrets = SecretDirectory(tmp_path / "epoch-1")
    ways: list[Callable[[], None]] = [
        lambda: secrets.erase("slot"),
        lambda: secrets.write("slot", b"new value"),
    ]
    for erase in ways:
        secrets.write("slot", SECRET)
        witness = os.open(tmp_path / "epoch-1" / "slot", os.O_RDONLY)
        erase()
        assert os.read(witness, 1000) == bytes(64)
        os.close(witness)


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 63])
def test_a_half_erased_secret_is_never_read_as_a_key(tmp_path: Path, kept: int) -> None:
    secrets = SecretDirectory(tmp_path / "epoch-1")
    secrets.write("slot", SECRET)
    path = tmp_path / "epoch-1" / "slot"
    whole = path.read_bytes()
    for damaged in (whole[:kept], whole[:kept] + bytes(64 - kept), bytes(64 - kept) + whole[:kept]):
        path.write_bytes(damaged)
        with pytest.raises(ResourceError, match="damaged or half erased"):
            secrets.read("slot")
    secrets.erase("slot")
    assert secrets.names() == ()


def test_opening_erases_what_an_interrupted_write_left(tmp_path: Path) -> None:
    directory = tmp_path / "epoch-1"
    secrets = SecretDirectory(directory)
    secrets.write("live", SECRET)
    os.link(directory / "live", directory / ".outdated-live")
    for leftover in (".incoming-live", ".outdated-gone", ".incoming-new"):
        (directory / leftover).write_bytes(SECRET)
    witness = os.open(directory / ".outdated-gone", os.O_RDONLY)
    again = SecretDirectory(directory)
    assert sorted(os.listdir(directory)) == ["live"]
    assert again.read("live") == SECRET
    assert os.read(witness, 1000) == bytes(32)
    os.close(witness)


def test_secrets_open_to_others_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "epoch-1"
    secrets = SecretDirectory(directory)
    secrets.write("slot", SECRET)
    assert (directory / "slot").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    (directory / "slot").chmod(0o640)
    with pytest.raises(ResourceError, match=r"mode 0640, expected 0600.*chmod 600"):
        secrets.read("slot")
    directory.chmod(0o755)
    with pytest.raises(ResourceError, match="mode 0755, expected 0700: run chmod 700"):
        SecretDirectory(directory)


def test_secrets_written_together_are_read_and_erased_one_by_one(secrets: SecretFile) -> None:
    secrets.write("slot-1", b"older")
    secrets.write_all({"slot-1": SECRET, "slot-2": b"second", "slot-3": b""})
    assert secrets.names() == ("slot-1", "slot-2", "slot-3")
    assert (secrets.read("slot-1"), secrets.read("slot-3")) == (SECRET, b"")
    secrets.erase("slot-1")
    secrets.write("slot-2", b"replaced")
    assert secrets.read("slot-2") == b"replaced"
    assert secrets.names() == ("slot-2", "slot-3")
    with pytest.raises(ResourceError):
        secrets.read("slot-1")


def test_a_pack_leaves_nothing_of_an_erased_secret_and_survives_a_restart(tmp_path: Path) -> None:
    first = SecretDirectory(tmp_path / "s")
    first.write_all({"a": b"secret-a" * 4, "b": b"secret-b" * 4})
    first.erase("a")
    again = SecretDirectory(tmp_path / "s")
    assert again.names() == ("b",)
    assert again.read("b") == b"secret-b" * 4
    kept = b"".join(path.read_bytes() for path in (tmp_path / "s").iterdir())
    assert b"secret-a" not in kept
    again.erase("b")
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize("name", ["../other", "..", "", ".pack-000009", "a/b"])
def test_a_pack_cannot_name_what_lies_outside_its_directory(tmp_path: Path, name: str) -> None:
    """Names in a pack lead to files that are overwritten: nothing is touched before they hold."""
    other = tmp_path / "other"
    other.write_bytes(b"a key of somebody else")
    pack(tmp_path / "s", [(name, 40)], b"x" * 40)
    with pytest.raises(ResourceError, match="damaged: remove it"):
        SecretDirectory(tmp_path / "s")
    assert other.read_bytes() == b"a key of somebody else"


@pytest.mark.parametrize(
    ("lengths", "size"),
    [((-40,), 40), ((80, -40), 40), ((31,), 31), ((40,), 39), ((40,), 41), ((40, 40), 40), ((), 0)],
)
def test_a_pack_is_filled_by_its_secrets(
    tmp_path: Path, lengths: tuple[int, ...], size: int
) -> None:
    header = [(f"slot-{at}", length) for at, length in enumerate(lengths)]
    pack(tmp_path / "s", header, b"x" * size)
    with pytest.raises(ResourceError, match="damaged: remove it"):
        SecretDirectory(tmp_path / "s")


def pack(directory: Path, header: list[tuple[str, int]], records: bytes) -> None:
    """Write a pack that the store itself would not have written."""
    SecretDirectory(directory)
    data = canonical.encode(header)
    path = directory / ".pack-000001"
    path.write_bytes(len(data).to_bytes(4, "big") + data + records)
    path.chmod(0o600)


def test_a_secret_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """64 MiB alone or together, and no more; what stood before stands."""
    secrets = SecretDirectory(tmp_path / "s")
    secrets.write("slot", SECRET)
    half = bytes(32 << 20)
    with pytest.raises(UsageError, match="expected at most"):
        secrets.write("slot", half + half + b"x")
    with pytest.raises(UsageError, match="expected at most"):
        secrets.write_all({"slot": half, "other": half + b"x"})
    assert secrets.names() == ("slot",)
    assert secrets.read("slot") == SECRET


def test_a_pack_open_to_others_is_not_read(tmp_path: Path) -> None:
    secrets = SecretDirectory(tmp_path / "s")
    secrets.write_all({"slot": SECRET})
    (path,) = (tmp_path / "s").iterdir()
    path.chmod(0o644)
    with pytest.raises(ResourceError, match=r"mode 0644, expected 0600.*chmod 600"):
        secrets.read("slot")
