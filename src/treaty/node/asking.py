"""Asking: whom a coordinator asks for the next sum, and when it states the time, from the log.

Under noise a question goes on without a member that sent nothing to its last attempt, as another
release. An exact question waits for the members that it is bound to.
"""

from treaty.errors import UsageError
from treaty.ids import MemberId, Timestamp
from treaty.protocol.column_support import require_support
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import TimeStated
from treaty.protocol.secagg_coordinator import CoordinatorEpoch
from treaty.protocol.secagg_messages import RoundOpened
from treaty.protocol.statements import Predicate
from treaty.protocol.study import Study
from treaty.studies.queries import NOISED

__all__ = ["base_of", "circumstances_of", "next_round", "time_due"]


def next_round(study: Study, epoch: CoordinatorEpoch) -> RoundOpened:
    """Return the opening of the study's next round in a ready epoch.

    Raises `PolicyError` where too few can be asked, for the sum or for one of its columns
    (``least-support``), `VerificationError` (``fresh-releases``).
    """
    barred = _left_out(study, epoch)
    opened = epoch.next_round(study.expected_round(), attempt=study.attempts, exclude=barred)
    require_support(study, opened.participants)
    return opened


def _left_out(study: Study, epoch: CoordinatorEpoch) -> frozenset[str]:
    """Return the members of the epoch that the next round leaves out; all, if none may be asked."""
    present = frozenset(epoch.able)
    able = _reachable(study, present)
    bound, freed = study.bound_among(able, str(epoch.epoch_hash)), study.freed
    # A question that members have answered is asked of the same members or not at all, but for
    # those who approved of a difference.
    if bound is None:
        asked = able
    else:
        asked = frozenset[MemberId]() if bound - able - freed else able & (bound | freed)
    return frozenset(map(str, present - asked))


def _reachable(study: Study, present: frozenset[MemberId]) -> frozenset[MemberId]:
    """Return `present`, under noise without who was silent, where enough others are left."""
    last = study.rounds[-1] if study.attempts else None
    if last is None or study.progress.expected_query().kind not in NOISED:
        return present
    heard = present - (frozenset(last.participants) - frozenset(last.inputs))
    return heard if len(heard) >= study.group.min_survivors else present


def base_of(state: Consortium) -> dict[str, str]:
    """Return the fields that every statement of the coordinator has."""
    if state.membership is None:
        raise UsageError("expected a founded consortium")
    return {
        "charter": state.members.directory.charter,
        "author": state.charter.coordinator.name,
    }


def circumstances_of(state: Consortium) -> tuple[int, int]:
    """Return what must change before a decision that was refused may be tried again."""
    return len(state.contracts), state.charter.version


def time_due(state: Consortium, now: Timestamp) -> list[tuple[Predicate, tuple[bytes, ...]]]:
    """Return the statement of the time, unless the log says it already, or a later one.

    Two within one millisecond would be the same bytes, and no entry stands in a log twice.
    """
    return [(TimeStated(**base_of(state), at=now), ())] if now > state.at else []
