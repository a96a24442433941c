"""T-09: supporters of a column are left out, until its coordinates in a sum are one site's own.

Three of four sites have smokers, as many as the support sum must count. It does not say which. The
coordinator knows one of them, who colludes, and leaves another out of the next sum: two are left,
and what the colluder takes away is its own. Whole nodes neither contribute nor answer; an honest
coordinator opens no such sum; of a history in which one was opened the verdict says so.

Planted faults, each seen to fail: a member that contributes whoever is asked, or answers for
whoever is left; a coordinator that asks, or seals, whoever is there; the members of the support sum
not compared; one supporter more or less than may collude and two; evaluation sums, sums before the
support or rounds without survivors counted by the verdict, or none of it said.
"""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.adversarial.test_secagg_nodes import Traitor
from tests.small_federation import SITES, contract, found, small_plan
from tests.worlds import NAMES, World
from treaty.ids import Digest
from treaty.protocol.column_support import is_supported, surely_behind, weak_sums
from treaty.protocol.messages import HaltCode
from treaty.protocol.secagg_messages import (
    InputDeclined,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    SurvivorsConfirmed,
)
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase
from treaty.provenance.bundle import Manifest
from treaty.provenance.record import Record as History
from treaty.provenance.verify import Status, _guarantees
from treaty.studies.progress import Stage

VICTIM, NON_SMOKERS, LEFT_OUT, COLLUDER = SITES
STATISTICS = 1


def no_smokers(directory: Path) -> None:
    """Write 0 into the column `smoker` of one site."""
    path = directory / "parties" / NON_SMOKERS / "data.csv"
    head, *rows = path.read_text().splitlines()
    assert head.split(",")[3] == "smoker"
    cleared = [",".join([*row.split(",")[:3], "0", *row.split(",")[4:]]) for row in rows]
    path.write_text("\n".join([head, *cleared]) + "\n")


@pytest.fixture
def traitor(tmp_path: Path) -> Traitor:
    """A coordinator that turns when the statistics are asked of all."""
    made = Traitor.__new__(Traitor)
    federation = found(tmp_path, in_memory=True, edit=no_smokers)
    made.turn(tmp_path, federation, small_plan(federation), contract(), sums=STATISTICS)
    assert min(made.study.progress.support) == 3
    return made


def journal(t: Traitor) -> str:
    return t.federation.journal_of(VICTIM)


def test_a_member_contributes_to_no_sum_without_a_supporter(traitor: Traitor) -> None:
    """Those who are asked cannot know who supports: one that is not asked counts as one."""
    t = traitor
    assert surely_behind(t.study, SITES) == 3
    over = t.sign(RoundAbandoned, context=t.round.context, code=RoundCode.TOO_FEW_INPUTS)
    ask = t.round.opened.predicate
    fields = {name: getattr(ask, name) for name in ask.__struct_fields__}
    fields |= {
        "slot": ask.slot + 1,
        "attempt": 1,
        "participants": (VICTIM, NON_SMOKERS, COLLUDER),
    }
    said = [peek(one)[1] for one in t.show(VICTIM, [over, t.sign(RoundOpened, **fields)])]
    assert [type(one) for one in said] == [InputDeclined]
    assert "declined.least-support" in journal(t)


def test_a_member_answers_for_no_set_without_a_supporter(traitor: Traitor) -> None:
    t = traitor
    said = t.show(VICTIM, t.sealed((VICTIM, NON_SMOKERS, COLLUDER)))
    kinds = {type(peek(one)[1]) for one in said}
    assert not kinds & {Reveal, SurvivorsConfirmed}
    assert "refused.least-support" in journal(t)


def test_a_member_answers_for_all_supporters(traitor: Traitor) -> None:
    """The control: the same coordinator, the same round, nobody left out."""
    said = [peek(one)[1] for one in traitor.show(VICTIM, traitor.sealed(SITES))]
    assert [type(one) for one in said] == [Reveal]


def test_an_honest_coordinator_opens_no_such_sum(tmp_path: Path) -> None:
    """The study waits for the lost site, and halts where it stays away."""
    federation = found(tmp_path, in_memory=True, capture=False, edit=no_smokers)

    def lose_one() -> None:
        study = federation.coordinator.state.running
        if study is not None and study.progress.index == STATISTICS:
            federation.network.sever(LEFT_OUT)

    study = federation.run_study(small_plan(federation), contract(), lose_one)
    assert (study.phase, study.halt_code) == (Phase.HALTED, HaltCode.TOO_FEW_MEMBERS)
    assert study.progress.index == STATISTICS
    assert weak_sums(study) == (0, 0)
    assert all(len(one.members_in) in (0, 4) for one in study.rounds)
    federation.close()


def test_the_study_goes_on_when_the_site_is_back(tmp_path: Path) -> None:
    federation = found(tmp_path, in_memory=True, capture=False, edit=no_smokers)

    def lose_one_for_a_round() -> None:
        study = federation.coordinator.state.running
        if study is None or study.progress.index != STATISTICS:
            return
        if study.attempts:
            federation.network.heal(LEFT_OUT)
        elif study.round is not None:
            federation.network.sever(LEFT_OUT)

    study = federation.run_study(small_plan(federation), contract(), lose_one_for_a_round)
    assert study.phase is Phase.COMPLETED
    assert weak_sums(study) == (0, 0)
    federation.close()


def test_an_epoch_without_a_supporter_is_given_up_for_another(tmp_path: Path) -> None:
    """Nobody is asked in vain: the site that missed the keys is waited for in the next one."""
    federation = found(tmp_path, in_memory=True, capture=False, edit=no_smokers)
    plan = small_plan(federation)
    plan = msgspec.structs.replace(
        plan, aggregation=msgspec.structs.replace(plan.aggregation, slots_per_epoch=1)
    )

    def miss_the_second_epoch() -> None:
        study = federation.coordinator.state.running
        if study is None:
            return
        if study.epochs == 2:
            federation.network.sever(LEFT_OUT)
        if study.epochs == 3:
            federation.network.heal(LEFT_OUT)

    study = federation.run_study(plan, contract(), miss_the_second_epoch)
    assert study.phase is Phase.COMPLETED and study.epochs == len(study.rounds) + 1
    assert {one.participants for one in study.rounds} == {SITES}
    federation.close()


def counted(world: World, supporters: int) -> None:
    """Run the support sum; `supporters` of all stand behind the second column."""
    world.start()
    world.open_epoch()
    world.open_round()
    world.collect()
    for name in world.names:
        world.reveal(name)
    total = world.total()
    total[1] = np.uint64(supporters)
    world.result(total)
    assert world.study.progress.stage is Stage.STATISTICS


def test_who_is_left_out_counts_as_a_supporter_and_who_joins_as_none() -> None:
    """By hand, over every set of six that can be summed, for each number of supporters."""
    for supporters in (3, 4, 6):
        world = World(6)
        counted(world, supporters)
        for gone in range(world.study.group.min_survivors, 7):
            inside = NAMES[6 - gone : 6]
            assert surely_behind(world.study, inside) == supporters - (6 - gone)
            assert is_supported(world.study, inside) == (supporters - (6 - gone) >= 3)
        assert surely_behind(world.study, (*NAMES[:4], "new.example")) == supporters - 2


def line(world: World) -> list[Status]:
    """Return the status of the verdict's line about support, if there is one."""
    none = frozenset[Digest]()
    found = _guarantees(
        History(world.state, (), none, none, 0, 0),
        Manifest(edition="full", anchor=world.state.anchor, size=1, checkpoint=world.under),
        completed=False,
        release=("release", Status.NOT_COVERED, "none"),
    )
    return [one.status for one in found if one.name == "support"]


def test_the_verdict_counts_such_sums_and_no_others() -> None:
    """A history of nodes that did not look: what everybody can compute, the verdict says."""
    world = World(6)
    counted(world, 4)
    assert weak_sums(world.study) == (0, 0)
    world.run_round(NAMES[:5])
    assert weak_sums(world.study) == (0, 0) and not line(world)
    world.open_round()
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_INPUTS)
    assert weak_sums(world.study) == (0, 0)
    world.run_round(NAMES[:4])
    assert weak_sums(world.study) == (1, 2)
    assert line(world) == [Status.NOT_COVERED]
    world.run_round(NAMES[2:])
    assert weak_sums(world.study) == (2, 2)
    while world.study.progress.stage is Stage.TRAINING:
        world.run_round()
    world.run_round(NAMES[:4])
    assert world.study.progress.stage is Stage.COMPLETED
    assert weak_sums(world.study) == (2, 2)
