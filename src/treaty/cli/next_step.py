"""The one thing that a role has to do now, derived from the folded log.

In a simulation the officers' decisions are scripted, so the command that goes on is always the
one that runs the consortium; what a real officer would do there is said in words.
"""

from dataclasses import dataclass
from pathlib import Path

from treaty.cli.standing import waits_for
from treaty.errors import UsageError
from treaty.governance.roles import Role
from treaty.ids import MemberId
from treaty.protocol.consortium import Consortium, ProposalRecord
from treaty.protocol.proposal import Proposal
from treaty.protocol.study import Study
from treaty.protocol.waiting import RELEASE, Awaited, awaited, unreleased
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

    A member needs a name; its own copy of the log decides. Raises `UsageError` for a name that does
    not have the role.
    """
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
        stewards = self.state.charter.holders(Role.STEWARD)
        if name is not None and name not in stewards:
            raise UsageError(f"{name} is no steward: expected one of {', '.join(stewards)}")
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
            if _may_vote(record.proposal, name):
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
        return f"treaty verify {self.stored.directory / 'bundle'} --anchor {self.stored.anchor}"


def _may_vote(proposal: Proposal, name: MemberId) -> bool:
    return not proposal.settled and name in proposal.electorate and name not in proposal.ballots


def _question(record: ProposalRecord) -> str:
    proposal = record.proposal
    return f"{proposal.action} {record.target or proposal.subject[:16]}"


def _model_of(study: Study) -> str:
    return f"model {str(study.final_model)[:16]} of study {study.plan.study}"


def _and(parties: tuple[MemberId, ...]) -> str:
    if len(parties) < 2:
        return parties[0] if parties else "the coordinator"
    return f"{', '.join(parties[:-1])} and {parties[-1]}"
