"""Ledger file: one data set's privacy ledger, append only, beside the data it belongs to.

Guarantees:
  * What `append` returned for survives the loss of power (write, fdatasync, then return).
  * A write that was cut off is told from damage: only an end that was never finished, which nobody
    was told about, is cut away; anything else that is not whole is refused, and nothing changes.
  * One writer at a time, over processes (``flock``); a writer that is behind learns of it and
    stores nothing. A file that was exchanged, shortened or lengthened by others is noticed.
  * Mode 0600 in a directory that nobody else can write to, or it is refused.

Layout: a line that names format and version, then a line for each record: its bytes, a tab, their
SHA-256 in hexadecimal, a newline. Records hold no newline and no byte 0.

Assumes a local file system. What the records mean, and whether an older copy was put back, is the
business of `treaty.privacy.ledger` and of the shared log. Never restore this file from a backup.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, UsageError
from treaty.stores.files import (
    check_private,
    make_directory,
    os_errors,
    sync_directory,
    write_all,
    write_new_private_file,
)
from treaty.stores.kill_points import persist_point

__all__ = [
    "LEDGER_HEADER",
    "LedgerFile",
    "check_directory",
    "check_record",
    "parse_ledger",
    "stale_ledger",
]

LEDGER_HEADER = b"treaty-privacy-ledger-file-v1\n"

_DIGEST_HEX = 64
_MAX_RECORD = 1 << 20
_WAIT_S = 5.0
_REMEDY = "keep it as evidence, move it away and let an officer sign a re-base (treaty budget)"


class LedgerFile:
    """A `Ledger` in the file `path`. Without the file it is empty; the first append makes it.

    With `read_only` nothing is locked, created, mended or appended.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._handle: int | None = None
        self._records: list[bytes] = []
        self._end = 0
        self._broken = ""
        self._closed = False
        if not read_only:
            make_directory(path.parent)
        if path.parent.exists():
            check_directory(path.parent)
        if path.exists() or path.is_symlink():
            self._open()
            try:
                with self._writing():
                    self._take_up()
            except BaseException:
                self.close()
                raise

    def read(self, start: int = 0) -> list[bytes]:
        """See `treaty.ports.Ledger.read`."""
        if start < 0:
            raise UsageError(f"expected a start of 0 or more, got {start}")
        self._usable()
        if self._handle is None and self._path.exists():
            self._open()
        if self._handle is not None and self._grown():
            with self._writing():
                self._take_up()
        return self._records[start:]

    def append(self, count: int, records: Sequence[bytes], label: str = "ledger") -> None:
        """See `treaty.ports.Ledger.append`. Persist point `label`."""
        self._usable()
        if self._read_only:
            raise UsageError("this ledger was opened for reading only")
        for record in records:
            check_record(record)
        data = b"".join(_line(record) for record in records)
        if not data:
            return
        if self._handle is None:
            self._create(count, data, records, label)
            return
        with self._writing():
            if self._grown():
                self._take_up()
            if len(self._records) != count:
                raise stale_ledger(len(self._records), count)
            with persist_point(label):
                self._write(data)
            self._records += records
            self._end += len(data)

    def close(self) -> None:
        """See `treaty.ports.Ledger.close`."""
        self._closed = True
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)

    # --- writing ------------------------------------------------------------------------------

    def _create(self, count: int, data: bytes, records: Sequence[bytes], label: str) -> None:
        if count != 0:
            raise stale_ledger(0, count)
        # Whole or not at all, and never in place of another ledger.
        write_new_private_file(self._path, LEDGER_HEADER + data, label=label)
        self._open()
        self._records = list(records)
        self._end = len(LEDGER_HEADER) + len(data)

    def _write(self, data: bytes) -> None:
        handle = self._opened()
        try:
            os.lseek(handle, self._end, os.SEEK_SET)
            write_all(handle, data)
        except OSError as error:
            self._undo()
            with os_errors(self._path, "write"):
                raise error
        try:
            os.fdatasync(handle)
        except OSError as error:
            # What a failed sync left on the disk cannot be known: nothing more is promised.
            self._broken = "the disk did not confirm a write"
            with os_errors(self._path, "write"):
                raise error

    def _undo(self) -> None:
        """Cut off what a failed write left, or let nothing follow it."""
        try:
            os.ftruncate(self._opened(), self._end)
        except OSError:
            self._broken = "a write failed and could not be undone"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the file alone; notice that another file has taken its name."""
        handle = self._opened()
        if self._read_only:
            yield
            return
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    with os_errors(self._path, "lock"):
                        raise
                if time.monotonic() > deadline:
                    raise ResourceError(
                        f"{self._path} is held by another process: stop it, or wait for its end"
                    ) from error
                time.sleep(0.002)
        try:
            self._check_name()
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)

    def _check_name(self) -> None:
        check_private(self._path, self._opened())
        with os_errors(self._path, "read"):
            mine = os.fstat(self._opened())
            try:
                named = os.stat(self._path, follow_symlinks=False)
            except FileNotFoundError:
                named = None
        if named is None or (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino):
            self._broken = "another file took its name while it was open"
            raise ResourceError(f"{self._path}: {self._broken}; stop, and {_REMEDY}")

    # --- reading ------------------------------------------------------------------------------

    def _open(self) -> None:
        flags = (os.O_RDONLY if self._read_only else os.O_RDWR) | os.O_NOFOLLOW
        with os_errors(self._path, "open"):
            handle = os.open(self._path, flags)
        try:
            check_private(self._path, handle)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def _grown(self) -> bool:
        with os_errors(self._path, "read"):
            return os.fstat(self._opened()).st_size != self._end

    def _take_up(self) -> None:
        """Read what others appended since; under the lock also cut off an unfinished end."""
        handle = self._opened()
        with os_errors(self._path, "read"):
            size = os.fstat(handle).st_size
            if size < self._end:
                raise ResourceError(
                    f"{self._path} is shorter than it was: {size} bytes, expected {self._end}; "
                    f"{_REMEDY}"
                )
            os.lseek(handle, self._end, os.SEEK_SET)
            data = _read_all(handle, size - self._end)
        first = self._end == 0
        records, whole = parse_ledger(data, first=first, name=str(self._path))
        if first and not records:
            raise ResourceError(f"{self._path} holds no record: {_REMEDY}")
        if whole != len(data) and not self._read_only:
            with os_errors(self._path, "write"):
                os.ftruncate(handle, self._end + whole)
        if not self._read_only:
            # What another process wrote and did not live to confirm counts from now on.
            with persist_point("ledger-recover"), os_errors(self._path, "write"):
                os.fdatasync(handle)
                if first:
                    sync_directory(self._path.parent)
        self._records += records
        self._end += whole

    def _opened(self) -> int:
        if self._handle is None:
            raise UsageError("the ledger's file is not open")
        return self._handle

    def _usable(self) -> None:
        if self._closed:
            raise ResourceError("the ledger is closed: open it again")
        if self._broken:
            raise ResourceError(f"{self._path}: {self._broken}; restart, and it is read anew")


def parse_ledger(data: bytes, *, first: bool, name: str) -> tuple[list[bytes], int]:
    """Return the whole records in `data`, and how many bytes they and the header take.

    What follows may be left by a write that was cut off: a last line without its end, or one with
    bytes 0 where a block never reached the disk, and nothing after it. Nobody was told that such a
    record is stored. Raises `ResourceError` for everything else: a whole line whose digest does not
    fit, or anything behind a broken one, is damage to what was stored.
    """
    position = 0
    if first:
        if not data.startswith(LEDGER_HEADER):
            raise ResourceError(f"{name} is no ledger of this version: {_REMEDY}")
        position = len(LEDGER_HEADER)
    records: list[bytes] = []
    while position < len(data):
        end = data.find(b"\n", position)
        line = data[position : end if end >= 0 else len(data)]
        record = _record_of(line) if end >= 0 else None
        if record is None:
            rest = data[position:]
            torn = end < 0 or (b"\0" in rest and _unfinished(rest))
            if torn:
                break
            raise ResourceError(
                f"{name} is damaged in record {len(records)} of this part: {_REMEDY}"
            )
        records.append(record)
        position = end + 1
    return records, position


def _unfinished(rest: bytes) -> bool:
    """Whether no line of `rest` is a whole record: then nothing in it was ever confirmed."""
    return all(_record_of(line) is None for line in rest.split(b"\n"))


def _record_of(line: bytes) -> bytes | None:
    record, tab, digest = (
        line[: -_DIGEST_HEX - 1],
        line[-_DIGEST_HEX - 1 : -_DIGEST_HEX],
        line[-64:],
    )
    if tab != b"\t" or sha256(record).encode() != digest:
        return None
    return record


def _line(record: bytes) -> bytes:
    return record + b"\t" + sha256(record).encode() + b"\n"


def check_record(record: bytes) -> None:
    """Refuse a record that not every ledger can hold, with `UsageError`."""
    if not record or len(record) > _MAX_RECORD or b"\n" in record or b"\0" in record:
        raise UsageError(
            f"expected a record of 1 to {_MAX_RECORD} bytes without newline or byte 0, "
            f"got {len(record)} bytes"
        )


def _read_all(handle: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.read(handle, min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def check_directory(directory: Path) -> None:
    """Refuse a directory in which others could exchange a file. Raises `ResourceError`."""
    with os_errors(directory, "read"):
        status = os.stat(directory)
    if stat.S_IMODE(status.st_mode) & 0o022 or status.st_uid not in (os.geteuid(), 0):
        raise ResourceError(
            f"{directory} can be written by others, who could exchange the ledger in it: "
            f"run chmod 700 {directory}"
        )


def stale_ledger(found: int, expected: int) -> ResourceError:
    """Return the error for records made from an older ledger than the stored one."""
    return ResourceError(
        f"stale count of the ledger: found {found} records, expected {expected}; read it again"
    )
