"""Inviting: how a coordinator lets an institution ask to join a consortium that is founded.

The invitation holds the terms: the version of the charter after the one in force, in which the
newcomer is a member whose keys are still to come. It decides nothing and holds no secret: the
members accept whoever joins, key by key (`treaty.protocol.accession`).
"""

from pathlib import Path

from treaty.deployment.followed import FollowedLog
from treaty.deployment.papers import Invite, encode_invite, require_accession_terms
from treaty.deployment.places import founded, load_hub
from treaty.errors import PolicyError, UsageError
from treaty.governance.accession import accession_terms, newcomer_of
from treaty.governance.charter import Charter, charter_digest
from treaty.ids import Digest
from treaty.stores.system import SystemClock
from treaty.wiring import load_key, make_directory, write_new_file

__all__ = ["invite_newcomer"]


def invite_newcomer(
    directory: Path, name: str, out: Path, *, terms: Charter | None = None
) -> tuple[Path, Digest]:
    """Write an invitation into the founded consortium for `name`; return it and its terms' digest.

    `terms` is the next version with empty places for the keys of `name`, where people have written
    it; by default it is the version in force with one more member. Raises `UsageError` before the
    founding or for a member, `PolicyError` when the terms do not hold or do not follow.
    """
    found = founded(directory)
    if found is None:
        raise UsageError(
            "the consortium is not founded yet: prepare the coordinator with this member too"
        )
    log = FollowedLog(directory)
    log.refresh()
    if log.state.membership is None:
        raise UsageError("the consortium is not founded yet: the members have still to sign")
    history = log.state.members.history
    if name in history.current.members:
        raise UsageError(f"{name} is a member already")
    if terms is None:
        terms = accession_terms(history.current, name, suspended=history.suspended)
    require_accession_terms(terms, name, found[1])
    if terms.previous != history.digest or newcomer_of(history.current, terms) != name:
        raise PolicyError(
            f"expected terms after version {history.current.version} ({history.digest[:16]}) in "
            f"which {name} is the one new member: begin with `treaty charter amend`",
            code="wrong-previous",
        )
    make_directory(out, mode=0o755)
    paper = Invite(
        member=name,
        url=load_hub(directory).url,
        pin=load_key(directory, "server").public.keyid,
        made_at=SystemClock().now(),
        terms=terms,
        founding=found[1],
    )
    # Of an invitation by later terms the name says so: an older one is not written over.
    path = out / f"invite-{name}-{terms.version}.json"
    write_new_file(path, encode_invite(paper) + b"\n")
    return path, charter_digest(terms)
