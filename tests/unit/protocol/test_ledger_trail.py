"""What the log lets a member show of its privacy ledgers.

Every sequence of three heads over two ledgers is played, and compared with a model that knows
nothing but the rule. Planted faults that these tests
caught: one as long with another head accepted; an input without a head after one with it; a second
ledger without the officer; a registration that lets in two, or counts again when it is repeated; a
re-base of another head than the last; a successor that is in use.
"""

import hashlib
import itertools

import pytest

from treaty.errors import VerificationError
from treaty.ids import Digest
from treaty.privacy.ledger_entries import LedgerHead
from treaty.protocol.ledger_trail import LedgerTrail, head_in
from treaty.protocol.messages import LedgerRebased
from treaty.protocol.secagg_messages import LedgerMark, MaskedInput
from treaty.protocol.statements import Verified


def named(text: str) -> Digest:
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def shown(ledger: str | None, count: int | None = None, head: str = "h") -> MaskedInput:
    return MaskedInput(
        charter=named("charter"),
        author="aare.example",
        context=named("context"),
        length=1,
        root=named("root"),
        blob=named("blob"),
        ledger=None if ledger is None else LedgerMark(ledger=named(ledger), head=named(head)),
        ledger_count=count,
    )


def given_up(ledger: str, count: int, head: str, successor: str) -> Verified[LedgerRebased]:
    body = LedgerRebased(
        charter=named("charter"),
        author="aare.example",
        lost=LedgerMark(ledger=named(ledger), head=named(head)),
        lost_count=count,
        successor=named(successor),
    )
    return Verified(body, named("statement"), frozenset())


def code_of(trail: LedgerTrail, body: MaskedInput) -> str:
    try:
        trail.with_head(body)
    except VerificationError as refusal:
        return refusal.code
    return ""


def test_a_ledger_only_grows_and_stays_the_same() -> None:
    """All sequences of three heads: accepted if and only if the rule says so."""
    heads = [(None, None, "h")] + [
        (ledger, count, head) for ledger in "xy" for count in (1, 2) for head in "gh"
    ]
    for sequence in itertools.product(heads, repeat=3):
        trail, last = LedgerTrail(), None
        for ledger, count, head in sequence:
            if ledger is None:
                expected = "" if last is None else "ledger-missing"
            elif last is not None and last[0] != ledger:
                expected = "strange-ledger"
            elif last is None or (ledger, count, head) == last or count > last[1]:
                expected = ""
            else:
                expected = "ledger-rollback"
            body = shown(ledger, count, head)
            assert code_of(trail, body) == expected, sequence
            if not expected:
                trail = trail.with_head(body)
                last = (ledger, count, head) if ledger else last


@pytest.mark.parametrize("body", [shown("x", None), shown(None, 3), shown("x", 0)])
def test_half_a_head_is_malformed(body: MaskedInput) -> None:
    with pytest.raises(VerificationError) as caught:
        head_in(body)
    assert caught.value.code == "malformed"


def test_a_registration_lets_in_one_more_ledger() -> None:
    trail = LedgerTrail().with_head(shown("x", 3)).registered(named("registration"))
    assert trail.admits(named("y"))
    trail = trail.with_head(shown("y", 1))
    assert not trail.admits(named("z"))
    assert code_of(trail, shown("z", 1)) == "strange-ledger"
    # Both go on, each by its own count.
    assert trail.with_head(shown("x", 4)).head_of(named("x")) == LedgerHead(
        ledger=named("x"), count=4, head=named("h")
    )
    assert code_of(trail, shown("x", 2)) == "ledger-rollback"


def test_a_registration_counts_once_however_often_it_is_put_into_the_log() -> None:
    """What an officer signed for one data set lets no second ledger in."""
    trail = LedgerTrail().with_head(shown("x", 3)).registered(named("registration"))
    for later in (trail, trail.with_head(shown("y", 1))):
        with pytest.raises(VerificationError) as caught:
            later.registered(named("registration"))
        assert caught.value.code == "replayed"
    twice = trail.registered(named("another")).with_head(shown("y", 1))
    assert twice.admits(named("z"))


def test_a_registration_before_the_first_head_is_used_up_by_it() -> None:
    trail = LedgerTrail().registered(named("registration")).with_head(shown("x", 1))
    assert code_of(trail, shown("y", 1)) == "strange-ledger"


def test_a_rebase_replaces_exactly_the_head_shown_last() -> None:
    trail = LedgerTrail().with_head(shown("x", 3)).with_head(shown("x", 7))
    for wrong in (
        given_up("x", 3, "h", "y"),
        given_up("x", 8, "h", "y"),
        given_up("x", 7, "g", "y"),
        given_up("x", 0, "h", "y"),
        given_up("z", 7, "h", "y"),
    ):
        with pytest.raises(VerificationError) as caught:
            trail.rebased(wrong)
        assert caught.value.code == "wrong-ledger"
    after = trail.rebased(given_up("x", 7, "h", "y"))
    assert code_of(after, shown("x", 8)) == "strange-ledger"
    assert code_of(after, shown(None)) == "ledger-missing"
    assert after.with_head(shown("y", 1)).head_of(named("y")) is not None
    assert after.rebase_to(named("y")) is not None and after.rebase_to(named("x")) is None


def test_an_older_copy_may_go_on_after_a_rebase() -> None:
    trail = LedgerTrail().with_head(shown("x", 7)).rebased(given_up("x", 7, "h", "x"))
    assert trail.head_of(named("x")) is None
    trail = trail.with_head(shown("x", 5))
    assert code_of(trail, shown("x", 4)) == "ledger-rollback"


def test_a_successor_is_not_a_ledger_in_use() -> None:
    trail = (
        LedgerTrail()
        .with_head(shown("x", 7))
        .registered(named("registration"))
        .with_head(shown("y", 2))
    )
    with pytest.raises(VerificationError) as caught:
        trail.rebased(given_up("x", 7, "h", "y"))
    assert caught.value.code == "wrong-ledger"


def test_a_ledger_lost_before_it_was_shown_may_be_given_up() -> None:
    trail = LedgerTrail().rebased(given_up("x", 0, "h", "y"))
    assert code_of(trail, shown("x", 1)) == "strange-ledger"
    assert trail.with_head(shown("y", 1)).head_of(named("y")) is not None
