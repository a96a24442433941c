"""Progress of a study: from published sums to the next query, the same for everyone.

A frozen fold: `expected_query` says what the next secure sum must ask, `absorb` takes the opened
sum and returns the following state. Members, coordinator and auditor run it on the same integers
and arrive at the same digests (docs/spec/studies.md, section 3).

Invariants:
  * The query depends on the plan, the contract, the members and published sums alone.
  * A sum whose count of contributors differs from its survivors is refused.
  * A design column with fewer supporting sites than `least_support` halts the study before
    anything else is summed.
  * A study under noise asks for a noised count and noised gradient sums, or for one noised sum of
    statistics, and for the evaluation of the one model: no sum over training rows is exact, and
    nothing is normalised by the rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.quantization import decode_sum
from treaty.aggregation.tensors import NamedTensors
from treaty.contracts.design import design_columns
from treaty.contracts.normalisation import (
    Normaliser,
    normaliser_from_bounds,
    normaliser_from_sums,
)
from treaty.contracts.schema import Contract
from treaty.crypto import canonical
from treaty.errors import UsageError, VerificationError
from treaty.ids import Digest
from treaty.models.averaging import next_tensors
from treaty.models.descent import least_persons, mean_iterate, next_iterate
from treaty.models.newton import NewtonMemory, next_coefficients
from treaty.models.quadratic import model_from_statistics
from treaty.models.specification import (
    LogisticRegression,
    MultilayerPerceptron,
    TorchModule,
    family,
    initial_model,
    max_rounds,
)
from treaty.privacy.certificate import Cohort
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.terms import DistributedGaussian, NoisedTerms
from treaty.studies.noise import descent_terms, noise_terms
from treaty.studies.outcome import EvaluationOutcome, outcome_from_noised, outcome_from_sums
from treaty.studies.plan import Plan
from treaty.studies.queries import (
    CONTRIBUTORS,
    NO_DIGEST,
    PERSONS,
    ROWS,
    Query,
    QueryKind,
    evaluation_kind,
    make_query,
)

__all__ = ["RoundTrace", "Stage", "StudyProgress", "begin", "sufficient_model"]


class Stage(Enum):
    """What the study does next."""

    SUPPORT = "support"
    STATISTICS = "statistics"
    TRAINING = "training"
    EVALUATION = "evaluation"
    COMPLETED = "completed"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class RoundTrace:
    """What one training round published: survivors, and the size of the step.

    `rows` are those of the statistics, counted once: a count in every round would show the rows
    of a site that misses one. `loss` is the training loss before the step, per such row. Under
    noise rows are 0 and there is no loss: neither leaves a site.
    """

    rows: int
    survivors: int
    step: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """Where a study stands after `index` published sums.

    Under noise `persons` is the noised count that gradient sums are divided by, and `iterates`
    are those of the second half of training, whose mean is the final model. `memory` is what the
    next Newton step needs of the last.
    """

    plan: Plan
    contract: Contract
    members: int
    least_support: int
    stage: Stage
    index: int
    model: NamedTensors
    normaliser: Normaliser | None = None
    rows: int = 0
    support: tuple[int, ...] = ()
    trace: tuple[RoundTrace, ...] = ()
    evaluation: EvaluationOutcome | None = None
    halt_reason: str | None = None
    persons: float = 0.0
    iterates: tuple[NamedTensors, ...] = ()
    memory: NewtonMemory | None = None
    _asked: dict[QueryKind, tuple[Query, "StudyProgress"]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _known: list[Query] = field(default_factory=list, init=False, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        """Compare the normalisers by digest: their arrays have no single truth value."""
        if not isinstance(other, StudyProgress):
            return NotImplemented
        return self._identity() == other._identity()

    def _identity(self) -> tuple[object, ...]:
        rest = (
            getattr(self, one.name)
            for one in fields(self)
            if one.compare and one.name != "normaliser"
        )
        return (self.normaliser_digest, *rest)

    @property
    def model_digest(self) -> Digest:
        """Return the SHA-256 of the current model's file."""
        return self.model.digest()

    @property
    def normaliser_digest(self) -> Digest:
        """Return the digest of the normaliser, or zeros before there is one."""
        if self.normaliser is None:
            return NO_DIGEST
        return canonical.digest_of(self.normaliser.record())

    @property
    def finished(self) -> bool:
        """Say whether no further sum is expected."""
        return self.stage in (Stage.COMPLETED, Stage.HALTED)

    def expected_query(self) -> Query:
        """Return the query that the next round must ask; `UsageError` when there is none."""
        if self._known:
            return self._known[0]
        privacy = self.plan.privacy
        private = isinstance(privacy, DistributedGaussian)
        if isinstance(privacy, NoisedTerms):
            training = QueryKind.DESCENT if private else QueryKind.SUFFICIENT
        else:
            training = (
                QueryKind.NEWTON if family(self.plan.model) == "newton" else QueryKind.AVERAGING
            )
        kinds = {
            Stage.SUPPORT: QueryKind.SUPPORT,
            Stage.STATISTICS: QueryKind.COUNT if private else QueryKind.STATISTICS,
            Stage.TRAINING: training,
            Stage.EVALUATION: evaluation_kind(self.plan),
        }
        kind = kinds.get(self.stage)
        if kind is None:
            raise UsageError(f"a {self.stage.value} study asks nothing more")
        known, state = self._asked.get(kind, (None, self))
        if known is not None and (
            state.plan is self.plan
            and state.contract is self.contract
            and state.members == self.members
            and state.normaliser is self.normaliser
        ):
            # From an earlier state of this study: only model and number are new.
            query = Query(
                known.plan, kind, self.index, self.model_digest, known.normaliser, known.layout
            )
        else:
            query = make_query(
                self.plan,
                self.contract,
                kind,
                self.index,
                members=self.members,
                model=self.model_digest,
                normaliser=self.normaliser_digest,
            )
            self._asked[kind] = (query, self)
        # A pure function of this frozen state, asked for many times: remembered, never changed.
        self._known.append(query)
        return query

    def absorb(
        self,
        query: Query,
        total: NDArray[np.unsignedinteger],
        survivors: int,
        cohort: Cohort | None = None,
    ) -> "StudyProgress":
        """Return the state after the opened sum `total` of `query` over `survivors` sites.

        `cohort` is the group that a noised histogram was asked of: its noise follows from it.
        `total` is a ring vector of the layout's length. Raises `VerificationError` when the sum
        cannot be what the query asked (codes of docs/spec/studies.md, section 4), among them
        ``contributors-mismatch`` and ``sum-implausible``.
        """
        sums = decode_sum(total, query.layout)
        contributors = int(sums[CONTRIBUTORS][0])
        rows = int(sums[ROWS][0])
        if contributors != survivors:
            raise VerificationError(
                f"the sum is over {contributors} contributors, expected {survivors}",
                code="contributors-mismatch",
            )
        if rows < 0:
            raise VerificationError(f"the sum is over {rows} rows", code="sum-implausible")
        following = replace(self, index=self.index + 1)
        match query.kind:
            case QueryKind.SUPPORT:
                return following._after_support(sums, survivors)
            case QueryKind.STATISTICS:
                return following._after_statistics(sums, rows, survivors)
            case QueryKind.NEWTON | QueryKind.AVERAGING:
                return following._after_training(query, sums, survivors)
            case QueryKind.COUNT:
                return following._after_count(sums, survivors)
            case QueryKind.DESCENT:
                return following._after_descent(sums, survivors)
            case QueryKind.SUFFICIENT:
                return following._after_sufficient(sums, survivors)
            case QueryKind.EVALUATION:
                outcome = outcome_from_sums(self.plan, sums, rows=rows, sites=survivors)
                return replace(following, stage=Stage.COMPLETED, evaluation=outcome)
            case QueryKind.SCORES:
                if cohort is None:
                    raise UsageError("a noised histogram needs the group that it was asked of")
                noised = outcome_from_noised(self.plan, sums, cohort, sites=survivors)
                return replace(following, stage=Stage.COMPLETED, evaluation=noised)

    def _after_support(
        self, sums: Mapping[str, NDArray[np.int64]], survivors: int
    ) -> "StudyProgress":
        support = tuple(int(count) for count in sums["support"])
        if min(support) < 0 or max(support) > survivors:
            raise VerificationError(
                f"expected a support of 0 to {survivors} sites", code="sum-implausible"
            )
        short = [
            column.name
            for column, count in zip(design_columns(self.contract), support, strict=True)
            if count < self.least_support
        ]
        if short:
            return replace(
                self,
                stage=Stage.HALTED,
                support=support,
                halt_reason=(
                    f"fewer than {self.least_support} sites support {', '.join(short)}: "
                    "merge these levels in the contract"
                ),
            )
        return replace(self, stage=Stage.STATISTICS, support=support)

    def _after_statistics(
        self, sums: Mapping[str, NDArray[np.int64]], rows: int, survivors: int
    ) -> "StudyProgress":
        if rows < 1:
            return replace(self, stage=Stage.HALTED, halt_reason="no site has training rows")
        if int(sums["squares"].min()) < 0:
            raise VerificationError("a sum of squares is negative", code="sum-implausible")
        normaliser = normaliser_from_sums(
            self.contract,
            count=rows,
            sums=[int(value) for value in sums["sums"]],
            squares=[int(value) for value in sums["squares"]],
            scale_bits=self.plan.aggregation.statistics_scale_bits,
            contributors=survivors,
        )
        return replace(self, stage=Stage.TRAINING, normaliser=normaliser, rows=rows)

    def _after_count(
        self, sums: Mapping[str, NDArray[np.int64]], survivors: int
    ) -> "StudyProgress":
        # One rounding, and a division by a power of two: the same on every machine.
        counted = float(int(sums[PERSONS][0])) / float(descent_terms(self.plan).clip.units)
        return replace(self, stage=Stage.TRAINING, persons=max(counted, least_persons(survivors)))

    def _after_descent(
        self, sums: Mapping[str, NDArray[np.int64]], survivors: int
    ) -> "StudyProgress":
        terms = descent_terms(self.plan)
        following = next_iterate(
            self.model,
            sums,
            unit=terms.clip.step,
            persons=self.persons * (terms.rate / SAMPLING_UNIT),
            rate=terms.learning_rate_milli / 1000,
        )
        step = float(np.max(np.abs(following.flat() - self.model.flat())))
        kept = (*self.iterates, following) if len(self.trace) >= terms.rounds // 2 else ()
        trace = (*self.trace, RoundTrace(0, survivors, step, None))
        if len(trace) < terms.rounds:
            return replace(self, model=following, iterates=kept, trace=trace)
        return replace(
            self, model=mean_iterate(kept), iterates=(), trace=trace, stage=Stage.EVALUATION
        )

    def _after_sufficient(
        self, sums: Mapping[str, NDArray[np.int64]], survivors: int
    ) -> "StudyProgress":
        model = sufficient_model(self.plan, self.model, sums, survivors)
        step = float(np.max(np.abs(model.flat() - self.model.flat())))
        trace = (RoundTrace(0, survivors, step, None),)
        return replace(self, model=model, trace=trace, stage=Stage.EVALUATION)

    def _after_training(
        self, query: Query, sums: Mapping[str, NDArray[np.int64]], survivors: int
    ) -> "StudyProgress":
        rows = self.rows
        bits = query.layout.segments[0].scale_bits
        spec = self.plan.model
        loss: float | None = None
        settled = False
        memory: NewtonMemory | None = None
        if isinstance(spec, MultilayerPerceptron | TorchModule):
            model = next_tensors(self.model, sums, bits)
            step = float(np.max(np.abs(model.flat() - self.model.flat())))
        else:
            model, newton = next_coefficients(
                spec, self.model, sums, bits, contributors=survivors, memory=self.memory
            )
            step, settled, memory = newton.step, newton.converged, newton.memory
            loss = newton.loss / rows if rows else None
        trace = (*self.trace, RoundTrace(rows, survivors, step, loss))
        done = settled or len(trace) >= max_rounds(spec)
        return replace(
            self,
            model=model,
            trace=trace,
            memory=None if done else memory,
            stage=Stage.EVALUATION if done else Stage.TRAINING,
        )


def sufficient_model(
    plan: Plan, model: NamedTensors, sums: Mapping[str, NDArray[np.int64]], survivors: int
) -> NamedTensors:
    """Return the model that one noised sum of statistics over `survivors` sites gives.

    `model` has its manifest. Raises as `quadratic.model_from_statistics`; `UsageError` for another
    model than a logistic regression.
    """
    terms, spec = noise_terms(plan), plan.model
    if not isinstance(spec, LogisticRegression):
        raise UsageError("sufficient statistics are those of a logistic regression")
    # Where one colluder is covered, all shares together carry at most twice the variance that the
    # honest ones counted on do. With more, the ridge is doubled where it is too little.
    shares = 2 if terms.share == "distributed" else survivors
    return model_from_statistics(
        spec,
        model.manifest,
        sums,
        unit=terms.clip.step,
        deviation=math.sqrt(float(int(terms.variance, 16) * shares)),
    )


def begin(plan: Plan, contract: Contract, *, members: int, least_support: int) -> StudyProgress:
    """Return the state before the first sum; `UsageError` when `contract` is not the plan's."""
    if canonical.digest_of(contract) != plan.contract:
        raise UsageError("the contract is not the one that the plan binds")
    private = isinstance(plan.privacy, NoisedTerms)
    stage = Stage.STATISTICS if isinstance(plan.privacy, DistributedGaussian) else Stage.TRAINING
    return StudyProgress(
        plan=plan,
        contract=contract,
        members=members,
        least_support=least_support,
        stage=stage if private else Stage.SUPPORT,
        index=0,
        model=initial_model(plan.model, len(design_columns(contract))),
        normaliser=normaliser_from_bounds(contract) if private else None,
    )
