"""The headline claims no more than the registered comparison does.

Planted faults that these tests caught: an inconclusive verdict called better; sites counted the
wrong way round; a margin rounded to nearest; a gap over the bound called the same; exact sums
missing from the limits; a missing evaluation not noticed.
"""

from dataclasses import replace

import pytest

from tests.unit.reports.sample import sample
from treaty.reports.document import Coverage, Verdict, Verification
from treaty.reports.findings import Tone, answers, headline, limits

DATA = sample()


@pytest.mark.parametrize(
    ("verdict", "opening", "short", "tone"),
    [
        (Verdict.SUPERIOR, "Training together beat training alone.", "Yes", Tone.GOOD),
        (Verdict.INFERIOR, "Training alone beat training together.", "No, worse", Tone.BAD),
        (Verdict.INCONCLUSIVE, "No difference was shown", "Not shown", Tone.NEUTRAL),
    ],
)
def test_the_headline_follows_the_registered_verdict_alone(
    verdict: Verdict, opening: str, short: str, tone: Tone
) -> None:
    assert DATA.evaluation is not None
    data = replace(DATA, evaluation=replace(DATA.evaluation, verdict=verdict))
    assert headline(data).startswith(opening)
    answer = answers(data)[0]
    assert (answer.short, answer.tone) == (short, tone)
    assert "+0.074" in answer.sentence and "0.087" in answer.sentence


def test_single_sites_are_counted_but_never_decide() -> None:
    assert "higher at 2 of 3 sites" in answers(DATA)[0].sentence
    assert "of 3 sites" not in answers(replace(DATA, sites=()))[0].sentence
    assert headline(DATA) == headline(replace(DATA, sites=()))


def test_a_study_that_stopped_or_was_not_evaluated_claims_nothing() -> None:
    assert headline(replace(DATA, halted="decided")) == "The study stopped before its end."
    data = replace(DATA, evaluation=None)
    assert headline(data) == "The study has no evaluation yet."
    assert answers(data)[0].short == "Not evaluated"


def test_areas_that_do_not_exist_show_nothing() -> None:
    assert DATA.evaluation is not None
    bare = replace(DATA.evaluation, auc_difference=None, auc_margin=None)
    answer = answers(replace(DATA, evaluation=bare))[0]
    assert (answer.short, answer.tone) == ("Not shown", Tone.NEUTRAL)


@pytest.mark.parametrize(
    ("gap", "short"),
    [
        ("0", "Same predictions"),
        ("1e-6", "Same predictions"),
        ("1.0001e-6", "Close, not equal"),
        ("0.01", "Close, not equal"),
        ("0.0101", "Differs"),
    ],
)
def test_pooled_and_federated_are_the_same_only_within_a_millionth(gap: str, short: str) -> None:
    assert DATA.comparison is not None
    data = replace(DATA, comparison=replace(DATA.comparison, largest_gap=gap))
    assert answers(data)[1].short == short
    assert answers(data)[1].sentence.startswith("Simulation only")


def test_without_pooled_data_the_second_answer_says_so() -> None:
    real = answers(replace(DATA, comparison=None, simulation=False))[1]
    assert real.short == "Not tested" and "stayed where they are" in real.sentence
    assert "stayed" not in answers(replace(DATA, comparison=None))[1].sentence


@pytest.mark.parametrize(
    ("status", "short"),
    [
        (Coverage.PROVED, "Verified"),
        (Coverage.ATTESTED, "Attested, not recomputed"),
        (Coverage.NOT_COVERED, "Not verified"),
    ],
)
def test_the_third_answer_is_the_verifiers_and_counts_its_guarantees(
    status: Coverage, short: str
) -> None:
    answer = answers(replace(DATA, verification=Verification(status=status, sentence="S.")))[2]
    assert answer.short == short
    assert answer.sentence == "S. Guarantees: 6 proved, 1 attested, 2 not covered."


def test_the_limits_follow_what_was_disclosed() -> None:
    names = [limit.name for limit in limits(DATA)]
    assert names[:2] == ["This was a simulation", "The sums are exact"]
    assert "Figures of single sites are shown" in names
    other = [limit.name for limit in limits(replace(DATA, noised=True, sites=()))]
    assert "The sums are exact" not in other
    assert "Figures of single sites are shown" not in other
    group = next(limit for limit in limits(DATA) if limit.name == "The group is small")
    assert "at least 3 members" in group.sentence and "over 2 honest" in group.sentence
