"""How a consortium stands: its log, its studies, its proposals, folded again from stored bytes.

Guarantee: nothing in the consortium's directory changes. Everything said follows from the log; the
causes that sites keep in their journals are not in it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from treaty import wiring
from treaty.cli.output import aligned, verify_command
from treaty.cli.release_view import ReleaseStatus, release_status
from treaty.contracts.schema import contract_from_bytes
from treaty.crypto import canonical
from treaty.errors import PeerError, UsageError
from treaty.governance.charter import charter_digest, parse_charter, time_to_text
from treaty.governance.page import charter_diff
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.consortium import Consortium, ProposalRecord
from treaty.protocol.proposal import Choice
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.study import Phase, Study
from treaty.protocol.waiting import Awaited, awaited, awaited_in_study
from treaty.provenance.bundle import MANIFEST, Edition, Manifest
from treaty.simulation.stored import Standing, StoredConsortium
from treaty.studies.plan import parse_plan

__all__ = [
    "Exported",
    "ProposalStatus",
    "Status",
    "StudyStatus",
    "export_bundle",
    "is_party",
    "proposal_named",
    "proposal_table",
    "proposals_of",
    "status_of",
    "waits_for",
]


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written."""

    path: Path
    edition: Edition
    anchor: Digest
    files: int

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "anchor": self.anchor,
            "bundle": str(self.path),
            "edition": self.edition,
            "files": self.files,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"written {self.path}/, {self.edition} edition, {self.files} files",
            f"verify: {verify_command(self.path, self.anchor)}",
        ]


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """How one study stands."""

    study: Study
    release: ReleaseStatus | None

    @property
    def abandoned(self) -> int:
        """Return how many rounds of the study were given up."""
        return sum(one.phase is RoundPhase.ABANDONED for one in self.study.rounds)

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        study, waits = self.study, awaited_in_study(self.study)
        return {
            "abandoned_rounds": self.abandoned,
            "attempts": study.attempts,
            "epoch": None if study.epoch is None else study.epoch.number,
            "halt_code": None if study.halt_code is None else study.halt_code.value,
            "model": study.final_model,
            "phase": study.phase.value,
            "plan": study.identity,
            "release": None if self.release is None else self.release.record(),
            "released": self.release is not None and self.release.stage == "released",
            "stage": study.progress.stage.value,
            "study": study.plan.study,
            "sums": study.progress.index,
            "training_rounds": len(study.progress.trace),
            "waits_for": waits_for(waits),
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        study, progress = self.study, self.study.progress
        state = study.phase.value
        if study.halt_code is not None:
            state += f" ({study.halt_code.value})"
        rows: list[tuple[str, str]] = [("plan", study.identity)]
        if study.phase is Phase.RUNNING:
            rows.append(("stage", progress.stage.value))
        rows.append(
            ("sums", f"{progress.index} published, {len(progress.trace)} of them training rounds")
        )
        if study.epoch is not None:
            rows.append(("epoch", f"{study.epoch.number}, {study.epoch.phase.value}"))
        if study.round is not None:
            record = study.round
            sent = f"{len(record.inputs)} of {len(record.participants)} inputs"
            rest = f"{len(record.declined)} declined, {len(record.reveals)} answers"
            rows.append(("round", f"{record.phase.value}: {sent}, {rest}"))
        rows.append(
            ("abandoned", f"{self.abandoned} rounds, {study.attempts} of the present question")
        )
        if study.final_model is not None:
            rows.append(("model", study.final_model))
        if self.release is not None:
            rows += self.release.rows()
        waits = awaited_in_study(study)
        if waits is not None:
            rows.append(("waits for", _waits(waits)))
        return [f"study {study.plan.study}: {state}", *(f"  {line}" for line in aligned(rows))]


@dataclass(frozen=True, slots=True)
class Status:
    """How a consortium stands in one party's log, and how many entries each member holds."""

    standing: Standing
    mirrors: Mapping[MemberId, int]

    @property
    def current(self) -> int:
        """Return how many members hold the whole log."""
        return sum(size >= len(self.standing.entries) for size in self.mirrors.values())

    def studies(self) -> list[StudyStatus]:
        """Return the studies in the order in which they were opened."""
        state = self.standing.state
        return [StudyStatus(one, release_status(state, one)) for one in state.studies.values()]

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        state = self.standing.state
        return {
            "anchor": state.anchor,
            "charter_version": None if state.membership is None else state.charter.version,
            "clock": time_to_text(state.at) if state.at else None,
            "members_with_whole_log": self.current,
            "mirrors": dict(self.mirrors),
            "party": self.standing.party,
            "quorum": _quorum(state),
            "size": len(self.standing.entries),
            "studies": [one.record() for one in self.studies()],
            "waits_for": waits_for(awaited(state)),
            "waits_since": time_to_text(self.standing.since) if self.standing.since else None,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        standing, state = self.standing, self.standing.state
        if state.membership is None:
            return ["founded, and the log is empty: its first entry is the charter"]
        kind = " (simulation)" if state.charter.simulation else ""
        size = len(standing.entries)
        clock = time_to_text(state.at) if state.at else "not set"
        quorum = f"a checkpoint needs {_quorum(state)}"
        if self.mirrors:
            quorum = (
                f"{self.current} of {len(self.mirrors)} members hold all of it and can cosign; "
                + quorum
            )
        lines = [
            f"consortium {state.charter.consortium}{kind}, charter version {state.charter.version}",
            f"log of {standing.party}: {size} entries, clock {clock}",
            quorum,
        ]
        behind = [f"{name} ({held})" for name, held in self.mirrors.items() if held < size]
        if behind:
            lines.append(f"behind: {', '.join(behind)}")
        for one in self.studies():
            lines += one.lines()
        return [*lines, _waiting_line(awaited(state), standing.since)]


@dataclass(frozen=True, slots=True)
class ProposalStatus:
    """A proposal, and what it is about where its document is at hand."""

    number: Digest
    held: ProposalRecord
    about: str
    changes: tuple[str, ...] = ()
    """What the charter that is voted on changes."""
    amends_with: int = 0
    """How many approvals the amendment takes, where that is more than the call for it."""

    @property
    def missing(self) -> tuple[MemberId, ...]:
        """Return the voters whose ballot is missing, in order of name."""
        proposal = self.held.proposal
        return tuple(sorted(proposal.electorate - set(proposal.ballots)))

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        proposal = self.held.proposal
        return {
            "about": self.about,
            "action": proposal.action,
            "approvals": proposal.count(Choice.APPROVE),
            "changes": list(self.changes),
            "ballots": {name: choice.value for name, choice in sorted(proposal.ballots.items())},
            "electorate": sorted(proposal.electorate),
            "equivocators": sorted(proposal.equivocators),
            "missing": list(self.missing),
            "needed": proposal.approvals,
            "phase": proposal.phase.value,
            "proposal": self.number,
            "subject": proposal.subject,
            "target": self.held.target,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        proposal = self.held.proposal
        rows: list[tuple[str, str]] = [
            ("proposal", self.number),
            ("action", proposal.action),
            ("subject", proposal.subject),
            ("about", self.about),
            ("phase", proposal.phase.value),
            ("approvals", self._count()),
        ]
        rows += [(choice.value, name) for name, choice in sorted(proposal.ballots.items())]
        rows += [("no ballot", name) for name in self.missing]
        rows += [("two ballots", name) for name in sorted(proposal.equivocators)]
        if self.held.rotates:
            rows.append(("in force", f"with {self.amends_with} approvals, and when no study runs"))
        rows += [("changes", sentence) for sentence in self.changes]
        return aligned(rows)

    def row(self) -> tuple[str, ...]:
        """Return its line of the list."""
        proposal = self.held.proposal
        return (self.number[:16], proposal.action, proposal.phase.value, self._count(), self.about)

    def _count(self) -> str:
        proposal = self.held.proposal
        return (
            f"{proposal.count(Choice.APPROVE)} of {len(proposal.electorate)}, "
            f"{proposal.approvals} needed"
        )


def status_of(directory: Path, member: str | None) -> Status:
    """Return how the consortium in `directory` stands, in the coordinator's log or a member's."""
    if is_party(directory):
        return Status(_own(directory, member), {})
    stored = StoredConsortium(directory)
    standing = stored.standing(_party(member))
    return Status(standing, stored.mirrors(standing))


def proposals_of(directory: Path, member: str | None) -> list[ProposalStatus]:
    """Return the proposals in the order of the log; `UsageError` where it is empty."""
    standing = (
        _own(directory, member)
        if is_party(directory)
        else StoredConsortium(directory).standing(_party(member))
    )
    if standing.state.membership is None:
        raise UsageError("the log is empty: the consortium is not founded yet")
    return [
        ProposalStatus(
            number,
            record,
            _about(record, standing.documents, standing.state.studies),
            _changes(record, standing),
            _amends_with(standing.state),
        )
        for number, record in standing.state.proposals.items()
    ]


def proposal_named(directory: Path, member: str | None, beginning: str) -> ProposalStatus:
    """Return the one proposal whose digest has this beginning; `UsageError` if there is not one."""
    if re.fullmatch(r"[0-9a-f]{4,64}", beginning) is None:
        raise UsageError("expected at least 4 lower-case hexadecimal digits of the proposal")
    found = [one for one in proposals_of(directory, member) if one.number.startswith(beginning)]
    if len(found) != 1:
        raise UsageError(
            f"{len(found)} proposals begin with {beginning}: see `treaty proposal list`"
        )
    return found[0]


def proposal_table(found: Sequence[ProposalStatus]) -> list[str]:
    """Return the list for people."""
    if not found:
        return ["nothing was put to the vote"]
    headings = ("proposal", "action", "phase", "approvals", "about")
    return aligned([one.row() for one in found], headings)


def export_bundle(directory: Path, out: Path, edition: Edition | None) -> Exported:
    """Write the bundle of the consortium in `directory` to the new directory `out`.

    By default the full edition, at a site the attested one.
    """
    if is_party(directory):
        from treaty.deployment.followed import party_bundle

        anchor, files = party_bundle(directory, edition)
    else:
        stored = StoredConsortium(directory)
        anchor, files = stored.anchor, stored.bundle(edition or "full")
    wiring.write_bundle(out, files)
    made = canonical.decode(files[MANIFEST], Manifest).edition
    return Exported(out, made, anchor, len(files))


def waits_for(waits: Awaited | None) -> dict[str, object] | None:
    """Return what is waited for, for programs."""
    return None if waits is None else {"parties": list(waits.parties), "what": waits.what}


def _waits(waits: Awaited) -> str:
    return f"{waits.what}, from {', '.join(waits.parties)}" if waits.parties else waits.what


def _waiting_line(waits: Awaited | None, since: Timestamp | None) -> str:
    if waits is None:
        return "waits for nobody"
    return f"waits for {_waits(waits)}" + (f", since {time_to_text(since)}" if since else "")


def _quorum(state: Consortium) -> int | None:
    if state.membership is None:
        return None
    return state.members.witness_quorum


def is_party(directory: Path) -> bool:
    """Say whether `directory` is one party's of a real consortium, not a simulation's."""
    return any((directory / name).is_file() for name in ("coordinator.json", "site.json"))


def _own(directory: Path, member: str | None) -> Standing:
    """Return the log of the one party whose directory this is."""
    from treaty.cli.network_files import party_standing

    if member is not None:
        raise UsageError(f"{directory} is one party's directory: leave --member out")
    return party_standing(directory)


def _party(member: str | None) -> MemberId | None:
    return None if member is None else MemberId(member)


_AMENDING = (Action.MEMBER_ACCEPT.value, Action.KEY_ROTATE.value)


def _amends_with(state: Consortium) -> int:
    return state.charter.decisions[Action.CHARTER_AMEND].threshold


def _changes(record: ProposalRecord, standing: Standing) -> tuple[str, ...]:
    """Return what a proposed charter changes in the one that was in force when it was proposed."""
    data = standing.documents.get(record.proposal.subject)
    if data is None or record.proposal.action not in _AMENDING:
        return ()
    try:
        charter = parse_charter(data)
    except PeerError:
        # Whoever may propose can propose anything; it takes no effect.
        return ("it is no charter",)
    versions = standing.state.members.history.versions
    before = [one for one in versions if charter_digest(one) == charter.previous]
    return charter_diff(before[0], charter).sentences if before else ("it follows no version",)


_ABOUT_RELEASES = (Action.RELEASE_APPROVE.value, Action.RELEASE_ROLLBACK.value)


def _about(
    record: ProposalRecord, documents: Mapping[Digest, bytes], studies: Mapping[Digest, Study]
) -> str:
    """Return in words what a proposal is about. The document's digest was checked on reading."""
    proposal = record.proposal
    if record.target is not None:
        return f"member {record.target}"
    data = documents.get(proposal.subject)
    if data is not None and proposal.action == Action.KEY_ROTATE.value:
        return "new keys of a member"
    if proposal.action in _ABOUT_RELEASES and proposal.subject in studies:
        return f"the model of study {studies[proposal.subject].plan.study}"
    try:
        if data is not None and proposal.action == Action.CONTRACT_ADOPT.value:
            contract = contract_from_bytes(data)
            return f"contract {contract.name} {contract.version}"
        if data is not None and proposal.action == Action.STUDY_APPROVE.value:
            return f"study {parse_plan(data).study}"
    except PeerError:
        # Whoever may propose can propose anything; nobody else's list ends with it.
        return f"{proposal.subject[:16]}, which cannot be read: vote against it"
    return f"{proposal.subject[:16]}"
