"""Sums beside big integers: every ring, lengths round a chunk's border, losses at every phase.

Six members, one colluder: t = 4 and two may be lost. Up to the limit the sum is exact, at every
phase; one beyond it nothing is opened, nothing stays on the disk, and the next epoch asks the same
question and gets the exact sum.

Planted faults that these tests caught: an epoch that goes on with one member's keys, or shares, too
few; survivors sealed with one input too few; a lock that refuses the same set in another epoch;
masks of a dropped member left in the sum.
"""

import pytest

from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    dealt,
    expected_of,
    finish,
    group_of,
    open_round,
    published,
    ready,
    send_inputs,
    unmasked,
)
from treaty.errors import PolicyError
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_coordinator import RoundPhase
from treaty.protocol.secagg_member import RoundEnded

NAMES = [f"m{k:02d}" for k in range(1, 7)]
LENGTHS = (1, 15, 16, 65_535, 65_536, 65_537)
LOSSES = {
    "nobody": (0, 0, 0, 0),
    "two before their keys": (2, 0, 0, 0),
    "two before their shares": (0, 2, 0, 0),
    "two before their inputs": (0, 0, 2, 0),
    "two before their answers": (0, 0, 0, 2),
    "one before its keys, one before its shares": (1, 1, 0, 0),
    "one before its input, one before its answer": (0, 0, 1, 1),
}
LONG = ("one before its keys, one before its shares", "one before its input, one before its answer")
CASES = [
    (length, bits, loss)
    for length in LENGTHS
    for bits in (16, 32, 64)
    for loss in (LOSSES if length < 1000 else LONG)
]


def oracle(turn: Round) -> list[int]:
    """Return the sum of the survivors' vectors, in big integers and reduced at the end."""
    vectors = [turn.inputs[name].tolist() for name in turn.hub.survivor_names]
    return [sum(column) % (1 << turn.expected.ring_bits) for column in zip(*vectors, strict=True)]


def run(federation: Federation, length: int, bits: int, lost: int, silent: int) -> Round:
    """Run a round in which the last members of the epoch are lost, and those before them silent."""
    turn = open_round(federation, expected_of(length, bits))
    taking = list(turn.opened.predicate.participants)
    here = len(taking) - lost
    send_inputs(turn, lost=taking[here:])
    finish(turn, silent=taking[here - silent : here])
    return turn


@pytest.mark.parametrize(("length", "bits", "loss"), CASES)
def test_the_sum_is_exact_up_to_the_limit_of_losses(length: int, bits: int, loss: str) -> None:
    keys, shares, inputs, answers = LOSSES[loss]
    federation = ready(
        dealt(group_of(6), slots=1, lost_keys=NAMES[:keys], lost_shares=NAMES[keys : keys + shares])
    )
    turn = run(federation, length, bits, inputs, answers)
    words, result, _ = unmasked(turn)
    assert len(result.self_seeds) == 6 - keys - shares - inputs
    assert words == oracle(turn)


def recovered(federation: Federation, length: int, bits: int) -> None:
    """Ask the same question in the next epoch, of everybody."""
    following = ready(dealt(federation.group, slots=1, before=federation))
    for node in following.nodes.values():
        assert not [name for name in node.disk.secrets if name.startswith("epoch-000001")]
    turn = run(following, length, bits, 0, 0)
    words, result, _ = unmasked(turn)
    assert len(result.self_seeds) == 6
    assert words == oracle(turn)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("lost", ["keys", "shares"])
def test_one_lost_beyond_the_limit_before_the_round_fails_the_epoch(lost: str, bits: int) -> None:
    group = group_of(6)
    with pytest.raises(AssertionError):
        # The rig asks for the roster, or the end of dealing, that is not published.
        dealt(group, **{f"lost_{lost}": NAMES[:3]})
    federation = dealt(group, slots=1)
    hub, effects = coordinator.CoordinatorEpoch.begin(group, federation.hub.plan, 1, 1)
    hub, _ = hub.step(coordinator.OpenedLogged(published(effects, messages.EpochOpened)))
    for one in federation.keys[: 3 if lost == "keys" else 6]:
        hub, effects = hub.step(coordinator.KeysLogged(one))
    if lost == "shares":
        hub, _ = hub.step(coordinator.RosterLogged(published(effects, messages.EpochRoster)))
        for name in NAMES[:3]:
            hub, _ = hub.step(coordinator.SharesLogged(federation.shares[name]))
    hub, effects = hub.step(coordinator.Deadline())
    assert effects == (coordinator.EpochFailed(messages.CloseCode.TOO_FEW_MEMBERS),)
    with pytest.raises(PolicyError) as refusal:
        hub.next_round(expected_of(5, bits))
    assert refusal.value.code == "too-few-participants"
    recovered(federation, 5, bits)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("length", [1, 16, 65_537])
@pytest.mark.parametrize("phase", ["input", "confirmation", "answer"])
def test_one_lost_beyond_the_limit_in_the_round_abandons_it(
    phase: str, length: int, bits: int
) -> None:
    """Nobody reveals where no sum can come of it, and the next epoch gives the sum."""
    federation = ready(dealt(group_of(6), slots=1))
    turn = open_round(federation, expected_of(length, bits))
    gone = {"input": 3, "confirmation": 2, "answer": 0}[phase]
    send_inputs(turn, lost=NAMES[6 - gone :])
    if phase == "input":
        code = messages.RoundCode.TOO_FEW_INPUTS
    else:
        finish(turn, silent=NAMES[:1] if phase == "confirmation" else NAMES[:3])
        turn.give(coordinator.Deadline())
        code = {
            "confirmation": messages.RoundCode.TOO_FEW_CONFIRMATIONS,
            "answer": messages.RoundCode.TOO_FEW_REVEALS,
        }[phase]
    assert turn.hub.phase is RoundPhase.ABANDONED
    assert published(turn.effects[-1:], messages.RoundAbandoned).predicate.code is code
    assert not [one for one in turn.effects if isinstance(one, coordinator.NeedSum)]
    revealed = [
        one
        for node in federation.nodes.values()
        for one in node.sent
        if isinstance(one, messages.Reveal)
    ]
    assert len(revealed) == (3 if phase == "answer" else 0)
    for node in federation.nodes.values():
        node.on_slot(RoundEnded())
        assert not [name for name in node.disk.secrets if "-slot-" in name]
    if phase == "confirmation":
        # Three members are bound to a set without two others: it is asked of that set again.
        following = ready(dealt(federation.group, slots=1, before=federation))
        again = open_round(following, expected_of(length, bits), attempt=1)
        send_inputs(again, lost=NAMES[4:])
        finish(again)
        words, _, _ = unmasked(again)
        assert words == oracle(again)
    else:
        recovered(federation, length, bits)
