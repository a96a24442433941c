"""Secret files: slot seeds and key shares, in small files, erased after use.

Secrets that are written together (`write_all`: an epoch's slots) share one file, a *pack*; each has
its own region, which is overwritten when that secret is erased. Packs are numbered: of two values
of one name that in the newer pack lives, and one in a pack before one in a file of its own.

Guarantees: mode 0600 in a directory of mode 0700, outside the database, so that
neither its write-ahead log nor its backups ever hold a secret. A value ends with
its SHA-256: a file that was torn, or half erased when the machine stopped, reads
as damaged and never as a key made of zeros. Erasing overwrites with zeros, makes
that durable, and only then removes the name; if the loss of power brings the name back,
it names zeros. An older value that is replaced, or left by an interrupted write, is
erased the same way, and only once the new one stands: wherever a process ends, one of the two does.

LIMIT: on solid-state disks, copy-on-write file systems and snapshots the zeros
may go to other cells than the secret. Put the directory on an encrypted or
memory-backed file system, and keep it out of backups (docs/spec/storage.md).
"""

import os
from collections.abc import Mapping
from pathlib import Path

from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.errors import FormatError, ResourceError, UsageError
from treaty.stores.files import (
    check_private,
    fill_file,
    make_directory,
    os_errors,
    read_private_file,
    sync_directory,
    write_all,
)
from treaty.stores.kill_points import persist_point

__all__ = ["SecretDirectory", "check_secret_name", "missing_secret"]

_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")
_LIMIT_BYTES = 64 << 20
_INCOMING = ".incoming"
_OUTDATED = ".outdated"
_PACK = ".pack"
_DIGEST_BYTES = 32
_HEADER_LENGTH_BYTES = 4

_Region = tuple[Path, int, int]
"""A pack, and where in it a secret begins and how many bytes it has."""


def check_secret_name(name: str) -> None:
    """Refuse a name that could leave the directory or meet our own leftovers."""
    if not 1 <= len(name) <= 128 or not _ALPHABET.issuperset(name) or name[0] in ".-_":
        raise UsageError(
            f"secret name {name!r}: expected 1 to 128 of a-z 0-9 . - _, "
            "starting with a letter or digit"
        )


def missing_secret(name: str) -> ResourceError:
    """Return the error for a secret that was never written or is erased."""
    return ResourceError(f"secret {name!r} is not stored: it was never written or is erased")


class SecretDirectory:
    """A `SecretFile` in a directory (one per epoch), created if missing.

    Opening it erases what an interrupted write left behind.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_directory(directory)
        with os_errors(directory, "open"):
            mode = directory.stat().st_mode & 0o777
            if mode & 0o077:
                raise ResourceError(
                    f"{directory} has mode {mode:04o}, expected 0700: run chmod 700 {directory}"
                )
            hidden = [path for path in directory.iterdir() if path.name.startswith(".")]
        self._packed: dict[str, _Region] = {}
        packs = {path: _pack_number(path) for path in hidden if path.name.startswith(_PACK)}
        self._last_pack = max(packs.values(), default=0)
        for path in hidden:
            if path not in packs:
                self._retire(path)
        seen: set[str] = set()
        for path in sorted(packs, key=lambda path: packs[path], reverse=True):
            self._open_pack(path, seen)
        for name in self._packed:
            self._wipe(self._directory / name)

    def write(self, name: str, data: bytes) -> None:
        """See `treaty.ports.SecretFile.write`. Persist point ``secret-write``."""
        check_secret_name(name)
        if len(data) > _LIMIT_BYTES:
            raise UsageError(f"secret of {len(data)} bytes, expected at most {_LIMIT_BYTES}")
        if name in self._packed:
            # A file of its own would not count beside a pack that holds the older value.
            self.write_all({name: data})
            return
        path = self._directory / name
        incoming = self._directory / f"{_INCOMING}-{name}"
        outdated = self._directory / f"{_OUTDATED}-{name}"
        with persist_point("secret-write"):
            try:
                fill_file(incoming, (data, bytes.fromhex(sha256(data))))
                self._retire(outdated)
                with os_errors(path, "write"):
                    # A second name keeps the old value within reach, so that it
                    # can still be overwritten after the new one took its name.
                    if path.exists():
                        os.link(path, outdated)
                    os.replace(incoming, path)
                    sync_directory(self._directory)
            finally:
                self._wipe(incoming)
                self._retire(outdated)

    def write_all(self, items: Mapping[str, bytes]) -> None:
        """See `treaty.ports.SecretFile.write_all`. Persist point ``secret-write``."""
        for name in items:
            check_secret_name(name)
        size = sum(map(len, items.values()))
        if size > _LIMIT_BYTES:
            raise UsageError(f"secrets of {size} bytes, expected at most {_LIMIT_BYTES}")
        if not items:
            return
        records = [data + bytes.fromhex(sha256(data)) for data in items.values()]
        lengths = dict(zip(items, map(len, records), strict=True))
        header = canonical.encode([[name, length] for name, length in lengths.items()])
        # Taken also if this fails: it may stand, and must be overwritten before its name is reused.
        number = self._last_pack = self._last_pack + 1
        path = self._directory / f"{_PACK}-{number:06d}"
        incoming = self._directory / f"{_INCOMING}-{number:06d}"
        length = len(header).to_bytes(_HEADER_LENGTH_BYTES, "big")
        with persist_point("secret-write"):
            try:
                fill_file(incoming, (length, header, *records))
                with os_errors(path, "write"):
                    os.replace(incoming, path)
                    sync_directory(self._directory)
            finally:
                self._wipe(incoming)
            older = [self._packed[name] for name in items if name in self._packed]
            self._packed |= _regions(path, lengths, _HEADER_LENGTH_BYTES + len(header))
            for region in older:
                self._overwrite(region)
            for pack, _, _ in older:
                self._drop_empty(pack)
            for name in items:
                if self._stands_alone(name):
                    self._wipe(self._directory / name)

    def read(self, name: str) -> bytes:
        """See `treaty.ports.SecretFile.read`."""
        check_secret_name(name)
        if name in self._packed:
            stored = self._region(*self._packed[name])
        elif (path := self._directory / name).exists():
            stored = read_private_file(path, _LIMIT_BYTES + _DIGEST_BYTES)
        else:
            raise missing_secret(name)
        data, check = stored[:-_DIGEST_BYTES], stored[-_DIGEST_BYTES:]
        if len(stored) < _DIGEST_BYTES or bytes.fromhex(sha256(data)) != check:
            raise ResourceError(
                f"secret {name!r} is damaged or half erased: erase it and close its slot"
            )
        return data

    def erase(self, name: str) -> None:
        """See `treaty.ports.SecretFile.erase`. Persist point ``secret-erase``."""
        check_secret_name(name)
        alone = self._stands_alone(name)
        if name not in self._packed and not alone:
            return
        with persist_point("secret-erase"):
            # The file first: beside a pack it holds an older value, which must not live again.
            if alone:
                self._wipe(self._directory / name)
            if name in self._packed:
                self._overwrite(self._packed[name])
                pack, _, _ = self._packed.pop(name)
                self._drop_empty(pack)

    def names(self) -> tuple[str, ...]:
        """See `treaty.ports.SecretFile.names`."""
        with os_errors(self._directory, "list"):
            found = [path.name for path in self._directory.iterdir()]
        alone = {name for name in found if not name.startswith(".")}
        return tuple(sorted(alone | set(self._packed)))

    def _stands_alone(self, name: str) -> bool:
        """Say whether `name` has a file of its own."""
        return os.path.lexists(f"{self._directory}/{name}")

    def _open_pack(self, path: Path, seen: set[str]) -> None:
        """Index a pack of an earlier life, the newer ones before it; add its names to `seen`.

        Regions that are all zeros are erased already; those that a newer pack replaced are now.
        """
        whole = read_private_file(path, _LIMIT_BYTES + (1 << 20))
        size = int.from_bytes(whole[:_HEADER_LENGTH_BYTES], "big")
        body = whole[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + size]
        try:
            header = canonical.decode(body, list[tuple[str, int]])
            # Prevents a pack that was written by something else from having files of another
            # directory wiped: each name that it holds is looked for beside it, and overwritten.
            for name, _ in header:
                check_secret_name(name)
        except (FormatError, UsageError) as error:
            raise ResourceError(
                f"{path} is damaged: remove it and let its epoch end ({error})"
            ) from error
        lengths = [length for _, length in header]
        ends = _HEADER_LENGTH_BYTES + size + sum(lengths)
        if min(lengths, default=0) < _DIGEST_BYTES or ends != len(whole):
            raise ResourceError(
                f"{path} is damaged: remove it and let its epoch end "
                f"(expected {ends} bytes, got {len(whole)})"
            )
        found = _regions(path, dict(header), _HEADER_LENGTH_BYTES + size)
        for name, region in found.items():
            _, start, length = region
            if not any(whole[start : start + length]):
                continue
            if name in seen:
                self._overwrite(region)
            else:
                self._packed[name] = region
        seen |= set(found)
        self._drop_empty(path)

    def _region(self, path: Path, start: int, length: int) -> bytes:
        """Return one region of a pack that only its owner may read."""
        with os_errors(path, "read"):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            check_private(path, handle)
            with os_errors(path, "read"):
                return os.pread(handle, length, start)
        finally:
            os.close(handle)

    def _overwrite(self, region: _Region) -> None:
        """Overwrite one region of a pack, durably."""
        path, start, length = region
        with os_errors(path, "erase"):
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.pwrite(handle, bytes(length), start)
                os.fdatasync(handle)
            finally:
                os.close(handle)

    def _drop_empty(self, path: Path) -> None:
        """Remove a pack with its last secret."""
        if all(pack is not path and pack != path for pack, _, _ in self._packed.values()):
            with os_errors(path, "erase"):
                path.unlink(missing_ok=True)

    def _retire(self, leftover: Path) -> None:
        """Wipe a leftover; a second name of a living value is only removed."""
        name = leftover.name.removeprefix(f"{_OUTDATED}-")
        current = self._directory / name
        with os_errors(leftover, "erase"):
            linked = leftover.exists() and current.exists() and leftover.samefile(current)
            if linked and leftover != current:
                leftover.unlink()
                return
        self._wipe(leftover)

    def _wipe(self, path: Path) -> None:
        """Overwrite with zeros, make that durable, remove; repeatable at any point."""
        with os_errors(path, "erase"):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return
            try:
                write_all(handle, bytes(os.fstat(handle).st_size))
                os.fdatasync(handle)
            finally:
                os.close(handle)
            os.unlink(path)


def _pack_number(path: Path) -> int:
    """Return the number in the name of a pack, 0 where an earlier version gave it none."""
    number = path.name.removeprefix(f"{_PACK}-")
    return int(number) if len(number) < 16 and number.isdigit() else 0


def _regions(path: Path, lengths: Mapping[str, int], start: int) -> dict[str, _Region]:
    """Return the regions of a pack whose records begin at `start`, in order, by name."""
    found = {}
    for name, length in lengths.items():
        found[name] = (path, start, length)
        start += length
    return found
