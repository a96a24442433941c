"""Releasing: how stewards' signatures of a release meet at the coordinator before it is logged.

A release stands in the log as one statement that enough stewards signed. Each of them sends its
own; the coordinator merges those of the stewards who approved, and sequences the whole once the
fold would take it. The fold has the last word.

Invariants (docs/spec/governance.md, section 9):
  * Only signatures over the one statement that releases a completed study's model are kept, each
    by a steward in good standing.
  * What was collected is durable before it is acknowledged, and goes with the release or the
    charter under which it was signed.
"""

from collections.abc import Mapping
from typing import Literal

from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import DigestField, Record, sha256
from treaty.errors import PeerError, PolicyError, VerificationError, code_of
from treaty.governance.amendment import signing_members
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.node.intake import Pending
from treaty.ports import Batch, EventStore, Journal
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import ReleaseProvenance
from treaty.protocol.model_release import (
    approvers,
    questions,
    release_body,
    require_releasable,
)
from treaty.protocol.statements import Body, open_statement, peek, statement_payload
from treaty.protocol.study import Study

__all__ = ["Releases", "is_settled"]

COLLECTED_KEY = "releases"
_LIMIT = 1 << 24
"""Of the kept record: one statement for each completed study."""


class _Kept(Record):
    """What is signed, in base64, by the digest of the study's plan."""

    format: Literal["treaty.releases/v1"] = "treaty.releases/v1"
    statements: Mapping[DigestField, str]


class Releases:
    """The releases that are being signed, in the coordinator's store."""

    def __init__(self, store: EventStore, journal: Journal, name: MemberId) -> None:
        self._store = store
        self._journal = journal
        self._name = name
        kept = store.get(COLLECTED_KEY)
        self._statements: dict[str, bytes] = {}
        if kept is not None:
            found = canonical.decode(kept, _Kept, limit=_LIMIT).statements
            self._statements = {plan: envelope.decode_base64(text) for plan, text in found.items()}
        self._tried: dict[str, tuple[Digest, int]] = {}
        self._said: dict[str, str] = {}

    def takes(self, item: Pending, body: Body, state: Consortium) -> bool:
        """Keep a part of a release; say whether it was one, to be kept or not.

        What has as many signatures as the charter asks is whole, and goes to the fold as it is.
        """
        if not isinstance(body, ReleaseProvenance) or state.membership is None:
            return False
        needed = _needed(state)
        asked = questions(state.proposals, Digest(body.plan))
        parts = (item.parsed or peek(item.statement))[0]
        if len(parts.signatures) >= needed and (needed > 1 or not asked):
            return False
        try:
            self._take(item, body, state)
        except (PeerError, PolicyError) as refusal:
            self._journal.note(f"release-refused.{code_of(refusal)}", f"{item.sender}: {refusal}")
        return True

    def ready(self, state: Consortium) -> list[Pending]:
        """Return the release that could take effect now, as the log's next entry, or nothing."""
        if not self._statements or state.membership is None:
            return []
        charter = state.members.directory.charter
        over = [
            plan
            for plan, one in self._statements.items()
            if is_settled(one, state) or peek(one)[1].charter != charter
        ]
        if over:
            self._keep({plan: one for plan, one in self._statements.items() if plan not in over})
        for plan, statement in self._statements.items():
            tried = (sha256(statement), state.size)
            if self._tried.get(plan) == tried:
                continue
            self._tried[plan] = tried
            whole = self._whole(plan, statement, state)
            if whole is None:
                continue
            try:
                state.apply(whole, _no_documents)
            except (PeerError, PolicyError) as obstacle:
                if self._said.get(plan) != str(obstacle):
                    self._said[plan] = str(obstacle)
                    self._journal.note(f"release-waits.{code_of(obstacle)}", str(obstacle))
                continue
            return [Pending(whole, {}, self._name)]
        return []

    def _whole(self, plan: str, statement: bytes, state: Consortium) -> bytes | None:
        """Return the release with the signatures of those who approved; None before they are in.

        Whoever answered a question in vain is left out, and nothing is asked of who is suspended.
        """
        asked = approvers(state.proposals, Digest(plan))
        parts = envelope.parse(statement)
        holders = state.members.directory.holders
        given = {
            keyid: signature
            for keyid, signature in parts.signatures
            if keyid in holders and holders[keyid].owner in asked
        }
        if len({holders[keyid].owner for keyid in given}) < _needed(state):
            return None
        return envelope.join(parts.payload, given)

    def _take(self, item: Pending, body: ReleaseProvenance, state: Consortium) -> None:
        verified = open_statement(item.statement, state.members.directory, item.parsed)
        study = _study(body, state)
        require_releasable(body, study, state.charter, state.releases)
        charter = state.members.directory.charter
        payload = statement_payload(release_body(charter, state.charter.coordinator.name, study))
        if envelope.parse(item.statement).payload != payload:
            # Signatures over one statement can be merged, and nothing else is to be released.
            raise VerificationError(
                f"{item.sender} signed other dependencies than the plan of the study: expected "
                "the statement that `treaty release approve` signs",
                code="wrong-release",
            )
        # Refuses whoever may not sign it; how many have signed is seen when it is complete.
        signing_members(
            state.charter,
            Action.RELEASE_APPROVE,
            verified.keyids,
            suspended=state.members.history.suspended,
        )
        kept = self._statements.get(study.identity)
        merged = item.statement if kept is None else envelope.merge([kept, item.statement])
        if merged != kept:
            self._keep({**self._statements, study.identity: merged})

    def _keep(self, statements: dict[str, bytes]) -> None:
        record = _Kept(
            statements={plan: envelope.encode_base64(one) for plan, one in statements.items()}
        )
        self._store.commit(
            Batch(puts=((COLLECTED_KEY, canonical.encode(record)),), label="release-signature")
        )
        self._statements = statements
        self._tried = {plan: what for plan, what in self._tried.items() if plan in statements}
        self._said = {plan: what for plan, what in self._said.items() if plan in statements}


def is_settled(statement: bytes, state: Consortium) -> bool:
    """Say whether `statement` signs a release that took effect.

    A steward's own signature need not stand in the log by itself, so this ends its sending.
    """
    if state.membership is None:
        return False
    body = peek(statement)[1]
    return isinstance(body, ReleaseProvenance) and body.model in state.releases


def _needed(state: Consortium) -> int:
    """Return how many stewards must sign; 1 where the charter lists no such decision."""
    rule = state.charter.decisions.get(Action.RELEASE_APPROVE)
    return 1 if rule is None else rule.threshold


def _no_documents(digest: Digest) -> bytes:
    raise VerificationError(f"a release names no document {digest[:16]}", code="wrong-release")


def _study(body: ReleaseProvenance, state: Consortium) -> Study:
    study = state.studies.get(Digest(body.plan))
    if study is None:
        raise VerificationError(f"no study with plan {body.plan[:16]}", code="no-study")
    return study
