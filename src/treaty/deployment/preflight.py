"""Preflight: what a party can check of itself before it starts: what is wrong, how to mend it.

Each check is one row. Nothing is changed; all that is sent is a look whether the server answers.
"""

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from treaty.deployment.agent import WITHDRAWN
from treaty.deployment.places import (
    COORDINATOR_KEYS,
    SITE_KEYS,
    founded,
    is_running,
    load_hub,
    load_site,
)
from treaty.deployment.server import find_server, require_free
from treaty.errors import ResourceError, TreatyError
from treaty.governance.charter import require_networked, time_to_text
from treaty.ids import Timestamp
from treaty.stores.shared import lease_state, shared_store
from treaty.stores.system import SystemClock
from treaty.wiring import load_key, read_policy

__all__ = ["LEAST_FREE_BYTES", "Check", "hub_checks", "site_checks"]

LEAST_FREE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `problem` is empty when it holds and says how to mend it."""

    name: str
    problem: str

    @property
    def holds(self) -> bool:
        """Say whether nothing is wrong."""
        return not self.problem


def site_checks(directory: Path) -> list[Check]:
    """Return the checks of a site, in the order in which to mend them."""
    return [_check(name, look) for name, look in _site(directory)]


def hub_checks(directory: Path) -> list[Check]:
    """Return the checks of a coordinator, in the order in which to mend them."""
    return [_check(name, look) for name, look in _hub(directory)]


def _check(name: str, look: Callable[[], object]) -> Check:
    try:
        look()
    except TreatyError as error:
        return Check(name, str(error))
    return Check(name, "")


def _site(directory: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    settings = load_site(directory)
    for role in SITE_KEYS:
        yield f"{role} key", lambda role=role: load_key(directory, role)  # type: ignore[misc]  # the default binds the loop's role
    yield "disk", lambda: _disk(directory)
    yield "clock", lambda: _clock(Timestamp(settings.invite.made_at))
    yield "charter", lambda: _charter(directory)
    yield "policy", lambda: _policy(directory)
    for name in ("data.csv", "adapter.toml"):
        yield name, lambda name=name: _present(directory / name)  # type: ignore[misc]  # as above
    yield "withdrawal", lambda: _withdrawn(directory)
    yield "server", lambda: _answers(settings.invite.url)


def _hub(directory: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    settings = load_hub(directory)
    for role in COORDINATOR_KEYS:
        yield f"{role} key", lambda role=role: load_key(directory, role)  # type: ignore[misc]  # the default binds the loop's role
    yield "disk", lambda: _disk(directory)
    yield "clock", lambda: _clock(Timestamp(settings.made_at))
    yield "charter", lambda: _charter(directory)
    shared = shared_store(directory)
    if shared is not None:
        yield "database", lambda: lease_state(directory, shared)
    if settings.managed:
        yield "nats-server", find_server
        if not is_running(directory):
            yield "port", lambda: require_free(settings.host, settings.port)


def _disk(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < LEAST_FREE_BYTES:
        raise ResourceError(
            f"{free >> 20} MiB are free, expected {LEAST_FREE_BYTES >> 20}: free some space"
        )


def _clock(made_at: Timestamp) -> None:
    now = SystemClock().now()
    if now + 60_000 < made_at:
        raise ResourceError(
            f"the clock says {time_to_text(now)}, before this directory was prepared: set it"
        )


def _charter(directory: Path) -> None:
    found = founded(directory)
    if found is None:
        return
    require_networked(found[1])
    if SystemClock().now() >= found[1].expires:
        raise ResourceError(
            f"the charter has expired at {time_to_text(Timestamp(found[1].expires))}: the members "
            "must amend it"
        )


def _policy(directory: Path) -> None:
    if read_policy(directory) is None:
        raise ResourceError(
            f"there is no {directory / 'policy.toml'}, so nothing is allowed: write one"
        )


def _present(path: Path) -> None:
    if not path.is_file():
        raise ResourceError(f"there is no {path}: put it there before a study begins")


def _withdrawn(directory: Path) -> None:
    if (directory / WITHDRAWN).exists():
        raise ResourceError(f"this site has withdrawn: remove {directory / WITHDRAWN} to take part")


def _answers(url: str) -> None:
    place = urlsplit(url)
    try:
        socket.create_connection((place.hostname or "", place.port or 443), timeout=3).close()
    except OSError as error:
        raise ResourceError(
            f"{url} does not answer ({error.strerror or error}): see that the coordinator runs and "
            "that outbound connections to it are allowed"
        ) from error
