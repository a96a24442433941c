"""T-29: a member convicts an honest coordinator by a statement that it signed twice.

A member that was lost in a round of the hybrid suite signed its readiness for the epoch again, with
other commitments to its post-quantum keys. No other statement names the one that the coordinator
logged. Put in its place, every signature of the log holds, and the published seeds, which are true,
open other commitments than that log has.

Planted faults, each seen to fail here: a log that others bring believed without its checkpoint; the
checkpoint's signature alone looked at, or its tree alone.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.forgery import Files, Forge, released_history
from tests.small_federation import SITES
from treaty.cli.audit_files import Source, check_proof
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import VerificationError
from treaty.protocol.secagg_audit import FraudProof
from treaty.protocol.secagg_messages import EpochReady, RoundResult
from treaty.provenance.fraud import verify_fraud
from treaty.provenance.verify import verify_bundle
from treaty.wiring import write_bundle

LOST = SITES[-1]


@pytest.fixture(scope="module")
def true(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return released_history(tmp_path_factory.mktemp("federation"), post_quantum=True).forge


@pytest.fixture(scope="module")
def false(true: Forge) -> Forge:
    """The log with the readiness that was not logged in place of the other."""
    ready = max(
        at
        for at in true.places(EpochReady)
        if at < lossy(true) and true.said(at, EpochReady).author == LOST
    )
    slots = len(true.said(ready, EpochReady).pair_commitments)
    return true.changed(ready, pair_commitments=("ab" * 32,) * slots)


def lossy(forge: Forge) -> int:
    """Return the place of the one result whose round lost a member."""
    [at] = [
        at for at in forge.places(RoundResult) if LOST in forge.said(at, RoundResult).round_seeds
    ]
    return at


def accusation(forge: Forge) -> bytes:
    """Return a proof that holds where the seeds do not, whatever else it says."""
    result = sha256(forge.entries[lossy(forge)])
    return canonical.encode(FraudProof(result=result, chunk=0, hashes={}, pieces={}))


def accused(tmp_path: Path, files: Files, forge: Forge) -> str:
    """Return the code with which `treaty audit check` refuses the accusation."""
    bundle, proof = tmp_path / "bundle", tmp_path / "proof.json"
    write_bundle(bundle, files)
    proof.write_bytes(accusation(forge))
    with pytest.raises(VerificationError) as caught:
        check_proof(proof, Source(bundle=bundle, anchor=forge.anchor))
    return str(caught.value.code)


def test_every_signature_of_the_altered_log_holds_and_its_sum_looks_false(false: Forge) -> None:
    """Why the entries alone convict nobody: they are all genuine signatures."""
    assert verify_fraud(false.entries, false.anchor, false.find, accusation(false)).chunk == 0


def test_a_log_that_the_coordinator_did_not_sign_convicts_nobody(
    tmp_path: Path, true: Forge, false: Forge
) -> None:
    """Neither under the checkpoint of the true log, nor under one that the member signs."""
    own = SigningKey.generate(bytes(32))
    unsigned = replace(false, keys=replace(false.keys, log=own))
    for number, (note, code) in enumerate(
        ((true.note(), "root-mismatch"), (unsigned.note(), "unsigned"))
    ):
        place = tmp_path / str(number)
        place.mkdir()
        assert accused(place, false.bundle(note=note), false) == code


def test_the_true_log_refuses_the_accusation(tmp_path: Path, true: Forge) -> None:
    assert accused(tmp_path, true.exported(), true) == "chunk-list-differs"
    verify_bundle(true.exported(), true.anchor)


def test_a_coordinator_that_signed_the_altered_log_is_convicted(
    tmp_path: Path, false: Forge
) -> None:
    """Its own signature says that this is what it logged, and published other seeds for."""
    bundle, proof = tmp_path / "bundle", tmp_path / "proof.json"
    write_bundle(bundle, false.bundle())
    proof.write_bytes(accusation(false))
    found = check_proof(proof, Source(bundle=bundle, anchor=false.anchor))
    assert found.author == "coordinator" and found.entry == lossy(false)
