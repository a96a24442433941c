"""What the coordinator and the sites may say of a study: its next round, its end.

Pure checks of one statement against where the study stands (docs/spec/studies.md, section 3).
"""

from collections.abc import Collection

from treaty.errors import PolicyError, VerificationError
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.messages import HaltCode, SiteReported, StudyCompleted
from treaty.protocol.secagg_lifecycle import Expected
from treaty.protocol.secagg_messages import RoundOpened
from treaty.studies.progress import Stage, StudyProgress

__all__ = ["check_completed", "check_halted", "check_report", "check_round"]


def check_round(body: RoundOpened, awaited: Expected, attempts: int) -> None:
    """Raise unless `body` opens the `awaited` round, after as many abandoned `attempts`."""
    expected = {
        "plan": awaited.plan,
        "query": awaited.query,
        "code": awaited.code,
        "model": awaited.model,
        "length": awaited.length,
        "ring_bits": awaited.ring_bits,
        "round": awaited.round,
        "attempt": attempts,
        "previous": awaited.previous,
    }
    for name, value in expected.items():
        if getattr(body, name) != value:
            raise VerificationError(
                f"the round asks for {name} {getattr(body, name)}, expected {value}",
                code=f"wrong-{name}",
            )


def check_report(
    body: SiteReported,
    progress: StudyProgress,
    members: Collection[str],
    reported: Collection[str],
    last: ClosedRound | None,
) -> None:
    """Raise unless `body` is a member's first report on the final model that it evaluated."""
    if not progress.plan.evaluation.site_figures:
        raise PolicyError("the plan asks for no site figures", code="exposure")
    if progress.stage is not Stage.COMPLETED or body.model != progress.model_digest:
        raise VerificationError("the report is on another model", code="wrong-model")
    if body.author in reported:
        raise VerificationError(f"{body.author} has reported already", code="replayed")
    if body.author not in members:
        raise VerificationError(f"{body.author} is not in the study", code="not-a-member")
    if last is None or body.author not in last.members_in:
        # A site that sent no histogram took no part in the evaluation it reports on.
        raise VerificationError(
            f"{body.author} took no part in the evaluation", code="not-in-round"
        )


def check_completed(body: StudyCompleted, progress: StudyProgress) -> None:
    """Raise unless `body` names exactly what the progress derives."""
    if progress.stage is not Stage.COMPLETED or progress.evaluation is None:
        raise VerificationError("the study is not finished", code="out-of-order")
    expected = (
        progress.model_digest,
        progress.normaliser_digest,
        progress.evaluation.digest(),
        len(progress.trace),
    )
    if (body.model, body.normaliser, body.evaluation, body.rounds) != expected:
        raise VerificationError(
            "the completed study names another model or evaluation", code="wrong-model"
        )


def check_halted(code: HaltCode, stage: Stage, *, decided: bool) -> None:
    """Raise unless a study at `stage` may be halted for `code`.

    Reasons that the log knows are those that it shows: a false sum by its proof alone, want of
    support by the support sum, the members' decision by their ballots. None hides behind another.
    """
    if code is HaltCode.SUM_FALSE:
        raise VerificationError("only the proof of a false sum says that one is", code="wrong-code")
    if code is HaltCode.LEAST_SUPPORT and stage is not Stage.HALTED:
        raise VerificationError("the study has the support it needs", code="wrong-code")
    if code is HaltCode.DECIDED and not decided:
        raise PolicyError("no ratified decision halts the study", code="sub-quorum")
    shown = {HaltCode.DECIDED} if decided else set()
    shown |= {HaltCode.LEAST_SUPPORT} if stage is Stage.HALTED else set()
    if shown and code not in shown:
        known = " or ".join(sorted(one.value for one in shown))
        raise VerificationError(
            f"the log shows another reason than {code.value}: expected {known}", code="wrong-code"
        )
    if stage is Stage.COMPLETED and code is not HaltCode.DECIDED:
        # Prevents a coordinator from burying an evaluation that it does not like.
        raise VerificationError("the study is finished: complete it", code="wrong-code")
