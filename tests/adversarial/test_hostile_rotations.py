"""T-67, T-24, T-25, T-30, T-41: who holds a key, old or new, and what it can still do with it.

The thief holds keys that a member gave up; up to `max_colluders` members work together; the
coordinator chooses the order in which statements enter the log; one steward approves and withholds
what it should sign.

Planted and caught: a key that was given up listed again, for its member, for another, for another
purpose; fewer members than may collude who exchange everybody's keys; a suspension that an exchange
of keys makes void although it was decided first, in the fold or at the coordinator, or that stops
an exchange although it cannot be carried out, or that its approvers' old keys stop for ever; a
cosignature of an old key that counts, alone or beside the new one; a plan waited for that can never
be opened; a report that takes a release for approved by who holds one of its keys later.
"""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.forgery import released_history
from tests.small_federation import SITES, found
from tests.unit.governance.test_rotation import fresh
from tests.worlds import (
    LOG_KEY,
    NAMES,
    NOW,
    World,
    approval,
    digest,
    key,
    member_keys,
    refused,
    runner,
    small_charter,
    small_plan,
    witness,
)
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.governance.charter import charter_bytes, charter_digest
from treaty.governance.roles import Action
from treaty.governance.rotation import rotated
from treaty.governance.template import CharterOptions
from treaty.governance.terms import MemberKeys
from treaty.governance.validity import problems
from treaty.ids import MemberId
from treaty.node.cosignatures import open_cosigned
from treaty.node.log_keeper import LogKeeper
from treaty.protocol.membership import charter_statement
from treaty.protocol.messages import BallotCast, MemberSuspended, ProposalOpened, StudyOpened
from treaty.protocol.proposal import Phase
from treaty.protocol.statements import seal_statement
from treaty.protocol.waiting import awaited
from treaty.provenance.bundle import Edition
from treaty.provenance.verify import verify_bundle
from treaty.reports.summary import report_data
from treaty.studies.plan import plan_bytes

A, B, C, D = NAMES[:4]


def exchange(
    world: World,
    name: str,
    keys: MemberKeys,
    *new: SigningKey,
    by: tuple[str, ...] = (B, C, D),
) -> None:
    """Let three members exchange the keys of `name`; `new` ones prove possession."""
    suspended = world.state.members.history.suspended
    charter = rotated(world.state.charter, name, keys, suspended=suspended)
    world.publish(charter, [*(approval(one) for one in by), *new])


@pytest.mark.parametrize(
    ("member", "purpose"), [(A, "runner"), (A, "transport"), (B, "runner"), (B, "witness")]
)
def test_a_key_that_was_given_up_is_never_listed_again(member: str, purpose: str) -> None:
    """Its thief can prove possession, and a backup holds it: so nobody may vote it back in."""
    world = World()
    exchange(world, A, fresh(A, "runner"), key(f"{A} new runner"))
    exchange(world, B, fresh(B, "approval"), key(f"{B} new approval"))
    old = runner(A)
    listed = world.state.charter.members[member].keys
    keys = msgspec.structs.replace(listed, **{purpose: (old.public.hex,)})
    charter = rotated(world.state.charter, member, keys, suspended=frozenset())
    signers = [approval(A), approval(C), approval(D), old]
    with world.refuses("retired-key"):
        world.publish(charter, signers)
    # Never listed before: the same exchange is taken.
    other = msgspec.structs.replace(listed, **{purpose: (key("another").public.hex,)})
    charter = rotated(world.state.charter, member, other, suspended=frozenset())
    world.publish(charter, [*signers[:3], key("another")])


def test_a_key_in_force_may_change_its_purpose_as_before() -> None:
    """It was not given up: the version in force lists it."""
    world = World()
    keys = msgspec.structs.replace(
        member_keys(A), runner=(key("new").public.hex,), transport=(runner(A).public.hex,)
    )
    exchange(world, A, keys, key("new"), runner(A))


@pytest.mark.parametrize("colluders", [1, 2, 3, 4])
def test_those_who_may_collude_are_too_few_to_exchange_keys(colluders: int) -> None:
    """Otherwise they list keys of their own for all but one, and subtract them from its sum."""
    options = CharterOptions(post_quantum=False, max_colluders=colluders)
    charter = small_charter(6, options)
    needed = charter.decisions[Action.CHARTER_AMEND].threshold
    assert needed > colluders and problems(charter) == ()
    for threshold in range(4, 6):
        rules = {
            action: msgspec.structs.replace(rule, threshold=threshold)
            if action in (Action.CHARTER_AMEND, Action.EXPOSURE_GRANT)
            else rule
            for action, rule in charter.decisions.items()
        }
        weak = msgspec.structs.replace(charter, decisions=rules)
        codes = [problem.code for problem in problems(weak)]
        assert codes == (["threshold"] if threshold <= colluders else [])


def test_no_exchange_comes_before_a_suspension_that_is_decided() -> None:
    """Whoever sequences could otherwise have the decision voided by it."""
    world = World()
    number = world.decide(Action.MEMBER_SUSPEND, digest("suspend"), target=D)
    assert world.state.proposals[number].proposal.ballots.keys() == {A, B}
    with world.refuses("suspension-due"):
        exchange(world, A, fresh(A, "approval"), key(f"{A} new approval"))
    world.say(MemberSuspended, proposal=number, target=D)
    exchange(world, A, fresh(A, "approval"), key(f"{A} new approval"), by=(A, B, C))
    assert world.state.members.history.excluded() == {D}
    assert world.replayed() == world.state


def test_a_suspension_that_cannot_be_carried_out_is_void_under_other_keys() -> None:
    """Its approvals were signed by keys that may count no longer; until then it stops nothing."""
    world = World()
    world.propose_and_suspend(C)
    number = world.decide(Action.MEMBER_SUSPEND, digest("suspend"), target=D)
    with world.refuses("deadlock"):
        world.say(MemberSuspended, proposal=number, target=D)
    exchange(world, A, fresh(A, "approval"), key(f"{A} new approval"), by=(A, B, D))
    assert world.state.proposals[number].used
    with world.refuses("sub-quorum"):
        world.say(MemberSuspended, proposal=number, target=D)
    assert world.replayed() == world.state


def test_a_suspension_whose_approver_is_suspended_before_it_is_void() -> None:
    world = World(5)
    first = world.decide(Action.MEMBER_SUSPEND, digest("first"), target=D)
    second = world.propose(Action.MEMBER_SUSPEND, digest("second"), target=A)
    world.vote(second, [C, D])
    world.say(MemberSuspended, proposal=second, target=A)
    assert world.state.proposals[first].used
    with world.refuses("sub-quorum"):
        world.say(MemberSuspended, proposal=first, target=D)


def test_what_was_decided_first_is_carried_out_before_the_exchange(tmp_path: Path) -> None:
    """The ballots that decide a suspension and the last signature of new keys come together."""
    federation = found(tmp_path, in_memory=True)
    hub, state = federation.coordinator, federation.coordinator.state
    first, second, third, last = SITES
    new = key("new approval")
    keys = msgspec.structs.replace(state.charter.members[first].keys, approval=(new.public.hex,))
    charter = rotated(state.charter, first, keys, suspended=frozenset())
    document = charter_bytes(charter)
    signers = [*(federation.officer(name) for name in (first, second, third)), new]
    federation.submit(
        first,
        seal_statement(charter_statement(charter), *signers),
        {sha256(document): document},
    )
    question = ProposalOpened(
        charter=state.members.directory.charter,
        author=first,
        action=Action.MEMBER_SUSPEND.value,
        subject=digest("stolen"),
        target=last,
        nonce=0,
    )
    asked = seal_statement(question, federation.officer(first))
    ballots = [
        seal_statement(
            BallotCast(
                charter=question.charter, author=name, proposal=sha256(asked), choice="approve"
            ),
            federation.officer(name),
        )
        for name in (first, second)
    ]
    federation.submit(first, asked)
    for name, ballot in zip((first, second), ballots, strict=True):
        federation.submit(name, ballot)
    federation.run(lambda one: bool(one.members.history.excluded()))
    found_state = hub.state
    assert found_state.members.history.excluded() == {last}
    # It would readmit who is suspended, and waits for another version.
    assert found_state.charter.version == 1


def test_an_old_witness_key_counts_no_more_and_never_beside_the_new_one() -> None:
    """At the entry that exchanges it, the checkpoint is cosigned by the new key alone."""
    world = World()
    new = key(f"{A} new witness")
    exchange(world, A, fresh(A, "witness"), new)
    members, keeper = world.state.members, LogKeeper().extended(world.entries)
    assert members.witness_quorum == 3
    note = keeper.note(members, LOG_KEY)

    def line(name: str, signer: SigningKey) -> str:
        return keeper.cosign(note, signer, MemberId(name), NOW)

    old, own, other = line(A, witness(A)), line(A, new), line(B, witness(B))
    with refused("unknown-key"):
        keeper.check_cosignature(old, members, MemberId(A))
    for member in (B, C):
        # Nor does it count for another member that sends it.
        with refused("unknown-key"):
            keeper.check_cosignature(own, members, MemberId(member))
    with refused("unknown-key"):
        open_cosigned(keeper.cosigned(note, [old, own, other]), members)
    with refused("no-quorum"):
        open_cosigned(keeper.cosigned(note, [own, other]), members)
    open_cosigned(keeper.cosigned(note, [own, other, line(C, witness(C))]), members)


def test_what_the_old_keys_sign_from_the_exchange_on_is_refused() -> None:
    """Proposals, ballots, and what is made under the charter before, by whoever sends it."""
    world = World()
    number = world.propose(Action.MEMBER_SUSPEND, digest("before"), target=D)
    before = seal_statement(
        world.write(BallotCast, A, proposal=number, choice="approve"), approval(A)
    )
    keys = msgspec.structs.replace(
        fresh(A, "approval"), runner=(key(f"{A} new runner").public.hex,)
    )
    exchange(world, A, keys, key(f"{A} new approval"), key(f"{A} new runner"))
    assert world.state.proposals[number].proposal.phase is Phase.LAPSED
    with world.refuses("wrong-charter"):
        world.offer(before)
    body = world.write(
        ProposalOpened, A, action="member.suspend", subject=digest("x"), target=D, nonce=9
    )
    with world.refuses("unknown-key"):
        world.offer(seal_statement(body, approval(A)))
    with world.refuses("unknown-key"):
        world.offer(seal_statement(body, approval(A), key(f"{A} new approval")))
    world.offer(seal_statement(body, key(f"{A} new approval")))


@pytest.mark.parametrize("edition", ["full", "attested"])
def test_a_bundle_holds_after_an_exchange_and_not_with_a_line_of_the_old_key(
    edition: Edition, tmp_path: Path
) -> None:
    """The release before it was signed by keys that are listed no longer, and stays proved."""
    forge = released_history(tmp_path).forge
    charter, members = forge.state().charter, dict(forge.keys.members)
    name = min(members)
    new = {purpose: key(f"{name} new {purpose}") for purpose in ("approval", "runner", "witness")}
    listed = {purpose: (one.public.hex,) for purpose, one in new.items()}
    keys = msgspec.structs.replace(charter.members[name].keys, **listed)
    following = rotated(charter, name, keys, suspended=frozenset())
    statement = seal_statement(
        charter_statement(following), *(one["approval"] for one in members.values()), *new.values()
    )
    document = charter_bytes(following)
    old = replace(
        forge,
        entries=(*forge.entries, statement),
        blobs={**forge.blobs, sha256(document): document},
    )
    held = replace(old, keys=replace(forge.keys, members={**members, name: new}))
    record = verify_bundle(held.exported(edition), forge.anchor).record
    assert record.released and record.charter_version == 2
    with refused("unknown-key"):
        verify_bundle(held.exported(edition, old.note()), forge.anchor)


def test_a_study_that_was_not_opened_before_the_exchange_is_waited_for_no_more() -> None:
    """Its plan binds the charter before: the coordinator can never open it."""
    world = World()
    plan = world.keep(plan_bytes(small_plan(world.state.charter, world.contract)))
    number = world.decide(Action.STUDY_APPROVE, plan)
    assert awaited(world.state) is not None
    exchange(world, A, fresh(A, "runner"), key(f"{A} new runner"))
    assert awaited(world.state) is None
    with world.refuses("replayed"):
        world.say(StudyOpened, plan=plan, proposal=number)
    assert world.replayed() == world.state


def test_the_report_names_who_released_by_the_charter_of_the_release(tmp_path: Path) -> None:
    """A key in force may move to another party later; what it approved before is not theirs."""
    forge = released_history(tmp_path).forge
    charter, members = forge.state().charter, forge.keys.members
    first, *_, last = sorted(members)
    old, new = members[first]["approval"], key("new approval")
    changed = dict(charter.members)
    for name, listed in ((first, (new,)), (last, (old, members[last]["approval"]))):
        keys = msgspec.structs.replace(
            changed[name].keys, approval=tuple(one.public.hex for one in listed)
        )
        changed[name] = msgspec.structs.replace(changed[name], keys=keys)
    following = msgspec.structs.replace(
        charter, version=2, previous=charter_digest(charter), members=changed
    )
    signers = [*(one["approval"] for one in members.values()), new]
    statement = seal_statement(charter_statement(following), *signers)
    document = charter_bytes(following)
    moved = replace(
        forge,
        entries=(*forge.entries, statement),
        blobs={**forge.blobs, sha256(document): document},
    )
    said = []
    for one in (forge, moved):
        files = one.exported()
        data = report_data(verify_bundle(files, one.anchor), files)
        said.append({term.label: term.value for term in data.terms}["Release"])
    assert said[0] == said[1] and first in said[0]
