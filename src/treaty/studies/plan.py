"""Study plan: everything that belongs to a study, fixed before it runs.

People write the plan as TOML; members ratify the SHA-256 of its canonical bytes. The plan
binds the charter, the data contract and the model description, so nothing that matters
to the outcome is left to the coordinator (docs/spec/studies.md, section 1).

The plan holds integers only: units stand in the names.
"""

import tomllib
from typing import Annotated, Final, Literal

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import DigestField, MemberName, Name, Record, in_words
from treaty.errors import FormatError, UsageError
from treaty.governance.exposure import Line
from treaty.ids import Digest
from treaty.models.specification import ModelSpecification
from treaty.privacy.terms import ExactSums, PrivacyTerms

__all__ = [
    "AggregationSettings",
    "EvaluationSettings",
    "Plan",
    "SplitSettings",
    "checked_plan",
    "parse_plan",
    "plan_bytes",
    "plan_digest",
    "plan_from_toml",
]

PLAN_FORMAT: Final = "treaty.plan/v1"

Permille = Annotated[int, msgspec.Meta(ge=1, le=999)]


class SplitSettings(Record):
    """How each site divides its persons into training and holdout rows.

    The site orders its rows by a keyed digest under `seed`, stratified by label, and keeps
    `holdout_permille` thousandths of them out of training.
    """

    holdout_permille: Permille = 340
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0


class EvaluationSettings(Record):
    """The registered evaluation: histogram bins, decision threshold, per-site figures."""

    bins: Annotated[int, msgspec.Meta(ge=2, le=1024, multiple_of=2)] = 64
    threshold_permille: Permille = 500
    site_figures: bool = False


class AggregationSettings(Record):
    """Bounds from which rings and grids are derived.

    `max_persons_per_site` bounds every site's rows; `feature_clip` is in standard deviations;
    `scale_bits` is the binary fixed-point scale of exact sums; `update_scale_bits` that of clipped
    model updates. `deadline_s` is how long a phase of a round or an epoch waits for members that
    do not answer, where parties live in real time. With `audited`, members add every published sum
    up again before an epoch follows another, and no sum over other members is opened while one is
    unaudited. With `sketched`, members show random projections of their clipped updates, and a sum
    that these do not bound is not published: EXPERIMENTAL, UNREVIEWED (`treaty.studies.sketches`).
    """

    max_persons_per_site: Annotated[int, msgspec.Meta(ge=1, le=2**24)] = 2**14
    feature_clip: Annotated[int, msgspec.Meta(ge=1, le=64)] = 16
    statistics_scale_bits: Annotated[int, msgspec.Meta(ge=0, le=40)] = 20
    scale_bits: Annotated[int, msgspec.Meta(ge=8, le=44)] = 32
    update_scale_bits: Annotated[int, msgspec.Meta(ge=4, le=28)] = 20
    slots_per_epoch: Annotated[int, msgspec.Meta(ge=1, le=64)] = 32
    support_rows: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 5
    deadline_s: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 600
    audited: bool = False
    sketched: bool = False


class Plan(Record):
    """One study, as its members ratify it.

    `code` is the digest of the training code that every site must run; `privacy` the terms:
    noised sums with the epsilon that the plan promises, or exact ones, which the charter must
    accept row by row.
    """

    format: Literal["treaty.plan/v1"] = PLAN_FORMAT
    study: MemberName
    title: Line
    purpose: Line
    charter: DigestField
    contract: DigestField
    code: DigestField
    model: ModelSpecification
    split: SplitSettings = SplitSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    aggregation: AggregationSettings = AggregationSettings()
    privacy: PrivacyTerms = ExactSums()
    data_use: tuple[Name, ...] = ()


def plan_bytes(plan: Plan) -> bytes:
    """Return the canonical bytes of `plan`."""
    return canonical.encode(plan)


def plan_digest(plan: Plan) -> Digest:
    """Return the SHA-256 of the canonical bytes of `plan`."""
    return canonical.digest_of(plan)


def parse_plan(data: bytes) -> Plan:
    """Return the plan whose canonical bytes are `data`; `FormatError` otherwise."""
    return canonical.decode(data, Plan)


def plan_from_toml(text: str, *, charter: Digest, contract: Digest, code: Digest) -> Plan:
    """Return the plan that a person wrote, bound to `charter`, `contract` and `code`.

    Raises `UsageError` when the text is not TOML or a field is missing, unknown or out of
    range; the message names the field.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected a plan in TOML: {error}") from error
    for bound in ("charter", "contract", "code"):
        if bound in table:
            raise UsageError(f"leave {bound} out of the plan's text: it is filled in on proposing")
    if "privacy" not in table:
        raise UsageError(
            'expected a [privacy] section: kind = "distributed-gaussian" or "noised-statistics" '
            'with epsilon_milli and delta_inverse, or kind = "exact" where the charter accepts '
            "exact sums by name"
        )
    table.setdefault("format", PLAN_FORMAT)
    table |= {"charter": charter, "contract": contract, "code": code}
    try:
        plan = msgspec.convert(table, Plan, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"plan does not hold: {in_words(error)}") from error
    return checked_plan(plan)


def checked_plan(plan: Plan) -> Plan:
    """Return `plan` as it will be read by everybody; `UsageError` names a field out of range.

    For plans that were built from fields: records do not look at what they are made of.
    """
    try:
        return parse_plan(plan_bytes(plan))
    except FormatError as error:
        raise UsageError(f"plan does not hold: {in_words(error)}") from error
