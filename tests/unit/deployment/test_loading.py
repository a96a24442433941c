"""Loading: which mappings hold nothing but what their file holds.

Planted and caught: letting go of a mapping that is written to, that has pages of its own, that is
shared, that has no file, or of which the kernel does not say; the size of another mapping.
"""

import threading

import pytest

from treaty.deployment.loading import let_go, untouched
from treaty.errors import UsageError

FIELDS = "Size:  64 kB\nRss: {rss:>8} kB\nPss: 1 kB\nPrivate_Dirty: 0 kB\nAnonymous: {own:>6} kB\n"


def mapping(place: str, mode: str, inode: int, rss: int, own: int | None) -> str:
    """Return what the kernel says of one mapping; without `own` as an old one does."""
    name = "/usr/lib/library.so" if inode else ""
    fields = FIELDS.format(rss=rss, own=own or 0)
    if own is None:
        fields = fields.rpartition("Anonymous")[0]
    return f"{place} {mode} 00001000 08:01 {inode} {name}\n{fields}"


def test_pages_of_files_that_cannot_be_written_are_told() -> None:
    """Program text and constants."""
    text = mapping("1000-3000", "r-xp", 7, 8, 0) + mapping("a000-b000", "r--p", 7, 4, 0)
    assert list(untouched(text)) == [(0x1000, 0x3000, 8), (0xA000, 0xB000, 4)]


@pytest.mark.parametrize(
    ("mode", "inode", "rss", "own"),
    [
        ("rw-p", 7, 8, 0),
        ("rwxp", 7, 8, 0),
        ("r--s", 7, 8, 0),
        ("---p", 7, 8, 0),
        ("r--p", 7, 8, 4),
        ("r-xp", 7, 8, 8),
        ("r--p", 0, 8, 0),
        ("r--p", 7, 0, 0),
        ("r--p", 7, 8, None),
    ],
    ids=[
        "writable",
        "writable program",
        "shared",
        "forbidden",
        "relocated",
        "patched",
        "no file",
        "not resident",
        "not said",
    ],
)
def test_what_may_hold_more_than_its_file_is_left_alone(
    mode: str, inode: int, rss: int, own: int | None
) -> None:
    """Letting go would lose it; a neighbour is told nevertheless."""
    text = mapping("1000-3000", mode, inode, rss, own) + mapping("a000-b000", "r-xp", 9, 4, 0)
    assert list(untouched(text)) == [(0xA000, 0xB000, 4)]


def test_nothing_is_let_go_beside_other_threads() -> None:
    """They could map something else where a file was."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(UsageError, match="before there are threads"):
            let_go()
    finally:
        done.set()
        thread.join()
