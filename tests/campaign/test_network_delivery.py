"""A study between processes ends with the right model, whatever delivery does to its frames.

Frames travel through a real server; every party's end of the engine drops, repeats, reorders,
delays and corrupts some of what it sends, and says of others that they were not sent when they were
(`tests.faulty_party`). Each seed is a run. It must end with the model of the undisturbed one; all
mirrors must be one history in which nobody has said a thing twice; the bundle must verify.

``ci`` takes one seed; ``full`` takes `FULL_SEEDS` and stores a dated table under
``tests/campaign/results``.

Planted and caught: a coordinator that does not remind those that lag, one that ends when it is told
that a send failed. Found by the full form: a coordinator that waits until the deadline for a member
whose post arrived with its size and without its statement; pauses between reminders so long that
two losses in a row cost a member its place.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract
from treaty.models.specification import LogisticRegression

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.faulty_party import RULES, SEED_VARIABLE, TALLY_VARIABLE
from tests.network_rig import HUB, Rig, assert_one_history

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
pytestmark = [pytest.mark.nats, pytest.mark.timeout(7200 if FULL else 400)]

RESULTS = Path(__file__).parent / "results"
CI_SEEDS, FULL_SEEDS = range(1), range(40)
RUN_LIMIT_S = 240
MODEL = LogisticRegression(site_intercepts=True)
_rows: list[dict[str, object]] = []


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rig, str]:
    """A founded consortium, and the model of an undisturbed study in a copy of it."""
    place = tmp_path_factory.mktemp("clean")
    founded = Rig.founded_in(place / "founded")
    return founded, study_in(founded.copy(place / "run"), place / "bundle")


@pytest.fixture(scope="module", autouse=True)
def results() -> Iterator[None]:
    """Store the table of a full run."""
    yield
    if FULL and _rows:
        table = {
            "campaign": "network delivery",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": len(_rows),
            "failed": sum(row["outcome"] != "same model" for row in _rows),
            "rules_per_mille": {rule.fault.value: rule.per_mille for rule in RULES},
            "rows": _rows,
        }
        path = RESULTS / f"network-delivery-{datetime.now(UTC).date()}.json"
        path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def study_in(rig: Rig, bundle: Path, **variables: str) -> str:
    """Run a study in `rig`, verify its bundle, and return the model."""
    try:
        for name in (HUB, *SITES):
            rig.start(name, **variables)
        digest = rig.decide(rig.plan(contract(), MODEL), contract())
        rig.until(lambda: rig.finished(digest), "the study does not end", RUN_LIMIT_S)
        rig.export(bundle, RUN_LIMIT_S)
        rig.until_mirrored()
        return str(rig.state(HUB).studies[digest].final_model)  # type: ignore[index]  # a digest
    finally:
        rig.stop()


@pytest.mark.parametrize("seed", FULL_SEEDS if FULL else CI_SEEDS)
def test_what_delivery_does_changes_nothing(
    clean: tuple[Rig, str], tmp_path: Path, seed: int
) -> None:
    founded, model = clean
    rig = founded.copy(tmp_path / "run")
    rig.program = "tests.faulty_party"
    tally = tmp_path / "tally"
    began = time.monotonic()
    row: dict[str, object] = {"seed": seed, "outcome": "failed"}
    _rows.append(row)
    found = study_in(
        rig, tmp_path / "bundle", **{SEED_VARIABLE: str(seed), TALLY_VARIABLE: str(tally)}
    )
    struck = Counter(tally.read_text().split())
    assert found == model, struck
    assert_one_history(rig)
    # Nothing was tried if nothing struck.
    assert len(struck) >= 4, struck
    row |= {
        "outcome": "same model",
        "faults": dict(sorted(struck.items())),
        "seconds": round(time.monotonic() - began, 1),
    }
