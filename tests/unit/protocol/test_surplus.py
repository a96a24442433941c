"""Keys of surplus noise at a member and in the fold: opened for one set of survivors, or never.

Planted and caught: keys opened before the set is confirmed, or with one confirmation too few; one
part too many, one too few; the file of keys not cut down when they are opened; not bound to its
set, or only where it opens some, or only when it is answered; another set answered in another slot;
keys of another vector or another question opened; keys without commitments in the log; the file
kept after the sum is out or the epoch over, erased when it is not; ordered to be stored after the
input, or cut after the confirmation or the answer; a fold that takes any number of keys or of
commitments, a key that opens nothing, one key for two parts, answers before their set is confirmed,
other parts or the same in another order in one release, the parts of another release, in the same
place or another; a coordinator that opens with the first answers that suffice, or waits for the
last one for ever, or gives up; noise added to the sum instead of taken off, or taken off twice.
"""

from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import pytest

from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    announce,
    changed,
    dealt,
    expected_of,
    finish,
    group_of,
    noise_keys_of,
    noise_of,
    open_round,
    plain_sum,
    published,
    ready,
    send_inputs,
    tag,
    unmasked,
    verified,
)
from treaty.crypto import canonical
from treaty.errors import PolicyError, VerificationError
from treaty.ids import Digest
from treaty.privacy.certificate import Cohort
from treaty.privacy.surplus import surplus_noise, tiers_for
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.releases import with_noise_shown
from treaty.protocol.secagg_effects import EraseSecret, Persist, StoreSecret
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_lifecycle import (
    ConfirmationLogged,
    EpochEnded,
    Expected,
    InputLogged,
    InputReady,
    RoundEnded,
    SurvivorsAnnounced,
    noise_secret_name,
)
from treaty.protocol.secure_round import RoundRecord
from treaty.protocol.surplus import (
    SurplusSecrets,
    check_committed,
    check_opened,
    open_keys,
    opened_parts,
    surplus_secrets,
    without_surplus,
)

QUERY = tag("query 0")


def expected(*tiers: int) -> Expected:
    return expected_of(tiers=tiers)


def turn_of(size: int, *tiers: int, lost: Iterable[str] = ()) -> Round:
    """A round to which everybody but `lost` sent an input whose noise has parts."""
    federation = ready(dealt(group_of(size)))
    return send_inputs(open_round(federation, expected(*tiers)), lost)


def reveals_of(turn: Round) -> dict[str, messages.Reveal]:
    return {name: one.predicate for name, one in turn.hub.reveals.items()}


def keys_of(name: str, *tiers: int) -> tuple[str, ...]:
    return tuple(key.hex() for key in noise_keys_of(name, expected(*tiers)).surplus)


# --- the member ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "tiers", "lost", "count"),
    [
        (4, (4,), (), 1),
        (4, (4,), ("m02",), 0),
        (5, (5,), (), 1),
        (5, (5,), ("m01",), 0),
        (7, (6, 7), (), 2),
        (7, (6, 7), ("m03",), 1),
        (7, (6, 7), ("m03", "m05"), 0),
    ],
)
def test_answers_open_what_the_survivors_do_not_need(
    size: int, tiers: tuple[int, ...], lost: tuple[str, ...], count: int
) -> None:
    """The first parts, as many as tiers are reached, of every survivor; never the base."""
    turn = turn_of(size, *tiers, lost=lost)
    finish(turn)
    answers = reveals_of(turn)
    assert set(answers) == set(turn.hub.survivor_names) and len(answers) == size - len(lost)
    for name, answer in answers.items():
        assert (answer.surplus or ()) == keys_of(name, *tiers)[:count]
        base = noise_keys_of(name, turn.expected).base.hex().encode()
        disk = turn.node(name).disk
        assert not any(base in data for data in (*disk.records.values(), *disk.secrets.values()))
    assert unmasked(turn)[0] == plain_sum(turn, turn.hub.survivor_names)


@pytest.mark.parametrize(("size", "at_once"), [(4, True), (5, True), (6, False), (7, False)])
def test_members_confirm_first_where_they_could_be_shown_different_sets(
    size: int, at_once: bool
) -> None:
    """Of six everybody may be there: exact sums are answered at once, noise is not opened so."""
    turn = turn_of(size, size)
    sealed = published(turn.effects, messages.SurvivorsSealed)
    turn.give(coordinator.SurvivorsLogged(sealed))
    said = announce(turn, sealed, turn.hub.survivor_names)
    kinds = {type(one) for sent in said.values() for one in sent}
    assert kinds == {messages.Reveal if at_once else messages.SurvivorsConfirmed}
    plain = send_inputs(open_round(ready(dealt(group_of(size))), expected()))
    sealed = published(plain.effects, messages.SurvivorsSealed)
    said = announce(plain, sealed, plain.hub.opened.participants)
    assert {type(one) for sent in said.values() for one in sent} == {messages.Reveal}


def test_keys_are_on_the_disk_before_the_input_that_commits_to_them() -> None:
    turn = open_round(ready(dealt(group_of(4))), expected(4))
    node = turn.node("m01")
    node.begin(turn.opened, turn.expected)
    assert node.slot is not None
    noise = noise_of("m01", turn.expected)
    ready_input = InputReady(tag("vector"), tag("root"), tag("blob"), **noise)  # type: ignore[arg-type]  # its fields
    kinds = [type(one) for one in node.slot.step(ready_input)[1]]
    assert kinds.index(StoreSecret) < kinds.index(Persist)


def test_keys_wait_for_as_many_confirmations_as_shares_open_a_seed() -> None:
    """One less opens nothing; nobody who folds the log takes an answer before."""
    turn = turn_of(7, 6, 7)
    sealed = published(turn.effects, messages.SurvivorsSealed)
    said = announce(turn, sealed, turn.headers)
    confirmed = [verified(one) for sent in said.values() for one in sent]
    needed = turn.federation.group.share_threshold
    assert needed < len(confirmed) == 7
    node = turn.node("m02")
    assert node.slot is not None

    def told(count: int) -> tuple[object, ...]:
        first, *more = confirmed[:count]
        event = ConfirmationLogged(first, node.slot_secret, tuple(more), node.noise_secret)  # type: ignore[arg-type]  # confirmations
        return node.slot.step(event)  # type: ignore[union-attr]  # checked above

    waiting, effects = told(needed - 1)
    assert effects == () and waiting.state.reveal is None  # type: ignore[attr-defined]  # a slot
    moved, _ = told(needed)
    reveal = moved.state.reveal  # type: ignore[attr-defined]  # a slot
    assert reveal is not None and reveal.surplus == keys_of("m02", 6, 7)
    record = record_of(turn.federation, turn, 6, 7)
    for one in confirmed[: needed - 1]:
        record = record.step(one, nothing)
    refused("not-confirmed", lambda: record.step(verified(reveal), nothing))
    assert record.step(confirmed[needed - 1], nothing).step(verified(reveal), nothing).reveals


def test_the_file_is_cut_and_bound_before_the_answer_is_stored() -> None:
    """What is not opened is gone from the disk by then, and stays gone."""
    turn = turn_of(5, 4, 5, lost=("m05",))
    sealed = published(turn.effects, messages.SurvivorsSealed)
    node = turn.node("m01")
    whole = node.noise_secret
    assert whole is not None and len(canonical.decode(whole, SurplusSecrets).keys) == 2
    for header in turn.headers.values():
        node.on_slot(InputLogged(header))
    assert node.slot is not None
    moved, effects = node.slot.step(SurvivorsAnnounced(sealed, node.slot_secret, whole))
    assert [type(one) for one in effects] == [StoreSecret, Persist]
    cut = canonical.decode(effects[0].data, SurplusSecrets)  # type: ignore[union-attr]  # just seen
    assert cut.keys == keys_of("m01", 4, 5)[:1]
    assert cut.survivors == ("m01", "m02", "m03", "m04")
    assert moved.state.reveal is not None and moved.state.reveal.surplus == cut.keys


@pytest.mark.parametrize(
    ("first", "second", "opened"), [(5, 5, 2), (5, 4, 0), (4, 5, 0), (4, 4, 1), (3, 5, 0)]
)
def test_after_a_restored_backup_the_same_keys_are_opened_or_none(
    first: int, second: int, opened: int
) -> None:
    """The database forgets which set was answered; the file outside of it does not.

    Also where the set that was answered first opened nothing: its sum needs all of the noise.
    """
    federation = ready(dealt(group_of(5)))
    tiers = (4, 5)
    turn = send_inputs(open_round(federation, expected(*tiers)))
    node = turn.node("m01")
    assert node.slot is not None
    names = turn.opened.predicate.participants
    state, secret = node.slot.state, node.noise_secret
    for size, count in ((first, opened_parts(tiers, first)), (second, opened)):
        keys, cut = open_keys(state, names[:size], secret)
        assert keys == keys_of("m01", *tiers)[:count]
        if size == first and cut is not None:
            secret = cut
            kept = canonical.decode(cut, SurplusSecrets)
            assert kept.survivors == names[:first] and kept.keys == keys


def test_the_set_that_is_confirmed_binds_the_keys_before_it_is_answered() -> None:
    """A store that is put back after a confirmation opens nothing for another set."""
    turn = turn_of(7, 6, 7)
    sealed = published(turn.effects, messages.SurvivorsSealed)
    node = turn.node("m02")
    for header in turn.headers.values():
        node.on_slot(InputLogged(header))
    assert node.slot is not None and node.noise_secret is not None
    fewer = changed(sealed, survivors=sealed.predicate.survivors[:6])
    for shown, keys in ((fewer, 1), (sealed, 2)):
        _, effects = node.slot.step(SurvivorsAnnounced(shown, node.slot_secret, node.noise_secret))
        assert [type(one) for one in effects] == [StoreSecret, Persist]
        cut = canonical.decode(effects[0].data, SurplusSecrets)  # type: ignore[union-attr]  # just seen
        assert len(cut.keys) == keys
        assert cut.survivors == tuple(one.member for one in shown.predicate.survivors)
    node.on_slot(SurvivorsAnnounced(fewer, node.slot_secret, node.noise_secret))
    everybody = turn.opened.predicate.participants
    assert open_keys(node.slot.state, everybody, node.noise_secret) == ((), None)


def test_a_file_that_was_put_back_is_cut_again_before_a_confirmed_answer_is_stored() -> None:
    turn = turn_of(7, 6, 7, lost=("m07",))
    node = turn.node("m01")
    whole = node.noise_secret
    sealed = published(turn.effects, messages.SurvivorsSealed)
    said = announce(turn, sealed, turn.headers)
    confirmed = [verified(one) for sent in said.values() for one in sent]
    assert node.slot is not None and node.noise_secret != whole
    first, *more = confirmed
    event = ConfirmationLogged(first, node.slot_secret, tuple(more), whole)  # type: ignore[arg-type]  # confirmations
    moved, effects = node.slot.step(event)
    assert [type(one) for one in effects] == [StoreSecret, Persist]
    assert effects[0].data == node.noise_secret  # type: ignore[union-attr]  # just seen
    assert moved.state.reveal is not None
    assert moved.state.reveal.surplus == keys_of("m01", 6, 7)[:1]


def test_a_lost_or_foreign_file_leaves_the_noise_in() -> None:
    """Keys of another vector, or of another question, do not open what the header committed to."""
    turn = turn_of(4, 4)
    sealed = published(turn.effects, messages.SurvivorsSealed)
    node = turn.node("m02")
    for header in turn.headers.values():
        node.on_slot(InputLogged(header))
    assert node.slot is not None
    own = noise_keys_of("m02", turn.expected).surplus
    other = noise_keys_of("m03", turn.expected).surplus
    for secret, opens in (
        (None, False),
        (surplus_secrets(turn.expected.question, other), False),
        (surplus_secrets(tag("question 9"), own), False),
        (surplus_secrets(turn.expected.question, ()), False),
        (surplus_secrets(turn.expected.question, own), True),
    ):
        moved, effects = node.slot.step(SurvivorsAnnounced(sealed, node.slot_secret, secret))
        assert moved.state.reveal is not None
        assert bool(moved.state.reveal.surplus) is opens
        assert any(isinstance(one, StoreSecret) for one in effects) is opens


def test_the_keys_go_when_the_sum_is_out_and_stay_while_it_may_be_asked_again() -> None:
    """An abandoned round is asked again in another slot; a published one is over."""
    for ended, gone in ((RoundEnded(), False), (RoundEnded(published=True), True)):
        turn = turn_of(4, 4)
        node = turn.node("m03")
        assert node.noise_secret is not None and node.epoch is not None
        assert node.slot is not None
        _, effects = node.slot.step(ended)
        name = noise_secret_name(node.epoch.number)
        assert (EraseSecret(name) in effects) is gone
        node.on_slot(ended)
        assert (node.noise_secret is None) is gone


def test_keys_go_with_their_epoch() -> None:
    turn = turn_of(4, 4)
    node = turn.node("m03")
    assert node.noise_secret is not None and node.epoch is not None
    _, effects = node.epoch.step(EpochEnded())
    assert EraseSecret(noise_secret_name(node.epoch.number)) in effects


def test_the_same_question_in_another_slot_opens_the_same_keys() -> None:
    """Its vector is the same, so the noise in it is; the file still holds all of its keys."""
    federation = ready(dealt(group_of(5)))
    asked = expected(5)
    turn = send_inputs(open_round(federation, asked))
    for name in turn.opened.predicate.participants:
        turn.node(name).on_slot(RoundEnded())
    again = open_round(federation, asked, attempt=1)
    for name in again.opened.predicate.participants:
        node = again.node(name)
        need = node.begin(again.opened, asked)
        again.inputs[name] = turn.inputs[name]
        before = turn.headers[name].predicate
        (header,) = node.contribute(
            need, turn.inputs[name], noise=before.noise, surplus=before.surplus
        )
        again.headers[name] = verified(header)  # type: ignore[arg-type]  # a header
        again.give(coordinator.InputArrived(again.headers[name]))
    finish(again)
    assert {name: one.surplus for name, one in reveals_of(again).items()} == {
        name: keys_of(name, 5) for name in again.hub.survivor_names
    }


def test_another_set_in_another_slot_is_refused_and_opens_nothing_where_a_vote_frees_it() -> None:
    """Whoever answered for four opens no key for five; who answered for nobody opens its own."""
    federation = ready(dealt(group_of(5)))
    asked = expected(4, 5)
    turn = send_inputs(open_round(federation, asked), lost=("m05",))
    finish(turn)
    everybody = turn.opened.predicate.participants
    assert turn.hub.survivor_names == everybody[:4]
    again = open_round(federation, asked, attempt=1)
    for name in everybody:
        node = again.node(name)
        node.on_slot(RoundEnded())
        need = node.begin(again.opened, asked, freed=("m05",) if name != "m04" else ())
        again.inputs[name] = turn.inputs[name]
        noise = noise_of(name, asked)
        del noise["keys"]
        (header,) = node.contribute(need, turn.inputs[name], **noise)
        again.headers[name] = verified(header)  # type: ignore[arg-type]  # a header
        again.give(coordinator.InputArrived(again.headers[name]))
    with pytest.raises(PolicyError) as refusal:
        announce(again, published(again.effects, messages.SurvivorsSealed), ["m04"])
    assert refusal.value.code == "locked-set"
    finish(again, silent=["m04"])
    found = {name: one.surplus or () for name, one in reveals_of(again).items()}
    assert found == {"m01": (), "m02": (), "m03": (), "m05": keys_of("m05", 4, 5)}


def test_repeated_answers_are_the_same_bytes_with_the_same_keys() -> None:
    """After a crash the stored answer is sent, whatever became of the file."""
    turn = turn_of(4, 4)
    finish(turn)
    node = turn.node("m01")
    sent = reveals_of(turn)["m01"]
    node.disk.secrets.clear()
    assert sent in node.restart()


# --- the coordinator ----------------------------------------------------------------------------


def test_the_sum_waits_for_every_answer_and_not_beyond_the_deadline() -> None:
    """An answer that is missing leaves its noise in; the sum is opened all the same."""
    turn = turn_of(5, 5)
    finish(turn, silent=["m04"])
    assert turn.hub.phase is coordinator.RoundPhase.REVEALING
    turn.give(coordinator.Deadline())
    assert turn.hub.phase is coordinator.RoundPhase.SUMMING
    assert unmasked(turn)[0] == plain_sum(turn, turn.hub.survivor_names)
    plain = send_inputs(open_round(ready(dealt(group_of(5))), expected()))
    finish(plain, silent=["m04"])
    assert plain.hub.phase is coordinator.RoundPhase.SUMMING


# --- what everybody checks ----------------------------------------------------------------------


def nothing(digest: Digest) -> bytes:
    """No statement here names a document."""
    raise AssertionError(digest)


def record_of(federation: Federation, turn: Round, *tiers: int) -> RoundRecord:
    """The fold of a round, its inputs logged."""
    record = RoundRecord.begin(
        federation.group,
        turn.opened,
        turn.expected.question,
        federation.hub.graph,
        tiers,  # type: ignore[arg-type]  # dealt
    )
    for header in turn.headers.values():
        record = record.step(header, nothing)
    return record.step(published(turn.effects, messages.SurvivorsSealed), nothing)


def refused(code: str, act: Callable[[], object]) -> None:
    with pytest.raises(VerificationError) as refusal:
        act()
    assert refusal.value.code == code


def test_an_answer_with_other_keys_is_refused_by_everybody_who_folds_the_log() -> None:
    """Altered, left out in part, added, or another member's: its own code, and its author named."""
    turn = turn_of(7, 6, 7, lost=("m07",))
    finish(turn)
    record = record_of(turn.federation, turn, 6, 7)
    for name in turn.hub.survivor_names:
        assert record.few
        slot = turn.node(name).slot
        assert slot is not None and slot.state.confirmation is not None
        record = record.step(verified(slot.state.confirmation), nothing)
    genuine = turn.hub.reveals["m02"]
    first, second = keys_of("m02", 6, 7)
    for keys, code in (
        ((second,), "surplus-differs"),
        ((keys_of("m03", 6, 7)[0],), "surplus-differs"),
        ((first[:-1] + ("0" if first[-1] != "0" else "1"),), "surplus-differs"),
        ((first, second), "surplus-parts"),
    ):
        refused(code, lambda keys=keys: record.step(changed(genuine, surplus=keys), nothing))  # type: ignore[misc]  # bound now
    assert record.step(genuine, nothing).reveals
    assert record.step(changed(genuine, surplus=msgspec.UNSET), nothing).reveals


@pytest.mark.parametrize(
    ("tiers", "parts", "code"),
    [
        ((4,), ("a", "b"), "surplus-parts"),
        ((), ("a",), "surplus-parts"),
        ((4, 5), ("a", "a"), "surplus-repeat"),
        ((4,), ("noise",), "surplus-repeat"),
    ],
)
def test_a_header_commits_to_one_key_for_each_part(
    tiers: tuple[int, ...], parts: tuple[str, ...], code: str
) -> None:
    header = header_of(*parts)
    refused(code, lambda: check_committed(header, tiers))
    assert check_committed(header_of(), tiers) is None
    assert check_committed(header_of("a", "b"), (4, 5)) is None


def test_whoever_folds_the_log_refuses_an_input_that_commits_otherwise() -> None:
    """Before it is in any sum: nothing of it is opened."""
    turn = turn_of(4, 4)
    record = RoundRecord.begin(
        turn.federation.group,
        turn.opened,
        turn.expected.question,
        turn.federation.hub.graph,  # type: ignore[arg-type]  # dealt
        (4,),
    )
    genuine = turn.headers["m01"]
    for parts, code in (
        ((tag("a"), tag("b")), "surplus-parts"),
        ((genuine.predicate.noise,), "surplus-repeat"),
    ):
        other = changed(genuine, surplus=parts)
        refused(code, lambda other=other: record.step(other, nothing))  # type: ignore[misc]  # bound now
    assert record.step(genuine, nothing).inputs


def header_of(*parts: str, noise: str = "noise", entries: int = 1) -> messages.MaskedInput:
    return messages.MaskedInput(
        charter=tag("charter"),
        author="m01",
        context=tag("context"),
        length=3,
        root=tag("root"),
        blob=tag("blob"),
        noise=tag(noise),
        surplus=tuple(map(tag, parts)) or msgspec.UNSET,
        ledger=messages.LedgerMark(ledger=tag("ledger"), head=tag("head")),
        ledger_count=entries,
    )


def test_parts_belong_to_one_release_as_the_noise_does() -> None:
    """The same commitments again in a release, and none of them in another."""
    first, second = Digest(tag("release 0")), Digest(tag("release 1"))
    shown = with_noise_shown({}, header_of("a", "b"), first, noised=True)
    assert with_noise_shown(shown, header_of("a", "b"), first, noised=True) == shown
    for parts in (("a", "c"), ("b", "a"), ()):
        refused(
            "noise-changed",
            lambda parts=parts: with_noise_shown(shown, header_of(*parts), first, noised=True),  # type: ignore[misc]  # bound now
        )
    for noise, parts in (
        ("other", ("c", "b")),
        ("other", ("b", "c")),
        ("a", ("c", "d")),
        ("other", ("c", "noise")),
    ):
        reused = header_of(*parts, noise=noise, entries=2)
        refused(
            "noise-reused",
            lambda reused=reused: with_noise_shown(shown, reused, second, noised=True),  # type: ignore[misc]  # bound now
        )
    fresh = header_of("c", "d", noise="other", entries=2)
    assert with_noise_shown(shown, fresh, second, noised=True) != shown


def test_keys_without_commitments_are_refused_and_none_are_opened() -> None:
    """What a site does whose charter or policy has no row for them."""
    reveal = messages.Reveal(
        charter=tag("charter"),
        author="m01",
        context=tag("context"),
        survivors=tag("survivors"),
        self_shares={},
        round_shares={},
        surplus=(tag("key"),),
    )
    refused("surplus-parts", lambda: check_opened(reveal, header_of(), (4,), 4, QUERY))
    turn = send_inputs(open_round(ready(dealt(group_of(4))), expected()))
    node = turn.node("m01")
    assert node.slot is not None
    secret = surplus_secrets(turn.expected.question, [bytes(32)])
    state = msgspec.structs.replace(node.slot.state, tiers=(4,))
    assert open_keys(state, ("m01", "m02", "m03", "m04"), secret) == ((), None)


def test_a_sum_loses_the_noise_of_the_answers_that_are_there() -> None:
    """In the ring, word by word, and not in the words that carry none."""
    cohort = Cohort(5, 4, 1)
    tiers = tiers_for(1 << 44, cohort)
    names = [f"m0{number}" for number in range(1, 6)]
    answers = [
        messages.Reveal(
            charter=tag("charter"),
            author=name,
            context=tag("context"),
            survivors=tag("survivors"),
            self_shares={},
            round_shares={},
            surplus=keys_of(name, 5) if name != "m04" else msgspec.UNSET,
        )
        for name in names
    ]
    total = np.array([5, 2**64 - 7, 0, 1, 5], dtype=np.uint64)
    found = without_surplus(total, answers, tiers, 5, 3)
    off = sum(
        surplus_noise(tiers, [bytes.fromhex(keys_of(name, 5)[0])], 5, 3)
        for name in names
        if name != "m04"
    )
    words = [(int(word) - int(less)) % 2**64 for word, less in zip(total, off, strict=False)]
    assert [int(word) for word in found] == [*words, 1, 5]
    assert total.tolist() == [5, 2**64 - 7, 0, 1, 5]
    assert (without_surplus(total, answers[3:4], tiers, 5, 3) == total).all()


@pytest.mark.parametrize(("survivors", "count"), [(3, 0), (4, 0), (5, 1), (6, 1), (7, 2), (9, 2)])
def test_parts_open_from_their_number_of_survivors_on(survivors: int, count: int) -> None:
    assert opened_parts((5, 7), survivors) == count


def test_the_group_of_a_round_is_the_cohort_of_its_noise() -> None:
    group: Group = group_of(7, 2)
    assert group.cohort == Cohort(7, group.min_survivors, 2)
