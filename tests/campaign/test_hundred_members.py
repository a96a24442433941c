"""A hundred members found a consortium, lose some of their number, and publish a sum to check.

The largest consortium that the product promises, under the hybrid suite and with four keys a
member as in a real network: its founding charter has 402 signatures, its first sum 20 members that
are lost, whose pair seeds outgrow a log entry. The bundle is exported and verified as anyone would.
`TREATY_CAMPAIGN=full` goes on to the end of the study, with all members, which takes two minutes.

Planted faults, each seen to fail here:
  * signatures are never gathered (the consortium cannot be founded);
  * the blob of signatures does not travel with its entry;
  * pair seeds always stand in the result (it cannot be sealed);
  * the blob of pair seeds does not travel with the result.
"""

import os
import time
from pathlib import Path

import pytest

from tests.small_federation import contract, site_files, small_plan
from treaty.governance.roles import Action
from treaty.ids import MemberId
from treaty.node.runtime import Node, deliver, handle
from treaty.protocol.frames import decode_feed
from treaty.protocol.messages import CharterGathered
from treaty.protocol.secagg_messages import RoundOpened, RoundResult
from treaty.protocol.secagg_pairs import MAX_INLINE
from treaty.protocol.statements import MAX_ENTRY_BYTES, peek
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import Federation
from treaty.studies.lint import require_clean
from treaty.studies.plan import EvaluationSettings, plan_bytes, plan_digest

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
MEMBERS = tuple(MemberId(f"hospital-{number:03}") for number in range(100))
LOST = MEMBERS[::5]


class Falling:
    """A member that takes part until a round opens, and is never heard of again."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.fell = False
        self.name, self.engine, self.journal = node.name, node.engine, node.journal

    def handle(self, sender: MemberId, frame: bytes) -> None:
        """Fall silent at the first feed that opens a round."""
        bodies = [peek(entry)[1] for entry in decode_feed(frame).entries]
        self.fell = self.fell or any(isinstance(body, RoundOpened) for body in bodies)
        if not self.fell:
            self.node.handle(sender, frame)

    def flush(self) -> bool:
        """Do what was put off, while it is there."""
        return not self.fell and self.node.flush()

    def on_quiet(self) -> bool:
        """React to the passing of a deadline, while it is there."""
        return not self.fell and self.node.on_quiet()


class Shrinking(Federation):
    """A federation of which some members fall silent."""

    lost: frozenset[MemberId] = frozenset()

    def nodes(self) -> tuple[Node, ...]:
        """Return the parties, the lost ones as they fall."""
        return tuple(Falling(one) if one.name in self.lost else one for one in super().nodes())


def cosign(federation: Shrinking) -> None:
    """Let those who are there cosign the log as it stands; nothing follows from it now."""
    for node in federation.nodes():
        if node is not federation.coordinator:
            deliver(node)
    while (delivery := federation.coordinator.engine.receive()) is not None:
        handle(federation.coordinator, delivery)
        delivery.ack()


@pytest.mark.timeout(0 if FULL else 400)
def test_a_hundred_members_found_lose_twenty_and_publish_a_sum(tmp_path: Path) -> None:
    began = time.process_time()

    def lap(what: str) -> None:
        print(f"{what}: {time.process_time() - began:.1f} CPU s")

    Federation.found(
        tmp_path,
        {name: site_files(name, 40) for name in MEMBERS},
        consortium="hundred.example",
        post_quantum=True,
        max_colluders=10,
        transport_keys=True,
        slots_per_epoch=16,
    )
    federation = Shrinking(tmp_path, in_memory=True, slots_per_epoch=1)
    try:
        lap("opened")
        federation.establish()
        lap("founded")
        first = peek(federation.coordinator.entries[0])[1]
        assert isinstance(first, CharterGathered)
        plan = small_plan(federation, evaluation=EvaluationSettings(bins=8))
        require_clean(plan, contract(), federation.charter)
        federation.adopt(contract())
        study = plan_digest(plan)
        federation.decide(Action.STUDY_APPROVE, study, plan_bytes(plan))
        lap("study decided")
        federation.lost = frozenset(LOST)
        none = "0" * 64
        assert federation.run(lambda s: s.studies[study].last_result != none)
        lap("sum published")
        results = [
            body
            for entry in federation.coordinator.entries
            if isinstance(body := peek(entry)[1], RoundResult)
        ]
        (result,) = results
        assert set(result.round_seeds) == set(LOST) and result.pairs is not None
        pairs = len(LOST) * (len(MEMBERS) - 1)
        assert pairs > MAX_INLINE and 67 * pairs > MAX_ENTRY_BYTES
        if FULL:
            federation.lost = frozenset()
            federation.settle()
        else:
            cosign(federation)
        lap("cosigned")
        files = federation.bundle()
        lap("bundle exported")
        verdict = verify_bundle(files, federation.anchor)
        lap("bundle verified")
        record, members = verdict.record, len(MEMBERS)
        assert record.sums_recomputed == (6 if FULL else 1) and not record.sums_attested
        assert record.cosignatures == (members if FULL else members - len(LOST)) >= record.quorum
        assert (record.model is not None) is FULL
    finally:
        federation.close()
