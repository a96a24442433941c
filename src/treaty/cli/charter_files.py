"""Charters as files: read, judge, sign, merge and amend them, away from any network.

Guarantees:
  * Nothing is signed that was not read: signing needs the charter itself, its checks pass, and
    every key is listed there for the purpose that its file states.
  * A file is never overwritten, but for a statement that grows by signatures.
  * Approval keys stay offline: charter and statement go to the key, not the key to them.

LIMIT: an amendment is judged against the version before it alone, as if nobody were suspended
by decision; the log has the last word.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

import msgspec

from treaty import wiring
from treaty.crypto import envelope
from treaty.crypto.keys import KeyFile, PublicKey, SigningKey, decode_key_file, encode_key_file
from treaty.errors import FormatError, PeerError, PolicyError, UsageError, VerificationError
from treaty.governance.amendment import CharterHistory, found, new_keys
from treaty.governance.charter import (
    Charter,
    ListedKey,
    charter_bytes,
    charter_digest,
    charter_from_toml,
    charter_to_toml,
    parse_charter,
)
from treaty.governance.exposure import SUMS, Artefact, Decision, Form
from treaty.governance.roles import KeyKind, Role
from treaty.governance.validity import check
from treaty.ids import Digest
from treaty.protocol.membership import charter_statement
from treaty.protocol.messages import CharterPublished
from treaty.protocol.statements import peek, statement_payload

__all__ = [
    "Signing",
    "canonical_text",
    "explain_exposure",
    "make_key",
    "read_charter",
    "read_key",
    "read_statement",
    "require_complete",
    "sign_charter",
    "signing_state",
    "successor_toml",
    "unnamed",
]

_LIMIT_BYTES = 1 << 20
_Choice = TypeVar("_Choice", bound=Enum)


def unnamed(path: Path, error: Exception) -> str:
    """Return the text of `error` behind the name of the file it is about."""
    return f"{path}: {error}"


def read_charter(path: Path) -> Charter:
    """Return the charter in `path`, TOML or canonical JSON, unchecked.

    Raises `UsageError` for TOML that is no charter, `FormatError` for JSON that is none.
    """
    text = wiring.read_text(path, _LIMIT_BYTES)
    try:
        if text.startswith("{"):
            return parse_charter(text.removesuffix("\n").encode())
        return charter_from_toml(text)
    except UsageError as error:
        raise UsageError(unnamed(path, error)) from error
    except FormatError as error:
        raise FormatError(unnamed(path, error)) from error


def make_key(role: str, path: Path) -> PublicKey:
    """Make a key for `role` in the new file `path`, mode 0600; `ResourceError` if it exists."""
    key = SigningKey.generate(wiring.SystemEntropy().bytes(32))
    wiring.write_new_private_file(path, encode_key_file(role, key))
    return key.public


def read_key(path: Path) -> KeyFile:
    """Return the key in `path`. Raises `ResourceError` when others may read the file."""
    data = wiring.read_private_file(path)
    try:
        return decode_key_file(data)
    except FormatError as error:
        # The decoder's words are left out: they are about a secret file.
        raise UsageError(
            f"{path} is no key file, or a damaged one: expected a file of `treaty key new`"
        ) from error


@dataclass(frozen=True, slots=True)
class Signing:
    """Who has signed a charter, who has not, and what still stands in the way.

    `open` is empty when the charter could take effect now.
    """

    digest: Digest
    signed: tuple[ListedKey, ...]
    missing: tuple[ListedKey, ...]
    open: str

    def record(self) -> Mapping[str, object]:
        """Return it for programs."""
        return {
            "charter": self.digest,
            "complete": not self.open,
            "missing": [_shown(key) for key in self.missing],
            "open": self.open,
            "signed": [_shown(key) for key in self.signed],
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield f"charter {self.digest}"
        for word, keys in (("signed by", self.signed), ("missing", self.missing)):
            for key in keys:
                yield f"{word} {key.owner} {key.kind.value} {key.public.hex[:16]}"
        yield f"not complete: {self.open}" if self.open else "complete"


def _shown(key: ListedKey) -> Mapping[str, str]:
    return {"key": key.public.hex, "kind": key.kind.value, "owner": key.owner}


def signing_state(charter: Charter, statement: bytes, previous: Charter | None) -> Signing:
    """Return how far the signatures in `statement` carry `charter`.

    Raises `VerificationError` when the statement is about another charter, a signature does
    not verify or its key has no business there; `PolicyError` when the charter does not hold.
    What is merely missing is in the result.
    """
    check(charter)
    parsed, body = peek(statement, limit=envelope.MAX_GATHERED_BYTES)
    if not isinstance(body, CharterPublished) or parsed.payload != _payload(charter):
        raise VerificationError(
            f"the statement is not about charter {charter_digest(charter)[:16]}: "
            "expected its publication, sign this charter",
            code="wrong-charter",
        )
    known = _known(charter, previous)
    signed = envelope.verified_keys(parsed, {keyid: key.public for keyid, key in known.items()})
    missing = tuple(key for key in new_keys(previous, charter) if key.public.keyid not in signed)
    listed = tuple(key for keyid, key in known.items() if keyid in signed)
    return Signing(charter_digest(charter), listed, missing, _obstacle(charter, previous, signed))


def require_complete(charter: Charter, statement: bytes, previous: Charter | None) -> Signing:
    """Return `signing_state`; raise what stands in the way, if anything does."""
    state = signing_state(charter, statement, previous)
    _effect(charter, previous, frozenset(key.public.keyid for key in state.signed))
    return state


def sign_charter(
    sources: Sequence[Path], keys: Sequence[Path], out: Path, previous: Path | None
) -> Signing:
    """Write to `out` one statement with the signatures of `sources` and of `keys`.

    One of `sources` is the charter, the others are statements about it. Raises as
    `signing_state`; `UsageError` for keys that the charter does not list.
    """
    statements: list[bytes] = []
    charters: list[Charter] = []
    for path in sources:
        data = wiring.read_file(path, _LIMIT_BYTES)
        if data.startswith(b'{"payload"'):
            statements.append(data.removesuffix(b"\n"))
        else:
            charters.append(read_charter(path))
    if len(charters) != 1:
        raise UsageError(
            f"expected one charter among the files to sign, got {len(charters)}: "
            "give it with --in, beside the statements to merge"
        )
    (charter,) = charters
    before = None if previous is None else read_charter(previous)
    _require_previous(charter, before)
    if not statements and not keys:
        raise UsageError("nothing to sign with and nothing to merge: give --key or another --in")
    if out.exists() and out not in sources:
        raise UsageError(
            f"{out} exists and is not among the files to merge: "
            "give it with --in as well, or choose another name"
        )
    known = _known(charter, before)
    signers = [_entitled(read_key(path), path, known) for path in keys]
    if signers:
        statements.append(envelope.seal(_payload(charter), signers))
    merged = envelope.merge(statements)
    state = signing_state(charter, merged, before)
    wiring.write_file(out, merged + b"\n")
    return state


def successor_toml(path: Path) -> str:
    """Return the TOML of the version after the charter in `path`, to be edited."""
    charter = read_charter(path)
    check(charter)
    following = msgspec.structs.replace(
        charter, version=charter.version + 1, previous=charter_digest(charter), readmits=()
    )
    return (
        f"# Version {following.version} of the charter of {charter.consortium}. Change what is to "
        "change,\n# then run `treaty charter diff` and `treaty charter sign --previous`.\n"
        + charter_to_toml(following)
    )


def read_statement(path: Path) -> bytes:
    """Return the envelope in `path`, which nothing has been verified of."""
    return wiring.read_file(path, _LIMIT_BYTES).removesuffix(b"\n")


def explain_exposure(
    charter: Charter, role: str, artefact: str, form: str, *, members: int | None = None
) -> Decision:
    """Return the matrix's answer. Sums stand on at least `min_survivors` members unless told.

    Raises `UsageError` for a role, class or form that does not exist.
    """
    what = _chosen(Artefact, artefact, "artefact")
    if members is None:
        members = charter.parameters().min_survivors if what in SUMS else 1
    return charter.exposure_matrix().decide(
        what, _chosen(Role, role, "role"), _chosen(Form, form, "form"), members
    )


def _chosen(kind: type[_Choice], word: str, what: str) -> _Choice:
    try:
        return kind(word)
    except ValueError as error:
        known = ", ".join(str(one.value) for one in kind)
        raise UsageError(f"expected a {what} out of {known}, got {word!r}") from error


def canonical_text(charter: Charter) -> str:
    """Return the bytes that are hashed and signed, as text."""
    return charter_bytes(charter).decode()


def _payload(charter: Charter) -> bytes:
    return statement_payload(charter_statement(charter))


def _known(charter: Charter, previous: Charter | None) -> dict[Digest, ListedKey]:
    """Return the keys that may stand under the statement, by key id."""
    known = {key.public.keyid: key for key in charter.listed_keys()}
    if previous is not None:
        for key in previous.listed_keys():
            if key.kind is KeyKind.APPROVAL:
                known.setdefault(key.public.keyid, key)
    return known


def _entitled(file: KeyFile, path: Path, known: Mapping[Digest, ListedKey]) -> SigningKey:
    listed = known.get(file.key.public.keyid)
    if listed is None:
        raise UsageError(
            f"the key in {path} is not in the charter: expected one that it lists, enter "
            f"{file.key.public.hex} there first, or give the version before with --previous"
        )
    # A runner's key entered as an approval key would vote unattended.
    if file.role != listed.kind.value:
        raise UsageError(
            f"the key in {path} was made for {file.role}, the charter lists it as the "
            f"{listed.kind.value} key of {listed.owner}: make a key for that purpose"
        )
    return file.key


def _require_previous(charter: Charter, previous: Charter | None) -> None:
    if previous is None and charter.version > 1:
        raise UsageError(
            f"this is version {charter.version} of a charter: give the version before it with "
            "--previous"
        )
    if previous is not None and charter.previous != charter_digest(previous):
        raise UsageError(
            f"version {charter.version} does not follow the charter given as --previous: "
            f"expected the one with digest {charter.previous}"
        )


def _effect(charter: Charter, previous: Charter | None, signed: frozenset[Digest]) -> None:
    """Raise what would keep `charter` from taking effect now."""
    now = wiring.SystemClock().now()
    _require_previous(charter, previous)
    if previous is None:
        found(charter, signed, at=now)
    else:
        CharterHistory((previous,)).amend(charter, signed, at=now)


def _obstacle(charter: Charter, previous: Charter | None, signed: frozenset[Digest]) -> str:
    try:
        _effect(charter, previous, signed)
    except (PolicyError, PeerError) as error:
        return str(error)
    return ""
