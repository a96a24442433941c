"""Statements: the closed set of things that may stand in the log, and how they are signed.

A statement is an in-toto Statement v1 whose predicate is one of the Records registered
here, sealed in a DSSE envelope. Guarantees (docs/spec/statements.md):
  * Every predicate type has one Record, one kind of signing key, and one artefact
    class for each field. A field without a class fails at import.
  * `open_statement` returns a `Verified` value or raises; past that door everything
    accepts only `Verified`.
  * Subjects are derived from the predicate, so that they cannot contradict it.

Whether the author may say this now is the business of the folds (`consortium`).
"""

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, Protocol, TypeVar, cast

import msgspec

from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import DigestField, MemberName, Name, Record
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.governance.exposure import FORMS, Artefact, Form
from treaty.governance.roles import KeyKind
from treaty.ids import Digest, MemberId

__all__ = [
    "MAX_ENTRY_BYTES",
    "PREDICATE_BASE",
    "Body",
    "Directory",
    "Documents",
    "FieldClass",
    "KeyHolder",
    "Parsed",
    "Predicate",
    "SignerKind",
    "StatementType",
    "Subject",
    "Verified",
    "holds_something",
    "kind_of",
    "of_kind",
    "open_statement",
    "peek",
    "registered",
    "seal_statement",
    "sealed_and_parsed",
    "statement",
    "statement_payload",
]

PREDICATE_BASE = "https://treaty.example/predicate/"
"""Every predicate type of Treaty hangs under this one URI."""

MAX_ENTRY_BYTES = 65_535
"""A log entry is prefixed by a 16-bit length in its bundle (C2SP tlog-tiles)."""


SignerKind = KeyKind
"""Which of a party's keys signs a statement."""

FieldClass = Artefact | tuple[Artefact, Form]
"""The artefact class of a field, with its form where the class can have several."""


class Sha256(Record):
    """A digest set with SHA-256 alone."""

    sha256: DigestField


class Subject(Record):
    """What a statement is about: a name and the digest of its bytes."""

    digest: Sha256
    name: Name

    @staticmethod
    def of(name: str, digest: str) -> "Subject":
        """Return the subject `name` with SHA-256 `digest`."""
        return Subject(name=name, digest=Sha256(sha256=digest))


class Predicate(Record):
    """Base of every predicate of ours: which charter it is made under, and by whom."""

    charter: DigestField
    author: MemberName

    def subjects(self) -> tuple[Subject, ...]:
        """Return what the statement is about; the charter unless a type says otherwise."""
        return (Subject.of("charter", self.charter),)


class Body(Protocol):
    """What every predicate offers, ours or of a foreign standard."""

    __struct_fields__: ClassVar[tuple[str, ...]]

    @property
    def charter(self) -> str:
        """Return the digest of the charter it is made under."""
        ...

    @property
    def author(self) -> str:
        """Return who says it."""
        ...

    def subjects(self) -> tuple[Subject, ...]:
        """Return what it is about."""
        ...


P = TypeVar("P", bound=Body, covariant=True)
_Q = TypeVar("_Q", bound=Body)


class _Frame(Record, Generic[_Q]):
    kind: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    predicate: _Q
    predicate_type: str = msgspec.field(name="predicateType")
    subject: tuple[Subject, ...]


class _Glance(msgspec.Struct, frozen=True):
    """What must be known of a statement before it can be decoded: its type. Nothing is checked."""

    predicate_type: str = msgspec.field(name="predicateType")


_GLANCE = msgspec.json.Decoder(_Glance)


@dataclass(frozen=True, slots=True)
class StatementType:
    """One entry of the registry."""

    name: str
    uri: str
    kind: type[Body]
    signer: SignerKind | None
    several: bool
    classes: Mapping[str, tuple[Artefact, Form]]
    frame: type[_Frame[Body]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Who holds a key, and for what."""

    owner: MemberId
    kind: SignerKind
    public: PublicKey


@dataclass(frozen=True, slots=True)
class Directory:
    """The keys that may sign under one charter version, and who is suspended."""

    charter: Digest
    holders: Mapping[Digest, KeyHolder]
    suspended: frozenset[MemberId] = frozenset()
    keys: Mapping[Digest, PublicKey] = field(default_factory=dict)

    @staticmethod
    def of(
        charter: Digest,
        holders: Sequence[KeyHolder],
        suspended: frozenset[MemberId] = frozenset(),
    ) -> "Directory":
        """Return the directory of `holders`, indexed by key id."""
        indexed = {holder.public.keyid: holder for holder in holders}
        return Directory(
            charter,
            MappingProxyType(indexed),
            suspended,
            MappingProxyType({keyid: holder.public for keyid, holder in indexed.items()}),
        )


class Verified(msgspec.Struct, Generic[P], frozen=True):
    """A statement whose signatures hold. `open_statement` makes one, and `open_charter`.

    `digest` is the SHA-256 of the envelope bytes: the statement's identity in the log. The bytes
    are not kept beside what they say: whoever holds statements would hold them twice.
    """

    predicate: P
    digest: Digest
    keyids: frozenset[Digest]

    @property
    def author(self) -> MemberId:
        """Return who made the statement."""
        return MemberId(self.predicate.author)


def of_kind(verified: "Verified[Body]", kind: type[_Q]) -> "Verified[_Q]":
    """Return `verified` as a statement of `kind`; `UsageError` when it is another."""
    if not isinstance(verified.predicate, kind):
        raise UsageError(f"expected {kind.__name__}, got {type(verified.predicate).__name__}")
    return cast("Verified[_Q]", verified)


_BY_URI: dict[str, StatementType] = {}
_BY_KIND: dict[type[Body], StatementType] = {}
_K = TypeVar("_K", bound=Body)
_IDENTIFYING = frozenset({"charter", "author"})


def statement(
    name: str,
    *,
    signer: SignerKind | None,
    classes: Mapping[str, FieldClass],
    several: bool = False,
    uri: str | None = None,
) -> Callable[[type[_K]], type[_K]]:
    """Register a predicate Record under ``PREDICATE_BASE + name``.

    `classes` gives the artefact class of every field but `charter` and `author`. With
    `several` more than one key may sign. A type without a `signer` is opened by its
    own fold, which knows which keys must sign. Raises `UsageError` at import when a field
    has no class.
    """

    def register(kind: type[_K]) -> type[_K]:
        fields = set(kind.__struct_fields__) - _IDENTIFYING
        if fields != set(classes):
            odd = ", ".join(sorted(fields ^ set(classes)))
            raise UsageError(f"expected one artefact class for each field of {name}, check: {odd}")
        address = uri or PREDICATE_BASE + name
        if address in _BY_URI:
            raise UsageError(f"predicate type {address} is registered twice")
        identifying = _IDENTIFYING & set(kind.__struct_fields__)
        every = {name: _with_form(value) for name, value in classes.items()}
        every |= dict.fromkeys(identifying, (Artefact.IDENTIFIER, Form.PLAIN))
        entry = StatementType(
            name, address, kind, signer, several, MappingProxyType(every), _framed(kind)
        )
        _BY_URI[address] = entry
        _BY_KIND[kind] = entry
        return kind

    return register


def _framed(kind: type[Body]) -> type[_Frame[Body]]:
    # A class of its own, named as what it holds: the key of its decoder is found at once.
    framed = _Frame[kind]  # type: ignore[valid-type]  # made at import
    return cast("type[_Frame[Body]]", types.new_class(kind.__name__, (framed,)))


def _with_form(value: FieldClass) -> tuple[Artefact, Form]:
    if isinstance(value, tuple):
        return value
    forms = FORMS[value]
    if len(forms) != 1:
        raise UsageError(f"artefact class {value.value} has several forms: name the one meant")
    return value, next(iter(forms))


def statement_kinds() -> tuple[str, ...]:
    """Return the names of all kinds of statements that a log can hold, in alphabetical order."""
    return tuple(sorted(kind.__name__ for kind in _BY_KIND))


def registered(kind: type[Body]) -> StatementType:
    """Return the registry entry of a predicate Record; `UsageError` if there is none."""
    entry = _BY_KIND.get(kind)
    if entry is None:
        raise UsageError(f"{kind.__name__} is not a registered statement")
    return entry


def holds_something(body: Body, name: str) -> bool:
    """Say whether a field of `body` says anything: it is neither null nor left out."""
    value = getattr(body, name)
    return value is not None and value is not msgspec.UNSET


def kind_of(uri: str) -> type[Body] | None:
    """Return the predicate Record of a predicate type, or None if it is unknown."""
    entry = _BY_URI.get(uri)
    return None if entry is None else entry.kind


def statement_payload(predicate: Body) -> bytes:
    """Return the canonical in-toto Statement bytes of `predicate`."""
    entry = registered(type(predicate))
    return canonical.encode(
        _Frame(
            kind="https://in-toto.io/Statement/v1",
            predicate=predicate,
            predicate_type=entry.uri,
            subject=predicate.subjects(),
        )
    )


Documents = Callable[[Digest], bytes]
"""Returns the bytes with a digest, or raises `ResourceError` when they are not at hand."""

Parsed = tuple[envelope.Envelope, Body]
"""What `peek` returns."""


def seal_statement(predicate: Body, *signers: SigningKey) -> bytes:
    """Return the envelope of `predicate`, signed by `signers`.

    Raises `UsageError` when the result is not what `open_statement` would read.
    """
    return sealed_and_parsed(predicate, *signers)[0]


def sealed_and_parsed(predicate: Body, *signers: SigningKey) -> tuple[bytes, Parsed]:
    """Return what `seal_statement` does, and what `peek` gives for it: for who will need both."""
    payload = statement_payload(predicate)
    frame = registered(type(predicate)).frame
    try:
        body: Body = canonical.decode(payload, frame).predicate
    except FormatError as error:
        raise UsageError(f"statement would not be readable: {error}") from error
    parts = envelope.signed(payload, signers)
    sealed = envelope.join(payload, dict(parts.signatures))
    if len(sealed) > MAX_ENTRY_BYTES:
        raise UsageError(
            f"expected a statement of at most {MAX_ENTRY_BYTES} bytes, got {len(sealed)}; "
            "put large content in a blob"
        )
    return sealed, (parts, body)


def peek(data: bytes, *, limit: int = MAX_ENTRY_BYTES) -> Parsed:
    """Return the parsed envelope and predicate of `data`, nothing verified.

    For readers that must know the type before they can choose the keys. A larger `limit` is for
    envelopes that do not stand in the log themselves. Raises `FormatError`.
    """
    if len(data) > limit:
        raise FormatError(f"expected an entry of at most {limit} bytes, got {len(data)}")
    parsed = envelope.parse(data, limit=limit)
    return parsed, _predicate(parsed.payload)


def open_statement(
    data: bytes,
    directory: Directory,
    parsed: Parsed | None = None,
    made: Collection[Digest] = (),
    digest: Digest | None = None,
) -> Verified[Body]:
    """Return the verified statement in `data`.

    Checks: 1 canonical envelope and statement; 2 a known predicate type; 3 made under the
    directory's charter; 4 every signature by a key of the charter; 5 the keys are of the
    kind this statement wants and belong to the author; 6 the author is not suspended.
    `parsed` spares a second parsing to who has called `peek` on the same bytes, `made` a
    verification to who sealed them: digests of envelopes that the caller itself has signed.
    `digest` is the SHA-256 of `data`, for who has it.
    Raises `FormatError` for 1 and 2, `VerificationError` (with a code) for the rest.
    """
    parts, predicate = peek(data) if parsed is None else parsed  # 1, 2
    entry = registered(type(predicate))
    if entry.signer is None:
        raise VerificationError(
            f"{entry.name} has no place among ordinary statements", code="wrong-signatures"
        )
    if predicate.charter != directory.charter:  # 3
        raise VerificationError(
            f"expected a statement under charter {directory.charter[:16]}, "
            f"got {predicate.charter[:16]}",
            code="wrong-charter",
        )
    digest = canonical.sha256(data) if digest is None else digest
    if digest in made:  # 4
        keyids = envelope.known_keys(parts, directory.keys)
    else:
        keyids = envelope.verified_keys(parts, directory.keys)
    for keyid in keyids:  # 5
        holder = directory.holders[keyid]
        if holder.kind is not entry.signer:
            raise VerificationError(
                f"expected a {entry.signer.value} key under {entry.name}, "
                f"got a {holder.kind.value} key",
                code="wrong-key-kind",
            )
        if not entry.several and holder.owner != predicate.author:
            raise VerificationError(
                f"statement of {predicate.author} is signed by a key of {holder.owner}",
                code="wrong-author",
            )
        if holder.owner in directory.suspended:  # 6
            raise VerificationError(f"member {holder.owner} is suspended", code="suspended")
    if not entry.several and len(keyids) != 1:
        raise VerificationError(
            f"expected one signature under {entry.name}, got {len(keyids)}",
            code="wrong-signatures",
        )
    return Verified(predicate, digest, keyids)


def _predicate(payload: bytes) -> Body:
    try:
        uri = _GLANCE.decode(payload).predicate_type
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FormatError(f"expected a statement: {error}") from error
    entry = _BY_URI.get(uri)
    if entry is None:
        raise FormatError(f"expected a known predicate type, got {uri[:80]!r}")
    frame = canonical.decode(payload, entry.frame, limit=MAX_ENTRY_BYTES)
    # Canonical bytes hold each key once, so the type that was glanced at is the frame's.
    predicate: Body = frame.predicate
    if predicate.subjects() != frame.subject:
        raise FormatError(f"subjects of {entry.name} differ from those its predicate implies")
    return predicate
