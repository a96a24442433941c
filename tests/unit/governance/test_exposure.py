"""Exposure: the whole space of questions, against a rule written differently.

Planted faults seen to fail: allow by default; ignoring the form; ignoring least_members; a site
row that adds an allowance; a site row that lowers least_members or raises how_often.
"""

import itertools

import pytest

from treaty.errors import PolicyError
from treaty.governance.exposure import (
    FORMS,
    Artefact,
    ExposureMatrix,
    ExposureRule,
    Form,
    HowOften,
    Narrowing,
    describe_artefact,
    narrow,
)
from treaty.governance.roles import Role
from treaty.governance.template import default_exposure

QUESTIONS = tuple(itertools.product(Artefact, Role, Form, (0, 1, 2, 3, 4)))
NEAR = tuple(
    itertools.product(
        (Artefact.MODEL_UPDATE_SUM, Artefact.SITE_METRIC, Artefact.MODEL, Artefact.VOTE),
        (Role.MEMBER, Role.AUDITOR, Role.COORDINATOR),
        (Form.EXACT, Form.NOISED),
        (2, 3, 4),
    )
)
OFTEN = tuple(HowOften)


def _rule(
    artefact: Artefact = Artefact.MODEL_UPDATE_SUM,
    form: Form = Form.EXACT,
    recipients: tuple[Role, ...] = (Role.MEMBER,),
    *,
    allow: bool = True,
    least: int = 3,
    often: HowOften = HowOften.PER_ROUND,
) -> ExposureRule:
    return ExposureRule(
        artefact=artefact,
        recipients=recipients,
        form=form,
        allow=allow,
        least_members=least,
        how_often=often,
        remediation="stop",
    )


def test_every_artefact_has_forms_and_words() -> None:
    for artefact in Artefact:
        assert describe_artefact(artefact)
        assert bool(FORMS[artefact]) == (artefact is not Artefact.RAW_DATA)


def test_an_empty_matrix_allows_nothing() -> None:
    for question in QUESTIONS:
        decision = ExposureMatrix().decide(*question)
        assert not decision.allowed
        assert decision.explain().startswith("refused: ")


def test_the_matrix_allows_exactly_what_its_rows_say() -> None:
    rules = (*default_exposure(3), _rule(Artefact.MODEL, Form.NOISED, least=2))
    matrix = ExposureMatrix(rules)
    for artefact, role, form, members in QUESTIONS:
        expected = any(
            rule.artefact is artefact
            and role in rule.recipients
            and rule.form is form
            and rule.allow
            and members >= rule.least_members
            for rule in rules
        )
        assert matrix.decide(artefact, role, form, members).allowed == expected
        if expected:
            assert matrix.require(artefact, role, form, members) in rules
        else:
            with pytest.raises(PolicyError) as refusal:
                matrix.require(artefact, role, form, members)
            assert refusal.value.code == "exposure"


def test_the_explanation_names_the_reason() -> None:
    matrix = ExposureMatrix((_rule(), _rule(Artefact.SITE_METRIC, allow=False)))
    short = matrix.decide(Artefact.MODEL_UPDATE_SUM, Role.MEMBER, Form.EXACT, 2)
    assert "at least 3 members behind it, got 2" in short.explain()
    other = matrix.decide(Artefact.MODEL_UPDATE_SUM, Role.MEMBER, Form.NOISED, 4)
    assert "it may be shown as exact" in other.explain()
    named = matrix.decide(Artefact.SITE_METRIC, Role.MEMBER, Form.EXACT, 4)
    assert "forbids" in named.explain()


@pytest.mark.parametrize("artefact", Artefact)
def test_a_row_cannot_speak_of_a_form_that_its_class_cannot_have(artefact: Artefact) -> None:
    for form in Form:
        if form in FORMS[artefact]:
            assert ExposureMatrix((_rule(artefact, form),)).rules
        else:
            with pytest.raises(PolicyError, match="cannot be shown"):
                ExposureMatrix((_rule(artefact, form),))


def test_two_rows_on_one_question_are_refused() -> None:
    with pytest.raises(PolicyError, match="two exposure rows"):
        ExposureMatrix((_rule(), _rule(recipients=(Role.AUDITOR, Role.MEMBER), allow=False)))
    with pytest.raises(PolicyError, match="names no recipient"):
        ExposureMatrix((_rule(recipients=()),))


def test_a_grant_adds_a_row_and_cannot_replace_one() -> None:
    matrix = ExposureMatrix((_rule(Artefact.SITE_METRIC, allow=False),))
    assert matrix.granted(_rule()).decide(*QUESTIONS[0]).allowed is False
    granted = matrix.granted(_rule())
    assert granted.require(Artefact.MODEL_UPDATE_SUM, Role.MEMBER, Form.EXACT, 3) == _rule()
    with pytest.raises(PolicyError):
        matrix.granted(_rule(Artefact.SITE_METRIC))


def _narrowings() -> list[Narrowing]:
    return [
        Narrowing(
            artefact=artefact,
            form=Form.EXACT,
            recipients=recipients,
            allow=allow,
            least_members=least,
            how_often=often,
        )
        for artefact in (Artefact.MODEL_UPDATE_SUM, Artefact.SITE_METRIC, Artefact.MODEL)
        for recipients in ((), (Role.MEMBER,), (Role.MEMBER, Role.AUDITOR))
        for allow in (False, True)
        for least in (None, 2, 3, 4)
        for often in (None, *OFTEN)
    ]


def test_a_site_can_only_narrow() -> None:
    """Every site row over a small charter: applied or refused, the result never allows more."""
    charter = ExposureMatrix(
        (
            _rule(recipients=(Role.MEMBER, Role.AUDITOR)),
            _rule(Artefact.SITE_METRIC, allow=False),
        )
    )
    refused = applied = 0
    for row in _narrowings():
        try:
            matrix = narrow(charter, (row,))
        except PolicyError as error:
            refused += 1
            assert error.code == "site-widens"
            assert row.artefact.value in str(error)
            assert row.allow
            continue
        applied += 1
        for question in NEAR:
            before, after = charter.decide(*question), matrix.decide(*question)
            assert before.allowed or not after.allowed
            if after.rule is not None and before.rule is not None:
                assert OFTEN.index(after.rule.how_often) <= OFTEN.index(before.rule.how_often)
        if not row.allow and row.artefact is Artefact.MODEL_UPDATE_SUM:
            for role in row.recipients or (Role.MEMBER, Role.AUDITOR):
                assert not matrix.decide(row.artefact, role, Form.EXACT, 4).allowed
    assert refused > 50
    assert applied > 50


def test_a_site_cannot_allow_what_the_charter_forbids() -> None:
    charter = ExposureMatrix((_rule(Artefact.SITE_METRIC, allow=False),))
    row = Narrowing(artefact=Artefact.SITE_METRIC, form=Form.EXACT, allow=True)
    with pytest.raises(PolicyError, match=r"site-metric to member as exact.*forbids") as refusal:
        narrow(charter, (row,))
    assert refusal.value.code == "site-widens"


def test_rows_that_the_site_leaves_alone_stay() -> None:
    charter = ExposureMatrix(default_exposure(3))
    assert all(
        narrow(charter, ()).decide(*question).allowed == charter.decide(*question).allowed
        for question in QUESTIONS
    )


def test_two_site_rows_on_one_question_are_refused() -> None:
    row = Narrowing(artefact=Artefact.MODEL_UPDATE_SUM, form=Form.EXACT)
    with pytest.raises(PolicyError, match="two rows of the site policy"):
        narrow(ExposureMatrix((_rule(),)), (row, row))
