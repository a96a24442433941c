"""N-1, experimental: a contribution longer than its plan allows ends a sketched round, by name.

Four sites train a perceptron whose plan says `sketched`. A site whose trainer returns an update
far beyond the clip, in every word within its bound, is found by its own claim; one that lies about
it by what the claims leave unexplained. The round is abandoned for that reason, no sum of it is
published, and whoever folds the log refuses a result that says otherwise.

Planted faults, each seen to fail here: a claim of any length accepted; the published sum not
compared with the claims, by the coordinator or by the fold; what silent members leave not held
against a bound; an answer without its claim, or with one of another size, accepted; a coordinator
that opens with fewer claims than come; a bound without the clip; claims that leave whatever the
charter says.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.adversarial.test_bad_input_at_nodes import Altering, reframed
from tests.small_federation import SITES, contract, site_files, small_plan
from treaty.aggregation import sketch
from treaty.aggregation.tensors import NamedTensors
from treaty.crypto.canonical import sha256
from treaty.errors import PolicyError, VerificationError
from treaty.governance.exposure import Artefact
from treaty.ids import MemberId
from treaty.models.specification import WEIGHT, LogisticRegression, MultilayerPerceptron
from treaty.models.task import TrainingTask
from treaty.node.participant import Participant
from treaty.ports import Engine
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Post
from treaty.protocol.secagg_audit import check_claims
from treaty.protocol.secagg_messages import Reveal, RoundAbandoned, RoundCode, RoundResult
from treaty.protocol.statements import peek, seal_statement
from treaty.protocol.study import Phase, Study
from treaty.protocol.waiting import Awaited, awaited_in_study
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.studies.lint import lint_plan
from treaty.studies.plan import AggregationSettings, EvaluationSettings, Plan
from treaty.studies.sketches import sketch_finding
from treaty.wiring import LocalTrainer, load_key

MEMBER = SITES[1]
MODEL = MultilayerPerceptron(hidden=(4,), rounds=2)


class Boosting(LocalTrainer):
    """Returns updates each of whose words is at the bound: longer than the clip, never over it."""

    def compute(self, task: TrainingTask) -> NamedTensors:
        """Return the honest tensors with the update's words at their largest."""
        honest = super().compute(task)
        return NamedTensors.from_arrays(
            {
                one.name: honest[one.name] if one.name == WEIGHT else np.ones(one.shape)
                for one in honest.manifest
            }
        )


class Sketched(Federation):
    """A federation of which one member has another trainer, or alters its answers."""

    def __init__(
        self,
        directory: Path,
        *,
        boosts: bool = False,
        alter: Callable[[Post, bytes], Sequence[bytes]] | None = None,
    ) -> None:
        self.boosts, self.alter = boosts, alter
        super().__init__(directory, in_memory=True)

    def _endpoint(self, name: MemberId) -> Engine:
        engine = super()._endpoint(name)
        if name != MEMBER or self.alter is None:
            return engine
        return Altering(engine, Reveal, self.alter)

    def _open_participant(self, name: MemberId) -> Participant:
        node = super()._open_participant(name)
        if name == MEMBER and self.boosts:
            node._admission._trainer = Boosting()
        return node

    def bodies(self, kind: type) -> list[object]:
        """Return what the log holds of a kind."""
        found = (peek(entry)[1] for entry in self.coordinator.entries)
        return [body for body in found if isinstance(body, kind)]

    def codes(self) -> list[str]:
        """Return what the coordinator noted."""
        path = self.directory / "parties" / COORDINATOR / "journal.jsonl"
        return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def founded(directory: Path, **options: object) -> Sketched:
    Federation.found(
        directory,
        {name: site_files(name) for name in SITES},
        consortium="rivers.example",
        post_quantum=False,
        sketch_claims=True,
    )
    federation = Sketched(directory, **options)  # type: ignore[arg-type]  # passed through
    federation.establish()
    return federation


def sketched(federation: Federation, **changes: object) -> Plan:
    settings = AggregationSettings(
        max_persons_per_site=256, slots_per_epoch=16, support_rows=1, sketched=True
    )
    fields = {
        "model": MODEL,
        "aggregation": settings,
        "evaluation": EvaluationSettings(bins=8),
    } | changes
    return small_plan(federation, **fields)


def ran(federation: Sketched, **changes: object) -> Study:
    return federation.run_study(sketched(federation, **changes), contract())


def abandoned(federation: Sketched) -> set[RoundCode]:
    return {body.code for body in federation.bodies(RoundAbandoned)}  # type: ignore[attr-defined]


def test_an_honest_study_publishes_sums_that_its_claims_bound(tmp_path: Path) -> None:
    """Claims stand in the answers of training rounds alone, and the model is the one without."""
    federation = founded(tmp_path / "with")
    study = ran(federation)
    assert study.phase is Phase.COMPLETED and not abandoned(federation)
    answers = federation.bodies(Reveal)
    claimed = [one for one in answers if one.claim is not None]  # type: ignore[attr-defined]
    assert len(claimed) == MODEL.rounds * len(SITES)
    rounds = {one.context for one in claimed}  # type: ignore[attr-defined]
    assert len(rounds) == MODEL.rounds < len(study.rounds)
    federation.settle()
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    assert verdict.record.model == study.final_model
    lines = {one.name: one.statement for one in verdict.record.guarantees}
    assert "EXPERIMENTAL" in lines["norm-check"]
    plain = founded(tmp_path / "without")
    settings = AggregationSettings(max_persons_per_site=256, slots_per_epoch=16, support_rows=1)
    other = ran(plain, aggregation=settings)
    assert other.final_model is not None and not any(
        one.claim  # type: ignore[attr-defined]
        for one in plain.bodies(Reveal)
    )
    plain.settle()
    record = verify_bundle(plain.bundle(), plain.anchor).record
    assert "norm-check" not in {one.name for one in record.guarantees}


def test_an_update_beyond_the_clip_ends_the_round_by_its_own_claim(tmp_path: Path) -> None:
    federation = founded(tmp_path, boosts=True)
    study = ran(federation)
    assert study.phase is Phase.HALTED and study.final_model is None
    assert abandoned(federation) == {RoundCode.CLAIMS_REFUSED}
    assert "claims-refused.claim-too-long" in federation.codes()
    # What came before the training rounds was published, nothing of them was.
    assert study.progress.index == 2
    federation.settle()
    assert verify_bundle(federation.bundle(), federation.anchor).record.model is None


def lied(tmp_path: Path, claim: Callable[[str], str | None]) -> Callable[..., Sequence[bytes]]:
    def alter(post: Post, frame: bytes) -> Sequence[bytes]:
        (body,) = [peek(one)[1] for one in post.statements]
        assert isinstance(body, Reveal)
        if body.claim is None:
            return [frame]
        key = load_key(tmp_path / "parties" / MEMBER, "runner")
        changed = msgspec.structs.replace(body, claim=claim(body.claim))
        return [reframed(post, statements=(seal_statement(changed, key),))]

    return alter


@pytest.mark.parametrize("boosts", [False, True])
def test_a_false_claim_leaves_something_unexplained(tmp_path: Path, boosts: bool) -> None:
    """A claim of nothing: short enough, and not that of the input; nobody is named."""
    federation = founded(
        tmp_path, boosts=boosts, alter=lied(tmp_path, lambda claim: "0" * len(claim))
    )
    study = ran(federation)
    assert study.phase is Phase.HALTED and abandoned(federation) == {RoundCode.CLAIMS_REFUSED}
    assert "claims-refused.claims-differ" in federation.codes()


@pytest.mark.parametrize("boosts", [False, True])
def test_who_makes_no_claim_is_held_against_what_the_others_leave(
    tmp_path: Path, boosts: bool
) -> None:
    """An honest member that falls silent harms nothing; a long vector shows all the same."""
    federation = founded(tmp_path, boosts=boosts, alter=lambda post, frame: kept(post, frame))
    study = ran(federation)
    if boosts:
        assert abandoned(federation) >= {RoundCode.CLAIMS_REFUSED}
        assert study.progress.index == 2
    else:
        assert study.phase is Phase.COMPLETED and not abandoned(federation)


def test_the_log_says_whose_claim_is_awaited(tmp_path: Path) -> None:
    """Three answers open a sum over four; of one without claims the fourth is not waited for."""
    federation = founded(tmp_path, alter=lambda post, frame: kept(post, frame))
    seen: list[tuple[int, Awaited]] = []

    def look() -> None:
        study = federation.coordinator.state.running
        found = None if study is None else awaited_in_study(study)
        if study is not None and found is not None and found.what.startswith("answers"):
            seen.append((study.progress.index, found))

    federation.run_study(sketched(federation), contract(), look)
    lone = {index for index, found in seen if found.parties == (MEMBER,)}
    assert lone == {2, 3}


def kept(post: Post, frame: bytes) -> Sequence[bytes]:
    (body,) = [peek(one)[1] for one in post.statements]
    return [] if isinstance(body, Reveal) and body.claim is not None else [frame]


@pytest.mark.parametrize("claim", [lambda c: None, lambda c: c + c], ids=["none", "wider ring"])
def test_an_answer_without_the_claim_that_is_asked_is_not_logged(
    tmp_path: Path, claim: Callable[[str], str | None]
) -> None:
    federation = founded(tmp_path, alter=lied(tmp_path, claim))
    study = ran(federation)
    assert study.phase is Phase.COMPLETED
    assert "statement-refused.claim-malformed" in federation.codes()
    authors = {
        one.author  # type: ignore[attr-defined]
        for one in federation.bodies(Reveal)
        if one.claim is not None  # type: ignore[attr-defined]
    }
    assert authors == set(SITES) - {MEMBER}


def test_a_result_that_the_claims_do_not_bound_is_refused_by_everybody(tmp_path: Path) -> None:
    """A coordinator that publishes it all the same: the fold says what the claims say."""
    federation = founded(tmp_path)
    ran(federation)
    entries = federation.coordinator.entries
    bodies = [peek(entry)[1] for entry in entries]
    place = next(
        at
        for at, body in enumerate(bodies)
        if isinstance(body, RoundResult)
        and any(isinstance(one, Reveal) and one.claim for one in bodies[:at])
    )
    state = Consortium(federation.anchor)
    find = federation._storages[0].blobs.get
    for entry in entries[:place]:
        state, _ = state.apply(entry, find)
    assert state.running is not None and state.running.round is not None
    record, body = state.running.round, bodies[place]
    assert isinstance(body, RoundResult) and record.claim_bound is not None
    state.apply(entries[place], find)
    key = load_key(tmp_path / "parties" / COORDINATOR, "coordinator")
    width = record.opened.predicate.ring_bits // 8
    total = bytearray(find(body.sum))  # type: ignore[arg-type]  # a digest
    total[: 2 * width] = bytes(2 * width)
    false = msgspec.structs.replace(body, sum=sha256(total))
    with pytest.raises(VerificationError) as refusal:
        state.apply(seal_statement(false, key), lambda _: bytes(total))
    assert refusal.value.code == "claims-differ"
    # The same log, of a plan that bounds less: the claims are too long.
    tight = msgspec.structs.replace(record, claim_bound=1)
    with pytest.raises(VerificationError) as refusal:
        check_claims(tight, np.frombuffer(find(body.sum), f"<u{width}"))  # type: ignore[arg-type]  # a digest
    assert refusal.value.code == "claim-too-long"


def test_a_round_without_claims_is_not_abandoned_for_them(tmp_path: Path) -> None:
    federation = founded(tmp_path)
    ran(federation)
    entries = federation.coordinator.entries
    bodies = [peek(entry)[1] for entry in entries]
    place = next(at for at, body in enumerate(bodies) if isinstance(body, RoundResult))
    state = Consortium(federation.anchor)
    for entry in entries[:place]:
        state, _ = state.apply(entry, federation._storages[0].blobs.get)
    assert state.running is not None and state.running.round is not None
    result = bodies[place]
    assert isinstance(result, RoundResult)
    ended = RoundAbandoned(
        charter=result.charter,
        author=result.author,
        context=result.context,
        code=RoundCode.CLAIMS_REFUSED,
    )
    key = load_key(tmp_path / "parties" / COORDINATOR, "coordinator")
    with pytest.raises(VerificationError) as refusal:
        state.apply(seal_statement(ended, key), federation._storages[0].blobs.get)
    assert refusal.value.code == "out-of-order"


def test_plans_that_cannot_be_sketched_do_not_pass(tmp_path: Path) -> None:
    federation = founded(tmp_path / "row")
    good = sketched(federation)
    assert lint_plan(good, contract(), federation.charter) == ()
    newton = msgspec.structs.replace(good, model=LogisticRegression(max_rounds=2))
    (finding,) = lint_plan(newton, contract(), federation.charter)
    assert finding.code == "sketched" and "clipped updates" in finding.message
    fine = msgspec.structs.replace(good.aggregation, update_scale_bits=28)
    (finding,) = lint_plan(
        msgspec.structs.replace(good, aggregation=fine), contract(), federation.charter
    )
    assert finding.code == "sketched" and "wrap" in finding.message
    noised = msgspec.structs.replace(good, privacy=object())
    assert "under noise" in (sketch_finding(noised, None) or "")
    kept_out = msgspec.structs.replace(
        federation.charter,
        exposure=tuple(
            row for row in federation.charter.exposure if row.artefact is not Artefact.SKETCH_CLAIM
        ),
    )
    found = lint_plan(good, contract(), kept_out)
    assert [one.code for one in found] == ["wrong-charter", "exposure", "exposure"]
    assert all("claims may not be shown" in one.message for one in found[1:])


def test_a_site_whose_charter_forbids_claims_lets_none_leave(tmp_path: Path) -> None:
    """The gate asks for every field: the answer stays at home with its claim."""
    federation = founded(tmp_path)
    from treaty.protocol.gate import check_statement

    body = Reveal(
        charter="0" * 64,
        author=MEMBER,
        context="0" * 64,
        survivors="0" * 64,
        self_shares={},
        round_shares={},
        claim="0" * (4 * sketch.ROWS),
    )
    check_statement(federation.charter.exposure_matrix(), body, members=4)
    without = msgspec.structs.replace(
        federation.charter,
        exposure=tuple(
            row for row in federation.charter.exposure if row.artefact is not Artefact.SKETCH_CLAIM
        ),
    )
    with pytest.raises(PolicyError) as refusal:
        check_statement(without.exposure_matrix(), body, members=4)
    assert refusal.value.code == "exposure" and "claim" in str(refusal.value)
