"""Hub: the coordinator as a process: its directory, its server, the founding, the running.

`prepare` makes the directory and the terms, `invite` the invitations, `accept` takes the members'
requests; `run` starts the server, lets the members found the consortium and then serves until it
is told to stop. Nothing here is done twice: a step that was cut off goes on where it ended.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import PublicKey
from treaty.deployment.monitor import Monitor
from treaty.deployment.papers import (
    Invite,
    JoinRequest,
    compose,
    encode_invite,
    open_request,
    require_terms,
    require_terms_text,
    terms_of,
)
from treaty.deployment.places import (
    COORDINATOR_KEYS,
    HubSettings,
    exclusive,
    founded,
    load_hub,
    require_settings,
    settled_files,
    write_anchor,
)
from treaty.deployment.replica import STILL_S, GatedEngine, Replica
from treaty.deployment.server import NatsServer
from treaty.engines.jetstream import JetStreamEngine, NatsParty
from treaty.engines.server_config import ServerSettings, server_config
from treaty.engines.subjects import Subjects
from treaty.errors import ResourceError, UsageError
from treaty.governance.charter import Charter, charter_bytes, charter_digest, parse_charter
from treaty.governance.roles import KeyKind
from treaty.ids import Digest, MemberId, Timestamp
from treaty.node.coordinator import Coordinator
from treaty.node.founding import FoundingDesk
from treaty.node.runtime import deliver
from treaty.node.serving import serve
from treaty.ports import Journal
from treaty.protocol.consortium import Consortium
from treaty.stores.shared import SharedStore, write_shared_store
from treaty.stores.system import FileJournal, SystemClock, SystemEntropy
from treaty.wiring import (
    Storage,
    create_keys,
    load_key,
    make_directory,
    open_coordinator,
    read_file,
    write_file,
    write_new_file,
)

__all__ = [
    "HubProcess",
    "Standings",
    "accept",
    "invite",
    "prepare",
    "standings",
]


def prepare(
    directory: Path,
    settings: HubSettings,
    terms: Charter,
    *,
    store: SharedStore | None = None,
) -> Digest:
    """Make the coordinator's directory; return the digest of the terms, for the officers' paper.

    `terms` are completed with the coordinator's keys. `store` names the database that replicas
    share, where there is one. Raises `UsageError` for a directory in use or a server that would end
    with one of the replicas, or settings that no server can have, `PolicyError` when the terms do
    not hold. Nothing is made then.
    """
    if store is not None and settings.managed:
        raise UsageError(
            "replicas share one message server, which must not end with either of them: say "
            "--other-server, and where it listens with --host and --port"
        )
    if (directory / "terms.json").exists():
        raise UsageError(f"{directory} holds a coordinator already: name another directory")
    require_settings(settings)
    require_terms_text(terms, settings.name, Timestamp(settings.made_at))
    make_directory(directory)
    if store is not None:
        write_shared_store(directory, store)
    keys = create_keys(directory, COORDINATOR_KEYS, SystemEntropy())
    coordinator = msgspec.structs.replace(
        terms.coordinator,
        name=settings.name,
        runner=keys["coordinator"].public.hex,
        log=keys["log"].public.hex,
        certificate=keys["server"].public.keyid,
    )
    whole = terms_of(msgspec.structs.replace(terms, coordinator=coordinator))
    require_terms(whole)
    write_file(directory / "coordinator.json", canonical.encode(settings))
    # The terms come last: without them nothing was prepared.
    write_file(directory / "terms.json", charter_bytes(whole), label="terms")
    return charter_digest(whole)


def invite(directory: Path, out: Path) -> dict[MemberId, Path]:
    """Write one invitation for each member into `out`; return where they lie."""
    settings, terms = load_hub(directory), _terms(directory)
    make_directory(out, mode=0o755)
    pin = load_key(directory, "server").public.keyid
    now = SystemClock().now()
    written = {}
    for name in sorted(terms.members):
        paper = Invite(member=name, url=settings.url, pin=pin, made_at=now, terms=terms)
        path = out / f"invite-{name}.json"
        write_new_file(path, encode_invite(paper) + b"\n")
        written[MemberId(name)] = path
    return written


def accept(
    directory: Path, requests: list[bytes]
) -> tuple[dict[MemberId, JoinRequest], Digest | None]:
    """Take members' requests; return all that are here, and the anchor once they are complete."""
    if founded(directory) is not None:
        raise UsageError(
            "the consortium is founded, so its members accept whoever joins: give the request to "
            "one of them, for `treaty member accept REQUEST --dir treaty-site`"
        )
    terms = _terms(directory)
    opened = [(open_request(data, terms), data) for data in requests]
    place = directory / "requests"
    make_directory(place)
    here = _requests(directory, terms)
    for request, data in opened:
        name = MemberId(request.member)
        if name in here and here[name] != request:
            raise UsageError(
                f"{name} has sent other keys before: ask it which are right, and remove "
                f"{place / f'{name}.json'} if they are the new ones"
            )
        write_file(place / f"{name}.json", data)
        here[name] = request
    if set(here) != set(terms.members):
        return here, None
    return here, write_anchor(directory, charter_bytes(compose(terms, here)))


@dataclass(frozen=True, slots=True)
class Standings:
    """How far a coordinator is: who has sent a request, and the anchor once there is one."""

    members: tuple[MemberId, ...]
    accepted: tuple[MemberId, ...]
    anchor: Digest | None
    terms: Digest


def standings(directory: Path) -> Standings:
    """Return how far the coordinator in `directory` is."""
    terms = _terms(directory)
    found = founded(directory)
    return Standings(
        tuple(MemberId(name) for name in sorted(terms.members)),
        tuple(sorted(_requests(directory, terms))),
        None if found is None else found[0],
        charter_digest(terms),
    )


class HubProcess:
    """The coordinator in `directory`, as it runs. `say` gets what people should know.

    `engine` makes its end of the engine: tests put one there that loses and repeats. `still_s` is
    how long a replica may stand still before it loses its lease.
    """

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None],
        monitor: Monitor | None = None,
        engine: Callable[[NatsParty, Journal], JetStreamEngine] = JetStreamEngine,
        still_s: float = STILL_S,
    ) -> None:
        self._directory = directory
        self._still_s = still_s
        self._make_engine = engine
        self._say = say
        self._monitor = monitor or Monitor()
        self._settings = load_hub(directory)
        self._name = MemberId(self._settings.name)
        self._journal = self._monitor.journal(FileJournal(directory / "journal.jsonl"))
        self._server = NatsServer(
            ServerSettings(
                str((directory / "server").resolve()),
                self._settings.host,
                self._settings.port,
                self._settings.websocket_port,
            )
        )
        self._note = ""
        self._served: frozenset[str] = frozenset()
        self._admitted: object = None

    def run(self, stop: Callable[[], bool]) -> None:
        """Serve until `stop` says so. Raises what people must mend."""
        directory = self._directory
        with (
            exclusive(directory, self._name),
            self._monitor.running(self._name, is_hub=True),
        ):
            replica = Replica(directory, self._still_s)
            engine: GatedEngine | None = None
            storage = None
            try:
                if not replica.stand_by(stop, self._say, self._journal, self._monitor):
                    return
                self._install_server()
                if not self._await_requests(stop, replica):
                    return
                found = founded(directory)
                if found is None:
                    raise ResourceError(f"{directory}: the charter has gone, restore it")
                anchor, charter = found
                members = tuple(MemberId(name) for name in sorted(charter.members))
                engine = GatedEngine(replica)
                storage = replica.storage()
                node = open_coordinator(
                    directory,
                    name=self._name,
                    members=members,
                    anchor=anchor,
                    engine=engine,
                    storage=storage,
                    journal=self._journal,
                )
                # Whom the log has suspended is not let in again, not even while this begins.
                if node.state.membership is None:
                    self._admit(_transport_keys(charter))
                else:
                    self._admit_of(node.state)
                self._start_server()
                gate = engine
                present = charter if node.state.membership is None else node.state.charter
                self._connect(engine, present)
                replica.serves(lambda: gate.moved)
                if node.state.membership is None and not self._found(
                    node, charter, engine, storage, stop
                ):
                    return
                self._admit_of(node.state)
                self._say(f"serving {charter.consortium} at {self._settings.url}, anchor {anchor}")
                serve(
                    node,
                    wait=engine.wait,
                    stop=stop,
                    now_ms=lambda: time.monotonic_ns() // 1_000_000,
                    tick=lambda: self._tick(node, replica, engine, storage),
                )
                replica.require()
                self._keep_checkpoint(node)
            except ResourceError:
                # Whatever a replica met first after a pause: that its lease is over explains it.
                if replica.epoch:
                    replica.require()
                raise
            finally:
                if engine is not None:
                    engine.close()
                if storage is not None:
                    storage.store.close()
                if self._settings.managed:
                    self._server.stop()
                replica.release()

    # --- the server -----------------------------------------------------------------------------

    def _install_server(self) -> None:
        """Put the server's certificate in place; before there is a charter also start it."""
        key = load_key(self._directory, "server")
        self._server.install_certificate(key, self._settings.name, SystemClock().now())
        if founded(self._directory) is None:
            self._admit({})
            self._start_server()

    def _start_server(self) -> None:
        if self._settings.managed and self._server.ensure():
            self._say(f"message server listens at {self._settings.host}:{self._settings.port}")

    def _admit(self, members: Mapping[MemberId, list[PublicKey]]) -> None:
        """Let exactly `members` connect, from now on."""
        own = load_key(self._directory, "transport").public
        subjects = Subjects(self._settings.consortium, self._name)
        config = server_config(self._server.settings, subjects, own, members)
        if self._server.apply(config):
            self._journal.note("server-config", f"{len(members)} members may connect")

    def _admit_of(self, state: Consortium) -> None:
        if state.membership is self._admitted:
            # The configuration follows from the membership alone; with many members it is long.
            return
        charter = state.charter
        out = state.members.history.excluded()
        keys = _transport_keys(charter)
        self._admit({name: own for name, own in keys.items() if name not in out})
        self._admitted = state.membership

    def _connect(self, engine: GatedEngine, charter: Charter) -> None:
        """Let frames through to an end that knows the members of `charter`, and to no other."""
        # The other one first: two of one name would take frames from each other.
        engine.close()
        engine.open(self._engine(charter))
        self._served = frozenset(charter.members)

    def _engine(self, charter: Charter) -> JetStreamEngine:
        """Return this party's end, connected to the server on this machine or beside it."""
        settings = self._settings
        party = NatsParty(
            url=f"tls://{_loopback(settings.host)}:{settings.port}",
            pin=load_key(self._directory, "server").public.keyid,
            key=load_key(self._directory, "transport"),
            name=self._name,
            consortium=charter.consortium,
            coordinator=self._name,
            members=tuple(MemberId(name) for name in sorted(charter.members)),
        )
        engine = self._make_engine(party, self._journal)
        try:
            engine.connect(30)
        except BaseException:
            engine.close()
            raise
        return engine

    # --- founding -------------------------------------------------------------------------------

    def _await_requests(self, stop: Callable[[], bool], replica: Replica) -> bool:
        """Wait until every member's request has been accepted; say whether it came so far."""
        said: tuple[MemberId, ...] = ()
        while founded(self._directory) is None:
            replica.require()
            found = standings(self._directory)
            missing = tuple(name for name in found.members if name not in found.accepted)
            if missing != said:
                said = missing
                self._say(f"waiting for the requests of {', '.join(missing)}")
            self._monitor.awaits("requests to join", missing)
            if stop():
                return False
            time.sleep(0.1)
        return True

    def _found(
        self,
        node: Coordinator,
        charter: Charter,
        engine: GatedEngine,
        storage: Storage,
        stop: Callable[[], bool],
    ) -> bool:
        """Collect all signatures of the founding charter and log it; say whether it came so far."""
        data = charter_bytes(charter)
        engine.offer(sha256(data), data)
        desk = FoundingDesk(
            charter=charter,
            keys=(load_key(self._directory, "coordinator"), load_key(self._directory, "log")),
            store=storage.store,
            engine=engine,
            journal=self._journal,
        )
        said: tuple[MemberId, ...] = ()
        while missing := desk.missing():
            if missing != said:
                said = missing
                self._say(f"waiting for the signatures of {', '.join(missing)}")
            self._monitor.awaits("signatures of the charter", missing, engine=engine)
            if stop():
                return False
            if not deliver(desk):
                engine.wait(0.1)
            if self._settings.managed:
                self._server.ensure()
        node.submit(*desk.entry())
        node.flush()
        if node.state.membership is None:
            raise ResourceError("the consortium could not be founded: see the journal")
        self._say("the consortium is founded")
        return True

    # --- meanwhile ------------------------------------------------------------------------------

    def _tick(
        self, node: Coordinator, replica: Replica, engine: GatedEngine, storage: Storage
    ) -> None:
        """Keep the server running and configured by the charter, and the checkpoint on disk."""
        replica.require()
        if self._settings.managed and self._server.ensure():
            self._journal.note("server-restarted", "the message server had ended")
        self._admit_of(node.state)
        if self._served != frozenset(node.state.charter.members):
            # Each member has streams of its own, which are prepared on connecting.
            self._journal.note("members-changed", f"{len(node.state.charter.members)} members")
            self._connect(engine, node.state.charter)
        self._keep_checkpoint(node)
        self._monitor.observe(node, engine, storage.store, cosignatures=len(node.witnesses()))

    def _keep_checkpoint(self, node: Coordinator) -> None:
        """Keep the newest checkpoint that a quorum has cosigned: bundles are made from it."""
        if len(node.witnesses()) < node.state.members.witness_quorum:
            return
        note = node.checkpoint()
        if note != self._note:
            self._note = note
            write_file(self._directory / "checkpoint", note.encode(), label="cosigned")


def _terms(directory: Path) -> Charter:
    path = directory / "terms.json"
    if not path.is_file():
        raise UsageError(f"{directory} holds no coordinator: begin with `treaty coordinator init`")
    return parse_charter(read_file(path))


def _requests(directory: Path, terms: Charter) -> dict[MemberId, JoinRequest]:
    found = {}
    place = directory / "requests"
    for path in settled_files(place):
        request = open_request(read_file(path), terms)
        found[MemberId(request.member)] = request
    return found


def _transport_keys(charter: Charter) -> dict[MemberId, list[PublicKey]]:
    keys: dict[MemberId, list[PublicKey]] = {}
    for one in charter.listed_keys():
        if one.kind is KeyKind.TRANSPORT and one.owner not in charter.suspended_members():
            keys.setdefault(one.owner, []).append(one.public)
    return keys


def _loopback(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host
