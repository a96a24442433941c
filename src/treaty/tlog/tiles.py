"""Tiles and entry bundles (C2SP tlog-tiles): the log as plain files.

Guarantees (docs/spec/log.md, section 4):
  * Path, width and bytes of every file follow from the entries and the size alone, so two
    publishers of one log write the same files.
  * `parse_entry_bundle` accepts exactly the bytes that `entry_bundle` writes, for the number of
    entries the size asks for.

Leaves to others: whether the entries are the log's. Hash them and compare with a checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from treaty.errors import FormatError, UsageError
from treaty.tlog.merkle import HASH_BYTES, MerkleTree

__all__ = [
    "MAX_ENTRY_BYTES",
    "TILE_WIDTH",
    "Tile",
    "entry_bundle",
    "parse_entry_bundle",
    "parse_tile",
    "resources",
    "tile_bytes",
    "tiles_of_size",
]

TILE_WIDTH: Final = 256
_TILE_HEIGHT: Final = 8
MAX_ENTRY_BYTES: Final = 65_535
_LENGTH_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of hashes, or the entry bundle beside a tile of level 0 (`level` is ``None``).

    `width` is the number of hashes or entries, 1 to 256; below 256 the tile is partial.
    """

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= 63:
            raise UsageError(f"a tile level must be between 0 and 63, got {self.level}")
        if self.index < 0 or not 1 <= self.width <= TILE_WIDTH:
            raise UsageError("a tile has an index from 0 and a width between 1 and 256")

    @property
    def path(self) -> str:
        """Path below the log's prefix: ``tile/0/x001/234.p/5``, ``tile/entries/000``."""
        level = "entries" if self.level is None else str(self.level)
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
        number = "/".join([*("x" + group for group in groups[:-1]), groups[-1]])
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{number}{partial}"


def tiles_of_size(size: int, old_size: int = 0) -> Iterator[Tile]:
    """Yield the tiles and bundles of a log of `size` entries that one of `old_size` lacks.

    From `old_size` 0 these are all files of the log but its checkpoint.
    """
    if not 0 <= old_size <= size:
        raise UsageError(f"old size {old_size} must be between 0 and {size}")
    level = 0
    while size >> (_TILE_HEIGHT * level):
        hashes = size >> (_TILE_HEIGHT * level)
        known = old_size >> (_TILE_HEIGHT * level)
        if hashes > known:
            for index in range(known // TILE_WIDTH, -(-hashes // TILE_WIDTH)):
                width = min(TILE_WIDTH, hashes - index * TILE_WIDTH)
                yield Tile(level, index, width)
                if level == 0:
                    yield Tile(None, index, width)
        level += 1


def tile_bytes(tree: MerkleTree, tile: Tile) -> bytes:
    """Return the hashes of `tile` in `tree`, 32 bytes each."""
    if tile.level is None:
        raise UsageError("an entry bundle holds entries, not hashes")
    level = tile.level * _TILE_HEIGHT
    first = tile.index * TILE_WIDTH
    return b"".join(tree.node(level, first + offset) for offset in range(tile.width))


def entry_bundle(entries: Sequence[bytes]) -> bytes:
    """Return 1 to 256 entries, each with its length in front (2 bytes, big-endian)."""
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise UsageError(f"an entry bundle holds 1 to {TILE_WIDTH} entries, got {len(entries)}")
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise UsageError(f"an entry has at most {MAX_ENTRY_BYTES} bytes, got {len(entry)}")
        parts.append(len(entry).to_bytes(_LENGTH_BYTES, "big"))
        parts.append(entry)
    return b"".join(parts)


def parse_entry_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """Return the `width` entries of the bundle `data`; raises `FormatError`."""
    entries: list[bytes] = []
    position = 0
    while position < len(data) and len(entries) < width:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "big")
        entries.append(data[start:position])
    # An entry that is cut short leaves the position behind the end.
    if len(entries) != width or position != len(data):
        raise FormatError(
            f"expected {width} entries in {position} bytes of the bundle, got {len(entries)} in "
            f"{len(data)} bytes"
        )
    return tuple(entries)


def parse_tile(data: bytes, width: int) -> tuple[bytes, ...]:
    """Return the `width` hashes of a tile; raises `FormatError`."""
    if len(data) != width * HASH_BYTES:
        raise FormatError(f"expected a tile of {width} hashes, got {len(data)} bytes")
    return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def resources(
    tree: MerkleTree, entry_at: Callable[[int], bytes], size: int, old_size: int = 0
) -> dict[str, bytes]:
    """Return path and bytes of every file that growth from `old_size` to `size` adds.

    Write them before the checkpoint of `size`. `entry_at` gives the entry at an index.
    """
    files: dict[str, bytes] = {}
    for tile in tiles_of_size(size, old_size):
        if tile.level is None:
            first = tile.index * TILE_WIDTH
            files[tile.path] = entry_bundle(
                [entry_at(index) for index in range(first, first + tile.width)]
            )
        else:
            files[tile.path] = tile_bytes(tree, tile)
    return files
