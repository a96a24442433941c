"""Tiles: the paths of the specification's examples, and files that follow from the size alone.

Planted and caught: a full tile with a width in its path, partial tiles hashed into the level
above, a tile that grew left out, an entry's length in one byte, bytes behind a bundle accepted,
index folders without their x.
"""

import pytest

from treaty.errors import FormatError, UsageError
from treaty.tlog.merkle import CompactRange, MerkleTree, leaf_hash
from treaty.tlog.tiles import (
    MAX_ENTRY_BYTES,
    Tile,
    entry_bundle,
    parse_entry_bundle,
    parse_tile,
    resources,
    tile_bytes,
    tiles_of_size,
)

PATHS = {
    "tile/0/000": Tile(0, 0),
    "tile/0/000.p/1": Tile(0, 0, 1),
    "tile/1/x001/x234/067": Tile(1, 1_234_067),
    "tile/63/x001/000.p/255": Tile(63, 1000, 255),
    "tile/entries/999": Tile(None, 999),
    "tile/entries/x001/000.p/7": Tile(None, 1000, 7),
}


@pytest.mark.parametrize(("path", "tile"), PATHS.items(), ids=PATHS.keys())
def test_paths_are_those_of_the_specification(path: str, tile: Tile) -> None:
    """Three digits a folder, all but the last with an x; the width only when partial."""
    assert tile.path == path


def test_the_files_of_70000_entries_are_those_of_the_specification() -> None:
    """273 full tiles of level 0 and one of 112; one full and one of 17; one of 1."""
    tiles = list(tiles_of_size(70_000))
    hashes = [tile for tile in tiles if tile.level is not None]
    assert sum(tile.level == 0 and tile.width == 256 for tile in hashes) == 273
    assert [tile.path for tile in hashes if tile.width < 256] == [
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert len(hashes) == 273 + 1 + 2 + 1
    assert len(tiles) - len(hashes) == 274


def test_256_entries_are_one_full_tile_and_one_hash_above() -> None:
    """The specification's second example."""
    paths = {tile.path for tile in tiles_of_size(256)}
    assert paths == {"tile/0/000", "tile/entries/000", "tile/1/000.p/1"}


def test_growing_in_steps_writes_what_growing_at_once_needs() -> None:
    """For every step width: each file of the final size was written, with the same bytes."""
    entries = [index.to_bytes(3, "big") for index in range(600)]
    tree = MerkleTree(map(leaf_hash, entries))
    whole = resources(tree, entries.__getitem__, 600)
    for step in (1, 7, 255, 256, 257, 600):
        files: dict[str, bytes] = {}
        for old in range(0, 600, step):
            new = min(old + step, 600)
            added = resources(tree, entries.__getitem__, new, old)
            assert all(files.get(path, data) == data for path, data in added.items())
            files.update(added)
        assert {path: files[path] for path in whole} == whole
    assert resources(tree, entries.__getitem__, 600, 600) == {}
    assert list(tiles_of_size(0)) == []


def test_the_root_follows_from_the_tiles() -> None:
    """Level 1 holds the roots of full tiles; leaves of all tiles give the root."""
    entries = [bytes([index % 256]) for index in range(600)]
    tree = MerkleTree(map(leaf_hash, entries))
    leaves = [
        one
        for tile in tiles_of_size(600)
        if tile.level == 0
        for one in parse_tile(tile_bytes(tree, tile), tile.width)
    ]
    assert CompactRange(leaves).root() == tree.root()
    above = parse_tile(tile_bytes(tree, Tile(1, 0, 2)), 2)
    assert above == (CompactRange(leaves[:256]).root(), CompactRange(leaves[256:512]).root())


def test_bundles_round_trip() -> None:
    """Empty, small and largest entries."""
    entries = (b"", b"x", b"y" * MAX_ENTRY_BYTES)
    data = entry_bundle(entries)
    assert data[:5] == b"\x00\x00\x00\x01x"
    assert parse_entry_bundle(data, 3) == entries


BUNDLE = entry_bundle([b"one", b"two"])


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (BUNDLE, 1),
        (BUNDLE, 3),
        (BUNDLE[:-1], 2),
        (BUNDLE + b"\x00", 2),
        (BUNDLE + b"\x00\x00", 2),
        (BUNDLE[:6], 2),
        (b"", 1),
        (b"\x00", 1),
    ],
)
def test_bundles_of_another_form_are_refused(data: bytes, width: int) -> None:
    """The size says how many entries there are, and nothing follows them."""
    with pytest.raises(FormatError):
        parse_entry_bundle(data, width)


def test_a_tile_has_its_width() -> None:
    """32 bytes a hash."""
    with pytest.raises(FormatError):
        parse_tile(bytes(33), 1)
    with pytest.raises(FormatError):
        parse_tile(bytes(32), 2)


def test_callers_mistakes_are_named() -> None:
    """Widths, levels and sizes out of range, entries too long, a bundle asked for hashes."""
    for mistake in (
        lambda: Tile(64, 0),
        lambda: Tile(-1, 0),
        lambda: Tile(0, -1),
        lambda: Tile(0, 0, 0),
        lambda: Tile(0, 0, 257),
        lambda: list(tiles_of_size(1, 2)),
        lambda: entry_bundle([]),
        lambda: entry_bundle([b""] * 257),
        lambda: entry_bundle([b"x" * (MAX_ENTRY_BYTES + 1)]),
        lambda: tile_bytes(MerkleTree(), Tile(None, 0)),
    ):
        with pytest.raises(UsageError):
            mistake()
