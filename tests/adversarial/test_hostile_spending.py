"""T-43, T-46: real sites hold their privacy budget against whoever runs the consortium.

Real nodes over the real protocol; their ledgers are the keepers' own.

Planted and caught in the partition: the plan's seed divides the persons again; the share is not
compared.
"""

from pathlib import Path

from tests.private_federation import found_private, private_contract, private_plan
from tests.small_federation import SITES
from treaty.ids import MemberId
from treaty.node.budget import BudgetKeeper
from treaty.privacy.ledger_entries import HOLDOUT, TRAINING
from treaty.protocol.messages import HaltCode
from treaty.protocol.study import Phase
from treaty.simulation.federation import Federation
from treaty.studies.calibrating import Privacy
from treaty.studies.plan import SplitSettings

VICTIM = MemberId(SITES[0])


def keeper(federation: Federation, name: MemberId = VICTIM) -> BudgetKeeper:
    """Return the ledger of a member's node."""
    found = federation.participants[name]._spending.keeper
    assert found is not None
    return found


def test_a_study_is_paid_once_per_vector_and_a_second_over_the_cap_is_declined(
    tmp_path: Path,
) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    plan = private_plan(federation, Privacy(epsilon=3.0, rounds=2))
    study = federation.run_study(plan, private_contract())
    assert study.phase is Phase.COMPLETED
    for name in federation.members:
        state = keeper(federation, name).state
        assert len(state.slots) == 3, "one count, two gradient sums"
        assert {name for _, _, name in state.disclosed} == {"evaluation-histogram"}
        assert 2.99 < state.epsilon(TRAINING) <= 3.0
        assert not any(account.is_open for account in state.plans.values())
        trail = federation.coordinator.state.trail(name)
        shown = trail.head_of(state.heads[0])
        assert shown is not None and state.heads[shown.count - 1] == shown.head
    before = {name: keeper(federation, name).state for name in federation.members}
    again = private_plan(federation, Privacy(epsilon=0.5, rounds=2), study="second")
    refused = federation.run_study(again, private_contract())
    assert refused.phase is Phase.HALTED and refused.halt_code is HaltCode.TOO_FEW_MEMBERS
    assert all(keeper(federation, name).state == before[name] for name in federation.members)
    assert "refused.budget" in federation.journal_of(VICTIM)


def test_a_ledger_put_back_between_studies_locks_its_site_alone(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    ledger = keeper(federation)._ledger
    backup = list(ledger.read())
    first = federation.run_study(
        private_plan(federation, Privacy(epsilon=1.0, rounds=1)), private_contract()
    )
    assert VICTIM in first.rounds[-1].members_in
    ledger.records[:] = backup  # type: ignore[attr-defined]  # the memory ledger's own list
    federation.participants[VICTIM] = federation._open_participant(VICTIM)
    federation.participants[VICTIM].start()
    second = federation.run_study(
        private_plan(federation, Privacy(epsilon=1.0, rounds=1), study="second"),
        private_contract(),
    )
    assert second.phase is Phase.COMPLETED
    assert all(VICTIM not in one.members_in for one in second.rounds)
    assert keeper(federation).lock == "ledger-behind"
    assert list(ledger.read())[: len(backup)] == backup
    assert not keeper(federation).state.slots
    assert "refused.ledger-behind" in federation.journal_of(VICTIM)


def test_no_plan_moves_a_person_from_one_partition_to_the_other(tmp_path: Path) -> None:
    """Another seed changes nothing, and a plan with another share is declined by every site."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    budget, contract = Privacy(epsilon=0.5, rounds=1), private_contract()
    sides: list[dict[str, set[str]]] = []
    for seed in (0, 1):
        plan = private_plan(
            federation, budget, study=f"seed-{seed}", split=SplitSettings(seed=seed)
        )
        study = federation.run_study(plan, contract)
        assert study.phase is Phase.COMPLETED
        node = federation.participants[VICTIM]
        data = node.local_study(study).data
        sides.append({"in": set(data.training.persons), "out": set(data.holdout.persons)})
        registered = keeper(federation).dataset
        assert {registered.partition_of(person) for person in data.holdout.persons} == {HOLDOUT}
        assert {registered.partition_of(person) for person in data.training.persons} == {TRAINING}
    assert sides[0] == sides[1]
    assert sides[0]["in"] and sides[0]["out"]
    other = private_plan(
        federation, budget, study="other", split=SplitSettings(holdout_permille=341)
    )
    refused = federation.run_study(other, contract)
    assert refused.phase is Phase.HALTED and refused.halt_code is HaltCode.TOO_FEW_MEMBERS
    assert "study-refused.partition-share" in federation.journal_of(VICTIM)
