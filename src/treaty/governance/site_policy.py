"""Site policy: one site's own rules, which only ever narrow the charter.

The file stays at the site and is read by its own software; no other party sees or signs it.
Guarantees (docs/spec/governance.md, section 7):
  * No policy loaded means nothing is allowed: `NO_POLICY` refuses every study and row.
  * A policy cannot widen: a row that would grant more than the charter is refused by name.
  * A study is run only when its identity, purpose, model kind, rounds, rows and data-use terms are
    all within the policy.

What a plan says about itself is believed only as far as the plan is what the members ratified; that
the code does what the plan says is the sandbox's business.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from treaty.crypto.canonical import Count, DigestField, MemberName, Record, in_words
from treaty.errors import PolicyError, UsageError
from treaty.governance.charter import Charter
from treaty.governance.data_use import require_data_use
from treaty.governance.exposure import (
    Artefact,
    ExposureMatrix,
    Form,
    Line,
    Narrowing,
    narrow,
)

__all__ = [
    "NO_POLICY",
    "SITE_POLICY_FORMAT",
    "AutoApproval",
    "SitePolicy",
    "StudyRequest",
    "effective_matrix",
    "permit_study",
    "site_policy_from_toml",
    "site_policy_template",
]

SITE_POLICY_FORMAT = "treaty.site-policy/v1"


class AutoApproval(Record, frozen=True, kw_only=True):
    """When the site takes part without asking its officer for each study.

    All must hold: the plan's digest is listed, or `any_ratified` and at most
    `max_rounds` rounds. An empty rule approves nothing.
    """

    plans: tuple[DigestField, ...] = ()
    any_ratified: bool = False
    max_rounds: Count = 0


class SitePolicy(Record, frozen=True, kw_only=True):
    """What this site permits within the charter.

    `studies` and `purposes`: empty tuple permits none, ``"*"`` any that the members ratified.
    `model_kinds` likewise. `min_rows` is the least number of local rows a study must have;
    `max_rounds_per_study` the most queries answered. `site_metrics` says whether figures
    of this site alone may leave at all. With `require_assessment` the site contributes only to
    models of a family that passed a privacy-impact assessment here (docs/spec/privacy.md, 10.7).
    `noise_keys` says whether the key of each noised vector is kept among the site's secrets, for
    an audit within the site, or never written (9.8).
    With `confinement` ``required`` training code runs without network and files or not at all; with
    ``preferred`` as far as the machine allows (docs/spec/sandbox.md).
    """

    format: Literal["treaty.site-policy/v1"] = "treaty.site-policy/v1"
    site: MemberName
    studies: tuple[Line, ...] = ()
    purposes: tuple[Line, ...] = ()
    model_kinds: tuple[Line, ...] = ()
    max_rounds_per_study: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    min_rows: Annotated[int, msgspec.Meta(ge=1)] = 20
    site_metrics: bool = False
    require_assessment: bool = False
    noise_keys: Literal["erase", "keep"] = "erase"
    confinement: Literal["preferred", "required"] = "preferred"
    auto_approve: AutoApproval = AutoApproval()
    exposure: tuple[Narrowing, ...] = ()


NO_POLICY: SitePolicy | None = None
"""What a site has before its officer wrote a policy: everything is refused."""


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What a ratified plan asks of this site."""

    study: str
    plan_digest: str
    purpose: str
    model_kind: str
    rounds: int
    rows: int
    data_use: tuple[str, ...]


def site_policy_from_toml(text: str) -> SitePolicy:
    """Return the policy that the site's officer wrote; `UsageError` naming the field otherwise."""
    try:
        return msgspec.convert(tomllib.loads(text), SitePolicy, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the site policy does not hold: {in_words(error)}; correct that field"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected a site policy in TOML: {error}") from error


def effective_matrix(
    charter: Charter, policy: SitePolicy | None, *, matrix: ExposureMatrix | None = None
) -> ExposureMatrix:
    """Return what may leave this site: the charter's rows, narrowed by `policy`.

    `matrix` stands in for the charter's rows when rows have been granted since. Without a
    policy the matrix is empty. Raises `PolicyError`, code ``site-widens`` naming the row or
    ``wrong-site``.
    """
    if policy is None:
        return ExposureMatrix()
    _require_site(charter, policy)
    rows = charter.exposure_matrix() if matrix is None else matrix
    narrowed = narrow(rows, policy.exposure)
    if policy.site_metrics:
        return narrowed
    return ExposureMatrix(
        tuple(
            msgspec.structs.replace(rule, allow=False)
            if rule.artefact is Artefact.SITE_METRIC and rule.form is not Form.DIGEST
            else rule
            for rule in narrowed.rules
        )
    )


def permit_study(charter: Charter, policy: SitePolicy | None, request: StudyRequest) -> bool:
    """Return whether the site takes part at once (True) or its officer must approve (False).

    Raises `PolicyError` when the site may not take part at all: codes ``no-policy``,
    ``wrong-site``, ``site-study``, ``site-purpose``, ``site-model``, ``site-rounds``,
    ``site-rows`` and ``data-use``.
    """
    if policy is None:
        raise PolicyError(
            "no site policy is loaded: expected one, nothing is allowed without it, "
            "write the site's policy file",
            code="no-policy",
        )
    _require_site(charter, policy)
    _require_listed("study", request.study, policy.studies)
    _require_listed("purpose", request.purpose, policy.purposes)
    _require_listed("model", request.model_kind, policy.model_kinds)
    if request.rounds > policy.max_rounds_per_study:
        raise PolicyError(
            f"study {request.study} asks for {request.rounds} rounds: expected at most "
            f"{policy.max_rounds_per_study}, raise max_rounds_per_study or decline",
            code="site-rounds",
        )
    if request.rows < policy.min_rows:
        # The figure itself stays here: this message is for the site's own log.
        raise PolicyError(
            f"the site has fewer rows than its policy asks for: expected at least "
            f"{policy.min_rows}, decline or lower min_rows",
            code="site-rows",
        )
    require_data_use(charter.data_use, request.data_use)
    rule = policy.auto_approve
    return request.plan_digest in rule.plans or (
        rule.any_ratified and request.rounds <= rule.max_rounds
    )


def _require_site(charter: Charter, policy: SitePolicy) -> None:
    if policy.site not in charter.members:
        raise PolicyError(
            f"the site policy is for {policy.site}, which is not in the charter: "
            "expected one of its members, correct `site`",
            code="wrong-site",
        )


def _require_listed(what: str, value: str, allowed: Iterable[str]) -> None:
    listed = tuple(allowed)
    if "*" in listed or value in listed:
        return
    shown = ", ".join(sorted(listed)) or "none"
    raise PolicyError(
        f"the site policy does not permit the {what} {value}: expected one of: {shown}, "
        "add it to the policy or decline",
        code=f"site-{what}",
    )


def site_policy_template(site: str) -> str:
    """Return a commented policy for `site` that permits nothing until it is filled in."""
    return f"""# What this site permits within the charter. It can only narrow it.
# As it stands nothing is permitted. "*" permits whatever the members ratified.
format = "{SITE_POLICY_FORMAT}"
site = "{site}"
studies = []
purposes = []
model_kinds = []
max_rounds_per_study = 0
min_rows = 20
site_metrics = false            # may figures of this site alone leave it?
noise_keys = "erase"            # "keep" stores them for an audit within the site
require_assessment = false      # take part only with families that `treaty assess` passed here?

confinement = "preferred"       # "required": no training where code cannot be confined

[auto_approve]                  # otherwise the officer approves each study
plans = []                      # digests of plans that were read and approved
any_ratified = false
max_rounds = 0

# Remove or tighten rows of the charter's exposure matrix, for example:
# [[exposure]]
# artefact = "evaluation-histogram"
# form = "exact"
# allow = false
"""
