"""Readers: text in, text out, and one clear error for every damaged file.

Planted and seen to fail: ragged rows padded; size limit not enforced; header taken for data; the
name of a repeated column in the message; a pipe opened as a file is.
"""

import os
from pathlib import Path

import pytest

from treaty.contracts.alignment import Source
from treaty.datasets.readers import read_bytes, read_table, table_from_bytes
from treaty.errors import ResourceError, UsageError


def test_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "site.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n01,"x, y"\r\n\r\nNA,1e3\r\n')
    table = read_table(path, Source())
    assert dict(table.columns) == {"a": ("01", "NA"), "b": ("x, y", "1e3")}


def test_a_file_without_a_header_takes_names_from_its_adapter() -> None:
    table = table_from_bytes(b"1;2\n3;4", Source(header=False, columns=("a", "b"), delimiter=";"))
    assert dict(table.columns) == {"a": ("1", "3"), "b": ("2", "4")}


def test_the_declared_encoding_is_used() -> None:
    data = "d\npaź-95\n".encode("iso-8859-2")
    assert table_from_bytes(data, Source(encoding="iso-8859-2")).columns["d"] == ("paź-95",)
    with pytest.raises(UsageError, match="utf-8"):
        table_from_bytes(data, Source())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"a,b\n", "empty"),
        (b"a,b\n1,2,3\n", "line 2: expected 2 cells, got 3"),
        (b"a,b\n1\n", "line 2: expected 2 cells, got 1"),
        (b"a,a\n1,2\n", "more than once"),
        (b'a\n"1\n', "line"),
        (b"a\n1\0\n", "zero byte"),
        (b"\xff\xfea", "utf-8"),
        (b"a\n" + b"x" * 5000 + b"\n", "4096"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(data: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        table_from_bytes(data, Source(), name="site.csv")
    assert "xxxx" not in str(caught.value)


def test_a_row_taken_for_a_header_is_not_repeated() -> None:
    """Without its header a file's first row is read as names, and twins among them are cells."""
    with pytest.raises(UsageError, match="columns 2 and 4") as caught:
        table_from_bytes(b"19610203,7731,m,7731\n1,2,3,4\n", Source(), name="site.csv")
    assert "7731" not in str(caught.value)


@pytest.mark.timeout(10)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "site.csv")
    with pytest.raises(ResourceError, match="expected a file, got a pipe"):
        read_bytes(tmp_path / "site.csv")


def test_a_file_without_a_header_needs_columns() -> None:
    with pytest.raises(UsageError, match="needs columns"):
        table_from_bytes(b"1,2\n", Source(header=False))


def test_an_absent_or_oversized_file_is_a_resource_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="absent"):
        read_bytes(tmp_path / "absent.csv")
    with pytest.raises(ResourceError):
        read_bytes(tmp_path)
    path = tmp_path / "large.csv"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(ResourceError, match="at most 4"):
        read_bytes(path, limit=4)
