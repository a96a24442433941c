"""Queries: derived from the plan, bound by one digest, refused where a sum could wrap.

Planted and caught: a field left out of the digest; the last two words missing; persons counted in
the support; the ring of clipped updates taken for exact sums; no check of capacity; the narrow ring
chosen for one contributor, or never.
"""

from dataclasses import replace

import msgspec
import pytest

from tests.worlds import CONTRACT, digest, refused, small_charter, small_contract, small_plan
from treaty.governance.exposure import SUMS, Artefact
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression, ModelSpecification, MultilayerPerceptron
from treaty.privacy.terms import NoisedHoldout
from treaty.studies.calibrating import Privacy, private_model, terms_for
from treaty.studies.plan import AggregationSettings, EvaluationSettings, Plan
from treaty.studies.queries import (
    CONTRIBUTORS,
    NO_DIGEST,
    NOISED,
    ROWS,
    Query,
    QueryKind,
    evaluation_segments,
    make_query,
)

CHARTER, DATA = small_charter(), small_contract()
PLAN = small_plan(CHARTER, DATA)
TERMS = terms_for(
    Privacy(),
    private_model(PLAN.model),
    DATA,
    CHARTER.privacy,
    members=4,
    max_persons_per_site=256,
)
PERCEPTRON = MultilayerPerceptron(hidden=(3,))


def query(
    kind: QueryKind = QueryKind.STATISTICS,
    index: int = 1,
    *,
    plan: Plan = PLAN,
    members: int = 4,
    model: Digest = NO_DIGEST,
    normaliser: Digest = NO_DIGEST,
) -> Query:
    return make_query(plan, DATA, kind, index, members=members, model=model, normaliser=normaliser)


def changed(model: ModelSpecification | None = None, **settings: int) -> Plan:
    bounds = msgspec.structs.replace(PLAN.aggregation, **settings)
    return msgspec.structs.replace(PLAN, aggregation=bounds, model=model or PLAN.model)


def test_the_same_inputs_give_the_same_query() -> None:
    assert query() == query()
    assert query().digest == query().digest


def test_every_input_changes_the_digest() -> None:
    variants = [
        query(),
        query(index=2),
        query(members=5),
        query(model=digest("model")),
        query(normaliser=digest("model")),
        query(plan=msgspec.structs.replace(PLAN, title="Another")),
        query(plan=msgspec.structs.replace(PLAN, charter=digest("another"))),
        query(plan=msgspec.structs.replace(PLAN, contract=digest("another"))),
        query(plan=msgspec.structs.replace(PLAN, code=digest("another"))),
        query(plan=changed(max_persons_per_site=255)),
        query(plan=changed(statistics_scale_bits=19)),
        *(query(kind) for kind in (QueryKind.SUPPORT, QueryKind.NEWTON, QueryKind.EVALUATION)),
    ]
    assert len({one.digest for one in variants}) == len(variants)


def test_the_layout_is_part_of_the_digest_word_by_word() -> None:
    """Two queries that differ in one segment alone differ."""
    base = query(QueryKind.NEWTON)
    for place, part in enumerate(base.layout.segments):
        for change in (
            {"name": "other"},
            {"length": part.length + 1},
            {"scale_bits": part.scale_bits + 1},
            {"bound": part.bound + 1},
        ):
            segments = list(base.layout.segments)
            segments[place] = replace(part, **change)
            layout = replace(base.layout, segments=tuple(segments))
            assert replace(base, layout=layout).digest != base.digest
    assert replace(base, layout=replace(base.layout, ring_bits=32)).digest != base.digest


@pytest.mark.parametrize("kind", QueryKind)
def test_every_layout_ends_with_rows_and_the_constant_one(kind: QueryKind) -> None:
    model = PERCEPTRON if kind is QueryKind.AVERAGING else PLAN.model
    plan = changed(model)
    if kind in NOISED:
        terms = msgspec.structs.replace(
            TERMS, holdout=NoisedHoldout(epsilon_milli=1000, variance=f"{1 << 50:x}")
        )
        plan = msgspec.structs.replace(changed(private_model(model)), privacy=terms)
    layout = query(kind, plan=plan).layout
    rows, ones = layout.segments[-2:]
    assert (rows.name, rows.length, rows.scale_bits) == (ROWS, 1, 0)
    assert (ones.name, ones.length, ones.scale_bits, ones.bound) == (CONTRIBUTORS, 1, 0, 1)
    counted = kind in (QueryKind.STATISTICS, QueryKind.EVALUATION)
    assert rows.bound == (256 if counted else 0)
    assert layout.contributors == 4
    assert layout.ring_bits == (32 if kind is QueryKind.AVERAGING else 64)


@pytest.mark.parametrize(
    ("members", "scale_bits", "ring_bits"),
    [(4, 12, 16), (4, 13, 32), (7, 12, 16), (8, 12, 32), (3, 4, 16), (4, 28, 32)],
)
def test_a_coarse_grid_of_updates_takes_the_narrowest_ring(
    members: int, scale_bits: int, ring_bits: int
) -> None:
    """Clipped at 1: members * (2^scale_bits + 1) stays below half the ring."""
    plan = changed(PERCEPTRON, update_scale_bits=scale_bits)
    assert query(QueryKind.AVERAGING, plan=plan, members=members).layout.ring_bits == ring_bits
    assert (members * (2**scale_bits + 1) < 2**15) == (ring_bits == 16)


def test_the_segments_of_each_kind() -> None:
    def shape(kind: QueryKind, model: ModelSpecification | None = None) -> list[tuple[str, int]]:
        return [
            (part.name, part.length) for part in query(kind, plan=changed(model)).layout.segments
        ][:-2]

    assert shape(QueryKind.SUPPORT) == [("support", 2)]
    assert shape(QueryKind.STATISTICS) == [("sums", 2), ("squares", 2)]
    assert shape(QueryKind.NEWTON) == [("gradient", 3), ("hessian", 6), ("loss", 1)]
    assert shape(QueryKind.NEWTON, LogisticRegression()) == [
        ("gradient", 2),
        ("hessian", 3),
        ("loss", 1),
    ]
    assert shape(QueryKind.AVERAGING, PERCEPTRON) == [
        ("delta.layer.0.bias", 3),
        ("delta.layer.0.weight", 6),
        ("delta.layer.1.bias", 1),
        ("delta.layer.1.weight", 3),
        ("weight", 1),
    ]
    assert shape(QueryKind.EVALUATION) == [
        (part.name, part.length) for part in evaluation_segments(PLAN)
    ]


def test_the_evaluation_counts_both_models_alike() -> None:
    plan = msgspec.structs.replace(PLAN, evaluation=EvaluationSettings(bins=10))
    parts = evaluation_segments(plan)
    federated = [part for part in parts if part.name.startswith("federated.")]
    alone = [part for part in parts if part.name.startswith("alone.")]
    assert federated + alone == list(parts)
    for one, other in zip(federated, alone, strict=True):
        assert one.name.removeprefix("federated") == other.name.removeprefix("alone")
        assert (one.length, one.scale_bits, one.bound) == (
            other.length,
            other.scale_bits,
            other.bound,
        )
    assert [part.length for part in federated] == [10, 10, 1, 1]


@pytest.mark.parametrize(
    "kind, settings",
    [
        (QueryKind.STATISTICS, {"max_persons_per_site": 2**24, "statistics_scale_bits": 40}),
        (QueryKind.NEWTON, {"max_persons_per_site": 2**24, "scale_bits": 44}),
        (QueryKind.AVERAGING, {"update_scale_bits": 28}),
        (QueryKind.EVALUATION, {"max_persons_per_site": 2**24}),
    ],
)
def test_a_sum_that_could_wrap_is_no_query(kind: QueryKind, settings: dict[str, int]) -> None:
    model = (
        MultilayerPerceptron(hidden=(3,), clip_micro=10**7) if kind is QueryKind.AVERAGING else None
    )
    assert query(kind, plan=changed(model)).layout.length > 2
    with refused("capacity"):
        query(kind, plan=changed(model, **settings), members=128)


def test_a_kind_names_the_class_of_its_sum() -> None:
    assert {kind.artefact for kind in QueryKind} == SUMS
    assert QueryKind.NEWTON.artefact is Artefact.GRADIENT_HESSIAN_SUM


def test_the_contracts_public_bounds_make_the_statistics() -> None:
    wide = small_contract(CONTRACT.replace("spread = 25", "spread = 5"))
    plan = small_plan(CHARTER, wide, aggregation=AggregationSettings(max_persons_per_site=10))
    layout = make_query(
        plan, wide, QueryKind.STATISTICS, 1, members=3, model=NO_DIGEST, normaliser=NO_DIGEST
    ).layout
    assert [part.bound for part in layout.segments] == [100, 1000, 10, 1]
