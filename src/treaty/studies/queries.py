"""Queries: what one secure sum asks of every site, derived from the plan alone.

Every query is a fixed layout of ring integers. Its last two words are the number of rows behind
a site's contribution and the constant one, so that the sum says over how many rows and
sites it is. A query's digest is bound into every mask key (docs/spec/studies.md, section 2).

Rings and grids follow from public bounds; a layout whose sum could wrap is refused when the
query is made. Nothing here depends on data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from treaty.aggregation.quantization import Layout, Segment, check_capacity, narrowest_ring
from treaty.contracts.design import design_columns
from treaty.contracts.normalisation import moment_bounds
from treaty.contracts.schema import Contract
from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, Name, Record
from treaty.errors import UsageError
from treaty.evaluation.metrics import RESIDUAL_SCALE_BITS
from treaty.governance.exposure import Artefact, Form
from treaty.ids import Digest, SingleEnum
from treaty.models.descent import gradient_manifest
from treaty.models.quadratic import statistics_manifest
from treaty.models.specification import (
    contribution_bounds,
    contribution_manifest,
    family,
    max_rounds,
    model_manifest,
)
from treaty.privacy.terms import HOLDOUT_CLIP, DistributedGaussian, NoisedHoldout, NoisedTerms
from treaty.studies.noise import (
    descent_terms,
    noise_terms,
    noised_sums,
    training_sensitivity,
)
from treaty.studies.plan import Plan, plan_digest

__all__ = [
    "CONTRIBUTORS",
    "COUNTED",
    "NOISED",
    "NO_DIGEST",
    "PERSONS",
    "ROWS",
    "UNNOISED_WORDS",
    "Query",
    "QueryKind",
    "evaluation_kind",
    "evaluation_segments",
    "make_query",
    "noised_kind",
    "noised_kinds",
    "sums_at_most",
]

NO_DIGEST = Digest("0" * 64)
"""Stands where there is no model or normaliser yet."""

ROWS = "rows"
CONTRIBUTORS = "contributors"
PERSONS = "persons"


class QueryKind(SingleEnum):
    """What a secure sum is for. An exact sum's value names its artefact class."""

    SUPPORT = "support-sum"
    STATISTICS = "statistics-sum"
    NEWTON = "gradient-hessian-sum"
    AVERAGING = "model-update-sum"
    EVALUATION = "evaluation-histogram"
    COUNT = "noised-count"
    DESCENT = "noised-gradient-sum"
    SUFFICIENT = "noised-sufficient-statistics"
    SCORES = "noised-evaluation-histogram"

    @property
    def artefact(self) -> Artefact:
        """Return the artefact class of the opened sum."""
        match self:
            case QueryKind.COUNT:
                return Artefact.STATISTICS_SUM
            case QueryKind.DESCENT | QueryKind.SUFFICIENT:
                return Artefact.GRADIENT_HESSIAN_SUM
            case QueryKind.SCORES:
                return Artefact.EVALUATION_HISTOGRAM
            case _:
                return Artefact(self.value)

    @property
    def form(self) -> Form:
        """Return the form in which the opened sum is shown."""
        return Form.NOISED if self in NOISED else Form.EXACT

    @property
    def over_training_rows(self) -> bool:
        """Say whether the sum is a function of training rows."""
        return self not in (QueryKind.EVALUATION, QueryKind.SCORES)


NOISED: Final = frozenset(
    {QueryKind.COUNT, QueryKind.DESCENT, QueryKind.SUFFICIENT, QueryKind.SCORES}
)
"""Kinds whose contributions carry every site's share of noise."""


UNNOISED_WORDS: Final = 2
"""Words at the end of a noised vector that carry none: no rows, and that a member takes part."""


def noised_kinds(plan: Plan) -> tuple[QueryKind, ...]:
    """Return the kinds of noised sums over training rows, in order, as `noise.planned_events`."""
    if isinstance(plan.privacy, DistributedGaussian):
        return (QueryKind.COUNT, QueryKind.DESCENT)
    return (QueryKind.SUFFICIENT,) if isinstance(plan.privacy, NoisedTerms) else ()


def noised_kind(plan: Plan, number: int) -> QueryKind | None:
    """Return the kind of query `number` of a study if it is a noised one."""
    kinds = noised_kinds(plan)
    if not kinds:
        return None
    if number >= noised_sums(noise_terms(plan)):
        last = evaluation_kind(plan)
        return last if last in NOISED else None
    return kinds[min(number, len(kinds) - 1)]


def evaluation_kind(plan: Plan) -> QueryKind:
    """Return the kind of the sum over the holdout: noised where the plan says so."""
    terms = plan.privacy
    noised = isinstance(terms, NoisedTerms) and isinstance(terms.holdout, NoisedHoldout)
    return QueryKind.SCORES if noised else QueryKind.EVALUATION


COUNTED: Final = frozenset({QueryKind.STATISTICS, QueryKind.EVALUATION})
"""Kinds whose sums say over how many rows they are; each is asked once."""


class _SegmentRecord(Record):
    name: Name
    length: Count
    scale_bits: Count
    bound: str


class _QueryRecord(Record):
    format: Literal["treaty.query/v1"] = "treaty.query/v1"
    plan: DigestField
    kind: QueryKind
    index: Count
    model: DigestField
    normaliser: DigestField
    ring_bits: Count
    contributors: Count
    segments: tuple[_SegmentRecord, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """One secure sum: its place in the study, its layout, and what it is computed at."""

    plan: Digest
    kind: QueryKind
    index: int
    model: Digest
    normaliser: Digest
    layout: Layout
    digest: Digest = field(init=False)
    question: Digest = field(init=False)
    """The digest without the index: queries with one question ask a site for one vector."""

    def __post_init__(self) -> None:
        record = _QueryRecord(
            plan=self.plan,
            kind=self.kind,
            index=self.index,
            model=self.model,
            normaliser=self.normaliser,
            ring_bits=self.layout.ring_bits,
            contributors=self.layout.contributors,
            segments=tuple(
                _SegmentRecord(
                    name=part.name,
                    length=part.length,
                    scale_bits=part.scale_bits,
                    bound=str(part.bound),
                )
                for part in self.layout.segments
            ),
        )
        object.__setattr__(self, "digest", canonical.digest_of(record))
        # Prevents a published sum that leaves the model as it was from unlocking the question.
        asked = canonical.digest_of(msgspec.structs.replace(record, index=0))
        object.__setattr__(self, "question", asked)


def make_query(
    plan: Plan,
    contract: Contract,
    kind: QueryKind,
    index: int,
    *,
    members: int,
    model: Digest,
    normaliser: Digest,
) -> Query:
    """Return query number `index` of `plan` for at most `members` contributors.

    Raises `PolicyError` (code ``capacity``) when the sum could wrap in its ring.
    """
    settings = plan.aggregation
    persons = settings.max_persons_per_site
    # Prevents a site that misses one training round from showing its number of rows: where the
    # same count stood in every sum, two sums over different sites would differ by it.
    counted = persons if kind in COUNTED else 0
    columns = len(design_columns(contract))
    ring_bits = 64
    match kind:
        case QueryKind.SUPPORT:
            content: Sequence[Segment] = (Segment("support", columns, 0, 1),)
        case QueryKind.STATISTICS:
            reach, squares = moment_bounds(contract)
            bits = settings.statistics_scale_bits
            content = (
                Segment("sums", columns, bits, persons * max(reach)),
                Segment("squares", columns, bits, persons * max(squares)),
            )
        case QueryKind.NEWTON | QueryKind.AVERAGING:
            newton = family(plan.model) == "newton"
            bits = settings.scale_bits if newton else settings.update_scale_bits
            bounds = contribution_bounds(
                plan.model, columns, max_persons=persons, feature_clip=settings.feature_clip
            )
            content = tuple(
                Segment(spec.name, _length(spec.shape), bits, bounds[spec.name])
                for spec in contribution_manifest(plan.model, columns)
            )
            if not newton:
                # Words of 16 bits halve what travels where the plan's grid is coarse enough.
                ring_bits = narrowest_ring(content, members, (16, 32))
        case QueryKind.EVALUATION:
            content = evaluation_segments(plan)
        case QueryKind.COUNT | QueryKind.DESCENT | QueryKind.SUFFICIENT:
            content = _noised_segments(plan, columns, kind)
        case QueryKind.SCORES:
            content = _score_segments(plan)
    layout = Layout(
        segments=(*content, Segment(ROWS, 1, 0, counted), Segment(CONTRIBUTORS, 1, 0, 1)),
        ring_bits=ring_bits,
        contributors=members,
    )
    check_capacity(layout)
    return Query(plan_digest(plan), kind, index, model, normaliser, layout)


def sums_at_most(plan: Plan) -> int:
    """Return the most secure sums that a site is asked for by `plan`."""
    if isinstance(plan.privacy, NoisedTerms):
        return noised_sums(plan.privacy) + 1
    return max_rounds(plan.model) + 3


def evaluation_segments(plan: Plan) -> tuple[Segment, ...]:
    """Return the words of the registered evaluation: the federated model's, then each site's own.

    Histograms of the predicted probability by label, correct decisions at the threshold, and the
    sum of squared residuals. With noised training only the federated model is evaluated: a
    site's own model is an exact function of its training rows.
    """
    persons = plan.aggregation.max_persons_per_site
    bins = plan.evaluation.bins
    private = isinstance(plan.privacy, NoisedTerms)
    return tuple(
        segment
        for model in (("federated",) if private else ("federated", "alone"))
        for segment in (
            Segment(f"{model}.negative", bins, 0, persons),
            Segment(f"{model}.positive", bins, 0, persons),
            Segment(f"{model}.correct", 1, 0, persons),
            Segment(f"{model}.residual", 1, RESIDUAL_SCALE_BITS, persons),
        )
    )


def _noised_segments(plan: Plan, columns: int, kind: QueryKind) -> tuple[Segment, ...]:
    """Return the words of a noised sum, in grid units.

    A site's word reaches at most what its persons can add, each within the clip, and sixteen
    deviations of its noise; a draw beyond (less than one in 2^180) would make the site decline.
    The share is taken for one honest member, which bounds it for every cohort.
    """
    terms, persons = noise_terms(plan), plan.aggregation.max_persons_per_site
    counts = kind is QueryKind.COUNT
    variance = int(descent_terms(plan).count_variance if counts else terms.variance, 16)
    tail = 16 * (math.isqrt(variance) + 1)
    if kind is QueryKind.COUNT:
        return (Segment(PERSONS, 1, 0, persons * terms.clip.units + tail),)
    each = training_sensitivity(plan.model, terms, columns=columns, max_rows=persons)
    reach = persons * each + tail
    manifest = model_manifest(plan.model, columns)
    asked = gradient_manifest if kind is QueryKind.DESCENT else statistics_manifest
    return tuple(Segment(one.name, _length(one.shape), 0, reach) for one in asked(manifest))


def _score_segments(plan: Plan) -> tuple[Segment, ...]:
    """Return the words of the noised histogram, in grid units: persons by label and score."""
    holdout = noise_terms(plan).holdout
    if not isinstance(holdout, NoisedHoldout):
        raise UsageError("the plan's holdout is exact: it has no noised histogram")
    tail = 16 * (math.isqrt(int(holdout.variance, 16)) + 1)
    reach = plan.aggregation.max_persons_per_site * HOLDOUT_CLIP.units + tail
    return tuple(
        Segment(f"federated.{label}", plan.evaluation.bins, 0, reach)
        for label in ("negative", "positive")
    )


def _length(shape: Sequence[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
