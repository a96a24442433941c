"""Exposure: what may leave a site, in which form, to whom, and nothing else.

The matrix has rows over a closed set of artefact classes. Guarantees
(docs/spec/governance.md, section 5):
  * Deny by default: without a row that allows the class, the recipient and the form, with
    enough members behind it, the answer is no, and the answer says why.
  * A row can only speak of a form that its class can have.
  * `narrow` never widens: a site's own rows remove or tighten rows of the charter, and a row
    that would grant more is an error that names it.

LIMIT: the matrix rules classes of content, not content. What the values of an allowed sum
disclose is bounded by clipping, noise and the number of members behind it, not here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Annotated

import msgspec

from treaty.crypto.canonical import Record
from treaty.errors import PolicyError
from treaty.governance.roles import Role
from treaty.ids import SingleEnum

__all__ = [
    "FORMS",
    "SUMS",
    "TRAINING_SUMS",
    "Artefact",
    "Decision",
    "ExposureMatrix",
    "ExposureRule",
    "Form",
    "HowOften",
    "Line",
    "Narrowing",
    "RiskTolerance",
    "describe_artefact",
    "narrow",
]

_HIDDEN = r"\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"

Line = Annotated[str, msgspec.Meta(max_length=1024, pattern=rf"\A[^{_HIDDEN}]*\Z")]
"""One line of text that people read: no control, invisible or direction-changing character.

Prevents a name or remark that shows a lawyer something else than what is signed.
"""


class Artefact(SingleEnum):
    """The classes of content that can stand in a message. Every message field carries one.

    RAW_DATA, the records of persons, has no form and so can have no row: it never leaves. The
    next group comes from data; the one after that is needed to run the protocol and
    carries none; the last is written by people.
    """

    RAW_DATA = "raw-data"

    MASKED_INPUT = "masked-input"
    STATISTICS_SUM = "statistics-sum"
    SUPPORT_SUM = "support-sum"
    GRADIENT_HESSIAN_SUM = "gradient-hessian-sum"
    MODEL_UPDATE_SUM = "model-update-sum"
    EVALUATION_HISTOGRAM = "evaluation-histogram"
    MODEL = "model"
    SITE_METRIC = "site-metric"
    SKETCH_CLAIM = "sketch-claim"
    EVALUATION_VERDICT = "evaluation-verdict"
    MONITORING_SIGNAL = "monitoring-signal"
    SIMULATION_COMPARISON = "simulation-comparison"

    REFUSAL_CODE = "refusal-code"
    PROTOCOL_KEY = "protocol-key"
    SECRET_SHARE = "secret-share"
    SURPLUS_NOISE_KEY = "surplus-noise-key"
    SIGNATURE = "signature"
    COMMITMENT = "commitment"
    LOG_POSITION = "log-position"
    IDENTIFIER = "identifier"
    SCHEDULE = "schedule"
    ADAPTER_DIGEST = "adapter-digest"
    PRIVACY_CERTIFICATE = "privacy-certificate"
    ATTESTATION = "attestation"
    VOTE = "vote"

    GOVERNANCE_DOCUMENT = "governance-document"
    CONTRACT = "contract"
    PLAN = "plan"
    MODEL_CARD = "model-card"
    DATASET_CARD = "dataset-card"
    RELEASE_STAGE = "release-stage"
    INCIDENT_REPORT = "incident-report"
    REMARK = "remark"


class Form(SingleEnum):
    """In which form an artefact is shown.

    exact: as computed. noised: with calibrated noise. masked: indistinguishable from random
    until enough members' inputs are added. digest: a salted commitment or a digest of
    what cannot be guessed. code: one of a closed list. text: written by people. plain: a value
    that does not depend on data.
    """

    EXACT = "exact"
    NOISED = "noised"
    MASKED = "masked"
    DIGEST = "digest"
    CODE = "code"
    TEXT = "text"
    PLAIN = "plain"


class HowOften(Enum):
    """The most often that a row may be used, from least to most."""

    ONCE = "once"
    PER_STUDY = "per-study"
    PER_EPOCH = "per-epoch"
    PER_ROUND = "per-round"
    ALWAYS = "always"


class RiskTolerance(Enum):
    """How much disclosure risk the members accept for a row, from least to most."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


SUMS = frozenset(
    {
        Artefact.STATISTICS_SUM,
        Artefact.SUPPORT_SUM,
        Artefact.GRADIENT_HESSIAN_SUM,
        Artefact.MODEL_UPDATE_SUM,
        Artefact.EVALUATION_HISTOGRAM,
    }
)
"""Opened sums: their rows need at least `min_survivors` members."""

TRAINING_SUMS = (SUMS - {Artefact.EVALUATION_HISTOGRAM}) | {Artefact.SKETCH_CLAIM}
"""Sums over training rows, of all institutions or, in a claim, of one alone.

Never exact under a charter that promises differential privacy.
"""

_VALUE = frozenset({Form.EXACT, Form.NOISED})
_PLAIN = frozenset({Form.PLAIN})
_CODE = frozenset({Form.CODE})
_TEXT = frozenset({Form.TEXT})
_DIGEST = frozenset({Form.DIGEST})

FORMS: Mapping[Artefact, frozenset[Form]] = MappingProxyType(
    {
        Artefact.RAW_DATA: frozenset(),
        Artefact.MASKED_INPUT: frozenset({Form.MASKED}),
        Artefact.STATISTICS_SUM: _VALUE,
        Artefact.SUPPORT_SUM: _VALUE,
        Artefact.GRADIENT_HESSIAN_SUM: _VALUE,
        Artefact.MODEL_UPDATE_SUM: _VALUE,
        Artefact.EVALUATION_HISTOGRAM: _VALUE,
        Artefact.MODEL: _VALUE,
        Artefact.SITE_METRIC: _VALUE | _DIGEST,
        Artefact.SKETCH_CLAIM: frozenset({Form.EXACT}),
        Artefact.EVALUATION_VERDICT: _VALUE,
        Artefact.MONITORING_SIGNAL: _VALUE | _CODE,
        Artefact.SIMULATION_COMPARISON: frozenset({Form.EXACT}),
        Artefact.REFUSAL_CODE: _CODE,
        Artefact.PROTOCOL_KEY: _PLAIN,
        Artefact.SECRET_SHARE: _PLAIN,
        Artefact.SURPLUS_NOISE_KEY: _PLAIN,
        Artefact.SIGNATURE: _PLAIN,
        Artefact.COMMITMENT: _DIGEST,
        Artefact.LOG_POSITION: _PLAIN,
        Artefact.IDENTIFIER: _PLAIN,
        Artefact.SCHEDULE: _PLAIN,
        Artefact.ADAPTER_DIGEST: _DIGEST,
        Artefact.PRIVACY_CERTIFICATE: _PLAIN,
        Artefact.ATTESTATION: _PLAIN,
        Artefact.VOTE: _CODE,
        Artefact.GOVERNANCE_DOCUMENT: _TEXT,
        Artefact.CONTRACT: _TEXT,
        Artefact.PLAN: _TEXT,
        Artefact.MODEL_CARD: _TEXT,
        Artefact.DATASET_CARD: _TEXT,
        Artefact.RELEASE_STAGE: _CODE,
        Artefact.INCIDENT_REPORT: _TEXT,
        Artefact.REMARK: _TEXT,
    }
)
"""The forms that each class can have. Most have one."""

_ARTEFACT_WORDS: Mapping[Artefact, str] = MappingProxyType(
    {
        Artefact.RAW_DATA: "the data themselves",
        Artefact.MASKED_INPUT: "an institution's contribution to a sum",
        Artefact.STATISTICS_SUM: "sums of counts, values and squares of the data columns",
        Artefact.SUPPORT_SUM: "how many institutions have enough data for each column",
        Artefact.GRADIENT_HESSIAN_SUM: "sums of the quantities that fit a model",
        Artefact.MODEL_UPDATE_SUM: "sums of changes to a model",
        Artefact.EVALUATION_HISTOGRAM: "summed histograms of a model's scores on test data",
        Artefact.MODEL: "the model",
        Artefact.SITE_METRIC: "figures of one institution alone",
        Artefact.SKETCH_CLAIM: "random projections of one institution's model update",
        Artefact.EVALUATION_VERDICT: "the result of an evaluation over all institutions",
        Artefact.MONITORING_SIGNAL: "signs of drift or failure of a released model",
        Artefact.SIMULATION_COMPARISON: "comparisons with pooled data, in a simulation only",
        Artefact.REFUSAL_CODE: "that an institution declined, by code",
        Artefact.PROTOCOL_KEY: "public and encrypted protocol values",
        Artefact.SECRET_SHARE: "shares that take masks off a sum",
        Artefact.SURPLUS_NOISE_KEY: "keys of noise that a sum does not need",
        Artefact.SIGNATURE: "signatures",
        Artefact.COMMITMENT: "salted commitments",
        Artefact.LOG_POSITION: "positions in the log",
        Artefact.IDENTIFIER: "names, digests and counters",
        Artefact.SCHEDULE: "who takes part in which round",
        Artefact.ADAPTER_DIGEST: "the digest of the local data adapter",
        Artefact.PRIVACY_CERTIFICATE: "certificates of privacy loss",
        Artefact.ATTESTATION: "evidence of the hardware and code in use",
        Artefact.VOTE: "votes",
        Artefact.GOVERNANCE_DOCUMENT: "charters and amendments",
        Artefact.CONTRACT: "data contracts",
        Artefact.PLAN: "study plans",
        Artefact.MODEL_CARD: "model cards",
        Artefact.DATASET_CARD: "descriptions of data sets",
        Artefact.RELEASE_STAGE: "stages of a release",
        Artefact.INCIDENT_REPORT: "incident reports",
        Artefact.REMARK: "remarks written by people",
    }
)

_OFTEN = {value: rank for rank, value in enumerate(HowOften)}


def rarest(rules: Iterable["ExposureRule"]) -> HowOften:
    """Return how often all of `rules` allow at the same time; there is at least one."""
    return min((rule.how_often for rule in rules), key=_OFTEN.__getitem__)


def describe_artefact(artefact: Artefact) -> str:
    """Return what `artefact` is, in words."""
    return _ARTEFACT_WORDS[artefact]


class ExposureRule(Record, frozen=True, kw_only=True):
    """One row: may `artefact` be shown to `recipients` in `form`, how often, over how many members?

    `least_members` is the least number of members whose data stand behind what is shown.
    `remediation` says what is done when the row has been broken or proves too wide.
    """

    artefact: Artefact
    recipients: tuple[Role, ...]
    form: Form
    allow: bool = True
    how_often: HowOften = HowOften.PER_ROUND
    least_members: Annotated[int, msgspec.Meta(ge=1, le=200)] = 1
    risk_tolerance: RiskTolerance = RiskTolerance.LOW
    remediation: Line = ""


class Narrowing(Record, frozen=True, kw_only=True):
    """One row of a site's own policy, which removes a row of the charter or tightens it.

    Without `recipients` it speaks of every recipient that the charter names. With `allow` it
    keeps the row but may raise `least_members` or lower `how_often`.
    """

    artefact: Artefact
    form: Form
    recipients: tuple[Role, ...] = ()
    allow: bool = False
    how_often: HowOften | None = None
    least_members: Annotated[int, msgspec.Meta(ge=1, le=200)] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one exposure question, with its reason in one sentence."""

    allowed: bool
    explanation: str
    rule: ExposureRule | None = None

    def explain(self) -> str:
        """Return the answer as text that a person can act upon."""
        return f"{'allowed' if self.allowed else 'refused'}: {self.explanation}"


_Key = tuple[Artefact, Role, Form]


def _name(key: _Key) -> str:
    return f"{key[0].value} to {key[1].value} as {key[2].value}"


@dataclass(frozen=True, slots=True)
class ExposureMatrix:
    """The rows in force, looked up by artefact, recipient and form.

    Raises `PolicyError` (code ``exposure``) for two rows on the same question or for a form
    that the class cannot have. An empty matrix allows nothing.
    """

    rules: tuple[ExposureRule, ...] = ()
    _index: Mapping[_Key, ExposureRule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[_Key, ExposureRule] = {}
        for rule in self.rules:
            if rule.form not in FORMS[rule.artefact]:
                forms = " or ".join(sorted(form.value for form in FORMS[rule.artefact]))
                forms = forms or "no row at all"
                raise PolicyError(
                    f"{rule.artefact.value} cannot be shown as {rule.form.value}: "
                    f"expected {forms}, correct the form of this exposure row",
                    code="exposure",
                )
            if not rule.recipients:
                raise PolicyError(
                    f"the exposure row for {rule.artefact.value} as {rule.form.value} "
                    "names no recipient: expected at least one role",
                    code="exposure",
                )
            for recipient in rule.recipients:
                key = (rule.artefact, recipient, rule.form)
                if key in index:
                    raise PolicyError(
                        f"two exposure rows speak of {_name(key)}: expected one, remove the other",
                        code="exposure",
                    )
                index[key] = rule
        object.__setattr__(self, "_index", MappingProxyType(index))

    def allows(self, artefact: Artefact, recipient: Role, form: Form, members: int = 1) -> bool:
        """Return the answer of `decide` without its reason: asked of every field that leaves."""
        rule = self._index.get((artefact, recipient, form))
        return rule is not None and rule.allow and members >= rule.least_members

    def decide(self, artefact: Artefact, recipient: Role, form: Form, members: int = 1) -> Decision:
        """Say whether `artefact` over the data of `members` members may go to `recipient`.

        Total: any question has an answer, and the answer without a row is no.
        """
        key = (artefact, recipient, form)
        rule = self._index.get(key)
        if rule is None:
            shown = sorted(
                other[2].value
                for other, row in self._index.items()
                if other[:2] == key[:2] and row.allow
            )
            hint = f"it may be shown as {' or '.join(shown)}" if shown else "default deny"
            return Decision(
                False,
                f"no exposure row allows {_name(key)} ({hint}); amend the charter to add one",
            )
        if not rule.allow:
            return Decision(False, f"an exposure row forbids {_name(key)}", rule)
        if members < rule.least_members:
            return Decision(
                False,
                f"{_name(key)} needs at least {rule.least_members} members behind it, "
                f"got {members}",
                rule,
            )
        return Decision(
            True,
            f"an exposure row allows {_name(key)}, {rule.how_often.value}, "
            f"over at least {rule.least_members} members",
            rule,
        )

    def require(
        self, artefact: Artefact, recipient: Role, form: Form, members: int = 1
    ) -> ExposureRule:
        """Return the row that allows it; otherwise raise `PolicyError` (code ``exposure``)."""
        decision = self.decide(artefact, recipient, form, members)
        if not decision.allowed or decision.rule is None:
            raise PolicyError(decision.explanation, code="exposure")
        return decision.rule

    def recipients(self, artefact: Artefact, form: Form) -> frozenset[Role]:
        """Return the roles that some row allows to see `artefact` in `form`."""
        return frozenset(
            key[1]
            for key, rule in self._index.items()
            if key[0] is artefact and key[2] is form and rule.allow
        )

    def granted(self, rule: ExposureRule) -> "ExposureMatrix":
        """Return the matrix with one more row, as an ``exposure.grant`` decision adds it.

        Raises `PolicyError` when a row already speaks of it: what the charter forbids or
        limits by name is changed by amendment alone.
        """
        return ExposureMatrix((*self.rules, rule))


def narrow(matrix: ExposureMatrix, rows: Iterable[Narrowing]) -> ExposureMatrix:
    """Return `matrix` with a site's own rows applied.

    Guarantee: every question that the result allows is allowed by `matrix`. Raises `PolicyError`
    (code ``site-widens``) naming the first row that would allow more than the charter.
    """
    current: dict[_Key, ExposureRule] = {
        (rule.artefact, recipient, rule.form): rule
        for rule in matrix.rules
        for recipient in rule.recipients
    }
    touched: set[_Key] = set()
    for row in rows:
        known = tuple(key[1] for key in current if key[0] is row.artefact and key[2] is row.form)
        for recipient in row.recipients or known or (Role.MEMBER,):
            key = (row.artefact, recipient, row.form)
            if key in touched:
                raise PolicyError(
                    f"two rows of the site policy speak of {_name(key)}: expected one",
                    code="site-widens",
                )
            touched.add(key)
            rule = current.get(key)
            if rule is not None:
                current[key] = _tightened(key, rule, row)
            elif row.allow:
                raise _widening(key, "the charter has no such row")
    return ExposureMatrix(
        tuple(msgspec.structs.replace(rule, recipients=(key[1],)) for key, rule in current.items())
    )


def _tightened(key: _Key, rule: ExposureRule, row: Narrowing) -> ExposureRule:
    if not row.allow:
        return msgspec.structs.replace(rule, allow=False)
    if not rule.allow:
        raise _widening(key, "the charter forbids it")
    least = rule.least_members if row.least_members is None else row.least_members
    often = rule.how_often if row.how_often is None else row.how_often
    if least < rule.least_members:
        raise _widening(key, f"the charter asks for {rule.least_members} members, the site {least}")
    if _OFTEN[often] > _OFTEN[rule.how_often]:
        raise _widening(
            key, f"the charter allows it {rule.how_often.value}, the site {often.value}"
        )
    return msgspec.structs.replace(rule, least_members=least, how_often=often)


def _widening(key: _Key, why: str) -> PolicyError:
    return PolicyError(
        f"the site policy row for {_name(key)} would allow more than the charter: {why}; "
        "a site may only narrow, remove the row or amend the charter",
        code="site-widens",
    )
