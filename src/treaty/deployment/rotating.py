"""Rotating: a site makes new keys beside the old ones, and changes over when the log lists them.

`prepare` makes the keys and the request; the desk proposes it, here or at another member. `install`
changes over: whichever of the new keys the charter in force lists takes the place of the old one,
which is erased. Every step can be repeated, and one that was cut off goes on.

Guarantees (docs/spec/governance.md, section 10):
  * A key in force is neither moved nor erased before the charter in the site's own log lists
    another in its place.
  * New keys have mode 0600 and never leave the directory; the request holds public halves alone.

``rotation/keys/`` holds what is not in force yet, ``rotation/request.json`` what the members
decide on, ``current-charter.json`` the version by which keys were exchanged last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import MemberName, Record
from treaty.crypto.keys import SigningKey
from treaty.deployment.places import SITE_KEYS
from treaty.errors import PolicyError, UsageError, VerificationError
from treaty.governance.amendment import CharterHistory, new_keys
from treaty.governance.charter import Charter, charter_bytes, require_networked
from treaty.governance.rotation import rotated, rotated_member
from treaty.governance.validity import check
from treaty.protocol.membership import charter_statement
from treaty.protocol.statements import seal_statement, statement_payload
from treaty.stores.files import erase_file, os_errors, write_private_file
from treaty.stores.system import SystemEntropy
from treaty.wiring import create_keys, load_key, make_directory, read_private_file, write_file

__all__ = [
    "Prepared",
    "Rotation",
    "install",
    "is_pending",
    "open_rotation",
    "pending_roles",
    "prepare",
    "replace_lost",
    "settle",
    "transport_keys",
]

_LIMIT = 1 << 20
_PLACE = "rotation"
_REQUEST = "request.json"


class Rotation(Record):
    """A member's new keys: the version that lists them, and its statement signed by each."""

    format: Literal["treaty.key-rotation/v1"] = "treaty.key-rotation/v1"
    member: MemberName
    charter: Charter
    statement: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """New keys that wait: their request, where it lies, and the public half for each purpose."""

    data: bytes
    path: Path
    public: tuple[tuple[str, str], ...]


def prepare(
    directory: Path,
    name: str,
    roles: Sequence[str],
    history: CharterHistory,
    held: SigningKey | None,
) -> Prepared:
    """Make new keys for `roles`, beside those that wait already, and write the request.

    `held` is the officer's present approval key, where it lies elsewhere. Raises `UsageError` for a
    role that a site has no key for, or where it is unclear which of several keys is exchanged, and
    `PolicyError` when this member is suspended.
    """
    strange = sorted(set(roles) - set(SITE_KEYS))
    if strange or not roles:
        raise UsageError(
            f"expected some of {', '.join(SITE_KEYS)}, got {' '.join(strange) or 'none'}"
        )
    if name in history.excluded():
        raise PolicyError(
            f"{name} is suspended: its keys are exchanged by the amendment that readmits it",
            code="suspended",
        )
    if name not in history.current.members:
        raise PolicyError(f"the charter names no member {name}", code="no-such-member")
    place = directory / _PLACE
    wanted = [role for role in SITE_KEYS if role in {*roles, *pending_roles(directory)}]
    for role in pending_roles(directory):
        waiting = load_key(place, role).public.hex
        if waiting in _listed(history.current, name, role):
            raise UsageError(f"the new {role} key is in force: start the site, which changes over")
        if waiting in history.retired_keys():
            # Of a backup: whoever had cause to give it up may not be the only one who holds it.
            raise UsageError(
                f"the {role} key that waits was in force once and was given up: remove "
                f"{_key_file(place, role)}, so that another is made"
            )
    listed = history.current.members[name].keys
    exchanged = {role: _place_of(directory, role, getattr(listed, role), held) for role in wanted}
    make_directory(place)
    keys = create_keys(place, wanted, SystemEntropy())
    fresh = {
        role: tuple(
            keys[role].public.hex if number == exchanged[role] else one
            for number, one in enumerate(getattr(listed, role))
        )
        for role in wanted
    }
    charter = rotated(
        history.current,
        name,
        msgspec.structs.replace(listed, **fresh),
        suspended=history.suspended,
    )
    check(charter)
    statement = seal_statement(charter_statement(charter), *keys.values())
    data = canonical.encode(
        Rotation(member=name, charter=charter, statement=envelope.encode_base64(statement))
    )
    write_file(place / _REQUEST, data + b"\n", label="rotation")
    return Prepared(data, place / _REQUEST, tuple((role, keys[role].public.hex) for role in wanted))


def open_rotation(data: bytes, history: CharterHistory) -> tuple[Rotation, bytes]:
    """Return the request in `data` and its statement, signed by every key that it lists anew.

    Raises `FormatError`, `VerificationError`, or `PolicyError` (``stale-rotation``,
    ``not-a-rotation``, ``suspended``, ``retired-key``) when it is none that follows the version in
    force.
    """
    request = canonical.decode(data.removesuffix(b"\n"), Rotation, limit=_LIMIT)
    charter = request.charter
    require_networked(charter)
    check(charter)
    found = rotated_member(history.current, charter, suspended=history.suspended)
    if found != request.member:
        raise VerificationError(
            f"the request is of {request.member} and exchanges the keys of {found}",
            code="wrong-charter",
        )
    history.require_unretired(charter)
    statement = envelope.decode_base64(request.statement)
    parsed = envelope.parse(statement)
    if parsed.payload != statement_payload(charter_statement(charter)):
        raise VerificationError(
            f"{found} has signed something else than the charter that it sends",
            code="wrong-charter",
        )
    own = [key.public for key in new_keys(history.current, charter)]
    if len(envelope.verified_keys(parsed, {key.keyid: key for key in own})) != len(own):
        raise VerificationError(
            f"not every new key of {found} has signed: expected a proof of possession of each",
            code="no-possession",
        )
    return request, statement


def pending_roles(directory: Path) -> tuple[str, ...]:
    """Return the purposes for which a new key waits."""
    folder = directory / _PLACE / "keys"
    return tuple(role for role in SITE_KEYS if (folder / f"{role}.key").is_file())


def is_pending(directory: Path) -> bool:
    """Say whether the members have still to agree to new keys of this site."""
    return (directory / _PLACE / _REQUEST).is_file()


def transport_keys(directory: Path) -> list[SigningKey]:
    """Return the keys with which this site may connect: the one in force, then one that waits."""
    keys = [load_key(directory, "transport")]
    if "transport" in pending_roles(directory):
        keys.append(load_key(directory / _PLACE, "transport"))
    return keys


def replace_lost(directory: Path) -> tuple[str, ...]:
    """Put a new key in the place of each gone that a process needs; return for which purposes.

    So a site whose key was lost can start: what it signs counts once the members have agreed.
    """
    # The approval key may lie elsewhere on purpose, and no process needs it.
    lost = [
        role
        for role in pending_roles(directory)
        if role != "approval" and not _key_file(directory, role).exists()
    ]
    for role in lost:
        _copy(directory, role)
    return tuple(lost)


def install(directory: Path, name: str, charter: Charter) -> tuple[str, ...]:
    """Let the new keys that `charter`, which is in force, lists take the place of the old ones.

    Return for which purposes; nothing where none waits. Old keys are overwritten and removed.
    Persist points ``key-installed`` and ``key-erased``.
    """
    done: list[str] = []
    for role in pending_roles(directory):
        waiting, listed = _key_file(directory / _PLACE, role), _listed(charter, name, role)
        new = load_key(directory / _PLACE, role).public.hex
        if new not in listed or _holds_another(directory, role, new, listed):
            continue
        if not done:
            # A data set that is registered from now on names the version that lists these keys.
            write_file(directory / "current-charter.json", charter_bytes(charter))
        _copy(directory, role)
        erase_file(waiting, label="key-erased")
        done.append(role)
    return tuple(done)


def settle(directory: Path) -> None:
    """Take the exchange for finished, for a site that has connected: no key waits any more.

    Until then a refused key is waited for: the server is told a moment after the log.
    """
    request = directory / _PLACE / _REQUEST
    if request.exists() and not pending_roles(directory):
        with os_errors(request, "erase"):
            request.unlink()


def _copy(directory: Path, role: str) -> None:
    """Let the waiting key of `role` take the place of the one in force, which is erased."""
    target = _key_file(directory, role)
    retired = target.with_name(f".retired-{role}")
    data = read_private_file(_key_file(directory / _PLACE, role))
    _erase_retired(retired, target)
    if target.exists() and read_private_file(target) != data:
        # A second name keeps the old key within reach, so that it can be overwritten afterwards.
        with os_errors(retired, "write"):
            retired.hardlink_to(target)
    write_private_file(target, data, label="key-installed")
    _erase_retired(retired, target)


def _erase_retired(retired: Path, target: Path) -> None:
    with os_errors(retired, "erase"):
        if not retired.exists():
            return
        if target.exists() and retired.samefile(target):
            # Cut off before the new key took its place: the bytes are in force still.
            retired.unlink()
            return
    erase_file(retired, label="key-erased")


def _place_of(directory: Path, role: str, listed: tuple[str, ...], held: SigningKey | None) -> int:
    """Return which of the `listed` keys of `role` is exchanged: this directory's, or the only one.

    Raises `UsageError` where that is unclear.
    """
    if len(listed) == 1:
        return 0
    mine = held if role == "approval" else None
    if _key_file(directory, role).is_file():
        here = load_key(directory, role)
        if mine is not None and here.public.hex in set(listed) - {mine.public.hex}:
            # Prevents it from being erased for a key that takes its place.
            raise UsageError(
                f"{_key_file(directory, role)} holds another {role} key that stays in force: move "
                "it elsewhere first, so that the new one has its place"
            )
        mine = mine or here
    if mine is None or mine.public.hex not in listed:
        raise UsageError(
            f"the charter lists {len(listed)} {role} keys of this member and the one to be "
            "exchanged is not here: write the version as a file (treaty charter amend)"
        )
    return listed.index(mine.public.hex)


def _holds_another(directory: Path, role: str, new: str, listed: tuple[str, ...]) -> bool:
    """Say whether a key of the site that stays in force lies where the `new` one would."""
    if not _key_file(directory, role).exists():
        return False
    present = load_key(directory, role).public.hex
    return present != new and present in listed


def _listed(charter: Charter, name: str, role: str) -> tuple[str, ...]:
    member = charter.members.get(name)
    found: tuple[str, ...] = () if member is None else getattr(member.keys, role)
    return found


def _key_file(directory: Path, role: str) -> Path:
    return directory / "keys" / f"{role}.key"
