"""What every subclass of `Record` inherits, whatever it says itself.

Planted and caught: the metaclass without `kw_only`, `Record` not frozen, unknown fields allowed.
"""

import pytest

from treaty.crypto.canonical import Record, decode, encode
from treaty.errors import FormatError


class Visit(Record):
    """A required field may follow an optional one, since arguments have names."""

    count: int = 1
    site: str


def test_a_record_takes_arguments_by_name_only() -> None:
    """A field added in the middle cannot move the meaning of a call."""
    arguments = (1, "cleveland")
    with pytest.raises(TypeError):
        Visit(*arguments)  # type: ignore[call-arg]  # the refusal is what is tested
    assert Visit(site="cleveland").count == 1


def test_a_record_never_changes() -> None:
    """Its digest stays the digest of what was signed."""
    visit = Visit(site="cleveland")
    with pytest.raises(AttributeError):
        visit.count = 2  # type: ignore[misc]  # the refusal is what is tested
    assert hash(visit) == hash(Visit(site="cleveland"))


def test_a_record_is_closed() -> None:
    """What the type does not declare is refused."""
    data = encode(Visit(site="cleveland"))
    assert decode(data, Visit) == Visit(site="cleveland")
    with pytest.raises(FormatError, match="unknown field"):
        decode(data[:-1] + b',"zip":"44101"}', Visit)
