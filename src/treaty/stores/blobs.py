"""Blobs as files: one file per object, named by its SHA-256.

Guarantees: a file under its final name was complete and durable when it got that
name. What is read is compared with its name, so a change on the disk shows as
`VerificationError`, and putting the right content again mends it. Leftovers of
an interrupted write never carry a final name; a start removes those older than an hour.

Layout: ``<directory>/<first two hex digits>/<64 hex digits>``, mode 0600.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.stores.files import fill_file, make_directory, os_errors, sync_directory
from treaty.stores.kill_points import persist_point

__all__ = ["CHUNK_BYTES", "BlobDirectory", "check_digest", "mismatch", "missing"]

CHUNK_BYTES = 1 << 20
_INCOMING = "incoming"
_ABANDONED_SECONDS = 3600
_HEX = frozenset("0123456789abcdef")
_numbers = itertools.count()


def check_digest(digest: Digest) -> None:
    """Refuse what is not 64 lower-case hexadecimal digits (and could name a path)."""
    if len(digest) != 64 or not _HEX.issuperset(digest):
        raise UsageError("a blob is named by 64 lower-case hexadecimal digits, got something else")


def missing(digest: Digest) -> ResourceError:
    """Return the error for an object that is not stored."""
    return ResourceError(f"blob {digest} is not stored here: fetch it from a peer that holds it")


def mismatch(digest: Digest, found: Digest) -> VerificationError:
    """Return the error for stored or delivered bytes with another digest than their name."""
    return VerificationError(
        f"blob {digest} holds content of digest {found}: fetch it again", code="blob-mismatch"
    )


class BlobDirectory:
    """A `BlobStore` in a directory, created if missing (its parent must exist).

    `label` names the persist point of each write (stores/kill_points.py). With `read_only`
    nothing is created or cleaned.
    """

    def __init__(self, directory: Path, *, label: str = "blob", read_only: bool = False) -> None:
        self._directory = directory
        self._label = label
        if read_only:
            return
        if not directory.parent.is_dir():
            raise ResourceError(f"{directory.parent} is not a directory: create it first")
        make_directory(directory / _INCOMING)
        with os_errors(directory, "clean"):
            # Only old ones: another process of the same party may be writing now.
            for leftover in (directory / _INCOMING).iterdir():
                if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                    leftover.unlink(missing_ok=True)

    def put(self, data: bytes) -> Digest:
        """See `treaty.ports.BlobStore.put`."""
        digest = sha256(data)
        if not self._holds(digest):
            self._store((data,), lambda: digest)
        return digest

    def get(self, digest: Digest) -> bytes:
        """See `treaty.ports.BlobStore.get`."""
        check_digest(digest)
        path = self._path(digest)
        try:
            with os_errors(path, "read"):
                data = path.read_bytes()
        except ResourceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise missing(digest) from None
            raise
        found = sha256(data)
        if found != digest:
            raise mismatch(digest, found)
        return data

    def has(self, digest: Digest) -> bool:
        """See `treaty.ports.BlobStore.has`."""
        check_digest(digest)
        return self._path(digest).is_file()

    def delete(self, digest: Digest) -> None:
        """See `treaty.ports.BlobStore.delete`."""
        check_digest(digest)
        path = self._path(digest)
        if path.parent.is_dir():
            with os_errors(path, "remove"):
                path.unlink(missing_ok=True)
                sync_directory(path.parent)

    def put_chunks(self, chunks: Iterable[bytes]) -> Digest:
        """See `treaty.ports.BlobStore.put_chunks`."""
        digester = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for chunk in chunks:
                digester.update(chunk)
                yield chunk

        return self._store(hashed(), lambda: Digest(digester.hexdigest()))

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """See `treaty.ports.BlobStore.chunks`.

        The file is read twice: nothing is handed out before all of it was checked.
        """
        check_digest(digest)
        path = self._path(digest)
        if not path.is_file():
            raise missing(digest)
        with os_errors(path, "read"):
            file = open(path, "rb")  # noqa: SIM115 - closed by the generator below
        try:
            with os_errors(path, "read"):
                found = Digest(hashlib.file_digest(file, "sha256").hexdigest())
                file.seek(0)
            if found != digest:
                raise mismatch(digest, found)
        except BaseException:
            file.close()
            raise

        def pieces() -> Iterator[bytes]:
            with file:
                while True:
                    with os_errors(path, "read"):
                        piece = file.read(CHUNK_BYTES)
                    if not piece:
                        return
                    yield piece

        return pieces()

    def _path(self, digest: Digest) -> Path:
        return self._directory / digest[:2] / digest

    def _holds(self, digest: Digest) -> bool:
        try:
            self.get(digest)
        except (ResourceError, VerificationError):
            return False
        return True

    def _store(self, chunks: Iterable[bytes], name: Callable[[], Digest]) -> Digest:
        """Write under a waiting name, then move; `name` is asked once all is written."""
        waiting = self._directory / _INCOMING / f"{os.getpid()}-{next(_numbers)}"
        with persist_point(self._label):
            try:
                fill_file(waiting, chunks)
                digest = name()
                path = self._path(digest)
                with os_errors(path, "write"):
                    if not path.parent.is_dir():
                        path.parent.mkdir(mode=0o700, exist_ok=True)
                        sync_directory(self._directory)
                    os.replace(waiting, path)
                    sync_directory(path.parent)
            finally:
                waiting.unlink(missing_ok=True)
        return digest
