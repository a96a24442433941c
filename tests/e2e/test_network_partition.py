"""A site is cut off while a study runs: the others wait as long as the plan says, and go on.

The status says truthfully who is waited for and since when; whoever was away has the whole log
afterwards; the sums are those of the members that were there.

Planted and caught: a deadline that never passes, a status that does not say since when, a site
that does not come back after its connection was cut.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import SITES, contract
from treaty.crypto import canonical
from treaty.models.specification import LogisticRegression, MultilayerPerceptron
from treaty.protocol.secure_round import RoundPhase

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HUB, Rig, asked
from tests.severed_proxy import SeverableProxy
from treaty.deployment.places import SiteSettings, load_site

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]

AWAY = SITES[2]


@pytest.fixture
def cut(tmp_path: Path) -> Iterator[tuple[Rig, SeverableProxy]]:
    """A founded consortium, one site of which reaches the server through a relay."""
    rig = Rig(tmp_path / "rig")
    rig.root.mkdir()
    proxy = SeverableProxy(rig.port)
    rig.prepare()
    invite = load_site(rig.place(AWAY)).invite
    through = msgspec.structs.replace(invite, url=f"tls://127.0.0.1:{proxy.port}")
    settings = canonical.encode(SiteSettings(invite=through))
    (rig.place(AWAY) / "site.json").write_bytes(settings)
    rig.start_all()
    try:
        rig.until(rig.founded, "the consortium is not founded")
        yield rig, proxy
    finally:
        rig.stop()
        proxy.close()


def test_the_others_go_on_and_the_one_that_was_away_catches_up(
    cut: tuple[Rig, SeverableProxy], tmp_path: Path
) -> None:
    rig, proxy = cut
    model = MultilayerPerceptron(hidden=(2,), rounds=40)
    digest = rig.decide(rig.plan(contract(), model, deadline_s=8), contract())
    rig.until(lambda: rig.size(HUB) > 60, "the study does not begin", pause=0.02)
    proxy.sever()
    seen: list[dict[str, object]] = []

    def waits_for_it() -> bool:
        status = asked("study", "status", "--dir", rig.place(HUB))
        waits = status["waits_for"]
        if isinstance(waits, dict) and waits["parties"] == [AWAY]:
            seen.append(status)
        return bool(seen) or rig.finished(digest)

    rig.until(waits_for_it, "nobody says that the site is waited for", pause=0.05)
    assert seen, "the study ended before the cut was noticed: nothing was tried"
    assert str(seen[0]["waits_since"]).startswith("20")
    rig.until(
        lambda: any(
            AWAY not in one.members_in and one.phase is RoundPhase.PUBLISHED
            for one in rig.state(HUB).studies[digest].rounds  # type: ignore[index]  # a digest
        ),
        "the others do not go on without it",
        seconds=60,
    )
    proxy.heal()
    rig.until(lambda: rig.finished(digest), "the study does not end", 120)
    rig.until(lambda: rig.size(AWAY) == rig.size(HUB), "the site does not catch up", 60)
    rig.export(tmp_path / "bundle")
    study = rig.state(HUB).studies[digest]  # type: ignore[index]  # a digest
    assert study.final_model is not None
    notes = [json.loads(line)["event"] for line in journal(rig, AWAY)]
    assert "unreachable" in notes


def journal(rig: Rig, name: str) -> list[str]:
    return (rig.place(name) / "journal.jsonl").read_text().splitlines()


def test_a_study_halts_with_a_clear_status_when_the_members_say_so(
    cut: tuple[Rig, SeverableProxy],
) -> None:
    """Cut off, with a long deadline: the study stands, the status says why, and one halts it."""
    rig, proxy = cut
    proxy.sever()
    plan = rig.plan(contract(), LogisticRegression(), deadline_s=3600)
    (rig.root / "unused").mkdir()
    there = tuple(name for name in SITES if name != AWAY)
    digest = decide_without(rig, plan, there)
    rig.until(
        lambda: (
            asked("study", "status", "--dir", rig.place(HUB))["waits_for"]
            == {"parties": [AWAY], "what": "keys of the epoch"}
        ),
        "nobody says what is waited for",
        pause=0.3,
    )
    made = asked("study", "halt", "study", "--dir", rig.place(there[0]))
    rig.ratify(str(made["proposal"]), there[:1])
    proxy.heal()
    rig.until(lambda: rig.finished(digest), "the study does not halt", 60)
    status = asked("study", "status", "--dir", rig.place(there[0]))
    assert "decided" in json.dumps(status)
    rig.until(lambda: rig.size(AWAY) == rig.size(HUB), "the site does not catch up", 60)


def decide_without(rig: Rig, plan: object, voters: tuple[str, ...]) -> str:
    """Let `voters` alone decide on `plan`."""
    ratify = rig.ratify
    rig.ratify = lambda proposal, _=None: ratify(proposal, voters)  # type: ignore[method-assign,assignment]  # fewer voters
    try:
        return rig.decide(plan, contract())  # type: ignore[arg-type]  # a plan
    finally:
        del rig.ratify
