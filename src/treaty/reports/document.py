"""Everything that a report shows, as plain values.

`ReportData` is a pure function of the bundle that its maker read; nothing here holds a float, a
clock or a duration, so equal bundles give equal reports. Figures are integers in parts
per million; steps, losses and gaps are decimal strings. What cannot be shown is absent by type:
`None` or an empty tuple, and the report says why in words.

Invalid values cannot be constructed (`UsageError`). What the texts say is the maker's business;
they may come from peers, and rendering escapes them.
"""

import re
from dataclasses import dataclass
from enum import Enum

import msgspec

from treaty.crypto import canonical
from treaty.errors import UsageError
from treaty.ids import Digest

__all__ = [
    "REPORT_FORMAT",
    "CalibrationLine",
    "ColumnLine",
    "CountLine",
    "Coverage",
    "EvaluationResult",
    "ExposureLine",
    "Guarantee",
    "LogLine",
    "MemberLine",
    "ModelFigures",
    "PooledComparison",
    "PrivacyLine",
    "Refusal",
    "ReportData",
    "RoundLine",
    "SiteFigures",
    "Term",
    "Verdict",
    "Verification",
    "WitnessLine",
    "report_bytes",
    "report_digest",
]

REPORT_FORMAT = "treaty.report/v1"

_MILLION = 10**6
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")


class Coverage(Enum):
    """What stands behind a guarantee: recomputed, somebody's signed word, or nothing."""

    PROVED = "proved"
    ATTESTED = "attested"
    NOT_COVERED = "not covered"


class Verdict(Enum):
    """What the registered comparison of areas says about the federated model."""

    SUPERIOR = "superior"
    INFERIOR = "inferior"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARED = "not-compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLine:
    """A member of the charter; `took_part` in this study."""

    name: str
    title: str
    region: str = ""
    took_part: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLine:
    """A column of the data contract. `kind` is in words; `unit` is empty where there is none."""

    name: str
    meaning: str
    kind: str
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLine:
    """One opened sum. `rows` stand behind it where the sum says so; `lost` names members.

    `step` (largest change of a coefficient) and `loss` are decimal strings, absent where the
    round has none.
    """

    number: int
    kind: str
    survivors: int
    rows: int | None = None
    lost: tuple[str, ...] = ()
    step: str | None = None
    loss: str | None = None

    def __post_init__(self) -> None:
        _counts(number=self.number, survivors=self.survivors, rows=self.rows)
        _decimals(step=self.step, loss=self.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures:
    """One model's figures on some holdout rows, in parts per million.

    `auc_half_width` bounds the effect of binning, `auc_margin` (95 %) that of sampling; absent
    where an area does not exist or is not known. Under a noised histogram margins hold the noise
    too, and accuracy and Brier have margins of their own; counts are then estimates.
    """

    accuracy: int
    brier: int
    auc: int | None = None
    auc_half_width: int | None = None
    auc_margin: int | None = None
    rows: int | None = None
    positives: int | None = None
    accuracy_margin: int | None = None
    brier_margin: int | None = None

    def __post_init__(self) -> None:
        _parts(accuracy=self.accuracy, brier=self.brier, auc=self.auc)
        _counts(
            auc_half_width=self.auc_half_width,
            auc_margin=self.auc_margin,
            rows=self.rows,
            positives=self.positives,
            accuracy_margin=self.accuracy_margin,
            brier_margin=self.brier_margin,
        )
        if self.rows is not None and self.positives is not None and self.positives > self.rows:
            raise UsageError(
                f"expected at most {self.rows} positives among the rows, got {self.positives}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The registered evaluation: one secure sum over the holdouts of `sites` sites.

    `alone` pools each site's own model on its own holdout, absent where training was noised.
    `auc_difference` is federated minus alone, and `auc_margin` its 95 % bound, both in parts per
    million.
    """

    sites: int
    federated: ModelFigures
    alone: ModelFigures | None
    verdict: Verdict
    auc_difference: int | None = None
    auc_margin: int | None = None

    def __post_init__(self) -> None:
        _counts(sites=self.sites, auc_margin=self.auc_margin)
        if (self.alone is None) != (self.verdict is Verdict.NOT_COMPARED):
            raise UsageError("a verdict of not-compared is for an evaluation without models alone")
        if self.verdict in (Verdict.SUPERIOR, Verdict.INFERIOR) and (
            self.auc_difference is None or self.auc_margin is None
        ):
            raise UsageError(
                f"a verdict of {self.verdict.value} needs a difference of areas and its margin"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFigures:
    """One site's own figures on its own holdout: the federated model and its own."""

    site: str
    federated: ModelFigures
    alone: ModelFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledComparison:
    """Simulation only: a model fitted on all rows in one place.

    `largest_gap` is the largest difference of predicted probability on the holdouts, a decimal
    string. `alone_everywhere` has each site's own model on everybody's holdout. Of a study under
    noise all these are without noise, and `alone_private` is under the study's own epsilon.
    """

    pooled: ModelFigures
    largest_gap: str
    alone_everywhere: tuple[tuple[str, ModelFigures], ...] = ()
    alone_private: tuple[tuple[str, ModelFigures], ...] = ()

    def __post_init__(self) -> None:
        _decimals(largest_gap=self.largest_gap)
        if self.largest_gap.startswith("-"):
            raise UsageError(f"expected a gap of at least 0, got {self.largest_gap}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationLine:
    """Adjacent score bins: from, to and observed share in parts per million, and their rows."""

    lower: int
    upper: int
    observed: int
    rows: int

    def __post_init__(self) -> None:
        _parts(lower=self.lower, upper=self.upper, observed=self.observed)
        _counts(rows=self.rows)
        if self.lower >= self.upper:
            raise UsageError(f"expected a bin of some width, got {self.lower} to {self.upper}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureLine:
    """One row of "who learned what". `times` counts how often it happened in this log.

    `data_dependent` is false for keys, signatures, schedules and documents.
    """

    artefact: str
    form: str
    recipients: tuple[str, ...]
    how_often: str
    times: int
    sentence: str
    data_dependent: bool = True

    def __post_init__(self) -> None:
        _counts(times=self.times)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyLine:
    """The privacy certificate of one partition of the persons; epsilon is absent where exact."""

    partition: str
    sentence: str
    epsilon: str | None = None
    delta: str | None = None

    def __post_init__(self) -> None:
        _decimals(epsilon=self.epsilon, delta=self.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One log entry: its index, the type of its statement, its author, its digest."""

    index: int
    kind: str
    author: str
    digest: str

    def __post_init__(self) -> None:
        _counts(index=self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLine:
    """How many statements of one type the log holds."""

    kind: str
    count: int

    def __post_init__(self) -> None:
        _counts(count=self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessLine:
    """A member as witness: did it cosign the checkpoint that the report rests on?"""

    witness: str
    cosigned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """One line of the verifier's verdict."""

    name: str
    status: Coverage
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A decline, a refusal or an abandoned round, by its closed code. Causes stay at the site."""

    who: str
    code: str
    sentence: str
    round: int | None = None

    def __post_init__(self) -> None:
        _counts(round=self.round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One constant or rule of the charter, in words."""

    label: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the verifier says as a whole, and in one sentence."""

    status: Coverage
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A whole report. `halted` has the code of a study that stopped before its end.

    Without a study `plan_digest` is absent, and so is everything that a study would fill.

    `max_colluders`, `min_survivors` and `witness_quorum` are the charter's constants;
    `noised` says that every sum over training rows carried calibrated noise.
    """

    consortium: str
    simulation: bool
    anchor: str
    charter_version: int
    charter_expires: str
    charter_digest: str
    members: tuple[MemberLine, ...]
    study: str
    purpose: str
    model: str
    contract: str
    columns: tuple[ColumnLine, ...]
    max_colluders: int
    min_survivors: int
    witness_quorum: int
    noised: bool
    verification: Verification
    guarantees: tuple[Guarantee, ...]
    plan_digest: str | None
    bundle_edition: str
    log_size: int
    log_root: str
    model_digest: str | None = None
    halted: str | None = None
    label: str = ""
    rounds: tuple[RoundLine, ...] = ()
    evaluation: EvaluationResult | None = None
    sites: tuple[SiteFigures, ...] = ()
    comparison: PooledComparison | None = None
    calibration: tuple[CalibrationLine, ...] = ()
    exposure: tuple[ExposureLine, ...] = ()
    privacy: tuple[PrivacyLine, ...] = ()
    timeline: tuple[LogLine, ...] = ()
    counts: tuple[CountLine, ...] = ()
    witnesses: tuple[WitnessLine, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        _digests(
            anchor=self.anchor,
            charter_digest=self.charter_digest,
            plan_digest=self.plan_digest,
            log_root=self.log_root,
            model_digest=self.model_digest,
        )
        _counts(
            charter_version=self.charter_version,
            max_colluders=self.max_colluders,
            min_survivors=self.min_survivors,
            witness_quorum=self.witness_quorum,
            log_size=self.log_size,
        )
        # A comparison with pooled rows cannot exist where rows stay at home.
        if self.comparison is not None and not self.simulation:
            raise UsageError("a comparison with pooled training exists in a simulation only")

    @property
    def participants(self) -> tuple[MemberLine, ...]:
        """Return the members that took part in the study."""
        return tuple(member for member in self.members if member.took_part)

    @property
    def cosignatures(self) -> int:
        """Return how many witnesses cosigned."""
        return sum(line.cosigned for line in self.witnesses)


def report_bytes(data: ReportData) -> bytes:
    """Return the canonical bytes of what the report shows, for the file beside it."""
    return canonical.encode({"format": REPORT_FORMAT, "report": msgspec.to_builtins(data)})


def report_digest(data: ReportData) -> Digest:
    """Return the SHA-256 of `report_bytes`, which the report prints."""
    return canonical.sha256(report_bytes(data))


def _parts(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 <= value <= _MILLION:
            raise UsageError(f"{name}: expected 0 to {_MILLION} parts per million, got {value}")


def _counts(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 0:
            raise UsageError(f"{name}: expected at least 0, got {value}")


def _decimals(**values: str | None) -> None:
    for name, value in values.items():
        if value is not None and _DECIMAL.fullmatch(value) is None:
            raise UsageError(f"{name}: expected a decimal number, got {value[:60]!r}")


def _digests(**values: str | None) -> None:
    for name, value in values.items():
        if value is not None and _DIGEST.fullmatch(value) is None:
            raise UsageError(f"{name}: expected 64 hexadecimal digits, got {value[:80]!r}")
