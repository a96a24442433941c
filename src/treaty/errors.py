"""The four kinds of failure, one for each remedy and exit code.

A refusal changes nothing: the state after the exception is the state before it.
Messages say what was found and what was expected, in lower case, without a full
stop and without secrets. Nothing that a peer sends may surface as `UsageError`.
"""

__all__ = [
    "FormatError",
    "PeerError",
    "PolicyError",
    "ResourceError",
    "TreatyError",
    "UsageError",
    "VerificationError",
    "code_of",
]


class TreatyError(Exception):
    """Root of every failure that Treaty raises on purpose."""

    exit_code = 1


class UsageError(TreatyError):
    """The caller on this side made a mistake: mend the call or the command."""

    exit_code = 2


class PeerError(TreatyError):
    """What another party sent does not hold: refuse it."""

    exit_code = 3


class FormatError(PeerError):
    """The bytes do not parse as what they should be."""


class VerificationError(PeerError):
    """The bytes parse but do not prove what they claim.

    `code` is a short stable name of the reason (``sum-mismatch``), for machines
    and tests; the message is for people.
    """

    def __init__(self, message: str, *, code: str = "not-proved") -> None:
        super().__init__(message)
        self.code = code


class PolicyError(TreatyError):
    """Authentic, but the charter or the site's own policy forbids it."""

    exit_code = 4

    def __init__(self, message: str, *, code: str = "not-allowed") -> None:
        super().__init__(message)
        self.code = code


class ResourceError(TreatyError):
    """A store, a disk or an engine failed: mend it and try again."""

    exit_code = 5


def code_of(error: TreatyError) -> str:
    """Return the stable name of `error` for journals, programs and tests.

    It is the error's own code where it has one, else that of its kind: ``format``, ``usage``,
    ``peer``, ``policy`` or ``resource``.
    """
    code = getattr(error, "code", None)
    if isinstance(code, str) and code:
        return code
    if isinstance(error, FormatError):
        return "format"
    return {2: "usage", 3: "peer", 4: "policy", 5: "resource"}.get(error.exit_code, "treaty")
