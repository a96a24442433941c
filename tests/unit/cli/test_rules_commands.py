"""Keys and charters on the command line: good, bad, and what stands on disk afterwards.

Planted and caught: the seed printed by `key new`, mode 0644, a key file that others can read
accepted, a key of the wrong role accepted, a key that the charter does not list accepted, a
statement about another charter merged, a charter that does not hold signed, an existing file
replaced, `--signed` not verified, any signature of the version before accepted, `--previous` left
out or another version, sums asked about over one member, exit 0 in spite of problems, an end
that has passed unsaid.
"""

import json
import stat
from pathlib import Path

import msgspec
import pytest

from tests.unit.cli.conftest import Command, write_key
from treaty.crypto import envelope
from treaty.crypto.keys import decode_key_file
from treaty.governance.charter import (
    charter_bytes,
    charter_digest,
    charter_from_toml,
    charter_to_toml,
)
from treaty.protocol.messages import CharterPublished
from treaty.protocol.statements import peek

ROLES = ("approval", "runner", "witness", "coordinator", "log")


def _all_keys(desk: Path) -> list[str]:
    return [word for path in sorted(desk.glob("*.key")) for word in ("--key", str(path))]


@pytest.mark.parametrize("role", ROLES)
def test_a_new_key_is_private_and_only_its_public_half_is_shown(
    role: str, treaty: Command, tmp_path: Path
) -> None:
    """The file opens again; the seed is nowhere in the output."""
    path = tmp_path / "one.key"
    shown = treaty("key", "new", role, "--out", path)
    assert shown.code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = decode_key_file(path.read_bytes())
    assert held.role == role
    assert held.key.public.hex in shown.out
    assert held.key.seed_bytes().hex() not in shown.out + shown.err
    again = treaty("key", "show", path, "--format", "json")
    record = {"file": str(path), "public_key": held.key.public.hex, "role": role}
    assert json.loads(again.out) == record


def test_two_keys_differ(treaty: Command, tmp_path: Path) -> None:
    """Each comes from fresh entropy."""
    treaty("key", "new", "log", "--out", tmp_path / "a")
    treaty("key", "new", "log", "--out", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_a_key_is_never_written_over(treaty: Command, tmp_path: Path) -> None:
    """The old one stands, byte for byte."""
    path = tmp_path / "one.key"
    treaty("key", "new", "log", "--out", path)
    before = path.read_bytes()
    shown = treaty("key", "new", "log", "--out", path)
    assert shown.code == 5
    assert "not overwritten" in shown.err
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(mode: int, treaty: Command, desk: Path) -> None:
    """It may be known; the message says what to do, and nothing is signed."""
    path = desk / "log.key"
    path.chmod(mode)
    for words in (
        ["key", "show", path],
        ["charter", "sign", "--in", desk / "charter.toml", "--key", path, "--out", desk / "s"],
    ):
        shown = treaty(*words)
        assert shown.code == 5
        assert f"chmod 600 {path}" in shown.err
    assert not (desk / "s").exists()


def test_a_damaged_key_file_is_refused_without_its_content(treaty: Command, desk: Path) -> None:
    """Neither seed nor parser's words appear."""
    path = desk / "log.key"
    text = path.read_text()
    seed = json.loads(text)["seed"]
    path.write_text(text.replace('"role":"log"', '"role":7'))
    shown = treaty("key", "show", path)
    assert shown.code == 2
    assert "no key file, or a damaged one" in shown.err
    assert seed not in shown.err


def test_a_new_charter_holds_once_it_is_filled_in(treaty: Command, tmp_path: Path) -> None:
    """The template goes to a new file, or to standard output."""
    words = ["charter", "new", "hearts.example", "--title", "Hearts", "--purpose", "care"]
    words += [word for name in "abc" for word in ("--member", f"{name}.example")]
    words += ["--expires", "2040-01-01T00:00:00Z", "--simulation"]
    printed = treaty(*words)
    assert printed.code == 0
    assert treaty(*words, "--out", tmp_path / "c.toml").out == f"written {tmp_path}/c.toml\n"
    text = (tmp_path / "c.toml").read_text()
    assert printed.out == text
    filled = text.replace('""', f'"{"5" * 64}"')
    charter = charter_from_toml(filled.replace(" # fill in", ""))
    assert (charter.title, charter.purpose, charter.simulation) == ("Hearts", "care", True)
    assert charter.expires == 2_208_988_800_000
    assert tuple(charter.members) == ("a.example", "b.example", "c.example")
    again = treaty(*words, "--out", tmp_path / "c.toml")
    assert again.code == 5
    assert (tmp_path / "c.toml").read_text() == text


BAD_NEW = {
    "two members": (4, ["--member", "a", "--member", "b"]),
    "a name twice": (2, ["--member", "a", "--member", "a", "--member", "b"]),
    "a name that is none": (2, ["--member", "A B", "--member", "c", "--member", "d"]),
    "a date without offset": (
        2,
        ["--member", "a", "--member", "b", "--member", "c", "--expires", "2040-01-01"],
    ),
    "everybody colludes": (
        4,
        ["--member", "a", "--member", "b", "--member", "c", "--max-colluders", "2"],
    ),
}


@pytest.mark.parametrize("case", BAD_NEW)
def test_a_charter_that_cannot_hold_is_not_written(
    case: str, treaty: Command, tmp_path: Path
) -> None:
    """The refusal leaves no file."""
    code, words = BAD_NEW[case]
    shown = treaty("charter", "new", "hearts.example", *words, "--out", tmp_path / "c.toml")
    assert shown.code == code
    assert list(tmp_path.iterdir()) == []


def test_check_prints_the_anchor_and_says_what_is_wrong(treaty: Command, desk: Path) -> None:
    """Findings are all printed; the exit code is that of policy."""
    path = desk / "charter.toml"
    charter = charter_from_toml(path.read_text())
    good = treaty("charter", "check", path)
    assert good.code == 0
    assert f"anchor {charter_digest(charter)}" in good.out
    assert good.out.endswith("holds\n")
    path.write_text(path.read_text().replace("threshold = 3", "threshold = 1"))
    bad = treaty("charter", "check", path, "--format", "json")
    assert (bad.code, bad.err) == (4, "")
    assert [one["code"] for one in json.loads(bad.out)["problems"]] == ["threshold"]


def test_check_says_that_a_charter_has_expired(treaty: Command, desk: Path) -> None:
    """No fault, since what was done under it is checked from it; but nothing new is allowed."""
    text = (desk / "charter.toml").read_text()
    assert "expired" not in treaty("charter", "check", desk / "charter.toml").out
    old = msgspec.structs.replace(charter_from_toml(text), expires=1_609_459_200_000)
    (desk / "old.toml").write_text(charter_to_toml(old))
    shown = treaty("charter", "check", desk / "old.toml")
    assert shown.code == 0
    assert shown.out.splitlines()[-1].startswith("expired at 2021-")
    record = json.loads(treaty("charter", "check", desk / "old.toml", "--format", "json").out)
    assert (record["expired"], record["problems"]) == (True, [])


def test_the_canonical_form_is_shown_and_read_again(treaty: Command, desk: Path) -> None:
    """`show --format json` prints exactly the bytes that are hashed."""
    path = desk / "charter.toml"
    shown = treaty("charter", "show", path, "--format", "json")
    charter = charter_from_toml(path.read_text())
    assert shown.out == charter_bytes(charter).decode() + "\n"
    (desk / "charter.json").write_text(shown.out)
    page = treaty("charter", "show", desk / "charter.json")
    assert page.code == 0
    assert page.out == treaty("charter", "show", path).out
    assert charter_digest(charter) in page.out


BAD_FILES = {
    "no TOML": (2, "consortium = "),
    "another format": (2, 'format = "x"\nexpires = 2040-01-01T00:00:00Z\n'),
    "no JSON": (3, "{"),
    "JSON that is not canonical": (3, '{"format": "treaty.charter/v1"}'),
}


@pytest.mark.parametrize("verb", ["check", "show", "amend"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_charter_is_named(
    case: str, verb: str, treaty: Command, tmp_path: Path
) -> None:
    """TOML is our own mistake, JSON somebody else's."""
    code, text = BAD_FILES[case]
    path = tmp_path / "c"
    path.write_text(text)
    shown = treaty("charter", verb, path)
    assert shown.code == code
    assert str(path) in shown.err
    assert shown.err.count("\n") == 1


def test_bytes_that_are_no_text_are_refused(treaty: Command, tmp_path: Path) -> None:
    """Whatever lies in the file."""
    (tmp_path / "c").write_bytes(b"\xff\xfe")
    assert treaty("charter", "check", tmp_path / "c").code == 2


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (["member", "gradient-hessian-sum", "exact"], "allowed: "),
        (["member", "gradient-hessian-sum", "exact", "--members", "2"], "refused: "),
        (["observer", "model", "exact"], "refused: "),
        (["member", "raw-data", "exact"], "refused: "),
        (["member", "site-metric", "exact"], "refused: "),
    ],
)
def test_the_matrix_answers_one_question(
    question: list[str], answer: str, treaty: Command, desk: Path
) -> None:
    """An answer of no is an answer: exit 0."""
    shown = treaty("charter", "show", desk / "charter.toml", "--explain", *question)
    assert shown.code == 0
    assert shown.out.startswith(answer)
    words = [*question, "--format", "json"]
    record = json.loads(treaty("charter", "show", desk / "charter.toml", "--explain", *words).out)
    assert record["allowed"] is (answer == "allowed: ")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_question_about_nothing_lists_what_there_is(
    place: int, treaty: Command, desk: Path
) -> None:
    """For role, class and form alike."""
    question = ["member", "model", "exact"]
    question[place] = "nobody"
    shown = treaty("charter", "show", desk / "charter.toml", "--explain", *question)
    assert shown.code == 2
    assert "'nobody'" in shown.err


def test_a_founding_charter_is_complete_when_every_key_signed(treaty: Command, desk: Path) -> None:
    """In one go or in parts: the same bytes."""
    charter, whole = desk / "charter.toml", desk / "whole.json"
    shown = treaty("charter", "sign", "--in", charter, *_all_keys(desk), "--out", whole)
    assert shown.code == 0
    assert shown.out.endswith("complete\n")
    parsed, body = peek(whole.read_bytes().removesuffix(b"\n"))
    assert isinstance(body, CharterPublished)
    assert body.charter == charter_digest(charter_from_toml(charter.read_text()))
    assert len(parsed.signatures) == 14
    parts = []
    for number, path in enumerate(sorted(desk.glob("*.key"))):
        part = desk / f"part-{number}.json"
        words = ["--in", charter, "--key", path, "--out", part, "--format", "json"]
        record = json.loads(treaty("charter", "sign", *words).out)
        assert (len(record["signed"]), len(record["missing"])) == (1, 13)
        assert record["complete"] is False
        assert record["open"]
        parts += ["--in", part]
    merged = treaty("charter", "sign", "--in", charter, *parts, "--out", desk / "merged.json")
    assert merged.code == 0
    assert (desk / "merged.json").read_bytes() == whole.read_bytes()
    assert treaty("charter", "check", charter, "--signed", whole).code == 0


def test_check_refuses_a_statement_that_lacks_a_key(treaty: Command, desk: Path) -> None:
    """A proof of possession is missing: exit 3."""
    keys = _all_keys(desk)[2:]
    words = ["charter", "sign", "--in", desk / "charter.toml", *keys, "--out", desk / "s"]
    assert treaty(*words).code == 0
    shown = treaty("charter", "check", desk / "charter.toml", "--signed", desk / "s")
    assert shown.code == 3
    assert shown.out == ""
    assert "has not signed" in shown.err


def test_check_refuses_an_altered_signature(treaty: Command, desk: Path) -> None:
    """Merging another signature over it is refused too."""
    charter, statement = desk / "charter.toml", desk / "s"
    treaty("charter", "sign", "--in", charter, *_all_keys(desk), "--out", statement)
    frame = json.loads(statement.read_text())
    first, second = frame["signatures"][:2]
    first["sig"], second["sig"] = second["sig"], first["sig"]
    statement.write_text(json.dumps(frame, sort_keys=True, separators=(",", ":")))
    before = statement.read_bytes()
    shown = treaty("charter", "check", charter, "--signed", statement, "--format", "json")
    assert (shown.code, json.loads(shown.out)["code"]) == (3, "bad-signature")
    key = desk / "log.key"
    words = ["--in", charter, "--in", statement, "--key", key, "--out", statement]
    assert treaty("charter", "sign", *words).code == 3
    assert statement.read_bytes() == before


def test_a_statement_about_another_charter_is_not_merged(treaty: Command, desk: Path) -> None:
    """Nor does it pass as this charter's."""
    charter, other, statement = desk / "charter.toml", desk / "other.toml", desk / "s"
    treaty("charter", "sign", "--in", charter, *_all_keys(desk), "--out", statement)
    other.write_text(charter.read_text().replace("Charter of", "Another of"))
    assert treaty("charter", "check", other, "--signed", statement).code == 3
    words = ["--in", other, "--in", statement, "--key", desk / "log.key", "--out", desk / "t"]
    shown = treaty("charter", "sign", *words)
    assert shown.code == 3
    assert not (desk / "t").exists()


def test_what_is_signed_is_what_was_read(treaty: Command, desk: Path) -> None:
    """No statement alone, no two charters, no charter that does not hold."""
    charter, statement, key = desk / "charter.toml", desk / "s", desk / "log.key"
    treaty("charter", "sign", "--in", charter, "--key", key, "--out", statement)
    blind = treaty("charter", "sign", "--in", statement, "--key", key, "--out", desk / "t")
    assert blind.code == 2
    twice = ["--in", charter, "--in", charter, "--key", key, "--out", desk / "t"]
    assert treaty("charter", "sign", *twice).code == 2
    idle = treaty("charter", "sign", "--in", charter, "--out", desk / "t")
    assert idle.code == 2
    charter.write_text(charter.read_text().replace("threshold = 3", "threshold = 1"))
    weak = treaty("charter", "sign", "--in", charter, "--key", key, "--out", desk / "t")
    assert weak.code == 4
    assert not (desk / "t").exists()


def test_a_key_signs_only_what_it_was_made_and_listed_for(treaty: Command, desk: Path) -> None:
    """A stranger's key and a key entered under another purpose are refused."""
    words = ["charter", "sign", "--in", desk / "charter.toml", "--out", desk / "s", "--key"]
    stranger = write_key(desk / "stranger", "approval", "a stranger")
    shown = treaty(*words, stranger)
    assert shown.code == 2
    assert "not in the charter" in shown.err
    other = write_key(desk / "other", "runner", "aare.example approval 1")
    shown = treaty(*words, other)
    assert shown.code == 2
    assert "was made for runner" in shown.err
    assert not (desk / "s").exists()


def test_a_file_in_the_way_is_not_replaced(treaty: Command, desk: Path) -> None:
    """Only a statement that is merged may be written again."""
    out = desk / "contract.toml"
    before = out.read_bytes()
    words = ["--in", desk / "charter.toml", "--key", desk / "log.key", "--out", out]
    assert treaty("charter", "sign", *words).code == 2
    assert out.read_bytes() == before


def test_an_amendment_needs_its_threshold_and_its_version_before(
    treaty: Command, desk: Path
) -> None:
    """Two of four are too few, three are enough; without the old version nothing can be said."""
    old, new, statement = desk / "charter.toml", desk / "new.toml", desk / "s"
    assert treaty("charter", "amend", old, "--out", new).code == 0
    successor = charter_from_toml(new.read_text())
    assert successor.version == 2
    assert successor.previous == charter_digest(charter_from_toml(old.read_text()))
    assert treaty("charter", "amend", old, "--out", new).code == 5
    pair = [
        word
        for name in ("aare", "birs")
        for word in ("--key", desk / f"{name}.example.approval.key")
    ]
    words = ["charter", "sign", "--in", new, "--out", statement]
    lacking = treaty(*words, *pair)
    assert lacking.code == 2
    assert "--previous" in lacking.err
    assert treaty(*words, *pair, "--previous", new).code == 2
    assert not statement.exists()
    few = treaty(*words, *pair, "--previous", old)
    assert few.code == 0
    assert "not complete" in few.out
    check = ["charter", "check", new, "--signed", statement, "--previous", old]
    refused = treaty(*check, "--format", "json")
    assert (refused.code, json.loads(refused.out)["code"]) == (4, "sub-quorum")
    third = ["--key", desk / "emme.example.approval.key", "--previous", old]
    enough = treaty(*words, "--in", statement, *third)
    assert enough.out.endswith("\ncomplete\n")
    assert treaty(*check).code == 0
    runner = ["--key", desk / "emme.example.runner.key", "--previous", old]
    stray = treaty(*words, "--in", statement, *runner)
    assert "not complete" in stray.out


def test_a_leaving_member_signs_with_the_version_before(treaty: Command, desk: Path) -> None:
    """Its key stands only there."""
    old, new = desk / "charter.toml", desk / "new.toml"
    treaty("charter", "amend", old, "--out", new)
    text = new.read_text()
    start = text.index('[members."reuss.example"]')
    end = text.index("[decisions]")
    new.write_text(text[:start] + text[end:])
    words = ["--in", new, "--previous", old, "--out", desk / "s"]
    shown = treaty("charter", "sign", *words, "--key", desk / "reuss.example.approval.key")
    assert shown.code == 0
    assert "signed by reuss.example approval" in shown.out
    runner = treaty(
        "charter", "sign", *words, "--in", desk / "s", "--key", desk / "reuss.example.runner.key"
    )
    assert runner.code == 2


def test_differences_name_every_field_and_every_signer(treaty: Command, desk: Path) -> None:
    """In words, and for programs."""
    old, new = desk / "charter.toml", desk / "new.toml"
    treaty("charter", "amend", old, "--out", new)
    new.write_text(new.read_text().replace("max_age_s = 3600", "max_age_s = 60"))
    shown = treaty("charter", "diff", old, new, "--format", "json")
    record = json.loads(shown.out)
    assert record["fields"] == ["log.max_age_s", "previous", "version"]
    assert len(record["signers"]) == 2
    page = treaty("charter", "diff", old, new)
    assert "  log.max_age_s\n" in page.out
    same = json.loads(treaty("charter", "diff", old, old, "--format", "json").out)
    assert (same["fields"], same["sentences"]) == ([], [])
    assert treaty("charter", "diff", old, desk / "absent").code == 5


def test_a_statement_of_another_kind_is_refused(treaty: Command, desk: Path) -> None:
    """An envelope is not enough."""
    key = decode_key_file((desk / "log.key").read_bytes()).key
    (desk / "s").write_bytes(envelope.seal(b"{}", [key]))
    shown = treaty("charter", "check", desk / "charter.toml", "--signed", desk / "s")
    assert shown.code == 3
