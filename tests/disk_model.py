"""A disk that forgets what was not confirmed: what a loss of power would leave of a directory."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["Disk"]


class Disk:
    """Bytes of files and names in directories, once confirmed by a sync.

    A directory may be on the disk before its names are, and a name before the bytes behind it.
    `removed` holds, for every file whose name was removed, the bytes that the disk may still have
    behind it. The functions of `os` are the only seam: no port lies below the stores.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.removed: list[tuple[str, bytes]] = []
        real = {name: getattr(os, name) for name in ("fsync", "fdatasync")}

        def confirm(name: str) -> Callable[[int], None]:
            def call(handle: int) -> None:
                real[name](handle)
                self._confirmed(handle)

            return call

        for name in real:
            monkeypatch.setattr(os, name, confirm(name))
        self._unlink = os.unlink
        monkeypatch.setattr(os, "unlink", self._remove)

    def _confirmed(self, handle: int) -> None:
        status = os.fstat(handle)
        place = Path(f"/proc/self/fd/{handle}")
        if place.is_dir():
            here = Path(os.readlink(place))
            self.names[status.st_ino] = {one.name: one.stat().st_ino for one in here.iterdir()}
        else:
            # By its handle: it may have lost its name, or have been opened for writing only.
            self.content[status.st_ino] = place.read_bytes()

    def _remove(self, path: str | os.PathLike[str], **options: object) -> None:
        status = os.lstat(path)
        if status.st_nlink == 1:
            self.removed.append((os.fspath(path), self.content.get(status.st_ino, b"")))
        self._unlink(path, **options)  # type: ignore[arg-type]  # passed through

    def after_power_loss(self, path: Path) -> bytes | None:
        """Return what `path` would hold, None where its name, or a directory's, is not there."""
        directory = path.parent
        if self.names.get(directory.parent.stat().st_ino, {}).get(directory.name) is None:
            return None
        inode = self.names.get(directory.stat().st_ino, {}).get(path.name)
        return None if inode is None else self.content.get(inode)

    def holds(self, data: bytes) -> bool:
        """Say whether `data` is behind any name, or was when a name was removed."""
        confirmed = (*self.content.values(), *(left for _, left in self.removed))
        return any(data in one for one in confirmed)
