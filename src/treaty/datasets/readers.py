"""Readers: a site's file from disk, as text, with limits.

Guarantees (docs/spec/contract.md, 7.1):
  * Every cell stays text; nothing is guessed about types, missing values or dates.
  * A file that is absent, unreadable or over the limit is a `ResourceError`; one that is empty,
    wrongly encoded or ragged is a `UsageError` that names the file and the line. No message
    repeats a cell.
"""

import csv
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from treaty.contracts.alignment import Adapter, Source, align, check_adapter
from treaty.contracts.schema import Contract
from treaty.contracts.table import RawTable
from treaty.errors import ResourceError, UsageError

__all__ = ["MAX_FILE_BYTES", "read_bytes", "read_site", "read_table", "table_from_bytes"]

MAX_FILE_BYTES = 256 << 20
"""Default limit of one file: 256 MiB."""

_MAX_CELL_CHARACTERS = 4096


def read_bytes(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of `path`; `ResourceError` when absent, unreadable or over `limit`."""
    try:
        # Not blocking: the open of a pipe would wait for a writer that may never come.
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ResourceError(f"{path.name}: expected a file, got a pipe or a device")
            data = stream.read(limit + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ResourceError(f"{path.name}: {reason}") from error
    if len(data) > limit:
        raise ResourceError(f"{path.name}: expected at most {limit} bytes, got more")
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def table_from_bytes(data: bytes, source: Source, *, name: str = "file") -> RawTable:
    """Return the table that `data` spells; `UsageError` when empty, wrongly encoded or ragged."""
    encoding = "utf-8-sig" if source.encoding == "utf-8" else source.encoding
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name}: expected {source.encoding} text, byte {error.start} is none: save it so, or "
            "name its encoding in the adapter's [source]"
        ) from error
    if "\0" in text:
        raise UsageError(f"{name}: expected text, got a zero byte")
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=source.delimiter, strict=True)
    names: Sequence[str] = () if source.header else source.columns
    try:
        for row in reader:
            if not row:
                continue
            if source.header and not names:
                names = row
                continue
            if not names:
                raise UsageError(f"{name}: a file without a header needs columns in its adapter")
            if len(row) != len(names):
                raise UsageError(
                    f"{name}: line {reader.line_num}: expected {len(names)} cells, got {len(row)}"
                )
            if any(len(cell) > _MAX_CELL_CHARACTERS for cell in row):
                raise UsageError(
                    f"{name}: line {reader.line_num}: expected cells of at most "
                    f"{_MAX_CELL_CHARACTERS} characters"
                )
            rows.append(row)
    except csv.Error as error:
        raise UsageError(f"{name}: line {reader.line_num}: {error}") from error
    if not rows:
        raise UsageError(f"{name}: expected rows, got an empty file")
    return RawTable.from_rows(names, rows)


def read_table(path: Path, source: Source, *, limit: int = MAX_FILE_BYTES) -> RawTable:
    """Return the table in the file `path`."""
    return table_from_bytes(read_bytes(path, limit=limit), source, name=path.name)


def read_site(
    path: Path, adapter: Adapter, contract: Contract, *, limit: int = MAX_FILE_BYTES
) -> RawTable:
    """Return a site's file brought to the contract's columns by its checked adapter."""
    table = read_table(path, adapter.source, limit=limit)
    check_adapter(adapter, contract, table.names)
    return align(adapter, table)
