"""The desk that founds a consortium, and the loop of a live party, without clock or server.

Planted and caught: a signature by another member's key that counts, a partial statement over
another charter, signatures forgotten at a restart, one key that signs for its member alone; a
simulation's charter signed; deadlines that answers prolong, or that never pass while frames
arrive; a reminder that never comes.
"""

from collections.abc import Callable

import msgspec
import pytest

from tests.unit.deployment.test_papers import (
    MEMBERS,
    TERMS,
    key,
    keys_of,
    open_request,
    request_of,
)
from treaty.crypto import envelope
from treaty.crypto.canonical import sha256
from treaty.deployment.papers import compose
from treaty.engines.embedded import EmbeddedNetwork
from treaty.errors import PeerError, PolicyError, UsageError
from treaty.governance.charter import charter_bytes
from treaty.ids import MemberId
from treaty.node.founding import FoundingDesk, founding_post, sign_founding
from treaty.node.serving import Pace, serve
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Post, encode_frame
from treaty.stores.memory import MemoryStore
from treaty.stores.system import MemoryJournal

HUB = MemberId(TERMS.coordinator.name)
A, B, C = (MemberId(name) for name in MEMBERS)
CHARTER = compose(TERMS, {name: open_request(request_of(name), TERMS) for name in (A, B, C)})
OWN = (key("hub runner"), key("hub log"))


def desk(store: MemoryStore | None = None) -> FoundingDesk:
    return FoundingDesk(
        charter=CHARTER,
        keys=OWN,
        store=store or MemoryStore(),
        engine=EmbeddedNetwork((HUB, A, B, C)).endpoint(HUB),
        journal=MemoryJournal(),
    )


def signed(member: MemberId) -> bytes:
    return founding_post(member, sign_founding(CHARTER, member, *keys_of(member).values()))


def test_the_charter_is_founded_when_every_key_has_signed() -> None:
    store = MemoryStore()
    at = desk(store)
    assert at.missing() == (A, B, C)
    at.handle(A, signed(A))
    at.handle(A, signed(A))
    at.handle(C, signed(C))
    assert at.missing() == (B,)
    # The process ends; what was collected is durable.
    at = desk(store)
    assert at.missing() == (B,)
    at.handle(B, signed(B))
    assert at.missing() == ()
    data = charter_bytes(CHARTER)
    state, _ = Consortium(sha256(data)).apply(at.statement(), {sha256(data): data}.__getitem__)
    assert state.membership is not None


def test_a_site_does_not_sign_the_charter_of_a_simulation() -> None:
    """Its secrets would come from a seed that others know."""
    simulated = msgspec.structs.replace(CHARTER, simulation=True)
    with pytest.raises(PolicyError, match="simulation = true") as refused:
        sign_founding(simulated, A, *keys_of(A).values())
    assert refused.value.code == "simulation"


def test_nobody_signs_for_another_and_nothing_else_is_signed() -> None:
    at = desk()
    theirs = sign_founding(CHARTER, A, *keys_of(A).values())
    other = compose(
        TERMS,
        {
            name: open_request(
                request_of(name, **({"runner": key("new")} if name == A else {})), TERMS
            )
            for name in (A, B, C)
        },
    )
    new = sign_founding(other, A, *(keys_of(A) | {"runner": key("new")}).values())
    junk = envelope.seal(b"{}", tuple(keys_of(A).values()))
    for sender, frame, code in (
        (B, founding_post(B, theirs), "unknown-key"),
        (B, founding_post(A, theirs), "wrong-author"),
        (A, founding_post(A, new), "wrong-anchor"),
        (A, founding_post(A, junk), "wrong-anchor"),
        (A, encode_frame(Post(A, 0, "", (b"x",))), ""),
        (A, b"", ""),
    ):
        with pytest.raises(PeerError) as refused:
            at.handle(sender, frame)
        assert getattr(refused.value, "code", "") == code
    assert at.missing() == (A, B, C)


def test_one_of_a_members_keys_is_not_enough() -> None:
    at = desk()
    whole = envelope.parse(sign_founding(CHARTER, A, *keys_of(A).values()))
    one = envelope.seal(whole.payload, [keys_of(A)["approval"]])
    at.handle(A, founding_post(A, one))
    assert at.missing() == (A, B, C)
    at.handle(A, signed(A))
    assert at.missing() == (B, C)


def test_a_site_signs_only_a_charter_that_lists_its_own_keys() -> None:
    with pytest.raises(UsageError, match=r"keys of a\.example"):
        sign_founding(CHARTER, A, *keys_of(B).values())
    with pytest.raises(UsageError, match=r"keys of a\.example"):
        sign_founding(CHARTER, A, keys_of(A)["approval"])


class Clockwork:
    """A node of one phase after another, and the time that its loop spends."""

    def __init__(self, frames: Callable[[int], bool] = lambda now: False) -> None:
        self.name = A
        self.now = 0
        self.reminded: list[int] = []
        self.expired: list[int] = []
        self.ticks = 0
        self.state = Consortium(sha256(b""))
        self.journal = MemoryJournal()
        self.frames = frames

    @property
    def engine(self) -> "Clockwork":
        return self

    def receive(self) -> None:
        return None

    def handle(self, sender: MemberId, frame: bytes) -> None:
        raise AssertionError("no frame was sent")

    def flush(self) -> bool:
        if self.frames(self.now):
            self.now += 10
            return True
        return False

    def on_quiet(self) -> bool:
        return False

    def expects_more(self) -> bool:
        return False

    def remind(self) -> bool:
        self.reminded.append(self.now)
        return False

    def expire(self) -> bool:
        self.expired.append(self.now)
        return False

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1000)

    def tick(self) -> None:
        self.ticks += 1

    def live(self, until: int) -> None:
        serve(
            self,  # type: ignore[arg-type]  # as much of a node as the loop looks at
            wait=self.wait,
            stop=lambda: self.now >= until,
            now_ms=lambda: self.now,
            tick=self.tick,
            pace=Pace(remind_ms=500, wait_ms=100, tick_ms=200),
        )


def test_a_quiet_node_is_reminded_and_its_phase_ends() -> None:
    node = Clockwork()
    node.live(150_000)
    assert node.reminded[:3] == [500, 1000, 1500]
    assert node.expired == [60_000, 120_000]
    assert node.ticks == pytest.approx(750, abs=2)


def test_frames_put_reminders_off_and_do_not_prolong_a_phase() -> None:
    """Something arrives three times a second: never quiet for long, and the phase ends."""
    node = Clockwork(lambda now: now % 300 < 100)
    node.live(130_000)
    assert node.reminded == []
    assert len(node.expired) == 2
    assert 60_000 <= node.expired[0] <= 61_000


def test_frames_without_an_end_do_not_stop_the_clock() -> None:
    node = Clockwork(lambda now: True)
    node.live(61_000)
    assert node.expired == [60_000] and node.reminded == []
