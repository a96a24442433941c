"""A process ends between any two calls that change the disk, or in the middle of a write.

Inside one durable write the kill points see nothing. Here every call of the system that changes
something is counted; at one of them the process is over: that call does nothing, or half of what
it was to write, and no later one does anything, not even in a ``finally``. Whoever opens the
directory next finds each secret under its old or its new bytes, or not at all where it was new or
to be erased, and nothing else of it on the disk.

Found by this test when it was written: secrets written together were erased before the new ones
stood, and so was a packed one that was written alone; an end in between, or a full disk, lost both.

Planted and caught: older values erased before the new pack takes its name; two packs of one number;
a pack that is read in the order of the directory; a file that lives beside a newer pack; an erased
region that hides the file written after it; a packed value that is replaced by a file; a pack that
is erased before the older file beside it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from treaty.errors import ResourceError
from treaty.stores.files import write_file, write_private_file
from treaty.stores.secret_files import SecretDirectory

TORN = ("write", "pwrite")
CHANGING = (*TORN, "replace", "link", "unlink", "fsync", "fdatasync", "ftruncate")
OLD = bytes(range(1, 33))
NEW = bytes(range(101, 133))
LONGER = bytes(range(101, 141))


@dataclass(frozen=True)
class End:
    """A directory after an end at the call `at`; None where nothing ended."""

    place: Path
    at: str | None


class Ended(BaseException):
    """The process is over. Nothing of a store may act on it."""


def every_end(attempt: Callable[[Path], Callable[[], None]], root: Path) -> Iterator[End]:
    """Do what `attempt` prepares in a new directory, with an end at each of its calls in turn.

    Yields every end, in order, and last the run that went on to its own end.
    """
    at = 0
    while True:
        at += 1
        for torn in (False, True):
            place = root / f"{at}-{torn}"
            do = attempt(place)
            call = _ended(do, at, torn=torn)
            if not torn or call in TORN:
                yield End(place, call)
            if call is None:
                return


def _ended(do: Callable[[], None], at: int, *, torn: bool) -> str | None:
    """Do it, and end at the call number `at`, from 1; return the call's name, None if not met."""
    called: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, _counted(getattr(os, name), name, called, at, torn=torn))
        try:
            do()
        except Ended:
            return called[at - 1]
    return None


def _counted(
    real: Callable[..., object], name: str, called: list[str], at: int, *, torn: bool
) -> Callable[..., object]:
    def call(*values: object, **options: object) -> object:
        called.append(name)
        if len(called) < at:
            return real(*values, **options)
        if len(called) == at and torn and name in TORN:
            handle, data, *rest = values
            assert isinstance(data, bytes | memoryview)
            real(handle, data[: len(data) // 2], *rest)
        raise Ended

    return call


def in_one_pack(secrets: SecretDirectory) -> None:
    secrets.write_all({"one": OLD, "two": OLD})


def alone(secrets: SecretDirectory) -> None:
    secrets.write("one", OLD)
    secrets.write("two", OLD)


def in_two_packs(secrets: SecretDirectory) -> None:
    secrets.write_all({"zero": OLD, "one": OLD})
    secrets.write_all({"two": OLD, "three": OLD})


def alone_beside_an_erased_one(secrets: SecretDirectory) -> None:
    secrets.write_all({"one": LONGER, "two": OLD})
    secrets.erase("one")
    secrets.write("one", OLD)


def none(secrets: SecretDirectory) -> None:
    """Nothing is stored yet."""


BEFORE = (none, alone, in_one_pack, in_two_packs, alone_beside_an_erased_one)
Writing = Callable[[SecretDirectory], None]
WRITINGS: dict[str, tuple[Writing, dict[str, bytes]]] = {
    "one alone": (lambda s: s.write("one", NEW), {"one": NEW}),
    "both together": (
        lambda s: s.write_all({"one": NEW, "two": NEW}),
        {"one": NEW, "two": NEW},
    ),
    "both together, longer": (
        lambda s: s.write_all({"one": LONGER, "two": NEW}),
        {"one": LONGER, "two": NEW},
    ),
    "one in a pack": (lambda s: s.write_all({"one": NEW}), {"one": NEW}),
}


def value(secrets: SecretDirectory, name: str) -> bytes | None:
    """Return a secret, None where it is missing, or was cut off in the middle of its erasure."""
    try:
        return secrets.read(name)
    except ResourceError:
        return None


def on_the_disk(place: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(place.iterdir()))


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("writing", WRITINGS)
def test_a_secret_is_old_or_new_wherever_the_process_ends(
    tmp_path: Path, before: Writing, writing: str
) -> None:
    write, new = WRITINGS[writing]
    old: dict[str, bytes] = {}

    def attempt(place: Path) -> Callable[[], None]:
        secrets = SecretDirectory(place)
        before(secrets)
        old.update({name: secrets.read(name) for name in secrets.names()})
        return lambda: write(secrets)

    ends = 0
    for end in every_end(attempt, tmp_path):
        ends += 1
        again = SecretDirectory(end.place)
        found = {name: again.read(name) for name in again.names()}
        # Those that are written together are all there or none is.
        assert found == old | new or (end.at and found == old), (end, found)
        left = on_the_disk(end.place)
        for data in {OLD, NEW, LONGER} - set(found.values()):
            assert data[-16:] not in left, (end, found)
        # And it can be written and erased as if nothing had happened.
        again.write_all({"one": LONGER, "two": OLD})
        assert (again.read("one"), again.read("two")) == (LONGER, OLD)
        for name in again.names():
            again.erase(name)
        assert list(end.place.iterdir()) == []
    assert ends > 4


@pytest.mark.parametrize("before", BEFORE[1:])
def test_an_erased_secret_never_comes_back_once_its_erasure_has_begun(
    tmp_path: Path, before: Writing
) -> None:
    """As it was, or not readable at all; and what the next life erases is gone."""
    others: dict[str, bytes] = {}

    def attempt(place: Path) -> Callable[[], None]:
        secrets = SecretDirectory(place)
        before(secrets)
        others.update({name: secrets.read(name) for name in secrets.names() if name != "one"})
        return lambda: secrets.erase("one")

    for end in every_end(attempt, tmp_path):
        again = SecretDirectory(end.place)
        assert value(again, "one") in ((OLD, None) if end.at else (None,)), end
        again.erase("one")
        assert {name: again.read(name) for name in again.names()} == others


def test_a_replaced_secret_never_lives_again(tmp_path: Path) -> None:
    """Its file could not be overwritten when a pack took its place; then both are erased."""

    def attempt(place: Path) -> Callable[[], None]:
        secrets = SecretDirectory(place)
        secrets.write("one", OLD)
        stays = (place / "one").read_bytes()
        secrets.write_all({"one": NEW})
        write_private_file(place / "one", stays)
        return lambda: secrets.erase("one")

    for end in every_end(attempt, tmp_path):
        found = value(SecretDirectory(end.place), "one")
        assert found in ((NEW, None) if end.at else (None,)), end


def test_a_file_is_old_or_new_wherever_the_process_ends(tmp_path: Path) -> None:
    def attempt(place: Path) -> Callable[[], None]:
        place.mkdir()
        write_file(place / "file", OLD)
        return lambda: write_file(place / "file", NEW)

    ends = list(every_end(attempt, tmp_path))
    assert len(ends) > 4 and "replace" in {end.at for end in ends}
    for end in ends:
        assert (end.place / "file").read_bytes() in ((OLD, NEW) if end.at else (NEW,)), end
