"""A site's disk fills up during a study: it stops with one line, and goes on once there is room.

The disk is full in two ways: the process may not make a file longer (any machine), and the site's
directory lies on a small file system that is filled to its last byte (where this process may
mount). In both the study waits, the status names the site, a start on the full disk ends like the
first, and with room again the study ends with the model of the undisturbed run: one history, one
input of each member in a context.

Planted and caught: a store that takes a failed write for done.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract
from treaty.errors import ResourceError
from treaty.models.specification import LogisticRegression

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.campaign.test_network_delivery import study_in
from tests.network_rig import HUB, Rig, asked, assert_one_history

pytestmark = [pytest.mark.nats, pytest.mark.timeout(400)]

FULL_SITE, HELD = SITES[1], SITES[3]
LONGEST_FILE = 16 << 10
"""Room for what a process says, none for its store."""

DEADLINE_S = 300
"""Longer than the disk stays full, so that the sum is of everybody."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rig, str]:
    """A founded consortium, and the model of an undisturbed study in a copy of it."""
    place = tmp_path_factory.mktemp("clean")
    founded = Rig.founded_in(place / "founded")
    return founded, study_in(founded.copy(place / "run"), place / "bundle")


def through_a_full_disk(
    rig: Rig, fill: Callable[[], None], empty: Callable[[], None], bundle: Path
) -> str:
    """Run a study during which the disk of `FULL_SITE` is full for a while; return the model."""
    try:
        rig.start_all()
        plan = rig.plan(contract(), LogisticRegression(), deadline_s=DEADLINE_S)
        with rig.waiting_for(HELD, plan, contract()) as digest:
            fill()
        rig.until(lambda: ended(rig), "the site does not notice its full disk")
        assert not rig.finished(digest), "the study ended before the disk was full"
        assert_said_so(rig)
        rig.until(
            lambda: FULL_SITE in str(asked("study", "status", "--dir", rig.place(HUB))),
            "nobody says that the site is waited for",
        )
        rig.start(FULL_SITE)
        fill()
        rig.until(lambda: ended(rig), "a start on a full disk does not end")
        assert_said_so(rig)
        empty()
        rig.start(FULL_SITE)
        rig.until(lambda: rig.finished(digest), "the study does not end", 120)
        rig.export(bundle, 60)
        rig.until_mirrored()
        return str(rig.state(HUB).studies[digest].final_model)  # type: ignore[index]  # a digest
    finally:
        rig.stop()


def ended(rig: Rig) -> bool:
    return rig.children[FULL_SITE].process.poll() is not None


def assert_said_so(rig: Rig) -> None:
    child = rig.children[FULL_SITE]
    assert child.process.returncode == ResourceError.exit_code, child.said
    last = [line for line in child.said.splitlines() if line.startswith("error: ")][-1]
    assert "full" in last or "free space" in last, last


def test_files_that_may_not_grow(clean: tuple[Rig, str], tmp_path: Path) -> None:
    founded, model = clean
    rig = founded.copy(tmp_path / "run")

    def fill() -> None:
        pid = rig.children[FULL_SITE].process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (LONGEST_FILE, hard))

    found = through_a_full_disk(rig, fill, lambda: None, tmp_path / "bundle")
    assert found == model
    assert_one_history(rig)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this process may not mount a file system: the other test limits files")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_file_system_without_room(
    clean: tuple[Rig, str], small_disk: Path, tmp_path: Path
) -> None:
    founded, model = clean
    rig = founded.copy(tmp_path / "run")
    place = rig.place(FULL_SITE)
    shutil.move(place, small_disk / "site")
    place.symlink_to(small_disk / "site", target_is_directory=True)
    ballast = small_disk / "ballast"

    def fill() -> None:
        free = os.statvfs(small_disk)
        with ballast.open("ab") as file:
            file.write(bytes(free.f_bavail * free.f_frsize))

    found = through_a_full_disk(rig, fill, ballast.unlink, tmp_path / "bundle")
    assert found == model
    assert_one_history(rig)
