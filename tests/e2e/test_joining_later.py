"""An institution joins a consortium that is founded and at work, over the network.

Three members train; a fourth is invited, asks, is accepted by their votes while the study runs, and
takes part in the next one, whose model is, byte for byte, that of a simulation founded by four.

Planted and caught: a newcomer whose streams nobody prepares; a desk that signs whatever charter is
proposed; one that does not say that a request is stale; an amendment that nobody accepted taken
because enough have signed it.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import SITES, contract
from treaty.crypto.canonical import sha256
from treaty.deployment.outbox import Outbox
from treaty.deployment.papers import open_accession
from treaty.errors import PolicyError
from treaty.governance.accession import accession_terms, with_keys
from treaty.governance.charter import charter_bytes, charter_digest
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.models.specification import LogisticRegression
from treaty.protocol.membership import charter_statement
from treaty.protocol.messages import ProposalOpened
from treaty.protocol.statements import seal_statement
from treaty.stores.system import MemoryJournal
from treaty.wiring import load_key

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import (
    HUB,
    Rig,
    asked,
    assert_one_history,
    embedded_model,
    small_sites,
    treaty,
)
from treaty.engines.jetstream import JetStreamEngine, NatsParty

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]

MODEL = LogisticRegression(site_intercepts=True)
FOUNDERS, NEW = SITES[:3], SITES[3]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A consortium of three whose processes run."""
    with Rig(tmp_path_factory.mktemp("network"), small_sites(FOUNDERS)).serving() as made:
        yield made


def invited(rig: Rig, name: str) -> tuple[Path, str]:
    """Return an invitation and the digest of its terms."""
    made = asked(
        *("coordinator", "invite", "--newcomer", name, "--dir", rig.place(HUB)),
        *("--out", rig.root / "invites"),
    )
    return Path(str(made["invite"])), str(made["terms"])


def requested(rig: Rig, name: str, place: str, invite: Path, terms: str) -> Path:
    """Let `name` join in a directory of its own; return its request."""
    treaty("site", "join", invite, "--terms", terms, "--dir", rig.place(place))
    return rig.place(place) / "request.json"


def proposed(rig: Rig, request: Path, at: str = FOUNDERS[0]) -> Digest:
    """Propose a newcomer at a member; wait until everybody has the proposal."""
    number = Digest(str(asked("member", "accept", request, "--dir", rig.place(at))["proposal"]))
    for name in FOUNDERS:
        rig.until(lambda name=name: number in rig.state(name).proposals, "no proposal")  # type: ignore[misc]  # bound now
    return number


def noted(rig: Rig, name: str) -> str:
    path = rig.place(name) / "journal.jsonl"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def asking(rig: Rig) -> Path:
    """The newcomer's request; its process is started and waits."""
    invite, terms = invited(rig, NEW)
    rig.sites = {**rig.sites, **small_sites((NEW,))}
    (rig.root / "invites" / f"invite-{NEW}.json").write_bytes(invite.read_bytes())
    said = treaty("site", "join", invite, "--terms", "0" * 64, "--dir", rig.place(NEW), code=3)
    assert "do not join" in said and not rig.place(NEW).exists()
    rig.join(NEW, terms)
    return rig.place(NEW) / "request.json"


def test_before_it_is_accepted_a_newcomer_neither_reads_nor_publishes(
    rig: Rig, asking: Path
) -> None:
    """The server knows none of its keys; its process waits and says so."""
    other = "0" * 63 + "1"
    said = treaty("site", "up", "--anchor", other, "--dir", rig.place(NEW), code=3)
    assert "compare the anchor" in said
    rig.start(NEW)
    rig.until(lambda: "waits until the members" in rig.children[NEW].said, "it does not wait")
    assert rig.children[NEW].process.poll() is None
    invite = open_accession(asking.read_bytes())[0]
    party = NatsParty(
        url=f"tls://127.0.0.1:{rig.port}",
        pin=Digest(str(invite.charter.coordinator.certificate)),
        key=load_key(rig.place(NEW), "transport"),
        name=MemberId(NEW),
        consortium=invite.charter.consortium,
        coordinator=MemberId(HUB),
    )
    engine = JetStreamEngine(party, MemoryJournal())
    try:
        with pytest.raises(PolicyError) as caught:
            engine.connect(10)
        assert caught.value.code == "key-refused"
    finally:
        engine.close()
    # It says so itself, before the second start of the same directory finds that it runs.
    assert rig.size(NEW) == 0


def test_signatures_without_the_members_decision_change_nothing(rig: Rig, asking: Path) -> None:
    """Two officers collude and sign keys that nobody voted on: it never enters the log."""
    request, statement = open_accession(asking.read_bytes())
    document = charter_bytes(request.charter)
    Outbox(rig.place(FOUNDERS[0])).put(statement, (document,))
    for name in FOUNDERS[:2]:
        key = load_key(rig.place(name), "approval")
        signed = seal_statement(charter_statement(request.charter), key)
        Outbox(rig.place(name)).put(signed, (document,))
    rig.until(lambda: "amendment-waits.not-accepted" in noted(rig, HUB), "it is not refused")
    assert rig.state(HUB).charter.version == 1
    # A proposal that says one name and holds another's charter is not signed by an honest officer.
    terms = accession_terms(rig.state(HUB).charter, "false.example")
    false = charter_bytes(with_keys(terms, "false.example", request.charter.members[NEW].keys))
    body = ProposalOpened(
        charter=rig.state(HUB).members.directory.charter,
        author=FOUNDERS[1],
        action=Action.MEMBER_ACCEPT.value,
        subject=sha256(false),
        target=MemberId("true.example"),
    )
    asks = seal_statement(body, load_key(rig.place(FOUNDERS[1]), "approval"))
    Outbox(rig.place(FOUNDERS[1])).put(asks, (false,))
    rig.until(lambda: sha256(asks) in rig.state(FOUNDERS[2]).proposals, "no proposal")
    place = ("--dir", rig.place(FOUNDERS[2]))
    said = treaty("proposal", "vote", sha256(asks), "approve", *place, code=4)
    assert "vote against it" in said
    assert list((rig.place(FOUNDERS[2]) / "outbox").glob("*.json")) == []


def test_a_newcomer_is_accepted_while_a_study_runs_and_takes_part_in_the_next(
    rig: Rig, asking: Path, tmp_path: Path
) -> None:
    # A second request by the same invitation, and an invitation that will be stale.
    twice = rig.root / "invites" / f"invite-{NEW}-2.json"
    digest = charter_digest(accession_terms(rig.state(HUB).charter, NEW))
    second = requested(rig, NEW, "second-use", twice, digest)
    stale, stale_terms = invited(rig, "late.example")
    study = rig.decide(rig.plan(contract(), MODEL), contract(), FOUNDERS)
    number, other = proposed(rig, asking), proposed(rig, second, FOUNDERS[1])
    shown = treaty("proposal", "show", number, "--dir", rig.place(FOUNDERS[2]))
    assert f"changes    {NEW} ({NEW}) joins" in shown
    rig.ratify(number, FOUNDERS[:2])
    rig.until(lambda: rig.finished(study), "the study does not end")
    rig.until(lambda: rig.state(HUB).charter.version == 2, "the amendment does not take effect")
    state = rig.state(HUB)
    assert set(state.studies[Digest(study)].rounds[-1].members_in) == set(FOUNDERS)
    assert state.charter == open_accession(asking.read_bytes())[0].charter
    assert state.proposals[other].proposal.phase.value == "lapsed"
    rig.until_mirrored()
    # What the officers signed is not sent for ever.
    for name in FOUNDERS:
        place = rig.place(name)
        rig.until(lambda place=place: not list((place / "outbox").glob("*.json")), "it is sent on")  # type: ignore[misc]  # bound now

    for late in (second, requested(rig, "late.example", "late", stale, stale_terms)):
        said = treaty("member", "accept", late, "--dir", rig.place(FOUNDERS[0]), code=4)
        assert "let the coordinator invite it anew" in said
    said = treaty("coordinator", "invite", "--newcomer", NEW, "--dir", rig.place(HUB), code=2)
    assert "is a member already" in said
    said = treaty("member", "accept", asking, "--dir", rig.place(HUB), code=2)
    assert "its members accept whoever joins" in said

    # Started again, the coordinator serves the newcomer too.
    assert rig.children[HUB].end() == 0
    rig.start(HUB)
    plan = rig.plan(contract(), MODEL, study="second")
    plan = msgspec.structs.replace(plan, charter=rig.state(HUB).members.directory.charter)
    last = Digest(rig.decide(plan, contract()))
    rig.until(lambda: rig.finished(last), "the study does not end")
    rig.export(tmp_path / "bundle")
    over = rig.state(HUB).studies[last]
    assert set(over.rounds[-1].members_in) == set(SITES)
    assert over.final_model == embedded_model(tmp_path / "embedded", MODEL)
    rig.until_mirrored()
    assert_one_history(rig)
