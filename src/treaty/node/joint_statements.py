"""Joint statements: those that several officers sign, each at home, and that enter the log whole.

Amendments of the charter and releases of models. A part never stands in the log by itself: it is
kept at the coordinator until the whole would be taken by the fold, and sent by its member until
what it signs is settled.
"""

from treaty.crypto.keys import SigningKey
from treaty.ids import MemberId
from treaty.node import amending, releasing
from treaty.node.intake import Pending
from treaty.ports import EventStore, Journal
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import CharterPublished
from treaty.protocol.statements import Body, peek

__all__ = ["JointStatements", "is_settled"]


class JointStatements:
    """What is being signed, in the coordinator's store. `key` is its runner key."""

    def __init__(
        self, store: EventStore, journal: Journal, name: MemberId, key: SigningKey
    ) -> None:
        self._amendments = amending.Amendments(store, journal, name, key)
        self._releases = releasing.Releases(store, journal, name)

    def takes(self, item: Pending, body: Body, state: Consortium) -> bool:
        """Keep what a member signed of a whole; say whether it was that, to be kept or not."""
        amends = self._amendments.takes(item, body, state)
        return amends or self._releases.takes(item, body, state)

    def ready(self, state: Consortium) -> list[Pending]:
        """Return what is whole and could take effect now, as the log's next entries.

        Releases first: an amendment would void them.
        """
        return [*self._releases.ready(state), *self._amendments.ready(state)]


def is_settled(statement: bytes, state: Consortium) -> bool:
    """Say whether what `statement` signs took effect, or never can.

    So ends the sending of a part of a whole, and of what was made under a charter that is over: the
    log takes neither.
    """
    if state.membership is None:
        return False
    body = peek(statement)[1]
    if isinstance(body, CharterPublished):
        return amending.is_settled(statement, state)
    past = {one.previous for one in state.members.history.versions}
    return body.charter in past or releasing.is_settled(statement, state)
