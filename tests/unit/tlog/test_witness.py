"""The witness: forward along one history, never two, and it says why it refuses.

Planted and caught: a smaller checkpoint accepted, the same size with another root accepted, the
proof not checked, a proof accepted from size 0, the old size not compared, `check_restored`
without the fork at its own size.
"""

import pytest

from treaty.crypto.keys import SigningKey
from treaty.errors import UsageError, VerificationError
from treaty.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    add_cosignatures,
    cosign,
    open_checkpoint,
    sign,
)
from treaty.tlog.merkle import EMPTY_ROOT, MerkleTree, leaf_hash
from treaty.tlog.notes import Cosigner, Signer
from treaty.tlog.witness import Witness

LOG = Signer("log.example/consortium", SigningKey.generate(bytes(32)))
OWN = Cosigner("m1.example/witness", SigningKey.generate(b"\x01" * 32))
HONEST = MerkleTree(leaf_hash(b"entry %d" % index) for index in range(12))
FORKED = MerkleTree(leaf_hash(b"other %d" % (index // 6)) for index in range(12))


def _signed(tree: MerkleTree, size: int, *, cosigned: bool = False) -> SignedCheckpoint:
    checkpoint = Checkpoint(LOG.name, size, tree.root(size))
    data = sign(checkpoint, LOG)
    if cosigned:
        data = add_cosignatures(data, [cosign(checkpoint, OWN, 1)])
    return open_checkpoint(data, LOG.verifier, [OWN.verifier], strict=True)


def _proof(tree: MerkleTree, old: int, new: int) -> tuple[bytes, ...]:
    return tree.consistency_proof(old, new) if 0 < old <= new else ()


def _code(witness: Witness, signed: SignedCheckpoint, proof: tuple[bytes, ...]) -> str:
    with pytest.raises(VerificationError) as refusal:
        witness.consider(signed, proof)
    return refusal.value.code


def test_every_step_along_one_history_is_ordered() -> None:
    """All pairs of sizes up to 12, from nothing and at the same size included."""
    for old in range(13):
        seen = Witness(old, HONEST.root(old))
        for new in range(old, 13):
            order = seen.consider(_signed(HONEST, new), _proof(HONEST, old, new), old_size=old)
            assert order.state == Witness(new, HONEST.root(new))
            assert order.checkpoint.size == new


def test_every_step_back_is_a_conflict() -> None:
    """Rollback, though each checkpoint was genuine once."""
    for old in range(1, 13):
        for new in range(old):
            assert _code(Witness(old, HONEST.root(old)), _signed(HONEST, new), ()) == "conflict"


def test_every_fork_is_refused_with_any_proof() -> None:
    """Same size: split view. Larger: no proof of either tree leads there."""
    for old in range(1, 13):
        seen = Witness(old, HONEST.root(old))
        assert _code(seen, _signed(FORKED, old), ()) == "split-view"
        for new in range(old + 1, 13):
            for tree in (HONEST, FORKED):
                proof = _proof(tree, old, new)
                assert _code(seen, _signed(FORKED, new), proof) == "unprocessable"


def test_a_proof_that_does_not_hold_is_unprocessable() -> None:
    """Missing, superfluous, of another pair, or from size 0."""
    seen = Witness(5, HONEST.root(5))
    for proof in ((), _proof(HONEST, 6, 11), _proof(HONEST, 5, 10), (EMPTY_ROOT,) * 3):
        assert _code(seen, _signed(HONEST, 11), proof) == "unprocessable"
    assert _code(seen, _signed(HONEST, 5), (EMPTY_ROOT,)) == "unprocessable"
    assert _code(Witness(), _signed(HONEST, 5), (EMPTY_ROOT,)) == "unprocessable"


def test_a_proof_from_another_size_is_a_conflict() -> None:
    """The sender learns where this witness stands, and may try again."""
    seen = Witness(5, HONEST.root(5))
    for old in (0, 4, 6):
        with pytest.raises(VerificationError, match="from size 5") as refusal:
            seen.consider(_signed(HONEST, 11), _proof(HONEST, old, 11), old_size=old)
        assert refusal.value.code == "conflict"


def test_a_state_from_a_backup_is_found_by_its_own_cosignature() -> None:
    """Own cosignature ahead of the state, or on a fork of it: the key must be retired."""
    restored = Witness(5, HONEST.root(5))
    for published in (_signed(HONEST, 6, cosigned=True), _signed(FORKED, 5, cosigned=True)):
        with pytest.raises(VerificationError, match="retire") as refusal:
            restored.check_restored(published, OWN.verifier)
        assert refusal.value.code == "witness-behind"
    restored.check_restored(_signed(HONEST, 5, cosigned=True), OWN.verifier)
    restored.check_restored(_signed(HONEST, 4, cosigned=True), OWN.verifier)
    restored.check_restored(_signed(HONEST, 9), OWN.verifier)


def test_states_that_cannot_be_are_not_constructed() -> None:
    """A size below zero, a short root, another root of nothing."""
    for size, root in ((-1, EMPTY_ROOT), (1, b""), (0, bytes(32))):
        with pytest.raises(UsageError):
            Witness(size, root)
    assert Witness() == Witness(0, EMPTY_ROOT)
