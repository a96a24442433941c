"""Audits of published sums, and proofs that one is false: shown and checked offline.

Guarantee: no fraud is shown that was not proved here, from the anchor, by the bytes at hand; a
proof is held against a log whose statements were verified, whoever gave either of them, and which
the coordinator signed as a whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from treaty import wiring
from treaty.cli.output import aligned
from treaty.cli.standing import is_party
from treaty.errors import UsageError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.node.auditing import DISPUTE_KEY
from treaty.protocol.consortium import Consortium
from treaty.protocol.secagg_audit import PROOF_LIMIT_BYTES
from treaty.protocol.secagg_messages import SumDisputed
from treaty.protocol.study import Study
from treaty.provenance.bundle import BLOBS
from treaty.provenance.contents import log_inside
from treaty.provenance.fraud import Fraud, verify_fraud
from treaty.provenance.verify import anchor_of, examine_bundle
from treaty.simulation.stored import StoredConsortium

__all__ = ["Audits", "Source", "check_proof", "fraud_lines", "fraud_record", "show_audits"]

_Find = Callable[[Digest], bytes]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a log is: a bundle with its anchor, or a directory and the party whose copy is read."""

    bundle: Path | None = None
    anchor: str | None = None
    directory: Path | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        """Refuse none or both of the two."""
        if (self.bundle is None) == (self.directory is None):
            raise UsageError("expected either --bundle or --dir: name one log")
        if self.bundle is not None and self.member is not None:
            raise UsageError("--member goes with --dir: a bundle holds one log")
        if self.bundle is not None and self.anchor is None:
            raise UsageError(
                "expected --anchor beside --bundle, from another source than the bundle"
            )
        if self.anchor is not None:
            anchor_of(self.anchor)

    @property
    def trusted(self) -> Digest:
        """The anchor that goes with a bundle."""
        return Digest(self.anchor or "")


@dataclass(frozen=True, slots=True)
class _Log:
    """A log at hand. `party` is whose copy it is, `value` what that party keeps under a key.

    `note` is the checkpoint of a log that others bring; a party held its own copy against it.
    """

    anchor: Digest
    entries: Sequence[bytes] = field(repr=False)
    find: _Find = field(repr=False)
    party: MemberId | None = None
    value: Callable[[str], bytes | None] = field(default=lambda _: None, repr=False)
    note: bytes | None = None

    def fraud(self, proof: bytes) -> Fraud:
        """Return what `proof` proves about this log."""
        return verify_fraud(self.entries, self.anchor, self.find, proof, self.note)


@dataclass(frozen=True, slots=True)
class Proved:
    """A fraud, who proved it, and in which entry of the log; None where it is not logged."""

    fraud: Fraud
    by: MemberId
    entry: int | None
    proof: Digest
    data: bytes = field(repr=False)

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            **fraud_record(self.fraud),
            "disputed_by": self.by,
            "disputed_in": self.entry,
            "proof": self.proof,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        where = "not in the log" if self.entry is None else f"entry {self.entry}"
        rows = [("proved by", f"{self.by}, {where}"), ("proof", self.proof)]
        head, *rest = fraud_lines(self.fraud)
        return [head, *rest, *(f"  {line}" for line in aligned(rows))]


@dataclass(frozen=True, slots=True)
class Audits:
    """What a log says of audits: the studies that are audited, and the frauds that are proved."""

    studies: tuple[Study, ...]
    proved: tuple[Proved, ...]

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "frauds": [one.record() for one in self.proved],
            "studies": [
                {
                    "audited": one.audited,
                    "phase": one.phase.value,
                    "plan": one.identity,
                    "study": one.plan.study,
                    "unaudited": len(one.unaudited),
                }
                for one in self.studies
            ],
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        said = [
            f"study {one.plan.study}: {one.audited} sums added up again by members, "
            f"{len(one.unaudited)} not"
            for one in self.studies
        ]
        for fraud in self.proved:
            said += fraud.lines()
        return said or ["no study of this log is audited, no sum is disputed"]

    def write(self, out: Path) -> list[Path]:
        """Write each proof to a new file below the directory `out`, named by its digest."""
        paths = [out / f"{one.proof}.json" for one in self.proved]
        for path, one in zip(paths, self.proved, strict=True):
            wiring.write_new_file(path, one.data)
        return paths


def show_audits(source: Source) -> Audits:
    """Return what the log of `source` says of audits, having checked every proof at hand.

    Of a party's own directory also the proofs that its coordinator did not log.
    """
    if source.bundle is None:
        return _with_log(source, _audits)
    files = wiring.read_bundle(source.bundle)
    history = examine_bundle(files, source.trusted).history
    proved = tuple(
        Proved(
            Fraud(one.author, one.study, one.entry, one.result, one.chunk),
            one.disputed_by,
            one.disputed_in,
            one.proof,
            files[BLOBS + one.proof],
        )
        for one in history.frauds
    )
    return Audits(_audited(history.state), proved)


def check_proof(proof: Path, source: Source) -> Fraud:
    """Return what the file `proof` proves about the log of `source`.

    Raises `FormatError` or `VerificationError` when it proves nothing.
    """
    data = wiring.read_file(proof, PROOF_LIMIT_BYTES)
    return _with_log(source, lambda log: log.fraud(data))


def fraud_record(fraud: Fraud) -> dict[str, object]:
    """Return a fraud for programs."""
    return {
        "author": fraud.author,
        "chunk": fraud.chunk,
        "entry": fraud.entry,
        "result": fraud.result,
        "study": fraud.plan,
    }


def fraud_lines(fraud: Fraud) -> list[str]:
    """Return a fraud for people."""
    rows = [
        ("study", fraud.plan),
        ("result", f"{fraud.result}, entry {fraud.entry}"),
        ("chunk", f"{fraud.chunk}"),
    ]
    return [f"{fraud.author} published a false sum", *(f"  {line}" for line in aligned(rows))]


def _with_log(source: Source, use: Callable[[_Log], _Result]) -> _Result:
    """Return what `use` makes of the log, of which nothing is verified yet."""
    if source.bundle is not None:
        entries, find, note = log_inside(wiring.read_bundle(source.bundle), source.trusted)
        return use(_Log(source.trusted, entries, find, note=note))
    directory = source.directory or Path()
    own = is_party(directory)
    if own and source.member is not None:
        raise UsageError(f"{directory} is one party's directory: leave --member out")
    if own:
        from treaty.deployment.places import load_party

        party = load_party(directory)
        name, anchor, place = MemberId(party.name), party.anchor, directory
    else:
        stored = StoredConsortium(directory)
        name = stored.coordinator if source.member is None else MemberId(source.member)
        if name not in stored.parties():
            raise UsageError(f"expected one of {', '.join(stored.parties())}, got {name}")
        anchor, place = stored.anchor, directory / "parties" / name
    if source.anchor is not None and source.anchor != anchor:
        raise VerificationError(
            f"{directory} is of the consortium {anchor[:16]}, not of {source.anchor[:16]}",
            code="wrong-anchor",
        )
    with wiring.stored_log(place) as log:
        return use(_Log(anchor, log.entries, log.find, name, log.value))


def _audits(log: _Log) -> Audits:
    state = Consortium(log.anchor)
    found: list[Proved] = []
    for index, entry in enumerate(log.entries):
        state, verified = state.apply(entry, log.find)
        body = verified.predicate
        if isinstance(body, SumDisputed):
            found.append(_proved(log, Digest(body.proof), verified.author, index))
    logged = {one.proof for one in found}
    for identity in state.studies:
        kept = log.value(DISPUTE_KEY + identity)
        if kept is not None and log.party is not None and kept.decode() not in logged:
            found.append(_proved(log, Digest(kept.decode()), log.party, None))
    return Audits(_audited(state), tuple(found))


def _audited(state: Consortium) -> tuple[Study, ...]:
    return tuple(one for one in state.studies.values() if one.plan.aggregation.audited)


def _proved(log: _Log, proof: Digest, by: MemberId, entry: int | None) -> Proved:
    data = log.find(proof)
    return Proved(log.fraud(data), by, entry, proof, data)
