"""Subjects: the names that a consortium uses on a NATS server, and who may use which.

Guarantees (docs/spec/transport.md, section 3):
  * Names of members map to tokens one to one: a dot becomes an underscore, which no name holds.
  * Each direction of each member, and each member's objects, is a stream of its own: what one
    member repeats, floods or numbers touches no other member's stream.
  * `member_permissions` is the least that a member's node needs. Consumers are made by the
    coordinator alone: who may create one may have the server publish to any subject.

This module does no input or output.
"""

from dataclasses import dataclass

from treaty.ids import Digest, MemberId

__all__ = ["Permissions", "Subjects"]


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a connection may publish to and subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def _token(name: str) -> str:
    return name.replace(".", "_")


@dataclass(frozen=True, slots=True)
class Subjects:
    """The names of one consortium whose coordinator is `coordinator`."""

    consortium: str
    coordinator: MemberId

    @property
    def root(self) -> str:
        """Return what all subjects of the consortium begin with."""
        return f"treaty.{_token(self.consortium)}"

    def up(self, member: MemberId) -> str:
        """Return the subject that `member` alone publishes its posts to."""
        return f"{self.root}.up.{_token(member)}"

    def down(self, member: MemberId) -> str:
        """Return the subject of the feeds for `member`."""
        return f"{self.root}.down.{_token(member)}"

    def objects(self, party: MemberId) -> str:
        """Return what the subjects of the objects that `party` offers begin with."""
        return f"{self.root}.bulk.{_token(party)}"

    def piece(self, party: MemberId, digest: Digest, piece: str) -> str:
        """Return the subject of one piece of an object: ``head``, or a chunk's number."""
        return f"{self.objects(party)}.{digest}.{piece}"

    def frames_from(self, sender: MemberId) -> str:
        """Return the word of an inbox below which the frames of `sender` arrive."""
        return _token(sender)

    def inbox(self, party: MemberId) -> str:
        """Return what the subjects of replies to `party` begin with."""
        return f"_INBOX_{_token(party)}"

    def up_stream(self, member: MemberId) -> str:
        """Return the stream that keeps the posts of `member` until they are acknowledged."""
        return f"T_{_token(self.consortium)}_UP_{_token(member)}"

    def down_stream(self, member: MemberId) -> str:
        """Return the stream that keeps the feeds for `member` until they are acknowledged."""
        return f"T_{_token(self.consortium)}_DOWN_{_token(member)}"

    def object_stream(self, party: MemberId) -> str:
        """Return the stream of the objects that `party` offers."""
        return f"T_{_token(self.consortium)}_BULK_{_token(party)}"

    def consumer(self, reader: MemberId) -> str:
        """Return the name of the durable consumer by which `reader` reads a stream."""
        return _token(reader)

    def member_permissions(self, member: MemberId) -> Permissions:
        """Return what the node of `member` may do: its own subjects, and the hub's objects."""
        down, own = self.down_stream(member), self.object_stream(member)
        reader, hub = self.consumer(member), self.coordinator
        return Permissions(
            publish=(
                self.up(member),
                f"{self.objects(member)}.>",
                f"$JS.API.STREAM.INFO.{own}",
                f"$JS.API.CONSUMER.MSG.NEXT.{down}.{reader}",
                f"$JS.ACK.{down}.{reader}.>",
                f"$JS.API.DIRECT.GET.{self.object_stream(hub)}.{self.objects(hub)}.>",
            ),
            subscribe=(f"{self.inbox(member)}.>",),
        )

    def coordinator_permissions(self) -> Permissions:
        """Return what the coordinator may do: everything of its consortium, but no other inbox."""
        return Permissions(
            publish=(
                f"{self.root}.down.>",
                f"{self.objects(self.coordinator)}.>",
                "$JS.API.>",
                "$JS.ACK.>",
            ),
            subscribe=(f"{self.inbox(self.coordinator)}.>",),
        )
