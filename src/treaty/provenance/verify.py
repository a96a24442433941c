"""Verification of a bundle, offline, from one 32-byte anchor.

`verify_bundle` needs nothing but the files and the anchor. It raises on the first thing that does
not hold, with a code; otherwise it says of each guarantee whether it is proved, attested, or
not covered (docs/spec/verification.md).

Strict: every file is accounted for, every signature line is of a charter key, every reference is
present, and everything derived is derived again and compared byte for byte.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from treaty.crypto.canonical import Count, DigestField, Name, Record, Text
from treaty.errors import UsageError, VerificationError
from treaty.ids import Digest, Timestamp
from treaty.privacy.certificate import shown_epsilon
from treaty.protocol.membership import log_verifier
from treaty.provenance.bundle import (
    BLOBS,
    CHECKPOINT,
    LOG,
    MANIFEST,
    Manifest,
    derived_files,
    final_study,
    policy_of,
)
from treaty.provenance.contents import finder, open_blobs, open_log, open_manifest
from treaty.provenance.disclosures import disclosures
from treaty.provenance.privacy import LogPrivacy, log_privacy, study_privacy
from treaty.provenance.record import Record as History
from treaty.provenance.record import replay
from treaty.studies.certificates import happened_line, holdout_line, partition_lines
from treaty.tlog.checkpoint import SignedCheckpoint, open_checkpoint
from treaty.tlog.merkle import MerkleTree
from treaty.tlog.tiles import tiles_of_size

__all__ = [
    "Guarantee",
    "Status",
    "Verdict",
    "VerdictRecord",
    "anchor_of",
    "examine_bundle",
    "said_lines",
    "verify_bundle",
]


_ANCHOR = re.compile(r"[0-9a-f]{64}")


class Status(Enum):
    """How far a guarantee is established."""

    PROVED = "proved"
    ATTESTED = "attested"
    NOT_COVERED = "not covered"


class Guarantee(Record, frozen=True):
    """One claim about the history, and how far the bundle establishes it."""

    name: Name
    status: Status
    statement: Text


class VerdictRecord(Record, frozen=True):
    """The verdict as canonical JSON."""

    format: Literal["treaty.verdict/v1"] = "treaty.verdict/v1"
    verdict: Literal["holds"] = "holds"
    edition: Literal["full", "attested"]
    simulation: bool
    anchor: DigestField
    size: Count
    root: DigestField
    charter_version: Count
    cosignatures: Count
    quorum: Count
    sums_recomputed: Count
    sums_attested: Count
    model: DigestField | None
    released: bool
    guarantees: tuple[Guarantee, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a bundle that holds establishes. `history` is its replayed log."""

    history: History
    record: VerdictRecord

    def to_record(self) -> VerdictRecord:
        """Return the verdict for machines."""
        return self.record

    def lines(self) -> tuple[str, ...]:
        """Return the verdict for people, a line each."""
        return said_lines(self.record)


def said_lines(record: VerdictRecord) -> tuple[str, ...]:
    """Return a verdict's record for people, a line each."""
    head = (
        f"holds: proved to size {record.size}, {record.cosignatures} cosignatures "
        f"(quorum {record.quorum}), charter version {record.charter_version}, "
        f"edition {record.edition}"
    )
    simulated = ("simulation: the charter says so; no real site ran this",)
    return (
        head,
        *(simulated if record.simulation else ()),
        *(f"{one.status.value:<12} {one.name}: {one.statement}" for one in record.guarantees),
    )


def anchor_of(text: object) -> Digest:
    """Return the anchor that `text` spells; `UsageError` for anything but 64 hexadecimal digits."""
    if not isinstance(text, str) or _ANCHOR.fullmatch(text) is None:
        raise UsageError(
            "expected the anchor as 64 lower-case hexadecimal digits, "
            "as `treaty charter check` prints it"
        )
    return Digest(text)


def verify_bundle(
    files: Mapping[str, bytes],
    anchor: Digest,
    *,
    min_size: int | None = None,
    max_age_ms: int | None = None,
    now: Timestamp | None = None,
) -> Verdict:
    """Return the verdict on the bundle `files` of the consortium that `anchor` founded.

    1 manifest; 2 log files; 3 replay of every entry; 4 checkpoint and quorum; 5 blobs; 6 derived
    files; 7 nothing else; 8 freshness, where asked; 9 no published sum is proved false. Raises
    `FormatError` or `VerificationError`.
    """
    verdict = examine_bundle(files, anchor, min_size=min_size, max_age_ms=max_age_ms, now=now)
    if verdict.history.frauds:  # 9
        fraud = verdict.history.frauds[0]
        raise VerificationError(
            f"entry {fraud.entry}: {fraud.author} published a false sum in study "
            f"{fraud.study[:16]}, as {fraud.disputed_by} proves in entry {fraud.disputed_in}; "
            "`treaty audit show` has the proof",
            code="sum-false",
        )
    return verdict


def examine_bundle(
    files: Mapping[str, bytes],
    anchor: Digest,
    *,
    min_size: int | None = None,
    max_age_ms: int | None = None,
    now: Timestamp | None = None,
) -> Verdict:
    """Return the verdict on a bundle whose log may prove a fraud: all of `verify_bundle` but 9.

    Who asks looks at `history.frauds` before anything else. Raises as `verify_bundle` does.
    """
    if max_age_ms is not None and now is None:
        raise UsageError("a maximal age needs the present time")
    manifest = open_manifest(files, anchor)  # 1
    entries, tree = open_log(files, manifest)  # 2
    blobs = open_blobs(files)
    history = replay(entries, anchor, finder(blobs), blobs.__contains__)  # 3
    signed = _checkpoint(files[CHECKPOINT], history, tree)  # 4
    _references(blobs, history, manifest)  # 5
    derived = derived_files(history, tree, files[CHECKPOINT])  # 6
    for path, data in derived.items():
        if files.get(path) != data:
            found = "another" if path in files else "none"
            raise VerificationError(
                f"{path} follows from the log, the bundle has {found}", code="derived-differs"
            )
    known = set(derived) | {MANIFEST, CHECKPOINT} | {BLOBS + digest for digest in blobs}
    known |= {LOG + tile.path for tile in tiles_of_size(manifest.size)}
    strange = sorted(set(files) - known)  # 7
    if strange:
        raise VerificationError(f"{strange[0]} has no place in this bundle", code="strange-file")
    fresh = _freshness(history, signed, manifest, min_size, max_age_ms, now)  # 8
    return Verdict(history, _record(history, manifest, signed, tree, fresh))


def _checkpoint(note: bytes, history: History, tree: MerkleTree) -> SignedCheckpoint:
    charter = history.state.members.effective
    policy = policy_of(charter)
    signed = open_checkpoint(note, log_verifier(charter), policy.witness_keys, strict=True)
    if signed.checkpoint.root != tree.root() or signed.checkpoint.size != tree.size:
        raise VerificationError(
            "the checkpoint's root is not that of the entries", code="root-mismatch"
        )
    policy.require(signed)
    return signed


def _references(blobs: Mapping[Digest, bytes], history: History, manifest: Manifest) -> None:
    """Check that the edition has its masked inputs, those of abandoned rounds too, and no more.

    The documents that the history needs are there: the replay has read them.
    """
    allowed = set(history.needed)
    if manifest.edition == "full":
        allowed |= history.inputs
        lost = sorted(history.inputs - set(blobs))
        if lost:
            raise VerificationError(f"masked input {lost[0][:16]} is missing", code="missing-blob")
    strange = sorted(set(blobs) - allowed)
    if strange:
        raise VerificationError(
            f"nothing in the log names blob {strange[0][:16]}", code="strange-file"
        )


def _freshness(
    history: History,
    signed: SignedCheckpoint,
    manifest: Manifest,
    min_size: int | None,
    max_age_ms: int | None,
    now: Timestamp | None,
) -> Guarantee:
    if min_size is not None and manifest.size < min_size:
        raise VerificationError(
            f"the log has {manifest.size} entries, expected at least {min_size}", code="too-short"
        )
    cosigned_s = policy_of(history.state.members.effective).quorum_time_s(signed)
    if max_age_ms is None or now is None or cosigned_s is None:
        return Guarantee(
            name="freshness",
            status=Status.NOT_COVERED,
            statement=(
                f"proved to size {manifest.size}, freshness not covered: a longer log may exist; "
                "ask with a maximal age or a least size"
            ),
        )
    age_ms = now - cosigned_s * 1000
    if age_ms > max_age_ms:
        raise VerificationError(
            f"a quorum cosigned {age_ms // 1000} s ago, expected at most {max_age_ms // 1000} s",
            code="too-old",
        )
    return Guarantee(
        name="freshness",
        status=Status.PROVED,
        statement=f"a quorum cosigned {max(age_ms, 0) // 1000} s ago",
    )


def _record(
    history: History,
    manifest: Manifest,
    signed: SignedCheckpoint,
    tree: MerkleTree,
    fresh: Guarantee,
) -> VerdictRecord:
    state = history.state
    study = final_study(history)
    model = None if study is None else study.final_model
    withdrawn = None if model is None else state.withdrawn.get(model)
    released = model is not None and model in state.releases and withdrawn is None
    # Not of the charter's parameters: they do not exist when too few are left for a secure sum.
    [group] = policy_of(state.members.effective).groups
    return VerdictRecord(
        edition=manifest.edition,
        simulation=state.charter.simulation,
        anchor=state.anchor,
        size=manifest.size,
        root=tree.root().hex(),
        charter_version=state.charter.version,
        cosignatures=len(signed.cosignatures),
        quorum=group.threshold,
        sums_recomputed=history.recomputed,
        sums_attested=history.attested,
        model=model,
        released=released,
        guarantees=(
            *_guarantees(history, manifest, model is not None, _release(history, model)),
            fresh,
        ),
    )


def _audits(history: History) -> list[tuple[str, Status, str]]:
    """What members say about the sums of audited studies, in a line of its own where there are any.

    It is their signed word, unless the sums were added up again here too.
    """
    studies = [one for one in history.state.studies.values() if one.plan.aggregation.audited]
    if not studies:
        return []
    done, open_ = sum(one.audited for one in studies), sum(len(one.unaudited) for one in studies)
    status = Status.PROVED if not history.attested else Status.ATTESTED
    said = "each by more members than may collude"
    return [
        (
            "audits",
            Status.NOT_COVERED if open_ else status,
            f"{done} of {done + open_} sums of audited studies added up again by members, {said}",
        )
    ]


def _claims(history: History) -> list[tuple[str, Status, str]]:
    """Say, in a line of its own, that a study was sketched; nothing is guaranteed by that."""
    if not any(one.plan.aggregation.sketched for one in history.state.studies.values()):
        return []
    said = (
        "members' claims bound the published updates; EXPERIMENTAL, unreviewed: rely on none of it"
    )
    return [("norm-check", Status.NOT_COVERED, said)]


def _guarantees(
    history: History, manifest: Manifest, completed: bool, release: tuple[str, Status, str]
) -> tuple[Guarantee, ...]:
    proved, uncovered = Status.PROVED, Status.NOT_COVERED
    versions = len(history.state.members.history.versions)
    sums = history.recomputed + history.attested
    found = [
        ("charter", proved, f"{versions} version(s), each signed as the one before asks"),
        (
            "log",
            proved,
            (
                f"{manifest.size} entries, every signature and rule replayed; another history "
                "holds beside it only if more than the tolerated number of witnesses collude"
            ),
        ),
        (
            "exposure",
            proved,
            "every field that members put into the log is allowed by the charter's matrix",
        ),
    ]
    if sums:
        found.append(
            (
                "sums",
                proved if not history.attested else Status.ATTESTED,
                f"{history.recomputed} of {sums} published sums added up again from the masked "
                "inputs"
                + ("" if not history.attested else "; the others attested, not recomputed"),
            )
        )
    found += _audits(history)
    found += _claims(history)
    found += [(name, uncovered, said) for name, said in disclosures(history.state)]
    found.append(
        ("model", proved, "derived again from the published sums, bit for bit")
        if completed
        else ("model", uncovered, "no study is completed in this log")
    )
    found.append(release)
    found.append(
        (
            "site-data",
            uncovered,
            "that sites computed honestly on true data cannot be shown by any log",
        )
    )
    found += _privacy(history)
    return tuple(
        Guarantee(name=name, status=status, statement=statement)
        for name, status, statement in found
    )


def _release(history: History, model: Digest | None) -> tuple[str, Status, str]:
    """Say whether the last completed `model` is released, and which others of the log are.

    A log can hold more studies after a release: what the last one did says nothing about it.
    """
    state = history.state
    present = {one: at for one, at in state.releases.items() if one not in state.withdrawn}
    others = sorted(at for one, at in present.items() if one != model)
    status, said = Status.NOT_COVERED, "no release in this log"
    if model in present:
        status, said = Status.PROVED, "approved by as many stewards as the charter asks"
    elif model is not None and model in state.withdrawn:
        said = f"released, and taken back by its stewards in entry {state.withdrawn[model]}"
    elif state.releases:
        said = "the last completed model is not released"
    if others:
        listed = ", ".join(map(str, others))
        said += f"; models of other studies are released, in entries {listed}"
    return "release", status, said


def _privacy(history: History) -> list[tuple[str, Status, str]]:
    """Return one guarantee for each partition, recomputed from plan, charter and log."""
    study = final_study(history) or next(reversed(list(history.state.studies.values())), None)
    statement = None if study is None else study_privacy(study)
    if statement is None:
        exact = "sums are exact, as the charter accepts by name: no differential privacy is claimed"
        return [("privacy", Status.NOT_COVERED, exact)]
    training, holdout = partition_lines(statement)
    noised = holdout_line(statement)
    drawn = (
        f"{training}; recomputed from plan, charter and log; that each site clipped and drew the "
        "noise it committed to is attested by its signature"
    )
    return [
        ("privacy-training", Status.ATTESTED, drawn),
        ("privacy-log", Status.PROVED, happened_line(statement)),
        *(
            [("privacy-holdout", Status.NOT_COVERED, holdout)]
            if noised is None
            else [
                ("privacy-holdout", Status.ATTESTED, holdout),
                ("privacy-holdout-log", Status.PROVED, noised),
            ]
        ),
        *_beside(log_privacy(history.state)),
    ]


def _beside(log: LogPrivacy) -> Iterator[tuple[str, Status, str]]:
    """Yield what one study's epsilon does not say: other studies, exact sums, comparisons."""
    if log.private > 1:
        yield (
            "privacy-studies",
            Status.PROVED,
            (
                f"{log.private} studies under noise in this log: together epsilon "
                f"{shown_epsilon(log.epsilon_micro)} at delta 1/{log.delta_inverse} for a person "
                "in all of them; what other logs cost stands in each site's own ledger"
            ),
        )
    if log.exact:
        yield (
            "privacy-exact-studies",
            Status.NOT_COVERED,
            (
                f"{log.exact} studies with exact sums stand in this log too: no epsilon holds for "
                "a person in one of them"
            ),
        )
    if log.comparisons:
        yield (
            "privacy-comparison",
            Status.NOT_COVERED,
            (
                "the simulator's comparison is computed from all rows outside the protocol: no "
                "epsilon covers it"
            ),
        )
