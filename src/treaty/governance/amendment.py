"""Amendment: the chain of charter versions, who is in force, and who may do what now.

The history is a fold: the founding charter and its signatures, then amendments and suspensions, in
the order of the log. Whoever holds the log recomputes it. Guarantees
(docs/spec/governance.md, sections 1 and 3):
  * The founding version is signed by every key that it lists; its digest is the one anchor.
  * Version N + 1 follows version N and no other, names its digest, keeps consortium, log origin and
    the simulation flag, and is signed by the threshold of distinct members under
    both versions. Every key that it lists anew, or moves to another party or purpose, signs it too;
    none of them was given up by an earlier version.
  * Suspension is a quick decision; only an amendment takes it back.
  * An expired charter allows nothing but its own amendment.
  * Members are counted, never keys; suspended members neither count nor act.

Signatures are verified before this module: it is given the ids of keys whose
signatures over the statement hold. It reads no clock: `at` is the time of the log.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from treaty.errors import PolicyError, VerificationError
from treaty.governance.charter import Charter, ListedKey, charter_digest
from treaty.governance.exposure import ExposureMatrix, ExposureRule
from treaty.governance.roles import Action, KeyKind, Role, signing_key_kind
from treaty.governance.validity import check
from treaty.ids import Digest, MemberId, Timestamp

__all__ = ["CharterHistory", "authorise", "found", "new_keys", "signing_members"]

_NOBODY: frozenset[MemberId] = frozenset()


def authorise(
    charter: Charter,
    action: Action,
    keyids: Iterable[Digest],
    *,
    at: Timestamp,
    suspended: frozenset[MemberId] = _NOBODY,
) -> frozenset[MemberId]:
    """Return the parties whose keys among `keyids` allow `action` at time `at`.

    Checks, in this order: 1 the charter has not expired, unless it is amended; 2 the charter lists
    the action; 3 every key is in the charter, of the kind that signs the action, and of a
    party that holds the role; 4 none of them is suspended; 5 enough distinct parties
    signed. Raises `PolicyError` (codes ``expired``, ``not-listed``, ``wrong-role``,
    ``suspended``, ``sub-quorum``) or `VerificationError` (codes ``unknown-key``,
    ``wrong-key``).
    """
    if action is not Action.CHARTER_AMEND and at >= charter.expires:  # 1
        raise PolicyError(
            f"the charter of {charter.consortium}, version {charter.version}, has expired: "
            f"expected an amendment before {action.value}",
            code="expired",
        )
    rule = charter.decisions.get(action)
    if rule is None:  # 2
        raise PolicyError(
            f"the charter lists no decision for {action.value}: expected one, "
            "actions that are not listed are refused, amend the charter",
            code="not-listed",
        )
    parties = signing_members(charter, action, keyids, suspended=suspended)  # 3, 4
    if len(parties) < rule.threshold:  # 5
        raise PolicyError(
            f"{action.value} is signed by {len(parties)}: expected at least {rule.threshold} "
            f"distinct holders of the role {rule.role.value}, collect more signatures",
            code="sub-quorum",
        )
    return parties


def signing_members(
    charter: Charter,
    action: Action,
    keyids: Iterable[Digest],
    *,
    suspended: frozenset[MemberId] = _NOBODY,
) -> frozenset[MemberId]:
    """Return the distinct parties that `keyids` stand for, all entitled to sign `action`.

    A key that may not sign it is refused, not passed over: a strange signature is never
    left unexplained. Several keys of one member make one party.
    """
    rule = charter.decisions.get(action)
    if rule is None:
        raise PolicyError(f"the charter lists no decision for {action.value}", code="not-listed")
    listed = _index(charter)
    kind = signing_key_kind(action)
    out = suspended | charter.suspended_members()
    parties: set[MemberId] = set()
    for keyid in keyids:
        key = listed.get(keyid)
        if key is None:
            raise VerificationError(
                f"{action.value} is signed by key {keyid[:16]}, which charter version "
                f"{charter.version} does not list: expected a key of the charter",
                code="unknown-key",
            )
        if key.kind is not kind:
            raise VerificationError(
                f"{action.value} is signed by the {key.kind.value} key of {key.owner}: "
                f"expected its {kind.value} key, sign again with that",
                code="wrong-key",
            )
        if not _holds(charter, key.owner, rule.role):
            raise PolicyError(
                f"{action.value} is signed by {key.owner}, which does not hold "
                f"the role {rule.role.value}: expected a holder of that role",
                code="wrong-role",
            )
        if key.owner in out:
            raise PolicyError(
                f"{action.value} is signed by {key.owner}, which is suspended: expected members "
                "in good standing, an amendment can readmit it",
                code="suspended",
            )
        parties.add(key.owner)
    return frozenset(parties)


def new_keys(old: Charter | None, new: Charter) -> tuple[ListedKey, ...]:
    """Return the keys that must sign `new` to prove possession.

    All of them for a founding version; otherwise those that `old` did not list for the same
    party and purpose.
    """
    known = (
        set()
        if old is None
        else {(key.public.hex, key.owner, key.kind) for key in old.listed_keys()}
    )
    return tuple(
        key for key in new.listed_keys() if (key.public.hex, key.owner, key.kind) not in known
    )


@dataclass(frozen=True, slots=True)
class CharterHistory:
    """The versions so far and what has been decided under the last one.

    Make it with `found`. `suspended` holds the members suspended by decision since `current` took
    effect; `grants` the exposure rows granted since.
    """

    versions: tuple[Charter, ...]
    suspended: frozenset[MemberId] = _NOBODY
    grants: tuple[ExposureRule, ...] = ()
    digest: Digest = field(init=False, compare=False)
    """Of the version in force; asked for at every step of every party, so it is made once."""

    def __post_init__(self) -> None:
        """Make the digest."""
        object.__setattr__(self, "digest", charter_digest(self.current))

    @property
    def current(self) -> Charter:
        """Return the version in force."""
        return self.versions[-1]

    @property
    def anchor(self) -> Digest:
        """Return the digest of the founding version: the one trust anchor."""
        return charter_digest(self.versions[0])

    def excluded(self) -> frozenset[MemberId]:
        """Return the members that are suspended, by the charter or by decision."""
        return self.suspended | self.current.suspended_members()

    def is_expired(self, at: Timestamp) -> bool:
        """Say whether the version in force has expired at time `at`."""
        return at >= self.current.expires

    def effective(self) -> Charter:
        """Return the version in force with decided suspensions and grants written in.

        Its digest is not a version's digest: use it to count, never to bind. Its parameters may not
        exist when too few members are left.
        """
        return _with_decisions(self.current, self.excluded(), self.grants)

    def matrix(self) -> ExposureMatrix:
        """Return the exposure rows in force, granted ones included."""
        return ExposureMatrix((*self.current.exposure, *self.grants))

    def authorise(
        self, action: Action, keyids: Iterable[Digest], *, at: Timestamp
    ) -> frozenset[MemberId]:
        """Return who allows `action` now, as `authorise` does, without suspended members."""
        return authorise(self.current, action, keyids, at=at, suspended=self.suspended)

    def amend(
        self, charter: Charter, keyids: Iterable[Digest], *, at: Timestamp
    ) -> "CharterHistory":
        """Return the history with `charter` in force.

        1 the next version and no other; 2 it names the digest of this one; 3 what may never change
        has not; 4 it makes sense and has not expired; 5 no strange signature; 6 the threshold of
        distinct members under this version; 7 and under the new one; 8 every new key signed; 9 and
        none of them was given up before.
        A suspension is taken back only by name, in `readmits`: an amendment drafted before a
        suspension cannot undo it by accident.
        """
        old = self.current
        signed = frozenset(keyids)
        if charter.version != old.version + 1:  # 1
            raise VerificationError(
                f"charter version {charter.version} follows version {old.version}: "
                f"expected version {old.version + 1}, one after the other",
                code="skipped-version",
            )
        if charter.previous != self.digest:  # 2
            raise VerificationError(
                f"charter version {charter.version} names another previous charter: "
                f"expected {self.digest[:16]}, write the amendment on the version in force",
                code="wrong-previous",
            )
        for name, was, now in (  # 3
            ("consortium", old.consortium, charter.consortium),
            ("log origin", old.log.origin, charter.log.origin),
            ("simulation flag", old.simulation, charter.simulation),
        ):
            if was != now:
                raise PolicyError(
                    f"the amendment changes the {name} from {was} to {now}: "
                    "expected the same, found a new consortium for another",
                    code="unchangeable",
                )
        check(charter)  # 4
        _not_expired(charter, at)
        self._readmissions(charter)
        proofs = new_keys(old, charter)
        _no_strangers(signed, old, charter, proofs)  # 5
        self._threshold(old, signed, self.excluded(), "in force")  # 6
        self._threshold(charter, signed, charter.suspended_members(), "proposed")  # 7
        _possession(proofs, signed)  # 8
        self.require_unretired(charter)  # 9
        return CharterHistory((*self.versions, charter))

    def retired_keys(self) -> Mapping[str, int]:
        """Return the keys that are listed no longer, and by which version last."""
        present = {key.public.hex for key in self.current.listed_keys()}
        return {
            key.public.hex: version.version
            for version in self.versions[:-1]
            for key in version.listed_keys()
            if key.public.hex not in present
        }

    def require_unretired(self, charter: Charter) -> None:
        """Raise `PolicyError` (``retired-key``) if `charter` lists a key that was given up before.

        Who had cause to give it up may not be the only one who holds it.
        """
        retired = self.retired_keys()
        for key in charter.listed_keys():
            if key.public.hex in retired:
                raise PolicyError(
                    f"the {key.kind.value} key {key.public.hex[:16]} of {key.owner} was given up "
                    f"after charter version {retired[key.public.hex]}: expected a key that was "
                    "never listed, make a new one",
                    code="retired-key",
                )

    def suspend(
        self, member: MemberId, keyids: Iterable[Digest], *, at: Timestamp
    ) -> "CharterHistory":
        """Return the history with `member` suspended by decision ``member.suspend``.

        A member's own signature does not count towards its own suspension. Raises
        `PolicyError` (codes of `authorise`; ``no-such-member``; ``suspended``; ``deadlock``).
        """
        if member not in self.current.members:
            raise PolicyError(
                f"{member} is not in charter version {self.current.version}: "
                "expected a member to suspend",
                code="no-such-member",
            )
        if member in self.excluded():
            raise PolicyError(f"{member} is already suspended", code="suspended")
        barred = self.suspended | {member}
        authorise(self.current, Action.MEMBER_SUSPEND, keyids, at=at, suspended=barred)
        # Prevents a few members from suspending so many that the charter can never be amended.
        left = len(set(self.current.active_members()) - barred)
        needed = self.current.decisions[Action.CHARTER_AMEND].threshold
        if left < needed:
            raise PolicyError(
                f"suspending {member} would leave {left} members: expected at least the {needed} "
                "that can amend the charter, amend it first",
                code="deadlock",
            )
        return replace(self, suspended=barred)

    def grant(
        self, rule: ExposureRule, keyids: Iterable[Digest], *, at: Timestamp
    ) -> "CharterHistory":
        """Return the history with one more exposure row, until the next version.

        The row must pass the same checks as a row of the charter. Raises `PolicyError`.
        """
        self.authorise(Action.EXPOSURE_GRANT, keyids, at=at)
        wider = replace(self, grants=(*self.grants, rule))
        self.matrix().granted(rule)
        check(_with_decisions(self.current, _NOBODY, wider.grants))
        return wider

    def _readmissions(self, charter: Charter) -> None:
        barred = self.excluded()
        for name in sorted(barred & set(charter.active_members())):
            if name not in charter.readmits:
                raise PolicyError(
                    f"the amendment lists {name} as not suspended: "
                    "expected suspended = true, or its name in `readmits` to take it back",
                    code="suspended",
                )
        for readmitted in charter.readmits:
            if readmitted not in barred:
                raise PolicyError(
                    f"the amendment readmits {readmitted}, which is not suspended: "
                    "expected a suspended member, remove it from `readmits`",
                    code="not-suspended",
                )

    @staticmethod
    def _threshold(
        charter: Charter, signed: frozenset[Digest], out: frozenset[MemberId], which: str
    ) -> None:
        rule = charter.decisions[Action.CHARTER_AMEND]
        voters = {
            key.owner
            for key in charter.listed_keys()
            if key.kind is KeyKind.APPROVAL
            and key.public.keyid in signed
            and key.owner not in out
            and _holds(charter, key.owner, rule.role)
        }
        if len(voters) < rule.threshold:
            raise PolicyError(
                f"the amendment is signed by {len(voters)} members of the version {which}: "
                f"expected at least {rule.threshold}, collect more approvals",
                code="sub-quorum",
            )


def found(charter: Charter, keyids: Iterable[Digest], *, at: Timestamp) -> CharterHistory:
    """Return the history that begins with `charter`, signed by every key that it lists.

    Raises `PolicyError` when the charter does not hold, is not version 1 or has expired, and
    `VerificationError` (codes ``unknown-key``, ``no-possession``) for its signatures.
    """
    if charter.version != 1:
        raise VerificationError(
            f"a consortium is founded by version {charter.version}: expected version 1",
            code="skipped-version",
        )
    check(charter)
    _not_expired(charter, at)
    signed = frozenset(keyids)
    proofs = new_keys(None, charter)
    _no_strangers(signed, None, charter, proofs)
    _possession(proofs, signed)
    return CharterHistory((charter,))


def _with_decisions(
    charter: Charter, out: frozenset[MemberId], grants: tuple[ExposureRule, ...]
) -> Charter:
    """Return `charter` with the members `out` marked as suspended and rows `grants` added."""
    members = {
        name: msgspec.structs.replace(member, suspended=member.suspended or name in out)
        for name, member in charter.members.items()
    }
    return msgspec.structs.replace(charter, members=members, exposure=(*charter.exposure, *grants))


def _index(charter: Charter) -> Mapping[Digest, ListedKey]:
    return {key.public.keyid: key for key in charter.listed_keys()}


def _holds(charter: Charter, owner: MemberId, role: Role) -> bool:
    if owner == charter.coordinator.name:
        return role is Role.COORDINATOR
    member = charter.members.get(owner)
    return member is not None and role in member.roles


def _not_expired(charter: Charter, at: Timestamp) -> None:
    if at >= charter.expires:
        raise PolicyError(
            f"charter version {charter.version} expires before it takes effect: "
            "expected a time to come, set a later `expires`",
            code="expired",
        )


def _no_strangers(
    signed: frozenset[Digest], old: Charter | None, new: Charter, proofs: tuple[ListedKey, ...]
) -> None:
    """Refuse signatures that neither vote nor prove possession: none is left unexplained."""
    welcome = {key.public.keyid for key in proofs}
    for charter in (old, new):
        if charter is not None:
            welcome |= {k.public.keyid for k in charter.listed_keys() if k.kind is KeyKind.APPROVAL}
    strange = sorted(signed - welcome)
    if strange:
        raise VerificationError(
            f"charter version {new.version} is signed by key {strange[0][:16]}: "
            "expected approval keys and keys that this version lists anew, "
            "remove that signature",
            code="unknown-key",
        )


def _possession(proofs: tuple[ListedKey, ...], signed: frozenset[Digest]) -> None:
    for key in proofs:
        if key.public.keyid not in signed:
            raise VerificationError(
                f"the {key.kind.value} key {key.public.hex[:16]} of {key.owner} has not signed "
                "the charter that lists it: expected a proof of possession, sign with it",
                code="no-possession",
            )
