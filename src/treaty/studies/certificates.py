"""The privacy statement of a study: one certificate per person-disjoint partition.

Guarantees (docs/spec/privacy.md, section 6):
  * Pure: a function of plan, contract, charter and of what the log says was opened. Whoever
    holds these arrives at the same bytes.
  * Training has an epsilon only under noised sums. The holdout's exact histogram is named with
    the charter row that accepts it, and its certificate's epsilon is infinite; a noised one has
    an epsilon of its own.
  * `happened` counts every noised sum that members answered, published or not, with the shares
    that were really in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from treaty.contracts.design import design_columns
from treaty.contracts.schema import Contract
from treaty.crypto.canonical import Count, DigestField, Record, Text
from treaty.errors import UsageError
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.roles import Role
from treaty.privacy.accountant import composed_epsilon, delta_of
from treaty.privacy.certificate import (
    Certificate,
    Cohort,
    EpsilonMicro,
    NoisedSum,
    Unit,
    certificate_text,
    certify,
    epsilon_micro,
    shown_epsilon,
)
from treaty.privacy.events import Event
from treaty.privacy.terms import count_sum, effective_cohort, holdout_sum, training_sum
from treaty.studies.noise import (
    cohort_of,
    descent_terms,
    noise_terms,
    noised_sums,
    training_sensitivity,
)
from treaty.studies.plan import Plan, plan_digest
from treaty.studies.queries import QueryKind, evaluation_kind, noised_kinds
from treaty.studies.surplus import query_tiers

__all__ = [
    "HOLDOUT",
    "TRAINING",
    "Answered",
    "Happened",
    "HoldoutHappened",
    "PrivacyStatement",
    "answered_events",
    "happened_line",
    "holdout_line",
    "partition_lines",
    "privacy_statement",
    "statement_lines",
    "statement_text",
]

TRAINING = "training"
HOLDOUT = "holdout"


@dataclass(frozen=True, slots=True)
class Answered:
    """A noised sum that members answered: its kind, its shares of noise, and the group then.

    `fresh` where the question had been asked before and was released again with fresh noise.
    """

    kind: QueryKind
    shares: int
    cohort: Cohort
    fresh: bool = False


class HoldoutHappened(Record, frozen=True):
    """What the log shows of the holdout's noised histogram: how often, with how many shares.

    `epsilon_micro` as in `Happened`, for a person of the holdout.
    """

    sums: Count
    fewest_shares: Count
    epsilon_micro: EpsilonMicro


class Happened(Record, frozen=True):
    """What the log shows of the noised sums.

    `counts` and `gradients` are of planned releases, `fresh` the releases beyond: questions asked
    again with fresh noise. `fewest_shares` is the least number of members in one of them;
    `epsilon_micro` what they cost a person at one site, added or removed, when `max_colluders`
    shares are known (each at all sums), null when infinite. All this is of training; `holdout` is
    there where the holdout's histogram is noised.
    """

    counts: Count
    planned_counts: Count
    gradients: Count
    planned_gradients: Count
    fresh: Count
    fewest_shares: Count
    epsilon_micro: EpsilonMicro
    holdout: HoldoutHappened | msgspec.UnsetType = msgspec.UNSET


class PrivacyStatement(Record, frozen=True):
    """What a study promises and what it has spent, partition by partition.

    `accepted` is the charter row under which the holdout's histogram is summed, exact or noised.
    """

    format: Literal["treaty.privacy-statement/v1"] = "treaty.privacy-statement/v1"
    plan: DigestField
    charter: DigestField
    promised_epsilon_milli: Count
    certificates: tuple[Certificate, ...]
    happened: Happened
    accepted: Text


def privacy_statement(
    plan: Plan,
    contract: Contract,
    charter: Charter,
    answered: Sequence[Answered],
    *,
    cohort: Cohort | None = None,
) -> PrivacyStatement:
    """Return the statement of a study under noise; `UsageError` when its sums are exact.

    `cohort` is the group that sums are asked of, by default all active members of `charter`.

    Guarantee: epsilons as `certificate.certify`, rounded up. Raises `PolicyError`
    ``person-id-unused`` when rows are protected although the contract names a person.
    """
    terms, present = noise_terms(plan), cohort or cohort_of(charter.parameters())
    counted = effective_cohort(terms, present)
    takes_off = terms.takes_surplus_off and terms.share == "distributed"
    sums = _sums(plan, contract, present)
    common = {
        "unit": Unit(terms.unit),
        "person_identifier_present": bool(contract.entity.person_id),
        "cohort": counted,
        "delta_inverse": terms.delta_inverse,
        "max_sites_per_person": terms.max_sites_per_person,
    }
    histogram = evaluation_kind(plan)
    matrix = charter.exposure_matrix()
    row = matrix.decide(histogram.artefact, Role.MEMBER, histogram.form, present.min_survivors).rule
    accepted = (
        "none: the charter has no row for it"
        if row is None
        else f"{row.artefact.value} as {row.form.value} over at least {row.least_members}"
    )
    noised = holdout_sum(terms, present)
    evaluated = {
        "sums": () if noised is None else (noised,),
        "non_private": (histogram.artefact.value,) if noised is None else (),
    }
    return PrivacyStatement(
        plan=plan_digest(plan),
        charter=charter_digest(charter),
        promised_epsilon_milli=terms.epsilon_milli,
        certificates=(
            certify(
                partition=TRAINING,
                sums=tuple(sums.values()),
                surplus_removed=takes_off,
                **common,  # type: ignore[arg-type]  # the keywords above
            ),
            certify(partition=HOLDOUT, **evaluated, **common),  # type: ignore[arg-type]  # the keywords above
        ),
        happened=_happened(plan, contract, answered),
        accepted=accepted,
    )


def _sums(plan: Plan, contract: Contract, cohort: Cohort) -> dict[QueryKind, NoisedSum]:
    terms = noise_terms(plan)
    sensitivity = training_sensitivity(
        plan.model,
        terms,
        columns=len(design_columns(contract)),
        max_rows=plan.aggregation.max_persons_per_site,
    )
    found = {kind: training_sum(terms, cohort, sensitivity) for kind in noised_kinds(plan)}
    if QueryKind.COUNT in found:
        found[QueryKind.COUNT] = count_sum(descent_terms(plan), cohort)
    return found


def answered_events(plan: Plan, contract: Contract, answered: Sequence[Answered]) -> list[Event]:
    """Return what the answered sums cost, each with the honest shares that were really in it.

    Guarantee: as many shares as colluders are known at every sum; the variance of a share is that
    of the group then, of which only what so many survivors retain counts. Rounds towards more loss.
    """
    terms = noise_terms(plan)
    events: list[Event] = []
    for one in answered:
        if one.kind is QueryKind.SCORES:
            planned = holdout_sum(terms, one.cohort)
        else:
            planned = _sums(plan, contract, one.cohort).get(one.kind)
        if planned is None:
            raise UsageError(f"the plan has no noised sum of kind {one.kind.value}")
        known = effective_cohort(terms, one.cohort).max_colluders
        tiers = query_tiers(plan, one.kind, one.cohort)
        if tiers is not None and one.shares >= one.cohort.min_survivors:
            # Whether its keys were opened the log need not show: they count as opened.
            planned = replace(planned, share_variance=tiers.retained_for(one.shares))
        events.append(replace(planned, rounds=1).event(max(one.shares - known, 1)))
    return events


def _holdout_happened(
    plan: Plan, contract: Contract, answered: Sequence[Answered]
) -> HoldoutHappened | msgspec.UnsetType:
    if evaluation_kind(plan) is not QueryKind.SCORES:
        return msgspec.UNSET
    delta = delta_of(noise_terms(plan).delta_inverse)
    return HoldoutHappened(
        sums=len(answered),
        fewest_shares=min((one.shares for one in answered), default=0),
        epsilon_micro=epsilon_micro(
            composed_epsilon(answered_events(plan, contract, answered), delta)
        ),
    )


def _happened(plan: Plan, contract: Contract, everything: Sequence[Answered]) -> Happened:
    terms = noise_terms(plan)
    answered = [one for one in everything if one.kind.over_training_rows]
    scored = [one for one in everything if not one.kind.over_training_rows]
    events = answered_events(plan, contract, answered)
    fresh = sum(one.fresh for one in answered)
    counts = sum(one.kind is QueryKind.COUNT and not one.fresh for one in answered)
    planned = sum(kind is QueryKind.COUNT for kind in noised_kinds(plan))
    return Happened(
        counts=counts,
        planned_counts=planned,
        gradients=len(answered) - counts - fresh,
        planned_gradients=noised_sums(terms) - planned,
        fresh=fresh,
        fewest_shares=min((one.shares for one in answered), default=0),
        epsilon_micro=epsilon_micro(composed_epsilon(events, delta_of(terms.delta_inverse))),
        holdout=_holdout_happened(plan, contract, scored),
    )


def partition_lines(statement: PrivacyStatement) -> tuple[str, ...]:
    """Return one line for each partition, epsilon or that there is none first."""
    training, holdout = statement.certificates
    if holdout.non_private:
        evaluated = (
            "holdout: exact, not differentially private, accepted in the charter's row "
            f"{statement.accepted}"
        )
    else:
        evaluated = f"{_epsilon_line(holdout)}; as the charter's row {statement.accepted} has it"
    return (_epsilon_line(training), evaluated)


def _epsilon_line(certificate: Certificate) -> str:
    first = certificate.lines[0]
    others = "".join(
        f", {shown_epsilon(line.add_remove_micro)} at {line.sites} sites"
        for line in certificate.lines[1:]
    )
    return (
        f"{certificate.partition}: epsilon {shown_epsilon(first.add_remove_micro)} at delta "
        f"1/{certificate.delta_inverse}{others} ({certificate.unit}, added or removed; replaced "
        f"{shown_epsilon(first.replace_one_micro)})"
    )


def holdout_line(statement: PrivacyStatement) -> str | None:
    """Return in one sentence what the log shows of a noised histogram, None for an exact one."""
    happened = statement.happened.holdout
    if isinstance(happened, msgspec.UnsetType):
        return None
    holdout = statement.certificates[1]
    often = "1 noised histogram" if happened.sums == 1 else f"{happened.sums} noised histograms"
    return (
        f"in the log: {often}, each with noise of at least {happened.fewest_shares} of "
        f"{holdout.members} members: epsilon {shown_epsilon(happened.epsilon_micro)} if at most "
        f"{holdout.max_colluders} of them collude"
    )


def happened_line(statement: PrivacyStatement) -> str:
    """Return in one sentence what the log shows of the noised sums."""
    happened = statement.happened
    training = statement.certificates[0]
    counted = "1 noised count" if happened.counts == 1 else f"{happened.counts} noised counts"
    more = "1 more release" if happened.fresh == 1 else f"{happened.fresh} more releases"
    again = f" and {more} with fresh noise, for other members" if happened.fresh else ""
    what = "gradient sums" if happened.planned_counts else "sums of statistics"
    promised = statement.promised_epsilon_milli * 1000
    within = happened.epsilon_micro is not None and happened.epsilon_micro <= promised
    beyond = f", more than the {shown_epsilon(promised)} that the plan promised"
    return (
        f"in the log: {counted + ', ' if happened.planned_counts else ''}{happened.gradients} of "
        f"{happened.planned_gradients} noised {what}{again}, each with noise of at least "
        f"{happened.fewest_shares} of {training.members} members: epsilon "
        f"{shown_epsilon(happened.epsilon_micro)} if at most {training.max_colluders} of them "
        f"collude{'' if within else beyond}"
    )


def statement_lines(statement: PrivacyStatement) -> list[str]:
    """Return what was promised, a line for each partition, and then what the log shows of it."""
    lines = [*partition_lines(statement), happened_line(statement)]
    evaluated = holdout_line(statement)
    return lines if evaluated is None else [*lines, f"holdout, {evaluated}"]


def statement_text(statement: PrivacyStatement) -> str:
    """Return the statement in plain words: a line for each partition, then all of it."""
    lines = [*statement_lines(statement), "", ""]
    return "\n".join(lines) + "\n".join(
        certificate_text(certificate) for certificate in statement.certificates
    )
