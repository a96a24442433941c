"""What a plan says of surplus noise: which parts a share has, and whether they may come off.

Guarantees (docs/spec/privacy.md, 9.16):
  * How a share is divided follows from the plan and the group alone.
  * Without a row of the charter for `surplus-noise-key` nothing comes off.
  * `default_tiers` bounds what everybody draws again for one sum.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from treaty.aggregation.tensors import manifest_elements
from treaty.contracts.design import design_columns
from treaty.contracts.schema import Contract
from treaty.governance.charter import Charter
from treaty.governance.exposure import Artefact, ExposureMatrix, Form
from treaty.governance.roles import Role
from treaty.models.quadratic import statistics_width
from treaty.models.specification import ModelSpecification, model_manifest
from treaty.privacy.certificate import Cohort
from treaty.privacy.surplus import MAX_TIERS, NoiseTiers
from treaty.privacy.terms import NoisedTerms, noise_tiers
from treaty.studies.noise import cohort_of, descent_terms, noise_terms
from treaty.studies.plan import Plan
from treaty.studies.queries import QueryKind

__all__ = [
    "MOST_DRAWS",
    "default_tiers",
    "may_open",
    "opening_numbers",
    "parts_within",
    "query_tiers",
    "surplus_findings",
]

MOST_DRAWS: Final = 10_000_000
"""Draws for one sum beyond which `default_tiers` takes fewer parts: about a second of one core."""


def query_tiers(plan: Plan, kind: QueryKind, cohort: Cohort) -> NoiseTiers | None:
    """Return how a site's share in a sum of `kind` is divided; None where nothing comes off."""
    match kind:
        case QueryKind.COUNT:
            return noise_tiers(noise_terms(plan), descent_terms(plan).count_variance, cohort)
        case QueryKind.DESCENT | QueryKind.SUFFICIENT:
            terms = noise_terms(plan)
            return noise_tiers(terms, terms.variance, cohort)
        case _:
            return None


def opening_numbers(plan: Plan, kind: QueryKind, cohort: Cohort) -> tuple[int, ...]:
    """Return from how many survivors each part comes off; empty where all noise stays in."""
    tiers = query_tiers(plan, kind, cohort)
    return () if tiers is None else tiers.survivors[1:]


def may_open(matrix: ExposureMatrix, members: int) -> bool:
    """Say whether keys of surplus noise may be shown to everyone who reads the log."""
    return all(
        matrix.allows(Artefact.SURPLUS_NOISE_KEY, role, Form.PLAIN, members)
        for role in (Role.COORDINATOR, Role.MEMBER)
    )


def default_tiers(
    charter: Charter, spec: ModelSpecification, contract: Contract, *, one_round: bool = False
) -> int | msgspec.UnsetType:
    """Return into how many parts that may come off a plan divides shares, if nobody says.

    `parts_within` of everybody, for sums of gradients or, with `one_round`, of statistics. Unset
    where the charter has no row for the keys, or where nobody may be lost.
    """
    cohort = cohort_of(charter.parameters())
    words = manifest_elements(model_manifest(spec, len(design_columns(contract))))
    if one_round:
        words = statistics_width(words)
    found = parts_within(cohort, words)
    opens = may_open(charter.exposure_matrix(), cohort.members)
    return found if found and opens else msgspec.UNSET


def parts_within(cohort: Cohort, words: int) -> int:
    """Return how many parts suit a group and a model of so many words.

    As many as members may be lost, at most four, and no more than keep the draws of one sum over
    everybody within `MOST_DRAWS`.
    """
    spare = cohort.members - cohort.min_survivors
    return min(MAX_TIERS, spare, MOST_DRAWS // (cohort.members * words))


def surplus_findings(terms: NoisedTerms, charter: Charter) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a plan that takes surplus noise off."""
    if not terms.takes_surplus_off:
        return
    if terms.share == "local":
        yield (
            "surplus",
            (
                "with local noise every site answers for all of it and nothing is surplus: leave "
                "surplus_tiers out"
            ),
        )
    if not may_open(charter.exposure_matrix(), len(charter.active_members())):
        yield (
            "exposure",
            (
                "the charter has no row by which keys of surplus noise may be opened: leave "
                f"surplus_tiers out, or amend it with a row for {Artefact.SURPLUS_NOISE_KEY.value}"
            ),
        )
