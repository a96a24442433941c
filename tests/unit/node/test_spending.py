"""What a site remembers of its ledger between feeds.

Planted faults that these tests caught: the head in the store not read again after an input that
shows another.
"""

from tests.unit.node.test_budget import DATASET, SITE, named
from tests.worlds import World
from treaty.node.budget import BudgetKeeper
from treaty.node.dataset import new_ledger
from treaty.node.spending import Spending
from treaty.ports import Batch
from treaty.privacy.ledger_entries import HOLDOUT, TRAINING, LedgerHead
from treaty.protocol.ledger_trail import LedgerTrail
from treaty.stores.memory import MemoryLedger, MemoryStore


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
