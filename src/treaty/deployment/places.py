"""Places: the directories of a coordinator and of a site, what lies where, and who holds them.

A coordinator's directory: ``coordinator.json`` (settings), ``terms.json``, ``requests/``, then
``charter.json`` and ``anchor.txt``; ``server/`` is the message server's. A site's: ``site.json``,
``request.json``, then ``charter.json`` and ``anchor.txt``; ``data.csv``, ``adapter.toml``,
``policy.toml`` are the site's own. Both hold ``keys/``, ``store.db``, ``secrets/``,
``journal.jsonl`` (a coordinator with replicas ``store.json`` in the place of ``store.db``)
and ``outbox/``, where commands leave what the running process is to send.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import MemberName, Record, sha256
from treaty.deployment.papers import Address, Invite
from treaty.errors import FormatError, ResourceError, UsageError, VerificationError
from treaty.governance.charter import Charter, parse_charter
from treaty.ids import Digest, MemberId
from treaty.wiring import read_file, write_file

__all__ = [
    "COORDINATOR_KEYS",
    "SITE_KEYS",
    "HubSettings",
    "Party",
    "SiteSettings",
    "exclusive",
    "founded",
    "is_running",
    "load_hub",
    "load_party",
    "load_site",
    "read_record",
    "require_settings",
    "settled_files",
    "write_anchor",
]

SITE_KEYS = ("approval", "runner", "transport", "witness")
COORDINATOR_KEYS = ("coordinator", "log", "server", "transport")

LOOK_S = 0.5
"""For how long another's look at the lock of a directory is borne with."""

_T = TypeVar("_T", bound=Record)

HostName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9.:\-]{1,255}\Z")]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class HubSettings(Record):
    """What `treaty coordinator init` was told. `managed`: the server is ours to start."""

    format: Literal["treaty.coordinator/v1"] = "treaty.coordinator/v1"
    consortium: MemberName
    name: MemberName
    url: Address
    host: HostName
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    websocket_port: Port = 0
    managed: bool = True
    made_at: canonical.Count


def require_settings(settings: HubSettings) -> None:
    """Raise `UsageError` for settings that could not be read again: a port, a host, a URL."""
    try:
        canonical.decode(canonical.encode(settings), HubSettings)
    except FormatError as error:
        raise UsageError(
            f"no coordinator can be set up so: {error}; a port is 1 to 65535, a host a name or an "
            "address, a URL tls://HOST:PORT"
        ) from error


class SiteSettings(Record):
    """What `treaty site join` was told: the invitation, whole."""

    format: Literal["treaty.site/v1"] = "treaty.site/v1"
    invite: Invite


class Party(Record):
    """Whose directory this is, once the consortium is founded."""

    name: MemberName
    coordinator: MemberName
    anchor: Digest
    is_hub: bool


def load_hub(directory: Path) -> HubSettings:
    """Return the settings of the coordinator in `directory`."""
    path = directory / "coordinator.json"
    if not path.is_file():
        raise UsageError(f"{directory} holds no coordinator: begin with `treaty coordinator init`")
    return read_record(path, HubSettings)


def load_site(directory: Path) -> SiteSettings:
    """Return the settings of the site in `directory`."""
    path = directory / "site.json"
    if not path.is_file():
        raise UsageError(f"{directory} holds no site: begin with `treaty site join INVITE`")
    return read_record(path, SiteSettings)


def load_party(directory: Path) -> Party:
    """Return whose directory this is; `UsageError` when it is nobody's or not founded yet."""
    is_hub = (directory / "coordinator.json").is_file()
    if is_hub:
        hub = load_hub(directory)
        name, coordinator = hub.name, hub.name
    else:
        invite = load_site(directory).invite
        name, coordinator = invite.member, invite.terms.coordinator.name
    found = founded(directory)
    if found is None:
        raise UsageError(f"{directory}: the consortium is not founded yet, there is no charter")
    return Party(name=name, coordinator=coordinator, anchor=found[0], is_hub=is_hub)


def founded(directory: Path) -> tuple[Digest, Charter] | None:
    """Return anchor and founding charter, None before there is one."""
    if not (directory / "anchor.txt").is_file():
        return None
    anchor = Digest(read_file(directory / "anchor.txt").decode().strip())
    data = read_file(directory / "charter.json")
    if sha256(data) != anchor:
        raise VerificationError(
            f"charter.json is not the charter of {anchor[:16]}: restore it from a backup",
            code="wrong-anchor",
        )
    return anchor, parse_charter(data)


def write_anchor(directory: Path, charter: bytes) -> Digest:
    """Keep the founding charter in `directory`; the anchor comes last."""
    anchor = sha256(charter)
    write_file(directory / "charter.json", charter)
    write_file(directory / "anchor.txt", f"{anchor}\n".encode(), label="founded")
    return anchor


def settled_files(directory: Path) -> list[Path]:
    """Return the JSON files in `directory` that are written whole, in order of name."""
    if not directory.is_dir():
        return []
    # A file that is being written, or was when its writer died, has a name that begins with a dot.
    return [path for path in sorted(directory.glob("*.json")) if not path.name.startswith(".")]


def read_record(path: Path, kind: type[_T]) -> _T:
    """Return the record in `path`; `ResourceError` when it is damaged."""
    try:
        return canonical.decode(read_file(path).removesuffix(b"\n"), kind)
    except FormatError as error:
        raise ResourceError(f"{path} is damaged: {error}; restore it from a backup") from error


@contextmanager
def exclusive(directory: Path, name: MemberId) -> Iterator[None]:
    """Hold `directory` for one process of `name`; `ResourceError` when another has it."""
    handle = os.open(directory / "running.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + LOOK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                # `is_running` holds it for a moment; who looks must not keep a party from starting.
                if time.monotonic() > end:
                    raise ResourceError(
                        f"{name} is running already in {directory}: stop that process first"
                    ) from error
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def is_running(directory: Path) -> bool:
    """Say whether a process holds `directory`."""
    path = directory / "running.lock"
    if not path.exists():
        return False
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)
