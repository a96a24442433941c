"""Nothing passes by skipping: a skip for a required need is a failure.

Planted and caught: `_refuse_skip` left out of either hook, the markers ignored, the campaigns
collected by default.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

BY_MARKER = """
import pytest
@pytest.mark.data
def test_it():
    pytest.skip("nothing there")
"""
BY_MODULE = "import pytest\npytest.importorskip('vectors_that_do_not_exist')\n"
PASSES = "def test_it():\n    assert True\n"


def _pytest(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    clean = {name: text for name, text in os.environ.items() if not name.startswith("TREATY_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty project with a test folder."""
    (tmp_path / "tests" / "campaign").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = data: needs data\n")
    (tmp_path / "tests" / "test_plain.py").write_text(PASSES)
    return tmp_path


@pytest.mark.parametrize(("text", "need"), [(BY_MARKER, "data"), (BY_MODULE, "vectors")])
def test_a_skip_for_a_required_need_fails(folder: Path, text: str, need: str) -> None:
    """With the need required the run fails and says why; without it, it skips."""
    (folder / "tests" / "test_needy.py").write_text(text)
    assert _pytest(folder).returncode == 0
    assert _pytest(folder, TREATY_REQUIRE="torch").returncode == 0
    refused = _pytest(folder, TREATY_REQUIRE=f"torch,{need}")
    assert refused.returncode != 0
    assert f"{need} required by TREATY_REQUIRE" in refused.stdout


def test_campaigns_run_only_when_asked_for(folder: Path) -> None:
    """The default suite leaves them out; a campaign run shows the time of each."""
    (folder / "tests" / "campaign" / "test_storm.py").write_text(PASSES)
    assert "1 passed" in _pytest(folder).stdout
    asked = _pytest(folder, TREATY_CAMPAIGN="ci").stdout
    assert "2 passed" in asked
    assert "test_storm " in asked
