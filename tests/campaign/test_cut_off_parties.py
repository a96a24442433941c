"""Every durable write of one member and of the coordinator, one at a time: the party comes back.

``ci`` takes every fifth of the cuts, ``full`` all of them, and the post-quantum suite beside the
classical one. What must hold stands in `tests/crash/test_cut_off_parties.py`.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.restartable_federation import (
    assert_ends_like,
    opened,
    whole_study,
    write_federation,
)
from tests.small_federation import SITES
from treaty.errors import TreatyError
from treaty.simulation.federation import COORDINATOR

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"


@pytest.mark.parametrize("post_quantum", [False, True] if FULL else [False])
@pytest.mark.parametrize("party", [COORDINATOR, SITES[2]])
def test_no_durable_write_is_a_bad_moment_to_end(
    tmp_path: Path, party: str, post_quantum: bool
) -> None:
    """Whichever write it is, before or after: the same end."""
    write_federation(tmp_path / "federation", post_quantum=post_quantum)
    federation = opened(tmp_path / "federation")
    clean = whole_study(federation)
    cuts = [
        (number, moment)
        for number in range(1, len(federation.cuts.writes[party]) + 1)
        for moment in ("before", "after")
    ]
    failures = []
    for number, moment in cuts if FULL else cuts[::5]:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "federation", copy)
        try:
            assert_ends_like(copy, clean, party, number, moment)
        except (AssertionError, TreatyError) as error:
            label = federation.cuts.writes[party][number - 1]
            failures.append(f"{label} {number} {moment}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
