"""Log proofs, and the frozen answers of tests/vectors/v1/tlog.json.

Planted and caught: the policy not asked, the inclusion proof not checked, extra data accepted in
strict mode, the strict mode not handed on, the blank line searched from the end, only the first
of a log's keys tried.
"""

import json
from typing import Any

import pytest

from tests.locations import PROJECT_ROOT
from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.tlog.checkpoint import (
    Checkpoint,
    add_cosignatures,
    cosign,
    open_checkpoint,
    sign,
)
from treaty.tlog.merkle import CompactRange, MerkleTree, leaf_hash
from treaty.tlog.notes import Cosigner, Signer
from treaty.tlog.policy import Policy, parse_policy
from treaty.tlog.proof import MAX_PROOF_BYTES, LogProof, parse_proof, verify_proof

VECTORS: dict[str, Any] = json.loads(
    (PROJECT_ROOT / "tests" / "vectors" / "v1" / "tlog.json").read_text(encoding="utf-8")
)
ENTRIES = [text.encode() for text in VECTORS["entries"]]
PROOF = VECTORS["proof_of_entry_4"].encode()
POLICY = parse_policy(VECTORS["policy"].encode())
KEYS = [SigningKey.generate(bytes.fromhex(seed)) for seed in VECTORS["seeds"]]
LOG = Signer("log.example/consortium", KEYS[0])
COSIGNERS = [Cosigner(f"m{at}.example/witness", KEYS[at]) for at in (1, 2)]


def test_roots_of_the_vectors() -> None:
    """Size 0 to 7."""
    growing = CompactRange()
    for size, root in enumerate(VECTORS["roots"]):
        assert growing.root().hex() == root
        if size < len(ENTRIES):
            growing.append(leaf_hash(ENTRIES[size]))


def test_checkpoint_and_cosignatures_of_the_vectors() -> None:
    """Made again from seeds and times, byte for byte, and opened strictly."""
    checkpoint = Checkpoint(LOG.name, 7, bytes.fromhex(VECTORS["roots"][7]))
    lines = [
        cosign(checkpoint, one, time_s)
        for one, time_s in zip(COSIGNERS, VECTORS["time_s"][1:], strict=True)
    ]
    data = add_cosignatures(sign(checkpoint, LOG), lines)
    assert data.decode() == VECTORS["checkpoint"]
    verifiers = [LOG.verifier, *(one.verifier for one in COSIGNERS)]
    assert [one.vkey for one in verifiers] == VECTORS["vkeys"]
    signed = open_checkpoint(data, LOG.verifier, verifiers[1:], strict=True)
    assert [one.time_s for one in signed.cosignatures] == VECTORS["time_s"][1:]


def test_the_proof_of_the_vectors() -> None:
    """Made again and verified."""
    tree = MerkleTree(map(leaf_hash, ENTRIES))
    proof = LogProof(4, tree.inclusion_proof(4), VECTORS["checkpoint"].encode())
    assert proof.encode() == PROOF
    assert parse_proof(PROOF) == proof
    assert verify_proof(PROOF, ENTRIES[4], POLICY).checkpoint.size == 7
    assert POLICY.encode().decode() == VECTORS["policy"]


REASONS = {
    "another entry's index": "not-included",
    "a hash left out": "not-included",
    "one cosignature": "no-quorum",
    "an unknown key": "unknown-key",
    "lines in another order": "",
    "extra data": "extra-data",
}


@pytest.mark.parametrize(("name", "text"), VECTORS["bad_proofs"].items())
def test_bad_proofs_of_the_vectors_are_refused_for_their_reason(name: str, text: str) -> None:
    """Each by its code; an order of lines that is not the one is a matter of format."""
    code = REASONS[name]
    with pytest.raises(VerificationError if code else FormatError) as refusal:
        verify_proof(text.encode(), ENTRIES[4], POLICY)
    assert not code or (isinstance(refusal.value, VerificationError) and refusal.value.code == code)


@pytest.mark.parametrize("name", ["an unknown key", "lines in another order", "extra data"])
def test_a_lenient_reader_accepts_what_c2sp_lets_be(name: str) -> None:
    """Such proofs are genuine; only a bundle is stricter."""
    data = VECTORS["bad_proofs"][name].encode()
    assert verify_proof(data, ENTRIES[4], POLICY, strict=False).checkpoint.size == 7


def test_every_bit_of_a_proof_counts() -> None:
    """No flip of one bit is accepted."""
    for bit in range(8 * len(PROOF)):
        changed = bytearray(PROOF)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, VerificationError)):
            verify_proof(bytes(changed), ENTRIES[4], POLICY)


def test_a_proof_is_of_one_entry() -> None:
    """Another entry of the same log is not proved."""
    for index, entry in enumerate(ENTRIES):
        if index != 4:
            with pytest.raises(VerificationError):
                verify_proof(PROOF, entry, POLICY)


def test_a_log_that_the_policy_does_not_know_is_refused() -> None:
    """Though its signature and its cosignatures are genuine."""
    unknown = Policy((), POLICY.witnesses, POLICY.groups, POLICY.quorum)
    with pytest.raises(VerificationError) as refusal:
        verify_proof(PROOF, ENTRIES[4], unknown)
    assert refusal.value.code == "unknown-log"


def test_a_log_with_two_keys_may_sign_with_either() -> None:
    """Rotation: the policy lists both keys of one origin."""
    extra = Signer(LOG.name, SigningKey.generate(bytes(32)))
    known = POLICY.logs[0]
    both = (type(known)(extra.verifier), known)
    policy = Policy(both, POLICY.witnesses, POLICY.groups, POLICY.quorum)
    assert verify_proof(PROOF, ENTRIES[4], policy).checkpoint.size == 7


HEAD = b"c2sp.org/tlog-proof@v1\n"
FORMS = {
    "nothing": b"",
    "another header": PROOF.replace(b"@v1", b"@v2"),
    "no index": PROOF.replace(b"index 4\n", b""),
    "a leading zero": PROOF.replace(b"index 4", b"index 04"),
    "a hash of 31 bytes": HEAD + b"index 4\n" + b"A" * 40 + b"AA==\n\nx",
    "64 hashes": HEAD + b"index 4\n" + (b"A" * 43 + b"=\n") * 64 + b"\nx",
    "extra behind the index": PROOF.replace(b"index 4\n", b"index 4\nextra AA==\n"),
    "two extras": PROOF.replace(b"index 4\n", b"extra AA==\nextra AA==\nindex 4\n"),
    "no checkpoint": PROOF[: PROOF.index(b"\n\n")],
    "an empty checkpoint": PROOF[: PROOF.index(b"\n\n") + 2],
    "too long": PROOF + b"x" * (1 << 17),
    "no utf-8": PROOF.replace(b"index", b"\xff"),
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS.keys())
def test_proofs_of_another_form_are_refused(data: bytes) -> None:
    """A proof has one form."""
    with pytest.raises(FormatError):
        verify_proof(data, ENTRIES[4], POLICY, strict=False)


def test_a_proof_has_an_index_line_and_an_end() -> None:
    head, _, note = PROOF.partition(b"\n\n")
    header = head.split(b"\n")[0]
    for without in (header, header + b"\n4", header + b"\nIndex 4"):
        with pytest.raises(FormatError, match="expected the index line"):
            parse_proof(without + b"\n\n" + note)
    with pytest.raises(FormatError, match=f"at most {MAX_PROOF_BYTES} bytes"):
        parse_proof(PROOF + bytes(MAX_PROOF_BYTES))


def test_proofs_that_cannot_be_are_not_constructed() -> None:
    """An index or hashes out of range."""
    for parts in ((-1, ()), (0, (b"",)), (0, (bytes(32),) * 64)):
        with pytest.raises(UsageError):
            LogProof(*parts, b"")
