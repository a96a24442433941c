"""Federation: a whole consortium on one machine, every party with its own directory and keys.

The parties run the same nodes over the same protocol as real sites; only the engine is embedded and
the officers' decisions are scripted. Its founding charter says ``simulation = true``, so no real
site will ever run it. Nothing is shared between parties but frames.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from treaty.contracts.schema import Contract, contract_bytes, contract_digest
from treaty.crypto import envelope
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.engines.embedded import EmbeddedNetwork
from treaty.engines.faults import FaultPlan
from treaty.errors import ResourceError, UsageError
from treaty.governance.charter import charter_bytes, charter_digest, parse_charter
from treaty.governance.roles import Action, Role
from treaty.governance.template import CharterOptions, build_charter
from treaty.governance.terms import Coordinator as CoordinatorTerms
from treaty.governance.terms import MemberKeys
from treaty.ids import Digest, MemberId
from treaty.models.specification import ModelSpecification
from treaty.node.contribution import LocalStudy
from treaty.node.coordinator import Coordinator
from treaty.node.participant import Participant
from treaty.node.runtime import Node, run
from treaty.ports import Engine, Entropy
from treaty.protocol.consortium import Consortium
from treaty.protocol.membership import charter_entry, charter_statement
from treaty.protocol.messages import (
    BallotCast,
    ProposalOpened,
    release_provenance,
)
from treaty.protocol.statements import seal_statement, statement_payload
from treaty.protocol.study import Study
from treaty.provenance.bundle import Edition, export
from treaty.registration import open_budget
from treaty.simulation.founding import (
    policy_text,
    register,
    with_site_figures,
    with_sketch_claims,
)
from treaty.simulation.hosting import MemberHost, share_out, wait_for_hosts
from treaty.stores.files import make_directory, read_file, write_file, write_private_file
from treaty.stores.memory import MemoryLedger
from treaty.stores.system import SystemEntropy
from treaty.studies.lint import require_clean
from treaty.studies.plan import Plan, plan_bytes, plan_digest
from treaty.wiring import (
    COORDINATOR_ROLES,
    MEMBER_ROLES,
    Storage,
    code_digest,
    create_keys,
    load_key,
    open_coordinator,
    open_participant,
)

__all__ = ["COORDINATOR", "Federation", "SiteFilesToWrite"]

COORDINATOR = MemberId("coordinator")


@dataclass(frozen=True, slots=True)
class SiteFilesToWrite:
    """What a site keeps in its directory: its data file, and the adapter that reads it."""

    data: bytes = field(repr=False)
    adapter: bytes = field(repr=False)


class Federation:
    """A consortium whose parties live below one directory.

    `found` makes it; opening an existing one goes on with it, as after a crash. With `workers` more
    than one, that many processes host the parties, this one among them: the coordinator and the
    first members here, the others in `hosts`. What happens is the same, entry by entry, but each
    processor has its share of it. Members elsewhere are not among `participants`. Raises
    `UsageError` where workers are asked for with stores in memory or with faults, which live here.
    """

    def __init__(
        self,
        directory: Path,
        *,
        in_memory: bool = False,
        faults: FaultPlan | None = None,
        capture: bool = False,
        slots_per_epoch: int | None = None,
        workers: int = 1,
    ) -> None:
        if workers < 1:
            raise UsageError(f"expected at least 1 worker, got {workers}")
        if workers > 1 and (in_memory or faults is not None or capture):
            raise UsageError(
                "stores in memory, faults and captured frames are of one process: expected 1 worker"
            )
        self.directory = directory
        self.anchor = Digest((directory / "anchor.txt").read_text().strip())
        self.charter = parse_charter(read_file(directory / "charter.json"))
        self.members = tuple(MemberId(name) for name in sorted(self.charter.members))
        self.network = EmbeddedNetwork((*self.members, COORDINATOR), faults=faults, capture=capture)
        self._in_memory = in_memory
        self._storages: list[Storage] = []
        self._slots_per_epoch = slots_per_epoch
        self._ledgers: dict[MemberId, MemoryLedger] = {}
        wait_for_hosts(directory)
        here, elsewhere = share_out(self.members, workers)
        self.hosts: list[MemberHost] = []
        try:
            for names in elsewhere:
                self.hosts.append(self._host(names))
            self.coordinator = self._open_coordinator()
            self.participants = {name: self._open_participant(name) for name in here}
            for host in self.hosts:
                host.opened()
        except BaseException:
            self.close()
            raise

    # --- founding -----------------------------------------------------------------------------

    @staticmethod
    def found(
        directory: Path,
        sites: Mapping[MemberId, SiteFilesToWrite],
        *,
        consortium: str,
        title: str = "",
        titles: Mapping[str, str] | None = None,
        site_figures: bool = False,
        max_colluders: int = 1,
        post_quantum: bool | None = None,
        entropy: Entropy | None = None,
        slots_per_epoch: int = 32,
        epsilon_budget_milli: int = 0,
        delta: str = "0",
        max_sites_per_person: int = 2,
        transport_keys: bool = False,
        sketch_claims: bool = False,
    ) -> None:
        """Write the parties' directories: keys, data, policies, and the charter that all sign.

        With `epsilon_budget_milli` (thousandths) and `delta` (a decimal text) the charter is
        differentially private: sums over training rows are noised only. Without it they are exact.
        With `transport_keys` the charter lists four keys of each member, as a networked one does;
        with `sketch_claims` it lets claims of sketched rounds be shown (EXPERIMENTAL).

        Raises `UsageError` for fewer than three sites or a directory that is in use.
        """
        if len(sites) < 3:
            raise UsageError(f"expected at least 3 sites, got {len(sites)}")
        if (directory / "anchor.txt").exists():
            raise UsageError(f"{directory} holds a consortium already: name another directory")
        source = entropy or SystemEntropy()
        parties = directory / "parties"
        make_directory(directory, mode=0o755)
        make_directory(parties, mode=0o755)
        roles = (*MEMBER_ROLES, "transport") if transport_keys else MEMBER_ROLES
        keys = {name: create_keys(parties / name, roles, source) for name in sorted(sites)}
        own = create_keys(parties / COORDINATOR, COORDINATOR_ROLES, source)
        charter = build_charter(
            consortium,
            {
                name: MemberKeys(
                    approval=(one["approval"].public.hex,),
                    runner=(one["runner"].public.hex,),
                    witness=(one["witness"].public.hex,),
                    transport=(one["transport"].public.hex,) if transport_keys else (),
                )
                for name, one in keys.items()
            },
            CoordinatorTerms(
                name=COORDINATOR,
                title="Simulated coordinator",
                runner=own["coordinator"].public.hex,
                log=own["log"].public.hex,
            ),
            CharterOptions(
                title=title,
                simulation=True,
                max_colluders=max_colluders,
                post_quantum=post_quantum,
                slots_per_epoch_max=max(slots_per_epoch, 1),
                epsilon_budget_milli=epsilon_budget_milli,
                delta=delta,
                max_sites_per_person=max_sites_per_person,
            ),
            titles=titles,
        )
        if site_figures:
            charter = with_site_figures(charter)
        if sketch_claims:
            charter = with_sketch_claims(charter)
        for name, site in sites.items():
            place = parties / name
            write_private_file(place / "data.csv", site.data)
            write_private_file(place / "adapter.toml", site.adapter)
            write_private_file(place / "policy.toml", policy_text(name, site_figures).encode())
        anchor = charter_digest(charter)
        for name in sorted(sites):
            register(parties / name, name, anchor, keys[name]["approval"], source)
        write_file(directory / "charter.json", charter_bytes(charter))
        # The anchor comes last: a directory without it was never founded.
        write_file(directory / "anchor.txt", f"{anchor}\n".encode(), label="founded")

    # --- running ------------------------------------------------------------------------------

    def nodes(self) -> tuple[Node, ...]:
        """Return the parties of this process, in the order in which the runtime turns to them."""
        return (self.coordinator, *self.participants.values())

    def run(
        self, until: Callable[[Consortium], bool], progress: Callable[[], None] | None = None
    ) -> bool:
        """Let frames flow until the coordinator's state satisfies `until`; say whether it did."""
        return run(
            self.nodes(),
            until=lambda: until(self.coordinator.state),
            progress=progress,
            hosts=self.hosts,
        )

    def submit(
        self, member: MemberId, statement: bytes, documents: Mapping[Digest, bytes] | None = None
    ) -> None:
        """Let `member` send what its officer signed, wherever it lives (`Participant.submit`)."""
        if member in self.participants:
            self.participants[member].submit(statement, documents)
            return
        for host in self.hosts:
            if member in host.members:
                host.submit(member, statement, documents)
                return
        raise UsageError(f"expected one of {', '.join(self.members)}, got {member}")

    def establish(self) -> None:
        """Bring the founding charter into the log, signed by every key that it lists."""
        if self.coordinator.state.membership is None:
            parties = self.directory / "parties"
            signers = [
                load_key(parties / key.owner, key.kind.value) for key in self.charter.listed_keys()
            ]
            statement = envelope.seal(statement_payload(charter_statement(self.charter)), signers)
            entry = charter_entry(
                self.charter, statement, load_key(parties / COORDINATOR, "coordinator")
            )
            self.coordinator.submit(*entry)
        for node in self.participants.values():
            node.start()
        for host in self.hosts:
            host.start()
        if not self.run(lambda state: state.membership is not None):
            raise ResourceError("the consortium could not be founded: see the journals")

    def officer(self, name: MemberId) -> SigningKey:
        """Return the approval key of `name`'s officer (a simulation holds them all)."""
        return load_key(self.directory / "parties" / name, "approval")

    def decide(
        self,
        action: Action,
        subject: Digest,
        document: bytes | None,
        *,
        target: MemberId | None = None,
        voters: Sequence[MemberId] | None = None,
    ) -> Digest:
        """Propose, let the officers vote until it is settled, and return the proposal's identity.

        A proposal that is in the log already, as after a crash, is taken up where it stands.
        """
        state = self.coordinator.state
        known = [
            record.proposal.identity
            for record in state.proposals.values()
            if record.proposal.action == action.value and record.proposal.subject == subject
        ]
        proposer = self.members[0]
        body = ProposalOpened(
            charter=state.members.directory.charter,
            author=proposer,
            action=action.value,
            subject=subject,
            target=target,
        )
        statement = seal_statement(body, self.officer(proposer))
        identity = known[0] if known else sha256(statement)
        if not known:
            attached = {} if document is None else {sha256(document): document}
            self.submit(proposer, statement, attached)
            self._until(lambda state: identity in state.proposals, "the proposal was not opened")
        for voter in voters or self.members:
            proposal = self.coordinator.state.proposals[identity].proposal
            if proposal.settled or voter in proposal.ballots or voter not in proposal.electorate:
                continue
            ballot = BallotCast(
                charter=self.coordinator.state.members.directory.charter,
                author=voter,
                proposal=identity,
                choice="approve",
            )
            self.submit(voter, seal_statement(ballot, self.officer(voter)))
            self._until(
                lambda state, voter=voter: voter in state.proposals[identity].proposal.ballots,  # type: ignore[misc]  # the default binds the loop's voter
                f"the ballot of {voter} was not counted",
            )
        return identity

    def adopt(self, contract: Contract) -> None:
        """Let the members adopt a data contract."""
        if contract_digest(contract) in self.coordinator.state.contracts:
            return
        self.decide(Action.CONTRACT_ADOPT, contract_digest(contract), contract_bytes(contract))

    def plan(
        self, study: str, contract: Contract, model: ModelSpecification, **settings: object
    ) -> Plan:
        """Return a plan bound to this consortium; `settings` are fields of `Plan`."""
        fields: dict[str, object] = {
            "study": study,
            "title": study,
            "purpose": "research",
            "charter": charter_digest(self.charter),
            "contract": contract_digest(contract),
            "code": code_digest(),
            "model": model,
            "data_use": tuple(term.code for term in self.charter.data_use.terms),
        }
        return Plan(**(fields | settings))  # type: ignore[arg-type]  # checked by decoding below

    def run_study(
        self, plan: Plan, contract: Contract, progress: Callable[[], None] | None = None
    ) -> Study:
        """Propose, ratify and run `plan` to its end; return the study as the log tells it."""
        require_clean(plan, contract, self.charter)
        digest = plan_digest(plan)
        self.adopt(contract)
        if digest not in self.coordinator.state.studies:
            self.decide(Action.STUDY_APPROVE, digest, plan_bytes(plan))
        figures = plan.evaluation.site_figures

        def done(state: Consortium) -> bool:
            study = state.studies.get(digest)
            if study is None or not study.finished:
                return False
            return (
                not figures
                or study.final_model is None
                or set(study.reports) >= set(study.rounds[-1].members_in)
            )

        self.run(done, progress)
        study = self.coordinator.state.studies.get(digest)
        if study is None or not study.finished:
            raise ResourceError(
                "the study stands still: too few sites answer, see the parties' journals"
            )
        self.settle()
        return study

    def release(self, study: Study, dependencies: Sequence[tuple[str, str]] = ()) -> None:
        """Let the stewards release the model of a completed study."""
        if study.final_model is None:
            raise UsageError("only a completed study has a model to release")
        if study.final_model in self.coordinator.state.releases:
            return
        body = release_provenance(
            self.coordinator.state.members.directory.charter,
            COORDINATOR,
            study.identity,
            study.final_model,
            (("plan", study.identity), *dependencies),
        )
        stewards = self.charter.holders(Role.STEWARD)
        needed = self.charter.decisions[Action.RELEASE_APPROVE].threshold
        signed = [seal_statement(body, self.officer(name)) for name in stewards[:needed]]
        self.submit(stewards[0], envelope.merge(signed))
        model = study.final_model
        self._until(lambda state: model in state.releases, "the release was not accepted")
        self.settle()

    def bundle(self, edition: Edition = "full") -> dict[str, bytes]:
        """Return the consortium's bundle, as the coordinator exports it."""
        node = self.coordinator
        storage = self._storages[0]
        return export(
            node.entries,
            node.checkpoint().encode(),
            self.anchor,
            storage.blobs.get,
            storage.blobs.has,
            edition,
        )

    def settle(self) -> None:
        """Let frames flow until every member has mirrored and cosigned the whole log."""

        def all_signed(state: Consortium) -> bool:
            return len(self.coordinator.witnesses()) >= len(state.charter.active_members())

        self.run(all_signed)

    def close(self) -> None:
        """Close the parties' stores, and end the other processes."""
        with ExitStack() as everything:
            for host in self.hosts:
                everything.callback(host.close)
            for storage in self._storages:
                everything.callback(storage.store.close)

    def local_study(self, member: MemberId, study: Study) -> LocalStudy:
        """Return the own side of `study` of a member of this process. For simulations alone."""
        if member not in self.participants:
            raise UsageError(
                f"{member} lives in another process, which keeps its rows: open the simulation "
                "with one worker"
            )
        return self.participants[member].local_study(study)

    # --- parts --------------------------------------------------------------------------------

    def _until(self, condition: Callable[[Consortium], bool], otherwise: str) -> None:
        if not self.run(condition):
            raise ResourceError(f"{otherwise}: see the parties' journals")

    def _host(self, names: Sequence[MemberId]) -> MemberHost:
        return MemberHost(
            self.directory,
            self.network,
            names,
            everyone=self.members,
            coordinator=COORDINATOR,
            anchor=self.anchor,
        )

    def _storage(self, place: Path) -> Storage:
        storage = Storage.in_memory() if self._in_memory else Storage.on_disk(place)
        self._storages.append(storage)
        return storage

    def _open_coordinator(self) -> Coordinator:
        place = self.directory / "parties" / COORDINATOR
        return open_coordinator(
            place,
            name=COORDINATOR,
            members=self.members,
            anchor=self.anchor,
            engine=self.network.endpoint(COORDINATOR),
            storage=self._storage(place),
            slots_per_epoch=self._slots_per_epoch,
        )

    def _open_participant(self, name: MemberId) -> Participant:
        place = self.directory / "parties" / name
        return open_participant(
            place,
            name=name,
            coordinator=COORDINATOR,
            anchor=self.anchor,
            engine=self._endpoint(name),
            storage=self._storage(place),
            ledger=self._ledger(name) if self._in_memory else None,
        )

    def _endpoint(self, name: MemberId) -> Engine:
        """Return the engine that the node of `name` is given."""
        return self.network.endpoint(name)

    def _ledger(self, name: MemberId) -> MemoryLedger:
        """Return the ledger of `name` for one life of the process: as it was when it registered."""
        if name not in self._ledgers:
            registered = open_budget(self.directory / "parties" / name, read_only=True)
            entries = [] if registered is None else registered.entries()
            self._ledgers[name] = MemoryLedger(entries)
        return self._ledgers[name]
