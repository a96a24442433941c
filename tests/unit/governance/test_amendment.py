"""Amendment: versions one after the other, members counted, suspension, expiry.

Thresholds are enumerated over every set of signers. Planted faults seen to fail: threshold
of the new version alone; of the old alone; counting keys; N + 2 accepted; previous digest not
compared; proof of possession for approval keys only; expiry not looked at; suspended members
counted; readmission by an amendment that does not say so; a key that was given up listed again,
also by the amendment itself, and one that only moves refused as if it had been given up.
"""

import itertools
from collections.abc import Iterator

import msgspec
import pytest

from tests.unit.governance.consortia import (
    NAMES,
    NOW,
    approvals,
    follow,
    founding,
    hex_of,
    history,
    key,
    keyids,
    member_keys,
    successor,
    with_member,
)
from treaty.errors import PolicyError, VerificationError
from treaty.governance.amendment import (
    CharterHistory,
    authorise,
    found,
    new_keys,
    signing_members,
)
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.exposure import Artefact, ExposureRule, Form
from treaty.governance.roles import Action, KeyKind, Role, signing_key_kind
from treaty.governance.terms import DecisionRule, LogPolicy, Member
from treaty.ids import MemberId, Timestamp

A, B, C, D = (MemberId(name) for name in NAMES[:4])
E = MemberId(NAMES[4])


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for size in range(len(names) + 1):
        yield from itertools.combinations(names, size)


def _new_member(name: str) -> Member:
    return Member(
        title=name, roles=(Role.MEMBER, Role.WITNESS, Role.STEWARD), keys=member_keys(name)
    )


def _amend_threshold(charter: Charter, threshold: int) -> Charter:
    rules = dict(charter.decisions)
    for action in (Action.CHARTER_AMEND, Action.EXPOSURE_GRANT):
        rules[action] = DecisionRule(role=Role.MEMBER, threshold=threshold)
    return msgspec.structs.replace(charter, decisions=rules)


def test_the_founding_version_is_signed_by_every_key_it_lists() -> None:
    charter = founding()
    everyone = keyids(charter)
    assert found(charter, everyone, at=NOW).anchor == charter_digest(charter)
    for missing in everyone:
        with pytest.raises(VerificationError) as refusal:
            found(charter, everyone - {missing}, at=NOW)
        assert refusal.value.code == "no-possession"
    with pytest.raises(VerificationError) as refusal:
        found(charter, everyone | {key("stranger").public.keyid}, at=NOW)
    assert refusal.value.code == "unknown-key"


def test_a_consortium_is_founded_by_a_sound_unexpired_first_version() -> None:
    charter = founding()
    later = successor(charter)
    with pytest.raises(VerificationError) as skipped:
        found(later, keyids(later), at=NOW)
    assert skipped.value.code == "skipped-version"
    with pytest.raises(PolicyError) as expired:
        found(charter, keyids(charter), at=Timestamp(charter.expires))
    assert expired.value.code == "expired"
    broken = msgspec.structs.replace(charter, escalation=())
    with pytest.raises(PolicyError) as unsound:
        found(broken, keyids(broken), at=NOW)
    assert unsound.value.code == "contacts"


def test_an_amendment_needs_the_threshold_of_both_versions() -> None:
    """Every set of signers, while the threshold moves up or down between versions."""
    for before, after in itertools.product((3, 4), repeat=2):
        old = _amend_threshold(founding(), before)
        start = found(old, keyids(old), at=NOW)
        new = follow(
            old, msgspec.structs.replace(_amend_threshold(old, after), purpose="another purpose")
        )
        for signers in _subsets(NAMES[:4]):
            signed = approvals(old, signers)
            if len(signers) >= max(before, after):
                assert start.amend(new, signed, at=NOW).current == new
            else:
                with pytest.raises(PolicyError) as refusal:
                    start.amend(new, signed, at=NOW)
                assert refusal.value.code == "sub-quorum"
    assert start.versions == (old,)


def test_who_joins_or_leaves_counts_under_its_own_version() -> None:
    start = history(4)
    members = {name: one for name, one in start.current.members.items() if name != D}
    members[E] = _new_member(E)
    new = successor(start.current, members=members)
    proofs = keyids(new, owners=(E,))
    both = approvals(start.current) | proofs
    for signers in _subsets(NAMES[:5]):
        old_votes, new_votes = set(signers) - {E}, set(signers) - {D}
        signed = (approvals(start.current, signers) & both) | proofs
        # E signs by proof of possession in every case, so the joining member always counts as new.
        enough = len(old_votes) >= 3 and len(new_votes | {E}) >= 3
        if enough:
            assert start.amend(new, signed, at=NOW).current.active_members() == (A, B, C, E)
        else:
            with pytest.raises(PolicyError):
                start.amend(new, signed, at=NOW)


def test_every_new_key_proves_possession() -> None:
    start = history()
    rotated = with_member(start.current, A, keys=member_keys(A, 2))
    fresh = msgspec.structs.replace(rotated.coordinator, runner=hex_of("runner 2"))
    new = follow(start.current, msgspec.structs.replace(rotated, coordinator=fresh))
    wanted = {one.public.keyid for one in new_keys(start.current, new)}
    assert len(wanted) == 4
    signed = approvals(start.current, (B, C, D)) | wanted
    assert start.amend(new, signed, at=NOW).current == new
    for missing in wanted:
        with pytest.raises(VerificationError) as refusal:
            start.amend(new, signed - {missing}, at=NOW)
        assert refusal.value.code == "no-possession"


def test_a_key_that_moves_to_another_party_signs_again() -> None:
    start = history()
    one = msgspec.structs.replace(start.current.members[A].keys, runner=(hex_of("x"),))
    two = msgspec.structs.replace(
        start.current.members[B].keys, runner=start.current.members[A].keys.runner
    )
    new = follow(start.current, with_member(with_member(start.current, A, keys=one), B, keys=two))
    moved = {(k.owner, k.kind) for k in new_keys(start.current, new)}
    assert moved == {(A, KeyKind.RUNNER), (B, KeyKind.RUNNER)}


def test_an_old_and_a_new_key_of_one_member_are_one_vote() -> None:
    start = history()
    keys = start.current.members[A].keys
    wider = msgspec.structs.replace(keys, approval=(*keys.approval, hex_of("second approval of A")))
    new = follow(start.current, with_member(start.current, A, keys=wider))
    two_keys_and_b = approvals(new, (A, B))
    assert len(two_keys_and_b) == 3
    with pytest.raises(PolicyError) as refusal:
        start.amend(new, two_keys_and_b, at=NOW)
    assert refusal.value.code == "sub-quorum"
    after = start.amend(new, approvals(new, (A, B, C)), at=NOW)
    with pytest.raises(PolicyError) as decision:
        after.authorise(Action.STUDY_APPROVE, two_keys_and_b, at=NOW)
    assert decision.value.code == "sub-quorum"
    assert after.authorise(Action.RELEASE_APPROVE, two_keys_and_b, at=NOW) == {A, B}
    with pytest.raises(PolicyError) as amendment:
        after.amend(successor(after.current), two_keys_and_b, at=NOW)
    assert amendment.value.code == "sub-quorum"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 1, "previous": None}, "skipped-version"),
        ({"version": 3}, "skipped-version"),
        ({"version": 4}, "skipped-version"),
        ({"previous": "ab" * 32}, "wrong-previous"),
        ({"log": LogPolicy(origin="hearts.example/log/2")}, "unchangeable"),
        ({"consortium": "minds.example"}, "unchangeable"),
        ({"simulation": True}, "unchangeable"),
        ({"expires": NOW}, "expired"),
        ({"least_support": 2}, "parameters"),
        ({"readmits": (A,)}, "not-suspended"),
    ],
)
def test_an_amendment_that_does_not_follow_is_refused(
    changes: dict[str, object], code: str
) -> None:
    start = history()
    new = successor(start.current, **changes)
    with pytest.raises((PolicyError, VerificationError)) as refusal:
        start.amend(new, approvals(start.current), at=NOW)
    assert getattr(refusal.value, "code", "") == code
    assert start == history()


def test_a_strange_signature_on_an_amendment_is_refused() -> None:
    start = history()
    new = successor(start.current)
    signed = approvals(start.current)
    strangers = keyids(new, (KeyKind.RUNNER, KeyKind.WITNESS, KeyKind.COORDINATOR, KeyKind.LOG)) | {
        key("stranger").public.keyid
    }
    for stranger in strangers:
        with pytest.raises(VerificationError) as refusal:
            start.amend(new, signed | {stranger}, at=NOW)
        assert refusal.value.code == "unknown-key"


def test_versions_follow_one_another_and_the_anchor_stays() -> None:
    now = history()
    anchor = now.anchor
    for round_ in range(3):
        now = now.amend(
            successor(now.current, purpose=f"purpose {round_}"), approvals(now.current), at=NOW
        )
    assert [one.version for one in now.versions] == [1, 2, 3, 4]
    assert now.anchor == anchor
    assert now.digest == charter_digest(now.current)


@pytest.mark.parametrize("action", Action)
def test_authorise_counts_exactly_the_entitled_members(action: Action) -> None:
    """Every action and every set of members: allowed if and only if there are enough."""
    charter = founding()
    rule = charter.decisions[action]
    kind = signing_key_kind(action)
    owners = (charter.coordinator.name,) if kind is KeyKind.COORDINATOR else NAMES[:4]
    for signers in _subsets(tuple(owners)):
        signed = keyids(charter, (kind,), signers)
        if len(signers) >= rule.threshold:
            assert authorise(charter, action, signed, at=NOW) == set(signers)
        else:
            with pytest.raises(PolicyError) as refusal:
                authorise(charter, action, signed, at=NOW)
            assert refusal.value.code == "sub-quorum"


@pytest.mark.parametrize("action", Action)
def test_only_the_right_kind_of_key_signs_an_action(action: Action) -> None:
    charter = founding()
    entitled = keyids(charter, (signing_key_kind(action),))
    for one in charter.listed_keys():
        if one.kind is not signing_key_kind(action):
            with pytest.raises(VerificationError) as refusal:
                authorise(charter, action, entitled | {one.public.keyid}, at=NOW)
            assert refusal.value.code == "wrong-key"
    with pytest.raises(VerificationError) as stranger:
        authorise(charter, action, entitled | {key("stranger").public.keyid}, at=NOW)
    assert stranger.value.code == "unknown-key"


def test_a_steward_and_the_coordinator_do_not_make_a_release() -> None:
    charter = founding()
    signed = approvals(charter, (A,)) | keyids(charter, (KeyKind.COORDINATOR,))
    with pytest.raises(VerificationError):
        authorise(charter, Action.RELEASE_APPROVE, signed, at=NOW)


def test_a_member_without_the_role_is_refused_by_name() -> None:
    charter = with_member(founding(), A, roles=(Role.MEMBER, Role.WITNESS))
    with pytest.raises(PolicyError, match=A) as refusal:
        authorise(charter, Action.RELEASE_APPROVE, approvals(charter), at=NOW)
    assert refusal.value.code == "wrong-role"


def test_what_the_charter_does_not_list_is_refused() -> None:
    charter = founding()
    rules = {a: r for a, r in charter.decisions.items() if a is not Action.STUDY_HALT}
    silent = msgspec.structs.replace(charter, decisions=rules)
    with pytest.raises(PolicyError, match="amend the charter") as refusal:
        authorise(silent, Action.STUDY_HALT, approvals(silent), at=NOW)
    assert refusal.value.code == "not-listed"
    with pytest.raises(PolicyError) as refusal:
        signing_members(silent, Action.STUDY_HALT, approvals(silent))
    assert refusal.value.code == "not-listed"


def test_expiry_freezes_everything_but_the_amendment() -> None:
    start = history()
    end = Timestamp(start.current.expires)
    before = Timestamp(end - 1)
    for action in Action:
        signed = keyids(start.current, (signing_key_kind(action),))
        assert start.authorise(action, signed, at=before)
        if action is Action.CHARTER_AMEND:
            assert start.authorise(action, signed, at=end)
            continue
        with pytest.raises(PolicyError) as refusal:
            start.authorise(action, signed, at=end)
        assert refusal.value.code == "expired"
    with pytest.raises(PolicyError) as suspension:
        start.suspend(A, approvals(start.current), at=end)
    assert suspension.value.code == "expired"
    new = successor(start.current, expires=end + 1000)
    assert start.amend(new, approvals(start.current), at=end).current == new


def test_a_suspended_member_neither_votes_nor_acts_until_readmitted() -> None:
    start = history()
    after = start.suspend(A, approvals(start.current, (B, C)), at=NOW)
    assert after.excluded() == {A}
    assert after.effective().active_members() == (B, C, D)
    assert after.effective().parameters().members == 3
    for action in (Action.UPDATE_COMMIT, Action.STUDY_PROPOSE):
        with pytest.raises(PolicyError) as refusal:
            after.authorise(
                action, keyids(start.current, (signing_key_kind(action),), (A,)), at=NOW
            )
        assert refusal.value.code == "suspended"
    with pytest.raises(PolicyError) as silent:
        after.amend(successor(start.current), approvals(start.current, (B, C, D)), at=NOW)
    assert silent.value.code == "suspended"
    kept = _amend_threshold(with_member(start.current, A, suspended=True), 3)
    stays = after.amend(follow(start.current, kept), approvals(start.current, (B, C, D)), at=NOW)
    assert stays.excluded() == {A}
    back = msgspec.structs.replace(
        follow(stays.current, with_member(stays.current, A, suspended=False)), readmits=(A,)
    )
    with pytest.raises(PolicyError) as own_vote:
        stays.amend(back, approvals(start.current, (A, B, C)), at=NOW)
    assert own_vote.value.code == "sub-quorum"
    again = stays.amend(back, approvals(start.current, (B, C, D)), at=NOW)
    assert again.excluded() == frozenset()
    assert again.authorise(Action.STUDY_PROPOSE, approvals(start.current, (A,)), at=NOW) == {A}


def test_nobody_votes_on_its_own_suspension() -> None:
    start = history()
    with pytest.raises(PolicyError) as refusal:
        start.suspend(A, approvals(start.current, (A, B)), at=NOW)
    assert refusal.value.code == "suspended"
    with pytest.raises(PolicyError) as few:
        start.suspend(A, approvals(start.current, (B,)), at=NOW)
    assert few.value.code == "sub-quorum"
    with pytest.raises(PolicyError) as nobody:
        start.suspend(MemberId("x.example"), approvals(start.current, (B, C)), at=NOW)
    assert nobody.value.code == "no-such-member"


def test_suspensions_never_make_the_charter_unamendable() -> None:
    start = history()
    once = start.suspend(A, approvals(start.current, (B, C)), at=NOW)
    with pytest.raises(PolicyError) as refusal:
        once.suspend(D, approvals(start.current, (B, C)), at=NOW)
    assert refusal.value.code == "deadlock"
    with pytest.raises(PolicyError) as twice:
        once.suspend(A, approvals(start.current, (B, C)), at=NOW)
    assert twice.value.code == "suspended"


def test_a_grant_widens_the_matrix_until_the_next_version() -> None:
    start = history()
    rule = ExposureRule(
        artefact=Artefact.MODEL,
        recipients=(Role.OBSERVER,),
        form=Form.EXACT,
        least_members=3,
        remediation="roll back",
    )
    question = (Artefact.MODEL, Role.OBSERVER, Form.EXACT, 3)
    with pytest.raises(PolicyError) as few:
        start.grant(rule, approvals(start.current, (A, B)), at=NOW)
    assert few.value.code == "sub-quorum"
    after = start.grant(rule, approvals(start.current, (A, B, C)), at=NOW)
    assert not start.matrix().decide(*question).allowed
    assert after.matrix().decide(*question).allowed
    gone = after.amend(successor(after.current), approvals(after.current), at=NOW)
    assert not gone.matrix().decide(*question).allowed
    for bad in (
        msgspec.structs.replace(rule, artefact=Artefact.STATISTICS_SUM, least_members=2),
        msgspec.structs.replace(rule, artefact=Artefact.SITE_METRIC),
    ):
        with pytest.raises(PolicyError) as refusal:
            start.grant(bad, approvals(start.current), at=NOW)
        assert refusal.value.code == "exposure"


def test_a_history_is_made_by_its_events_alone() -> None:
    def run() -> CharterHistory:
        start = history()
        new = successor(start.current, purpose="more")
        return start.amend(new, approvals(start.current), at=NOW).suspend(
            B, approvals(start.current, (A, C)), at=NOW
        )

    assert run() == run()


def test_a_key_that_was_given_up_is_listed_no_more() -> None:
    """The version in force does not list it, an earlier one did; proof of possession or not."""
    first = founding()
    old, new = first.members[A].keys, key("new runner").public.hex
    changed = with_member(first, A, keys=msgspec.structs.replace(old, runner=(new,)))
    second = follow(first, changed)
    chain = CharterHistory((first, second))
    assert chain.retired_keys() == {old.runner[0]: 1} and history().retired_keys() == {}
    chain.require_unretired(second)
    moved = msgspec.structs.replace(old, runner=(old.witness[0],), witness=(new,))
    chain.require_unretired(with_member(second, A, keys=moved))
    other = msgspec.structs.replace(second.members[B].keys, witness=(old.runner[0],))
    for back in (with_member(second, A, keys=old), with_member(second, B, keys=other)):
        with pytest.raises(PolicyError, match="after charter version 1") as refusal:
            chain.require_unretired(back)
        assert refusal.value.code == "retired-key"
    again = follow(second, with_member(second, A, keys=old))
    signed = approvals(second) | {one.public.keyid for one in new_keys(second, again)}
    with pytest.raises(PolicyError, match="after charter version 1"):
        chain.amend(again, signed, at=NOW)
