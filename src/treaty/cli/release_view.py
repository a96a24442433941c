"""How the release of a study's model stands: who has approved, and who has not answered yet.

Guarantee: everything said follows from the log, so that every party says the same.
"""

from dataclasses import dataclass

from treaty.governance.roles import Action
from treaty.ids import MemberId
from treaty.protocol.consortium import Consortium, ProposalRecord
from treaty.protocol.model_release import questions
from treaty.protocol.proposal import Choice, Phase
from treaty.protocol.study import Study
from treaty.protocol.waiting import stewards

__all__ = ["ReleaseStatus", "release_status"]


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """The stewards' answers to the last question about a model, and what became of it.

    `stage` is ``released``, ``withdrawn``, ``approved`` (signatures are on their way),
    ``rejected``, ``asked`` or ``not asked``.
    """

    stage: str
    approved: tuple[MemberId, ...]
    against: tuple[MemberId, ...]
    missing: tuple[MemberId, ...]
    needed: int

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "against": list(self.against),
            "approved": list(self.approved),
            "missing": list(self.missing),
            "needed": self.needed,
            "stage": self.stage,
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return it for people."""
        match self.stage:
            case "released":
                said = "yes"
            case "withdrawn":
                said = "withdrawn by its stewards"
            case "approved":
                said = f"no: approved by {', '.join(self.approved)}, their signatures are awaited"
            case _:
                said = f"no: {len(self.approved)} of {self.needed} approvals"
        rows = [("released", said)]
        if self.stage in ("asked", "rejected"):
            rows += [("approved", ", ".join(self.approved))] if self.approved else []
            rows += [("against", ", ".join(self.against))] if self.against else []
        if self.stage in ("asked", "not asked"):
            rows.append(("no answer of", ", ".join(self.missing)))
        return rows


def release_status(state: Consortium, study: Study) -> ReleaseStatus | None:
    """Return how the release of the model of `study` stands, None where it has none."""
    if study.final_model is None:
        return None
    rule = state.charter.decisions.get(Action.RELEASE_APPROVE)
    needed = 0 if rule is None else rule.threshold
    given: dict[MemberId, Choice] = {}
    stage, missing = "not asked", stewards(state)
    last = _present(state, study)
    if last is not None:
        given = dict(last.proposal.ballots)
        missing = tuple(sorted(last.proposal.electorate - set(given)))
        phases = {Phase.RATIFIED: "approved", Phase.REJECTED: "rejected"}
        stage = phases.get(last.proposal.phase, "asked")
    if study.final_model in state.releases:
        stage = "withdrawn" if study.final_model in state.withdrawn else "released"
    return ReleaseStatus(
        stage,
        tuple(sorted(name for name, said in given.items() if said is Choice.APPROVE)),
        tuple(sorted(name for name, said in given.items() if said is not Choice.APPROVE)),
        missing,
        needed,
    )


def _present(state: Consortium, study: Study) -> ProposalRecord | None:
    """Return the question that counts: the nearest to an approval of those that stand."""
    asked = [one for _, one in questions(state.proposals, study.identity)]
    if study.final_model in state.releases:
        done = [one for one in asked if one.releases]
        return done[-1] if done else None
    # What lapsed was answered by nobody, and what was approved and lost its ground neither.
    stand = [one for one in asked if one.proposal.phase is not Phase.LAPSED and not one.used]
    live = [one for one in stand if one.proposal.phase is not Phase.REJECTED] or stand[-1:]
    return max(live, key=lambda one: one.proposal.count(Choice.APPROVE), default=None)
