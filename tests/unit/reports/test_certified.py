"""The privacy section of a report: every number is one of the statement's.

Planted and caught: epsilon of two sites shown as that of one; an epsilon for the holdout; the
curve read from the wrong end; shares that were there not counted.
"""

import functools

from tests.worlds import small_charter, small_contract, small_plan
from treaty.contracts.normalisation import with_public_bounds
from treaty.governance.template import CharterOptions
from treaty.models.specification import LogisticRegression
from treaty.privacy.certificate import Cohort, certificate_text
from treaty.reports.certified import privacy_lines
from treaty.reports.wording import model_in_words
from treaty.studies.calibrating import Privacy, private_model, terms_for
from treaty.studies.certificates import (
    Answered,
    PrivacyStatement,
    happened_line,
    partition_lines,
    privacy_statement,
    statement_text,
)
from treaty.studies.queries import QueryKind

CHARTER = small_charter(
    options=CharterOptions(post_quantum=False, epsilon_budget_milli=3000, delta="1e-5")
)
DATA = with_public_bounds(small_contract())
SPEC = private_model(LogisticRegression())
COHORT = Cohort(4, 3, 1)


@functools.cache
def statement(delta: float = 1e-5, shares: tuple[int, ...] = (4, 4, 3)) -> PrivacyStatement:
    terms = terms_for(
        Privacy(delta=delta, rounds=2),
        SPEC,
        DATA,
        CHARTER.privacy,
        members=4,
        max_persons_per_site=256,
    )
    plan = small_plan(CHARTER, DATA, model=SPEC, privacy=terms)
    kinds = (QueryKind.COUNT, QueryKind.DESCENT, QueryKind.DESCENT)
    answered = [Answered(*pair, COHORT) for pair in zip(kinds, shares, strict=False)]
    return privacy_statement(plan, DATA, CHARTER, answered)


def test_the_training_rows_have_their_epsilon_and_the_test_rows_none() -> None:
    training, test = privacy_lines(statement())
    assert (training.partition, training.epsilon, training.delta) == (
        "Training rows",
        "1.000",
        "1e-5",
    )
    for part in (
        "A person at one site: epsilon 1.000 when added or removed, 2.15",
        "A person at 2 sites: epsilon 2.15",
        "1 of 4: epsilon 0.80",
        "3 of 4: epsilon 1.46",
        "2 of 2 noised gradient sums, each with noise of at least 3 of 4 members",
    ):
        assert part in training.sentence, part
    assert (test.partition, test.epsilon, test.delta) == ("Test rows", None, None)
    assert test.sentence.startswith("Exact, not differentially private, accepted in the charter's")


def test_a_delta_that_is_no_power_of_ten_is_told_in_words() -> None:
    training, _ = privacy_lines(statement(delta=3e-6))
    assert training.delta is None and "at delta 1/333334" in training.sentence


def test_what_happened_counts_the_shares_that_were_there() -> None:
    """Everybody in: three honest shares where two were promised. Nothing answered: nothing."""
    planned = statement().certificates[0].lines[0].add_remove_micro
    everybody = statement(shares=(4, 4, 4)).happened
    fewer = statement(shares=(3, 3, 3)).happened
    nobody = statement(shares=()).happened
    assert everybody.epsilon_micro is not None and fewer.epsilon_micro is not None
    assert planned is not None
    assert everybody.epsilon_micro < fewer.epsilon_micro == planned
    assert (everybody.counts, everybody.gradients, everybody.fewest_shares) == (1, 2, 4)
    assert (nobody.counts, nobody.gradients, nobody.epsilon_micro) == (0, 0, 0)


def test_the_text_begins_with_a_line_for_each_partition() -> None:
    found = statement_text(statement()).splitlines()
    assert tuple(found[:2]) == partition_lines(statement())
    assert found[2] == happened_line(statement())
    assert found[3] == ""
    for certificate in statement().certificates:
        assert certificate_text(certificate) in statement_text(statement())


def test_a_study_under_noise_is_not_told_as_newtons_method() -> None:
    terms = terms_for(Privacy(), SPEC, DATA, CHARTER.privacy, members=4, max_persons_per_site=256)
    told = model_in_words(SPEC, 2, terms)
    assert "Newton" not in told
    assert "20 rounds of gradient descent over everybody on noised sums" in told
