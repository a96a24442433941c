"""T-48: noise that a sum does not need comes off, and never more than that.

Real nodes over the real protocol: a study with a member lost, one that falls silent before it
answers, a round that is asked again, a site whose policy keeps its keys, and the log of such a
study altered by whoever holds it.

Planted and caught: a member that does not take noise off the sum, or takes some off the words that
carry none; keys opened where one is lost, or from one survivor less on; a charter without a row
read as one that allows it; a site's own policy not asked, before the input or after it, or the file
kept where it forbids; keys that pass its gate as commitments; the base key written; keys left on
the disk after the sum, or erased by a round that is asked again; parts left out of the header when
a vector is sent again, another vector drawn for it; a log in which a key is altered or added that
still folds; a coordinator that is not told that answers may take noise off; an answer that is not
waited for; the tiers of the gradient for the count.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.adversarial.test_private_studies import _clipped
from tests.chance import assert_within
from tests.forgery import Forge, Genuine, genuine_of
from tests.private_federation import ROUNDS, found_private, private_contract, private_plan
from tests.small_federation import SITES, SmallFederation
from treaty.aggregation.quantization import decode_sum, ring_vector
from treaty.crypto import canonical
from treaty.errors import FormatError, PolicyError, VerificationError
from treaty.governance.exposure import Artefact, Form, Narrowing
from treaty.governance.site_policy import SitePolicy
from treaty.ids import Digest, MemberId
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import noise_commitment
from treaty.privacy.terms import noise_tiers, sum_variance
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.gate import check_statement
from treaty.protocol.secagg_lifecycle import SlotPhase
from treaty.protocol.secagg_messages import MaskedInput, Reveal, RoundResult
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.protocol.surplus import SurplusSecrets, opened_sum
from treaty.protocol.waiting import Awaited, awaited
from treaty.provenance.bundle import Edition
from treaty.provenance.privacy import study_privacy
from treaty.provenance.verify import verify_bundle
from treaty.studies.calibrating import Privacy
from treaty.studies.lint import lint_plan
from treaty.studies.noise import noise_terms
from treaty.studies.progress import begin
from treaty.studies.queries import NOISED, PERSONS, QueryKind
from treaty.wiring import read_policy

COHORT = Cohort(4, 3, 1)


def severing(at: int, *, after_input: bool) -> Callable[[SmallFederation], Callable[[], None]]:
    """Return a hook: the last member is lost at query `at`, before its input or after it."""

    def make(federation: SmallFederation) -> Callable[[], None]:
        severed: list[str] = []

        def hook() -> None:
            study = federation.coordinator.state.running
            if study is None:
                return
            index = study.progress.index
            inputs = 0 if study.round is None else len(study.round.inputs)
            if index == at and not severed and (inputs == 4 or not after_input):
                severed.append(SITES[-1])
                federation.network.sever(SITES[-1])
            elif severed and index > at:
                federation.network.heal(SITES[-1])

        return hook

    return make


Files = set[tuple[str, int, bytes]]
"""What was seen of files of noise keys: whose, at which query, what was in it."""

SEEN: Files = set()


def looking(federation: SmallFederation, seen: Files) -> Callable[[], None]:
    """Return a hook that looks into all members' files of noise keys while inputs are in."""

    def hook() -> None:
        study = federation.coordinator.state.running
        if study is None or study.round is None or len(study.round.inputs) < 3:
            return
        for name, participant in federation.participants.items():
            secrets = participant._performer._secrets
            seen.update(
                (name, study.round.opened.predicate.round, secrets.read(one))
                for one in secrets.names()
                if "noise" in one
            )

    return hook


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallFederation, Study, Genuine]:
    """One study, a member lost before its input to the second gradient sum."""
    return made(tmp_path_factory.mktemp("surplus"), SEEN)


def made(place: Path, seen: Files) -> tuple[SmallFederation, Study, Genuine]:
    federation = found_private(place, in_memory=True, capture=False)
    sever, look = severing(2, after_input=False)(federation), looking(federation, seen)

    def hook() -> None:
        sever()
        look()

    study = federation.run_study(private_plan(federation, surplus=True), private_contract(), hook)
    assert study.phase is Phase.COMPLETED
    assert [len(one.members_in) for one in study.rounds] == [4, 4, 3, 4, 4]
    federation.release(study)
    return federation, federation.coordinator.state.studies[study.identity], genuine_of(federation)


def said(entries: list[bytes], kind: type, record: ClosedRound) -> dict[str, object]:
    bodies = (peek(entry)[1] for entry in entries)
    return {
        body.author: body
        for body in bodies
        if isinstance(body, kind) and getattr(body, "context", "") == record.context
    }


def test_everybody_there_opens_and_with_a_member_less_nobody_does(
    run: tuple[SmallFederation, Study, Genuine],
) -> None:
    """Each key is the one committed to; an exact sum has neither."""
    _, study, genuine = run
    for record in study.rounds:
        headers = said(genuine.forge.entries, MaskedInput, record)
        answers = said(genuine.forge.entries, Reveal, record)
        noised = record.round <= ROUNDS
        for name, header in headers.items():
            assert isinstance(header, MaskedInput)
            assert len(header.surplus or ()) == (1 if noised else 0)
            if name in answers:
                answer = answers[name]
                assert isinstance(answer, Reveal)
                opened = answer.surplus or ()
                assert len(opened) == (1 if noised and len(record.members_in) == 4 else 0)
                for key, committed in zip(opened, header.surplus or (), strict=False):
                    assert noise_commitment(bytes.fromhex(key), record.query) == committed
        if noised:
            assert set(answers) == set(record.members_in)


def test_what_is_left_is_the_noise_of_the_tier(
    run: tuple[SmallFederation, Study, Genuine], tmp_path: Path
) -> None:
    """Sixteen words about the exact sum, by the variance that the plan leaves: chi-squared.

    Outside 3 .. 45 with a probability of 3e-4, twice with 1e-7; the same words before anything
    came off are half as far again from it in variance, which the second count shows.
    """
    left, whole = squares_of(run)
    again = functools.cache(lambda: squares_of(made(tmp_path, set())))
    assert_within(3.0, 45.0, left, lambda: again()[0])
    assert_within(3.0, 45.0, whole, lambda: again()[1])


def squares_of(run: tuple[SmallFederation, Study, Genuine]) -> tuple[float, float]:
    """Return the sums of squares, over the variance, of what is left and of what was there."""
    federation, study, genuine = run
    terms = noise_terms(study.plan)
    progress = begin(study.plan, study.contract, members=4, least_support=3)
    left, whole, words = 0.0, 0.0, 0
    for record in study.rounds[:-1]:
        query = progress.expected_query()
        assert record.sum is not None and query.kind in NOISED
        data = genuine.forge.find(record.sum)
        raw = ring_vector(data, query.layout.ring_bits, query.layout.length)
        folded = _folded(genuine, record)
        total = opened_sum(study.plan, query, folded, data)
        inside = record.members_in
        sites = {name: federation.participants[name].local_study(study) for name in inside}
        if query.kind is QueryKind.COUNT:
            variance = terms.count_variance  # type: ignore[attr-defined]  # gradient descent
            exact = sum(one.data.training.rows for one in sites.values()) * terms.clip.units
        else:
            variance = terms.variance
            exact = sum(_clipped(study.plan, one, progress) for one in sites.values())
        share = noise_tiers(terms, variance, COHORT).retained[0]
        for vector, needed in ((total, True), (raw, False)):
            sums = decode_sum(vector, query.layout)
            names = (
                [PERSONS]
                if query.kind is QueryKind.COUNT
                else [part.name for part in query.layout.segments[:-2]]
            )
            gap = np.concatenate([sums[name] for name in names]).astype(float) - exact
            assert (gap != 0).all()
            if needed:
                left += float((gap**2).sum()) / sum_variance(terms, variance, COHORT, len(inside))
                words += len(gap)
            else:
                whole += float((gap**2).sum()) / (share * len(inside))
        assert ((total == raw).all()) == (len(inside) == 3)
        progress = progress.absorb(query, total, len(inside))
    assert words == 16
    assert progress.model.digest() == study.final_model
    return left, whole


def _folded(genuine: Genuine, record: ClosedRound) -> object:
    """What the log shows of a round that is over: the record before its result."""
    forge = genuine.forge
    at = next(
        place
        for place in forge.places(RoundResult)
        if forge.said(place, RoundResult).context == record.context
    )
    running = forge.state(at).running
    assert running is not None and running.round is not None
    return running.round


@pytest.mark.parametrize("edition", ["full", "attested"])
def test_the_bundle_verifies_and_the_verifier_takes_the_same_noise_off(
    run: tuple[SmallFederation, Study, Genuine], edition: Edition
) -> None:
    """The model follows from sums and keys in the log: in both editions."""
    federation, _, genuine = run
    verdict = verify_bundle(genuine.forge.exported(edition), Digest(federation.anchor))
    assert verdict.record.guarantees


def answers(genuine: Genuine, study: Study, number: int) -> list[int]:
    """Return where the answers of the published round of a query stand in the log."""
    [context] = [one.context for one in study.rounds if one.round == number]
    forge = genuine.forge
    return [at for at in forge.places(Reveal) if forge.said(at, Reveal).context == context]


def code_of(forge: Forge) -> str:
    with pytest.raises((VerificationError, FormatError)) as caught:
        verify_bundle(forge.bundle(), forge.anchor)
    return getattr(caught.value, "code", "format")


def test_a_log_whose_keys_are_altered_is_refused(
    run: tuple[SmallFederation, Study, Genuine],
) -> None:
    """By whoever signed them: another key, a key too many, and one that is left out.

    Left out it is no fault of the statement: noise stays in, and the model that follows is another
    than the next round was opened with.
    """
    _, study, genuine = run
    forge = genuine.forge
    at, *rest = answers(genuine, study, 1)
    assert len(rest) == 3
    key = (forge.said(at, Reveal).surplus or ("",))[0]
    other = key[:-1] + ("0" if key[-1] != "0" else "1")
    strange = forge.said(rest[0], Reveal).surplus
    assert code_of(forge.changed(at, surplus=(other,))) == "surplus-differs"
    assert code_of(forge.changed(at, surplus=strange)) == "surplus-differs"
    assert code_of(forge.changed(at, surplus=(key, other))) == "surplus-parts"
    assert code_of(forge.changed(at, surplus=msgspec.UNSET)) == "wrong-query"
    # With a member less nothing may come off.
    fewer, *_ = answers(genuine, study, 2)
    assert code_of(forge.changed(fewer, surplus=(key,))) == "surplus-parts"
    # Nor of an exact sum.
    exact, *_ = answers(genuine, study, ROUNDS + 1)
    assert code_of(forge.changed(exact, surplus=(key,))) == "surplus-parts"


def test_a_header_that_commits_otherwise_is_refused(
    run: tuple[SmallFederation, Study, Genuine],
) -> None:
    """Too many parts, the base key for a part, parts of an exact sum."""
    _, study, genuine = run
    forge = genuine.forge
    inputs = {
        number: next(
            at for at in forge.places(MaskedInput) if forge.said(at, MaskedInput).context == context
        )
        for number, context in ((one.round, one.context) for one in study.rounds)
    }
    at = inputs[1]
    header = forge.said(at, MaskedInput)
    assert header.surplus and header.noise
    cut = forge.until(at + 1)
    assert code_of(cut.changed(at, surplus=(*header.surplus, "1" * 64))) == "surplus-parts"
    assert code_of(cut.changed(at, surplus=(header.noise,))) == "surplus-repeat"
    at = inputs[ROUNDS + 1]
    cut = forge.until(at + 1)
    assert code_of(cut.changed(at, surplus=header.surplus)) == "surplus-parts"


def test_epsilon_is_that_of_a_plan_that_leaves_the_surplus_in(
    run: tuple[SmallFederation, Study, Genuine],
) -> None:
    """Promised and spent; what is said of collusion is of the fewest members in a sum."""
    _, study, _ = run
    statement = study_privacy(study)
    assert statement is not None
    training = statement.certificates[0]
    plain = msgspec.structs.replace(
        study,
        plan=msgspec.structs.replace(
            study.plan,
            privacy=msgspec.structs.replace(study.plan.privacy, surplus_tiers=msgspec.UNSET),
        ),
    )
    other = study_privacy(plain)
    assert other is not None
    assert training.lines == other.certificates[0].lines
    assert training.events == other.certificates[0].events
    assert [point.honest_shares for point in training.curve] == [2, 1]
    assert set(training.curve) < set(other.certificates[0].curve)
    assert training.surplus_removed is True
    assert other.certificates[0].surplus_removed is msgspec.UNSET
    # With everybody there nothing is left over: all four sums cost what was promised.
    assert statement.happened.epsilon_micro is not None
    assert other.happened.epsilon_micro is not None
    assert statement.happened.epsilon_micro > other.happened.epsilon_micro
    assert statement.happened.epsilon_micro <= training.lines[0].add_remove_micro  # type: ignore[operator]  # finite


def test_no_keys_are_left_when_the_study_is_over(
    run: tuple[SmallFederation, Study, Genuine],
) -> None:
    federation, _, _ = run
    for participant in federation.participants.values():
        assert not [n for n in participant._performer._secrets.names() if "noise" in n]


def test_a_file_holds_keys_of_parts_alone_and_only_while_its_sum_is_open(
    run: tuple[SmallFederation, Study, Genuine],
) -> None:
    """Never the key of the base; and when the exact sum is asked, in the same epoch, nothing."""
    _, study, genuine = run
    assert len({record.epoch_hash for record in study.rounds}) == 1
    found = set()
    for record in study.rounds:
        for name, header in said(genuine.forge.entries, MaskedInput, record).items():
            assert isinstance(header, MaskedInput)
            contents = {
                data for owner, query, data in SEEN if (owner, query) == (name, record.round)
            }
            for data in contents:
                kept = canonical.decode(data, SurplusSecrets)
                made = tuple(
                    noise_commitment(bytes.fromhex(key), record.query) for key in kept.keys
                )
                assert made in ((), header.surplus) and header.noise not in made
                found.add((record.round, len(made)))
    noised = set(range(ROUNDS + 1))
    # With a member less the file is emptied, and stays so.
    assert {query for query, count in found if count} == noised
    assert {query for query, count in found if not count} == {2}


def test_the_log_says_that_an_answer_is_awaited_which_may_take_noise_off(
    run: tuple[SmallFederation, Study, Genuine],
) -> None:
    """Three answers open a sum over four; of an exact one the fourth is not waited for."""
    _, study, genuine = run
    forge = genuine.forge
    places = answers(genuine, study, 1)
    assert len(places) == 4
    silent = forge.said(places[3], Reveal).author
    waited = awaited(forge.state(places[3]))
    assert waited == Awaited("answers that open the sum", (MemberId(silent),))
    exact = answers(genuine, study, ROUNDS + 1)[2]
    waited = awaited(forge.state(exact + 1))
    assert waited is not None and waited.what == "the opened sum"


def test_a_member_that_falls_silent_leaves_its_surplus_in(tmp_path: Path) -> None:
    """Lost after its input: four inputs, three answers, and the fourth's noise stays."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    hook = severing(1, after_input=True)(federation)
    study = federation.run_study(private_plan(federation, surplus=True), private_contract(), hook)
    assert study.phase is Phase.COMPLETED
    record = study.rounds[1]
    assert len(record.members_in) == 4 and len(record.reveals) == 3
    assert SITES[-1] not in record.reveals
    statement = study_privacy(study)
    assert statement is not None and statement.happened.epsilon_micro is not None
    federation.close()


def test_another_attempt_opens_the_same_keys_for_the_same_set(tmp_path: Path) -> None:
    """A round that was cut off between inputs and answers is asked again, and so answered."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    severed: list[MemberId] = []

    def cut_off() -> None:
        study = federation.coordinator.state.running
        if study is None or study.progress.index != 1:
            return
        if study.round is not None and len(study.round.inputs) == 4 and not severed:
            severed.extend(map(MemberId, SITES[:2]))
            for name in severed:
                federation.network.sever(name)
        elif severed and any(one.phase is RoundPhase.ABANDONED for one in study.rounds):
            for name in severed:
                federation.network.heal(name)

    plan = private_plan(federation, Privacy(rounds=1), surplus=True)
    study = federation.run_study(plan, private_contract(), cut_off)
    assert study.phase is Phase.COMPLETED
    first, second = (one for one in study.rounds if one.round == 1)
    entries = list(federation.coordinator.entries)
    headers = [said(entries, MaskedInput, one) for one in (first, second)]
    assert set(headers[0]) == set(headers[1]) == set(SITES)
    for name in SITES:
        before, after = (one[name] for one in headers)
        assert isinstance(before, MaskedInput) and isinstance(after, MaskedInput)
        assert before.surplus and before.surplus == after.surplus
    opened: dict[str, object] = {}
    for record in (first, second):
        for author, answer in said(entries, Reveal, record).items():
            assert isinstance(answer, Reveal) and answer.surplus
            assert opened.setdefault(author, answer.surplus) == answer.surplus
    # Two had answered for all four when the others were cut off.
    assert len(first.reveals) == 2 and len(second.reveals) == 4 and set(opened) == set(SITES)
    federation.close()


# --- deny by default ----------------------------------------------------------------------------


def test_without_a_row_of_the_charter_no_plan_takes_noise_off(tmp_path: Path) -> None:
    """An older charter stays what it was: the lint refuses the plan, and no other opens a key."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    plan = private_plan(federation, surplus=True)
    assert not lint_plan(plan, private_contract(), federation.charter)
    rows = tuple(
        one for one in federation.charter.exposure if one.artefact is not Artefact.SURPLUS_NOISE_KEY
    )
    older = msgspec.structs.replace(federation.charter, exposure=rows)
    assert len(rows) == len(federation.charter.exposure) - 1
    found = [one for one in lint_plan(plan, private_contract(), older) if one.code == "exposure"]
    assert len(found) == 1 and "surplus-noise-key" in found[0].message
    assert not [
        one
        for one in lint_plan(private_plan(federation), private_contract(), older)
        if one.code == "exposure"
    ]
    local = private_plan(federation, Privacy(rounds=ROUNDS, local=True))
    both = msgspec.structs.replace(
        local, privacy=msgspec.structs.replace(local.privacy, surplus_tiers=1)
    )
    assert [one.code for one in lint_plan(both, private_contract(), federation.charter)] == [
        "surplus"
    ]
    federation.close()


def narrowed(policy: object) -> SitePolicy:
    """Return a site's policy without the row for keys of surplus noise."""
    assert isinstance(policy, SitePolicy)
    row = Narrowing(artefact=Artefact.SURPLUS_NOISE_KEY, form=Form.PLAIN)
    return msgspec.structs.replace(policy, exposure=(*policy.exposure, row))


def test_a_site_whose_policy_loses_the_row_after_its_input_answers_without_keys(
    tmp_path: Path,
) -> None:
    """It committed to a part, and keeps its noise in, for any set; its answer counts."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    narrow = MemberId(SITES[1])
    participant = federation.participants[narrow]
    changed: list[int] = []
    files: dict[SlotPhase, bool] = {}

    def hook() -> None:
        study, slot = federation.coordinator.state.running, participant._performer._slot
        if study is None or study.progress.index != 1 or study.round is None or slot is None:
            return
        if slot.context != study.round.context:
            return
        kept = participant._performer._secrets.names()
        files.setdefault(slot.phase, any("noise" in one for one in kept))
        if slot.phase is SlotPhase.INPUT_SENT and not changed:
            changed.append(slot.slot)
            participant._admission._policy = narrowed(participant._admission._policy)
            participant._admission._narrowed = None

    plan = private_plan(federation, Privacy(rounds=1), surplus=True)
    study = federation.run_study(plan, private_contract(), hook)
    assert changed and study.phase is Phase.COMPLETED
    # Not bound to a set, the file is erased before the answer: none can be opened for another.
    assert files == {SlotPhase.INPUT_SENT: True, SlotPhase.ANSWERED: False}
    [record] = [one for one in study.rounds if one.round == 1]
    entries = list(federation.coordinator.entries)
    header = said(entries, MaskedInput, record)[narrow]
    assert isinstance(header, MaskedInput) and header.surplus
    answers = said(entries, Reveal, record)
    assert set(answers) == set(SITES)
    matrix = participant._admission.matrix(federation.coordinator.state)
    for name, answer in answers.items():
        assert isinstance(answer, Reveal)
        assert bool(answer.surplus) is (name != narrow)
        # Nor would its gate let one with keys out.
        if name == narrow:
            check_statement(matrix, answer, members=len(SITES))
        else:
            with pytest.raises(PolicyError, match="field surplus") as refusal:
                check_statement(matrix, answer, members=len(SITES))
            assert refusal.value.code == "exposure"
    federation.close()


def test_a_site_whose_policy_has_no_row_keeps_its_noise_in(tmp_path: Path) -> None:
    """The others open theirs; it commits to nothing, opens nothing, and takes part."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    federation.close()
    narrow = MemberId(SITES[1])
    own = narrowed(read_policy(tmp_path / "parties" / narrow))
    federation = SmallFederation(tmp_path, policies={narrow: own}, in_memory=True, capture=False)
    federation.establish()
    study = federation.run_study(
        private_plan(federation, Privacy(rounds=1), surplus=True), private_contract()
    )
    assert study.phase is Phase.COMPLETED
    record = study.rounds[1]
    entries = list(federation.coordinator.entries)
    for name, answer in said(entries, Reveal, record).items():
        assert isinstance(answer, Reveal)
        assert bool(answer.surplus) is (name != narrow)
    header = said(entries, MaskedInput, record)[narrow]
    assert isinstance(header, MaskedInput) and header.surplus is msgspec.UNSET
    federation.close()
