"""T-27, T-40: more sums of one class than a row allows, and a site whose own policy lowers it.

Rows of the charter's matrix, narrowed by the site's, say how often a sum may be shown. A site
contributes so often and no more, whatever is asked of it; the others go on without it.

Planted faults, each seen to fail: a site that does not look; the charter's rows in place of the
narrowed ones; a question that is repeated counted twice; inputs of others counted; another epoch's
counted, or this one's not; other studies' left out of `once`, or counted in `per-study`; inputs of
another class counted, or the row for masked inputs left out.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_federation import SITES, SmallFederation, contract, found, small_plan
from tests.worlds import NAMES, World
from treaty.errors import PolicyError
from treaty.governance.exposure import HowOften
from treaty.ids import MemberId
from treaty.models.specification import LogisticRegression
from treaty.protocol.frequency import kind_of, require_rare
from treaty.protocol.secagg_messages import RoundAbandoned, RoundCode
from treaty.protocol.study import Phase, Study
from treaty.reports.opened_sums import opened_sums
from treaty.studies.plan import AggregationSettings
from treaty.studies.queries import QueryKind

CAREFUL = SITES[-1]


def lowered(artefact: str, form: str, often: str) -> Callable[[Path], None]:
    """Return the edit that adds a row to one site's own policy."""

    def edit(directory: Path) -> None:
        path = directory / "parties" / CAREFUL / "policy.toml"
        row = f'\n[[exposure]]\nartefact = "{artefact}"\nform = "{form}"\nallow = true\n'
        path.write_text(path.read_text() + row + f'how_often = "{often}"\n')

    return edit


def founded(directory: Path, artefact: str, form: str, often: str) -> SmallFederation:
    edit = lowered(artefact, form, often)
    return found(directory, in_memory=True, capture=False, edit=edit)


def asked(study: Study, site: str = CAREFUL) -> list[QueryKind]:
    """Return the kinds of sums to which a site contributed, in order."""
    return [one.kind for one in opened_sums(study) if site in one.record.inputs]


ALL = [QueryKind.SUPPORT, QueryKind.STATISTICS, *[QueryKind.NEWTON] * 3, QueryKind.EVALUATION]


@pytest.mark.parametrize(
    ("artefact", "form", "often", "kinds"),
    [
        ("gradient-hessian-sum", "exact", "per-round", ALL),
        ("gradient-hessian-sum", "exact", "per-epoch", [*ALL[:3], *ALL[4:]]),
        ("gradient-hessian-sum", "exact", "per-study", [*ALL[:3], ALL[-1]]),
        ("masked-input", "masked", "per-epoch", [ALL[0], ALL[2], ALL[4]]),
        ("masked-input", "masked", "per-study", ALL[:1]),
    ],
)
def test_a_site_contributes_as_often_as_its_policy_says(
    tmp_path: Path, artefact: str, form: str, often: str, kinds: list[QueryKind]
) -> None:
    """Epochs are of two sums each; the three others need nothing of it."""
    federation = founded(tmp_path, artefact, form, often)
    settings = AggregationSettings(max_persons_per_site=256, slots_per_epoch=2, support_rows=1)
    study = federation.run_study(small_plan(federation, aggregation=settings), contract())
    assert study.phase is Phase.COMPLETED
    assert asked(study) == kinds and asked(study, SITES[0]) == ALL
    assert ("declined.exposure" in federation.journal_of(CAREFUL)) == (kinds != ALL)
    federation.close()


@pytest.mark.parametrize("often", ["once", "per-study"])
def test_once_is_once_in_the_log_and_not_in_each_study(tmp_path: Path, often: str) -> None:
    federation = founded(tmp_path, "statistics-sum", "exact", often)
    model = LogisticRegression(max_rounds=1)
    first = federation.run_study(small_plan(federation, "first", model=model), contract())
    second = federation.run_study(small_plan(federation, "second", model=model), contract())
    whole = [QueryKind.SUPPORT, QueryKind.STATISTICS, QueryKind.NEWTON, QueryKind.EVALUATION]
    assert asked(first) == whole
    left = [kind for kind in whole if kind is not QueryKind.STATISTICS]
    assert asked(second) == (left if often == "once" else whole)
    federation.close()


def may(world: World, member: str, often: HowOften, masked: HowOften = HowOften.ALWAYS) -> bool:
    """Say whether a member may contribute to the open round."""
    study = world.study
    assert study.round is not None
    studies = world.state.studies.values()
    try:
        require_rare(studies, study, study.round, member, masked=masked, shown=often)
    except PolicyError as refusal:
        assert refusal.code == "exposure"
        return False
    return True


def test_a_question_that_is_asked_again_is_one() -> None:
    """An input counts whatever became of its round; who sent none has its turn left."""
    world = World()
    world.start()
    world.open_epoch()
    world.run_round()
    world.run_round()
    sent, silent = NAMES[:3], NAMES[3]
    for code in (RoundCode.TOO_FEW_REVEALS, RoundCode.TOO_FEW_CONFIRMATIONS):
        world.open_round()
        assert all(may(world, name, HowOften.PER_STUDY) for name in NAMES[:4])
        world.collect(sent)
        world.say(RoundAbandoned, context=world.context, code=code)
    world.run_round(sent)
    world.open_round()
    for often in (HowOften.ONCE, HowOften.PER_STUDY, HowOften.PER_EPOCH):
        assert [may(world, name, often) for name in (*sent, silent)] == [False] * 3 + [True]
        assert not may(world, silent, HowOften.ALWAYS, masked=often)
    assert may(world, sent[0], HowOften.PER_ROUND)


def test_the_kind_of_a_question_is_that_of_the_program() -> None:
    world = World()
    world.start()
    world.run_study()
    study = world.study
    assert [kind_of(study, one.record.round) for one in opened_sums(study)] == [
        one.kind for one in opened_sums(study)
    ]
    assert MemberId(NAMES[0]) in study.rounds[-1].inputs
