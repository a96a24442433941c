"""A federation whose charter allows noised sums only, and one study in it, for several tests."""

from pathlib import Path

import msgspec

from tests.small_federation import SITES, SmallFederation, contract, site_files
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import Contract
from treaty.models.specification import LogisticRegression, ModelSpecification
from treaty.simulation.federation import Federation
from treaty.studies.calibrating import Privacy, private_model, terms_for
from treaty.studies.plan import AggregationSettings, EvaluationSettings, Plan

ROUNDS = 3
MAX_ROWS = 256


def private_contract() -> Contract:
    """Return the small sites' contract, normalised by its public bounds."""
    return with_public_bounds(contract())


def found_private(
    directory: Path, *, max_sites_per_person: int = 2, **options: object
) -> SmallFederation:
    """Return an established federation that may spend epsilon 3 on training rows."""
    Federation.found(
        directory,
        {name: site_files(name) for name in SITES},
        consortium="rivers.example",
        post_quantum=False,
        epsilon_budget_milli=3000,
        delta="1e-5",
        max_sites_per_person=max_sites_per_person,
    )
    federation = SmallFederation(directory, **options)  # type: ignore[arg-type]  # passed through
    federation.establish()
    return federation


def private_plan(
    federation: Federation,
    asked: Privacy | None = None,
    model: ModelSpecification | None = None,
    *,
    surplus: bool = False,
    **changes: object,
) -> Plan:
    """Return a plan of few noised rounds that lint has nothing against, with `changes`.

    With `surplus` noise that a sum does not need comes off, as studies have it by default.
    """
    spec = private_model(model or LogisticRegression())
    terms = terms_for(
        asked or Privacy(rounds=ROUNDS),
        spec,
        private_contract(),
        federation.charter.privacy,
        members=len(federation.members),
        max_persons_per_site=MAX_ROWS,
        surplus_tiers=1 if surplus else msgspec.UNSET,
    )
    plan = federation.plan(
        "rivers-private",
        private_contract(),
        spec,
        evaluation=EvaluationSettings(bins=8),
        aggregation=AggregationSettings(max_persons_per_site=MAX_ROWS),
        privacy=terms,
    )
    return msgspec.structs.replace(plan, **changes)
