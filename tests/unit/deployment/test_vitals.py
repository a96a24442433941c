"""Counts of sites in a round, from records of every kind.

Planted and caught: a site that declined counted as lost; late sites of a round that no longer
collects; a round given up before its set was sealed whose sites are all called lost; abandoned
rounds counted among the lost.
"""

from types import SimpleNamespace
from typing import cast

import pytest

from treaty.deployment.vitals import RoundMembers, _round_members, read_standing
from treaty.protocol.consortium import Consortium
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.study import Phase, Study

ALL = ("a", "b", "c", "d", "e")


def record(phase: RoundPhase, inside: str, declined: str, sent: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        phase=phase,
        participants=ALL,
        members_in=tuple(inside),
        declined=tuple(declined),
        inputs=tuple(sent),
    )


def state(running: bool, closed: list[SimpleNamespace], opened: object = None) -> Consortium:
    study = cast(
        Study,
        SimpleNamespace(
            round=opened,
            rounds=tuple(closed),
            phase=Phase.RUNNING if running else Phase.HALTED,
            finished=not running,
            final_model=None,
            history=SimpleNamespace(
                current=SimpleNamespace(coordinator=SimpleNamespace(name="hub"))
            ),
        ),
    )
    rules = SimpleNamespace(active_members=lambda: ALL)
    made = SimpleNamespace(
        membership=object(),
        members=SimpleNamespace(effective=rules, witness_quorum=4),
        studies={"p": study},
        running=study if running else None,
        proposals={},
        releases={},
        charter=SimpleNamespace(coordinator=SimpleNamespace(name="hub")),
    )
    return cast(Consortium, made)


PUBLISHED, ABANDONED = RoundPhase.PUBLISHED, RoundPhase.ABANDONED


OPEN = RoundPhase.COLLECTING, RoundPhase.REVEALING


@pytest.mark.parametrize(
    ("opened", "expected"),
    [
        (record(OPEN[0], "", "", "ab"), RoundMembers(2, 3, 0, 0)),
        (record(OPEN[0], "", "e", "ab"), RoundMembers(2, 2, 1, 0)),
        (record(OPEN[1], "abc", "e", "abc"), RoundMembers(3, 0, 1, 1)),
    ],
)
def test_who_is_late_in_the_open_round(opened: SimpleNamespace, expected: RoundMembers) -> None:
    study = cast(Study, SimpleNamespace(round=opened, rounds=()))
    assert _round_members(study) == expected


@pytest.mark.parametrize(
    ("closed", "members", "lost", "published", "abandoned"),
    [
        ([], RoundMembers(), 0, 0, 0),
        ([record(PUBLISHED, "abcde", "")], RoundMembers(5, 0, 0, 0), 0, 1, 0),
        ([record(PUBLISHED, "abc", "d")], RoundMembers(3, 0, 1, 1), 1, 1, 0),
        (
            [record(PUBLISHED, "abc", ""), record(PUBLISHED, "abcd", "e")],
            RoundMembers(4, 0, 1, 0),
            2,
            2,
            0,
        ),
        ([record(ABANDONED, "", "e")], RoundMembers(0, 0, 1, 0), 0, 0, 1),
        ([record(ABANDONED, "abcd", "")], RoundMembers(4, 0, 0, 1), 0, 0, 1),
    ],
)
def test_what_became_of_the_sites_of_rounds_that_are_over(
    closed: list[SimpleNamespace],
    members: RoundMembers,
    lost: int,
    published: int,
    abandoned: int,
) -> None:
    found = read_standing(state(False, closed), 9)
    assert found.round == members
    assert (found.members_lost, found.published, found.abandoned) == (lost, published, abandoned)
    assert (found.size, found.members, found.quorum) == (9, 5, 4)
    assert found.studies == {Phase.HALTED: 1}
