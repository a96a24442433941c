"""Agent: a site as a process: it joins with its own keys, signs the charter, and serves.

`join` makes the keys and the request; `run` takes part until it is told to stop. No private key
leaves the directory. What else may leave is the business of policy and gate (`treaty.node`).
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from treaty.contracts.alignment import Adapter, parse_adapter
from treaty.crypto import canonical
from treaty.crypto.canonical import MAX_SIZE_BYTES, sha256
from treaty.crypto.keys import SigningKey
from treaty.deployment.monitor import Monitor
from treaty.deployment.outbox import Outbox
from treaty.deployment.papers import (
    Invite,
    JoinRequest,
    decode_invite,
    open_accession,
    seal_accession,
    seal_request,
    terms_of,
)
from treaty.deployment.places import (
    SITE_KEYS,
    SiteSettings,
    exclusive,
    founded,
    load_site,
    write_anchor,
)
from treaty.deployment.rotating import (
    install,
    is_pending,
    pending_roles,
    replace_lost,
    settle,
    transport_keys,
)
from treaty.engines.jetstream import JetStreamEngine, NatsParty
from treaty.errors import PeerError, PolicyError, ResourceError, UsageError, VerificationError
from treaty.governance.charter import (
    Charter,
    charter_bytes,
    charter_digest,
    parse_charter,
    require_networked,
)
from treaty.governance.site_policy import SitePolicy, site_policy_from_toml
from treaty.governance.terms import MemberKeys
from treaty.ids import Digest, MemberId
from treaty.node.founding import founding_post, sign_founding
from treaty.node.participant import Participant
from treaty.node.serving import serve
from treaty.ports import Journal
from treaty.stores.system import FileJournal, SystemClock, SystemEntropy
from treaty.wiring import (
    TEXT_LIMIT_BYTES,
    Storage,
    as_text,
    create_keys,
    has_store,
    load_key,
    make_directory,
    open_participant,
    read_file,
    write_file,
    write_new_file,
    write_new_private_file,
)

__all__ = ["WITHDRAWN", "SiteProcess", "join", "read_invite", "withdraw"]

WITHDRAWN = "withdrawn"
"""A file of this name in a site's directory: the site takes no part."""

ADMISSION_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""How often a newcomer tries whether it has been accepted: ever more rarely."""

JOINED = "joined-charter.json"
"""The version of the charter by which a newcomer joins, in its directory."""

CHARTER_S = 60.0
"""How long a starting site waits for the coordinator to offer the charter."""

_PLACES = {"data": "data.csv", "adapter": "adapter.toml", "policy": "policy.toml"}


def read_invite(path: Path) -> Invite:
    """Return the invitation in `path`, checked against this machine's clock."""
    return decode_invite(read_file(path, 1 << 20), SystemClock().now())


def join(
    directory: Path, invite: Invite, terms: str, own_files: dict[str, Path | None]
) -> tuple[Path, Digest]:
    """Make a site's directory and keys, and the request to send back; return where it lies.

    `terms` are the hexadecimal digits that the officer has on paper. Raises `VerificationError`
    (code ``wrong-terms``) when the invitation has other terms, and `UsageError` for an adapter or
    a policy that the site could not use: then nothing is written.
    """
    found = charter_digest(invite.terms)
    said = "".join(terms.split()).lower()
    if len(said) < 16 or not found.startswith(said):
        raise VerificationError(
            f"the invitation's terms have digest {found}, the paper says {said or 'nothing'}: do "
            "not join, and call the coordinator (give 16 digits or more)",
            code="wrong-terms",
        )
    if (directory / "site.json").exists():
        raise UsageError(f"{directory} holds a site already: name another directory")
    contents = {
        kind: read_file(path, None if kind == "data" else TEXT_LIMIT_BYTES)
        for kind, path in own_files.items()
        if path is not None
    }
    _require_readable(invite.member, own_files, contents)
    make_directory(directory)
    for kind, data in contents.items():
        target = directory / _PLACES[kind]
        if not target.exists():
            write_new_private_file(target, data)
    keys = create_keys(directory, SITE_KEYS, SystemEntropy())
    request = JoinRequest(
        member=invite.member,
        terms=found,
        keys=MemberKeys(**{kind: (key.public.hex,) for kind, key in keys.items()}),
    )
    path = directory / "request.json"
    if not path.exists():
        founds = invite.founding is None
        sealed = seal_request(request, keys) if founds else seal_accession(invite, keys)
        if not founds:
            # The version that lists this site's keys: a data set is registered under it.
            write_file(directory / JOINED, charter_bytes(open_accession(sealed)[0].charter))
        write_new_file(path, sealed + b"\n")
    # The settings come last: a directory without them has not joined.
    write_file(directory / "site.json", canonical.encode(SiteSettings(invite=invite)))
    return path, found


def _require_readable(
    member: str, own_files: Mapping[str, Path | None], contents: Mapping[str, bytes]
) -> None:
    """Raise `UsageError` for an adapter or a policy that the site could not use."""
    for kind, parse in (("adapter", parse_adapter), ("policy", site_policy_from_toml)):
        path = own_files.get(kind)
        if path is not None:
            text = as_text(path, contents[kind])
            try:
                found: Adapter | SitePolicy = parse(text)
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from error
            if isinstance(found, SitePolicy) and found.site != member:
                raise UsageError(f"{path} is the policy of {found.site}, expected {member}'s")


def withdraw(directory: Path) -> bool:
    """Let the site take no further part; a running process stops. Say whether it was news."""
    load_site(directory)
    if (directory / WITHDRAWN).exists():
        return False
    write_file(directory / WITHDRAWN, b"")
    return True


class SiteProcess:
    """The site in `directory`, as it runs. `say` gets what people should know.

    `engine` makes its end of the engine: tests put one there that loses and repeats.
    """

    def __init__(
        self,
        directory: Path,
        anchor: str,
        say: Callable[[str], None],
        monitor: Monitor | None = None,
        engine: Callable[[NatsParty, Journal], JetStreamEngine] = JetStreamEngine,
    ) -> None:
        self._directory = directory
        self._make_engine = engine
        self._say = say
        self._monitor = monitor or Monitor()
        self._invite = load_site(directory).invite
        self._name = MemberId(self._invite.member)
        self._anchor = "".join(anchor.split()).lower()
        self._journal = self._monitor.journal(FileJournal(directory / "journal.jsonl"))

    def run(self, stop: Callable[[], bool]) -> None:
        """Take part until `stop` says so. Raises what people must mend."""
        directory = self._directory
        if (directory / WITHDRAWN).exists():
            raise PolicyError(
                f"{self._name} has withdrawn: remove {directory / WITHDRAWN} to take part again",
                code="withdrawn",
            )
        with (
            exclusive(directory, self._name),
            self._monitor.running(self._name, is_hub=False),
        ):
            while self._serve(stop):
                # With the keys that the charter lists now.
                continue

    def _serve(self, stop: Callable[[], bool]) -> bool:
        """Take part with the keys that are in force; say whether others came into force."""
        directory = self._directory
        known = self._known()
        for role in replace_lost(directory):
            self._journal.note("key-replaced", f"the {role} key was gone: the new one is taken")
        engine = self._admitted(stop)
        if engine is None:
            return False
        storage = None
        try:
            anchor, charter = known or self._charter(engine, stop)
            storage = Storage.on_disk(directory)
            node = self._open(anchor, engine, storage)
            keys = _KeyWatch(directory, self._name, engine)
            if self._changes_over(keys, node):
                return True
            settle(directory)
            if not node.size and self._invite.founding is None:
                self._sign(engine, charter)
            self._say(f"{self._name} serves {charter.consortium}, anchor {anchor}")
            node.start()
            outbox = Outbox(directory)
            withdrawn = changed = False

            def tick() -> None:
                nonlocal withdrawn, changed
                # Looked for a few times a second, not at every turn of the loop.
                withdrawn = withdrawn or (directory / WITHDRAWN).exists()
                changed = changed or self._changes_over(keys, node)
                if node.state.membership is not None and not changed:
                    outbox.submit(node)
                self._monitor.observe(node, engine, storage.store, budget=node.budget)

            serve(
                node,
                wait=engine.wait,
                stop=lambda: stop() or withdrawn or changed,
                now_ms=lambda: time.monotonic_ns() // 1_000_000,
                tick=tick,
            )
            return changed and not stop() and not withdrawn
        finally:
            engine.close()
            if storage is not None:
                storage.store.close()

    def _changes_over(self, keys: "_KeyWatch", node: Participant) -> bool:
        """Install new keys that the log lists now; say whether to begin anew with other keys."""
        done = keys.install(node)
        if done:
            said = f"{self._name} has changed over to its new keys: {', '.join(done)}"
            self._say(said)
            self._journal.note("keys-rotated", said)
        return bool(done) or keys.cut_off()

    def _open(self, anchor: Digest, engine: JetStreamEngine, storage: Storage) -> Participant:
        return open_participant(
            self._directory,
            name=self._name,
            coordinator=MemberId(self._invite.terms.coordinator.name),
            anchor=anchor,
            engine=engine,
            storage=storage,
            journal=self._journal,
            confined=True,
        )

    def _admitted(self, stop: Callable[[], bool]) -> JetStreamEngine | None:
        """Return this party's end, connected; a newcomer waits until it is a member.

        None when it was told to stop before.
        """
        said, pause = False, ADMISSION_PAUSE_S
        while True:
            # A new key is let in from the version on that lists it, and the old one no longer.
            for key in transport_keys(self._directory):
                try:
                    return self._connect(key)
                except PolicyError as error:
                    # A member whose key is refused is suspended; a newcomer's is not listed yet,
                    # and neither is the one that takes the place of a lost one.
                    newcomer = self._invite.founding is not None and not has_store(self._directory)
                    waits = newcomer or is_pending(self._directory)
                    if error.code != "key-refused" or not waits:
                        raise
            if not said:
                said = True
                what = "accepted it" if newcomer else "agreed to its new keys"
                self._say(f"{self._name} waits until the members have {what}")
            end = time.monotonic() + pause
            pause = min(pause * 1.25, LONGEST_PAUSE_S)
            while time.monotonic() < end:
                self._monitor.awaits("acceptance by the members", ())
                if stop():
                    return None
                time.sleep(0.1)

    def _connect(self, key: SigningKey) -> JetStreamEngine:
        invite = self._invite
        party = NatsParty(
            url=invite.url,
            pin=Digest(invite.pin),
            key=key,
            name=self._name,
            consortium=invite.terms.consortium,
            coordinator=MemberId(invite.terms.coordinator.name),
        )
        engine = self._make_engine(party, self._journal)
        try:
            engine.connect(30)
        except BaseException:
            engine.close()
            raise
        return engine

    def _known(self) -> tuple[Digest, Charter] | None:
        """Return anchor and founding charter as kept, or as a newcomer's invitation has it."""
        kept = founded(self._directory)
        if kept is not None:
            if self._anchor and not kept[0].startswith(self._anchor):
                raise VerificationError(
                    f"this site belongs to the consortium with anchor {kept[0]}, not to "
                    f"{self._anchor}: check the anchor",
                    code="wrong-anchor",
                )
            require_networked(kept[1])
            return kept
        if len(self._anchor) != 64:
            raise UsageError(
                "expected the anchor of the founding charter, 64 hexadecimal digits that the "
                "coordinator and the other members read out: give it with --anchor"
            )
        founding = self._invite.founding
        if founding is None:
            return None
        # It is no party to the founding charter: what it has agreed to is a later version.
        if charter_digest(founding) != self._anchor:
            raise VerificationError(
                f"the invitation is into the consortium with anchor {charter_digest(founding)}, "
                f"not {self._anchor}: compare the anchor with the members",
                code="wrong-anchor",
            )
        return write_anchor(self._directory, charter_bytes(founding)), founding

    def _charter(self, engine: JetStreamEngine, stop: Callable[[], bool]) -> tuple[Digest, Charter]:
        """Return anchor and founding charter as the coordinator offers it."""
        data = self._fetch(engine, Digest(self._anchor), stop)
        charter = parse_charter(data)
        if terms_of(charter) != self._invite.terms:
            raise VerificationError(
                "the charter to be founded has other terms than the invitation: do not sign, and "
                "call the other members",
                code="wrong-terms",
            )
        return write_anchor(self._directory, data), charter

    def _fetch(self, engine: JetStreamEngine, anchor: Digest, stop: Callable[[], bool]) -> bytes:
        end = time.monotonic() + CHARTER_S
        while True:
            try:
                return engine.fetch(anchor, MAX_SIZE_BYTES)
            except ResourceError as error:
                if time.monotonic() > end or stop():
                    raise ResourceError(
                        f"the coordinator offers no charter with anchor {anchor[:16]}: compare the "
                        "anchor with the other members, and see that the coordinator runs"
                    ) from error
                time.sleep(0.2)
            except PeerError as error:
                raise VerificationError(
                    f"what the coordinator offers as the charter is something else: {error}",
                    code="wrong-anchor",
                ) from error

    def _sign(self, engine: JetStreamEngine, charter: Charter) -> None:
        """Sign the founding charter with the keys that it lists for this site, and send that."""
        keys = [load_key(self._directory, role) for role in SITE_KEYS]
        statement = sign_founding(charter, self._name, *keys)
        frame = founding_post(self._name, statement)
        key = f"founding-{sha256(frame)[:16]}-{SystemClock().now()}"
        engine.send(MemberId(charter.coordinator.name), frame, key)


class _KeyWatch:
    """Looks whether the keys of the site in `directory` are to be exchanged while it runs."""

    def __init__(self, directory: Path, name: MemberId, engine: JetStreamEngine) -> None:
        self._directory = directory
        self._name = name
        self._engine = engine
        self._seen: object = None

    def install(self, node: Participant) -> tuple[str, ...]:
        """Install what the charter in force lists; looked for once for each membership."""
        membership = node.state.membership
        if membership is None or membership is self._seen:
            return ()
        done = install(self._directory, self._name, membership.charter)
        self._seen = membership
        return done

    def cut_off(self) -> bool:
        """Say whether the server refuses the present key, and there is another one to try."""
        return self._engine.key_refused and "transport" in pending_roles(self._directory)
