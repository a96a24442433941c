"""From what a person asks for, an epsilon, to terms of a plan that keep it.

The defaults were fixed before anything was run (docs/spec/privacy.md, section 9): 20 rounds over
everybody, clip one half, learning rate 16 for rows of length one; perceptrons and modules take
a smaller rate. Nothing here sees data: the least noise follows from epsilon, delta and bounds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import msgspec

from treaty.contracts.design import design_columns
from treaty.contracts.schema import Contract
from treaty.errors import UsageError
from treaty.governance.terms import PrivacyPolicy
from treaty.models.specification import (
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    TorchModule,
)
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.terms import (
    DistributedGaussian,
    NoisedHoldout,
    NoisedStatistics,
    NoisedTerms,
    calibrated,
)
from treaty.studies.noise import training_sensitivity
from treaty.studies.plan import EvaluationSettings, Plan, SplitSettings

__all__ = [
    "Privacy",
    "default_delta_inverse",
    "private_model",
    "scaled",
    "terms_for",
    "with_bins",
    "with_noise",
]

_ROUNDS = {"rows": 20, "layers": 60}
_RATE_MILLI = {"rows": 16_000, "layers": 2_000}
_CLIP_MICRO = {"rows": 500_000, "layers": 1_000_000}


@dataclass(frozen=True, slots=True)
class Privacy:
    """What training may cost a person: `epsilon` at `delta`, for a person at one site.

    `delta` None takes the smaller of 1e-5 and a tenth of one over the contract's bound on
    persons. `rounds`, `clip` (Euclidean norm of a person's contribution) and `learning_rate`
    None take the defaults. `sampling` is the chance with which a person takes part in a round;
    1 is everybody, always. `local` makes every site add the whole noise by itself, whatever the
    others do. With `one_round` members derive a logistic regression from one noised sum of
    sufficient statistics instead of gradient descent: `rounds`, `learning_rate` and `sampling`
    have no place in it. `holdout_epsilon` is what the evaluation may cost a person of the holdout:
    its histogram is noised then; None leaves it exact, as the charter must accept by name.
    """

    epsilon: float = 1.0
    delta: float | None = None
    rounds: int | None = None
    clip: float | None = None
    learning_rate: float | None = None
    sampling: float = 1.0
    local: bool = False
    one_round: bool = False
    holdout_epsilon: float | None = None

    def __post_init__(self) -> None:
        _positive("epsilon", self.epsilon)
        if self.holdout_epsilon is not None:
            _positive("holdout_epsilon", self.holdout_epsilon)
        if self.delta is not None and not 0.0 < _number("delta", self.delta) <= 0.5:
            raise UsageError(f"expected a delta above 0 and at most one half, got {self.delta}")
        if self.rounds is not None and (type(self.rounds) is not int or self.rounds < 1):
            raise UsageError(f"expected a whole number of rounds, at least one, got {self.rounds}")
        for name, value in (("clip", self.clip), ("learning_rate", self.learning_rate)):
            if value is not None:
                _positive(name, value)
        descends = self.rounds is not None or self.learning_rate is not None
        if self.one_round and (descends or self.sampling != 1.0):
            raise UsageError(
                "one noised sum of statistics has no rounds, learning rate or sampling: leave "
                "them out"
            )
        if not 1 / SAMPLING_UNIT <= _number("sampling", self.sampling) <= 1.0:
            raise UsageError(f"expected a sampling rate above 0 and at most 1, got {self.sampling}")


def default_delta_inverse(persons: int) -> int:
    """Return 1 / delta for at most `persons` persons: 10^5, or ten times as many as persons."""
    return max(100_000, 10 * persons)


def with_bins(settings: EvaluationSettings, asked: Privacy, persons: int) -> EvaluationSettings:
    """Return `settings` with the bins that a histogram gets by default if it is to be noised.

    `persons` bounds those of all sites together. More bins hurt under noise: 8 where those held out
    times epsilon are below a thousand, else 16. Where a holdout is known to be larger, a plan may
    ask for 32 (ten thousand) or 64 (thirty thousand). An exact histogram keeps its bins.
    """
    if asked.holdout_epsilon is None:
        return settings
    held = persons * SplitSettings().holdout_permille / 1000
    return msgspec.structs.replace(settings, bins=8 if held * asked.holdout_epsilon < 1000 else 16)


def private_model(spec: ModelSpecification) -> ModelSpecification:
    """Return `spec` as it is trained under noise: rows of length one and a common intercept.

    Other models than logistic regression are returned as they are.
    """
    if not isinstance(spec, LogisticRegression):
        return spec
    return msgspec.structs.replace(spec, site_intercepts=False, unit_rows=True)


def terms_for(
    asked: Privacy,
    spec: ModelSpecification,
    contract: Contract,
    policy: PrivacyPolicy,
    *,
    members: int,
    max_persons_per_site: int,
    surplus_tiers: int | msgspec.UnsetType = msgspec.UNSET,
) -> DistributedGaussian | NoisedStatistics:
    """Return terms with the least noise that keeps what was `asked`.

    `max_persons_per_site` is the plan's bound on a site's rows; `surplus_tiers` as in the terms, of
    which local noise has none. Rounds epsilon and delta down.
    Raises `UsageError` for values that no terms can have, and for one noised sum of statistics of
    another model than a logistic regression.
    """
    kind: Literal["rows", "layers"] = (
        "layers" if isinstance(spec, MultilayerPerceptron | TorchModule) else "rows"
    )
    persons = members * min(max_persons_per_site, contract.max_persons_per_site)
    inverse = (
        default_delta_inverse(persons)
        if asked.delta is None
        else math.ceil(1 / Fraction(str(asked.delta)))
    )
    unit: Literal["person-in-institution", "record-in-institution"] = (
        "person-in-institution" if policy.unit == "person" else "record-in-institution"
    )
    common: dict[str, object] = {
        "epsilon_milli": scaled("epsilon", asked.epsilon, 1000),
        "delta_inverse": inverse,
        "share": "local" if asked.local else "distributed",
        "surplus_tiers": msgspec.UNSET if asked.local else surplus_tiers,
        "unit": unit,
        "max_sites_per_person": policy.max_sites_per_person,
    }
    if asked.holdout_epsilon is not None:
        noised = scaled("holdout_epsilon", asked.holdout_epsilon, 1000)
        common["holdout"] = NoisedHoldout(epsilon_milli=noised)
    if asked.clip is not None:
        common["clip_micro"] = scaled("clip", asked.clip, 10**6)
    terms: DistributedGaussian | NoisedStatistics
    if asked.one_round:
        if not isinstance(spec, LogisticRegression):
            raise UsageError("one noised sum of statistics gives a logistic regression only")
        terms = NoisedStatistics(**common)  # type: ignore[arg-type]  # the keywords above
    else:
        terms = _descent(asked, kind, common)
    sensitivity = training_sensitivity(
        spec, terms, columns=len(design_columns(contract)), max_rows=max_persons_per_site
    )
    return calibrated(terms, sensitivity)


def _descent(
    asked: Privacy, kind: Literal["rows", "layers"], common: Mapping[str, object]
) -> DistributedGaussian:
    rate = math.floor(Fraction(str(asked.sampling)) * SAMPLING_UNIT)
    return DistributedGaussian(
        rounds=_ROUNDS[kind] if asked.rounds is None else asked.rounds,
        sampling=None if rate == SAMPLING_UNIT else rate,
        learning_rate_milli=(
            _RATE_MILLI[kind]
            if asked.learning_rate is None
            else scaled("learning_rate", asked.learning_rate, 1000)
        ),
        **{"clip_micro": _CLIP_MICRO[kind], **common},  # type: ignore[arg-type]  # terms' fields
    )


def with_noise(
    plan: Plan, contract: Contract, surplus_tiers: int | msgspec.UnsetType = msgspec.UNSET
) -> Plan:
    """Return `plan` with the least noise that keeps its epsilon, where it states none.

    It then takes surplus off in `surplus_tiers` parts, unless it says in how many or noise is
    local. A plan with exact sums, or with noise of its own, comes back as it is.
    """
    terms = plan.privacy
    if not isinstance(terms, NoisedTerms) or terms.is_calibrated:
        return plan
    sensitivity = training_sensitivity(
        plan.model,
        terms,
        columns=len(design_columns(contract)),
        max_rows=plan.aggregation.max_persons_per_site,
    )
    if terms.surplus_tiers is msgspec.UNSET and terms.share == "distributed":
        terms = msgspec.structs.replace(terms, surplus_tiers=surplus_tiers)
    return msgspec.structs.replace(plan, privacy=calibrated(terms, sensitivity))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"expected a number as {name}, got {value!r}")
    return value


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(_number(name, value)) and value > 0.0):
        raise UsageError(f"expected a positive {name}, got {value}")


def scaled(name: str, value: float, scale: int) -> int:
    """Return `value` in whole parts of 1 / `scale`, rounded down; `UsageError` for less than one.

    `name` is what it is called in the error. Decimal, so that .3 is 300 thousandths.
    """
    _positive(name, value)
    whole = math.floor(Fraction(str(value)) * scale)
    if whole < 1:
        raise UsageError(f"expected {name} to be at least {1 / scale:g}, got {value}")
    return whole
