"""A thousand members: epoch and round of the machines alone, numbers derived from the charter's.

`TREATY_CAMPAIGN=full` runs 1,000 members, which takes a few minutes; `ci` runs 300. No
network, no signatures: what grows with the group is in the machines. The sum is compared with
plain integers, its check is run as an auditor would.
"""

import os

import pytest

from tests.unit.protocol.secagg_rig import (
    dealt,
    expected_of,
    finish,
    group_of,
    open_round,
    plain_sum,
    ready,
    send_inputs,
    unmasked,
)
from treaty.protocol.secagg_degree import Degree
from treaty.protocol.secagg_opening import check_result

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"


@pytest.mark.timeout(0 if FULL else 400)
def test_a_large_group_loses_one_in_twenty_and_opens_its_sum() -> None:
    size, degree = (1000, Degree(52, 37)) if FULL else (300, Degree(39, 28))
    group = group_of(size, size // 20, least=size - size // 20)
    assert group.degree(size) == degree
    federation = ready(dealt(group, slots=1))
    turn = send_inputs(open_round(federation, expected_of(3, 32)), lost=group.members[::20])
    finish(turn)
    words, result, plan = unmasked(turn)
    assert words == plain_sum(turn, turn.hub.survivor_names)
    assert len(turn.hub.survivor_names) == size - size // 20
    hub = federation.hub
    assert turn.sealed is not None
    again = check_result(
        group,
        turn.opened.predicate,
        hub.peers,
        hub.ready,
        hub.dealers,
        turn.sealed.predicate,
        result,
        graph=hub.graph,
    )
    assert sorted(again) == sorted(plan)
    masks = [len(hub.graph.partners(name)) + 1 for name in hub.dealers] if hub.graph else []
    print(f"{size} members: {min(masks)} to {max(masks)} masks a member, {len(plan)} to take off")
