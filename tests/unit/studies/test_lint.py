"""Lint: what a plan would disclose is found before anybody votes on it.

Planted and caught: each check taken out; the exposure asked for one role only, or over all members
instead of the least that may open a sum; regressions let through.
"""

import msgspec
import pytest

from tests.worlds import CONTRACT, NAMES, digest, refused, small_charter, small_contract, small_plan
from treaty.contracts.schema import Contract, contract_digest
from treaty.governance.charter import Charter
from treaty.governance.exposure import Artefact, ExposureRule, Form
from treaty.governance.roles import Role
from treaty.governance.terms import SecureAggregationPolicy
from treaty.models.specification import (
    LinearRegression,
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    PoissonRegression,
    TorchModule,
)
from treaty.studies.lint import kinds_of, lint_plan, require_clean
from treaty.studies.plan import AggregationSettings, EvaluationSettings, Plan
from treaty.studies.queries import QueryKind

CHARTER, DATA = small_charter(), small_contract()


def codes(plan: Plan, contract: Contract = DATA, charter: Charter = CHARTER) -> list[str]:
    return [finding.code for finding in lint_plan(plan, contract, charter)]


def plan(charter: Charter = CHARTER, contract: Contract = DATA, **changes: object) -> Plan:
    return small_plan(charter, contract, **changes)


def with_rows(rows: tuple[ExposureRule, ...]) -> Charter:
    return msgspec.structs.replace(CHARTER, exposure=rows)


def without(artefact: Artefact) -> tuple[ExposureRule, ...]:
    return tuple(row for row in CHARTER.exposure if row.artefact is not artefact)


def exact(artefact: Artefact, least: int, *readers: Role) -> ExposureRule:
    return ExposureRule(
        artefact=artefact,
        recipients=readers or (Role.COORDINATOR, Role.MEMBER),
        form=Form.EXACT,
        least_members=least,
        remediation="stop",
    )


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(), LogisticRegression(site_intercepts=False), MultilayerPerceptron()],
)
def test_a_sound_plan_has_no_findings(model: ModelSpecification) -> None:
    assert lint_plan(plan(model=model), DATA, CHARTER) == ()
    require_clean(plan(model=model), DATA, CHARTER)


def test_a_plan_binds_this_charter_and_this_contract() -> None:
    assert codes(plan(charter=with_rows(CHARTER.exposure[:-1]))) == ["wrong-charter"]
    assert codes(msgspec.structs.replace(plan(), contract=digest("another"))) == ["wrong-contract"]


@pytest.mark.parametrize("model", [LinearRegression(), PoissonRegression()])
def test_a_regression_without_probabilities_is_refused(model: ModelSpecification) -> None:
    findings = lint_plan(plan(model=model), DATA, CHARTER)
    assert "model" in [finding.code for finding in findings]
    (found,) = (finding for finding in findings if finding.code == "model")
    assert "probabilities" in found.message
    assert type(model).__name__ in found.message


@pytest.mark.parametrize(
    "model", [LogisticRegression(ridge_milli=0), TorchModule(module="net", manifest=())]
)
def test_a_model_that_does_not_fit_is_refused(model: ModelSpecification) -> None:
    assert codes(plan(model=model)) == ["model"]


def test_a_contract_that_forbids_summed_statistics_is_taken_at_its_word() -> None:
    contract = msgspec.structs.replace(DATA, normalise="public_bounds")
    assert codes(plan(contract=contract), contract) == ["normalise"]


@pytest.mark.parametrize(
    "settings, kind",
    [
        ({"statistics_scale_bits": 40}, QueryKind.STATISTICS),
        ({"scale_bits": 44}, QueryKind.NEWTON),
        ({"update_scale_bits": 28}, QueryKind.AVERAGING),
    ],
)
def test_a_sum_that_could_wrap_is_found(settings: dict[str, int], kind: QueryKind) -> None:
    wide = AggregationSettings(max_persons_per_site=2**22, **settings)
    model = (
        MultilayerPerceptron(clip_micro=10**7)
        if kind is QueryKind.AVERAGING
        else LogisticRegression()
    )
    found = lint_plan(plan(aggregation=wide, model=model), DATA, CHARTER)
    assert [one.code for one in found if one.message.startswith(kind.value)] == ["capacity"]
    with refused("capacity"):
        require_clean(plan(aggregation=wide, model=model), DATA, CHARTER)


def test_a_contract_whose_range_does_not_fit_the_ring_is_found() -> None:
    narrow = small_contract(CONTRACT.replace("spread = 25", "spread = 0.000001"))
    settings = AggregationSettings(max_persons_per_site=2**20)
    found = lint_plan(plan(contract=narrow, aggregation=settings), narrow, CHARTER)
    assert [one.code for one in found] == ["capacity"]
    assert found[0].message.startswith("statistics-sum does not fit its ring")


def test_a_ring_that_the_charter_does_not_list_is_found() -> None:
    policy = SecureAggregationPolicy(suite="cesa1-x25519", ring_bits=(64,))
    charter = msgspec.structs.replace(CHARTER, secure_aggregation=policy)
    assert codes(plan(charter), DATA, charter) == []
    averaging = plan(charter, model=MultilayerPerceptron())
    assert codes(averaging, DATA, charter) == ["ring"]
    coarse = AggregationSettings(max_persons_per_site=256, update_scale_bits=8)
    found = lint_plan(plan(model=MultilayerPerceptron(), aggregation=coarse), DATA, CHARTER)
    assert [one.code for one in found] == ["ring"]
    assert found[0].message.endswith("amend its ring_bits, or take a finer update_scale_bits")


def test_an_epoch_has_no_more_slots_than_the_charter_allows() -> None:
    settings = AggregationSettings(max_persons_per_site=256, slots_per_epoch=33)
    assert codes(plan(aggregation=settings)) == ["slots"]


def only_at(sites: tuple[str, ...], code: str = "f") -> Contract:
    listed = ", ".join(f'"{name}"' for name in sites)
    return small_contract(
        CONTRACT.replace(f'code = "{code}",', f'code = "{code}", sites = [{listed}],')
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_coordinate_of_too_few_sites_is_found(count: int) -> None:
    """A level that one site alone can have would hand that site's sums to everyone."""
    contract = only_at(NAMES[:count])
    found = lint_plan(plan(contract=contract), contract, CHARTER)
    assert [one.code for one in found] == (["least-support"] if count < 3 else [])
    if found:
        assert f"only {count} members can make sex=f non-zero" in found[0].message


def test_a_coordinate_that_only_one_site_can_make_zero_is_found() -> None:
    contract = only_at(NAMES[:1], code="m")
    assert codes(plan(contract=contract), contract) == ["least-support"]


def test_sites_outside_the_consortium_do_not_support() -> None:
    contract = only_at((NAMES[0], NAMES[1], "elsewhere.example", "nowhere.example"))
    assert codes(plan(contract=contract), contract) == ["least-support"]


SUMS_OF_A_STUDY = sorted(kind.artefact.value for kind in kinds_of(plan()))


@pytest.mark.parametrize("name", SUMS_OF_A_STUDY)
def test_every_sum_is_accepted_by_name(name: str) -> None:
    artefact = Artefact(name)
    least = CHARTER.parameters().min_survivors
    for rows, expected in (
        (without(artefact), 2),
        ((*without(artefact), exact(artefact, least, Role.COORDINATOR)), 1),
        ((*without(artefact), exact(artefact, least, Role.MEMBER)), 1),
        ((*without(artefact), exact(artefact, least + 1)), 2),
        ((*without(artefact), exact(artefact, least)), 0),
    ):
        charter = with_rows(rows)
        found = lint_plan(plan(charter), DATA, charter)
        assert [one.code for one in found] == ["exposure"] * expected
        assert all(name in one.message for one in found)


def test_the_other_training_sum_needs_no_row() -> None:
    charter = with_rows(without(Artefact.MODEL_UPDATE_SUM))
    assert codes(plan(charter), DATA, charter) == []
    averaging = plan(charter, model=MultilayerPerceptron())
    assert codes(averaging, DATA, charter) == ["exposure"] * 2


def test_site_figures_leave_only_where_the_matrix_says_so() -> None:
    asking = EvaluationSettings(site_figures=True)
    assert codes(plan(evaluation=asking)) == ["exposure"] * 2
    charter = with_rows((*without(Artefact.SITE_METRIC), exact(Artefact.SITE_METRIC, 1)))
    assert codes(plan(charter, evaluation=asking), DATA, charter) == []
    pooled = with_rows((*without(Artefact.SITE_METRIC), exact(Artefact.SITE_METRIC, 2)))
    assert codes(plan(pooled, evaluation=asking), DATA, pooled) == ["exposure"] * 2


@pytest.mark.parametrize("terms", [(), ("DUO:0000042",), ("DUO:0000006", "DUO:0000042")])
def test_the_data_use_terms_are_acknowledged_exactly(terms: tuple[str, ...]) -> None:
    assert codes(plan(data_use=terms)) == ["data-use"]


def test_all_findings_are_told_at_once() -> None:
    contract = only_at(NAMES[:1])
    bad = plan(contract=contract, data_use=(), evaluation=EvaluationSettings(site_figures=True))
    assert set(codes(bad, contract)) == {"least-support", "exposure", "data-use"}
    with pytest.raises(Exception, match=r"sex=f.*site figures.*data-use") as caught:
        require_clean(bad, contract, CHARTER)
    assert getattr(caught.value, "code", None) == "least-support"
    assert contract_digest(contract) == bad.contract


def test_the_kinds_of_sums_are_those_of_the_model() -> None:
    assert kinds_of(plan()) == (
        QueryKind.SUPPORT,
        QueryKind.STATISTICS,
        QueryKind.NEWTON,
        QueryKind.EVALUATION,
    )
    assert kinds_of(plan(model=MultilayerPerceptron()))[2] is QueryKind.AVERAGING
