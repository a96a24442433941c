"""What a member checks of a round's opening before it computes anything.

Pure checks of one statement against the member's epoch and what it derived itself from the plan and
the published sums (docs/spec/secagg.md, 6.2). `secagg_member` says in which order they come.
"""

from collections.abc import Iterable

from treaty.errors import PolicyError, VerificationError
from treaty.protocol.secagg_epoch import MemberEpoch
from treaty.protocol.secagg_lifecycle import Expected
from treaty.protocol.secagg_messages import RoundOpened

__all__ = ["check_expected", "check_participants"]


def check_participants(epoch: MemberEpoch, participants: Iterable[str]) -> None:
    """Raise unless a round asks enough dealers of the epoch, in order, this member among them.

    ``member-order``, ``not-a-member``, ``not-in-epoch``, ``not-a-participant``,
    ``too-few-participants``.
    """
    names = tuple(participants)
    epoch.group.check_order(names, "participants")
    if not set(names) <= set(epoch.dealers):
        raise VerificationError(
            "a participant dealt no shares that this member holds", code="not-in-epoch"
        )
    if epoch.me not in names:
        raise PolicyError("this member is not a participant", code="not-a-participant")
    if len(names) < epoch.group.min_survivors:
        raise PolicyError(
            f"expected at least {epoch.group.min_survivors} participants, got {len(names)}",
            code="too-few-participants",
        )


def check_expected(ask: RoundOpened, expected: Expected) -> None:
    """Raise `VerificationError` unless a round asks what the member knows it must.

    ``wrong-plan``, ``wrong-query``, ``wrong-code``, ``wrong-model``, ``wrong-shape``,
    ``wrong-round``, ``wrong-previous``.
    """
    for code, found, wanted in (
        ("wrong-plan", ask.plan, expected.plan),
        ("wrong-query", ask.query, expected.query),
        ("wrong-code", ask.code, expected.code),
        ("wrong-model", ask.model, expected.model),
        ("wrong-shape", (ask.length, ask.ring_bits), (expected.length, expected.ring_bits)),
        ("wrong-round", ask.round, expected.round),
        ("wrong-previous", ask.previous, expected.previous),
    ):
        if found != wanted:
            raise VerificationError(
                f"expected the round that the published sums lead to, found another ({code})",
                code=code,
            )
