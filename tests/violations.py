"""Violations of the rules by someone with every key, each with the reason that must refuse it.

Each function takes a genuine history and a source of choices, and returns the files of a bundle
whose bytes all hold: tiles, root, checkpoint, cosignatures, blobs. What is wrong is one statement.
`VIOLATIONS` names them by threat (docs/threat-model.md); the tests in tests/adversarial play each
once, the campaign with many choices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import msgspec
import numpy as np
from numpy.typing import NDArray

from tests.forgery import Files, Forge
from tests.small_federation import SITES, contract
from treaty.aggregation.quantization import RING_TYPES
from treaty.contracts.schema import Level, contract_bytes, contract_digest
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.governance.charter import Charter
from treaty.governance.exposure import Artefact, Form
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.protocol.messages import (
    BallotCast,
    CharterPublished,
    DatasetRegistered,
    HaltCode,
    MemberSuspended,
    ProposalOpened,
    ReleaseProvenance,
    SiteReported,
    StudyCompleted,
    StudyHalted,
    StudyOpened,
    TimeStated,
)
from treaty.protocol.secagg_keys import context_of
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    RoundResult,
    Survivor,
    SurvivorsSealed,
)
from treaty.protocol.statements import Body, peek, registered, seal_statement
from treaty.simulation.federation import COORDINATOR
from treaty.studies.plan import parse_plan, plan_bytes, plan_digest

HEX = "0123456789abcdef"


@dataclass(frozen=True)
class Violation:
    """One class of forgery: the threat it plays, the codes of which one must refuse it."""

    threat: str
    codes: frozenset[str]
    make: Callable[[Forge, Random], Files]

    @property
    def name(self) -> str:
        """The name for reports: threat and what is done."""
        return f"{self.threat}-{self.make.__name__.replace('_', '-')}"


VIOLATIONS: list[Violation] = []
Maker = Callable[[Forge, Random], Forge]


def violation(threat: str, *codes: str) -> Callable[[Maker], Maker]:
    """Register a maker under its threat and expected codes."""

    def register(maker: Maker) -> Maker:
        def make(forge: Forge, choose: Random) -> Files:
            return maker(forge, choose).bundle()

        make.__name__ = maker.__name__
        VIOLATIONS.append(Violation(threat, frozenset(codes), make))
        return maker

    return register


# --- tools ----------------------------------------------------------------------------------


def other_digest(digest: str, choose: Random) -> str:
    """Return `digest` with one hexadecimal digit changed."""
    at = choose.randrange(64)
    return digest[:at] + choose.choice([one for one in HEX if one != digest[at]]) + digest[at + 1 :]


def under(forge: Forge) -> Digest:
    """Return the charter in force at the end."""
    return forge.state().members.directory.charter


def stranger(choose: Random) -> SigningKey:
    """Return a key that no charter lists."""
    return SigningKey.generate(choose.randbytes(32))


def asking(forge: Forge, action: Action, subject: str, target: str | None = None) -> Forge:
    """Return the log with a proposal of the first site at its end."""
    body = ProposalOpened(
        charter=under(forge),
        author=SITES[0],
        action=action.value,
        subject=subject,
        target=target,
        nonce=len(forge.entries),
    )
    return forge.saying(body)


def ballot(forge: Forge, author: str, proposal: str) -> BallotCast:
    """Return an approving ballot."""
    return BallotCast(charter=under(forge), author=author, proposal=proposal, choice="approve")


def ratified(forge: Forge, action: Action, subject: str, document: bytes) -> Forge:
    """Return the log after three of four members approved."""
    forge = asking(forge.with_blob(document), action, subject)
    proposal = sha256(forge.entries[-1])
    for name in SITES[:3]:
        forge = forge.saying(ballot(forge, name, proposal))
    return forge


def before(forge: Forge, kind: type, choose: Random) -> Forge:
    """Return the log cut before a chosen statement of `kind`."""
    return forge.until(choose.choice(forge.places(kind)))


def with_second_key(forge: Forge, choose: Random) -> tuple[Forge, SigningKey]:
    """Return the log after an amendment that gives the first site a second approval key."""
    second = SigningKey.generate(choose.randbytes(32))

    def edit(charter: Charter) -> Charter:
        member = charter.members[SITES[0]]
        keys = msgspec.structs.replace(
            member.keys, approval=(*member.keys.approval, second.public.hex)
        )
        members = {**charter.members, SITES[0]: msgspec.structs.replace(member, keys=keys)}
        return msgspec.structs.replace(charter, members=members)

    return forge.amended(edit, second), second


def retitled(charter: Charter) -> Charter:
    """Return the charter with another title: the smallest amendment."""
    return msgspec.structs.replace(charter, title="Another title")


# --- signatures and votes ---------------------------------------------------------------------


@violation("T-24", "unknown-key")
def a_ballot_by_a_key_that_no_charter_lists(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(BallotCast))
    body = forge.said(at, BallotCast)
    return forge.until(at).saying(body, stranger(choose))


@violation("T-24", "wrong-key-kind")
def a_ballot_signed_by_the_unattended_key(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(BallotCast))
    body = forge.said(at, BallotCast)
    return forge.until(at).saying(body, forge.keys.members[body.author]["runner"])


@violation("T-24", "wrong-author")
def a_ballot_in_another_name(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(BallotCast))
    body = forge.said(at, BallotCast)
    other = choose.choice([name for name in SITES if name != body.author])
    return forge.until(at).saying(body, forge.keys.members[other]["approval"])


@violation("T-24", "wrong-signatures")
def a_ballot_with_two_signatures_of_one_member(forge: Forge, choose: Random) -> Forge:
    forge, second = with_second_key(forge, choose)
    forge = asking(forge, Action.MEMBER_SUSPEND, sha256(b"grounds"), target=SITES[-1])
    first = forge.keys.members[SITES[0]]["approval"]
    return forge.saying(ballot(forge, SITES[0], sha256(forge.entries[-1])), first, second)


@violation("T-24", "not-elector")
def a_ballot_of_the_member_that_it_is_about(forge: Forge, choose: Random) -> Forge:
    target = choose.choice(SITES[1:])
    forge = asking(forge, Action.MEMBER_SUSPEND, sha256(b"grounds"), target=target)
    return forge.saying(ballot(forge, target, sha256(forge.entries[-1])))


@violation("T-24", "wrong-charter")
def a_statement_under_another_charter(forge: Forge, choose: Random) -> Forge:
    kind = choose.choice([BallotCast, ProposalOpened, EpochKeys, MaskedInput, Reveal, RoundOpened])
    at = choose.choice(forge.places(kind))
    body = peek(forge.entries[at])[1]
    return forge.until(at).and_entry(
        seal_statement(
            msgspec.structs.replace(body, charter=other_digest(body.charter, choose)),
            forge.keys.of(body),
        )
    )


def _said_twice(kind: type[Body]) -> None:
    """Register the repetition of a statement right behind itself: nothing else is wrong."""

    def maker(forge: Forge, choose: Random) -> Forge:
        at = choose.choice(forge.places(kind))
        return forge.until(at + 1).and_entry(forge.entries[at])

    maker.__name__ = f"{registered(kind).name.partition('/')[0]} said twice".replace(" ", "_")
    violation("T-24", "replayed")(maker)


for _kind in (
    ProposalOpened,
    EpochKeys,
    EpochShares,
    EpochReady,
    MaskedInput,
    Reveal,
    StudyOpened,
    SiteReported,
    ReleaseProvenance,
):
    _said_twice(_kind)


@violation("T-24", "wrong-context", "not-in-round")
def a_statement_of_an_earlier_round(forge: Forge, choose: Random) -> Forge:
    rounds = forge.places(RoundOpened)
    kind = choose.choice([MaskedInput, Reveal])
    at = choose.choice([at for at in forge.places(kind) if at > rounds[1]])
    old = choose.choice([place for place in forge.places(kind) if place < rounds[1]])
    return forge.until(at).and_entry(forge.entries[old])


@violation("T-24", "sub-quorum")
def a_release_signed_by_one_steward(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(ReleaseProvenance))
    body = forge.said(at, ReleaseProvenance)
    return forge.until(at).saying(body, *forge.officers(choose.choice(SITES)))


@violation("T-24", "sub-quorum")
def a_release_signed_twice_by_one_steward(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(ReleaseProvenance))
    amended, second = with_second_key(forge.until(at), choose)
    body = forge.said(at, ReleaseProvenance)
    definition = body.build_definition
    parameters = msgspec.structs.replace(definition.external_parameters, charter=under(amended))
    moved = msgspec.structs.replace(
        body,
        build_definition=msgspec.structs.replace(definition, external_parameters=parameters),
    )
    return amended.saying(moved, amended.keys.members[SITES[0]]["approval"], second)


@violation("T-24", "wrong-key-kind")
def a_release_cosigned_by_the_coordinator(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(ReleaseProvenance))
    body = forge.said(at, ReleaseProvenance)
    [steward] = forge.officers(choose.choice(SITES))
    return forge.until(at).saying(body, steward, forge.keys.coordinator)


# --- charters and members ---------------------------------------------------------------------


@violation("T-25", "skipped-version")
def a_charter_version_that_skips_one(forge: Forge, choose: Random) -> Forge:
    history = forge.state().members.history
    following = msgspec.structs.replace(
        retitled(history.current), version=2 + choose.randint(1, 9), previous=history.digest
    )
    return forge.publishing(following, *forge.officers())


@violation("T-25", "skipped-version")
def the_founding_charter_again(forge: Forge, choose: Random) -> Forge:
    return forge.amended(retitled).and_entry(forge.entries[0])


@violation("T-25", "wrong-previous")
def a_charter_on_another_predecessor(forge: Forge, choose: Random) -> Forge:
    history = forge.state().members.history
    following = msgspec.structs.replace(
        retitled(history.current), version=2, previous=other_digest(history.digest, choose)
    )
    return forge.publishing(following, *forge.officers())


@violation("T-25", "sub-quorum")
def a_charter_signed_by_too_few(forge: Forge, choose: Random) -> Forge:
    history = forge.state().members.history
    following = msgspec.structs.replace(
        retitled(history.current), version=2, previous=history.digest
    )
    return forge.publishing(
        following, *forge.officers(*choose.sample(SITES, choose.choice([1, 2])))
    )


@violation("T-25", "sub-quorum")
def a_charter_on_which_one_member_counts_twice(forge: Forge, choose: Random) -> Forge:
    forge, second = with_second_key(forge, choose)
    history = forge.state().members.history
    following = msgspec.structs.replace(
        retitled(history.current), version=3, previous=history.digest
    )
    return forge.publishing(following, *forge.officers(*SITES[:2]), second)


@violation("T-25", "no-possession")
def a_charter_with_a_key_that_nobody_showed_to_hold(forge: Forge, choose: Random) -> Forge:
    history = forge.state().members.history
    amended, _ = with_second_key(forge, choose)
    following = amended.state().members.history.current
    assert following.previous == history.digest
    return forge.publishing(following, *forge.officers())


@violation("T-25", "no-possession")
def a_founding_that_one_party_did_not_sign(forge: Forge, choose: Random) -> Forge:
    body = forge.said(0, CharterPublished)
    signers = [forge.keys.coordinator, forge.keys.log]
    signers += [key for roles in forge.keys.members.values() for key in roles.values()]
    signers.remove(choose.choice(signers))
    return forge.exchanged(()).and_entry(seal_statement(body, *signers))


@violation("T-42", "unchangeable")
def a_simulation_that_becomes_earnest(forge: Forge, choose: Random) -> Forge:
    return forge.amended(lambda one: msgspec.structs.replace(one, simulation=False))


def suspended(forge: Forge, target: str) -> Forge:
    """Return the log after `target` has been suspended."""
    forge = asking(forge, Action.MEMBER_SUSPEND, sha256(b"grounds"), target=target)
    proposal = sha256(forge.entries[-1])
    for name in [name for name in SITES if name != target][:2]:
        forge = forge.saying(ballot(forge, name, proposal))
    body = MemberSuspended(
        charter=under(forge), author=COORDINATOR, proposal=proposal, target=target
    )
    return forge.saying(body)


@violation("T-41", "suspended")
def a_statement_of_a_suspended_member(forge: Forge, choose: Random) -> Forge:
    target = choose.choice(SITES)
    forge = suspended(forge, target)
    body = ProposalOpened(
        charter=under(forge),
        author=target,
        action=Action.STUDY_HALT.value,
        subject=sha256(b"any"),
    )
    return forge.saying(body)


@violation("T-41", "suspended")
def a_release_that_a_suspended_steward_signed(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(ReleaseProvenance))
    body = forge.said(at, ReleaseProvenance)
    target = choose.choice(SITES)
    signers = forge.officers(target, next(name for name in SITES if name != target))
    return suspended(forge.until(at), target).saying(body, *signers)


@violation("T-41", "sub-quorum")
def a_suspension_that_nobody_decided(forge: Forge, choose: Random) -> Forge:
    target = choose.choice(SITES[1:])
    forge = asking(forge, Action.MEMBER_SUSPEND, sha256(b"grounds"), target=target)
    proposal = sha256(forge.entries[-1])
    forge = forge.saying(ballot(forge, SITES[0], proposal))
    body = MemberSuspended(
        charter=under(forge), author=COORDINATOR, proposal=proposal, target=target
    )
    return forge.saying(body)


def decided_on(forge: Forge, target: str) -> Forge:
    """Return the log after the members decided to suspend `target`; nobody carries it out."""
    forge = asking(forge, Action.MEMBER_SUSPEND, sha256(b"grounds"), target=target)
    proposal = sha256(forge.entries[-1])
    for name in [name for name in SITES if name != target][:2]:
        forge = forge.saying(ballot(forge, name, proposal))
    return forge


@violation("T-41", "suspension-due")
def what_begins_before_a_decided_suspension(forge: Forge, choose: Random) -> Forge:
    kind = choose.choice([StudyOpened, EpochOpened, RoundOpened, ReleaseProvenance])
    at = choose.choice(forge.places(kind))
    return decided_on(forge.until(at), choose.choice(SITES)).and_entry(forge.entries[at])


@violation("T-41", "suspension-due")
def an_amendment_that_voids_a_decided_suspension(forge: Forge, choose: Random) -> Forge:
    return decided_on(forge, choose.choice(SITES)).amended(retitled)


@violation("T-43", "replayed")
def a_data_set_that_its_officer_registered_once(forge: Forge, choose: Random) -> Forge:
    """Each time it stands in the log, one ledger more would be let in."""
    body = DatasetRegistered(
        charter=under(forge),
        author=choose.choice(SITES),
        dataset=choose.randbytes(32).hex(),
        persons="in no other registered data set of this site",
    )
    return forge.saying(body).saying(body)


# --- studies ----------------------------------------------------------------------------------


@violation("T-22", "wrong-code")
def a_halt_for_a_false_sum_that_nobody_proved(forge: Forge, choose: Random) -> Forge:
    forge = before(forge, RoundOpened, choose)
    study = forge.state().running
    assert study is not None
    body = StudyHalted(
        charter=under(forge), author=COORDINATOR, plan=study.identity, code=HaltCode.SUM_FALSE
    )
    return forge.saying(body)


@violation("T-22", "wrong-code")
def a_halt_that_hides_the_members_decision(forge: Forge, choose: Random) -> Forge:
    forge = before(forge, RoundOpened, choose)
    study = forge.state().running
    assert study is not None
    forge = asking(forge, Action.STUDY_HALT, study.identity)
    proposal = sha256(forge.entries[-1])
    for name in SITES:
        if not forge.state().studies[study.identity].halt_decided:
            forge = forge.saying(ballot(forge, name, proposal))
    code = choose.choice([HaltCode.TOO_FEW_MEMBERS, HaltCode.NOT_CONVERGED])
    body = StudyHalted(charter=under(forge), author=COORDINATOR, plan=study.identity, code=code)
    return forge.saying(body)


@violation("T-22", "sub-quorum")
def a_study_that_was_not_ratified(forge: Forge, choose: Random) -> Forge:
    opened = choose.choice(forge.places(StudyOpened))
    body = forge.said(opened, StudyOpened)
    ballots = [
        at
        for at in forge.places(BallotCast)
        if forge.said(at, BallotCast).proposal == body.proposal
    ]
    gone = choose.choice(ballots)
    return forge.until(opened + 1).exchanged(
        [entry for at, entry in enumerate(forge.entries[: opened + 1]) if at != gone]
    )


@violation("T-22", "sub-quorum")
def a_study_of_a_plan_that_another_vote_was_about(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(StudyOpened))
    body = forge.said(at, StudyOpened)
    plan = msgspec.structs.replace(parse_plan(forge.find(Digest(body.plan))), title="Another")
    forge = forge.until(at).with_blob(plan_bytes(plan))
    return forge.saying(msgspec.structs.replace(body, plan=plan_digest(plan)))


def opened_with(forge: Forge, choose: Random, **changes: object) -> Forge:
    """Return the log in which a ratified plan with `changes` is opened instead of the real one."""
    at = choose.choice(forge.places(StudyOpened))
    body = forge.said(at, StudyOpened)
    plan = msgspec.structs.replace(parse_plan(forge.find(Digest(body.plan))), **changes)
    digest = plan_digest(plan)
    forge = ratified(forge.until(at), Action.STUDY_APPROVE, digest, plan_bytes(plan))
    proposal = forge.said(forge.places(ProposalOpened)[-1], ProposalOpened)
    identity = sha256(forge.entries[forge.places(ProposalOpened)[-1]])
    assert proposal.subject == digest
    return forge.saying(msgspec.structs.replace(body, plan=digest, proposal=identity))


@violation("T-22", "wrong-charter")
def a_study_whose_plan_binds_another_charter(forge: Forge, choose: Random) -> Forge:
    return opened_with(forge, choose, charter=other_digest(under(forge), choose))


@violation("T-22", "sub-quorum")
def a_study_on_a_contract_that_was_not_adopted(forge: Forge, choose: Random) -> Forge:
    return opened_with(forge, choose, contract=other_digest(under(forge), choose))


@violation("T-40", "data-use")
def a_study_that_ignores_the_terms_of_use(forge: Forge, choose: Random) -> Forge:
    return opened_with(forge, choose, data_use=())


@violation("T-09", "least-support")
def a_study_with_a_level_that_one_site_alone_can_have(forge: Forge, choose: Random) -> Forge:
    base = contract()
    sex = next(one for one in base.features if one.name == "sex")
    alone = Level(code="x", meaning="unknown", sites=(choose.choice(SITES),))
    features = tuple(
        msgspec.structs.replace(one, levels=(*one.levels, alone)) if one is sex else one  # type: ignore[union-attr]  # a category
        for one in base.features
    )
    narrow = msgspec.structs.replace(base, features=features)
    at = forge.places(StudyOpened)[0]
    adopted = ratified(
        forge.until(at), Action.CONTRACT_ADOPT, contract_digest(narrow), contract_bytes(narrow)
    )
    rest = adopted.exchanged((*adopted.entries, *forge.entries[at:]))
    return opened_with(rest, choose, contract=contract_digest(narrow))


@violation(
    "T-22",
    "wrong-query",
    "wrong-model",
    "wrong-previous",
    "wrong-code",
    "wrong-plan",
    "no-study",
)
def a_round_that_asks_something_else(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundOpened))
    name = choose.choice(["query", "model", "previous", "code", "plan"])
    body = forge.said(at, RoundOpened)
    other = other_digest(getattr(body, name), choose)
    return forge.until(at + 1).changed(at, **{name: other})


@violation("T-22", "wrong-length", "wrong-round", "wrong-attempt", "wrong-ring_bits")
def a_round_of_another_size_or_number(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundOpened))
    body = forge.said(at, RoundOpened)
    name = choose.choice(["length", "round", "attempt", "ring_bits"])
    value = (64 + 32) - body.ring_bits if name == "ring_bits" else getattr(body, name) + 1
    return forge.until(at + 1).changed(at, **{name: value})


@violation("T-22", "wrong-model")
def a_completion_that_names_other_results(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(StudyCompleted))
    name = choose.choice(["model", "normaliser", "evaluation"])
    other = other_digest(getattr(forge.said(at, StudyCompleted), name), choose)
    return forge.until(at + 1).changed(at, **{name: other})


@violation("T-26", "wrong-model")
def a_release_of_another_model(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(ReleaseProvenance))
    body = forge.said(at, ReleaseProvenance)
    definition = body.build_definition
    parameters = msgspec.structs.replace(
        definition.external_parameters, model=other_digest(body.model, choose)
    )
    other = msgspec.structs.replace(
        body,
        build_definition=msgspec.structs.replace(definition, external_parameters=parameters),
    )
    return forge.until(at).saying(other, *forge.officers())


@violation("T-26", "wrong-author")
def a_release_built_by_somebody_else(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(ReleaseProvenance))
    body = forge.said(at, ReleaseProvenance)
    builder = msgspec.structs.replace(body.run_details.builder, id=choose.choice(SITES))
    other = msgspec.structs.replace(
        body, run_details=msgspec.structs.replace(body.run_details, builder=builder)
    )
    return forge.until(at).saying(other, *forge.officers())


def without_row(artefact: Artefact, form: Form) -> Callable[[Charter], Charter]:
    """Return the edit that takes a row from the exposure matrix."""
    return lambda charter: msgspec.structs.replace(
        charter,
        exposure=tuple(
            row for row in charter.exposure if (row.artefact, row.form) != (artefact, form)
        ),
    )


@violation("T-27", "exposure")
def a_site_report_that_the_charter_does_not_allow(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(SiteReported))
    body = forge.said(at, SiteReported)
    completed = forge.places(StudyCompleted)[-1]
    entries = [
        entry
        for place, entry in enumerate(forge.entries)
        if place <= completed and not isinstance(peek(entry)[1], SiteReported)
    ]
    forge = forge.exchanged(entries).amended(without_row(Artefact.SITE_METRIC, Form.EXACT))
    return forge.saying(msgspec.structs.replace(body, charter=under(forge)))


@violation("T-27", "wrong-model")
def a_site_report_on_another_model(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(SiteReported))
    other = other_digest(forge.said(at, SiteReported).model, choose)
    return forge.until(at + 1).changed(at, model=other)


@violation("T-31", "clock-back")
def a_clock_that_goes_back(forge: Forge, choose: Random) -> Forge:
    at = forge.state().at
    back = choose.choice([1, 1000, at])
    return forge.saying(TimeStated(charter=under(forge), author=COORDINATOR, at=at - back))


@violation("T-25", "expired")
def a_study_under_an_expired_charter(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(StudyOpened))
    expires = forge.state(at).charter.expires
    late = TimeStated(
        charter=under(forge), author=COORDINATOR, at=expires + choose.choice([0, 1, 10**9])
    )
    return forge.until(at).saying(late).and_entry(forge.entries[at])


# --- secure sums ------------------------------------------------------------------------------


@violation("T-03", "altered-parameters")
def an_epoch_with_lower_thresholds(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(EpochOpened))
    body = forge.said(at, EpochOpened)
    name = choose.choice(["max_colluders", "min_survivors"])
    return forge.until(at + 1).changed(at, **{name: getattr(body, name) - 1})


@violation("T-50", "malformed")
def keys_that_no_round_can_use(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(EpochKeys))
    body = forge.said(at, EpochKeys)
    name = choose.choice(["round_keys", "commitments"])
    value = getattr(body, name)
    kept = choose.choice([(), value[:1], value + value[:1]])
    return forge.until(at + 1).changed(at, **{name: kept})


@violation("T-27", "malformed")
def shares_for_strangers(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(EpochShares))
    columns = dict(forge.said(at, EpochShares).columns)
    if choose.random() < 0.5:
        columns.pop(choose.choice(sorted(columns)))
    else:
        columns["row-17.age-54.died"] = other_digest(next(iter(columns.values())), choose)
    return forge.until(at + 1).changed(at, columns=columns)


@violation("T-27", "malformed")
def readiness_that_carries_more(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(EpochReady))
    made = forge.said(at, EpochReady).pair_commitments
    return forge.until(at + 1).changed(at, pair_commitments=(*made, choose.randbytes(32).hex()))


@violation("T-01", "unlogged")
def a_roster_with_keys_that_nobody_sent(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(EpochRoster))
    keys = list(forge.said(at, EpochRoster).keys)
    place = choose.randrange(len(keys))
    keys[place] = other_digest(keys[place], choose)
    return forge.until(at + 1).changed(at, keys=tuple(keys))


@violation("T-03", "too-few")
def an_epoch_of_two(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(EpochSealed))
    dealers = forge.said(at, EpochSealed).dealers
    return forge.until(at + 1).changed(at, dealers=dealers[:2])


@violation("T-03", "too-few")
def a_round_of_two(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundOpened))
    chosen = sorted(choose.sample(SITES, 2))
    return forge.until(at + 1).changed(at, participants=tuple(chosen))


@violation("T-01", "member-order")
def a_member_that_takes_part_twice(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundOpened))
    names = forge.said(at, RoundOpened).participants
    return forge.until(at + 1).changed(at, participants=(names[0], *names))


@violation("T-05", "slot-used")
def a_slot_that_is_used_again(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundOpened)[1:])
    slot = forge.said(at, RoundOpened).slot
    return forge.until(at + 1).changed(at, slot=choose.choice([slot - 1, 0, 64]))


@violation("T-23", "unlogged")
def a_logged_update_that_is_left_out(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(SurvivorsSealed))
    survivors = list(forge.said(at, SurvivorsSealed).survivors)
    survivors.pop(choose.randrange(len(survivors)))
    return forge.until(at + 1).changed(at, survivors=tuple(survivors))


@violation("T-23", "unlogged")
def an_update_that_was_never_logged(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(SurvivorsSealed))
    survivors = list(forge.said(at, SurvivorsSealed).survivors)
    place = choose.randrange(len(survivors))
    name = choose.choice(["root", "header"])
    one = survivors[place]
    survivors[place] = msgspec.structs.replace(
        one, **{name: other_digest(getattr(one, name), choose)}
    )
    return forge.until(at + 1).changed(at, survivors=tuple(survivors))


@violation("T-23", "unlogged")
def an_update_counted_twice(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(SurvivorsSealed))
    survivors = forge.said(at, SurvivorsSealed).survivors
    return forge.until(at + 1).changed(at, survivors=(*survivors, choose.choice(survivors)))


@violation("T-03", "too-few")
def a_sum_over_two_members(forge: Forge, choose: Random) -> Forge:
    opened = choose.choice(forge.places(RoundOpened))
    sealed = next(at for at in forge.places(SurvivorsSealed) if at > opened)
    body = forge.said(sealed, SurvivorsSealed)
    kept = [at for at in forge.places(MaskedInput) if opened < at < sealed][:2]
    names = {forge.said(at, MaskedInput).author for at in kept}
    survivors = tuple(one for one in body.survivors if one.member in names)
    entries = [*forge.entries[: opened + 1], *(forge.entries[at] for at in kept)]
    return forge.exchanged(entries).saying(msgspec.structs.replace(body, survivors=survivors))


@violation("T-02", "both-shares", "wrong-shares")
def an_answer_with_both_kinds_of_share(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(Reveal))
    body = forge.said(at, Reveal)
    name = choose.choice(sorted(body.self_shares))
    shares = {**body.round_shares, name: choose.randbytes(32).hex()}
    return forge.until(at + 1).changed(at, round_shares=shares)


@violation("T-08", "two-survivor-sets")
def an_answer_for_another_set(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(Reveal))
    other = other_digest(forge.said(at, Reveal).survivors, choose)
    return forge.until(at + 1).changed(at, survivors=other)


@violation("T-03", "too-few")
def a_sum_that_too_few_members_opened(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundResult))
    opened = max(place for place in forge.places(RoundOpened) if place < at)
    answers = [place for place in forge.places(Reveal) if opened < place < at]
    gone = set(choose.sample(answers, len(answers) - 2))
    entries = [one for place, one in enumerate(forge.entries[: at + 1]) if place not in gone]
    return forge.exchanged(entries)


@violation("T-11", "seed-differs")
def a_seed_that_is_not_the_one_committed_to(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundResult))
    body = forge.said(at, RoundResult)
    lost = body.round_seeds and choose.random() < 0.5
    seeds = dict(body.round_seeds if lost else body.self_seeds)
    name = choose.choice(sorted(seeds))
    digit = choose.choice([one for one in "012345678" if one != seeds[name][0]])
    seeds[name] = digit + seeds[name][1:]
    field = "round_seeds" if lost else "self_seeds"
    return forge.until(at + 1).changed(at, **{field: seeds})


@violation("T-11", "seed-differs")
def seeds_of_two_members_exchanged(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundResult))
    seeds = dict(forge.said(at, RoundResult).self_seeds)
    first, second = choose.sample(sorted(seeds), 2)
    seeds[first], seeds[second] = seeds[second], seeds[first]
    return forge.until(at + 1).changed(at, self_seeds=seeds)


@violation("T-20", "sum-mismatch")
def a_sum_off_by_one(forge: Forge, choose: Random) -> Forge:
    at = choose.choice(forge.places(RoundResult)[:-1])
    total = opened_sum(forge, at)
    # The support sum stands at its limit, so there it can only fall.
    total[0] = total[0] - 1 if at == forge.places(RoundResult)[0] else total[0] + 1
    data = total.tobytes()
    return forge.with_blob(data).until(at + 1).changed(at, sum=sha256(data))


@violation("T-20", "sum-mismatch")
def a_last_sum_off_by_one_and_all_that_follows_from_it(forge: Forge, choose: Random) -> Forge:
    """Evaluation, completion and derived files follow the altered sum: only the inputs do not."""
    at = forge.places(RoundResult)[-1]
    total = opened_sum(forge, at)
    # Negative rows below the threshold: another bin changes the area, not how many are correct.
    taken = choose.choice([place for place in range(4) if total[place]])
    total[taken] -= 1
    total[choose.choice([place for place in range(4) if place != taken])] += 1
    data = total.tobytes()
    forge = forge.without_blob(forge.said(at, RoundResult).sum).with_blob(data)
    forge = forge.changed(at, sum=sha256(data))
    done = forge.places(StudyCompleted)[-1]
    study = forge.state(done).running
    assert study is not None and study.progress.evaluation is not None
    return forge.changed(done, evaluation=study.progress.evaluation.digest())


def opened_sum(forge: Forge, at: int) -> NDArray[np.unsignedinteger]:
    """Return the sum of the result at `at`, writable."""
    study = forge.state(at).running
    assert study is not None
    bits = study.progress.expected_query().layout.ring_bits
    data = forge.find(Digest(forge.said(at, RoundResult).sum))
    return np.frombuffer(data, RING_TYPES[bits]).copy()


@violation("T-20", "root-mismatch")
def masked_inputs_exchanged(forge: Forge, choose: Random) -> Forge:
    """Two members' vectors change places: the sum is the same, but not what they signed."""
    sealed = choose.choice(forge.places(SurvivorsSealed))
    opened = max(place for place in forge.places(RoundOpened) if place < sealed)
    inside = {one.member for one in forge.said(sealed, SurvivorsSealed).survivors}
    places = [
        at
        for at in forge.places(MaskedInput)
        if opened < at < sealed and forge.said(at, MaskedInput).author in inside
    ]
    first, second = choose.sample(places, 2)
    blobs = forge.said(first, MaskedInput).blob, forge.said(second, MaskedInput).blob
    forge = forge.changed(first, blob=blobs[1]).changed(second, blob=blobs[0])
    digests = {
        forge.said(at, MaskedInput).author: sha256(forge.entries[at]) for at in (first, second)
    }
    survivors = tuple(
        msgspec.structs.replace(one, header=digests.get(one.member, one.header))
        for one in forge.said(sealed, SurvivorsSealed).survivors
    )
    return forge.changed(sealed, survivors=survivors)


@violation("T-06", "locked-set")
def the_same_question_over_one_member_less(forge: Forge, choose: Random) -> Forge:
    result = choose.choice(
        [
            at
            for at in forge.places(RoundResult)
            if len(forge.said(at, RoundResult).self_seeds) == len(SITES)
        ]
    )
    opened = max(place for place in forge.places(RoundOpened) if place < result)
    body = forge.said(opened, RoundOpened)
    context = forge.said(result, RoundResult).context
    charter = under(forge)
    forge = forge.until(result).saying(
        RoundAbandoned(
            charter=charter,
            author=COORDINATOR,
            context=context,
            code=RoundCode.TOO_FEW_REVEALS,
        )
    )
    again = msgspec.structs.replace(body, attempt=body.attempt + 1, slot=body.slot + 1)
    forge = forge.saying(again)
    left_out = choose.choice(SITES)
    survivors = []
    ledgers = {
        one.author: one for one in (forge.said(at, MaskedInput) for at in forge.places(MaskedInput))
    }
    for name in SITES:
        if name == left_out:
            continue
        header = MaskedInput(
            charter=charter,
            author=name,
            context=context_of(charter, again),
            length=again.length,
            root=choose.randbytes(32).hex(),
            blob=choose.randbytes(32).hex(),
            ledger=ledgers[name].ledger,
            ledger_count=ledgers[name].ledger_count,
        )
        forge = forge.saying(header)
        survivors.append(Survivor(member=name, header=sha256(forge.entries[-1]), root=header.root))
    return forge.saying(
        SurvivorsSealed(
            charter=charter,
            author=COORDINATOR,
            context=context_of(charter, again),
            survivors=tuple(survivors),
        )
    )
