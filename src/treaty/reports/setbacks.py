"""Setbacks: whatever did not go well in a study, in the order of the log.

Declines, silent members, abandoned rounds, complaints, suspensions, the halt. Only what the log
says: closed codes and absences. A cause that a site keeps in its own journal is not here.

Rounds are numbered from 1, as in the report; the log's own counter starts at 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from treaty.ids import MemberId
from treaty.protocol.messages import HaltCode, MemberSuspended, StudyHalted, StudyOpened
from treaty.protocol.secagg_messages import (
    CloseCode,
    DeclineCode,
    EpochClosed,
    InputDeclined,
    MaskedInput,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    ShareComplaint,
    SurvivorsSealed,
)
from treaty.protocol.statements import Body
from treaty.protocol.study import Phase, Study
from treaty.reports.document import Refusal
from treaty.reports.statements import Logged

__all__ = ["statements_of", "study_refusals"]

_DECLINES = {
    DeclineCode.SITE_DECLINED: "The site sent no contribution, for a reason that it keeps.",
    DeclineCode.PROTOCOL_REFUSED: "The site's software refused the round as it was opened.",
}
_ROUNDS = {
    RoundCode.TOO_FEW_INPUTS: "Too few members contributed, so no sum was opened.",
    RoundCode.TOO_FEW_CONFIRMATIONS: "Too few members confirmed whose contributions count.",
    RoundCode.TOO_FEW_REVEALS: "Too few members answered, so no sum was opened.",
    RoundCode.SEEDS_DO_NOT_HOLD: "The answers did not fit what was promised before.",
    RoundCode.CLAIMS_REFUSED: "An update was longer than the plan allows, or a claim was false.",
}
_HALTS = {
    HaltCode.LEAST_SUPPORT: "Too few sites stand behind a column, so nothing else was summed.",
    HaltCode.TOO_FEW_MEMBERS: "Too few members were left for a safe sum.",
    HaltCode.NOT_CONVERGED: "Training did not settle.",
    HaltCode.DECIDED: "The members decided to stop.",
    HaltCode.SUM_FALSE: "A member proved that a published sum was false.",
}


@dataclass(slots=True)
class _Round:
    """The open round, as far as the log has got."""

    opened: RoundOpened
    heard: set[str] = field(default_factory=set)
    sealed: bool = False

    @property
    def number(self) -> int:
        return self.opened.round + 1

    def silent(self) -> Iterator[Refusal]:
        """Yield a line for everyone who was asked and said nothing, once."""
        if self.sealed:
            return
        self.sealed = True
        for name in self.opened.participants:
            if name not in self.heard:
                yield Refusal(
                    who=name,
                    code="lost",
                    sentence="The site was asked and sent nothing in time.",
                    round=self.number,
                )


def statements_of(log: Sequence[Logged], study: Study) -> tuple[Logged, ...]:
    """Return the statements from the opening of `study` until another one opens."""
    openings = [one for one in log if isinstance(one.body, StudyOpened)]
    [first] = [one.index for one in openings if _plan_of(one.body) == study.identity]
    later = [one.index for one in openings if one.index > first]
    return tuple(log[first : later[0] if later else len(log)])


def study_refusals(log: Sequence[Logged], study: Study) -> tuple[Refusal, ...]:
    """Return every setback of `study`; `log` is the whole log."""
    found: list[Refusal] = []
    current: _Round | None = None
    absent: set[MemberId] = set()
    for one in statements_of(log, study):
        body = one.body
        match body:
            case RoundOpened():
                current = _Round(body)
                missing = set(study.group.members) - set(body.participants)
                found += [
                    Refusal(
                        who=name,
                        code="absent",
                        sentence="The site had no keys ready, so it was not asked in this epoch.",
                        round=current.number,
                    )
                    for name in sorted(missing - absent)
                ]
                absent = missing
            case MaskedInput() if current is not None:
                current.heard.add(body.author)
            case InputDeclined() if current is not None:
                current.heard.add(body.author)
                found.append(
                    Refusal(
                        who=body.author,
                        code=body.code.value,
                        sentence=_DECLINES[body.code],
                        round=current.number,
                    )
                )
            case SurvivorsSealed() if current is not None:
                found += current.silent()
            case RoundAbandoned() if current is not None:
                found += current.silent()
                found.append(
                    Refusal(
                        who=body.author,
                        code=body.code.value,
                        sentence=_ROUNDS[body.code],
                        round=current.number,
                    )
                )
                current = None
            case _:
                found += _outside_rounds(body, study)
    if study.phase is Phase.HALTED and not any(
        isinstance(one.body, StudyHalted) for one in statements_of(log, study)
    ):
        # A suspension that leaves too few members halts the study without a word.
        found.append(
            Refusal(
                who="consortium",
                code=HaltCode.TOO_FEW_MEMBERS.value,
                sentence=_HALTS[HaltCode.TOO_FEW_MEMBERS],
            )
        )
    return tuple(found)


def _outside_rounds(body: Body, study: Study) -> Iterator[Refusal]:
    match body:
        case ShareComplaint():
            yield Refusal(
                who=body.author,
                code="share-complaint",
                sentence=f"A sealed share that {body.dealer} dealt did not open.",
            )
        case EpochClosed() if body.code is CloseCode.TOO_FEW_MEMBERS:
            yield Refusal(
                who=body.author,
                code=body.code.value,
                sentence="Too few members were ready, so the epoch's keys were given up.",
            )
        case MemberSuspended():
            yield Refusal(
                who=body.target,
                code="member-suspended",
                sentence="The members suspended it; it takes no further part.",
            )
        case StudyHalted() if body.plan == study.identity:
            reason = study.progress.halt_reason
            named = f" The sum says: {reason}." if reason else ""
            yield Refusal(who=body.author, code=body.code.value, sentence=_HALTS[body.code] + named)
        case _:
            return


def _plan_of(body: Body) -> str:
    return body.plan if isinstance(body, StudyOpened) else ""
