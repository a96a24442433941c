"""Two sites by themselves and two that one program hosts: one study, one history.

A hosted site is killed in the middle of the study, and another withdraws after it.

Planted and caught: hosted sites that share a directory, a host that does not start a site again.
"""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract
from treaty.models.specification import LogisticRegression

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HOST, HUB, Rig, assert_one_history, embedded_model, treaty

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]

MODEL = LogisticRegression(site_intercepts=True)
ALONE, HOSTED = SITES[:2], SITES[2:]


def hosted_processes(rig: Rig) -> dict[str, int]:
    """Return the process of each hosted site, by the lock that it holds."""
    host = rig.children[HOST].process.pid
    found = {}
    for pid in map(int, Path(f"/proc/{host}/task/{host}/children").read_text().split()):
        # A process may end while it is looked at, and it opens and closes files all the time.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    target = Path(os.readlink(handle))
                    if target.name == "running.lock":
                        found[target.parent.name] = pid
    return found


def test_hosted_sites_take_part_as_others_do(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rig")
    rig.root.mkdir()
    try:
        rig.prepare()
        for name in (HUB, *ALONE):
            rig.start(name)
        host = rig.start_hosted(HOSTED)
        rig.until(rig.founded, "the consortium is not founded")
        rig.until(lambda: set(hosted_processes(rig)) == set(HOSTED), "not every site is hosted")
        plan = rig.plan(contract(), MODEL, deadline_s=300)
        with rig.waiting_for(ALONE[1], plan, contract()) as digest:
            os.kill(hosted_processes(rig)[HOSTED[0]], signal.SIGKILL)
            rig.until(lambda: "started again in 5 s" in host.said, "nobody sees that it died")
        rig.until(lambda: rig.finished(digest), "the study does not end", 120)
        assert f"{rig.place(HOSTED[0])} has ended with exit code -9" in host.said
        rig.until_mirrored()
        assert_one_history(rig)
        found = rig.state(HUB).studies[digest].final_model  # type: ignore[index]  # a digest
        assert found == embedded_model(tmp_path / "embedded", MODEL)
        treaty("site", "withdraw", "--dir", rig.place(HOSTED[0]))
        rig.until(lambda: set(hosted_processes(rig)) == {HOSTED[1]}, "it does not end")
        assert host.process.poll() is None
        assert host.end() == 0, host.said
    finally:
        rig.stop()


def test_what_several_sites_cannot_have_is_refused(tmp_path: Path) -> None:
    twice = ("--dir", tmp_path, "--dir", f"{tmp_path}/../{tmp_path.name}")
    assert "named twice" in treaty("site", "up", *twice, code=2)
    others = ("--dir", tmp_path / "a", "--dir", tmp_path / "b")
    assert "--metrics serves one site" in treaty("site", "up", *others, "--metrics", "0", code=2)
