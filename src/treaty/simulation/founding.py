"""Founding: what a simulated site needs beside its keys and data before it takes part.

Its data set registered under its officer's signature, a policy that approves by itself, and the
charter's row for figures of single sites.
"""

from pathlib import Path

import msgspec

from treaty.crypto.commitment import commit
from treaty.crypto.keys import SigningKey
from treaty.governance.charter import Charter
from treaty.governance.exposure import Artefact, ExposureRule, Form, HowOften, RiskTolerance
from treaty.governance.roles import Role
from treaty.ids import Digest, MemberId
from treaty.ports import Entropy
from treaty.protocol.messages import DatasetRegistered
from treaty.protocol.statements import seal_statement
from treaty.registration import DatasetHome, register_dataset
from treaty.studies.plan import SplitSettings

__all__ = ["HOLDOUT_PERMILLE", "policy_text", "register", "with_site_figures", "with_sketch_claims"]

HOLDOUT_PERMILLE = SplitSettings().holdout_permille
"""The share of persons that a simulated site registers for evaluations alone."""


def register(
    place: Path, name: MemberId, charter: Digest, officer: SigningKey, entropy: Entropy
) -> None:
    """Register a site's rows as a data set, as its officer would; go on where it was cut off."""
    identity = f"{name}-data"
    home = DatasetHome(place / "ledger")
    if identity in home.identities():
        # Cut off right before the last step, which is repeatable.
        home.point(place, identity, "ledger", HOLDOUT_PERMILLE)
        return
    body = DatasetRegistered(
        charter=charter,
        author=name,
        dataset=commit("dataset-identity", entropy.bytes(32), identity.encode()),
        persons="in no other registered data set of this site",
    )
    register_dataset(
        place,
        identity,
        seal_statement(body, officer),
        entropy,
        holdout_permille=HOLDOUT_PERMILLE,
    )


def with_site_figures(charter: Charter) -> Charter:
    """Return `charter` with the row that lets each site's own figures leave, by name."""
    return _with_exact(charter, Artefact.SITE_METRIC, HowOften.PER_STUDY)


def with_sketch_claims(charter: Charter) -> Charter:
    """Return `charter` with the row that lets claims of sketched rounds leave: EXPERIMENTAL."""
    return _with_exact(charter, Artefact.SKETCH_CLAIM, HowOften.PER_ROUND)


def _with_exact(charter: Charter, artefact: Artefact, often: HowOften) -> Charter:
    row = ExposureRule(
        artefact=artefact,
        recipients=(Role.COORDINATOR, Role.MEMBER, Role.AUDITOR),
        form=Form.EXACT,
        how_often=often,
        least_members=1,
        risk_tolerance=RiskTolerance.HIGH,
        remediation="halt the study, open an incident and amend this row",
    )
    kept = tuple(
        rule
        for rule in charter.exposure
        if not (rule.artefact is artefact and rule.form is Form.EXACT)
    )
    return msgspec.structs.replace(charter, exposure=(*kept, row))


def policy_text(name: str, site_figures: bool) -> str:
    """Return the policy file of a simulated site: it takes part in whatever is ratified."""
    return f"""format = "treaty.site-policy/v1"
site = "{name}"
studies = ["*"]
purposes = ["*"]
model_kinds = ["*"]
max_rounds_per_study = 1000
min_rows = 20
site_metrics = {str(site_figures).lower()}

[auto_approve]
any_ratified = true
max_rounds = 1000
"""
