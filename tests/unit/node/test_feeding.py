"""What is made for one member's feed serves the others, unless it is that member's alone.

Planted faults that these tests caught: a portion with sealed columns kept for everybody; nothing
kept at all; one frame for portions of another length, or with other blobs.
"""

from treaty.crypto.canonical import sha256
from treaty.ids import Digest
from treaty.node.feeding import Made, Portion
from treaty.protocol.frames import decode_feed
from treaty.protocol.messages import TimeStated
from treaty.protocol.secagg_messages import EpochSealed

CHARTER = Digest("c" * 64)
COLUMN = Digest("1" * 64)
ENTRIES = (b"one", b"two", b"three")
NOTE = "a checkpoint"


def stated() -> TimeStated:
    return TimeStated(charter=CHARTER, author="hub", at=1)


def sealed() -> EpochSealed:
    return EpochSealed(charter=CHARTER, author="hub", epoch_hash="e" * 64, dealers=("a", "b", "c"))


def test_what_every_member_lacks_is_put_together_once() -> None:
    """A portion that brings everyone the same serves whoever has as many entries."""
    made, part = Made(), Portion(3, {}, {})
    made.keep(1, part, (stated(), stated()))
    assert made.portion(1) is part
    assert made.portion(2) is None


def test_the_columns_of_one_member_are_sent_to_no_other() -> None:
    """A portion with the end of dealing in it is that member's alone, wherever it stands."""
    for bodies in ((sealed(),), (stated(), sealed()), (sealed(), stated())):
        made = Made()
        made.keep(0, Portion(len(bodies), {COLUMN: b"column"}, {}), bodies)
        assert made.portion(0) is None


def test_a_feed_is_encoded_once_for_the_same_entries_and_blobs() -> None:
    """Same first entry, end and blobs: the same bytes object; anything else is another feed."""
    made = Made()
    frame = made.frame(1, Portion(3, {}, {}), ENTRIES, NOTE)
    assert decode_feed(frame).entries == (b"two", b"three")
    assert made.frame(1, Portion(3, {}, {}), ENTRIES, NOTE) is frame
    assert decode_feed(made.frame(1, Portion(2, {}, {}), ENTRIES, NOTE)).entries == (b"two",)
    assert decode_feed(made.frame(0, Portion(3, {}, {}), ENTRIES, NOTE)).entries == ENTRIES
    brings = Portion(3, {sha256(b"column"): b"column"}, {})
    assert decode_feed(made.frame(1, brings, ENTRIES, NOTE)).blobs == brings.blobs
