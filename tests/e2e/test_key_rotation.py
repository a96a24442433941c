"""A member exchanges its keys over the network: agreed to, installed everywhere, the old ones out.

Processes on loopback, of which some are killed, with keys that are lost.

Planted and caught: a site that does not install what the log lists; one that does not try the key
that waits when it is cut off; a server that lets the old key in; the amendment while a study runs;
what cannot enter the log any more sent for ever; a site that ends when its new key is refused a
moment too early.
"""

import asyncio
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import SITES, contract
from treaty.crypto.keys import SigningKey
from treaty.deployment.rotating import settle
from treaty.errors import PolicyError
from treaty.ids import Digest, MemberId
from treaty.models.specification import LogisticRegression
from treaty.stores.system import MemoryJournal
from treaty.wiring import load_key

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HUB, Rig, asked, assert_one_history, treaty
from tests.standstill import go_on, stand_still
from treaty.deployment.agent import SiteProcess
from treaty.engines.jetstream import JetStreamEngine, NatsParty
from treaty.engines.nats_link import Link, LinkSettings
from treaty.engines.subjects import Subjects

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]

MODEL = LogisticRegression(site_intercepts=True)
LEAD, OTHER, THIRD, FOURTH = SITES
ROLES = ("approval", "runner", "transport", "witness")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A founded consortium of four whose processes run."""
    with Rig(tmp_path_factory.mktemp("network")).serving() as made:
        yield made


def held(rig: Rig, name: str) -> dict[str, SigningKey]:
    return {role: load_key(rig.place(name), role) for role in ROLES}


def listed(rig: Rig, name: str, at: str = HUB) -> dict[str, tuple[str, ...]]:
    keys = rig.state(at).charter.members[name].keys
    return {role: getattr(keys, role) for role in ROLES}


class OpenLine:
    """A connection that `name` holds with a key, and says nothing on."""

    def __init__(self, rig: Rig, name: str, key: SigningKey) -> None:
        charter = rig.state(HUB).charter
        pin = Digest(str(charter.coordinator.certificate))
        inbox = Subjects(charter.consortium, MemberId(HUB)).inbox(MemberId(name))
        self._settings = LinkSettings(f"tls://127.0.0.1:{rig.port}", pin, key, inbox, name)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.link = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(20)

    async def _open(self) -> Link:
        link = Link(self._settings, lambda *_: None)
        link.start()
        await link.connected(10, give_up=True)
        return link

    def close(self) -> None:
        """End the connection and its thread."""
        asyncio.run_coroutine_threadsafe(self.link.close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)


def connects(rig: Rig, name: str, key: SigningKey) -> bool:
    """Try whether the server lets `name` in with `key`."""
    charter = rig.state(HUB).charter
    party = NatsParty(
        url=f"tls://127.0.0.1:{rig.port}",
        pin=Digest(str(charter.coordinator.certificate)),
        key=key,
        name=MemberId(name),
        consortium=charter.consortium,
        coordinator=MemberId(HUB),
    )
    engine = JetStreamEngine(party, MemoryJournal())
    try:
        engine.connect(10)
    except PolicyError as error:
        assert error.code == "key-refused"
        return False
    finally:
        engine.close()
    return True


def journal(rig: Rig, name: str) -> list[str]:
    return (rig.place(name) / "journal.jsonl").read_text().splitlines()


def study(rig: Rig, name: str) -> Digest:
    plan = rig.plan(contract(), MODEL, study=name)
    plan = msgspec.structs.replace(plan, charter=rig.state(HUB).members.directory.charter)
    return Digest(rig.decide(plan, contract()))


def test_what_is_not_to_be_had_is_said_and_makes_no_key(rig: Rig) -> None:
    """A coordinator's keys, a key that a site has not, somebody else's file, another role."""
    hub, site = rig.place(HUB), rig.place(LEAD)
    said = treaty("key", "rotate", "runner", "--dir", hub, code=2)
    assert "the keys of a coordinator are not exchanged by this command" in said
    assert "'log'" in treaty("key", "rotate", "log", "--dir", site, code=2)
    wrong = site / "keys" / "runner.key"
    assert "expected approval" in treaty(
        *("key", "rotate", "witness", "--dir", site, "--key", wrong), code=2
    )
    said = treaty("key", "accept", site / "anchor.txt", "--dir", site, code=3)
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not (site / "rotation").exists() and not list((site / "outbox").glob("*.json"))
    # What is to be done is asked of the party whose directory it is.
    assert treaty("next", "--role", "coordinator", "--dir", hub) == "nothing to do\n"
    assert treaty("next", "--role", "steward", "--dir", site) == "nothing to do\n"
    assert "export a bundle" in treaty("next", "--role", "auditor", "--dir", site)
    for words in (("member", "--dir", hub), ("coordinator", "--dir", site)):
        assert "has nothing to do there" in treaty("next", "--role", *words, code=2)
    said = treaty("next", "--role", "member", "--dir", site, "--member", LEAD, code=2)
    assert "leave --member out" in said


def test_all_keys_of_a_member_are_exchanged_while_a_study_runs(rig: Rig) -> None:
    old, before = held(rig, OTHER), listed(rig, OTHER)
    line = OpenLine(rig, OTHER, old["transport"])
    running = study(rig, "first")
    made = asked("key", "rotate", *ROLES, "--dir", rig.place(OTHER))
    number = Digest(str(made["proposal"]))
    waiting = rig.place(OTHER) / "rotation" / "keys"
    assert {stat.S_IMODE(one.stat().st_mode) for one in waiting.iterdir()} == {0o600}
    rig.until(lambda: number in rig.state(LEAD).proposals, "no proposal")
    shown = treaty("proposal", "show", number, "--dir", rig.place(LEAD))
    assert shown.count(f"changes    {OTHER} has a new") == 4
    assert held(rig, OTHER)["runner"].public == old["runner"].public
    rig.until(lambda: number in rig.state(THIRD).proposals, "no proposal")
    for name in (LEAD, THIRD):
        asked_next = treaty("next", "--role", "member", "--dir", rig.place(name))
        assert asked_next.startswith(f"vote on proposal {number[:16]}: key.rotate")
        treaty("proposal", "vote", number, "approve", "--dir", rig.place(name))
    rig.until(lambda: rig.finished(running), "the study does not end")
    rig.until(lambda: rig.state(HUB).charter.version == 2, "the keys do not come into force")
    assert OTHER in rig.state(HUB).studies[running].rounds[-1].members_in
    assert listed(rig, OTHER) != before
    rig.until(lambda: "has changed over" in rig.children[OTHER].said, "it does not change over")
    new = held(rig, OTHER)
    assert {role: (key.public.hex,) for role, key in new.items()} == listed(rig, OTHER)
    assert list(waiting.iterdir()) == [] and list(rig.place(OTHER).glob("keys/.*")) == []
    # The connection that somebody holds with the old key is closed, and does not come back.
    rig.until(lambda: line.link.key_refused, "the old key's connection stays open")
    assert line.link.connections == 1
    line.close()
    assert not connects(rig, OTHER, old["transport"])
    # It votes, computes and cosigns with the new ones.
    after = study(rig, "second")
    rig.until(lambda: rig.finished(after), "the study does not end")
    over = rig.state(HUB).studies[after]
    assert over.final_model and OTHER in over.rounds[-1].members_in
    rig.until_mirrored()
    rig.export(rig.root / "bundle")
    assert_one_history(rig)


def test_processes_that_die_between_signatures_and_keys_lose_neither(rig: Rig) -> None:
    """The server closes a site's connection before it has read why, and it dies half way."""
    old, before = held(rig, FOURTH), rig.state(HUB).charter.version
    assert rig.children[HUB].end() == 0
    hub = rig.start(HUB, TREATY_KILL_AT="amendment-signature:2:before")
    made = asked("key", "rotate", "transport", "runner", "--dir", rig.place(FOURTH))
    number = Digest(str(made["proposal"]))
    rig.until(lambda: hub.process.poll() == -signal.SIGKILL, "it lives on")
    assert rig.children[FOURTH].end() == 0
    rig.start(HUB)
    site = rig.start(FOURTH, TREATY_KILL_AT="key-installed:1:after")
    for name in (LEAD, OTHER):
        rig.until(lambda name=name: number in rig.state(name).proposals, "no proposal")  # type: ignore[misc]  # bound now
    rig.until(
        lambda: FOURTH in rig.state(HUB).proposals[number].proposal.ballots, "its ballot is lost"
    )
    stand_still(site.process.pid)
    noted = len(journal(rig, HUB))
    for name in (LEAD, OTHER):
        treaty("proposal", "vote", number, "approve", "--dir", rig.place(name))
    rig.until(lambda: rig.state(HUB).charter.version == before + 1, "not in force")
    rig.until(lambda: any("may connect" in line for line in journal(rig, HUB)[noted:]), "not told")
    go_on(site.process.pid)
    rig.until(lambda: site.process.poll() == -signal.SIGKILL, "it lives on")
    # Of its two new keys one is in its place: it connects with the other.
    assert load_key(rig.place(FOURTH), "transport").public == old["transport"].public
    rig.start(FOURTH)
    rig.until(lambda: "has changed over" in rig.children[FOURTH].said, "it does not change over")
    new = held(rig, FOURTH)
    assert {role: (key.public.hex,) for role, key in new.items()} == listed(rig, FOURTH)
    same = {role for role in ROLES if new[role].public == old[role].public}
    assert same == {"approval", "witness"}
    rig.until(lambda: not list((rig.place(FOURTH) / "outbox").glob("*.json")), "it is sent on")
    rig.export(rig.root / "second")
    page = rig.root / "report.html"
    treaty("report", rig.root / "second", "--anchor", rig.anchor, "--out", page)
    assert page.stat().st_size > 10_000


def test_a_member_that_has_lost_its_keys_is_helped_by_another(rig: Rig) -> None:
    """Approval, runner and transport are gone; its process starts, and waits."""
    place, before = rig.place(THIRD), rig.state(HUB).charter.version
    assert rig.children[THIRD].end() == 0
    old = load_key(place, "transport")
    for role in ROLES[:3]:
        (place / "keys" / f"{role}.key").unlink()
    words = ("key", "rotate", *ROLES[:3], "--dir", place)
    assert "--by-request where it is lost" in treaty(*words, code=2)
    assert "wait for the members" not in treaty("site", "status", "--dir", place, code=5)
    made = asked(*words, "--by-request")
    assert made["proposal"] is None and not list((place / "outbox").glob("*.json"))
    assert "wait for the members" in treaty("site", "status", "--dir", place, code=5)
    request = rig.root / "request.json"
    request.write_bytes(Path(str(made["request"])).read_bytes())
    # Neither before nor after is it let in with what the charter does not list.
    rig.start(THIRD)
    rig.until(lambda: "agreed to its new keys" in rig.children[THIRD].said, "it does not wait")
    accepted = asked("key", "accept", request, "--dir", rig.place(LEAD))
    number = Digest(str(accepted["proposal"]))
    assert accepted["keys"] == made["keys"]
    for name in (LEAD, OTHER, FOURTH):
        rig.until(lambda name=name: number in rig.state(name).proposals, "no proposal")  # type: ignore[misc]  # bound now
        treaty("proposal", "vote", number, "approve", "--dir", rig.place(name))
    rig.until(lambda: rig.state(HUB).charter.version == before + 1, "not in force")
    rig.until(lambda: rig.size(THIRD) == rig.size(HUB), "it does not come back")
    rig.until(lambda: "has changed over" in rig.children[THIRD].said, "it does not change over")
    assert not connects(rig, THIRD, old)
    said = treaty("key", "accept", request, "--dir", rig.place(LEAD), code=4)
    assert "rotate anew" in said


def test_a_site_that_changes_over_before_the_server_waits_for_it(rig: Rig) -> None:
    """The server is told a moment after the log: till then the new key is refused."""
    tries: list[str] = []

    class Late(JetStreamEngine):
        """An end that the server refuses at first."""

        def __init__(self, party: NatsParty, _: object) -> None:
            self._key = party.key.public.hex

        def connect(self, timeout_s: float) -> None:
            """Refuse the first attempt."""
            tries.append(self._key)
            if len(tries) % 2:
                raise PolicyError("not yet", code="key-refused")

        def close(self) -> None:
            """There is nothing to end."""

    said: list[str] = []
    site = SiteProcess(rig.place(LEAD), rig.anchor, said.append, engine=Late)
    with pytest.raises(PolicyError, match="not yet"):
        site._admitted(lambda: False)
    tries.clear()
    place = rig.place(LEAD) / "rotation"
    place.mkdir()
    (place / "request.json").write_bytes(b"{}")
    assert site._admitted(lambda: False) is not None
    assert len(tries) == 2 and said == [
        f"{LEAD} waits until the members have agreed to its new keys"
    ]
    settle(rig.place(LEAD))
    assert not (place / "request.json").exists()
