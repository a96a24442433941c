"""Accession: the charter version by which one more institution becomes a member.

The *terms* of an accession are the next version with the newcomer listed and its places for keys
empty; with its keys filled in they are the version that members vote on. So whoever joins agrees to
everything before it makes a key, and members decide on exactly these keys.

Guarantees (docs/spec/governance.md, section 8):
  * Terms differ from the version in force in what a new member forces and in nothing else, unless
    people edit them: the majority for amendments grows with the number of members, and so may the
    least number behind a sum.
  * `newcomer_of` finds the one new member of a version that adds exactly one.
"""

import msgspec

from treaty.errors import PolicyError, UsageError
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.exposure import SUMS
from treaty.governance.quorum import DerivedParameters
from treaty.governance.roles import Action, Role
from treaty.governance.terms import DecisionRule, Member, MemberKeys
from treaty.ids import MemberId

__all__ = ["accession_terms", "newcomer_of", "next_version", "with_keys", "without_keys"]


def accession_terms(
    current: Charter,
    name: str,
    *,
    title: str = "",
    suspended: frozenset[MemberId] = frozenset(),
) -> Charter:
    """Return the version after `current` in which `name` is a member whose keys are still to come.

    Members `suspended` by decision stay so. The newcomer gets the roles of a member, a witness and,
    like the members of the template, a steward.
    Raises `UsageError` for a name that is taken, `PolicyError` where no parameters exist.
    """
    if name in current.members or name == current.coordinator.name:
        raise UsageError(f"{name} is in the charter already: expected a new name")
    newcomer = Member(
        title=title or name,
        roles=(Role.MEMBER, Role.WITNESS, Role.STEWARD),
        keys=MemberKeys(),
    )
    following = next_version(current, suspended=suspended)
    members = dict(sorted({**following.members, name: newcomer}.items()))
    return _raised(msgspec.structs.replace(following, members=members))


def next_version(current: Charter, *, suspended: frozenset[MemberId]) -> Charter:
    """Return the version after `current` that changes nothing else.

    Members `suspended` by decision stay so: an amendment that does not say so would readmit them.
    """
    members = {
        one: msgspec.structs.replace(member, suspended=member.suspended or one in suspended)
        for one, member in current.members.items()
    }
    return msgspec.structs.replace(
        current,
        version=current.version + 1,
        previous=charter_digest(current),
        readmits=(),
        members=members,
    )


def newcomer_of(current: Charter, following: Charter) -> MemberId:
    """Return the one member of `following` that `current` does not name.

    Raises `PolicyError` (code ``not-an-accession``) when there is none or more than one.
    """
    new = sorted(set(following.members) - set(current.members))
    if len(new) != 1:
        raise PolicyError(
            f"version {following.version} names {len(new)} members that version {current.version} "
            "does not: expected exactly one, let them join one after the other",
            code="not-an-accession",
        )
    return MemberId(new[0])


def with_keys(terms: Charter, name: str, keys: MemberKeys) -> Charter:
    """Return `terms` with the keys of `name`."""
    member = msgspec.structs.replace(terms.members[name], keys=keys)
    return msgspec.structs.replace(terms, members={**terms.members, name: member})


def without_keys(charter: Charter, name: str) -> Charter:
    """Return `charter` with empty places for the keys of `name`: the terms that it agreed to."""
    return with_keys(charter, name, MemberKeys())


def _raised(charter: Charter) -> Charter:
    """Return `charter` with the thresholds raised that its number of members forces."""
    policy = charter.secure_aggregation
    members = len(charter.active_members())
    least = DerivedParameters(members, policy.max_colluders).least_min_survivors
    if policy.min_survivors is not None and policy.min_survivors < least:
        policy = msgspec.structs.replace(policy, min_survivors=least)
    survivors = max(least, policy.min_survivors or 0)
    decisions = dict(charter.decisions)
    needed = members // 2 + 1
    for action in (Action.CHARTER_AMEND, Action.EXPOSURE_GRANT):
        # What widens the matrix needs as many as what amends.
        rule = decisions.get(action)
        if rule is not None:
            needed = max(needed, rule.threshold)
            decisions[action] = DecisionRule(role=rule.role, threshold=needed)
    exposure = tuple(
        msgspec.structs.replace(rule, least_members=survivors)
        if rule.allow and rule.artefact in SUMS and rule.least_members < survivors
        else rule
        for rule in charter.exposure
    )
    return msgspec.structs.replace(
        charter, decisions=decisions, exposure=exposure, secure_aggregation=policy
    )
