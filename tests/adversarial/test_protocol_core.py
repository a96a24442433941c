"""Threats that the statements, the fold over the log and the plan's lint answer, each played once.

Each test is named by the id of docs/threat-model.md. Here everybody's keys are at hand: the
attacker signs whatever it can, and the fold that all parties run refuses it with a stable code.

The faults that were planted are listed in the modules of tests/unit/protocol and
tests/unit/studies.
"""

import msgspec
import pytest

from tests.worlds import (
    CONTRACT,
    COORDINATOR,
    HUB,
    NAMES,
    NOW,
    World,
    approval,
    digest,
    founders,
    key,
    refused,
    runner,
    small_charter,
    small_contract,
    small_plan,
)
from treaty.crypto import canonical, envelope
from treaty.errors import FormatError, PeerError, PolicyError, UsageError
from treaty.governance.charter import charter_digest
from treaty.governance.exposure import Artefact
from treaty.governance.roles import Action, KeyKind
from treaty.governance.template import CharterOptions
from treaty.ids import Digest
from treaty.protocol import messages, secagg_messages
from treaty.protocol.consortium import Consortium
from treaty.protocol.gate import check_statement
from treaty.protocol.messages import (
    BallotCast,
    ComparisonPublished,
    Figures,
    HaltCode,
    MemberSuspended,
    StudyHalted,
    StudyOpened,
    VotingClosed,
    release_provenance,
)
from treaty.protocol.secagg_messages import EpochKeys, InputDeclined, RoundAbandoned, RoundCode
from treaty.protocol.statements import (
    MAX_ENTRY_BYTES,
    PREDICATE_BASE,
    Predicate,
    open_statement,
    registered,
    seal_statement,
    statement,
    statement_payload,
)
from treaty.studies.lint import lint_plan
from treaty.studies.plan import AggregationSettings, plan_bytes, plan_digest, plan_from_toml

A, B, C, D = NAMES[:4]


def running() -> World:
    world = World()
    world.start()
    world.open_epoch()
    return world


def revealing() -> World:
    world = running()
    world.open_round()
    world.collect((A, B, C))
    return world


def test_t_01_invented_members_and_swapped_keys() -> None:
    """T-01: keys stand in the charter, and nobody else's count."""
    world = World()
    world.start()
    world.begin_epoch()
    stub = world.write(
        EpochKeys, A, epoch=1, opened=digest("o"), transport=digest("t"), kem=None,
        round_keys=(), commitments=(),
    )  # fmt: skip
    with world.refuses("unknown-key"):
        world.offer(seal_statement(stub, key("invented")))
    with world.refuses("wrong-author"):
        world.offer(seal_statement(stub, runner(B)))


def test_t_03_a_lowered_threshold_or_a_tiny_group() -> None:
    """T-03: thresholds are the charter's; fewer than the least number of survivors is refused."""
    world = World()
    world.start()
    for name, value in (("min_survivors", 2), ("max_colluders", 0)):
        with world.refuses("altered-parameters"):
            world.begin_epoch(**{name: value})
    world.open_epoch()
    for participants in ((A, B), (A, B, B), (A,)):
        with pytest.raises(PeerError):
            world.open_round(participants=participants)
    world.open_round()
    for name in (A, B):
        world.send_input(name)
    with world.refuses("too-few"):
        world.seal()


def test_t_04_another_model_or_question() -> None:
    """T-04: everyone derives the model and the query; a crafted one is refused."""
    world = running()
    for name in ("model", "query", "code", "previous"):
        with world.refuses(f"wrong-{name}"):
            world.open_round(**{name: digest("crafted")})


def test_t_05_a_slot_is_used_again() -> None:
    """T-05: one vector under one mask; a slot is spent when its round opens."""
    world = running()
    world.open_round(slot=2)
    world.send_input(A)
    with world.refuses("equivocation"):
        world.send_input(A, root=digest("other"), blob=digest("other"))
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_INPUTS)
    with world.refuses("slot-used"):
        world.open_round(slot=2)


def test_t_06_the_same_question_with_one_member_less() -> None:
    """T-06: after one answer the question keeps its survivors."""
    world = running()
    world.open_round()
    world.collect()
    world.reveal(B)
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_REVEALS)
    world.open_round()
    for name in (B, C, D):
        world.send_input(name)
    with world.refuses("locked-set"):
        world.seal()


def test_t_07_an_input_that_arrived_is_declared_lost() -> None:
    """T-07: the survivors are the logged inputs, and only survivors answer."""
    world = running()
    world.open_round()
    for name in world.names:
        world.send_input(name)
    with world.refuses("unlogged"):
        world.seal(world.survivors()[1:])
    late = revealing()
    with late.refuses("not-in-round"):
        late.reveal(D)


def test_t_02_both_kinds_of_share_of_one_member() -> None:
    """T-02: an answer holds one kind of share for each member."""
    world = revealing()
    with world.refuses("both-shares"):
        world.reveal(A, round_shares={A: digest("u"), D: digest("u")})
    with world.refuses("wrong-shares"):
        world.reveal(A, self_shares={D: digest("z")}, round_shares={})


def test_t_08_survivors_in_two_versions() -> None:
    """T-08: the survivors are one entry; answers about another set are refused."""
    world = revealing()
    with world.refuses("two-survivor-sets"):
        world.reveal(A, survivors=digest("another version"))
    with world.refuses("out-of-order"):
        world.seal()


def test_t_09_a_coordinate_of_one_site() -> None:
    """T-09: found by lint, refused by the fold, and halted by the support round."""
    charter = small_charter()
    alone = small_contract(CONTRACT.replace('code = "f",', f'code = "f", sites = ["{A}"],'))
    found = lint_plan(small_plan(charter, alone), alone, charter)
    assert [one.code for one in found] == ["least-support"]
    world = running()
    world.open_round()
    world.collect()
    for name in world.names:
        world.reveal(name)
    total = world.total()
    total[1] = 1
    world.result(total)
    assert world.study.progress.finished
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.LEAST_SUPPORT)


def test_t_12_refusals_say_nothing_about_data() -> None:
    """T-12: every refusal in the shared log is a code of a closed list."""
    world = running()
    world.open_round()
    fields = {"charter": world.under, "author": A, "context": world.context}
    for code in ("too-few-rows", "one-class", "age-missing"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(fields | {"code": code}, InputDeclined)
    for module in (messages, secagg_messages):
        for name in module.__all__:
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, Predicate):
                classes = {artefact for artefact, _ in registered(kind).classes.values()}
                assert Artefact.REMARK not in classes
                assert Artefact.INCIDENT_REPORT not in classes


def test_t_20_a_wrong_sum_is_implausible_or_changes_every_digest() -> None:
    """T-20: what no sites could add up to is refused; any other change moves every later digest."""
    first, second = running(), running()
    for world in (first, second):
        world.run_round()
        world.open_round()
        world.collect()
        for name in world.names:
            world.reveal(name)
    total = first.total()
    fewer, more = total.copy(), total.copy()
    fewer[-1] -= 1
    more[-2] += 1
    with first.refuses("contributors-mismatch"):
        first.result(fewer)
    first.result(total)
    second.result(more)
    assert first.study.progress.normaliser_digest != second.study.progress.normaliser_digest
    assert (
        first.study.progress.expected_query().digest
        != second.study.progress.expected_query().digest
    )


def test_t_21_a_sum_that_wraps() -> None:
    """T-21: refused before the vote by lint, and after it by the fold."""
    world = World()
    wide = AggregationSettings(max_persons_per_site=2**24, scale_bits=44)
    plan = small_plan(world.state.charter, world.contract, aggregation=wide)
    assert "capacity" in {one.code for one in lint_plan(plan, world.contract, world.state.charter)}
    with refused("capacity"):
        world.start(plan)


def test_t_22_the_plan_changes_after_the_vote() -> None:
    """T-22: the study is the ratified digest; a known evaluation is not buried."""
    world = World()
    plan = small_plan(world.state.charter, world.contract)
    other = msgspec.structs.replace(plan, title="Another")
    world.keep(plan_bytes(other))
    world.decide(Action.CONTRACT_ADOPT, Digest(plan.contract))
    proposal = world.decide(Action.STUDY_APPROVE, plan_digest(plan))
    with world.refuses("sub-quorum"):
        world.say(StudyOpened, plan=plan_digest(other), proposal=proposal)
    done = World()
    done.start()
    done.run_study()
    with done.refuses("wrong-code"):
        done.say(StudyHalted, plan=done.study.identity, code=HaltCode.NOT_CONVERGED)


def test_t_23_a_logged_contribution_is_left_out() -> None:
    """T-23: accounting closes: no input less, none more, none twice."""
    world = running()
    world.open_round()
    for name in world.names:
        world.send_input(name)
    good = world.survivors()
    for wrong in (good[:-1], good[1:], [*good, good[-1]]):
        with world.refuses("unlogged"):
            world.seal(wrong)
    world.seal(good)


def test_t_24_forged_stale_and_repeated_signatures_and_votes() -> None:
    """T-24: members are counted, not keys or entries; the log's order decides."""
    world = World()
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    ballot = world.write(BallotCast, A, proposal=proposal, choice="approve")
    with world.refuses("wrong-key-kind"):
        world.offer(seal_statement(ballot, runner(A)))
    with world.refuses("wrong-author"):
        world.offer(seal_statement(ballot, approval(A), approval(B)))
    parsed = envelope.parse(seal_statement(ballot, approval(A)))
    other = envelope.seal(b"other", [approval(A)])
    forged = msgspec.json.decode(other) | {"payload": envelope.encode_base64(parsed.payload)}
    with world.refuses("bad-signature"):
        world.offer(canonical.encode(forged))
    for _ in range(5):
        world.vote(proposal, [A])
    assert not world.state.ratified(Action.CONTRACT_ADOPT, digest("contract"))
    world.say(VotingClosed, proposal=proposal)
    with world.refuses("out-of-order"):
        world.vote(proposal, [B])


def test_t_25_charter_versions() -> None:
    """T-25: one after the other, by enough members, founding by all."""
    world = World()
    old = world.state.charter
    following = msgspec.structs.replace(
        old, version=2, previous=charter_digest(old), title="Second"
    )
    voters = [approval(name) for name in NAMES[:3]]
    with world.refuses("sub-quorum"):
        world.publish(following, voters[:2])
    with world.refuses("skipped-version"):
        world.publish(msgspec.structs.replace(following, version=3), voters)
    world.publish(following, voters)
    with world.refuses("wrong-charter"):
        world.offer(
            seal_statement(
                messages.TimeStated(charter=charter_digest(old), author=HUB, at=NOW + 1),
                COORDINATOR,
            )
        )
    with world.refuses("skipped-version"):
        world.publish(following, voters)
    fresh = World()
    fresh.state, fresh.entries = Consortium(charter_digest(fresh.first)), []
    with fresh.refuses("no-possession"):
        fresh.publish(fresh.first, founders(fresh.names)[1:])


def test_t_26_a_release_of_another_model() -> None:
    """T-26: a release is of the model that the logged sums give, by enough approvers."""
    world = World()
    world.start()
    world.run_study()
    world.complete()
    for model, names, code in (
        (digest("foreign"), (A, B), "wrong-model"),
        (world.study.progress.model_digest, (A,), "sub-quorum"),
    ):
        body = release_provenance(world.under, HUB, world.study.identity, model, ())
        with world.refuses(code):
            world.offer(seal_statement(body, *(approval(name) for name in names)))


def test_t_27_content_beside_the_purpose() -> None:
    """T-27: closed schemas, a class for each field, and no row means no exit."""
    directory = World().state.members.directory
    ballot = messages.BallotCast(
        charter=directory.charter, author=A, proposal=digest("p"), choice="approve"
    )
    frame = msgspec.json.decode(statement_payload(ballot))
    frame["predicate"]["remark"] = "patient 17 has died"
    smuggled = envelope.seal(canonical.encode(frame), [approval(A)])
    with pytest.raises(FormatError, match="unknown field"):
        open_statement(smuggled, directory)
    frame["predicateType"] = PREDICATE_BASE + "rumour/v1"
    with pytest.raises(FormatError, match="known predicate type"):
        open_statement(envelope.seal(canonical.encode(frame), [approval(A)]), directory)

    class Rumour(Predicate):
        remark: str

    with pytest.raises(UsageError, match="check: remark"):
        statement("rumour/v1", signer=KeyKind.RUNNER, classes={})(Rumour)
    figures = Figures(accuracy=1, auc=None, brier=1)
    report = messages.SiteReported(
        charter=directory.charter, author=A, plan=digest("p"), model=digest("m"),
        federated=figures, alone=figures,
    )  # fmt: skip
    with refused("exposure"):
        check_statement(small_charter().exposure_matrix(), report, members=4)


def test_t_31_dropped_swapped_and_repeated_entries_do_not_replay() -> None:
    """T-31: the fold alone refuses, or ends elsewhere, whoever signed the tree.

    Only entries that say nothing new (a time) or that others make up for (a surplus ballot, a
    surplus answer) may go without a refusal, and the state shows it.
    """
    world = World()
    world.start()
    world.open_epoch()
    world.run_round()
    entries, end = world.entries, world.state

    def replay(changed: list[bytes]) -> Consortium | None:
        state = Consortium(end.anchor)
        try:
            for entry in changed:
                state, _ = state.apply(entry, world.find)
        except (PeerError, PolicyError):
            return None
        return state

    assert replay(entries) == end
    for place in range(len(entries)):
        assert replay(entries[:place] + entries[place + 1 :]) != end
        assert replay([*entries[: place + 1], *entries[place:]]) != end
    refusals = sum(
        replay([*entries[:place], entries[place + 1], entries[place], *entries[place + 2 :]])
        is None
        for place in range(len(entries) - 1)
    )
    assert refusals >= 12


def test_t_40_a_run_that_nobody_approved() -> None:
    """T-40: no charter, no plan, no contract: nothing begins."""
    world = World()
    plan = small_plan(world.state.charter, world.contract)
    world.keep(plan_bytes(plan))
    proposal = world.propose(Action.STUDY_APPROVE, plan_digest(plan))
    world.vote(proposal, (A, B))
    with world.refuses("sub-quorum"):
        world.say(StudyOpened, plan=plan_digest(plan), proposal=proposal)
    world.vote(proposal, (C,))
    with world.refuses("sub-quorum"):
        world.say(StudyOpened, plan=plan_digest(plan), proposal=proposal)


def test_t_41_a_suspended_member_goes_on() -> None:
    """T-41: its statements are refused from that entry on, and the epoch is over."""
    world = running()
    world.open_round()
    world.send_input(A)
    pending = world.write(
        secagg_messages.MaskedInput, D, context=world.context,
        length=world.study.progress.expected_query().layout.length,
        root=digest("r"), blob=digest("b"),
    )  # fmt: skip
    world.propose_and_suspend(D)
    assert world.study.epoch is None
    assert world.study.round is None
    with world.refuses("suspended"):
        world.offer(seal_statement(pending, runner(D)))
    with world.refuses("sub-quorum"):
        world.say(MemberSuspended, proposal=digest_of_first(world), target=C)


def digest_of_first(world: World) -> Digest:
    """Return the world's first proposal: a ratified one about something else."""
    return next(iter(world.state.proposals))


def test_t_42_a_simulation_in_earnest() -> None:
    """T-42: comparisons with pooled data exist under a simulation's charter alone."""
    world = World()
    world.start()
    figures = Figures(accuracy=1, auc=None, brier=1)
    fields = {
        "plan": world.study.identity, "model": digest("m"), "label": "simulation only",
        "pooled": figures, "max_probability_gap_e12": 1, "alone_everywhere": {},
    }  # fmt: skip
    with world.refuses("simulation"):
        world.say(ComparisonPublished, **fields)
    earnest = World(4, CharterOptions(post_quantum=False, simulation=True))
    turned = msgspec.structs.replace(
        earnest.first, version=2, previous=charter_digest(earnest.first), simulation=False
    )
    with earnest.refuses("unchangeable"):
        earnest.publish(turned, [approval(name) for name in NAMES[:3]])


def test_t_50_input_that_stops_a_process() -> None:
    """T-50: limits before anything is parsed, and only errors that are ours."""
    world = running()
    for data in (
        b"",
        b"{" * 10_000,
        b"[" * MAX_ENTRY_BYTES,
        b"\xff" * 64,
        b'{"payload":"' + b"A" * 60_000 + b'"}',
        bytes(MAX_ENTRY_BYTES + 1),
    ):
        with pytest.raises(FormatError):
            world.state.apply(data, world.find)
    with pytest.raises(PeerError):
        world.open_round_anyway()
    world.open_round()
    with pytest.raises(PeerError):
        world.result(world.total(), survivors=digest("none"))


@pytest.mark.parametrize("hidden", ["\u202e", "\u200b", "\u2066", "\ufeff", "\u0007"])
def test_t_51_a_plan_that_reads_otherwise_than_it_is(hidden: str) -> None:
    """T-51: no control, invisible or direction-changing character in what people vote on."""
    escaped = f"\\u{ord(hidden):04x}"
    for field in ("title", "purpose"):
        text = 'study = "s"\ntitle = "t"\npurpose = "p"\n[model]\nkind = "logistic-regression"\n'
        text += '[privacy]\nkind = "exact"\n'
        bound = {"charter": digest("a"), "contract": digest("b"), "code": digest("c")}
        assert plan_from_toml(text, **bound).study == "s"
        with pytest.raises(UsageError, match=field):
            plan_from_toml(text.replace(f'{field} = "', f'{field} = "{escaped}'), **bound)
