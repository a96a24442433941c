"""Studies whose members add published sums up again: real nodes, honest and lying coordinators.

A lying coordinator is the real one with one word of one sum altered before it is published. Planted
faults that these tests caught: a member that signs without adding up; a call that is never made
when the survivors change; survivors named before the audit is over; a member that takes part after
it has proved a sum false; a proof that lacks the sum's inputs; a call without its chunks after a
restart.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.restartable_federation import (
    RestartableFederation,
    Story,
    assert_no_fork,
    assert_said_once,
    in_round,
    opened,
    whole_study,
)
from tests.small_federation import SITES, contract, small_plan
from tests.stateful.test_dropouts import heal, lose
from treaty.aggregation.masking import recompute_sum
from treaty.aggregation.quantization import ring_vector
from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.node import coordinator as coordinator_node
from treaty.node.auditing import DISPUTE_KEY, AuditDriver
from treaty.node.intake import MEMBER_STATEMENTS
from treaty.node.mirror import LOG_STREAM
from treaty.node.rounds import RoundDriver
from treaty.protocol.messages import HaltCode
from treaty.protocol.secagg_coordinator import NeedSum, SumReady
from treaty.protocol.secagg_messages import (
    AuditCalled,
    MaskedInput,
    RoundResult,
    SumDisputed,
    SumsAudited,
    SurvivorsSealed,
)
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.protocol.waiting import awaited_in_study
from treaty.provenance.fraud import verify_fraud
from treaty.provenance.verify import Status, verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.studies.plan import AggregationSettings, Plan

A, B, C, D = SITES


def audited_plan(federation: RestartableFederation, slots: int = 16) -> Plan:
    """The small plan with its sums audited."""
    settings = AggregationSettings(
        max_persons_per_site=256, slots_per_epoch=slots, support_rows=1, audited=True
    )
    return small_plan(federation, aggregation=settings)


def kinds(federation: RestartableFederation) -> list[str]:
    """The kinds of the log's entries, in order."""
    entries = federation.coordinator._entries
    return [type(peek(entry)[1]).__name__ for entry in entries]


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the coordinator alter one word of the sums whose number is in the list."""
    lies: list[int] = []
    count = iter(range(1000))

    def altered(self: RoundDriver, need: NeedSum, find: object) -> None:
        vectors = [ring_vector(find(blob), need.ring_bits, need.length) for blob in need.blobs]  # type: ignore[operator]  # a function
        words = recompute_sum(vectors, need.plan, need.ring_bits)
        if next(count) in lies:
            np.add(words[:1], 1, out=words[:1])
        total = words.tobytes()
        self._need = None
        self._in_round(SumReady(sha256(total)), (total,))

    monkeypatch.setattr(RoundDriver, "_sum", altered)
    return lies


def outsider(federation: RestartableFederation, member: str) -> tuple[list[bytes], object]:
    """The log and documents as one member's mirror holds them: no masked input among them."""
    node = federation.participants[MemberId(member)]
    entries = list(node._mirror._store.read(LOG_STREAM))
    inputs = {one.blob for one in (peek(e)[1] for e in entries) if isinstance(one, MaskedInput)}

    def find(digest: Digest) -> bytes:
        assert digest not in inputs
        return node._mirror._blobs.get(digest)

    return entries, find


def proof_of(federation: RestartableFederation, member: str, study: Study) -> bytes:
    """The proof that a member has stored."""
    node = federation.participants[MemberId(member)]
    name = node._mirror._store.get(DISPUTE_KEY + study.identity)
    assert name is not None
    return node._mirror._blobs.get(Digest(name.decode()))


def test_an_audited_study_has_the_model_of_an_unaudited_one(tmp_path: Path) -> None:
    """One call an epoch; what it costs is a few statements and no exchange in between."""
    federation = opened(tmp_path / "audited")
    study = whole_study(federation, audited_plan(federation, slots=4))
    assert study.audited == len(study.rounds) == 6 and not study.unaudited
    said = kinds(federation)
    assert said.count("AuditCalled") == 2
    assert 4 <= said.count("SumsAudited") <= 8
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    (line,) = [one for one in verdict.record.guarantees if one.name == "audits"]
    assert line.status is Status.PROVED and line.statement.startswith("6 of 6")
    attested = verify_bundle(federation.bundle("attested"), federation.anchor)
    (line,) = [one for one in attested.record.guarantees if one.name == "audits"]
    assert line.status is Status.ATTESTED
    assert_said_once(federation)
    assert_no_fork(federation)
    plain = opened(tmp_path / "plain")
    other = whole_study(plain, small_plan(plain))
    assert other.final_model == study.final_model is not None
    assert "audits" not in [
        one.name for one in verify_bundle(plain.bundle(), plain.anchor).record.guarantees
    ]


def test_a_false_sum_is_proved_and_an_outsider_checks_it(tmp_path: Path, liar: list[int]) -> None:
    """The coordinator logs the proof against itself; the study halts; nothing is released."""
    liar.append(2)
    federation = opened(tmp_path)
    study = federation.run_study(audited_plan(federation), contract())
    assert study.phase is Phase.HALTED and study.halt_code is HaltCode.SUM_FALSE
    federation.settle()
    # Everybody has checked the proof: each mirror has the halt.
    for node in federation.participants.values():
        assert node.size == federation.coordinator.size
        assert node.state.studies[study.identity].halt_code is HaltCode.SUM_FALSE
    disputing = [name for name in SITES if federation.journal_of(name).count("sum-disputed")]
    assert disputing
    entries, find = outsider(federation, disputing[0])
    proof = proof_of(federation, disputing[0], study)
    fraud = verify_fraud(entries, federation.anchor, find, proof)  # type: ignore[arg-type]  # a function
    assert fraud.author == COORDINATOR and fraud.chunk == 0
    results = [one for one in entries if isinstance(peek(one)[1], RoundResult)]
    assert fraud.result == sha256(results[2])
    with pytest.raises(VerificationError):
        verify_fraud(entries[: fraud.entry], federation.anchor, find, proof)  # type: ignore[arg-type]  # a function


def test_a_coordinator_that_hides_the_proof_gets_nothing_more(
    tmp_path: Path, liar: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members that proved it send nothing more; no epoch, no end of the study; nobody hangs."""
    liar.append(1)
    kept = tuple(kind for kind in MEMBER_STATEMENTS if kind is not SumDisputed)
    monkeypatch.setattr(coordinator_node, "MEMBER_STATEMENTS", kept)
    federation = opened(tmp_path)
    study = federation.run_study(audited_plan(federation, slots=3), contract())
    assert study.phase is Phase.HALTED and study.halt_code is HaltCode.TOO_FEW_MEMBERS
    assert study.final_model is None and len(study.rounds) == 3
    assert "SumDisputed" not in kinds(federation)
    disputing = [name for name in SITES if federation.journal_of(name).count("sum-disputed")]
    assert len(disputing) > study.group.max_colluders
    for name in disputing:
        entries, find = outsider(federation, name)
        proof = proof_of(federation, name, study)
        assert verify_fraud(entries, federation.anchor, find, proof).author == COORDINATOR  # type: ignore[arg-type]  # a function
        assert not [one for one in federation.said() if one[:2] == (name, "SumsAudited")]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the coordinator call for an audit after two sums, and go on without waiting for it."""
    due = AuditDriver.next

    def next_step(self: AuditDriver, base: dict[str, str], study: Study, epoch: object) -> object:
        if study.audit is None and len(study.unaudited) == 2:
            self._held = True
            return due(self, base, study, None)
        return None

    monkeypatch.setattr(AuditDriver, "next", next_step)


def test_a_proof_that_comes_in_the_middle_of_a_round_ends_round_and_study(
    tmp_path: Path, liar: list[int], hasty: None
) -> None:
    """The coordinator goes on with its service: another study can run."""
    liar.append(1)
    federation = opened(tmp_path)
    study = federation.run_study(audited_plan(federation), contract())
    assert study.halt_code is HaltCode.SUM_FALSE
    federation.run(lambda _: False)
    assert federation.coordinator.state.running is None
    other = federation.run_study(small_plan(federation, "another"), contract())
    assert other.final_model is not None


def test_who_has_proved_a_lie_takes_no_part_in_what_follows_from_it(
    tmp_path: Path, liar: list[int], hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the coordinator calls early, hides the proof, and goes on with the same members."""
    liar.append(1)
    kept = tuple(kind for kind in MEMBER_STATEMENTS if kind is not SumDisputed)
    monkeypatch.setattr(coordinator_node, "MEMBER_STATEMENTS", kept)
    federation = opened(tmp_path)
    study = federation.run_study(audited_plan(federation), contract())
    assert study.halt_code is HaltCode.TOO_FEW_MEMBERS and study.final_model is None
    disputing = {name for name in SITES if federation.journal_of(name).count("sum-disputed")}
    assert len(disputing) >= 2
    assert len([one for one in study.rounds if one.sum is not None]) == 2
    # Inputs of the round that was open when the audit was called had been sent; no answer follows.
    cut_off, *later = study.rounds[2:]
    assert not disputing & {*cut_off.confirmed, *cut_off.reveals}
    assert not any(disputing & set(record.inputs) for record in later)


def test_other_survivors_are_named_after_an_audit_only(tmp_path: Path) -> None:
    """A site is lost in the middle of an epoch, and comes back in it: two audits before its end."""
    federation = opened(tmp_path)
    story = Story(
        federation,
        (in_round(3), lambda: lose(D)(federation)),
        (in_round(4), lambda: heal(D)(federation)),
    )
    study = whole_study(federation, audited_plan(federation), story)
    assert story.told and study.final_model is not None
    assert study.audited == len([one for one in study.rounds if one.sum is not None])
    changes = [
        one.members_in != two.members_in
        for one, two in zip(study.rounds, study.rounds[1:], strict=False)
    ]
    assert any(changes)
    bodies = [peek(entry)[1] for entry in federation.coordinator._entries]
    sealed, last = [], None
    for body in bodies:
        if isinstance(body, SurvivorsSealed):
            names = tuple(one.member for one in body.survivors)
            if last is not None and names != last:
                assert sealed and sealed[-1] is SumsAudited
            last, sealed = names, []
        elif isinstance(body, AuditCalled | SumsAudited):
            sealed.append(type(body))
    verify_bundle(federation.bundle(), federation.anchor)
    assert_said_once(federation)


def test_an_audit_that_nobody_signs_halts_a_study_and_says_who_is_awaited(tmp_path: Path) -> None:
    """The others are lost while the call stands in the log."""
    federation = opened(tmp_path)
    seen: list[str] = []

    def act() -> None:
        lose(B, C, D)(federation)
        study = list(federation.coordinator.state.studies.values())[-1]
        found = awaited_in_study(study)
        if found is not None:
            seen.append(found.what)

    story = Story(federation, (lambda study: study.audit is not None, act))
    study = federation.run_study(audited_plan(federation, slots=3), contract(), story)
    assert story.told
    assert study.phase is Phase.HALTED and study.halt_code is HaltCode.TOO_FEW_MEMBERS
    assert seen == ["audits of published sums"]


def test_chunks_that_cannot_be_handed_out_are_noted_and_end_in_a_halt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine takes no object: the service goes on, the audit is waited for, then given up."""
    federation = opened(tmp_path)

    def full(digest: Digest, data: bytes) -> None:
        raise ResourceError("the object store is full")

    monkeypatch.setattr(federation.coordinator.engine, "offer", full, raising=False)
    study = federation.run_study(audited_plan(federation, slots=3), contract())
    assert study.halt_code is HaltCode.TOO_FEW_MEMBERS
    assert "chunks to audit: the object store is full" in federation.journal_of(COORDINATOR)
    assert any('"audit-waits"' in federation.journal_of(name) for name in SITES)


def test_a_coordinator_that_restarts_hands_the_chunks_out_again(tmp_path: Path) -> None:
    federation = opened(tmp_path)
    story = Story(federation, (lambda study: study.audit is not None, federation_ends(federation)))
    study = whole_study(federation, audited_plan(federation, slots=3), story)
    assert story.told and federation.ended == [COORDINATOR]
    assert study.final_model is not None and study.audited == len(study.rounds)
    assert_no_fork(federation)


def federation_ends(federation: RestartableFederation) -> Callable[[], object]:
    """Lose what the engine holds, and end the coordinator's process."""

    def act() -> object:
        federation.network.restart(COORDINATOR)
        return federation.end(COORDINATOR)

    return act
