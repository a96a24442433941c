"""Server configuration: what a NATS server must know of a charter, and nothing else.

Guarantee (docs/spec/transport.md, section 3): the text lists the transport keys of the coordinator
and of the members given, each with the least that it needs. Nobody is let in without a key. It
holds no secret, but the path of one. It is generated, never edited.

This module does no input or output.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from treaty.crypto.keys import PublicKey
from treaty.crypto.transport_keys import nkey_of
from treaty.engines.subjects import Permissions, Subjects
from treaty.ids import MemberId

__all__ = ["LOG_LIMIT_BYTES", "MAX_PAYLOAD_BYTES", "ServerSettings", "server_config"]

MAX_PAYLOAD_BYTES = 8 << 20
LOG_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server listens and keeps its files; `websocket_port` 0 leaves WebSocket out."""

    directory: str
    host: str
    port: int
    websocket_port: int = 0


def server_config(
    settings: ServerSettings,
    subjects: Subjects,
    coordinator: PublicKey,
    members: Mapping[MemberId, Iterable[PublicKey]],
) -> str:
    """Return the server's configuration for exactly these keys, as JSON (a form NATS reads)."""
    here = settings.directory
    users = [_user(coordinator, subjects.coordinator_permissions())]
    for member, keys in sorted(members.items()):
        users += [_user(key, subjects.member_permissions(member)) for key in keys]
    tls = {
        "cert_file": _at(here, "server.crt"),
        "key_file": _at(here, "server.key"),
        "min_version": "1.3",
    }
    config: dict[str, object] = {
        "server_name": f"treaty-{subjects.consortium}",
        "listen": f"{settings.host}:{settings.port}",
        "max_payload": MAX_PAYLOAD_BYTES,
        "max_pending": 64 << 20,
        "write_deadline": "10s",
        "ping_interval": "20s",
        "tls": {**tls, "handshake_first": True},
        "jetstream": {"store_dir": _at(here, "streams")},
        "authorization": {"users": users},
        "pid_file": _at(here, "server.pid"),
        "log_file": _at(here, "server.log"),
        "logfile_size_limit": LOG_LIMIT_BYTES,
        "logfile_max_num": 2,
    }
    if settings.websocket_port:
        config["websocket"] = {
            "listen": f"{settings.host}:{settings.websocket_port}",
            "tls": tls,
        }
    return json.dumps(config, indent=1) + "\n"


def _at(directory: str, name: str) -> str:
    return f"{directory}/{name}"


def _user(key: PublicKey, permissions: Permissions) -> dict[str, object]:
    return {
        "nkey": nkey_of(key),
        "permissions": {
            "publish": {"allow": list(permissions.publish)},
            "subscribe": {"allow": list(permissions.subscribe)},
        },
    }
