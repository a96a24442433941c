"""The ledger's rules: chain, reservations, slots, caps, locks.

`LedgerMachine` drives random actions against a simpler model that recounts everything from the
accepted actions. Planted faults that these tests catch: a close that refunds charges or leaves the
plan open, a paid slot charged twice, another payload accepted for a paid slot, events compared
without their rate, charges not counted, reservations of other plans ignored in the projection, the
cap unchecked, envelopes as large as the cap, new content that starts from zero, a restored backup
taken as current, a locked ledger that reserves, a re-base that starts from zero, a chain link
unchecked, the format or the number of an entry unchecked, a ledger without an opening, the cap
unchecked where the envelope holds, persons named otherwise, a file that shrank, a reservation of
nothing, a re-base that counts an envelope twice, in part or without a cap, on replay one in an
envelope that the cap does not have.
"""

import hashlib
import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from treaty.crypto.canonical import decode, encode
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.privacy.accountant import composed_epsilon, total_signal_to_noise
from treaty.privacy.events import GaussianEvent, gaussian_event
from treaty.privacy.gaussian import gaussian_epsilon
from treaty.privacy.ledger import LedgerState, Lock, open_ledger, replay
from treaty.privacy.ledger_budget import check_fits, envelope_limit
from treaty.privacy.ledger_entries import (
    DEFAULT_ENVELOPES,
    Action,
    Capped,
    Charged,
    Closed,
    Disclosed,
    Entry,
    Envelope,
    Fingerprinted,
    Named,
    Opened,
    Rebased,
    Reserved,
    Sent,
)


def named(text: str) -> Digest:
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def opened(recovers: bool = False) -> Opened:
    return Opened(
        identity="cohort-a",
        salt=named("salt"),
        partition_key=named("key"),
        statement=named("officer"),
        unit="person-in-institution",
        holdout_permille=200,
        recovers=recovers,
    )


def capped(epsilon_micro: int = 3_000_000, partition: str = "training") -> Capped:
    return Capped(
        charter=named("charter"),
        partition=partition,
        epsilon_micro=epsilon_micro,
        delta_inverse=100_000,
        envelopes=DEFAULT_ENVELOPES,
    )


def release(mu_squared: Fraction = Fraction(1, 100), count: int = 1) -> GaussianEvent:
    """Return `count` releases of that mu squared each."""
    variance = math.floor((1 << 60) / mu_squared)
    event = gaussian_event(variance=variance, sensitivity=1 << 30, count=count)
    assert isinstance(event, GaussianEvent)
    return event


def reserved(plan: str, rounds: int, envelope: str = "training", **kinds: object) -> Reserved:
    event = kinds.get("event") or release(count=rounds)
    return Reserved(
        plan=named(plan),
        partition=str(kinds.get("partition", "training")),
        envelope=envelope,
        events=(event,),  # type: ignore[arg-type]  # an event by construction
    )


def charged(
    plan: str,
    query: str,
    payload: str = "bytes",
    cohort: str = "all",
    event: GaussianEvent | None = None,
) -> Charged:
    return Charged(
        plan=named(plan),
        partition="training",
        envelope="training",
        query=named(query),
        model=named("model"),
        cohort=named(cohort),
        payload=named(payload),
        event=release() if event is None else event,
    )


def holds() -> Fraction:
    """Return what training holds at most: its own envelope, and the reserve."""
    shares = {one.name: envelope_limit(capped(), one) for one in DEFAULT_ENVELOPES}
    return shares["training"] + shares["reserve"]


def sent(plan: str, payload: str = "bytes") -> Sent:
    return Sent(plan=named(plan), payload=named(payload))


def build(*actions: Action, recovers: bool = False) -> tuple[LedgerState, list[bytes]]:
    step = open_ledger(opened(recovers))
    entries = [step.entry]
    for action in actions:
        step = step.state.append(action)
        entries.append(step.entry)
    return step.state, entries


READY = (capped(), reserved("p", 10))


def naming(text: str, size_bytes: int) -> Named:
    return Named(naming=named(text), size_bytes=size_bytes, start=named("start"))


@pytest.mark.parametrize(
    ("before", "action", "code"),
    [
        ((), reserved("p", 1), "no-cap"),
        ((capped(),), reserved("p", 1, "nothing"), "no-cap"),
        ((capped(),), reserved("p", 50), "budget"),
        (READY, reserved("p", 1), "plan-known"),
        (READY, reserved("q", 40), "budget"),
        (READY, charged("other", "1"), "not-reserved"),
        (READY, charged("p", "1", event=release(count=11)), "not-reserved"),
        (READY, charged("p", "1", event=release(Fraction(1, 99))), "not-reserved"),
        ((*READY, charged("p", "1")), charged("p", "1"), "already-paid"),
        ((*READY, charged("p", "1"), sent("p")), charged("p", "1", "changed"), "slot-taken"),
        ((*READY, charged("p", "1"), sent("p")), charged("p", "1"), "already-paid"),
        ((*READY, Closed(plan=named("p"))), charged("p", "1"), "plan-closed"),
        (READY, Closed(plan=named("q")), "not-reserved"),
        (READY, Sent(plan=named("p"), payload=named("bytes")), "not-charged"),
        (READY, opened(), "already-open"),
        ((naming("id", 10),), naming("other", 10), "person-naming"),
        ((naming("id", 10),), naming("id", 9), "rows-moved"),
        (
            READY,
            Rebased(statement=named("s"), lost_count=1, lost_head=named("h"), assumed=()),
            "rebase-too-low",
        ),
    ],
)
def test_refusals_name_their_rule_and_change_nothing(
    before: tuple[Action, ...], action: Action, code: str
) -> None:
    state, entries = build(*before)
    with pytest.raises(PolicyError) as caught:
        state.append(action)
    assert caught.value.code == code
    assert replay(entries) == state


def test_a_sampled_charge_must_have_the_reserved_rate() -> None:
    wide = gaussian_event(variance=1 << 66, sensitivity=1 << 30, count=20, sampling=1 << 50)
    other = gaussian_event(variance=1 << 66, sensitivity=1 << 30, count=1, sampling=1 << 51)
    state, _ = build(capped(), reserved("p", 0, event=wide))
    with pytest.raises(PolicyError) as caught:
        state.append(
            Charged(
                plan=named("p"),
                partition="training",
                envelope="training",
                query=named("1"),
                model=named("m"),
                cohort=named("c"),
                payload=named("b"),
                event=other,
            )
        )
    assert caught.value.code == "not-reserved"


def test_what_fits_its_envelope_is_held_to_the_cap_all_the_same() -> None:
    """Envelopes are a billionth wider than their share: the last digit is the cap's alone."""
    whole = (Envelope(name="training", per_mille=1000),)
    cap = msgspec.structs.replace(capped(), envelopes=whole)
    limit = envelope_limit(cap, whole[0])
    for slack, fits in ((1, False), (1 << 31, True)):
        variance = (1 << 60) * limit.denominator // limit.numerator + slack
        event = gaussian_event(variance=variance, sensitivity=1 << 30, count=1)
        assert total_signal_to_noise([event]) <= limit
        assert (composed_epsilon([event], 1e-5) * 1e6 <= cap.epsilon_micro) is fits
        state, _ = build(cap)
        if fits:
            state.append(reserved("p", 1, event=event))
            continue
        with pytest.raises(PolicyError, match="the cap of training does not hold") as caught:
            state.append(reserved("p", 1, event=event))
        assert caught.value.code == "budget"


def test_a_reservation_is_of_something() -> None:
    state, _ = build(capped())
    with pytest.raises(UsageError, match="at least one event"):
        state.append(msgspec.structs.replace(reserved("p", 1), events=()))


def test_nothing_fits_an_envelope_that_the_cap_does_not_have() -> None:
    with pytest.raises(PolicyError) as caught:
        check_fits(capped(), "nothing", {"nothing": []})
    assert caught.value.code == "no-cap"


def test_sampled_plans_are_held_to_envelope_and_cap() -> None:
    def plan(rounds: int) -> Reserved:
        event = gaussian_event(
            variance=1 << 60, sensitivity=1 << 30, count=rounds, sampling=(1 << 53) // 100
        )
        return reserved("p", 0, event=event)

    state, _ = build(capped())
    limit = gaussian_epsilon(holds(), 1e-5)
    fits, fails = plan(1000), plan(2700)
    assert composed_epsilon(fits.events, 1e-5) < limit < composed_epsilon(fails.events, 1e-5)
    state.append(fits)
    with pytest.raises(PolicyError) as caught:
        state.append(fails)
    assert caught.value.code == "budget"


def test_sending_the_same_bytes_again_is_free_and_other_bytes_are_refused() -> None:
    state, _ = build(*READY, charged("p", "1"))
    assert state.is_paid(charged("p", "1"))
    assert not state.is_paid(charged("p", "1", cohort="fewer"))
    state = state.append(sent("p")).state
    with pytest.raises(PolicyError, match="other bytes"):
        state.is_paid(charged("p", "1", "changed"))


def test_bytes_lost_before_they_were_sent_are_replaced_by_a_charge_of_their_own() -> None:
    """A process that ended between charge and sending draws fresh noise, and pays for it."""
    one, _ = build(*READY, charged("p", "1"))
    assert not one.is_paid(charged("p", "1", "fresh"))
    two = one.append(charged("p", "1", "fresh")).state
    assert total_signal_to_noise(two.events("training")) == 2 * total_signal_to_noise(
        one.events("training")
    )
    with pytest.raises(PolicyError):
        two.append(sent("p", "fresh")).state.append(charged("p", "1", "third"))


def test_a_plan_pays_from_the_envelope_that_it_reserved_in() -> None:
    state, _ = build(
        capped(),
        capped(1_000_000, "holdout"),
        reserved("p", 3),
        reserved("p", 2, "statistics", event=release(Fraction(1, 10_000), count=2)),
        reserved("p", 1, partition="holdout"),
    )
    step = state.append(charged("p", "1"))
    assert step.state.plans[named("p"), "training", "training"].left == {release(): 2}
    with pytest.raises(PolicyError) as caught:
        state.append(msgspec.structs.replace(charged("p", "1"), envelope="statistics"))
    assert caught.value.code == "not-reserved"
    with pytest.raises(PolicyError) as caught:
        state.append(msgspec.structs.replace(charged("p", "1"), envelope="reserve"))
    assert caught.value.code == "not-reserved"
    closed = state.append(Closed(plan=named("p"))).state
    assert not any(account.is_open for account in closed.plans.values())


def test_a_rebase_closes_every_plan() -> None:
    """What the lost part had charged to a reservation must not be charged once more."""
    backup, _ = build(*READY)
    locked = backup.confirmed(9, named("lost"))
    state = locked.append(locked.rebasing(named("signed"), 9, named("lost"))).state
    with pytest.raises(PolicyError) as caught:
        state.append(charged("p", "1"))
    assert caught.value.code == "plan-closed"


def test_another_cohort_is_a_fresh_charge() -> None:
    one, _ = build(*READY, charged("p", "1"))
    two = one.append(charged("p", "1", "fresh", cohort="fewer")).state
    assert total_signal_to_noise(two.events("training")) == 2 * total_signal_to_noise(
        one.events("training")
    )


def test_closing_frees_what_was_reserved_but_refunds_no_charge() -> None:
    state, _ = build(capped(), reserved("p", 40), charged("p", "1"))
    with pytest.raises(PolicyError):
        state.append(reserved("q", 39))
    closed = state.append(Closed(plan=named("p"))).state
    assert closed.events("training") == state.events("training")
    closed.append(reserved("q", 48))
    with pytest.raises(PolicyError):
        closed.append(reserved("q", 49))


def test_new_content_and_new_projects_inherit_the_spend() -> None:
    state, _ = build(capped(), reserved("p", 40), charged("p", "1", event=release(count=40)))
    state = state.append(Fingerprinted(fingerprint=named("new rows"))).state
    with pytest.raises(PolicyError, match="does not hold"):
        state.append(reserved("project-two", 10))


def test_partitions_have_their_own_caps() -> None:
    state, _ = build(capped(), capped(1_000_000, "holdout"), reserved("p", 40))
    state = state.append(reserved("q", 5, partition="holdout")).state
    assert state.epsilon("holdout") == 0.0
    with pytest.raises(PolicyError):
        state.epsilon("nowhere")


def test_a_lowered_cap_counts_what_other_envelopes_spent() -> None:
    state, _ = build(capped(), reserved("p", 40), charged("p", "1", event=release(count=40)))
    state = state.append(capped(1_000_000)).state
    with pytest.raises(PolicyError, match="does not hold"):
        state.append(reserved("q", 1, "statistics", event=release(Fraction(1, 10_000))))


def test_envelopes_split_in_mu_squared() -> None:
    limits = [envelope_limit(capped(), envelope) for envelope in DEFAULT_ENVELOPES]
    assert sum(limits) == envelope_limit(capped(), Envelope(name="all", per_mille=1000))
    found = [gaussian_epsilon(limit, 1e-5) for limit in limits]
    assert found == pytest.approx([2.64, 0.57, 1.04], abs=0.01)
    assert gaussian_epsilon(sum(limits, Fraction(0)), 1e-5) <= 3.0 + 1e-8


@pytest.mark.parametrize(
    "envelopes",
    [
        (),
        (Envelope(name="a", per_mille=600), Envelope(name="b", per_mille=401)),
        (Envelope(name="a", per_mille=1), Envelope(name="a", per_mille=1)),
    ],
)
def test_impossible_envelopes_are_refused(envelopes: tuple[Envelope, ...]) -> None:
    state, _ = build()
    cap = Capped(
        charter=named("c"), partition="t", epsilon_micro=1, delta_inverse=10, envelopes=envelopes
    )
    with pytest.raises(UsageError):
        state.append(cap)


def test_an_exact_release_makes_epsilon_infinite() -> None:
    state, _ = build(*READY, Disclosed(plan=named("p"), partition="training", name="support-sum"))
    assert state.epsilon("training") == math.inf


def test_a_ledger_behind_or_beside_its_published_head_is_locked() -> None:
    state, entries = build(*READY, charged("p", "1"))
    backup = replay(entries[:-1])
    assert state.confirmed(4, state.head).lock is None
    assert state.confirmed(0, named("none")).lock is None
    assert state.confirmed(2, state.heads[1]).lock is None
    locked = backup.confirmed(4, state.head)
    assert locked.lock is Lock.BEHIND
    assert state.confirmed(4, named("other")).lock is Lock.FORKED
    for action in (charged("p", "2"), reserved("q", 1)):
        with pytest.raises(PolicyError) as caught:
            locked.append(action)
        assert caught.value.code == "ledger-behind"


def test_a_rebase_unlocks_with_everything_spent() -> None:
    backup, entries = build(*READY)
    locked = backup.confirmed(9, named("lost"))
    step = locked.append(locked.rebasing(named("signed"), 9, named("lost")))
    assert step.state.lock is None
    assert step.state.confirmed(9, named("lost")).lock is None
    assert step.state.confirmed(10, named("more")).lock is Lock.BEHIND
    assert step.state.epsilon("training") >= 2.999
    with pytest.raises(PolicyError, match="does not hold"):
        step.state.append(reserved("q", 1, "statistics"))
    assert replay([*entries, step.entry]).spend == step.state.spend
    raised = step.state.append(capped(9_000_000)).state
    raised.append(reserved("q", 1))


def test_a_rebase_counts_each_envelope_once_and_whole_and_no_other() -> None:
    """Whoever writes the entry itself cannot count less, or what no charter caps."""
    state, _ = build(capped(), recovers=True)
    whole = state.rebasing(named("signed"), 5, named("lost"))
    first = whole.assumed[0]
    half = msgspec.structs.replace(first, event=release(Fraction(1, 10**6)))
    other = msgspec.structs.replace(first, envelope="other")
    for assumed, code in (
        ((*whole.assumed, first), "rebase-too-low"),
        (whole.assumed[1:], "rebase-too-low"),
        ((half, *whole.assumed[1:]), "rebase-too-low"),
        ((*whole.assumed, other), "no-cap"),
    ):
        with pytest.raises(PolicyError) as caught:
            state.append(msgspec.structs.replace(whole, assumed=assumed))
        assert caught.value.code == code
    assert state.append(whole).state.lock is None


def test_a_loss_over_a_partition_without_a_cap_has_no_bound() -> None:
    locked, _ = build(recovers=True)
    state = locked.append(locked.rebasing(named("signed"), 5, named("lost"))).state
    assert state.lock is None
    state = state.append(capped()).state.append(capped(1_000_000, "holdout")).state
    assert state.epsilon("training") == state.epsilon("holdout") == math.inf


def test_a_recovering_ledger_charges_nothing_before_its_rebase() -> None:
    state, _ = build(capped(), recovers=True)
    with pytest.raises(PolicyError) as caught:
        state.append(reserved("p", 1))
    assert caught.value.code == "ledger-recovering"
    state.append(state.rebasing(named("signed"), 5, named("lost")))


def test_a_broken_chain_is_refused() -> None:
    _, entries = build(*READY, charged("p", "1"), charged("p", "2"))
    entry = decode(entries[3], Entry)
    forged = encode(
        Entry(format=entry.format, sequence=3, previous=entry.previous, action=charged("p", "9"))
    )
    for broken in (
        [],
        entries[1:],
        [entries[0], *entries[2:]],
        [*entries[:2], entries[3]],
        [*entries[:3], forged, entries[4]],
        [entries[0], entries[0]],
    ):
        with pytest.raises(VerificationError) as caught:
            replay(broken)
        assert caught.value.code == "ledger-chain"
    with pytest.raises(FormatError):
        replay([entries[0], entries[1] + b" "])


def test_an_entry_has_the_format_and_the_number_of_its_place() -> None:
    """Also where it names its predecessor: nothing but a digest binds it to the ledger before."""
    state, entries = build(*READY)
    lasts = {"format": "treaty-privacy-ledger-v1", "sequence": 3}
    good = Entry(**lasts, previous=state.head, action=charged("p", "1"))  # type: ignore[arg-type]  # a table
    assert replay([*entries, encode(good)]).count == 4
    for field, wrong in (("format", "treaty-privacy-ledger-v2"), ("sequence", 4)):
        bad = msgspec.structs.replace(good, **{field: wrong})
        with pytest.raises(VerificationError) as caught:
            replay([*entries, encode(bad)])
        assert caught.value.code == "ledger-chain"


def test_a_ledger_begins_with_its_opening() -> None:
    first = Entry(
        format="treaty-privacy-ledger-v1", sequence=0, previous=Digest("0" * 64), action=capped()
    )
    with pytest.raises(VerificationError, match="begins with its opening") as caught:
        replay([encode(first)])
    assert caught.value.code == "ledger-rule"


def test_an_entry_that_breaks_the_rules_is_refused_on_replay() -> None:
    state, entries = build(*READY)
    lie = Entry(
        format="treaty-privacy-ledger-v1",
        sequence=3,
        previous=state.head,
        action=charged("p", "1", event=release(count=11)),
    )
    with pytest.raises(VerificationError) as caught:
        replay([*entries, encode(lie)])
    assert caught.value.code == "ledger-rule"
    nowhere = msgspec.structs.replace(lie, action=reserved("q", 1, "nothing"))
    with pytest.raises(VerificationError, match="no envelope nothing") as caught:
        replay([*entries, encode(nowhere)])
    assert caught.value.code == "ledger-rule"
    over = Entry(format=lie.format, sequence=3, previous=state.head, action=reserved("q", 500))
    replay([*entries, encode(over)])
    with pytest.raises(VerificationError, match="rules"):
        replay([*entries, encode(over)], audited=True)


def test_a_long_ledger_replays_in_linear_time() -> None:
    cap = Capped(
        charter=named("c"),
        partition="training",
        epsilon_micro=10**9,
        delta_inverse=10**5,
        envelopes=DEFAULT_ENVELOPES,
    )
    tiny = release(Fraction(1, 10**6), count=1)
    plan = reserved("p", 0, event=release(Fraction(1, 10**6), count=3000))
    state, entries = build(cap, plan)
    for number in range(300):
        step = state.append(charged("p", str(number), event=tiny))
        state = step.state
        entries.append(step.entry)
    assert replay(entries) == state
    assert state.events("training")[0].count == 300  # type: ignore[union-attr]  # a Gaussian


class LedgerMachine(RuleBasedStateMachine):
    """Accepted actions recounted from scratch always equal the ledger's own count."""

    @initialize()
    def begin(self) -> None:
        self.state, self.entries = build(capped())
        self.reserved: dict[str, int] = {}
        self.charged: dict[str, int] = {}
        self.paid: dict[tuple[str, str], str] = {}
        self.closed: set[str] = set()
        self.charges: set[tuple[str, str]] = set()
        self.sent: set[tuple[str, str | None]] = set()

    def _try(self, action: Action) -> bool:
        before = self.state
        try:
            step = self.state.append(action)
        except PolicyError:
            assert self.state == before
            return False
        self.state, self.entries = step.state, [*self.entries, step.entry]
        return True

    def _committed(self) -> int:
        return sum(
            self.charged.get(plan, 0) if plan in self.closed else rounds
            for plan, rounds in self.reserved.items()
        )

    @rule(plan=st.sampled_from("abc"), rounds=st.integers(1, 30))
    def reserve(self, plan: str, rounds: int) -> None:
        """Accepted if and only if the plan is new and the worst case stays within the limit."""
        limit = holds()
        one = total_signal_to_noise([release()])
        fits = plan not in self.reserved and (self._committed() + rounds) * one <= limit
        assert self._try(reserved(plan, rounds)) == fits
        if fits:
            self.reserved[plan] = rounds

    @rule(plan=st.sampled_from("abc"), query=st.sampled_from("1234"), payload=st.sampled_from("xy"))
    def charge(self, plan: str, query: str, payload: str) -> None:
        """Accepted if and only if open, neither paid nor sent, and within the reservation."""
        before = self.paid.get((plan, query))
        fits = (
            plan in self.reserved
            and plan not in self.closed
            and before != payload
            and (plan, before) not in self.sent
            and self.charged.get(plan, 0) < self.reserved[plan]
        )
        assert self._try(charged(plan, query, payload)) == fits
        if fits:
            self.charged[plan] = self.charged.get(plan, 0) + 1
            self.paid[plan, query] = payload
            self.charges.add((plan, payload))

    @rule(plan=st.sampled_from("abc"), payload=st.sampled_from("xy"))
    def send(self, plan: str, payload: str) -> None:
        """Accepted if and only if these bytes were charged to the plan."""
        assert self._try(sent(plan, payload)) == ((plan, payload) in self.charges)
        if (plan, payload) in self.charges:
            self.sent.add((plan, payload))

    @rule(plan=st.sampled_from("abc"))
    def close(self, plan: str) -> None:
        assert self._try(Closed(plan=named(plan))) == (plan in self.reserved)
        if plan in self.reserved:
            self.closed.add(plan)

    @invariant()
    def spend_is_the_number_of_accepted_charges(self) -> None:
        found = total_signal_to_noise(self.state.events("training"))
        assert found == sum(self.charged.values()) * total_signal_to_noise([release()])

    @invariant()
    def the_entries_alone_give_the_same_state(self) -> None:
        assert replay(self.entries, audited=True) == self.state


LedgerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLedger = LedgerMachine.TestCase
