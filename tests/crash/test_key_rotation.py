"""A site's keys are exchanged at every moment at which its process can end, and none is lost.

The directory is a site's as far as its keys go; each step runs in a process of its own, which is
killed right before and right after each of its durable writes.

Planted and caught: a key in force moved before the charter lists another; new keys that a restart
makes anew; an old key left behind, or not overwritten; the waiting key removed before it is in its
place; a key that others can read; a lost key that keeps its site from starting; a request that
outlives its rotation; one of two waiting keys taken for the other's listing.
"""

import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.unit.governance.test_rotation import NOBODY
from tests.worlds import NAMES, key, small_charter
from treaty.deployment import rotating
from treaty.deployment.rotating import (
    install,
    is_pending,
    open_rotation,
    pending_roles,
    prepare,
    replace_lost,
    settle,
    transport_keys,
)
from treaty.errors import PolicyError, UsageError, VerificationError
from treaty.governance.amendment import CharterHistory
from treaty.governance.charter import Charter, parse_charter
from treaty.governance.rotation import rotated
from treaty.governance.terms import MemberKeys
from treaty.ids import MemberId
from treaty.stores.kill_points import KILL_VARIABLE, TRACE_VARIABLE
from treaty.stores.system import SystemEntropy
from treaty.wiring import create_keys, load_key

ME = MemberId(NAMES[0])
ROLES = ("approval", "runner", "transport", "witness")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site's directory with its keys."""
    place = tmp_path / "site"
    create_keys(place, ROLES, SystemEntropy())
    return place


def founding(site: Path) -> Charter:
    """A charter that lists the keys of `site` for the first member."""
    keys = {role: (load_key(site, role).public.hex,) for role in ROLES}

    def edit(charter: Charter) -> Charter:
        members = dict(charter.members)
        members[ME] = msgspec.structs.replace(members[ME], keys=MemberKeys(**keys))
        return msgspec.structs.replace(charter, members=members)

    return small_charter(edit=edit)


def keys_of(site: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((site / "keys").glob("*.key"))}


def waiting_of(site: Path) -> dict[str, bytes]:
    folder = site / "rotation" / "keys"
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.key"))}


def killed(act: Callable[[], object], order: str) -> int:
    """Run `act` in a process of its own, killed at `order`; return how it ended, negative."""
    pid = os.fork()
    if pid == 0:
        os.environ[KILL_VARIABLE] = order
        try:
            act()
        except BaseException:  # noqa: BLE001 - the child must not come back into the tests
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def points(act: Callable[[], object], trace: Path) -> list[str]:
    """Run `act` here; return its persist points, each before and after."""
    os.environ[TRACE_VARIABLE] = str(trace)
    try:
        act()
    finally:
        del os.environ[TRACE_VARIABLE]
    seen: dict[str, int] = {}
    found = []
    for label in trace.read_text().splitlines():
        seen[label] = seen.get(label, 0) + 1
        found += [f"{label}:{seen[label]}:{moment}" for moment in ("before", "after")]
    return found


def copy(site: Path, name: str) -> Path:
    target = site.with_name(name)
    shutil.copytree(site, target)
    return target


def test_a_command_that_is_cut_off_goes_on_with_the_keys_that_it_made(
    site: Path, tmp_path: Path
) -> None:
    history, before = CharterHistory((founding(site),)), keys_of(site)
    trial = copy(site, "trial")
    orders = points(lambda: prepare(trial, ME, ROLES, history, None), tmp_path / "trace")
    assert len(orders) == 10, orders
    kills = 0
    for number, order in enumerate(orders):
        ended = killed(lambda: prepare(site, ME, ROLES, history, None), order)
        assert ended in (-signal.SIGKILL, 0)
        kills += ended != 0
        assert keys_of(site) == before
        kept = waiting_of(site)
        made = prepare(site, ME, ROLES, history, None)
        assert kept.items() <= waiting_of(site).items()
        again = prepare(site, ME, ROLES, history, None)
        assert again == made and made.path.read_bytes() == made.data + b"\n"
        if number % 3 == 2:
            # Begun anew.
            for path in (site / "rotation" / "keys").iterdir():
                path.unlink()
            made.path.unlink()
    # What is made already is not written again, so not every point is reached every time.
    assert kills >= 5
    modes = {stat.S_IMODE(one.stat().st_mode) for one in (site / "rotation" / "keys").iterdir()}
    assert modes == {0o600}


def test_a_change_over_that_is_cut_off_anywhere_ends_as_one_that_is_not(
    site: Path, tmp_path: Path
) -> None:
    history, old = CharterHistory((founding(site),)), keys_of(site)
    made = prepare(site, ME, ROLES, history, None)
    charter, new = open_rotation(made.data, history)[0].charter, waiting_of(site)
    trial = copy(site, "trial")
    orders = points(lambda: install(trial, ME, charter), tmp_path / "trace")
    labelled = [order for order in orders if not order.startswith(":")]
    assert len(labelled) == 2 * 4 * 3 and len(orders) == len(labelled) + 2
    assert keys_of(trial) == new
    for number, order in enumerate(orders):
        place = copy(site, f"copy-{number}")
        assert killed(lambda place=place: install(place, ME, charter), order) == -signal.SIGKILL  # type: ignore[misc]  # bound now
        # At no moment is a key neither here nor there.
        for role in ROLES:
            assert keys_of(place)[role] in (old[role], new[role])
            waits = waiting_of(place).get(role)
            assert keys_of(place)[role] == new[role] or waits == new[role]
        for _ in range(2):
            install(place, ME, charter)
            # Until it has connected with the new key a refusal is waited for.
            assert is_pending(place)
        settle(place)
        assert keys_of(place) == new and waiting_of(place) == {}
        assert not is_pending(place)
        left = [path for path in place.rglob("*") if path.is_file()]
        assert {path.name for path in left} == {
            *(f"{role}.key" for role in ROLES),
            "current-charter.json",
        }
        assert not any(data in path.read_bytes() for path in left for data in old.values())
        assert all(
            stat.S_IMODE((place / "keys" / f"{r}.key").stat().st_mode) == 0o600 for r in ROLES
        )
        assert parse_charter((place / "current-charter.json").read_bytes()) == charter


def test_an_old_key_is_overwritten_and_not_only_unlinked(site: Path) -> None:
    """A second name of the old file, as a backup by hard links has it, shows zeros."""
    history = CharterHistory((founding(site),))
    kept = site.with_name("kept")
    os.link(site / "keys" / "runner.key", kept)
    made = prepare(site, ME, ["runner"], history, None)
    assert install(site, ME, open_rotation(made.data, history)[0].charter) == ("runner",)
    assert set(kept.read_bytes()) == {0}


def test_only_what_the_charter_in_force_lists_is_installed(site: Path) -> None:
    history, old = CharterHistory((founding(site),)), keys_of(site)
    made = prepare(site, ME, ["runner", "witness"], history, None)
    assert install(site, ME, history.current) == () and keys_of(site) == old
    assert pending_roles(site) == ("runner", "witness") and is_pending(site)
    charter = open_rotation(made.data, history)[0].charter
    listed = charter.members[ME].keys
    half = rotated(
        history.current,
        ME,
        msgspec.structs.replace(history.current.members[ME].keys, runner=listed.runner),
        suspended=NOBODY,
    )
    assert install(site, ME, half) == ("runner",)
    settle(site)
    assert pending_roles(site) == ("witness",) and is_pending(site)
    # The other one goes on after the version that is in force now, by another request.
    later = CharterHistory((history.current, half))
    with pytest.raises(PolicyError) as caught:
        open_rotation(made.data, later)
    assert caught.value.code == "stale-rotation"
    again = prepare(site, ME, ["witness"], later, None)
    following = open_rotation(again.data, later)[0].charter
    assert following.members[ME].keys == listed
    with pytest.raises(UsageError, match="is in force: start the site"):
        prepare(site, ME, ["witness"], CharterHistory((history.current, half, following)), None)
    assert install(site, ME, following) == ("witness",) and is_pending(site)
    assert install(site, ME, following) == ()
    settle(site)
    assert not is_pending(site)


def test_a_site_whose_key_is_gone_starts_with_the_new_one(site: Path, tmp_path: Path) -> None:
    history = CharterHistory((founding(site),))
    prepare(site, ME, ["approval", "transport"], history, None)
    assert replace_lost(site) == ()
    assert [one.public for one in transport_keys(site)] == [
        load_key(site, "transport").public,
        load_key(site / "rotation", "transport").public,
    ]
    (site / "keys" / "transport.key").unlink()
    # It lies elsewhere, perhaps: an officer's key is no process's business.
    (site / "keys" / "approval.key").rename(tmp_path / "offline.key")
    new = waiting_of(site)
    assert killed(lambda: replace_lost(site), "key-installed:1:before") == -signal.SIGKILL
    assert replace_lost(site) == ("transport",) and replace_lost(site) == ()
    assert keys_of(site)["transport"] == new["transport"] and is_pending(site)
    assert "approval" not in keys_of(site)


def test_what_cannot_be_exchanged_is_said_and_makes_no_key(site: Path) -> None:
    charter = founding(site)
    history = CharterHistory((charter,))

    def fails(kind: type[Exception], match: str, roles: list[str], within: CharterHistory) -> None:
        with pytest.raises(kind, match=match):
            prepare(site, ME, roles, within, None)
        assert not (site / "rotation").exists()

    fails(UsageError, "expected some of approval, runner, transport, witness", ["log"], history)
    fails(UsageError, "got none", [], history)
    out = msgspec.structs.replace(charter.members[ME], suspended=True)
    members = {**charter.members, ME: out}
    suspended = CharterHistory((msgspec.structs.replace(charter, members=members),))
    fails(PolicyError, "is suspended", ["runner"], suspended)
    keys = msgspec.structs.replace(out.keys, approval=tuple(key(f"{n}").public.hex for n in "ab"))
    members[ME] = msgspec.structs.replace(charter.members[ME], keys=keys)
    several = CharterHistory((msgspec.structs.replace(charter, members=members),))
    fails(UsageError, "lists 2 approval keys .* not here", ["approval"], several)
    made = prepare(site, ME, ["approval"], several, key("b"))
    left, new = open_rotation(made.data, several)[0].charter.members[ME].keys.approval
    assert left == key("a").public.hex and new == made.public[0][1]


def test_a_request_that_does_not_hold_is_refused(site: Path) -> None:
    history = CharterHistory((founding(site),))
    made = prepare(site, ME, ["runner", "witness"], history, None)
    request, _ = open_rotation(made.data, history)

    def refused(code: str, **changes: object) -> None:
        data = msgspec.json.encode(msgspec.structs.replace(request, **changes))
        with pytest.raises((VerificationError, PolicyError)) as caught:
            open_rotation(rotating.canonical.encode(msgspec.json.decode(data)), history)
        assert caught.value.code == code

    other = rotating.charter_statement(history.current)
    by = load_key(site / "rotation", "runner")
    seal = rotating.seal_statement
    text = rotating.envelope.encode_base64
    refused("wrong-charter", statement=text(seal(other, by)))
    own = rotating.charter_statement(request.charter)
    refused("no-possession", statement=text(seal(own, by)))
    refused("unknown-key", statement=text(seal(own, by, load_key(site, "witness"))))
    refused("wrong-charter", member=NAMES[1])
    refused("simulation", charter=msgspec.structs.replace(request.charter, simulation=True))
    wider = msgspec.structs.replace(request.charter, title="Second")
    refused("not-a-rotation", charter=wider)


def test_a_second_name_that_was_left_behind_is_no_old_key(site: Path) -> None:
    """Cut off after the second name was made and before the new key took the first."""
    history, old = CharterHistory((founding(site),)), keys_of(site)
    charter = open_rotation(prepare(site, ME, ["runner"], history, None).data, history)[0].charter
    (site / "keys" / ".retired-runner").hardlink_to(site / "keys" / "runner.key")
    new = waiting_of(site)["runner"]
    order = "key-installed:1:before"
    assert killed(lambda: install(site, ME, charter), order) == -signal.SIGKILL
    assert keys_of(site) == old
    assert install(site, ME, charter) == ("runner",) and keys_of(site)["runner"] == new
    assert [path.name for path in (site / "keys").glob(".*")] == []


def test_keys_that_wait_already_are_in_the_next_request_too(site: Path) -> None:
    history = CharterHistory((founding(site),))
    first = prepare(site, ME, ["runner"], history, None)
    both = prepare(site, ME, ["witness"], history, None)
    assert [role for role, _ in both.public] == ["runner", "witness"]
    assert first.public[0] in both.public


def test_a_key_that_stays_in_force_is_not_erased_for_another_one(
    site: Path, tmp_path: Path
) -> None:
    """Two approval keys: the one that lies elsewhere is exchanged, the other is in the site."""
    charter = founding(site)
    member = charter.members[ME]
    away = key("kept offline")
    keys = msgspec.structs.replace(member.keys, approval=(*member.keys.approval, away.public.hex))
    members = {**charter.members, ME: msgspec.structs.replace(member, keys=keys)}
    history = CharterHistory((msgspec.structs.replace(charter, members=members),))
    before = keys_of(site)
    with pytest.raises(UsageError, match="holds another approval key that stays in force"):
        prepare(site, ME, ["approval"], history, away)
    assert not (site / "rotation").exists()
    file = site / "keys" / "approval.key"
    file.rename(tmp_path / "approval.key")
    made = prepare(site, ME, ["approval"], history, away)
    following = open_rotation(made.data, history)[0].charter
    assert following.members[ME].keys.approval == (member.keys.approval[0], made.public[0][1])
    # Brought back meanwhile: it counts as before, so the new one goes on waiting.
    (tmp_path / "approval.key").rename(file)
    assert install(site, ME, following) == () and keys_of(site) == before
    assert pending_roles(site) == ("approval",)
    file.rename(tmp_path / "approval.key")
    assert install(site, ME, following) == ("approval",)
    assert load_key(site, "approval").public.hex == made.public[0][1]


def test_a_waiting_key_of_a_backup_that_was_given_up_since_is_not_proposed_again(
    site: Path,
) -> None:
    first = CharterHistory((founding(site),))
    backup = copy(site, "backup")
    made = prepare(backup, ME, ["runner"], first, None)
    second = open_rotation(made.data, first)[0].charter
    other = key("later runner").public.hex
    listed = msgspec.structs.replace(second.members[ME].keys, runner=(other,))
    third = rotated(second, ME, listed, suspended=NOBODY)
    history = CharterHistory((first.current, second, third))
    with pytest.raises(UsageError, match=r"was given up: remove .*rotation/keys/runner\.key"):
        prepare(backup, ME, ["runner"], history, None)
    (backup / "rotation" / "keys" / "runner.key").unlink()
    again = prepare(backup, ME, ["runner"], history, None)
    assert again.public[0][1] not in (other, made.public[0][1])
