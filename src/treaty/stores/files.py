"""Files: atomic and durable writes, and files that only their owner may read.

Guarantees: `write_file` leaves either the old content or the new one, never a
mixture, and on return the new one survives the loss of power (temporary file,
fsync, rename, fsync of the directory). A private file has mode 0600; a file that
others may read is refused with the command that mends it, because a key that
was readable may be known.

Every failure of the operating system becomes a `ResourceError` that names the
file and what to do; contents never appear in a message.
"""

import errno
import itertools
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from treaty.errors import ResourceError, UsageError
from treaty.stores.kill_points import persist_point

__all__ = [
    "PRIVATE_MODE",
    "TEXT_LIMIT_BYTES",
    "Translated",
    "as_text",
    "check_private",
    "erase_file",
    "fill_file",
    "make_directory",
    "os_errors",
    "read_file",
    "read_private_file",
    "read_text",
    "remove_file",
    "sync_directory",
    "write_all",
    "write_chunks",
    "write_file",
    "write_new_private_file",
    "write_private_file",
]

TEXT_LIMIT_BYTES = 1 << 20
"""What a text that people wrote holds at most."""

PRIVATE_MODE = 0o600
_TEMPORARY = ".writing-"
_numbers = itertools.count()
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and try again",
    errno.EDQUOT: "the disk quota is used up: free some space and try again",
    errno.EFBIG: "the file size limit was reached: raise it (ulimit -f) and try again",
    errno.EROFS: "the file system is read-only: mount it writable",
    errno.EACCES: "permission denied: run as the owner of the directory, or mend its mode",
    errno.EPERM: "not permitted: run as the owner of the directory, or mend its mode",
    errno.ENOENT: "it does not exist: check the path, or create its directory first",
    errno.EISDIR: "it is a directory, expected a file",
    errno.ENOTDIR: "a part of the path is a file, expected a directory",
    errno.EIO: "the disk reported an error: check the disk before going on",
}


class Translated(ABC):
    """A block in which an error of `kind` becomes a `ResourceError` that says what to do.

    A class, not a generator: it is entered a hundred times a round.
    """

    kind: ClassVar[type[Exception]]
    __slots__ = ("_doing", "_path")

    def __init__(self, path: str | os.PathLike[str], doing: str) -> None:
        self._path = path
        self._doing = doing

    @abstractmethod
    def remedy(self, error: Exception) -> str:
        """Return what is wrong, and what to do about it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, self.kind):
            words = f"cannot {self._doing} {os.fspath(self._path)}: {self.remedy(error)}"
            raise ResourceError(words) from error


class os_errors(Translated):  # noqa: N801 - a context manager, used like a function
    """Turn an `OSError` of the block into a `ResourceError` that says what to do."""

    kind = OSError
    __slots__ = ()

    def remedy(self, error: Exception) -> str:
        """Return what is wrong, by the error's number where it has one."""
        number = getattr(error, "errno", 0) or 0
        return _REMEDIES.get(number, os.strerror(number).lower() if number else str(error))


def sync_directory(directory: Path) -> None:
    """Make the names inside `directory` durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path, mode: int = 0o700) -> None:
    """Create `directory` and its missing parents, durably; an existing one is left as it is."""
    with os_errors(directory, "create directory"):
        missing = []
        current = directory
        while not current.exists():
            missing.append(current)
            current = current.parent
        if not current.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(current))
        for path in reversed(missing):
            path.mkdir(mode=mode, exist_ok=True)
            sync_directory(path.parent)


def write_file(path: Path, data: bytes | memoryview, *, mode: int = 0o644, label: str = "") -> None:
    """Replace the content of `path` atomically and durably.

    `label` names the persist point (stores/kill_points.py). On any failure the
    old content stands. Raises `ResourceError`.
    """
    write_chunks(path, (data,), mode=mode, label=label)


def write_chunks(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    *,
    mode: int = 0o644,
    label: str = "",
    replace: bool = True,
) -> None:
    """Write the concatenation of `chunks` as `write_file` does, without holding it in memory.

    With `replace` false an existing file is refused with `ResourceError`. If the
    iterable raises, nothing is written and its exception passes on. A process
    killed meanwhile leaves a file ``.writing-*``, which may be removed.
    """
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{next(_numbers)}-{path.name}")
    with persist_point(label):
        try:
            fill_file(temporary, chunks, mode=mode, target=path)
            with os_errors(path, "write"):
                _move(temporary, path, replace=replace)
                sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def fill_file(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    *,
    mode: int = PRIVATE_MODE,
    target: Path | None = None,
) -> None:
    """Write a file whose name is not final: its content is durable, its name is not yet.

    Errors name `target`, where it is given: the name that whoever asked knows.
    """
    shown = target or path
    with os_errors(shown, "write"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        handle = os.open(path, flags, PRIVATE_MODE)
    try:
        for chunk in chunks:
            with os_errors(shown, "write"):
                write_all(handle, chunk)
        with os_errors(shown, "write"):
            os.fchmod(handle, mode)
            os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the position of `handle`; the system may take it in parts."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _move(temporary: Path, path: Path, *, replace: bool) -> None:
    if replace:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise ResourceError(
            f"{path} exists already: it is not overwritten; move it away or choose another name"
        ) from error


def remove_file(path: Path, *, label: str = "") -> None:
    """Remove a file that has served; one that is not there is passed over.

    `label` names the persist point. After a loss of power the file may be back: for whoever removes
    it again. Raises `ResourceError`.
    """
    with persist_point(label), os_errors(path, "remove"):
        path.unlink(missing_ok=True)


def read_file(path: Path, limit: int | None = None) -> bytes:
    """Return the content of `path`.

    Raises `ResourceError` if it is missing, over `limit` bytes, or no file but a pipe or a device.
    """
    # Not blocking: the open of a pipe would wait for a writer that may never come.
    with os_errors(path, "read"):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            kind = os.fstat(handle).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(kind):
                raise ResourceError(f"cannot read {path}: expected a file, got a pipe or a device")
        except BaseException:
            os.close(handle)
            raise
        with open(handle, "rb") as file:
            if limit is None:
                return file.read()
            data = file.read(limit + 1)
    if len(data) > limit:
        raise ResourceError(f"{path} is larger than expected: at most {limit} bytes")
    return data


def read_text(path: Path, limit: int = TEXT_LIMIT_BYTES) -> str:
    """Return the UTF-8 text in `path`, without a byte order mark; `UsageError` when it is none."""
    return as_text(path, read_file(path, limit))


def as_text(path: Path, data: bytes) -> str:
    """Return the text that `data`, read from `path`, spells; raises as `read_text`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text, at byte {error.start}: save it so") from error


def check_private(path: Path, handle: int | None = None) -> None:
    """Refuse a file that is not regular, belongs to someone else, or is open to others.

    With `handle` the opened file is judged, so that it cannot be exchanged in between.
    """
    with os_errors(path, "read"):
        status = os.stat(path) if handle is None else os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise ResourceError(f"{path} is not a regular file: expected a file of mode 0600")
    if status.st_uid != os.geteuid():
        raise ResourceError(
            f"{path} belongs to another user: expected its owner to be the user that runs this"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ResourceError(
            f"{path} has mode {mode:04o}, expected 0600: if nobody else can have read it, "
            f"run chmod 600 {path}; otherwise replace what it holds"
        )


def read_private_file(path: Path, limit: int = 1 << 20) -> bytes:
    """Return the content of a key or secret file, if only its owner may read it.

    Raises `ResourceError` if missing, too open (says chmod 600) or over `limit` bytes.
    """
    with os_errors(path, "read"):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # A pipe is refused, not waited for.
    try:
        check_private(path, handle)
        with os_errors(path, "read"), os.fdopen(os.dup(handle), "rb") as file:
            data = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(data) > limit:
        raise ResourceError(f"{path} is larger than expected: at most {limit} bytes")
    return data


def erase_file(path: Path, *, label: str = "") -> None:
    """Overwrite a private file with zeros, durably, and remove it.

    What a file system keeps of it elsewhere, in a journal or a snapshot, is out of reach.
    """
    with persist_point(label), os_errors(path, "erase"):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            write_all(handle, bytes(os.fstat(handle).st_size))
            os.fsync(handle)
        finally:
            os.close(handle)
        path.unlink()
        sync_directory(path.parent)


def write_private_file(path: Path, data: bytes, *, label: str = "") -> None:
    """Replace `path` as `write_file`, with mode 0600 from the first byte."""
    write_chunks(path, (data,), mode=PRIVATE_MODE, label=label)


def write_new_private_file(path: Path, data: bytes, *, label: str = "") -> None:
    """Create a key file of mode 0600. Raises `ResourceError` if the name exists: no key is lost."""
    write_chunks(path, (data,), mode=PRIVATE_MODE, label=label, replace=False)
