"""T-93: a site takes part when its officer has signed, and stops when the officer takes it back.

Planted and caught: withdrawal looked at only when an epoch opens, a waiting study never looked at
again, the rule of the policy stronger than a withdrawal, records read once at the start.
"""

from pathlib import Path

import msgspec

from tests.small_federation import SITES, SmallFederation, contract, found, small_plan
from treaty.crypto.keys import SigningKey
from treaty.governance.consents import Consent, sign_consent
from treaty.governance.site_policy import AutoApproval, SitePolicy
from treaty.ids import MemberId
from treaty.studies.plan import Plan, plan_digest
from treaty.studies.progress import Stage

AARE = SITES[0]
ASKING = SitePolicy(
    site=AARE,
    studies=("*",),
    purposes=("*",),
    model_kinds=("*",),
    max_rounds_per_study=1000,
    site_metrics=True,
)
BY_RULE = msgspec.structs.replace(
    ASKING, auto_approve=AutoApproval(any_ratified=True, max_rounds=1000)
)


def _said(plan: Plan, key: SigningKey, decision: str, number: int = 1) -> bytes:
    consent = Consent(
        site=AARE, plan=plan_digest(plan), code=plan.code, decision=decision, number=number
    )  # type: ignore[arg-type]  # one of the two words
    return sign_consent(consent, key)


def _federation(directory: Path, policy: SitePolicy) -> tuple[SmallFederation, list[bytes]]:
    records: list[bytes] = []
    federation = found(directory, policies={AARE: policy}, consents={AARE: records}, in_memory=True)
    return federation, records


def _inputs_of(federation: SmallFederation, plan: Plan) -> int:
    study = federation.coordinator.state.studies[plan_digest(plan)]
    return sum(MemberId(AARE) in record.inputs for record in study.rounds)


def test_a_study_waits_for_the_officer_and_goes_on_once_the_record_lies_there(
    tmp_path: Path,
) -> None:
    federation, records = _federation(tmp_path, ASKING)
    plan = small_plan(federation)
    records.append(_said(plan, federation.officer(AARE), "approve"))
    study = federation.run_study(plan, contract())
    assert study.progress.stage is Stage.COMPLETED
    assert _inputs_of(federation, plan) == len(study.rounds)
    federation.close()


def test_without_a_record_the_site_sits_out_and_says_why(tmp_path: Path) -> None:
    federation, _ = _federation(tmp_path, ASKING)
    plan = small_plan(federation)
    study = federation.run_study(plan, contract())
    assert study.progress.stage is Stage.COMPLETED
    assert _inputs_of(federation, plan) == 0
    assert federation.journal_of(AARE).count("waits for the officer's approval") == 1
    federation.close()


def test_a_withdrawal_counts_at_the_next_contribution(tmp_path: Path) -> None:
    """Within one epoch: earlier rounds stay as they are, later ones go without the site."""
    federation, records = _federation(tmp_path, BY_RULE)
    plan = small_plan(federation)
    key = federation.officer(AARE)

    def withdraw() -> None:
        study = federation.coordinator.state.studies.get(plan_digest(plan))
        if study is not None and len(study.rounds) == 2 and not records:
            records.append(_said(plan, key, "withdraw"))

    study = federation.run_study(plan, contract(), withdraw)
    assert records
    assert study.progress.stage is Stage.COMPLETED
    given = [AARE in record.inputs for record in study.rounds]
    assert given[:2] == [True, True] and not any(given[3:])
    assert "declined.withdrawn" in federation.journal_of(AARE)
    federation.close()


def test_a_plan_withdrawn_from_the_start_has_no_keys_of_the_site(tmp_path: Path) -> None:
    """The site does not even open an epoch for it."""
    federation, records = _federation(tmp_path, BY_RULE)
    plan = small_plan(federation)
    records.append(_said(plan, federation.officer(AARE), "withdraw"))
    study = federation.run_study(plan, contract())
    assert study.progress.stage is Stage.COMPLETED
    assert _inputs_of(federation, plan) == 0
    journal = federation.journal_of(AARE)
    assert "was withdrawn by the officer" in journal and "declined.withdrawn" not in journal
    federation.close()


def test_a_record_that_was_damaged_stops_the_site_until_it_is_mended(tmp_path: Path) -> None:
    federation, records = _federation(tmp_path, BY_RULE)
    plan = small_plan(federation)
    records.append(b"{}")
    study = federation.run_study(plan, contract())
    assert study.progress.stage is Stage.COMPLETED
    assert _inputs_of(federation, plan) == 0
    assert "consent-unreadable" in federation.journal_of(AARE)
    federation.close()
