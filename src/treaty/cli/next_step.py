"""The one thing that a role has to do now, derived from the folded log.

In a simulation the officers' decisions are scripted, so the command that goes on is always the
one that runs the consortium; what a real officer would do there is said in words. In the directory
of one party of a real consortium it is that party's own command.
"""

from dataclasses import dataclass
from pathlib import Path

from treaty.cli.network_files import party_standing
from treaty.cli.output import verify_command
from treaty.cli.release_view import release_status
from treaty.cli.standing import is_party, waits_for
from treaty.deployment.places import is_running, load_party
from treaty.errors import UsageError
from treaty.ids import Digest, MemberId
from treaty.protocol.consortium import Consortium, ProposalRecord
from treaty.protocol.study import Study
from treaty.protocol.waiting import RELEASE, Awaited, awaited, stewards, unreleased
from treaty.simulation.stored import Standing, StoredConsortium

__all__ = ["Step", "next_step"]

NOTHING = "nothing to do"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, and the command for it where there is one. `waits` is set when others are due."""

    what: str
    command: str | None = None
    waits: Awaited | None = None

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {"command": self.command, "do": self.what, "waits_for": waits_for(self.waits)}

    def lines(self) -> list[str]:
        """Return it for people."""
        return [self.what] if self.command is None else [self.what, f"  {self.command}"]


def next_step(directory: Path, role: str, member: str | None) -> Step:
    """Return what `role` has to do now in the consortium in `directory`.

    A member needs a name; its own copy of the log decides. In a party's own directory the name is
    known. Raises `UsageError` for a name that does not have the role.
    """
    if is_party(directory):
        return _next_here(directory, role, member)
    stored = StoredConsortium(directory)
    if role == "member" and member is None:
        raise UsageError("name the member with --member")
    if role in ("coordinator", "auditor") and member is not None:
        raise UsageError(f"--member is not for the role {role}")
    name = None if member is None else MemberId(member)
    if name is not None and name not in stored.charter.members:
        raise UsageError(
            f"expected one of {', '.join(sorted(stored.charter.members))}, got {member}"
        )
    desk = _Desk(stored, stored.standing(name))
    match role:
        case "coordinator":
            return desk.for_coordinator()
        case "auditor":
            return desk.for_auditor()
        case "steward":
            return desk.for_steward(name)
        case _:
            return desk.for_member(MemberId(str(name)))


@dataclass(frozen=True, slots=True)
class _Desk:
    """What lies before the one who asks."""

    stored: StoredConsortium
    standing: Standing

    @property
    def state(self) -> Consortium:
        return self.standing.state

    def for_coordinator(self) -> Step:
        """The coordinator runs the log, and exports it when all is done."""
        waits = awaited(self.state)
        if waits is None:
            return self._export() or Step(NOTHING)
        if not waits.parties or self.stored.coordinator in waits.parties:
            return self._run(f"go on: {waits.what}", waits)
        return self._wait(waits)

    def for_member(self, name: MemberId) -> Step:
        """A member votes, keeps its node running, and otherwise waits."""
        if self.state.membership is None:
            return self._run("run your node: your log is empty", None)
        if name in self.state.members.history.excluded():
            return Step(f"{NOTHING}: {name} is suspended")
        vote = self._vote(name)
        if vote is not None:
            return vote
        if self.stored.standing().state.size > self.state.size:
            return self._run("run your node: it does not hold the whole log", None)
        waits = awaited(self.state)
        if waits is None:
            return Step(NOTHING)
        if name in waits.parties and waits.what != RELEASE:
            return self._run(f"run your node: {waits.what}", waits)
        return self._wait(waits)

    def for_steward(self, name: MemberId | None) -> Step:
        """A steward approves releases, and votes where the charter asks stewards."""
        if self.state.membership is None:
            return Step("wait for the founding charter")
        holders = stewards(self.state)
        if name is not None and name not in holders:
            raise UsageError(f"{name} is no steward: expected one of {', '.join(holders)}")
        vote = None if name is None else self._vote(name)
        if vote is not None:
            return vote
        for study in self.state.studies.values():
            if unreleased(self.state, study):
                return self._run(f"approve the release of {_model_of(study)}", None)
        waits = awaited(self.state)
        return Step(NOTHING) if waits is None else self._wait(waits)

    def for_auditor(self) -> Step:
        """An auditor verifies what has been exported."""
        if (self.stored.directory / "bundle").is_dir():
            return Step(
                "verify the bundle, with the anchor that came to you another way", self._verify()
            )
        waits = awaited(self.state)
        if waits is not None:
            return self._wait(waits)
        return Step("ask the coordinator for a bundle", self._export_command())

    def _vote(self, name: MemberId) -> Step | None:
        for number, record in self.state.proposals.items():
            if _may_vote(record, name):
                return Step(
                    f"vote on proposal {number[:16]}: {_question(record)}",
                    f"treaty proposal show {number[:16]} --dir {self.stored.directory} "
                    f"--member {name}",
                )
        return None

    def _wait(self, waits: Awaited) -> Step:
        return Step(f"wait for {_and(waits.parties)}: {waits.what}", None, waits)

    def _run(self, what: str, waits: Awaited | None) -> Step:
        # Only a demonstration can be taken up by a command: it knows what it was asked for.
        known = (self.stored.directory / "demo.json").exists()
        return Step(what, f"treaty demo --out {self.stored.directory}" if known else None, waits)

    def _export(self) -> Step | None:
        if not self.state.studies or (self.stored.directory / "bundle").is_dir():
            return None
        return Step("export the bundle", self._export_command())

    def _export_command(self) -> str:
        return f"treaty bundle export --dir {self.stored.directory} --out BUNDLE"

    def _verify(self) -> str:
        return verify_command(self.stored.directory / "bundle", self.stored.anchor)


def _next_here(directory: Path, role: str, member: str | None) -> Step:
    """Return what `role` has to do now at the party whose directory this is."""
    if member is not None:
        raise UsageError(f"{directory} is one party's directory: leave --member out")
    party = load_party(directory)
    if party.is_hub != (role == "coordinator") and role != "auditor":
        whose = "the coordinator's" if party.is_hub else "a site's"
        raise UsageError(f"{directory} is {whose} directory: {role} has nothing to do there")
    desk = _OwnDesk(directory, MemberId(party.name), party.anchor, party_standing(directory).state)
    if desk.state.membership is None:
        return Step("wait for the founding charter") if is_running(directory) else desk.start()
    match role:
        case "auditor":
            return Step("export a bundle, then verify it", desk.export)
        case "coordinator":
            return desk.for_coordinator()
        case "steward":
            return desk.for_steward()
        case _:
            return desk.for_member()


@dataclass(frozen=True, slots=True)
class _OwnDesk:
    """What lies before the officer, engineer or operator of one party of a real consortium."""

    directory: Path
    name: MemberId
    anchor: Digest
    state: Consortium

    @property
    def export(self) -> str:
        return f"treaty bundle export --dir {self.directory} --out BUNDLE"

    def start(self) -> Step:
        kind = "coordinator" if (self.directory / "coordinator.json").is_file() else "site"
        return Step(
            f"start the process of {self.name}: it does not run",
            f"treaty {kind} up --dir {self.directory}",
        )

    def for_coordinator(self) -> Step:
        """The coordinator runs, and exports the bundle when all is done."""
        if not is_running(self.directory):
            return self.start()
        waits = awaited(self.state)
        if waits is not None:
            return self._wait(waits)
        return Step("export the bundle", self.export) if self.state.studies else Step(NOTHING)

    def for_member(self) -> Step:
        """A member votes, keeps its process running, and otherwise waits."""
        if self.name in self.state.members.history.excluded():
            return Step(f"{NOTHING}: {self.name} is suspended")
        return self._vote() or self._rest()

    def for_steward(self) -> Step:
        """A steward approves releases, and votes where the charter asks stewards."""
        holders = stewards(self.state)
        if self.name not in holders:
            raise UsageError(f"{self.name} is no steward: expected one of {', '.join(holders)}")
        vote = self._vote()
        if vote is not None:
            return vote
        for study in self.state.studies.values():
            found = release_status(self.state, study)
            if found is not None and found.stage == "not asked" and unreleased(self.state, study):
                return Step(
                    f"approve the release of {_model_of(study)}, or leave it",
                    f"treaty release approve {study.identity[:16]} --dir {self.directory}",
                )
        return self._rest()

    def _vote(self) -> Step | None:
        for number, record in self.state.proposals.items():
            if _may_vote(record, self.name):
                return Step(
                    f"vote on proposal {number[:16]}: {_question(record)}",
                    f"treaty proposal show {number[:16]} --dir {self.directory}",
                )
        return None

    def _rest(self) -> Step:
        if not is_running(self.directory):
            return self.start()
        waits = awaited(self.state)
        return Step(NOTHING) if waits is None else self._wait(waits)

    def _wait(self, waits: Awaited) -> Step:
        if waits.parties == (self.name,):
            return Step(f"{waits.what}: its process is at work", None, waits)
        return Step(f"wait for {_and(waits.parties)}: {waits.what}", None, waits)


def _may_vote(record: ProposalRecord, name: MemberId) -> bool:
    proposal = record.proposal
    due = not proposal.settled or record.rotates
    return due and name in proposal.electorate and name not in proposal.ballots


def _question(record: ProposalRecord) -> str:
    proposal = record.proposal
    return f"{proposal.action} {record.target or proposal.subject[:16]}"


def _model_of(study: Study) -> str:
    return f"model {str(study.final_model)[:16]} of study {study.plan.study}"


def _and(parties: tuple[MemberId, ...]) -> str:
    if len(parties) < 2:
        return parties[0] if parties else "the coordinator"
    return f"{', '.join(parties[:-1])} and {parties[-1]}"
