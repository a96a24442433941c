"""Contents: what a bundle's files hold, before anything is believed of it.

The manifest, the log's entries with every tile compared, and the blobs by their digests: the first
steps of `treaty.provenance.verify`, and all that a check of single signed statements needs.
"""

from collections.abc import Callable, Mapping

from treaty.crypto import canonical
from treaty.errors import FormatError, ResourceError, VerificationError
from treaty.ids import Digest
from treaty.provenance.bundle import BLOBS, CHECKPOINT, LOG, MANIFEST, Manifest
from treaty.tlog.checkpoint import parse_unverified
from treaty.tlog.merkle import MerkleTree, leaf_hash
from treaty.tlog.tiles import parse_entry_bundle, resources, tiles_of_size

__all__ = ["finder", "log_inside", "open_blobs", "open_log", "open_manifest"]

MAX_ENTRIES = 10_000_000


def log_inside(
    files: Mapping[str, bytes], anchor: Digest
) -> tuple[list[bytes], Callable[[Digest], bytes], bytes]:
    """Return the entries of a bundle's log, its blobs by digest, its checkpoint: steps 1 and 2.

    For who holds single statements of it against their own signatures (`provenance.fraud`); whether
    anybody signed the checkpoint is not known yet.
    """
    entries, _ = open_log(files, open_manifest(files, anchor))
    return entries, finder(open_blobs(files)), files[CHECKPOINT]


def finder(blobs: Mapping[Digest, bytes]) -> Callable[[Digest], bytes]:
    """Return what gives a blob by its digest, or raises `ResourceError`."""

    def find(digest: Digest) -> bytes:
        if digest not in blobs:
            raise ResourceError(f"blob {digest[:16]} is missing")
        return blobs[digest]

    return find


def open_manifest(files: Mapping[str, bytes], anchor: Digest) -> Manifest:
    """Return the manifest; `VerificationError` when it is of another consortium or checkpoint."""
    if MANIFEST not in files or CHECKPOINT not in files:
        raise FormatError(f"expected {MANIFEST} and {CHECKPOINT} in the bundle")
    manifest = canonical.decode(files[MANIFEST], Manifest)
    if manifest.anchor != anchor:
        raise VerificationError(
            f"the bundle is of the consortium {manifest.anchor[:16]}, the anchor is {anchor[:16]}",
            code="wrong-anchor",
        )
    if canonical.sha256(files[CHECKPOINT]) != manifest.checkpoint:
        raise VerificationError(
            "the checkpoint is not the one in the manifest", code="checkpoint-differs"
        )
    return manifest


def open_log(files: Mapping[str, bytes], manifest: Manifest) -> tuple[list[bytes], MerkleTree]:
    """Return the entries and their tree, having compared every tile with it."""
    size = parse_unverified(files[CHECKPOINT]).size
    if size != manifest.size or not 0 < size <= MAX_ENTRIES:
        raise VerificationError(
            f"the checkpoint says {size} entries, the manifest {manifest.size}",
            code="checkpoint-differs",
        )
    entries: list[bytes] = []
    for tile in tiles_of_size(size):
        if tile.level is None:
            data = files.get(LOG + tile.path)
            if data is None:
                raise VerificationError(f"{tile.path} is missing", code="missing-tile")
            entries.extend(parse_entry_bundle(data, tile.width))
    if len(entries) != size:
        raise FormatError(f"expected {size} entries, found {len(entries)}")
    tree = MerkleTree(leaf_hash(entry) for entry in entries)
    for path, data in resources(tree, lambda index: entries[index], size).items():
        if files.get(LOG + path) != data:
            code = "tile-differs" if LOG + path in files else "missing-tile"
            raise VerificationError(f"{path} is not the tile of these entries", code=code)
    return entries, tree


def open_blobs(files: Mapping[str, bytes]) -> dict[Digest, bytes]:
    """Return the blobs, each compared with the digest in its name."""
    blobs: dict[Digest, bytes] = {}
    for path, data in files.items():
        if not path.startswith(BLOBS):
            continue
        digest = canonical.sha256(data)
        if path != BLOBS + digest:
            raise VerificationError(f"{path} does not have its digest", code="blob-mismatch")
        blobs[digest] = data
    return blobs
