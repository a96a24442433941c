"""Members of a simulation in processes of their own: the same run, and no end that hangs.

One process is the reference: with two, and with one for each member, the log holds the same kinds
of entry of the same authors in the same order, and the model is the same bytes. Whatever ends a
host or the simulation, the other ends too, nothing is left running, and who opens the directory
next goes on from what was stored.

Planted faults that these tests caught: what left the members let go in another order; hosts
finished in another order than that of their members; members shared out in another order; frames
that are never acknowledged, or the first one of a turn handed to every member; time that does not
pass for hosted members; members that are cut off and send all the same; a host that outlives its
simulation, or one that is closed and not waited for; a directory opened while an old host still has
it; a member's error that ends its host; an object handed over unchecked.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract, site_files, small_plan
from tests.standstill import has_ended
from treaty.contracts.schema import contract_bytes
from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, UsageError, VerificationError
from treaty.governance.roles import Action
from treaty.ids import MemberId
from treaty.protocol.messages import ProposalOpened
from treaty.protocol.statements import peek, seal_statement
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import Federation
from treaty.simulation.hosted import Host, HostedEngine
from treaty.simulation.hosting import share_out, wait_for_hosts
from treaty.simulation.hosting_wire import (
    Fetch,
    Found,
    receive_answer,
    receive_order,
    send_message,
)


def studied(
    federation: Federation, progress: Callable[[], None] | None = None
) -> tuple[str | None, list[tuple[str, str]]]:
    """Run one study; return its final model, and kind and author of every entry of the log."""
    federation.establish()
    study = federation.run_study(small_plan(federation), contract(), progress)
    bodies = [peek(entry)[1] for entry in federation.coordinator.entries]
    return study.final_model, [(type(body).__name__, body.author) for body in bodies]


def is_gone(process: int) -> bool:
    """Say whether no process has this identity (a reaped child has none)."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directories of the four small sites; tests work on copies."""
    directory = tmp_path_factory.mktemp("founded") / "federation"
    Federation.found(
        directory,
        {name: site_files(name) for name in SITES},
        consortium="rivers.example",
        site_figures=True,
    )
    return directory


@pytest.fixture
def place(founded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(founded, tmp_path / "federation")


@pytest.fixture(scope="module")
def reference(
    founded: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str | None, list[tuple[str, str]]]:
    """The final model, and the kinds and authors of all entries, of one process."""
    place = tmp_path_factory.mktemp("one") / "federation"
    federation = Federation(shutil.copytree(founded, place))
    try:
        return studied(federation)
    finally:
        federation.close()


@pytest.mark.parametrize("workers", [2, 9])
def test_the_log_and_the_model_are_those_of_one_process(
    workers: int, place: Path, reference: tuple[str | None, list[tuple[str, str]]]
) -> None:
    """Nothing but the number of processes differs, and the bundle verifies."""
    federation = Federation(place, workers=workers)
    assert len(federation.hosts) == min(workers, len(SITES)) - 1
    processes = [host.process_id for host in federation.hosts]
    try:
        assert studied(federation) == reference
        assert federation.network.pending() == 0
        verify_bundle(federation.bundle(), federation.anchor)
    finally:
        federation.close()
    assert all(map(is_gone, processes))


def test_a_host_that_is_killed_ends_the_run_and_the_next_goes_on(
    place: Path, reference: tuple[str | None, list[tuple[str, str]]]
) -> None:
    """The error names the members; no input is repeated, and the model is the same."""
    federation = Federation(place, workers=2)
    (host,) = federation.hosts

    def kill() -> None:
        if any(
            len(one.progress.trace) == 2 for one in federation.coordinator.state.studies.values()
        ):
            os.kill(host.process_id, signal.SIGKILL)

    with pytest.raises(ResourceError, match=r"emme, reuss.*signal 9"):
        studied(federation, kill)
    with pytest.raises(ResourceError, match="open the simulation again"):
        federation.settle()
    federation.close()
    assert is_gone(host.process_id)
    federation = Federation(place)
    try:
        model, _ = studied(federation)
        assert model == reference[0]
        verify_bundle(federation.bundle(), federation.anchor)
        inputs = [entry for entry in federation.coordinator.entries if is_input(entry)]
        contexts = [(body.author, body.context) for body in map(masked, inputs)]  # type: ignore[attr-defined]  # a masked input has one
        assert len(contexts) == len(set(contexts)) > 0
    finally:
        federation.close()


def masked(entry: bytes) -> object:
    return peek(entry)[1]


def is_input(entry: bytes) -> bool:
    return type(masked(entry)).__name__ == "MaskedInput"


def test_an_error_at_a_hosted_member_is_raised_here_as_it_was_there(place: Path) -> None:
    """A member that cannot be opened says why, of its own kind, and nothing is left running."""
    (place / "parties" / "reuss" / "keys" / "runner.key").unlink()
    found: list[Federation] = []
    with pytest.raises(ResourceError, match=r"runner\.key"):
        found.append(Federation(place, workers=2))
    wait_for_hosts(place)
    assert not found


def test_a_hosted_member_keeps_its_rows(place: Path) -> None:
    """What only the member's own process may look at is refused, with the way out."""
    federation = Federation(place, workers=2)
    try:
        federation.establish()
        study = federation.run_study(small_plan(federation), contract())
        assert federation.local_study(SITES[0], study) is not None
        with pytest.raises(UsageError, match="one worker"):
            federation.local_study(SITES[-1], study)
        with pytest.raises(UsageError, match="expected one of"):
            federation.submit(MemberId("thur"), b"")
    finally:
        federation.close()


def test_what_a_hosted_member_could_not_send_is_sent_when_time_passes(place: Path) -> None:
    """A member that is cut off loses its statement on the way, and sends it again."""
    federation = Federation(place, workers=2)
    try:
        federation.establish()
        author = SITES[-1]
        data = contract_bytes(contract())
        body = ProposalOpened(
            charter=federation.anchor,
            author=author,
            action=Action.CONTRACT_ADOPT.value,
            subject=sha256(data),
            target=None,
        )
        statement = seal_statement(body, federation.officer(author))
        federation.network.sever(author)
        waiting = federation.network.pending()
        federation.submit(author, statement, {sha256(data): data})
        assert federation.network.pending() == waiting
        federation.network.heal(author)
        assert federation.run(lambda state: sha256(statement) in state.proposals)
    finally:
        federation.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from treaty.simulation.federation import Federation
federation = Federation(Path(sys.argv[1]), workers=2)
federation.establish()
for host in federation.hosts:
    host.begin()
print(federation.hosts[0].process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_host_ends_when_the_simulation_is_killed(place: Path) -> None:
    """Whoever opens the directory next waits for the last host to be gone, and goes on."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(place)], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    federation = Federation(place)
    # The lock was free: the host no longer has a store open. It is not one of our children, and
    # its files close a moment before it is gone.
    try:
        end = time.monotonic() + 60
        while not has_ended(int(ended.stdout)):
            assert time.monotonic() < end, "the host lives on"
            time.sleep(0.01)
        federation.establish()
    finally:
        federation.close()


def test_a_directory_with_a_living_host_is_not_opened_twice(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second simulation is refused; the first is not disturbed."""
    federation = Federation(place, workers=2)
    monkeypatch.setattr("treaty.simulation.hosting._PATIENCE_S", 0.1)
    try:
        with pytest.raises(ResourceError, match="another process hosts members"):
            Federation(place)
        monkeypatch.undo()
        federation.establish()
    finally:
        federation.close()


def test_a_fetched_object_is_compared_with_its_digest() -> None:
    """A host asks the simulation, takes what it says only if it is what was asked, or refuses."""
    ours, theirs = socket.socketpair()
    host = Host(theirs)
    engine = HostedEngine(host, MemberId("aare"), (MemberId("coordinator"),))
    answers = [
        Found(b"right"),
        Found(b"wrong"),
        Found(None, "too large", "blob-too-large"),
        Found(None, "nobody offers it"),
    ]

    def serve() -> None:
        for answer in answers:
            assert receive_answer(ours) == Fetch("aare", sha256(b"right"), 9)
            send_message(ours, answer)

    simulation = threading.Thread(target=serve)
    simulation.start()
    assert engine.fetch(sha256(b"right"), 9) == b"right"
    with pytest.raises(VerificationError, match="fetch it again"):
        engine.fetch(sha256(b"right"), 9)
    with pytest.raises(VerificationError) as refused:
        engine.fetch(sha256(b"right"), 9)
    assert refused.value.code == "blob-too-large"
    with pytest.raises(ResourceError, match="nobody offers it"):
        engine.fetch(sha256(b"right"), 9)
    simulation.join()
    ours.close()
    with pytest.raises(ResourceError, match=r"gone|ended"):
        engine.fetch(sha256(b"right"), 9)
    engine.severed = True
    with pytest.raises(ResourceError, match="cannot be reached"):
        engine.send(MemberId("coordinator"), b"frame", "1")
    with pytest.raises(UsageError, match="the data has"):
        engine.offer(sha256(b"right"), b"wrong")
    theirs.close()


def test_a_message_that_is_cut_off_counts_as_the_end() -> None:
    """Half a message is none; a message of no known kind is refused."""
    ours, theirs = socket.socketpair()
    ours.sendall((5).to_bytes(8, "little") + b"ab")
    ours.close()
    assert receive_order(theirs) is None
    theirs.close()
    ours, theirs = socket.socketpair()
    ours.sendall((3).to_bytes(8, "little") + b"abc")
    with pytest.raises(ResourceError, match="no message"):
        receive_order(theirs)
    ours.sendall((1 << 40).to_bytes(8, "little"))
    with pytest.raises(ResourceError, match="expected at most"):
        receive_order(theirs)
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("processes", "here", "elsewhere"),
    [
        (1, "abcdefghij", []),
        (2, "abcde", ["fghij"]),
        (3, "abc", ["def", "ghij"]),
        (99, "a", list("bcdefghij")),
    ],
)
def test_members_are_shared_out_in_order(processes: int, here: str, elsewhere: list[str]) -> None:
    """Every member lives in one process, and the order of all of them is kept."""
    members = tuple(MemberId(letter) for letter in "abcdefghij")
    assert share_out(members, processes) == (tuple(here), [tuple(part) for part in elsewhere])


def test_workers_are_refused_where_parties_cannot_be_apart(place: Path) -> None:
    """What lives in one process alone is named, and nothing is started."""
    with pytest.raises(UsageError, match="at least 1 worker"):
        Federation(place, workers=0)
    with pytest.raises(UsageError, match="expected 1 worker"):
        Federation(place, workers=2, in_memory=True)
    with pytest.raises(UsageError, match="expected 1 worker"):
        Federation(place, workers=2, capture=True)
    assert not (place / "hosts.lock").exists()
