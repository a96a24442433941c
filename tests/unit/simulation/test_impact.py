"""An assessment end to end on made-up persons: what fails, what passes, what stays at home.

Planted and caught: noise left out of the noised sum, members and outsiders exchanged, a person's
rows split over both halves, a person named in the findings, the seed left aside.
"""

from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from treaty.assessment.canaries import Integers, SiteRound
from treaty.assessment.findings import Findings, failures
from treaty.assessment.wording import text_lines, verdict_rows
from treaty.contracts.conformance import ConformedData
from treaty.contracts.design import design_columns
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import Contract, parse_contract
from treaty.crypto.canonical import decode, encode, sha256
from treaty.errors import PolicyError, UsageError
from treaty.governance.terms import PrivacyMode, PrivacyPolicy
from treaty.ids import MemberId
from treaty.models.specification import (
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
)
from treaty.privacy.certificate import Cohort
from treaty.privacy.gaussian import gaussian_epsilon
from treaty.privacy.mechanisms import clipped_sum
from treaty.privacy.terms import DistributedGaussian
from treaty.simulation.impact import AssessmentRequest, assess
from treaty.simulation.impact_targets import NoisedTarget
from treaty.studies.calibrating import Privacy, private_model, terms_for

FEATURES = "".join(
    f"""
[[features]]
kind = "number"
name = "x{place}"
unit = "1"
range = [-8, 8]
centre = 0
spread = 1
meaning = "made up"
"""
    for place in range(6)
)
CONTRACT = f"""
format = "treaty.contract/v1"
name = "made-up"
version = "1.0.0"

[label]
name = "outcome"
positive = [1]
negative = [0]
meaning = "made up"
{FEATURES}
"""
COMMON = LogisticRegression(site_intercepts=False)
ROWS = 256


def private(
    spec: ModelSpecification = COMMON, epsilon: float = 1.0
) -> tuple[ModelSpecification, Contract, DistributedGaussian]:
    """Return model, contract and terms as a private study takes them."""
    model, contract = private_model(spec), with_public_bounds(parse_contract(CONTRACT))
    policy = PrivacyPolicy(mode=PrivacyMode.DIFFERENTIAL)
    terms = terms_for(
        Privacy(epsilon=epsilon), model, contract, policy, members=4, max_persons_per_site=ROWS
    )
    return model, contract, terms


def noised(spec: ModelSpecification = COMMON, epsilon: float = 1.0) -> dict[str, object]:
    """Return the fields of a request on noised sums."""
    model, contract, terms = private(spec, epsilon)
    return {"specification": model, "contract": contract, "terms": terms}


def made_up(contract: Contract, persons: int, rows_each: int = 1, seed: int = 1) -> ConformedData:
    """Return rows of persons of a simple logistic law; rows of one person are near one another."""
    generator = np.random.default_rng(seed)
    middle = np.repeat(generator.standard_normal((persons, 6)), rows_each, axis=0)
    features = np.clip(middle + 0.1 * generator.standard_normal(middle.shape), -8, 8)
    chance = 1 / (1 + np.exp(-features @ np.array([1.5, -1.0, 0.5, 0.0, 0.0, 0.0])))
    label = (generator.random(len(chance)) < chance).astype(float)
    return ConformedData(
        features=features,
        label=label,
        persons=tuple(f"patient-{row // rows_each}" for row in range(len(label))),
        index_months=None,
        columns=design_columns(contract),
        subgroups={"first": features[:, 0] > 0},
        rows_read=len(label),
        dropped=(),
    )


def request(**changes: object) -> AssessmentRequest:
    """Return a quick request on 160 persons of one site."""
    contract = parse_contract(CONTRACT)
    plain = AssessmentRequest(
        specification=COMMON,
        contract=contract,
        data={MemberId("aare.example"): made_up(contract, 160)},
        source="made up",
        code=sha256(b"code"),
        terms=None,
        cohort=Cohort(4, 3, 1),
        max_persons_per_site=ROWS,
        quick=True,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def _by_view(findings: Findings) -> dict[str, int]:
    return {one.view: one.recovered for one in findings.recoveries}


@pytest.mark.parametrize("model", [COMMON, MultilayerPerceptron(hidden=(24,))], ids=["lr", "mlp"])
def test_exact_sums_of_four_sites_give_records_back(model: LogisticRegression) -> None:
    """Under trap weights; under honest ones they do not. The assessment fails for it."""
    found = assess(request(specification=model)).findings
    assert _by_view(found)["secure-sum.trap"] >= 1
    assert _by_view(found)["secure-sum.honest"] == 0
    assert failures(found) == ("records-recovered",)
    areas = {attack.attack: attack.area.value_micro for attack in found.attacks}
    assert min(areas["rmia"], areas["lira-offline"]) > 500_000, "members come before outsiders"


def test_the_noised_sum_gives_nothing_back_where_the_plain_one_does() -> None:
    """The same gradients, the same trap weights: the sum over four sites, and the noised sum."""
    found = assess(request(**noised(MultilayerPerceptron(hidden=(24,)), 8.0))).findings
    views = _by_view(found)
    assert views["secure-sum.trap"] >= 1
    assert views["noised-sum.trap"] == views["noised-sum.honest"] == 0
    assert failures(found) == ()
    counted = {one.view for one in found.recoveries if one.counts}
    assert counted == {"noised-sum.trap", "noised-sum.honest"}


def test_a_claim_that_holds_is_not_contradicted() -> None:
    """At epsilon one: passes, with every attack's interval beside its bound."""
    found = assess(request(**noised())).findings
    assert failures(found) == ()
    assert found.audit is not None
    assert found.audit.lower_bound_micro <= 1_000_000
    assert found.claim.epsilon_micro == 1_000_000
    assert found.claim.mu_micro is not None
    spent = gaussian_epsilon(Fraction(found.claim.mu_micro, 10**6) ** 2, 1e-5)
    assert spent == pytest.approx(1.0, abs=1e-4)
    assert {attack.attack for attack in found.attacks} >= {"rmia", "lira-online", "canaries"}
    assert all(row.holds for row in verdict_rows(found))


class Weakened(NoisedTarget):
    """A mechanism whose noise has a tenth of the planned standard deviation."""

    def release(self, item: SiteRound) -> Integers:
        """See `NoisedTarget.release`."""
        exact = clipped_sum(
            lambda start, stop: item.vectors[start:stop],
            item.persons,
            item.vectors.shape[1],
            item.clip,
        )
        return exact + (super().release(item) - exact) // 10


def test_a_mechanism_that_breaks_its_claim_fails() -> None:
    """The audit inside a whole assessment says so, and the text shows which line."""
    model, contract, terms = private()
    weakened = Weakened(model, terms, Cohort(4, 3, 1), contract, max_persons_per_site=ROWS)
    found = assess(request(**noised()), target=weakened).findings
    assert "audit-above-claim" in failures(found)
    assert "noise-check" in failures(found)
    assert any("FAIL" in line for line in text_lines(found))


def test_no_person_is_in_the_findings() -> None:
    """Names are with the exposed persons alone, and no repr shows them."""
    found = assess(request())
    shown = encode(found.findings).decode() + repr(found) + "".join(text_lines(found.findings))
    assert "patient" not in shown
    assert len(found.exposed) == 10
    assert all(one.person.startswith("aare.example/patient-") for one in found.exposed)


def test_findings_are_a_record_that_reads_back() -> None:
    """Canonical bytes without floats, the same twice, and others for another seed."""
    found = assess(request())
    data = encode(found.findings)
    assert decode(data, Findings) == found.findings
    assert encode(assess(request()).findings) == data
    other = assess(request(seed=1)).findings
    assert msgspec.structs.replace(other, seed=0) != found.findings


def test_persons_with_many_rows_are_counted_once() -> None:
    """Three rows each: as many persons as before, and no person on both sides of a split."""
    contract = parse_contract(CONTRACT)
    data = {MemberId("aare.example"): made_up(contract, 120, rows_each=3)}
    found = assess(request(data=data, **noised())).findings
    assert found.persons == 120
    assert failures(found) == ()
    assert {group.group for group in found.groups} == {"first", "label 0", "label 1"}


def test_too_few_rows_and_unfit_families_are_refused() -> None:
    """One clear error each, before any model is trained."""
    contract = parse_contract(CONTRACT)
    few = {MemberId("aare.example"): made_up(contract, 30)}
    with pytest.raises(UsageError, match="at least 40 persons, got 30"):
        assess(request(data=few))
    _, _, terms = private()
    with pytest.raises(PolicyError, match="calibrate it again"):
        assess(
            request(**noised() | {"terms": msgspec.structs.replace(terms, variance="1000000000")})
        )
    with pytest.raises(UsageError, match="leave sampling out"):
        assess(request(**noised() | {"terms": msgspec.structs.replace(terms, sampling=1 << 52)}))
    one = made_up(contract, 60)
    alike = {MemberId("aare.example"): replace(one, label=np.ones(60))}
    with pytest.raises(UsageError, match="both labels"):
        assess(request(data=alike))
