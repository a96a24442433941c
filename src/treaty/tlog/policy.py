"""Policy: which logs are known, which witnesses, and how many of them are enough.

Guarantees (docs/spec/log.md, section 5; C2SP tlog-policy):
  * `Policy.require` raises unless the cosignatures of a checkpoint meet the quorum, counting
    each witness once.
  * `witness_quorum` is the number for which any two quorums share an honest witness and the
    honest ones can still form one: no two different histories are cosigned.

A text written here names the URL of every witness: C2SP makes it optional, but a widespread
reader refuses a witness line without one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from treaty.errors import FormatError, UsageError, VerificationError
from treaty.tlog.checkpoint import SignedCheckpoint, parse_decimal
from treaty.tlog.notes import Algorithm, Verifier

__all__ = [
    "MAX_POLICY_BYTES",
    "NO_QUORUM",
    "Group",
    "KnownLog",
    "KnownWitness",
    "Policy",
    "max_faulty",
    "parse_policy",
    "policy_of_members",
    "witness_quorum",
]

MAX_POLICY_BYTES: Final = 1 << 16
NO_QUORUM: Final = "none"
_GROUP: Final = "members"


def max_faulty(members: int) -> int:
    """Return f = floor((N - 1) / 3), the faulty members that N members tolerate."""
    if members < 1:
        raise UsageError(f"a consortium has at least one member, got {members}")
    return (members - 1) // 3


def witness_quorum(members: int, max_colluders: int) -> int:
    """Return floor((N + max(c, f)) / 2) + 1 cosignatures, f = `max_faulty`.

    Two sets of that many share more than max(c, f) witnesses, hence an honest one. Raises
    `UsageError` unless 0 <= c < N.
    """
    if not 0 <= max_colluders < members:
        raise UsageError(f"colluders {max_colluders} must be between 0 and {members - 1}")
    return (members + max(max_colluders, max_faulty(members))) // 2 + 1


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log: its key, named like its origin, and where it is reached."""

    verifier: Verifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class KnownWitness:
    """A witness: its name in this policy, its key, and where it is reached."""

    name: str
    verifier: Verifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Met when at least `threshold` of `members` (witnesses, earlier groups) are."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A checkpoint holds when a known log signed it and `quorum` is met (``none``: always)."""

    logs: tuple[KnownLog, ...]
    witnesses: tuple[KnownWitness, ...]
    groups: tuple[Group, ...]
    quorum: str

    def __post_init__(self) -> None:
        problem = _problem_of(self)
        if problem:
            raise UsageError(problem)

    @property
    def witness_keys(self) -> tuple[Verifier, ...]:
        """The keys to open a checkpoint with."""
        return tuple(witness.verifier for witness in self.witnesses)

    def is_met_by(self, cosigners: Collection[Verifier]) -> bool:
        """Whether cosignatures of exactly these keys meet the quorum."""
        met = {witness.name for witness in self.witnesses if witness.verifier in cosigners}
        for group in self.groups:
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(group.name)
        return self.quorum == NO_QUORUM or self.quorum in met

    def require(self, signed: SignedCheckpoint) -> None:
        """Raise `VerificationError` unless `signed` is of a known log and meets the quorum.

        Codes ``unknown-log`` and ``no-quorum``.
        """
        origin = signed.checkpoint.origin
        if not any(log.verifier.name == origin for log in self.logs):
            raise VerificationError(
                f"the policy does not know the log {origin}", code="unknown-log"
            )
        if not self.is_met_by([cosignature.witness for cosignature in signed.cosignatures]):
            raise VerificationError(
                f"expected cosignatures that meet the quorum {self.quorum}, got "
                f"{len(signed.cosignatures)} of {len(self.witnesses)} witnesses",
                code="no-quorum",
            )

    def quorum_time_s(self, signed: SignedCheckpoint) -> int | None:
        """Return the latest time by which a quorum had cosigned, in seconds.

        That is the age to judge: a single fast clock among the witnesses cannot make an old
        checkpoint look new. ``None`` when the quorum asks for nobody. Raises as `require`.
        """
        self.require(signed)
        if self.quorum == NO_QUORUM:
            return None
        counted: list[Verifier] = []
        for cosignature in sorted(signed.cosignatures, key=lambda one: -one.time_s):
            counted.append(cosignature.witness)
            if self.is_met_by(counted):
                return cosignature.time_s
        raise UsageError("a met quorum is met by all its cosignatures")

    def encode(self) -> bytes:
        """Return the policy text; raises `UsageError` when a witness has no URL."""
        lines = [_line("log", log.verifier.vkey, log.url or "") for log in self.logs]
        for witness in self.witnesses:
            if not witness.url:
                raise UsageError(
                    f"a policy names the URL of every witness, {witness.name} has none"
                )
            lines.append(_line("witness", witness.name, witness.verifier.vkey, witness.url))
        lines.extend(
            _line("group", group.name, str(group.threshold), *group.members)
            for group in self.groups
        )
        lines.append(_line("quorum", self.quorum))
        return "".join(lines).encode("utf-8", "surrogateescape")


def policy_of_members(
    log: KnownLog, witnesses: Sequence[KnownWitness], max_colluders: int
) -> Policy:
    """Return the policy of a consortium: every member a witness, `witness_quorum` of them."""
    names = tuple(witness.name for witness in witnesses)
    group = Group(_GROUP, witness_quorum(len(names), max_colluders), names)
    return Policy((log,), tuple(witnesses), (group,), _GROUP)


def parse_policy(data: bytes) -> Policy:
    """Return the policy written as `data` (C2SP tlog-policy); raises `FormatError`.

    A URL may be absent. Names are opaque octets.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise FormatError(f"expected a policy of at most {MAX_POLICY_BYTES} bytes, got {len(data)}")
    if any((byte < 0x20 and byte not in b"\t\n") or byte == 0x7F for byte in data):
        raise FormatError("expected a policy without control characters")
    logs: list[KnownLog] = []
    witnesses: list[KnownWitness] = []
    groups: list[Group] = []
    quorums: list[str] = []
    if data and not data.endswith(b"\n"):
        raise FormatError("expected a policy whose last line ends in a newline")
    for number, row in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), start=1):
        fields = [field for field in row.replace("\t", " ").split(" ") if field]
        match fields:
            case []:
                continue
            case [first, *_] if first.startswith("#"):
                continue
            case ["log", vkey, *url] if len(url) <= 1:
                logs.append(KnownLog(Verifier.from_vkey(vkey), *url))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                witnesses.append(KnownWitness(name, Verifier.from_vkey(vkey), *url))
                _refuse_late(quorums, number)
            case ["group", name, threshold, *members] if members:
                groups.append(Group(name, _threshold(threshold, len(members)), tuple(members)))
                _refuse_late(quorums, number)
                _refuse_undefined(members, witnesses, groups[:-1], number)
            case ["quorum", name]:
                quorums.append(name)
            case _:
                raise FormatError(f"expected a log, witness, group or quorum in line {number}")
    if len(quorums) != 1:
        raise FormatError(f"expected one quorum line in the policy, got {len(quorums)}")
    try:
        return Policy(tuple(logs), tuple(witnesses), tuple(groups), quorums[0])
    except UsageError as error:
        raise FormatError(str(error)) from error


def _problem_of(policy: Policy) -> str:
    """Why the parts are no policy, or nothing.

    1. Logs sign as logs, witnesses cosign, and no key stands twice in either list.
    2. A name is defined once, is not ``none``, and holds no separator.
    3. A group names defined things, each at most once in the whole policy: else one witness
       could count twice.
    4. Thresholds lie between 1 and the number of members.
    5. The quorum is defined.
    """
    if any(log.verifier.algorithm is not Algorithm.ED25519 for log in policy.logs) or any(
        witness.verifier.algorithm is not Algorithm.COSIGNATURE for witness in policy.witnesses
    ):  # 1
        return "expected log keys of type 1 and witness keys of type 4"
    for known in (policy.logs, policy.witnesses):
        keys = [one.verifier.public for one in known]
        if len(set(keys)) != len(keys):
            return "expected each key once among logs and once among witnesses"
    defined = [witness.name for witness in policy.witnesses]
    used: list[str] = []
    for group in policy.groups:
        if not set(group.members) <= set(defined):  # 3
            return f"expected members of {group.name} that are defined before it"
        if not 1 <= group.threshold <= len(group.members):  # 4
            return f"expected a threshold of {group.name} between 1 and {len(group.members)}"
        defined.append(group.name)
        used.extend(group.members)
    if len(set(defined)) != len(defined) or NO_QUORUM in defined:  # 2
        return "expected each name to be defined once, and none to be left alone"
    urls = [log.url for log in policy.logs] + [witness.url for witness in policy.witnesses]
    if any(not _is_word(word) for word in (*defined, *urls) if word is not None):
        return "expected names and addresses without white space or control characters"
    if len(set(used)) != len(used):  # 3
        return "expected each name in at most one group"
    if policy.quorum != NO_QUORUM and policy.quorum not in defined:  # 5
        return f"expected the quorum {policy.quorum} to be a witness or a group"
    return ""


def _is_word(text: str) -> bool:
    return bool(text) and all(char > " " and char != "\x7f" for char in text)


def _threshold(word: str, members: int) -> int:
    match word:
        case "any":
            return 1
        case "all":
            return members
        case _:
            return parse_decimal(word, "threshold")


def _refuse_late(quorums: Sequence[str], number: int) -> None:
    if quorums:
        raise FormatError(f"expected the quorum after line {number}, not before it")


def _refuse_undefined(
    members: Sequence[str],
    witnesses: Sequence[KnownWitness],
    groups: Sequence[Group],
    number: int,
) -> None:
    defined = {witness.name for witness in witnesses} | {group.name for group in groups}
    if not set(members) <= defined:
        raise FormatError(f"expected names defined before line {number}")


def _line(*fields: str) -> str:
    return " ".join(field for field in fields if field) + "\n"
