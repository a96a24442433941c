"""Names and numbers that every layer shares."""

from enum import Enum
from typing import NewType

__all__ = ["Digest", "MemberId", "SingleEnum", "StudyId", "Timestamp"]

MemberId = NewType("MemberId", str)
"""A member of the consortium: 1 to 63 of ``a-z 0-9 . -``, starting with a letter or digit."""

StudyId = NewType("StudyId", str)
"""A study: same alphabet as `MemberId`."""

Digest = NewType("Digest", str)
"""SHA-256 as 64 lower-case hexadecimal digits."""

Timestamp = NewType("Timestamp", int)
"""Milliseconds since the Unix epoch, UTC."""


class SingleEnum(Enum):
    """Base of enumerations that are looked up for every field or statement.

    Every member is there once, so it hashes as an object does, at once; an `Enum` hashes its name.
    """

    __hash__ = object.__hash__
