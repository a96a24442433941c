"""The Merkle tree of the log (RFC 6962, section 2.1) and its proofs.

Guarantees (docs/spec/log.md, section 1):
  * `verify_inclusion` and `verify_consistency` raise unless the proof is exactly the one of
    RFC 6962: no hash may be missing, added or of another length.
  * A consistency proof from size 0 is refused: an empty tree is a prefix of every tree, so such
    a proof would prove nothing while looking like a proof.

Assumes that SHA-256 has no collisions. `MerkleTree` keeps every node, 64 bytes a leaf, so that a
proof costs a few look-ups; `CompactRange` keeps one node a level, enough to extend and to check.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Final

from treaty.errors import UsageError, VerificationError

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "CompactRange",
    "MerkleTree",
    "leaf_hash",
    "node_hash",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256().digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of the leaf that holds `entry`: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange:
    """A tree that can only grow: its size and the roots of its complete subtrees.

    `append` takes the *hash* of a leaf (`leaf_hash`).
    """

    __slots__ = ("_hashes", "_root", "_size")

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._size = 0
        self._hashes: list[bytes] = []
        self._root: bytes | None = EMPTY_ROOT
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash; raises `UsageError` unless it has 32 bytes."""
        _check_own_hash(leaf)
        size = self._size
        while size & 1:
            leaf = node_hash(self._hashes.pop(), leaf)
            size >>= 1
        self._hashes.append(leaf)
        self._size += 1
        self._root = None

    def root(self) -> bytes:
        """Return the root of all leaves appended so far."""
        # A checkpoint asks for it several times: when it is signed, compared and cosigned.
        if self._root is None:
            root = self._hashes[-1]
            for left in reversed(self._hashes[:-1]):
                root = node_hash(left, root)
            self._root = root
        return self._root

    def copy(self) -> "CompactRange":
        """Return a tree that grows apart from this one."""
        other = CompactRange()
        other._size = self._size
        other._hashes = list(self._hashes)
        other._root = self._root
        return other


class MerkleTree:
    """A tree with every node kept, for making proofs at any size up to its own."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash; raises `UsageError` unless it has 32 bytes."""
        _check_own_hash(leaf)
        level = 0
        self._levels[0].append(leaf)
        while len(self._levels[level]) % 2 == 0:
            left, right = self._levels[level][-2:]
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(node_hash(left, right))

    def node(self, level: int, index: int) -> bytes:
        """Return the root of the complete subtree ``[index << level, (index + 1) << level)``."""
        if not (0 <= level < len(self._levels) and 0 <= index < len(self._levels[level])):
            raise UsageError(f"the tree of size {self.size} has no node {index} at level {level}")
        return self._levels[level][index]

    def root(self, size: int | None = None) -> bytes:
        """Return the root at `size` leaves, by default at all of them."""
        size = self._checked(size)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the audit path of leaf `index` in the tree of `size` leaves (RFC 6962, 2.1.1)."""
        size = self._checked(size)
        if not 0 <= index < size:
            raise UsageError(f"leaf {index} is not in a tree of {size}")
        proof: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                proof.append(self._subtree(middle, end))
                end = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        return tuple(reversed(proof))

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the first `old_size` of `size` leaves are a prefix (2.1.2).

        `old_size` is at least 1. Equal sizes have the empty proof.
        """
        size = self._checked(size)
        if not 1 <= old_size <= size:
            raise UsageError(f"old size {old_size} must be between 1 and {size}")
        proof: list[bytes] = []
        start, end = 0, size
        # Descend to the node that ends at old_size; what was split off on the way is the proof.
        while end != old_size:
            middle = start + _split(end - start)
            if old_size <= middle:
                proof.append(self._subtree(middle, end))
                end = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        if start:
            proof.append(self._subtree(start, end))
        return tuple(reversed(proof))

    def _checked(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise UsageError(f"size {size} must be between 0 and {self.size}")
        return size

    def _subtree(self, start: int, end: int) -> bytes:
        """Root of a range that starts at a multiple of the power of two at or above its width."""
        width = end - start
        level = width.bit_length() - 1
        if width == 1 << level:
            return self._levels[level][start >> level]
        middle = start + _split(width)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Raise `VerificationError` unless `proof` shows `leaf` (a hash) at `index` under `root`.

    Code ``not-included``. `size` is the number of leaves under `root`.
    """
    if not 0 <= index < size:
        raise VerificationError(
            f"expected an index below the tree size {size}, got {index}", code="not-included"
        )
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    _check_proof(proof, inner + border, "not-included")
    node = _checked_hash(leaf, "not-included")
    for level, sibling in enumerate(proof[:inner]):
        node = node_hash(sibling, node) if index >> level & 1 else node_hash(node, sibling)
    for sibling in proof[inner:]:
        node = node_hash(sibling, node)
    if not hmac.compare_digest(node, root):
        raise VerificationError("inclusion proof leads to another root", code="not-included")


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise `VerificationError` unless the old tree is a prefix of the new one.

    Code ``not-consistent``. `old_size` is at least 1: whoever has seen nothing has nothing to be
    consistent with. Equal sizes need equal roots and an empty proof.
    """
    code = "not-consistent"
    if not 1 <= old_size <= new_size:
        raise VerificationError(
            f"expected an old size between 1 and {new_size}, got {old_size}", code=code
        )
    if old_size == new_size:
        _check_proof(proof, 0, code)
        if not hmac.compare_digest(old_root, new_root):
            raise VerificationError(f"two roots for the one size {new_size}", code=code)
        return
    # The walk starts at the largest complete subtree that ends at old_size. When old_size is a
    # power of two that subtree is the old tree itself, and the proof does not repeat its root.
    shift = (old_size & -old_size).bit_length() - 1
    last = old_size - 1
    inner = (last ^ (new_size - 1)).bit_length() - shift
    border = (last >> (inner + shift)).bit_count()
    whole = old_size == 1 << shift
    _check_proof(proof, inner + border + (0 if whole else 1), code)
    seed, path = (_checked_hash(old_root, code), proof) if whole else (proof[0], proof[1:])
    position = last >> shift
    old, new = seed, seed
    for level, sibling in enumerate(path[:inner]):
        if position >> level & 1:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    for sibling in path[inner:]:
        old, new = node_hash(sibling, old), node_hash(sibling, new)
    if not hmac.compare_digest(old, old_root):
        raise VerificationError("consistency proof leads to another old root", code=code)
    if not hmac.compare_digest(new, new_root):
        raise VerificationError("consistency proof leads to another new root", code=code)


def _split(width: int) -> int:
    """Largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1


def _check_own_hash(leaf: bytes) -> None:
    if len(leaf) != HASH_BYTES:
        raise UsageError(f"a leaf is appended by its hash of 32 bytes, got {len(leaf)}")


def _checked_hash(value: bytes, code: str) -> bytes:
    if len(value) != HASH_BYTES:
        raise VerificationError(f"expected a hash of 32 bytes, got {len(value)}", code=code)
    return value


def _check_proof(proof: Sequence[bytes], expected: int, code: str) -> None:
    if len(proof) != expected:
        raise VerificationError(f"expected {expected} hashes, got {len(proof)}", code=code)
    for value in proof:
        _checked_hash(value, code)
