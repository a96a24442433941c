"""The keeper of a site's ledger: over its port, with events built by hand.

A coordinator, a crash or a restored file may do anything to the order of calls; what was charged
stays charged, and what differs from what was reserved is refused.

Planted faults that these tests caught: a charge that is returned before it is stored; a ledger not
compared with the head that the log shows, or with the one in the own store; another ledger than the
one shown taken for it; a re-base in the log that is not carried out; a reservation held to the caps
of another consortium; an entry that is stored and cannot be read again; a charter's delta below
what entries hold; a disk that failed asked again; a key or a salt of another length.
"""

import hashlib
import math
from dataclasses import replace
from fractions import Fraction

import msgspec
import pytest

from tests.worlds import small_charter
from treaty.errors import PolicyError, ResourceError, UsageError
from treaty.governance.terms import PrivacyMode, PrivacyPolicy
from treaty.ids import Digest, MemberId
from treaty.node.budget import BudgetKeeper, Claim
from treaty.node.dataset import RegisteredDataset, caps_of, content_digest, new_ledger
from treaty.privacy.accountant import total_signal_to_noise
from treaty.privacy.events import GaussianEvent, gaussian_event
from treaty.privacy.ledger import replay
from treaty.privacy.ledger_entries import (
    DEFAULT_ENVELOPES,
    HOLDOUT,
    TRAINING,
    Capped,
    LedgerHead,
)
from treaty.protocol.ledger_trail import LedgerTrail
from treaty.protocol.messages import LedgerRebased
from treaty.protocol.secagg_messages import LedgerMark, MaskedInput
from treaty.protocol.statements import Verified
from treaty.stores.memory import MemoryLedger

SITE = MemberId("aare.example")


def named(text: str) -> Digest:
    return Digest(hashlib.sha256(text.encode()).hexdigest())


DATASET = RegisteredDataset("cohort", named("officer"), 200, bytes([1]) * 32, bytes([2]) * 32)


def caps(epsilon_micro: int = 3_000_000) -> tuple[Capped, ...]:
    return (
        Capped(
            charter=named("charter"),
            partition=TRAINING,
            epsilon_micro=epsilon_micro,
            delta_inverse=10**5,
            envelopes=DEFAULT_ENVELOPES,
        ),
    )


def release(count: int = 1, permyriad: int = 100) -> GaussianEvent:
    """Return `count` releases of mu squared `permyriad` / 10,000 each."""
    variance = math.floor((1 << 60) / Fraction(permyriad, 10_000))
    event = gaussian_event(variance=variance, sensitivity=1 << 30, count=count)
    assert isinstance(event, GaussianEvent)
    return event


def claim(rounds: int, envelope: str = TRAINING) -> Claim:
    return Claim(TRAINING, envelope, (release(rounds),))


def counting(rounds: int) -> Claim:
    return Claim(TRAINING, "statistics", (release(rounds, permyriad=10),))


class Ledger(MemoryLedger):
    """A ledger that can be put back to what it was, or fail."""

    failing = False

    def append(self, count: int, records: list[bytes], label: str = "ledger") -> None:  # type: ignore[override]  # narrower
        if self.failing:
            raise ResourceError("the disk failed")
        super().append(count, records, label)


def opened(*, recovers: bool = False) -> tuple[Ledger, BudgetKeeper]:
    ledger = Ledger()
    new_ledger(ledger, DATASET, bytes(32), recovers=recovers)
    keeper = BudgetKeeper(ledger, DATASET)
    keeper.cap(named("charter"), caps())
    return ledger, keeper


def pay(
    keeper: BudgetKeeper, query: str = "1", payload: str = "bytes", **changes: object
) -> LedgerHead:
    asked: dict[str, object] = {
        "plan": named("plan"),
        "partition": TRAINING,
        "envelope": TRAINING,
        "query": named(query),
        "model": named("model"),
        "cohort": named("all"),
        "payload": named(payload),
        "event": release(),
    }
    return keeper.charge(**(asked | changes))  # type: ignore[arg-type]  # as the test says


def spent(keeper: BudgetKeeper) -> Fraction:
    return total_signal_to_noise(keeper.events(TRAINING)) / total_signal_to_noise([release()])


def shown(head: LedgerHead) -> MaskedInput:
    return MaskedInput(
        charter=named("charter"),
        author=SITE,
        context=named("context"),
        length=1,
        root=named("root"),
        blob=named("blob"),
        ledger=LedgerMark(ledger=head.ledger, head=head.head),
        ledger_count=head.count,
    )


def rebase(lost: LedgerHead, successor: str) -> Verified[LedgerRebased]:
    body = LedgerRebased(
        charter=named("charter"),
        author=SITE,
        lost=LedgerMark(ledger=lost.ledger, head=lost.head),
        lost_count=lost.count,
        successor=successor,
    )
    return Verified(body, named("rebase"), frozenset())


def test_what_a_charge_returned_for_is_stored() -> None:
    ledger, keeper = opened()
    keeper.reserve(named("plan"), [claim(3)])
    head = pay(keeper)
    assert replay(ledger.records).published == head == keeper.head
    assert spent(BudgetKeeper(ledger, DATASET)) == 1


def test_a_failed_disk_stops_the_charge_and_changes_nothing() -> None:
    ledger, keeper = opened()
    keeper.reserve(named("plan"), [claim(3)])
    before = list(ledger.records)
    ledger.failing = True
    with pytest.raises(ResourceError):
        pay(keeper)
    assert ledger.records == before and spent(keeper) == 0
    ledger.failing = False
    pay(keeper)
    assert spent(keeper) == 1


def test_the_same_bytes_are_free_and_everything_else_is_a_charge_or_refused() -> None:
    _, keeper = opened()
    keeper.reserve(named("plan"), [claim(4)])
    first = pay(keeper)
    assert pay(keeper) == first
    keeper.sent(named("plan"), named("bytes"))
    pay(keeper, query="2", payload="more")
    assert spent(keeper) == 2
    with pytest.raises(PolicyError, match="other bytes were sent"):
        pay(keeper, payload="changed")
    pay(keeper, payload="fresh", cohort=named("fewer"))
    assert spent(keeper) == 3
    assert pay(keeper).count == keeper.head.count
    assert spent(keeper) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"event": release(permyriad=101)},
        {"event": release(permyriad=99)},
        {"event": gaussian_event(variance=1 << 66, sensitivity=1 << 30, count=1, sampling=1 << 50)},
        {"event": release(count=5)},
        {"plan": named("another")},
        {"envelope": "statistics"},
        {"partition": HOLDOUT},
    ],
    ids=["less noise", "more noise", "rate", "number", "plan", "envelope", "partition"],
)
def test_a_charge_that_differs_from_the_reservation_is_refused(changes: dict[str, object]) -> None:
    ledger, keeper = opened()
    keeper.reserve(named("plan"), [claim(4)])
    before = list(ledger.records)
    with pytest.raises(PolicyError) as caught:
        pay(keeper, **changes)
    assert caught.value.code == "not-reserved" and ledger.records == before


def test_a_plan_is_charged_no_more_often_than_reserved() -> None:
    _, keeper = opened()
    keeper.reserve(named("plan"), [claim(2)])
    pay(keeper, "1", "a")
    pay(keeper, "2", "b")
    with pytest.raises(PolicyError) as caught:
        pay(keeper, "3", "c")
    assert caught.value.code == "not-reserved"


def test_a_plan_is_reserved_whole_or_not_at_all() -> None:
    ledger, keeper = opened()
    before = list(ledger.records)
    with pytest.raises(PolicyError) as caught:
        keeper.reserve(named("plan"), [claim(3), counting(400)])
    assert caught.value.code == "budget" and ledger.records == before
    keeper.reserve(named("plan"), [claim(3), counting(1)])
    count = keeper.head.count
    keeper.reserve(named("plan"), [claim(3), counting(1)])
    assert keeper.head.count == count
    with pytest.raises(PolicyError) as caught:
        keeper.reserve(named("plan"), [claim(4)])
    assert caught.value.code == "plan-known"


def test_a_plan_may_promise_the_whole_cap_and_then_nothing_is_left() -> None:
    """Training takes its envelope and the reserve, the count its own."""
    _, keeper = opened()
    # The cap is 51.7 releases of that kind: 41.3 in training, 2.5 in statistics, 7.7 in reserve.
    keeper.reserve(named("plan"), [claim(49), counting(25)])
    for number in range(49):
        pay(keeper, str(number), str(number))
    for extra in (claim(1), counting(3), claim(1, "reserve")):
        with pytest.raises(PolicyError) as caught:
            keeper.reserve(named("second"), [extra])
        assert caught.value.code == "budget"


def test_a_reservation_cut_off_in_the_middle_is_taken_up() -> None:
    ledger, keeper = opened()
    keeper.reserve(named("plan"), [claim(3), counting(1)])
    torn = Ledger(ledger.records[:-1])
    keeper = BudgetKeeper(torn, DATASET)
    keeper.reserve(named("plan"), [claim(3), counting(1)])
    assert torn.records == ledger.records


def test_a_second_study_over_the_cap_is_refused_until_the_first_gives_up() -> None:
    _, keeper = opened()
    keeper.reserve(named("plan"), [claim(40)])
    pay(keeper)
    with pytest.raises(PolicyError) as caught:
        keeper.reserve(named("second"), [claim(39)])
    assert caught.value.code == "budget"
    keeper.close(named("plan"))
    keeper.close(named("plan"))
    keeper.reserve(named("second"), [claim(39)])
    with pytest.raises(PolicyError) as caught:
        pay(keeper, "2", "more")
    assert caught.value.code == "plan-closed"
    with pytest.raises(PolicyError) as caught:
        keeper.reserve(named("plan"), [claim(40)])
    assert caught.value.code == "plan-closed"


def test_two_nodes_on_one_ledger_share_one_budget() -> None:
    ledger, one = opened()
    two = BudgetKeeper(ledger, DATASET)
    one.reserve(named("plan"), [claim(40)])
    with pytest.raises(PolicyError, match="does not hold"):
        two.reserve(named("second"), [claim(30)])
    pay(one)
    assert spent(two) == 1
    two.close(named("plan"))
    with pytest.raises(PolicyError, match="closed"):
        pay(one, "2", "more")


def test_an_entry_that_slips_in_between_is_taken_into_account() -> None:
    """Another process appends after this one looked: everything is decided again."""
    ledger, keeper = opened()
    other = BudgetKeeper(ledger, DATASET)
    append = ledger.append

    def slipped(count: int, records: list[bytes], label: str = "") -> None:
        ledger.append = append  # type: ignore[method-assign]  # once
        other.reserve(named("second"), [claim(30)])
        append(count, records, label)

    ledger.append = slipped  # type: ignore[method-assign]  # a fake that acts in between
    with pytest.raises(PolicyError) as caught:
        keeper.reserve(named("plan"), [claim(30)])
    assert caught.value.code == "budget"


def test_who_is_always_too_late_is_told_so_and_stores_nothing() -> None:
    """Every time that it has decided, another process has appended."""
    ledger, keeper = opened()
    other = BudgetKeeper(ledger, DATASET)
    append, asked = ledger.append, []

    def slipped(count: int, records: list[bytes], label: str = "") -> None:
        ledger.append = append  # type: ignore[method-assign]  # for the other
        other.disclose(named(f"other-{len(asked)}"), (TRAINING,), "statistics-sum")
        ledger.append = slipped  # type: ignore[method-assign]  # a fake that acts in between
        asked.append(count)
        append(count, records, label)

    ledger.append = slipped  # type: ignore[method-assign]  # a fake that acts in between
    with pytest.raises(ResourceError, match="written by others all the time: try again"):
        keeper.reserve(named("plan"), [claim(1)])
    assert len(asked) > 1 and asked == sorted(set(asked))
    assert not keeper.state.plans


def test_a_disk_that_fails_is_asked_once() -> None:
    """What it left behind is not known, so nothing is tried again on it."""
    ledger, keeper = opened()
    asked = []

    def failing(count: int, records: list[bytes], label: str = "") -> None:
        asked.append(count)
        raise ResourceError("the disk does not answer")

    ledger.append = failing  # type: ignore[method-assign]  # a disk that fails
    with pytest.raises(ResourceError, match="does not answer"):
        keeper.reserve(named("plan"), [claim(1)])
    assert len(asked) == 1


def test_releases_without_noise_are_listed_and_make_epsilon_infinite() -> None:
    _, keeper = opened()
    head = keeper.disclose(named("plan"), (TRAINING, HOLDOUT), "evaluation-histogram")
    assert keeper.disclose(named("plan"), (TRAINING, HOLDOUT), "evaluation-histogram") == head
    assert keeper.epsilon(TRAINING) == math.inf
    assert keeper.state.disclosed == {
        (named("plan"), TRAINING, "evaluation-histogram"),
        (named("plan"), HOLDOUT, "evaluation-histogram"),
    }


def test_a_ledger_that_lacks_what_the_log_shows_charges_and_discloses_nothing() -> None:
    ledger, keeper = opened()
    keeper.reserve(named("plan"), [claim(9)])
    backup = list(ledger.records)
    trail = LedgerTrail().with_head(shown(pay(keeper)))
    keeper.confirm(trail)
    pay(keeper, "2", "more")
    restored = BudgetKeeper(Ledger(backup), DATASET)
    restored.confirm(trail)
    assert restored.lock == "ledger-behind"
    for call in (
        lambda: pay(restored, "2", "again"),
        lambda: restored.reserve(named("other"), [claim(1)]),
        lambda: restored.disclose(named("plan"), (TRAINING,), "statistics-sum"),
        lambda: restored.register_content() or restored.head,
    ):
        with pytest.raises(PolicyError) as caught:
            call()
        assert caught.value.code == "ledger-behind"
    # Another history of the same length is no better.
    forked = BudgetKeeper(Ledger(backup), DATASET)
    pay(forked, "7", "other")
    forked.confirm(trail)
    assert forked.lock == "ledger-forked"


def test_the_sites_own_store_remembers_a_head_that_the_log_lacks() -> None:
    ledger, keeper = opened()
    keeper.reserve(named("plan"), [claim(9)])
    backup = list(ledger.records)
    head = pay(keeper)
    restored = BudgetKeeper(Ledger(backup), DATASET)
    restored.confirm(LedgerTrail(), head)
    assert restored.lock == "ledger-behind"


def test_another_ledger_than_the_one_shown_is_locked() -> None:
    _, keeper = opened()
    trail = LedgerTrail().with_head(shown(keeper.head))
    ledger = Ledger()
    new_ledger(ledger, DATASET, bytes([9]) * 32)
    fresh = BudgetKeeper(ledger, DATASET)
    fresh.confirm(trail)
    assert fresh.lock == "ledger-forked"
    fresh.confirm(LedgerTrail(), keeper.head)
    assert fresh.lock == "ledger-forked"
    fresh.confirm(trail.registered(named("registration")))
    assert fresh.lock == ""


def test_an_officers_rebase_counts_everything_as_spent_once() -> None:
    ledger, keeper = opened()
    keeper.reserve(named("plan"), [claim(9)])
    backup = list(ledger.records)
    lost = pay(keeper)
    trail = LedgerTrail().with_head(shown(lost))
    trail = trail.rebased(rebase(lost, lost.ledger))
    copy = Ledger(list(backup))
    restored = BudgetKeeper(copy, DATASET)
    restored.confirm(trail, None)
    assert restored.lock == ""
    assert restored.epsilon(TRAINING) >= 2.999
    count = restored.head.count
    restored.confirm(trail)
    assert restored.head.count == count
    with pytest.raises(PolicyError):
        pay(restored, "2", "more")
    with pytest.raises(PolicyError):
        restored.reserve(named("second"), [claim(1)])
    # The copy is put back once more before a new head was shown: it is all spent again.
    again = BudgetKeeper(Ledger(list(backup)), DATASET)
    again.confirm(trail)
    assert again.epsilon(TRAINING) >= 2.999


def test_a_lost_ledger_locks_until_the_log_holds_a_rebase_to_its_successor() -> None:
    _, keeper = opened()
    lost = keeper.head
    trail = LedgerTrail().with_head(shown(lost))
    gone = BudgetKeeper(Ledger(), DATASET)
    for call in (lambda: gone.head, lambda: gone.confirm(trail), lambda: pay(gone)):
        with pytest.raises(PolicyError) as caught:
            call()
        assert caught.value.code == "ledger-lost"
    assert gone.lock == "ledger-lost"
    ledger, fresh = opened(recovers=True)
    fresh.confirm(LedgerTrail())
    assert fresh.lock == "ledger-recovering"
    own = replay(ledger.records).published
    assert own.ledger != lost.ledger
    fresh.confirm(trail)
    assert fresh.lock == "ledger-recovering"
    fresh.confirm(trail.rebased(rebase(lost, own.ledger)))
    assert fresh.lock == "" and fresh.epsilon(TRAINING) >= 2.999


def test_a_ledger_of_another_key_or_data_set_is_refused() -> None:
    ledger, _ = opened()
    for changed in (
        RegisteredDataset("other", named("officer"), 200, bytes([1]) * 32, bytes([2]) * 32),
        RegisteredDataset("cohort", named("officer"), 200, bytes([3]) * 32, bytes([2]) * 32),
        RegisteredDataset("cohort", named("officer"), 300, bytes([1]) * 32, bytes([2]) * 32),
        RegisteredDataset("cohort", named("nobody"), 200, bytes([1]) * 32, bytes([2]) * 32),
    ):
        with pytest.raises(ResourceError, match="partition key"):
            BudgetKeeper(ledger, changed)
    with pytest.raises(ResourceError, match="damaged"):
        BudgetKeeper(Ledger(ledger.records[1:]), DATASET)
    with pytest.raises(UsageError):
        RegisteredDataset("cohort", named("officer"), 200, b"short", bytes(32))
    assert "01" * 8 not in repr(DATASET) and "\\x01" not in repr(DATASET)


def test_new_content_is_an_entry_under_the_same_spend() -> None:
    held = [b"first"]
    ledger = Ledger()
    new_ledger(ledger, DATASET, bytes(32))
    keeper = BudgetKeeper(ledger, DATASET, content=lambda: held[0])
    keeper.register_content()
    keeper.register_content()
    held[0] = b"second"
    keeper.register_content()
    assert keeper.state.fingerprints == {
        DATASET.fingerprint(content_digest(b"first")),
        DATASET.fingerprint(content_digest(held[0])),
    }
    assert len(ledger.records) == 3
    assert hashlib.sha256(b"first").hexdigest().encode() not in b"".join(ledger.records)


def test_persons_keep_their_partition_in_every_study() -> None:
    persons = [f"person-{number}" for number in range(4000)]
    parts = [DATASET.partition_of(person) for person in persons]
    assert parts == [DATASET.partition_of(person) for person in persons]
    share = parts.count(HOLDOUT) / len(parts)
    # Four standard deviations of a binomial share: false alarms below 1e-4, and the key is fixed.
    assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / len(parts))
    moved = RegisteredDataset("cohort", named("o"), 200, bytes([7]) * 32, bytes(32))
    assert [moved.partition_of(person) for person in persons] != parts
    none = RegisteredDataset("cohort", named("o"), 0, bytes([1]) * 32, bytes(32))
    assert {none.partition_of(person) for person in persons} == {TRAINING}


def test_caps_follow_the_charter_and_round_towards_less() -> None:
    charter = small_charter()
    assert caps_of(charter, named("charter")) == ()
    private = msgspec.structs.replace(
        charter,
        privacy=PrivacyPolicy(
            mode=PrivacyMode.DIFFERENTIAL, epsilon_budget_milli=3000, delta="3e-5"
        ),
    )
    training, holdout = caps_of(private, named("charter"))
    assert (training.epsilon_micro, training.delta_inverse) == (3_000_000, 33_334)
    assert training.envelopes == DEFAULT_ENVELOPES
    assert (holdout.partition, holdout.epsilon_micro) == (HOLDOUT, 1_000_000)
    tight = msgspec.structs.replace(private.privacy, epsilon_budget_milli=500)
    _, holdout = caps_of(msgspec.structs.replace(private, privacy=tight), named("charter"))
    assert holdout.epsilon_micro == 500_000


def test_a_cap_is_recorded_when_it_changes_and_not_again() -> None:
    ledger, keeper = opened()
    count = len(ledger.records)
    keeper.cap(named("charter"), caps())
    assert len(ledger.records) == count
    keeper.cap(named("charter"), caps(1_000_000))
    assert len(ledger.records) == count + 1
    with pytest.raises(UsageError):
        keeper.cap(named("another"), caps())


def test_a_plan_is_held_to_its_own_charter_on_a_ledger_that_others_use() -> None:
    """Another consortium's node raises the caps between following the log and reserving."""
    ledger, keeper = opened()
    generous = tuple(
        msgspec.structs.replace(one, charter=named("theirs"), epsilon_micro=50_000_000)
        for one in caps()
    )
    BudgetKeeper(ledger, DATASET).cap(named("theirs"), generous)
    with pytest.raises(PolicyError) as caught:
        keeper.reserve(named("plan"), [claim(60)])
    assert caught.value.code == "budget"
    BudgetKeeper(ledger, DATASET).cap(named("theirs"), generous)
    keeper.reserve(named("plan"), [claim(5)])
    assert keeper.state.caps[TRAINING] == caps()[0]


@pytest.mark.parametrize("delta", ["9e-13", "1e-20", "0", "0.0"])
def test_a_delta_that_no_ledger_counts_with_changes_nothing(delta: str) -> None:
    """An entry beyond the format's range would bar the ledger for ever."""
    policy = PrivacyPolicy(mode=PrivacyMode.DIFFERENTIAL, epsilon_budget_milli=1000, delta=delta)
    charter = msgspec.structs.replace(small_charter(), privacy=policy)
    with pytest.raises(PolicyError) as caught:
        caps_of(charter, named("charter"))
    assert caught.value.code == "no-cap"


def test_no_entry_is_stored_that_cannot_be_read_again() -> None:
    ledger, keeper = opened()
    before = ledger.read()
    for wrong in ({"delta_inverse": 10**13}, {"epsilon_micro": 0}, {"partition": ""}):
        wanted = msgspec.structs.replace(caps()[0], **wrong)
        with pytest.raises((UsageError, PolicyError)):
            keeper.cap(named("charter"), [wanted])
    assert ledger.read() == before
    assert BudgetKeeper(ledger, DATASET).state.caps[TRAINING] == caps()[0]


def test_persons_keep_the_naming_of_the_first_private_study() -> None:
    held = [b"a\nb\n"]
    ledger = Ledger()
    new_ledger(ledger, DATASET, bytes(32))
    keeper = BudgetKeeper(ledger, DATASET, content=lambda: held[0])
    keeper.name_persons("rows", by_place=True)
    keeper.name_persons("rows", by_place=True)
    assert len(ledger.records) == 2, "recorded once"
    held[0] = b"a\nb\r\nc"
    keeper.name_persons("rows", by_place=True)
    before = keeper.state
    assert before.named == DATASET.named("rows", held[0])
    for data, naming, code in (
        (b"a\nb\n", "rows", "rows-moved"),
        (b"a\nb\r\ncd", "rows", "rows-moved"),
        (b"b\na\r\nc\n", "rows", "rows-moved"),
        (b"", "rows", "rows-moved"),
        (held[0], "column", "person-naming"),
    ):
        held[0] = data
        with pytest.raises(PolicyError) as caught:
            keeper.name_persons(naming, by_place=naming == "rows")
        assert caught.value.code == code
    assert keeper.state == before
    assert replay(ledger.read()).named == before.named


def test_keys_and_salt_of_a_data_set_have_32_bytes() -> None:
    """A shorter one would be guessed, and with it who is in which partition."""
    for name in ("partition_key", "fingerprint_key"):
        for size in (0, 31, 33):
            with pytest.raises(UsageError, match="keys of 32 bytes"):
                replace(DATASET, **{name: bytes(size)})  # type: ignore[arg-type]  # one of two names
    with pytest.raises(UsageError, match="salt of 32 bytes, got 31"):
        DATASET.opening(bytes(31))
