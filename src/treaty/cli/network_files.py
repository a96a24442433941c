"""What the commands of real consortia do with directories and files, and what they say of them.

Guarantee: nothing here talks to a peer. Commands write files; the running process of the party
sends what they left, now or when it is started.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from treaty import wiring
from treaty.cli.output import aligned
from treaty.cli.study_files import read_contract, read_plan
from treaty.deployment.agent import join, read_invite
from treaty.deployment.desk import Desk
from treaty.deployment.hub import Standings, accept, prepare, standings
from treaty.deployment.outbox import Outbox
from treaty.deployment.places import HubSettings, is_running, load_party, load_site
from treaty.deployment.preflight import Check, hub_checks, site_checks
from treaty.deployment.replica import Replicated, replicated
from treaty.deployment.rotating import pending_roles
from treaty.errors import UsageError
from treaty.governance.charter import Charter, charter_from_toml
from treaty.governance.page import charter_page
from treaty.governance.template import terms_charter
from treaty.ids import Digest, MemberId
from treaty.simulation.stored import Standing, fold_log
from treaty.studies.plan import plan_digest

__all__ = [
    "Accepted",
    "HubRequest",
    "HubStatus",
    "Joined",
    "MemberRow",
    "Proposed",
    "SiteStatus",
    "accept_requests",
    "desk",
    "hub_status",
    "init_hub",
    "join_site",
    "list_members",
    "party_standing",
    "propose_study",
    "site_status",
    "vote",
]

RECENT = 5
_FILE_LIMIT = 1 << 20


# --- coordinator ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HubRequest:
    """What `treaty coordinator init` was asked for."""

    consortium: str
    members: tuple[str, ...]
    charter: Path | None
    name: str
    host: str
    port: int
    websocket_port: int
    url: str
    managed: bool
    store: str = ""
    lease_s: int = 10


def init_hub(directory: Path, request: HubRequest) -> Digest:
    """Prepare the coordinator's directory; return the digest of the terms."""
    terms = _terms(request)
    settings = HubSettings(
        consortium=terms.consortium,
        name=terms.coordinator.name,
        url=request.url or f"tls://{request.host}:{request.port}",
        host=request.host,
        port=request.port,
        websocket_port=request.websocket_port,
        managed=request.managed,
        made_at=wiring.SystemClock().now(),
    )
    store = None
    if request.store:
        store = wiring.parse_shared_store(request.store, request.lease_s * 1000)
    return prepare(directory, settings, terms, store=store)


def _terms(request: HubRequest) -> Charter:
    if request.charter is not None:
        if request.members:
            raise UsageError("the charter names the members: leave --member out")
        text = wiring.read_text(request.charter, _FILE_LIMIT)
        # Empty places for keys are filled in here, by the coordinator's own and later the members'.
        found = charter_from_toml(text.replace('= "" # fill in', f'= "{"0" * 64}"'))
        if found.consortium != request.consortium:
            raise UsageError(f"the charter is of {found.consortium}, expected {request.consortium}")
        return found
    if len(request.members) < 3:
        raise UsageError(
            f"expected at least 3 members, got {len(request.members)}: name each with --member"
        )
    return terms_charter(request.consortium, request.members, coordinator=request.name)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Whose requests are here, whose are missing, and the anchor once they are complete."""

    here: tuple[MemberId, ...]
    missing: tuple[MemberId, ...]
    anchor: Digest | None

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "accepted": list(self.here),
            "anchor": self.anchor,
            "missing": list(self.missing),
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [("accepted", ", ".join(self.here))]
        if self.anchor is None:
            return aligned([*rows, ("missing", ", ".join(self.missing))])
        return [
            *aligned([*rows, ("anchor", self.anchor)]),
            "read the anchor out to every member; each starts:",
            f"  treaty site up --anchor {self.anchor}",
        ]


def accept_requests(directory: Path, paths: list[Path]) -> Accepted:
    """Take the requests in `paths`."""
    here, anchor = accept(directory, [wiring.read_file(path, _FILE_LIMIT) for path in paths])
    found = standings(directory)
    missing = tuple(name for name in found.members if name not in here)
    return Accepted(tuple(sorted(here)), missing, anchor)


@dataclass(frozen=True, slots=True)
class HubStatus:
    """How a coordinator stands: what it needs, whether it runs, how far the founding is."""

    checks: tuple[Check, ...]
    running: bool
    standings: Standings
    replica: Replicated | None = None

    @property
    def holds(self) -> bool:
        """Say whether every check holds."""
        return all(check.holds for check in self.checks)

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        found = self.standings
        return {
            "accepted": list(found.accepted),
            "anchor": found.anchor,
            "members": list(found.members),
            "problems": {one.name: one.problem for one in self.checks if not one.holds},
            "replica": None if self.replica is None else asdict(self.replica),
            "running": self.running,
            "terms": found.terms,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        found = self.standings
        missing = [name for name in found.members if name not in found.accepted]
        rows = [
            ("running", "yes" if self.running else "no"),
            ("terms", found.terms),
            ("anchor", found.anchor or "not yet"),
        ]
        if self.replica is not None:
            rows += self.replica.rows()
        if found.anchor is None:
            rows.append(("requests missing", ", ".join(missing)))
        return [*aligned(rows), *_table(self.checks)]


def hub_status(directory: Path) -> HubStatus:
    """Return how the coordinator in `directory` stands."""
    found = standings(directory)
    running = is_running(directory)
    return HubStatus(
        tuple(hub_checks(directory)), running, found, replicated(directory, running=running)
    )


# --- members and sites ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member as the log has it."""

    name: str
    standing: str
    runner: str
    transport: str

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "member": self.name,
            "runner": self.runner,
            "standing": self.standing,
            "transport": self.transport,
        }

    def row(self) -> tuple[str, ...]:
        """Return its line of the list."""
        return (self.name, self.standing, self.runner[:16], self.transport[:16])


def list_members(directory: Path) -> list[MemberRow]:
    """Return the members of the consortium of the party in `directory`, as its log has them."""
    state = party_standing(directory).state
    if state.membership is None:
        raise UsageError("the log is empty: the consortium is not founded yet")
    out = state.members.history.excluded()
    return [
        MemberRow(
            name,
            "suspended" if name in out else "member",
            ", ".join(one.keys.runner),
            ", ".join(one.keys.transport),
        )
        for name, one in sorted(state.charter.members.items())
    ]


@dataclass(frozen=True, slots=True)
class Joined:
    """A site that was prepared: its request, and the terms it agreed to, as a page."""

    request: Path
    terms: Digest
    member: str
    page: str
    newcomer: bool = False

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {"member": self.member, "request": str(self.request), "terms": self.terms}

    def lines(self) -> list[str]:
        """Return it for people."""
        to = "a member" if self.newcomer else "the coordinator"
        return [
            *self.page.splitlines(),
            "",
            *aligned([("member", self.member), ("terms", self.terms), ("request", self.request)]),
            f"send the request to {to}; when the anchor is read out to you:",
            "  treaty site up --anchor ANCHOR",
        ]


def join_site(
    directory: Path,
    invite: Path,
    terms: str,
    data: Path | None,
    adapter: Path | None,
    policy: Path | None,
) -> Joined:
    """Prepare a site; see `treaty.deployment.agent.join`."""
    paper = read_invite(invite)
    files = {"data": data, "adapter": adapter, "policy": policy}
    request, digest = join(directory, paper, terms, files)
    newcomer = paper.founding is not None
    return Joined(request, digest, paper.member, charter_page(paper.terms, as_terms=True), newcomer)


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """How a site stands: what it needs, whether it runs, what it refused, what is to be sent."""

    member: str
    checks: tuple[Check, ...]
    running: bool
    log_size: int
    waiting: tuple[str, ...]
    recent: tuple[tuple[str, str], ...]
    new_keys: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Say whether every check holds."""
        return all(check.holds for check in self.checks)

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "log_size": self.log_size,
            "member": self.member,
            "new_keys": list(self.new_keys),
            "problems": {one.name: one.problem for one in self.checks if not one.holds},
            "recent": [{"detail": detail, "event": event} for event, detail in self.recent],
            "running": self.running,
            "to_be_sent": list(self.waiting),
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [
            ("member", self.member),
            ("running", "yes" if self.running else "no"),
            ("log", f"{self.log_size} entries"),
            ("to be sent", str(len(self.waiting))),
        ]
        if self.new_keys:
            rows.append(("new keys", f"{', '.join(self.new_keys)}: wait for the members"))
        lines = [*aligned(rows), *_table(self.checks)]
        if self.recent:
            lines += ["lately noted here, and nowhere else:"]
            lines += [f"  {event}: {detail}" for event, detail in self.recent]
        return lines


def site_status(directory: Path) -> SiteStatus:
    """Return how the site in `directory` stands. Nothing in it changes."""
    member = load_site(directory).invite.member
    size = 0
    if wiring.has_store(directory):
        with wiring.stored_log(directory) as log:
            size = len(log.entries)
    return SiteStatus(
        member,
        tuple(site_checks(directory)),
        is_running(directory),
        size,
        Outbox(directory).waiting(),
        tuple(_recent(directory)),
        pending_roles(directory),
    )


def _recent(directory: Path) -> Iterator[tuple[str, str]]:
    path = directory / "journal.jsonl"
    if not path.is_file():
        return
    lines = wiring.read_file(path).decode(errors="replace").splitlines()
    for line in lines[-RECENT:]:
        try:
            found = json.loads(line)
        except ValueError:
            # The last line of a process that was killed may be cut off.
            continue
        yield str(found.get("event", "")), str(found.get("detail", ""))


# --- decisions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proposed:
    """A study that was proposed: the proposal, and that of its contract where there is one."""

    study: str
    plan: Digest
    proposal: Digest
    contract_proposal: Digest | None

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "contract_proposal": self.contract_proposal,
            "plan": self.plan,
            "proposal": self.proposal,
            "study": self.study,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [("study", self.study), ("plan", self.plan), ("proposal", self.proposal)]
        if self.contract_proposal is not None:
            rows.append(("contract, too", self.contract_proposal))
        return aligned(rows)


def propose_study(directory: Path, plan: Path, contract: Path, key: Path | None) -> Proposed:
    """Bind the plan to the charter, the contract and the code of this installation; propose it."""
    state = party_standing(directory).state
    own_desk = Desk(directory, state, key)
    agreed = read_contract(contract)
    asked = read_plan(plan, agreed, state.charter)
    if asked.code == "0" * 64:
        asked = msgspec.structs.replace(asked, code=wiring.code_digest())
    proposal, needs = own_desk.propose_study(asked, agreed)
    return Proposed(asked.study, plan_digest(asked), proposal, needs)


def vote(directory: Path, beginning: str, choice: str, key: Path | None) -> tuple[Digest, Digest]:
    """Vote on the one proposal whose digest has this beginning; return ballot and proposal."""
    state = party_standing(directory).state
    found = [one for one in state.proposals if one.startswith(beginning)]
    if len(beginning) < 4 or len(found) != 1:
        raise UsageError(
            f"{len(found)} proposals begin with {beginning!r}: see `treaty proposal list --dir`"
        )
    return Desk(directory, state, key).vote(found[0], choice), found[0]


def desk(directory: Path, key: Path | None) -> Desk:
    """Return the desk of the member in `directory`."""
    return Desk(directory, party_standing(directory).state, key)


# --- logs -----------------------------------------------------------------------------------------


def party_standing(directory: Path) -> Standing:
    """Return the log of the party in `directory`, folded; an empty one before the first entry."""
    party = load_party(directory)
    name, anchor = MemberId(party.name), party.anchor
    if not wiring.has_store(directory):
        return fold_log(name, anchor, wiring.StoredLog((), "", _nothing, lambda _: False))
    with wiring.stored_log(directory) as log:
        return fold_log(name, anchor, log)


def _nothing(digest: Digest) -> bytes:
    raise UsageError(f"blob {digest[:16]} is not stored here")


def _table(checks: tuple[Check, ...]) -> list[str]:
    wrong = [(one.name, one.problem) for one in checks if not one.holds]
    if not wrong:
        return [f"{len(checks)} checks, nothing is wrong"]
    return [f"{len(wrong)} of {len(checks)} checks find something to mend:", *aligned(wrong)]
