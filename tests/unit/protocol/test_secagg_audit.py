"""The audit of published sums: who audits what, what convicts a coordinator, what the fold refuses.

Sums of three chunks over the real machines; the fold over worlds whose seeds are stubs. Planted
faults that these tests caught: a sum left out of every audit; an epoch, or the end of the study,
before the audit; other survivors while a sum is unaudited; one auditor enough; an auditor counted
twice; hashes that lead to no signed root; a piece without its hash; the chunk compared at the
wrong place in the keystream; a proof believed without adding up; a proof about another result; the
round that a proof cuts off forgotten.
"""

import base64
import itertools
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    dealt,
    expected_of,
    finish,
    group_of,
    open_round,
    plain_sum,
    ready,
    send_inputs,
    tag,
    unmasked,
    verified,
)
from tests.worlds import NAMES, World, small_plan
from treaty.aggregation.masking import CHUNK_WORDS
from treaty.aggregation.quantization import RING_TYPES
from treaty.crypto import canonical
from treaty.errors import FormatError, VerificationError
from treaty.ids import Digest
from treaty.protocol import secagg_messages as messages
from treaty.protocol.messages import HaltCode
from treaty.protocol.secagg_audit import (
    AuditCase,
    FraudProof,
    assigned_members,
    check_audited_set,
    check_chunk,
    check_fraud,
    chunk_hashes,
    chunk_of,
    is_audited,
    prove_fraud,
)
from treaty.protocol.secure_round import EpochRecord, RoundPhase
from treaty.protocol.statements import Verified
from treaty.protocol.study import Phase

A, B, C, D = NAMES[:4]
LENGTH = 2 * CHUNK_WORDS + 5


def case_of(federation: Federation, turn: Round, result: messages.RoundResult) -> AuditCase:
    """What the fold would hold of a round of the machines."""
    hub = federation.hub
    assert hub.graph is not None and turn.sealed is not None
    asked = messages.EpochOpened(
        charter=hub.group.charter,
        author="hub",
        epoch=1,
        plan=tag("plan"),
        slots=hub.slots,
        suite=hub.group.suite,
        max_colluders=hub.group.max_colluders,
        min_survivors=hub.group.min_survivors,
    )
    epoch = EpochRecord(
        hub.group,
        verified(asked),
        keys={name: verified(one) for name, one in hub.peers.items()},  # type: ignore[misc]  # names
        sealed=federation.sealed,
        graph=hub.graph,
        ready={name: verified(one) for name, one in hub.ready.items()},  # type: ignore[misc]  # names
    )
    return AuditCase(epoch, turn.record(RoundPhase.PUBLISHED, result=verified(result)))


class Published:
    """A published sum of three chunks, with one member lost, and what an auditor fetches."""

    def __init__(self, bits: int = 32) -> None:
        federation = ready(dealt(group_of(5), slots=1))
        turn = send_inputs(open_round(federation, expected_of(LENGTH, bits)), lost=["m05"])
        finish(turn)
        words, result, _ = unmasked(turn)
        assert words == plain_sum(turn, turn.hub.survivor_names)
        self.bits = bits
        self.total = np.array(words, RING_TYPES[bits]).tobytes()
        self.case = case_of(federation, turn, result)
        blobs = {
            name: turn.node(name).disk.blobs[header.blob]
            for name, header in self.case.headers.items()
        }
        self.hashes = {name: chunk_hashes(blob, bits) for name, blob in blobs.items()}
        self.blobs = blobs

    def pieces(self, chunk: int) -> dict[str, bytes]:
        """One chunk of every masked input."""
        return {name: chunk_of(blob, self.bits, chunk) for name, blob in self.blobs.items()}

    def lie(self, word: int) -> tuple[AuditCase, bytes]:
        """The case and sum of a coordinator that alters one word and signs the result."""
        total = np.frombuffer(self.total, RING_TYPES[self.bits]).copy()
        total[word] += 1
        altered = total.tobytes()
        result = msgspec.structs.replace(self.case.result.predicate, sum=canonical.sha256(altered))
        record = msgspec.structs.replace(self.case.round, result=verified(result))
        return AuditCase(self.case.epoch, record), altered


PUBLISHED = Published()


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_true_chunk_is_what_the_inputs_give_and_nobody_is_convicted_of_it(chunk: int) -> None:
    own = PUBLISHED
    plan, pieces = own.case.plan(), own.pieces(chunk)
    assert check_chunk(own.case, plan, chunk, own.hashes, pieces, own.total)
    proof = prove_fraud(own.case, chunk, own.hashes, pieces)
    with pytest.raises(VerificationError) as refusal:
        check_fraud(own.case, proof, own.total)
    assert refusal.value.code == "no-fraud"


@pytest.mark.parametrize(
    ("word", "chunk"), [(0, 0), (CHUNK_WORDS - 1, 0), (CHUNK_WORDS, 1), (LENGTH - 1, 2)]
)
def test_one_altered_word_is_found_in_its_chunk_and_proved(word: int, chunk: int) -> None:
    own = PUBLISHED
    case, total = own.lie(word)
    plan = case.plan()
    for each in range(3):
        holds = check_chunk(case, plan, each, own.hashes, own.pieces(each), total)
        assert holds == (each != chunk)
    proof = prove_fraud(case, chunk, own.hashes, own.pieces(chunk))
    check_fraud(case, proof, total)
    # What a reader takes at most is little more than the largest that there is.
    assert len(proof) <= case.largest_proof
    if chunk == 0:
        assert case.largest_proof < 1.1 * len(proof)


def test_seeds_that_do_not_hold_convict_with_any_chunk() -> None:
    own = PUBLISHED
    result = own.case.result.predicate
    first = next(iter(result.self_seeds))
    false = msgspec.structs.replace(result, self_seeds={**result.self_seeds, first: "1" * 64})
    case = AuditCase(
        own.case.epoch, msgspec.structs.replace(own.case.round, result=verified(false))
    )
    check_fraud(case, prove_fraud(case, 0, own.hashes, own.pieces(0)), own.total)


def flipped(text: str) -> str:
    """The same base64 with the first bit of its content changed."""
    data = bytearray(base64.b64decode(text))
    data[0] ^= 128
    return base64.b64encode(data).decode()


PROOF_FAULTS: dict[str, tuple[Any, str]] = {
    "another result": (lambda p: {"result": tag("x")}, "wrong-result"),
    "a chunk that is not there": (lambda p: {"chunk": 3}, "no-such-chunk"),
    "a hash altered": (
        lambda p: {"hashes": {**p.hashes, "m01": (tag("x"), *p.hashes["m01"][1:])}},
        "chunk-list-differs",
    ),
    "a hash left out": (
        lambda p: {"hashes": {**p.hashes, "m01": p.hashes["m01"][1:]}},
        "chunk-list-differs",
    ),
    "a member left out": (
        lambda p: {"hashes": {n: h for n, h in p.hashes.items() if n != "m01"}},
        "chunk-list-differs",
    ),
    "a dropped member put in": (
        lambda p: {"hashes": {**p.hashes, "m05": p.hashes["m01"]}},
        "chunk-list-differs",
    ),
    "a piece altered": (lambda p: {"pieces": {**p.pieces, "m01": "AAAA"}}, "chunk-differs"),
    "a piece altered in one bit": (
        lambda p: {"pieces": {**p.pieces, "m01": flipped(p.pieces["m01"])}},
        "chunk-differs",
    ),
    "a piece left out": (
        lambda p: {"pieces": {n: h for n, h in p.pieces.items() if n != "m01"}},
        "chunk-differs",
    ),
}


@pytest.mark.parametrize("name", PROOF_FAULTS)
def test_an_accusation_that_is_made_up_is_refused(name: str) -> None:
    """Against a true sum: each alteration has its reason, and none convicts."""
    own = PUBLISHED
    change, code = PROOF_FAULTS[name]
    proof = canonical.decode(
        prove_fraud(own.case, 1, own.hashes, own.pieces(1)), FraudProof, limit=1 << 28
    )
    altered = canonical.encode(msgspec.structs.replace(proof, **change(proof)))
    with pytest.raises(VerificationError) as refusal:
        check_fraud(own.case, altered, own.total)
    assert refusal.value.code == code


def test_bytes_that_are_no_proof_and_another_sum_are_refused() -> None:
    own = PUBLISHED
    proof = prove_fraud(own.case, 1, own.hashes, own.pieces(1))
    for bad in (b"", b"{}", proof[:-1]):
        with pytest.raises(FormatError):
            check_fraud(own.case, bad, own.total)
    text = canonical.decode(proof, FraudProof, limit=1 << 28)
    spoiled = msgspec.structs.replace(text, pieces={**text.pieces, "m01": "?"})
    with pytest.raises(FormatError):
        check_fraud(own.case, canonical.encode(spoiled), own.total)
    with pytest.raises(VerificationError) as refusal:
        check_fraud(own.case, proof, own.total[:-4] + b"abcd")
    assert refusal.value.code == "sum-differs"


def test_every_chunk_has_more_auditors_than_may_collude_and_they_take_turns() -> None:
    case = PUBLISHED.case
    group = case.round.group
    load: dict[str, int] = {}
    for chunk in range(40):
        chosen = assigned_members(case, chunk)
        assert len(set(chosen)) == len(chosen) == 3
        for name in chosen:
            load[name] = load.get(name, 0) + 1
    assert set(load) == set(group.members) and max(load.values()) - min(load.values()) <= 1
    everyone = set(group.members)
    assert is_audited(case, everyone)
    for name in everyone:
        # One may be lost.
        assert is_audited(case, everyone - {name})
    windows = [set(assigned_members(case, chunk)) for chunk in range(3)]
    for count in range(6):
        for signed in itertools.combinations(sorted(everyone), count):
            enough = all(len(window & set(signed)) >= 2 for window in windows)
            assert is_audited(case, signed) == enough


# --- the fold --------------------------------------------------------------------------------


def audited_world() -> World:
    """A world whose study is audited, with an open epoch."""
    world = World()
    plan = small_plan(world.state.charter, world.contract)
    settings = msgspec.structs.replace(plan.aggregation, audited=True)
    world.start(msgspec.structs.replace(plan, aggregation=settings))
    world.open_epoch()
    return world


def call(world: World, **changes: object) -> Verified[Any]:
    """Call for an audit of everything that is unaudited."""
    results = tuple(case.result.digest for case in world.study.unaudited)
    fields = {"results": results, "chunks": tag("list")}
    return world.say(messages.AuditCalled, **(fields | changes))


def sign(world: World, name: str, **changes: object) -> Verified[Any]:
    """Let a member say that it has audited."""
    audit = world.study.audit
    fields = {"call": tag("none") if audit is None else audit.digest}
    return world.say(messages.SumsAudited, name, **(fields | changes))


def test_sums_are_audited_when_enough_members_have_signed() -> None:
    world = audited_world()
    world.run_round()
    world.run_round()
    call(world)
    for name in (A, B, C, D):
        if world.study.audit is None:
            break
        sign(world, name)
    assert world.study.audited == 2 and not world.study.unaudited and world.study.audit is None


def test_what_has_no_place_in_an_audit_is_refused() -> None:
    world = audited_world()
    with world.refuses("out-of-order"):
        sign(world, A)
    world.run_round()
    world.run_round()
    results = tuple(case.result.digest for case in world.study.unaudited)
    for wrong in (results[:1], results[::-1], (*results, tag("x")), (tag("x"),)):
        with world.refuses("audit-incomplete"):
            call(world, results=wrong)
    call(world)
    with world.refuses("out-of-order"):
        call(world)
    with world.refuses("out-of-order"):
        sign(world, A, call=tag("x"))
    sign(world, A)
    with world.refuses("replayed"):
        sign(world, A, charter=world.under)
    assert world.study.auditors == {A}


def test_no_epoch_and_no_end_of_the_study_before_the_audit() -> None:
    world = audited_world()
    world.run_round()
    world.say(messages.EpochClosed, epoch=1, code=messages.CloseCode.EXHAUSTED)
    with world.refuses("audit-due"):
        world.begin_epoch()
    world = audited_world()
    world.run_study()
    with world.refuses("audit-due"):
        world.complete()
    call(world)
    for name in (A, B, C, D):
        if world.study.audit is not None:
            sign(world, name)
    world.complete()
    assert world.study.phase is Phase.COMPLETED


def test_other_survivors_wait_for_the_audit_and_the_same_do_not() -> None:
    world = audited_world()
    world.run_round()
    world.run_round()
    world.open_round()
    for name in (A, B, C):
        world.send_input(name)
    with world.refuses("unaudited-set"):
        world.seal()
    call(world)
    for name in (A, B, C, D):
        if world.study.audit is not None:
            sign(world, name)
    world.seal()
    for name in (A, B, C):
        world.confirm(name)
        world.reveal(name)
    world.result(world.total())
    assert [len(one.members_in) for one in world.study.rounds] == [4, 4, 3]


def test_a_proof_halts_the_study_and_stays_out_when_it_is_about_nothing() -> None:
    """The seeds of this world are stubs, so that its results are false."""
    world = audited_world()
    world.run_round()
    result = world.study.unaudited[0].result
    proof = canonical.encode(FraudProof(result=result.digest, chunk=0, hashes={}, pieces={}))
    name = world.keep(proof)
    with world.refuses("wrong-result"):
        world.say(messages.SumDisputed, A, result=tag("x"), proof=name)
    other = canonical.encode(FraudProof(result=tag("x"), chunk=0, hashes={}, pieces={}))
    with world.refuses("wrong-result"):
        world.say(messages.SumDisputed, A, result=result.digest, proof=world.keep(other))
    world.say(messages.SumDisputed, A, result=result.digest, proof=name)
    assert world.study.phase is Phase.HALTED and world.study.halt_code is HaltCode.SUM_FALSE
    assert Digest(name) and world.replayed() == world.state


def test_a_proof_keeps_the_round_that_it_cuts_off() -> None:
    """What was answered in it can be opened by who holds the answers: it binds, and is counted."""
    world = audited_world()
    world.run_round()
    result = world.study.unaudited[0].result
    world.open_round()
    for name in (A, B, C, D):
        world.send_input(name)
    world.seal()
    for name in (A, B, C):
        world.confirm(name)
        world.reveal(name)
    proof = canonical.encode(FraudProof(result=result.digest, chunk=0, hashes={}, pieces={}))
    world.say(messages.SumDisputed, A, result=result.digest, proof=world.keep(proof))
    assert world.study.phase is Phase.HALTED and world.study.round is None
    assert world.study.rounds[-1].phase is RoundPhase.ABANDONED
    assert world.study.rounds[-1].reveals == (A, B, C)
    assert world.replayed() == world.state


def test_a_study_that_is_not_audited_goes_on_as_before() -> None:
    world = World()
    world.start()
    world.run_study()
    assert not world.study.unaudited
    with world.refuses("audit-incomplete"):
        call(world, results=(tag("x"),))
    world.complete()


def test_only_the_members_of_unaudited_sums_may_be_summed_over_again() -> None:
    """Another set, a smaller and a reordered one are refused; with nothing unaudited all pass."""
    case = Published().case
    names = case.round.members_in
    check_audited_set((case,), names)
    check_audited_set((), names[:2])
    for other in (names[:-1], (*names, "m05"), names[::-1], ()):
        with pytest.raises(VerificationError) as refusal:
            check_audited_set((case, case), other)
        assert refusal.value.code == "unaudited-set"
