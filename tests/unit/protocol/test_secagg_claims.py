"""Claims of sketched rounds, experimental: at the machines and in the fold, without nodes.

Planted and caught: a claim that is not asked for; an answer without one; a claim left out of the
member's answer; all survivors not waited for; a sum that is published though refused; a round
without claims abandoned for them; no check of the claims in the fold.
"""

import msgspec
import numpy as np
import pytest

from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    dealt,
    expected_of,
    group_of,
    open_round,
    plain_sum,
    published,
    ready,
    send_inputs,
    verified,
)
from tests.worlds import refused
from treaty.aggregation import sketch
from treaty.aggregation.quantization import RING_TYPES
from treaty.crypto import canonical
from treaty.ids import Digest
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_audit import check_claims
from treaty.protocol.secagg_claims import (
    check_abandoned,
    check_claim,
    check_sum_of_claims,
    claim_of,
)
from treaty.protocol.secagg_coordinator import CoordinatorRound
from treaty.protocol.secagg_lifecycle import SlotPhase
from treaty.protocol.secagg_member import InputLogged, SurvivorsAnnounced
from treaty.protocol.secure_round import RoundPhase, RoundRecord

BITS = 32
BOUND = 64 * (1 << 62)
"""No vector of the ring's words that the rig draws is longer."""


class Sketched:
    """A round of five members up to the survivors; each answers with its claim."""

    def __init__(self, lost: tuple[str, ...] = ()) -> None:
        self.federation: Federation = ready(dealt(group_of(5), slots=1))
        turn = open_round(self.federation, expected_of(9, BITS))
        turn.hub = CoordinatorRound.begin(self.federation.hub, turn.opened.predicate, claimed=True)
        self.turn: Round = send_inputs(turn, lost=lost)
        turn.sealed = published(turn.effects, messages.SurvivorsSealed)
        turn.give(coordinator.SurvivorsLogged(turn.sealed))
        self.names = turn.hub.survivor_names
        self.digest = str(turn.hub.survivors)
        self.answers = {name: self.answer(name) for name in self.names}

    def claim(self, name: str) -> str:
        return claim_of(np.array(self.turn.inputs[name]), self.digest)

    def answer(self, name: str) -> messages.Reveal:
        node, turn = self.turn.node(name), self.turn
        first, *rest = turn.headers.values()
        node.on_slot(InputLogged(first, tuple(rest)))
        assert turn.sealed is not None
        event = SurvivorsAnnounced(turn.sealed, node.slot_secret, claim=self.claim(name))
        (sent,) = node.on_slot(event)
        assert node.slot is not None and node.slot.phase is SlotPhase.ANSWERED
        assert isinstance(sent, messages.Reveal)
        return sent

    def total(self) -> np.ndarray:  # type: ignore[type-arg]  # ring words
        return np.array(plain_sum(self.turn, self.names), RING_TYPES[BITS])

    def record(self, bound: int | None) -> RoundRecord:
        """Return the round as the fold holds it before the answers."""
        survivors = Digest(self.digest)
        return self.turn.record(RoundPhase.REVEALING, survivors=survivors, claim_bound=bound)


@pytest.fixture(scope="module")
def turn() -> Sketched:
    return Sketched()


def nothing(digest: Digest) -> bytes:
    raise AssertionError(f"nobody asks for {digest}")


def test_a_members_answer_holds_the_claim_that_it_was_given(turn: Sketched) -> None:
    for name, answer in turn.answers.items():
        assert answer.claim == turn.claim(name)
        assert len(answer.claim) == 2 * sketch.ROWS * BITS // 8


def test_the_fold_asks_for_a_claim_where_and_only_where_the_plan_does(turn: Sketched) -> None:
    record = turn.record(BOUND)
    for answer in turn.answers.values():
        record = record.step(verified(answer), nothing)
    assert len(record.reveals) == 5
    one = next(iter(turn.answers.values()))
    for claim in (None, (one.claim or "") * 2, "0" * 256):
        wrong = msgspec.structs.replace(one, claim=claim)
        with refused("claim-malformed"):
            turn.record(BOUND).step(verified(wrong), nothing)
        if claim is not None:
            with refused("claim-malformed"):
                check_claim(wrong, None, BITS)
    with refused("claim-malformed"):
        turn.record(None).step(verified(one), nothing)
    bare = msgspec.structs.replace(one, claim=None)
    assert turn.record(None).step(verified(bare), nothing).reveals
    assert b'"claim"' not in canonical.encode(bare)


def test_the_sum_is_held_against_the_claims(turn: Sketched) -> None:
    record = turn.record(BOUND)
    for answer in turn.answers.values():
        record = record.step(verified(answer), nothing)
    total = turn.total()
    check_claims(record, total)
    altered = total.copy()
    altered[3] += 1
    with refused("claims-differ"):
        check_claims(record, altered)
    with refused("claim-too-long"):
        check_claims(msgspec.structs.replace(record, claim_bound=1), total)
    # Without claims any sum will do: what it is, its seeds say.
    check_claims(msgspec.structs.replace(record, claim_bound=None), altered)
    answers = list(turn.answers.values())
    check_sum_of_claims(answers, 5, total, BOUND)
    with refused("claims-differ"):
        check_sum_of_claims(answers[1:], 4, total, BOUND)


def test_all_survivors_are_waited_for_until_the_deadline() -> None:
    late = Sketched()
    *most, last = late.answers.values()
    for answer in most:
        late.turn.give(coordinator.RevealLogged(verified(answer)))
    # Four of five are enough to open; the claim of the fifth is missing.
    assert late.turn.hub.phase is coordinator.RoundPhase.REVEALING
    hub = late.turn.hub
    late.turn.give(coordinator.RevealLogged(verified(last)))
    assert late.turn.hub.phase is coordinator.RoundPhase.SUMMING
    waited, effects = hub.step(coordinator.Deadline())
    assert waited.phase is coordinator.RoundPhase.SUMMING
    assert any(isinstance(one, coordinator.NeedSum) for one in effects)


def test_a_round_whose_claims_are_refused_is_abandoned_for_that() -> None:
    whole = Sketched()
    for answer in whole.answers.values():
        whole.turn.give(coordinator.RevealLogged(verified(answer)))
    good, effects = whole.turn.hub.step(coordinator.SumReady(Digest("5" * 64)))
    assert good.phase is coordinator.RoundPhase.PUBLISHED
    assert published(effects, messages.RoundResult)
    bad, effects = whole.turn.hub.step(coordinator.SumReady(Digest("5" * 64), refused=True))
    assert bad.phase is coordinator.RoundPhase.ABANDONED
    ended = published(effects, messages.RoundAbandoned).predicate
    assert ended.code is messages.RoundCode.CLAIMS_REFUSED
    check_abandoned(ended, BOUND)
    assert whole.record(BOUND).step(verified(ended), nothing).is_over
    with refused("out-of-order"):
        whole.record(None).step(verified(ended), nothing)
    other = msgspec.structs.replace(ended, code=messages.RoundCode.TOO_FEW_REVEALS)
    assert whole.record(None).step(verified(other), nothing).is_over
