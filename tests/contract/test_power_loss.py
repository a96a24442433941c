"""A loss of power, modelled: only what was synced stands (`tests.disk_model`).

The killed processes of `tests/crash` cannot show this: what the operating system took survives
them. What a store returned for must stand on the disk, with its name and its directory's; of an
erased secret no byte may stand behind any name, nor behind one at the moment when it was removed.

Planted, each two neighbouring steps exchanged or one left out, and caught: a file's content not
synced before it gets its name; a directory synced before a name is in it, for files, secrets and
packs; a new directory's parent synced before; a secret's zeros synced before they are written,
alone and in a pack; its name removed before the zeros are written, or before they are synced; a
pack removed before its last region is overwritten, or at the next opening without that; a new value
that takes the name before the old one has a second.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disk_model import Disk
from treaty.stores.files import make_directory, write_file, write_new_private_file
from treaty.stores.secret_files import SecretDirectory

SECRET = bytes(range(1, 33))
OTHER = bytes(range(101, 133))


def test_a_written_file_stands_with_its_name_and_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    place = tmp_path / "a" / "b"
    make_directory(place)
    assert "b" in disk.names[(tmp_path / "a").stat().st_ino]
    for data in (b"old", b"new"):
        write_file(place / "file", data)
        assert disk.after_power_loss(place / "file") == data
    write_new_private_file(place / "key", b"key")
    assert disk.after_power_loss(place / "key") == b"key"


def test_a_secret_that_was_written_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    place = tmp_path / "secrets"
    secrets = SecretDirectory(place)
    secrets.write("alone", SECRET)
    assert (disk.after_power_loss(place / "alone") or b"").startswith(SECRET)
    secrets.write_all({"first": OTHER, "second": SECRET})
    [pack] = [path for path in place.iterdir() if path.name.startswith(".pack")]
    stands = disk.after_power_loss(pack) or b""
    assert OTHER in stands and SECRET in stands


ERASURES: dict[str, Callable[[SecretDirectory], None]] = {
    "erased": lambda secrets: secrets.erase("one"),
    "replaced alone": lambda secrets: secrets.write("one", OTHER),
    "replaced in a pack": lambda secrets: secrets.write_all({"one": OTHER, "two": OTHER}),
}


@pytest.mark.parametrize("erasure", ERASURES)
@pytest.mark.parametrize("packed", [[], ["one"], ["one", "three"]], ids=str)
def test_of_an_erased_secret_no_byte_stands_behind_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: list[str], erasure: str
) -> None:
    """Also where the name comes back, because its removal was not yet on the disk."""
    disk = Disk(monkeypatch)
    secrets = SecretDirectory(tmp_path / "secrets")
    if packed:
        secrets.write_all({name: SECRET if name == "one" else OTHER for name in packed})
    else:
        secrets.write("one", SECRET)
    assert disk.holds(SECRET)
    ERASURES[erasure](secrets)
    assert not disk.holds(SECRET)
    assert set(secrets.names()) >= set(packed) - {"one"}


def test_opening_leaves_nothing_of_an_interrupted_write_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    place = tmp_path / "secrets"
    SecretDirectory(place).write("one", OTHER)
    write_new_private_file(place / ".incoming-one", SECRET)
    assert disk.holds(SECRET)
    assert SecretDirectory(place).read("one") == OTHER
    assert not disk.holds(SECRET)


def test_opening_overwrites_what_a_newer_pack_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended when the new pack stood, before it came to overwrite the old one."""
    disk = Disk(monkeypatch)
    place = tmp_path / "secrets"
    SecretDirectory(place).write_all({"one": SECRET, "two": SECRET})
    [pack] = place.iterdir()
    before = pack.read_bytes()
    SecretDirectory(place).write_all({"one": OTHER, "two": OTHER})
    write_new_private_file(pack, before)
    assert disk.holds(SECRET)
    again = SecretDirectory(place)
    assert (again.read("one"), again.read("two")) == (OTHER, OTHER)
    assert not disk.holds(SECRET)
