"""Site policy: nothing without it, never more than the charter with it.

Planted faults seen to fail: a missing policy treated as an empty one; each limit not compared;
site metrics left to the charter; auto-approval without its limit on rounds.
"""

import itertools

import msgspec
import pytest

from tests.unit.governance.consortia import NAMES, founding
from treaty.errors import PolicyError, UsageError
from treaty.governance.exposure import Artefact, ExposureRule, Form
from treaty.governance.roles import Role
from treaty.governance.site_policy import (
    NO_POLICY,
    AutoApproval,
    SitePolicy,
    StudyRequest,
    effective_matrix,
    permit_study,
    site_policy_from_toml,
    site_policy_template,
)

POLICY = SitePolicy(
    site=NAMES[0],
    studies=("mortality",),
    purposes=("risk of death",),
    model_kinds=("logistic-regression",),
    max_rounds_per_study=10,
    min_rows=50,
)
REQUEST = StudyRequest(
    study="mortality",
    plan_digest="ab" * 32,
    purpose="risk of death",
    model_kind="logistic-regression",
    rounds=10,
    rows=50,
    data_use=("DUO:0000006",),
)


def _request(**changes: object) -> StudyRequest:
    fields = {name: getattr(REQUEST, name) for name in StudyRequest.__slots__}
    return StudyRequest(**(fields | changes))


def test_without_a_policy_nothing_is_allowed() -> None:
    charter = founding()
    with pytest.raises(PolicyError) as refusal:
        permit_study(charter, NO_POLICY, REQUEST)
    assert refusal.value.code == "no-policy"
    matrix = effective_matrix(charter, NO_POLICY)
    for artefact, role, form in itertools.product(Artefact, Role, Form):
        assert not matrix.decide(artefact, role, form, 4).allowed


def test_a_study_within_every_limit_waits_for_the_officer() -> None:
    assert permit_study(founding(), POLICY, REQUEST) is False


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"study": "costs"}, "site-study"),
        ({"purpose": "billing"}, "site-purpose"),
        ({"model_kind": "torch-module"}, "site-model"),
        ({"rounds": 11}, "site-rounds"),
        ({"rows": 49}, "site-rows"),
        ({"data_use": ()}, "data-use"),
    ],
)
def test_each_limit_refuses_for_its_own_reason(changes: dict[str, object], code: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        permit_study(founding(), POLICY, _request(**changes))
    assert refusal.value.code == code


def test_the_number_of_rows_is_not_in_the_refusal() -> None:
    with pytest.raises(PolicyError) as refusal:
        permit_study(founding(), POLICY, _request(rows=37))
    assert "37" not in str(refusal.value)


def test_an_empty_policy_permits_no_study_and_a_star_permits_any() -> None:
    empty = SitePolicy(site=NAMES[0])
    with pytest.raises(PolicyError) as refusal:
        permit_study(founding(), empty, REQUEST)
    assert refusal.value.code == "site-study"
    anything = msgspec.structs.replace(POLICY, studies=("*",), purposes=("*",), model_kinds=("*",))
    assert permit_study(founding(), anything, _request(study="x", purpose="y")) is False


def test_auto_approval_needs_the_digest_or_the_limit() -> None:
    for listed, ratified, most in itertools.product((False, True), (False, True), (0, 9, 10)):
        rule = AutoApproval(
            plans=(REQUEST.plan_digest,) if listed else (), any_ratified=ratified, max_rounds=most
        )
        policy = msgspec.structs.replace(POLICY, auto_approve=rule)
        expected = listed or (ratified and most >= REQUEST.rounds)
        assert permit_study(founding(), policy, REQUEST) is expected


def test_a_policy_of_another_site_is_refused() -> None:
    stray = msgspec.structs.replace(POLICY, site="x.example")
    for call in (
        lambda: effective_matrix(founding(), stray),
        lambda: permit_study(founding(), stray, REQUEST),
    ):
        with pytest.raises(PolicyError) as refusal:
            call()
        assert refusal.value.code == "wrong-site"


def test_figures_of_this_site_leave_only_if_charter_and_site_say_so() -> None:
    charter = founding()
    rows = tuple(
        msgspec.structs.replace(rule, allow=True, remediation="stop")
        if rule.artefact is Artefact.SITE_METRIC
        else rule
        for rule in charter.exposure
    )
    generous = msgspec.structs.replace(charter, exposure=rows)
    question = (Artefact.SITE_METRIC, Role.MEMBER, Form.EXACT, 1)
    for permits, allowed_by in itertools.product((False, True), (charter, generous)):
        policy = msgspec.structs.replace(POLICY, site_metrics=permits)
        expected = permits and allowed_by is generous
        assert effective_matrix(allowed_by, policy).decide(*question).allowed is expected


def test_rows_of_the_policy_file_narrow_the_charter() -> None:
    charter = founding()
    text = (
        site_policy_template(NAMES[0])
        + """
[[exposure]]
artefact = "evaluation-histogram"
form = "exact"

[[exposure]]
artefact = "model-update-sum"
form = "exact"
allow = true
least_members = 4
"""
    )
    matrix = effective_matrix(charter, site_policy_from_toml(text))
    assert not matrix.recipients(Artefact.EVALUATION_HISTOGRAM, Form.EXACT)
    assert not matrix.decide(Artefact.MODEL_UPDATE_SUM, Role.MEMBER, Form.EXACT, 3).allowed
    assert matrix.decide(Artefact.MODEL_UPDATE_SUM, Role.MEMBER, Form.EXACT, 4).allowed
    assert matrix.decide(Artefact.STATISTICS_SUM, Role.MEMBER, Form.EXACT, 3).allowed


def test_a_row_that_would_grant_more_is_named() -> None:
    text = (
        site_policy_template(NAMES[0])
        + """
[[exposure]]
artefact = "model"
form = "exact"
recipients = ["observer"]
allow = true
"""
    )
    with pytest.raises(PolicyError, match="model to observer as exact") as refusal:
        effective_matrix(founding(), site_policy_from_toml(text))
    assert refusal.value.code == "site-widens"


def test_granted_rows_are_narrowed_as_well() -> None:
    charter = founding()
    rule = ExposureRule(
        artefact=Artefact.MODEL, recipients=(Role.OBSERVER,), form=Form.EXACT, remediation="stop"
    )
    granted = charter.exposure_matrix().granted(rule)
    question = (Artefact.MODEL, Role.OBSERVER, Form.EXACT, 4)
    assert effective_matrix(charter, POLICY, matrix=granted).decide(*question).allowed
    assert not effective_matrix(charter, POLICY).decide(*question).allowed


def test_the_template_parses_and_permits_nothing() -> None:
    policy = site_policy_from_toml(site_policy_template(NAMES[0]))
    assert policy == SitePolicy(site=NAMES[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("site = ", "in TOML"),
        ('site = "A B"', "does not hold"),
        ('site = "a"\nmax_round = 3', "max_round"),
        ('site = "a"\n[[exposure]]\nartefact = "everything"\nform = "exact"', "everything"),
    ],
)
def test_a_mistake_in_the_policy_file_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        site_policy_from_toml(text)
