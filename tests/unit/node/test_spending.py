"""What a site remembers of its ledger between feeds.

Planted faults that these tests caught: the head in the store not read again after an input that
shows another; a site without a ledger that answers a study under noise.
"""

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from tests.unit.node.test_budget import DATASET, SITE, named
from tests.worlds import World, refused
from treaty.node.budget import BudgetKeeper
from treaty.node.dataset import new_ledger
from treaty.node.spending import Spending
from treaty.ports import Batch
from treaty.privacy.ledger_entries import HOLDOUT, TRAINING, LedgerHead
from treaty.privacy.terms import DistributedGaussian, calibrated
from treaty.protocol.ledger_trail import LedgerTrail
from treaty.protocol.secure_round import RoundRecord
from treaty.stores.memory import MemoryLedger, MemoryStore
from treaty.studies.queries import Query, QueryKind


class Watched(BudgetKeeper):
    """A keeper that notes which head of the own store it is told."""

    def __init__(self) -> None:
        ledger = MemoryLedger()
        new_ledger(ledger, DATASET, bytes(32))
        super().__init__(ledger, DATASET)
        self.told: list[LedgerHead | None] = []

    def confirm(
        self, trail: LedgerTrail, shown: LedgerHead | None = None, *, carry_out: bool = True
    ) -> None:
        self.told.append(shown)
        super().confirm(trail, shown, carry_out=carry_out)


def test_the_head_of_a_stored_input_is_compared_from_the_next_feed_on() -> None:
    """Also while the log lacks the input: an older ledger may be put back meanwhile."""
    world = World()
    world.start()
    keeper, store = Watched(), MemoryStore()
    spending = Spending(SITE, keeper, store)
    spending.follow(world.state)
    heads = []
    for partition in (TRAINING, HOLDOUT):
        head = keeper.disclose(named("plan"), (partition,), "statistics-sum")
        store.commit(Batch(puts=spending.record(world.state, head), label="input"))
        spending.follow(world.state)
        spending.follow(world.state)
        heads += [head, head]
    assert keeper.told == [None, *heads] and heads[0] != heads[2]


@pytest.mark.parametrize("kind", [QueryKind.COUNT, QueryKind.DESCENT, QueryKind.SUFFICIENT])
def test_a_site_without_a_ledger_has_no_part_in_a_study_under_noise(kind: QueryKind) -> None:
    """It is not admitted, and what it computed all the same is not paid for, so it stays."""
    world = World()
    world.start()
    terms = calibrated(DistributedGaussian(epsilon_milli=1000, delta_inverse=100_000), 1 << 24)
    plan = msgspec.structs.replace(world.study.plan, privacy=terms)
    private = msgspec.structs.replace(world.study, plan=plan)
    spending = Spending(SITE, None, MemoryStore())
    asked = cast("Query", SimpleNamespace(kind=kind))
    record = cast("RoundRecord", SimpleNamespace())
    with refused("no-ledger"):
        spending.admit(world.state, private)
    with refused("no-ledger"):
        spending.pay(private, record, asked, named("payload"))
    # An exact study promises nothing that a ledger would have to hold.
    spending.admit(world.state, world.study)
    exact = cast("Query", SimpleNamespace(kind=QueryKind.NEWTON))
    assert spending.pay(world.study, record, exact, named("payload")) is None
