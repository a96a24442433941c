"""Bundle: everything needed to check a consortium's history offline, as files by path.

A bundle is a pure function of the log, its newest checkpoint and the blobs, and every byte of it is
either signed, named by a digest in something signed, or derived and therefore compared
(docs/spec/verification.md, section 2). Editions: ``full`` keeps the masked inputs, so that sums are
recomputed; ``attested`` leaves them out.

| path | what |
|---|---|
| manifest.json | edition, anchor, size, digest of the checkpoint |
| log/checkpoint, log/tile/... | the log as C2SP tlog-tiles, with all cosignatures at hand |
| blobs/<sha256> | charters, contracts, plans, opened sums; in the full edition masked inputs |
| policy | the C2SP tlog-policy that the charter implies |
| model.safetensors, normaliser.json, evaluation.json, plan.json | of the last completed study |
| privacy.json | its privacy statement, where its sums are noised |
| release.tlog-proof | inclusion proof of the release, for readers of one file |
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, Record
from treaty.errors import ResourceError, UsageError, VerificationError
from treaty.governance.charter import Charter
from treaty.ids import Digest
from treaty.protocol.membership import log_verifier, witness_verifiers
from treaty.protocol.study import Study
from treaty.provenance.privacy import study_privacy
from treaty.provenance.record import Record as History
from treaty.provenance.record import replay
from treaty.studies.plan import plan_bytes
from treaty.tlog.merkle import MerkleTree, leaf_hash
from treaty.tlog.policy import KnownLog, KnownWitness, Policy, policy_of_members
from treaty.tlog.proof import LogProof
from treaty.tlog.tiles import resources

__all__ = [
    "BLOBS",
    "CHECKPOINT",
    "LOG",
    "MANIFEST",
    "Edition",
    "Manifest",
    "derived_files",
    "export",
    "final_study",
    "policy_of",
]

Edition = Literal["full", "attested"]

MANIFEST = "manifest.json"
LOG = "log/"
CHECKPOINT = "log/checkpoint"
BLOBS = "blobs/"


class Manifest(Record, frozen=True):
    """What the bundle is. Only the anchor is trusted, and that comes from elsewhere."""

    format: Literal["treaty.bundle/v1"] = "treaty.bundle/v1"
    edition: Edition
    anchor: DigestField
    size: Count
    checkpoint: DigestField


def export(
    entries: Sequence[bytes],
    checkpoint: bytes,
    anchor: Digest,
    find: Callable[[Digest], bytes],
    has: Callable[[Digest], bool],
    edition: Edition = "full",
) -> dict[str, bytes]:
    """Return the bundle of a log with `entries`, whose cosigned note is `checkpoint`.

    `find` gives a blob by digest, `has` says whether it is at hand. The log is replayed, so a
    bundle that would not verify is not made: raises what `replay` raises, and `ResourceError`
    when the full edition lacks a masked input, `UsageError` for another edition.
    """
    if edition not in get_args(Edition):
        raise UsageError(f"expected the edition {' or '.join(get_args(Edition))}, got {edition!r}")
    history = replay(entries, anchor, find, has)
    lost = sum(not has(digest) for digest in history.inputs)
    if edition == "full" and lost:
        raise ResourceError(f"{lost} masked inputs are not at hand: export the attested edition")
    tree = MerkleTree(leaf_hash(entry) for entry in entries)
    files = {
        LOG + path: data
        for path, data in resources(tree, lambda index: entries[index], len(entries)).items()
    }
    files[CHECKPOINT] = checkpoint
    wanted = set(history.needed)
    if edition == "full":
        wanted |= history.inputs
    for digest in wanted:
        if has(digest):
            files[BLOBS + digest] = find(digest)
    manifest = Manifest(
        edition=edition,
        anchor=anchor,
        size=len(entries),
        checkpoint=canonical.sha256(checkpoint),
    )
    files[MANIFEST] = canonical.encode(manifest)
    return files | derived_files(history, tree, checkpoint)


def derived_files(history: History, tree: MerkleTree, checkpoint: bytes) -> dict[str, bytes]:
    """Return the files that follow from the replayed log: the verifier compares them."""
    files = {"policy": policy_of(history.state.members.effective).encode()}
    study = final_study(history)
    if study is None or study.final_model is None or study.progress.normaliser is None:
        return files
    progress = study.progress
    files["model.safetensors"] = progress.model.to_bytes()
    files["normaliser.json"] = canonical.encode(study.progress.normaliser.record())
    files["evaluation.json"] = canonical.encode(progress.evaluation)
    files["plan.json"] = plan_bytes(study.plan)
    privacy = study_privacy(study)
    if privacy is not None:
        files["privacy.json"] = canonical.encode(privacy)
    released = history.state.releases.get(study.final_model)
    if released is not None and study.final_model not in history.state.withdrawn:
        proof = LogProof(released, tree.inclusion_proof(released), checkpoint)
        files["release.tlog-proof"] = proof.encode()
    return files


def final_study(history: History) -> Study | None:
    """Return the last completed study, or None."""
    done = [study for study in history.state.studies.values() if study.final_model is not None]
    return done[-1] if done else None


def policy_of(charter: Charter) -> Policy:
    """Return the C2SP tlog-policy that `charter` implies. Witness lines always carry a URL.

    Raises `VerificationError` (code ``no-quorum``) when suspensions have left so few witnesses that
    no number of them suffices.
    """
    origin = charter.log.origin
    witnesses = [
        KnownWitness(member, key, f"https://{charter.consortium}/{member}/witness")
        for member, key in witness_verifiers(charter).items()
    ]
    log = KnownLog(log_verifier(charter), f"https://{origin}")
    try:
        return policy_of_members(log, witnesses, charter.secure_aggregation.max_colluders)
    except UsageError as error:
        raise VerificationError(
            f"no quorum of witnesses exists: {error}", code="no-quorum"
        ) from error
