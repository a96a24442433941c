"""The tree against the recursion of RFC 6962 and against pymerkle, for every small size.

Planted and caught: one prefix for leaves and nodes, an unbalanced split, `CompactRange.copy`
sharing its list or without its root, a root kept when a leaf is appended, a proof from size 0
accepted, the length of a proof unchecked, a hash of 31 bytes accepted, old root unchecked, new root
unchecked.
"""

import hashlib
import random

import pytest
from pymerkle import InmemoryTree

from treaty.errors import UsageError, VerificationError
from treaty.tlog.merkle import (
    EMPTY_ROOT,
    CompactRange,
    MerkleTree,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

ENTRIES = [f"entry {index}".encode() for index in range(40)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
TREE = MerkleTree(LEAVES)


def _recursive(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    if len(entries) <= 1:
        return hashlib.sha256(b"\x00" + entries[0] if entries else b"").digest()
    split = 1
    while 2 * split < len(entries):
        split *= 2
    halves = _recursive(entries[:split]) + _recursive(entries[split:])
    return hashlib.sha256(b"\x01" + halves).digest()


def test_roots_of_every_size_are_those_of_the_recursion() -> None:
    """The kept tree, the growing range and the definition agree."""
    growing = CompactRange()
    for size in range(len(ENTRIES) + 1):
        expected = _recursive(ENTRIES[:size])
        assert TREE.root(size) == MerkleTree(LEAVES[:size]).root() == growing.root() == expected
        assert growing.size == size
        if size < len(LEAVES):
            growing.append(LEAVES[size])


def test_roots_equal_those_of_another_implementation() -> None:
    """pymerkle grows the same tree."""
    other = InmemoryTree(algorithm="sha256")
    for size, entry in enumerate(ENTRIES, start=1):
        other.append_entry(entry)
        assert other.get_root() == TREE.root(size)


def test_a_copy_grows_apart() -> None:
    """Neither changes the other."""
    one = CompactRange(LEAVES[:3])
    two = one.copy()
    assert two.root() == TREE.root(3)
    two.append(LEAVES[3])
    assert (one.size, one.root()) == (3, TREE.root(3))
    assert (two.size, two.root()) == (4, TREE.root(4))


def test_every_inclusion_proof_holds_and_holds_only_for_its_place() -> None:
    """For all sizes up to 17: proof (i, n) verifies leaf i and no other leaf, index or size."""
    for size in range(1, 18):
        for index in range(size):
            proof = TREE.inclusion_proof(index, size)
            verify_inclusion(LEAVES[index], index, size, proof, TREE.root(size))
            for leaf, place in ((LEAVES[(index + 1) % 40], index), (LEAVES[index], index ^ 1)):
                with pytest.raises(VerificationError):
                    verify_inclusion(leaf, place, size, proof, TREE.root(size))


def test_every_consistency_proof_holds_and_only_between_its_trees() -> None:
    """For all pairs up to 17: the proof verifies, and fails for any other old or new root."""
    for new in range(1, 18):
        for old in range(1, new + 1):
            proof = TREE.consistency_proof(old, new)
            verify_consistency(old, new, TREE.root(old), TREE.root(new), proof)
            for old_root, new_root in (
                (TREE.root(old + 1), TREE.root(new)),
                (TREE.root(old), TREE.root(new + 1)),
                (EMPTY_ROOT, TREE.root(new)),
            ):
                with pytest.raises(VerificationError) as refusal:
                    verify_consistency(old, new, old_root, new_root, proof)
                assert refusal.value.code == "not-consistent"


def test_a_fork_has_no_consistency_proof() -> None:
    """A tree with one early entry changed refuses every hash of the honest proof and its own."""
    forged = MerkleTree([leaf_hash(b"forged"), *LEAVES[1:]])
    for old in range(1, 17):
        for tree in (TREE, forged):
            with pytest.raises(VerificationError):
                verify_consistency(
                    old, 17, TREE.root(old), forged.root(17), tree.consistency_proof(old, 17)
                )


def test_proofs_of_another_shape_are_refused() -> None:
    """A hash missing, added, doubled, emptied or shortened."""
    good = list(TREE.inclusion_proof(5, 13))
    step = list(TREE.consistency_proof(6, 13))
    for shape in (
        lambda proof: proof[1:],
        lambda proof: proof[:-1],
        lambda proof: [*proof, proof[-1]],
        lambda proof: [proof[0], *proof],
        lambda proof: [],
        lambda proof: [b"", *proof[1:]],
        lambda proof: [proof[0][:-1], *proof[1:]],
        lambda proof: [proof[0] + b"\0", *proof[1:]],
        lambda proof: proof[::-1],
    ):
        with pytest.raises(VerificationError):
            verify_inclusion(LEAVES[5], 5, 13, shape(good), TREE.root(13))
        with pytest.raises(VerificationError):
            verify_consistency(6, 13, TREE.root(6), TREE.root(13), shape(step))


@pytest.mark.parametrize("value", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_hash_of_another_length_is_refused_before_hashing(value: bytes) -> None:
    """Else two hashes of 31 and 33 bytes could stand for two of 32."""
    with pytest.raises(VerificationError, match="32 bytes"):
        verify_inclusion(LEAVES[0], 0, 2, [value], TREE.root(2))
    with pytest.raises(VerificationError, match="32 bytes"):
        verify_inclusion(value, 0, 2, [LEAVES[1]], TREE.root(2))
    with pytest.raises(VerificationError, match="32 bytes"):
        verify_consistency(1, 2, TREE.root(1), TREE.root(2), [value])
    with pytest.raises(VerificationError, match="32 bytes"):
        verify_consistency(1, 2, value, TREE.root(2), [LEAVES[1]])


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 1), (0, 13), (-1, 13), (13, 12)])
def test_a_proof_from_nothing_or_backwards_is_refused(old: int, new: int) -> None:
    """An empty tree is a prefix of every tree: such a proof would prove nothing."""
    roots = EMPTY_ROOT, EMPTY_ROOT if new == 0 else TREE.root(new)
    for proof in ([], [LEAVES[0]]):
        with pytest.raises(VerificationError):
            verify_consistency(old, new, *roots, proof)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (13, 13)])
def test_an_index_outside_the_tree_is_not_included(index: int, size: int) -> None:
    """Whatever the proof."""
    with pytest.raises(VerificationError, match="below the tree size"):
        verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


def test_an_inner_node_cannot_pose_as_a_leaf() -> None:
    """The prefixes separate them: the entry made of two hashes has another leaf hash."""
    pair = LEAVES[0] + LEAVES[1]
    assert leaf_hash(pair) != TREE.root(2)


def test_callers_mistakes_are_named() -> None:
    """An entry instead of its hash, a size the tree has not reached, a node that is not there."""
    for mistake in (
        lambda: CompactRange([b"entry"]),
        lambda: MerkleTree([b"entry"]),
        lambda: TREE.root(41),
        lambda: TREE.root(-1),
        lambda: TREE.inclusion_proof(3, 3),
        lambda: TREE.consistency_proof(0, 3),
        lambda: TREE.consistency_proof(4, 3),
        lambda: TREE.node(9, 0),
        lambda: TREE.node(0, 40),
    ):
        with pytest.raises(UsageError):
            mistake()


def test_proofs_hold_in_a_large_tree() -> None:
    """Sizes around powers of two up to 70,000."""
    leaves = [leaf_hash(index.to_bytes(4, "big")) for index in range(70_000)]
    tree = MerkleTree(leaves)
    draw = random.Random(1)
    for size in (255, 256, 257, 65_535, 65_536, 65_537, 70_000):
        for _ in range(20):
            index, old = draw.randrange(size), draw.randrange(1, size + 1)
            proof = tree.inclusion_proof(index, size)
            verify_inclusion(leaves[index], index, size, proof, tree.root(size))
            step = tree.consistency_proof(old, size)
            verify_consistency(old, size, tree.root(old), tree.root(size), step)
