"""What every test may ask for, and the rule that nothing passes by skipping.

`TREATY_REQUIRE` names needs (``data,vectors,torch``). A test that skips for one of them, by its
marker or by its reason, fails instead: `make accept` sets them all. `TREATY_CAMPAIGN` (``ci`` or
``full``) opens `tests/campaign`, which is otherwise not collected.

Hypothesis runs derandomised, so that the suite says the same thing twice; the profile
``campaign`` searches.
"""

import importlib.util
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

CAMPAIGN = os.environ.get("TREATY_CAMPAIGN", "")
REQUIRED = frozenset(filter(None, os.environ.get("TREATY_REQUIRE", "").split(",")))
SHARE_OF_ONE_CAMPAIGN_S = 7 * 60

SERIAL = (
    "tests/adversarial/test_sandbox.py",
    "tests/adversarial/test_transport.py",
    "tests/contract/",
    "tests/crash/",
    "tests/e2e/",
)
"""Whose tests start servers or processes and wait for them: not to be slowed by their like."""

settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "campaign",
    deadline=None,
    max_examples=1000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("campaign" if CAMPAIGN == "full" else "ci")
)

_campaign_seconds: dict[str, float] = defaultdict(float)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the shared data sets; skips, or fails where ``data`` is required."""
    from tests import locations

    return Path(locations.data_root())


@pytest.fixture(scope="session")
def vectors_root() -> Path:
    """Folder of the published vectors; skips, or fails where ``vectors`` is required."""
    from tests import locations

    return Path(locations.vectors_root())


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[Any]:
    """A PostgreSQL server of the tests' own (`tests.postgres_server.PostgresServer`)."""
    from tests.postgres_server import running

    if missing := _missing_for_postgres():
        pytest.skip(f"postgres: {missing} is not installed")
    # What removing its files takes is not to be counted against whichever test comes last.
    with running(pytestconfig.add_cleanup) as server:
        yield server


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the campaigns alone unless they are asked for."""
    inside = collection_path.name == "campaign" and collection_path.parent.name == "tests"
    return True if inside and not CAMPAIGN else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the form of a campaign that was not asked for: it does not count as skipped."""
    other = "short_form" if CAMPAIGN == "full" else "long_form"
    left_out = [item for item in items if item.get_closest_marker(other)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say what may run beside what, where several processes share the tests."""
    from xdist.scheduler.loadscope import (  # type: ignore[import-untyped]  # the plugin has no types
        LoadScopeScheduling,
    )

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # likewise
        """A module stays together; those that wait for processes follow one another in one."""

        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "processes" if module.startswith(SERIAL) else module

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an extra or a server that is not there."""
    if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    if item.get_closest_marker("postgres") and (missing := _missing_for_postgres()):
        pytest.skip(f"postgres: {missing} is not installed")
    if item.get_closest_marker("sandbox") and shutil.which("bwrap") is None:
        pytest.skip("sandbox: bubblewrap is not installed")
    if item.get_closest_marker("nats") and (missing := _missing_for_nats()):
        pytest.skip(f"nats: {missing} is not installed")


def _missing_for_nats() -> str:
    """What tests with a NATS server lack: the client, or the server's program."""
    if importlib.util.find_spec("nats") is None:
        return "nats-py"
    beside = Path(sys.executable).parent / "nats-server"
    return "" if beside.exists() or shutil.which("nats-server") else "nats-server"


def _missing_for_postgres() -> str:
    """What tests with a PostgreSQL server lack: the client, or the server's programs."""
    from tests.postgres_server import programs

    if importlib.util.find_spec("psycopg") is None:
        return "psycopg"
    return "" if programs() is not None else "a server (Debian: postgresql)"


def _required(reason: str, markers: set[str]) -> list[str]:
    """The required needs that a skip for `reason` would have let pass."""
    return sorted(need for need in REQUIRED if need in markers or need in reason.lower())


def _refuse_skip(report: Any, markers: set[str]) -> None:
    """Turn a skip for a required need into a failure, in place."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if needs := _required(reason, markers):
        report.outcome = "failed"
        report.longrepr = f"{', '.join(needs)} required by TREATY_REQUIRE, but skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Apply `TREATY_REQUIRE` to a test; add up the time of its campaign."""
    report = yield
    _refuse_skip(report, {marker.name for marker in item.iter_markers()})
    if CAMPAIGN and item.path.parent.name == "campaign":
        _campaign_seconds[item.path.stem] += report.duration
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Apply `TREATY_REQUIRE` to a whole module that skips while it is imported."""
    report = yield
    _refuse_skip(report, set())
    return report


def _late_campaigns() -> Iterator[str]:
    if CAMPAIGN == "ci":
        for name, seconds in _campaign_seconds.items():
            if seconds > SHARE_OF_ONE_CAMPAIGN_S:
                yield name


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what each campaign took, and which took more than its share."""
    for name, seconds in sorted(_campaign_seconds.items()):
        terminalreporter.write_line(f"{name:40} {seconds:7.1f} s")
    for name in _late_campaigns():
        terminalreporter.write_line(f"{name} took more than {SHARE_OF_ONE_CAMPAIGN_S} s")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A campaign over its share fails the run."""
    if session.exitstatus == pytest.ExitCode.OK and any(_late_campaigns()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
