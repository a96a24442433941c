"""Publication: the log's tiles and its checkpoint as plain files that anyone may read.

Guarantees: the checkpoint is replaced last, after every file it rests on is
durable, so whoever reads the directory finds a checkpoint whose tiles exist.
Tiles never change: other content under the same path is refused, because a log
that publishes two versions of a tile has forked. The size in the checkpoint
never shrinks: a publisher restored from an old backup must not unpublish.

Assumes that the caller made the bytes (treaty.tlog); nothing is verified here
but paths, immutability and the growth of the size. Files have mode 0644.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from treaty.errors import ResourceError, UsageError
from treaty.stores.files import fill_file, make_directory, os_errors, sync_directory, write_file
from treaty.stores.kill_points import persist_point

__all__ = ["PublicationDirectory"]

_NAME = "checkpoint"
_PATH = re.compile(r"tile/(?:entries|[0-9]{1,2})(?:/x[0-9]{3})*/[0-9]{3}(?:\.p/[0-9]{1,3})?")
_WAITING = ".writing"


class PublicationDirectory:
    """The published form of one log: ``checkpoint`` and ``tile/...`` (C2SP tlog-tiles)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_directory(directory, mode=0o755)

    def publish(self, tiles: Mapping[str, bytes], checkpoint: bytes) -> None:
        """Make `tiles` durable, then `checkpoint`; repeating the same call changes nothing.

        Persist points ``tiles`` and ``checkpoint``. Raises `UsageError` for a
        path that is not one of a tile, `ResourceError` if a tile exists with
        other content, if the checkpoint shrinks, or if the disk fails. Tiles
        that were new stay in place then, which is harmless.
        """
        for path in tiles:
            if not _PATH.fullmatch(path):
                raise UsageError(f"path {path!r}: expected tile/<level>/<number>[.p/<width>]")
        self._check_growth(checkpoint)
        fresh = [path for path, data in tiles.items() if not self._stands(path, data)]
        if fresh:
            with persist_point("tiles"):
                self._write(fresh, tiles)
        if self.checkpoint() != checkpoint:
            write_file(self._directory / _NAME, checkpoint, label="checkpoint")

    def checkpoint(self) -> bytes | None:
        """Return the published checkpoint, or None before the first."""
        path = self._directory / _NAME
        if not path.exists():
            return None
        with os_errors(path, "read"):
            return path.read_bytes()

    def read(self, path: str) -> bytes:
        """Return the tile at `path`. Raises `UsageError` or `ResourceError` if there is none."""
        if not _PATH.fullmatch(path):
            raise UsageError(f"path {path!r}: expected tile/<level>/<number>[.p/<width>]")
        with os_errors(self._directory / path, "read"):
            return (self._directory / path).read_bytes()

    def _stands(self, path: str, data: bytes) -> bool:
        target = self._directory / path
        if not target.exists():
            return False
        with os_errors(target, "read"):
            if target.read_bytes() == data:
                return True
        raise ResourceError(
            f"{target} differs from the log: a published tile never changes; "
            "find out who edited it, then restore it from a member's mirror"
        )

    def _write(self, paths: list[str], tiles: Mapping[str, bytes]) -> None:
        directories = set()
        for path in paths:
            target = self._directory / path
            make_directory(target.parent, mode=0o755)
            waiting = target.with_name(f"{_WAITING}-{target.name}")
            try:
                fill_file(waiting, (tiles[path],), mode=0o644)
                with os_errors(target, "write"):
                    waiting.replace(target)
            finally:
                waiting.unlink(missing_ok=True)
            directories.add(target.parent)
        for directory in sorted(directories):
            with os_errors(directory, "write"):
                sync_directory(directory)

    def _check_growth(self, checkpoint: bytes) -> None:
        size = _size(checkpoint)
        if size is None:
            raise UsageError("a checkpoint starts with its origin and its size, got something else")
        published = self.checkpoint()
        found = None if published is None else _size(published)
        if published is not None and found is None:
            raise ResourceError(
                f"{self._directory / _NAME} is not a checkpoint: restore it from a member's mirror"
            )
        if found is not None and size < found:
            raise ResourceError(
                f"{self._directory / _NAME} has size {found}, got a checkpoint of size {size}: "
                "the log was restored from an older state, bring it up to date from a member first"
            )


def _size(checkpoint: bytes) -> int | None:
    lines = checkpoint.split(b"\n", 2)
    if len(lines) < 3 or not re.fullmatch(rb"0|[1-9][0-9]{0,15}", lines[1]):
        return None
    return int(lines[1])
