"""Desk: what a member's officer signs for the running site to send: proposals, ballots.

Each function checks against the member's own copy of the log before it signs, so that a mistake is
said here and not by a refusal elsewhere. The log has the last word. The key may lie anywhere:
`key` names another file than the one in the site's directory.
"""

from pathlib import Path

from treaty.contracts.schema import Contract, contract_bytes, contract_digest
from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey, decode_key_file
from treaty.deployment.outbox import Outbox
from treaty.deployment.papers import open_accession
from treaty.deployment.places import Party, load_party
from treaty.deployment.rotating import open_rotation
from treaty.errors import FormatError, PolicyError, ResourceError, UsageError
from treaty.governance.accession import newcomer_of
from treaty.governance.charter import Charter, charter_bytes, parse_charter, require_networked
from treaty.governance.consents import Consent, sign_consent
from treaty.governance.roles import Action, describe_role
from treaty.governance.rotation import rotated_member
from treaty.governance.validity import check
from treaty.ids import Digest, MemberId
from treaty.protocol.consortium import Consortium, ProposalRecord
from treaty.protocol.differencing import round_to_resume
from treaty.protocol.membership import charter_statement
from treaty.protocol.messages import BallotCast, HaltCode, ProposalOpened
from treaty.protocol.model_release import questions, release_body
from treaty.protocol.proposal import Phase
from treaty.protocol.statements import seal_statement
from treaty.protocol.study import Study
from treaty.studies.lint import require_clean
from treaty.studies.plan import Plan, plan_bytes, plan_digest
from treaty.wiring import (
    CONSENTS,
    code_digest,
    load_key,
    make_directory,
    read_consents,
    read_private_file,
    stored_log,
    write_new_file,
)

__all__ = ["Desk"]

_CHARTERS = (Action.MEMBER_ACCEPT.value, Action.KEY_ROTATE.value)
"""Proposals whose document is the charter's next version, which an approving vote signs."""

CHOICES = ("approve", "reject", "abstain")


class Desk:
    """The desk of the member in `directory`, whose log says `state`."""

    def __init__(self, directory: Path, state: Consortium, key: Path | None = None) -> None:
        self._directory = directory
        self._party = _member(directory)
        self._state = state
        self._outbox = Outbox(directory)
        self._key = _approval_key(directory, key)
        if state.membership is None:
            raise UsageError("this site has no log yet: wait until the consortium is founded")

    def propose_study(self, plan: Plan, contract: Contract) -> tuple[Digest, Digest | None]:
        """Propose `plan`, and its contract where it is not adopted; return the proposals' digests.

        Raises `PolicyError` when the plan does not pass its lint.
        """
        require_clean(plan, contract, self._state.charter)
        adopted = contract_digest(contract) in self._state.contracts
        digest = plan_digest(plan)
        if digest in self._state.studies:
            raise UsageError(f"study {plan.study} has been opened already")
        needs: Digest | None = None
        if not adopted:
            needs = self._propose(
                Action.CONTRACT_ADOPT, contract_digest(contract), contract_bytes(contract)
            )
        return self._propose(Action.STUDY_APPROVE, digest, plan_bytes(plan)), needs

    def propose_suspension(self, target: MemberId) -> Digest:
        """Propose to suspend `target`."""
        if target not in self._state.charter.members:
            raise UsageError(
                f"expected one of {', '.join(sorted(self._state.charter.members))}, got {target}"
            )
        subject = self._state.members.directory.charter
        return self._propose(Action.MEMBER_SUSPEND, Digest(subject), None, target)

    def propose_accession(self, data: bytes) -> Digest:
        """Propose that the newcomer whose request is `data` becomes a member.

        What it has signed is left to be sent too. Raises `FormatError` or `VerificationError` for a
        request that does not hold, `PolicyError` when it does not follow the version in force.
        """
        request, statement = open_accession(data)
        history = self._state.members.history
        charter = request.charter
        require_networked(charter)
        if charter.previous != history.digest or charter.version != history.current.version + 1:
            raise PolicyError(
                f"{request.member} has signed version {charter.version} after "
                f"{str(charter.previous)[:16]}, in force is version {history.current.version} "
                f"({history.digest[:16]}): let the coordinator invite it anew",
                code="stale-invite",
            )
        if newcomer_of(history.current, charter) != request.member:
            raise PolicyError(f"{request.member} is a member already", code="not-an-accession")
        document = charter_bytes(charter)
        # The newcomer has no way of its own to the coordinator yet.
        self._outbox.put(statement, (document,))
        return self._propose(
            Action.MEMBER_ACCEPT, sha256(document), document, MemberId(request.member)
        )

    def propose_rotation(self, data: bytes) -> Digest:
        """Propose that the keys in the request `data` take the place of a member's.

        What the new keys signed is left to be sent too. This member's own are approved at once,
        another's by a vote, once they have been compared. Raises as `open_rotation`.
        """
        history = self._state.members.history
        _require_may(self._state, Action.KEY_ROTATE, MemberId(self._party.name))
        request, statement = open_rotation(data, history)
        document = charter_bytes(request.charter)
        self._outbox.put(statement, (document,))
        number = self._propose(Action.KEY_ROTATE, sha256(document), document)
        known = self._state.proposals.get(number)
        cast = known is not None and self._party.name in known.proposal.ballots
        # Prevents the keys of a forged request from being signed before anybody has seen them.
        if request.member == self._party.name and not cast:
            self._approve_charter(request.charter, document)
            self._ballot(number, "approve")
        return number

    def propose_halt(self, study: str) -> Digest:
        """Propose to halt the study with this name or beginning of its plan's digest."""
        running = [
            digest
            for digest, one in self._state.studies.items()
            if not one.finished and (one.plan.study == study or digest.startswith(study))
        ]
        if len(running) != 1:
            raise UsageError(f"{len(running)} running studies are called {study}: expected one")
        return self._propose(Action.STUDY_HALT, running[0], None)

    def propose_resume(self, study: str) -> Digest:
        """Propose that a study's question be asked anew, also of other members than before.

        The study halted for want of members, or waits for some that its question is bound to.
        `study` is its name or the beginning of its plan's digest. Raises `PolicyError` where it
        cannot go on.
        """
        found = [
            one
            for digest, one in self._state.studies.items()
            if one.final_model is None and (one.plan.study == study or digest.startswith(study))
        ]
        if len(found) != 1:
            raise UsageError(f"{len(found)} unfinished studies are called {study}: expected one")
        (one,) = found
        if one.halt_code not in (None, HaltCode.TOO_FEW_MEMBERS):
            raise PolicyError(
                f"the study halted for another cause than want of members ({one.halt_code.value}) "
                "and stays halted: ratify a new plan",
                code="halted",
            )
        if one.history.digest != self._state.members.history.digest:
            raise PolicyError(
                "the charter was amended since this study was opened: ratify a new plan",
                code="wrong-charter",
            )
        over = one.progress.finished
        question = None if over else one.progress.expected_query().question
        answered = () if question is None else one.answered.get(question, ())
        context = round_to_resume(answered, one.rounds, one.resumed)
        if context is None:
            raise PolicyError(
                "no round of this study got as far as naming its survivors: ratify a new plan",
                code="no-round",
            )
        return self._propose(Action.STUDY_RESUME, context, None)

    def approve_release(self, study: str) -> Digest:
        """Approve the release of a study's model; return the question's digest.

        Asks the other stewards where nobody has. `study` is its name or the beginning of its plan's
        digest. Raises `PolicyError` where there is no model to release or this member may not.
        """
        one = self._completed(study)
        _require_may(self._state, Action.RELEASE_APPROVE, MemberId(self._party.name))
        if one.final_model in self._state.releases:
            raise UsageError(f"the model of study {one.plan.study} is released already")
        asked = questions(self._state.proposals, one.identity)
        ratified = {number: held for number, held in asked if held.collects}
        live = {number: held for number, held in asked if not held.proposal.settled}
        due = [
            number
            for number, held in (*ratified.items(), *live.items())
            if self._party.name in held.proposal.electorate - set(held.proposal.ballots)
        ]
        if due:
            self.vote(due[0], "approve")
            return due[0]
        if ratified:
            raise UsageError(
                "enough stewards have approved: the release takes effect when their sites have "
                "sent what they signed, or other stewards approve too"
            )
        if live:
            missing = sorted(_missing(next(iter(live.values()))))
            raise UsageError(f"{self._party.name} has answered: waits for {', '.join(missing)}")
        number = self._propose(Action.RELEASE_APPROVE, one.identity, None)
        self._sign_release(one)
        self._ballot(number, "approve")
        return number

    def ask_release(self, study: str) -> Digest:
        """Ask the stewards to release a study's model, and answer nothing; return the question.

        Raises as `approve_release`.
        """
        one = self._completed(study)
        _require_may(self._state, Action.RELEASE_APPROVE, MemberId(self._party.name))
        return self._propose(Action.RELEASE_APPROVE, one.identity, None)

    def withdraw_release(self, study: str) -> Digest:
        """Take back the released model of a study; return the question's digest.

        Raises as `approve_release`.
        """
        one = self._completed(study)
        _require_may(self._state, Action.RELEASE_ROLLBACK, MemberId(self._party.name))
        if one.final_model not in self._state.releases:
            raise PolicyError(
                f"the model of study {one.plan.study} is not released", code="not-released"
            )
        if one.final_model in self._state.withdrawn:
            raise UsageError(f"the model of study {one.plan.study} is withdrawn already")
        number = self._propose(Action.RELEASE_ROLLBACK, one.identity, None)
        known = self._state.proposals.get(number)
        if known is None or self._party.name not in known.proposal.ballots:
            self._ballot(number, "approve")
        return number

    def vote(self, proposal: Digest, choice: str) -> Digest:
        """Vote on a proposal of the log; return the ballot's digest."""
        if choice not in CHOICES:
            raise UsageError(f"expected {', '.join(CHOICES)}, got {choice!r}")
        record = self._proposal(proposal)
        name = MemberId(self._party.name)
        if name not in record.proposal.electorate:
            raise PolicyError(f"{name} has no vote on this proposal", code="not-elector")
        cast = record.proposal.ballots.get(name)
        if cast is not None:
            raise UsageError(f"{name} has voted: {cast.value}; a ballot is final")
        if record.proposal.settled and not record.collects:
            raise UsageError(f"the proposal is {record.proposal.phase.value}: no vote counts now")
        if record.proposal.action in _CHARTERS and choice == "approve":
            self._sign_charter(record)
        if record.proposal.action == Action.RELEASE_APPROVE.value and choice == "approve":
            self._sign_release(self._state.studies[record.proposal.subject])
        return self._ballot(proposal, choice)

    def _ballot(self, proposal: Digest, choice: str) -> Digest:
        ballot = BallotCast(
            charter=self._state.members.directory.charter,
            author=self._party.name,
            proposal=proposal,
            choice=choice,  # type: ignore[arg-type]  # one of CHOICES
        )
        return self._outbox.put(seal_statement(ballot, self._key))

    def consent(self, beginning: str, *, withdraw: bool = False) -> Digest:
        """Sign the officer's yes to a plan and the code that is installed here, or take it back.

        The record lies at the site and is never sent; a running site reads it before every
        contribution (docs/spec/sandbox.md, section 4).
        """
        known = {plan for plan in self._state.studies if plan.startswith(beginning)}
        known |= {
            record.proposal.subject
            for record in self._state.proposals.values()
            if record.proposal.action == Action.STUDY_APPROVE.value
            and record.proposal.subject.startswith(beginning)
        }
        if len(beginning) < 4 or len(known) != 1:
            raise UsageError(
                f"{len(known)} plans begin with {beginning!r}: give 4 digits or more of one"
            )
        plan = Digest(known.pop())
        number = 1 + max((one.number for one in self._consents(plan)), default=0)
        record = Consent(
            site=self._party.name,
            plan=plan,
            code=code_digest(),
            decision="withdraw" if withdraw else "approve",
            number=number,
        )
        place = self._directory / CONSENTS
        make_directory(place)
        write_new_file(place / f"{plan[:16]}-{number}.json", sign_consent(record, self._key))
        return plan

    def _completed(self, study: str) -> Study:
        """Return the one study with a model that is called `study`, or say why there is none."""
        found = [
            one
            for digest, one in self._state.studies.items()
            if one.plan.study == study or (len(study) >= 4 and digest.startswith(study))
        ]
        if len(found) != 1:
            raise UsageError(f"{len(found)} studies are called {study}: expected one")
        (one,) = found
        if one.halt_code is not None:
            raise PolicyError(
                f"study {one.plan.study} halted ({one.halt_code.value}) and has no model",
                code="halted",
            )
        if one.final_model is None:
            raise PolicyError(
                f"study {one.plan.study} is under way: its model can be released once it is "
                "completed",
                code="study-runs",
            )
        return one

    def _sign_release(self, study: Study) -> None:
        """Sign the release of a study's model, as everybody's log has it."""
        charter = self._state.members.directory.charter
        body = release_body(charter, self._state.charter.coordinator.name, study)
        self._outbox.put(seal_statement(body, self._key))

    def _sign_charter(self, record: ProposalRecord) -> None:
        """Sign the version that is voted on, as it stands in this member's own store."""
        with stored_log(self._directory) as log:
            document = log.find(record.proposal.subject)
        charter = parse_charter(document)
        require_networked(charter)
        history = self._state.members.history
        if record.proposal.action == Action.KEY_ROTATE.value:
            rotated_member(history.current, charter, suspended=history.suspended)
        else:
            named = newcomer_of(history.current, charter)
            if named != record.target or charter.previous != history.digest:
                raise PolicyError(
                    f"the proposal is about {record.target}, the charter in it lets {named} join "
                    f"after version {str(charter.previous)[:16]}: vote against it",
                    code="wrong-charter",
                )
        check(charter)
        history.require_unretired(charter)
        self._approve_charter(charter, document)

    def _approve_charter(self, charter: Charter, document: bytes) -> None:
        self._outbox.put(seal_statement(charter_statement(charter), self._key), (document,))

    def _consents(self, plan: Digest) -> list[Consent]:
        found = []
        for data in read_consents(self._directory):
            try:
                found.append(canonical.decode(envelope.parse(data).payload, Consent))
            except FormatError as error:
                raise UsageError(
                    f"a record in {CONSENTS}/ does not parse ({error}): remove it first"
                ) from error
        return [one for one in found if one.plan == plan]

    def _propose(
        self,
        action: Action,
        subject: Digest,
        document: bytes | None,
        target: MemberId | None = None,
    ) -> Digest:
        asked = 0
        for identity, record in self._state.proposals.items():
            same = (record.proposal.action, record.proposal.subject, record.target)
            if same == (action.value, subject, target):
                asked += 1
                # What was approved and is still to be carried out is not asked again either.
                carried = action in (Action.STUDY_APPROVE, Action.KEY_ROTATE)
                due = carried and not record.used
                approved = record.proposal.phase is Phase.RATIFIED
                if not record.proposal.settled or (approved and due):
                    return identity
        statement = seal_statement(
            ProposalOpened(
                charter=self._state.members.directory.charter,
                author=self._party.name,
                action=action.value,
                subject=subject,
                target=target,
                # The same question again, after an answer, is another proposal.
                nonce=asked,
            ),
            self._key,
        )
        self._outbox.put(statement, () if document is None else (document,))
        return sha256(statement)

    def _proposal(self, proposal: Digest) -> ProposalRecord:
        record = self._state.proposals.get(proposal)
        if record is None:
            raise UsageError(f"no proposal {proposal[:16]} stands in this site's log")
        return record


def _require_may(state: Consortium, action: Action, name: MemberId) -> None:
    """Raise `PolicyError` unless `name` may decide `action` now.

    Codes: ``expired``, ``not-listed``, ``suspended``, ``wrong-role``.
    """
    history = state.members.history
    if history.is_expired(state.at):
        raise PolicyError("the charter has expired: amend it first", code="expired")
    rule = state.charter.decisions.get(action)
    if rule is None:
        raise PolicyError(
            f"the charter lists no decision for {action.value}: amend it", code="not-listed"
        )
    if name in history.excluded():
        raise PolicyError(f"{name} is suspended and decides nothing", code="suspended")
    holders = state.charter.holders(rule.role)
    if name not in holders:
        raise PolicyError(
            f"{name} is not one of the {describe_role(rule.role)} who {action.value} is for: "
            f"expected {', '.join(holders)}",
            code="wrong-role",
        )


def _missing(record: ProposalRecord) -> frozenset[MemberId]:
    return record.proposal.electorate - set(record.proposal.ballots)


def _member(directory: Path) -> Party:
    party = load_party(directory)
    if party.is_hub:
        raise UsageError("a coordinator has no vote: name a site's directory")
    return party


def _approval_key(directory: Path, key: Path | None) -> SigningKey:
    if key is None:
        return load_key(directory, "approval")
    try:
        found = decode_key_file(read_private_file(key))
    except FormatError as error:
        raise ResourceError(f"{key} is damaged: {error}; restore it from its backup") from error
    if found.role != "approval":
        raise UsageError(f"{key} holds a key for {found.role}, expected approval")
    return found.key
