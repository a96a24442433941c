"""Commands of real consortia: coordinator, members, sites, and what their officers decide.

Declarations only: what a command does is in `treaty.deployment` and `network_files`, which are
imported when it runs, so that help needs neither a message server nor its client.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.operate import proposals, studies
from treaty.cli.options import FormatOption
from treaty.cli.output import Format, aligned, emit
from treaty.cli.serving import Order
from treaty.errors import ResourceError

__all__ = ["attach"]


class ChoiceName(StrEnum):
    """What a ballot says."""

    APPROVE = "approve"
    REJECT = "reject"
    ABSTAIN = "abstain"


class LevelName(StrEnum):
    """How much a line of the log matters."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


HubOption = Annotated[Path, typer.Option("--dir", help="The coordinator's directory.")]
SiteOption = Annotated[Path, typer.Option("--dir", help="The site's directory.")]
KeyOption = Annotated[
    Path | None, typer.Option("--key", help="The approval key, where it is not in the directory.")
]

MetricsOption = Annotated[
    str, typer.Option("--metrics", help="Answer a monitoring system at HOST:PORT; off by default.")
]
LogOption = Annotated[
    str, typer.Option("--log", help="Write JSON lines to this file, - is standard error.")
]
LevelOption = Annotated[LevelName, typer.Option("--log-level", help="The least that is written.")]

HUB_DIR = Path("treaty-coordinator")
SITE_DIR = Path("treaty-site")

_coordinators = typer.Typer(help="The coordinator of a consortium.", rich_markup_mode=None)
_members = typer.Typer(help="The members of a consortium.", rich_markup_mode=None)
_sites = typer.Typer(help="A member's own site.", rich_markup_mode=None)


def attach(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for name, group in (("coordinator", _coordinators), ("member", _members), ("site", _sites)):
        app.add_typer(group, name=name)


# --- coordinator ----------------------------------------------------------------------------------


@_coordinators.command("init")
def coordinator_init(
    consortium: Annotated[str, typer.Argument(help="Its name, such as hearts.example.")],
    member: Annotated[
        list[str] | None, typer.Option("--member", help="A member; repeat it.")
    ] = None,
    charter: Annotated[
        Path | None, typer.Option("--charter", help="The charter's text, keys left empty.")
    ] = None,
    name: Annotated[
        str, typer.Option("--coordinator", help="The coordinator's name.")
    ] = "coordinator.example",
    host: Annotated[str, typer.Option("--host", help="Where the server listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Where the server listens.")] = 4222,
    websocket_port: Annotated[
        int, typer.Option("--websocket-port", help="Also by WebSocket; 0 is not at all.")
    ] = 0,
    url: Annotated[
        str, typer.Option("--url", help="How sites reach it, such as tls://hub.example:4222.")
    ] = "",
    managed: Annotated[
        bool,
        typer.Option(
            "--own-server/--other-server",
            help="Start a NATS server, or only write the configuration of one.",
        ),
    ] = True,
    store: Annotated[
        str, typer.Option("--store", help="A database for two replicas: postgres:ADDRESS.")
    ] = "",
    lease: Annotated[
        int, typer.Option("--lease", help="After how many seconds a standby takes over.")
    ] = 10,
    directory: HubOption = HUB_DIR,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make the coordinator's keys and the terms of the charter; print the digest for the paper."""
    from treaty.cli.network_files import HubRequest, init_hub

    request = HubRequest(
        consortium,
        tuple(member or ()),
        charter,
        name,
        host,
        port,
        websocket_port,
        url,
        managed,
        store,
        lease,
    )
    terms = init_hub(directory, request)
    emit(
        form,
        {"dir": str(directory), "terms": terms},
        [
            *aligned([("prepared", directory), ("terms", terms)]),
            "give every officer this digest on paper, then: treaty coordinator invite",
        ],
    )


@_coordinators.command("invite")
def coordinator_invite(
    directory: HubOption = HUB_DIR,
    out: Annotated[Path, typer.Option("--out", help="Where the invitations go.")] = Path("invites"),
    newcomer: Annotated[
        str, typer.Option("--newcomer", help="Once founded: who is to join now.")
    ] = "",
    charter: Annotated[
        Path | None,
        typer.Option("--charter", help="The next version, with the newcomer and without its keys."),
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Write an invitation for each member, or for one that joins later. It holds no secret."""
    from treaty.deployment.hub import invite

    if newcomer or charter is not None:
        from treaty.cli.newcomers import invite_one

        made = invite_one(directory, newcomer, charter, out)
        emit(form, made.record(), made.lines())
        return
    written = invite(directory, out)
    emit(
        form,
        {name: str(path) for name, path in written.items()},
        aligned([(name, path) for name, path in written.items()]),
    )


@_coordinators.command("up")
def coordinator_up(
    directory: HubOption = HUB_DIR,
    metrics: MetricsOption = "",
    log: LogOption = "",
    level: LevelOption = LevelName.INFO,
    form: FormatOption = Format.TABLE,
) -> Order:
    """Run the coordinator, and its message server, until it is told to stop.

    Where replicas share a store it stands by until it holds the lease.
    """
    return Order(
        True, (str(directory),), "", metrics, log, level.value, as_json=form is Format.JSON
    )


@_coordinators.command("status")
def coordinator_status(
    directory: HubOption = HUB_DIR,
    form: FormatOption = Format.TABLE,
) -> None:
    """Check what the coordinator needs, and say how the consortium stands."""
    from treaty.cli.network_files import hub_status

    status = hub_status(directory)
    emit(form, status.record(), status.lines())
    _exit_unless(status.holds)


# --- members --------------------------------------------------------------------------------------


@_members.command("accept")
def member_accept(
    requests: Annotated[list[Path], typer.Argument(help="Requests that members sent back.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="The coordinator's directory; once founded, a site's.")
    ] = HUB_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Take members' signed requests; when all are here, print the anchor of the charter.

    In a site's directory: propose that the newcomer whose request it is becomes a member.
    """
    from treaty.cli.network_files import accept_requests
    from treaty.cli.newcomers import propose_newcomer

    if (directory / "site.json").is_file():
        proposed = propose_newcomer(directory, requests, key)
        emit(form, proposed.record(), proposed.lines())
        return
    taken = accept_requests(directory, requests)
    emit(form, taken.record(), taken.lines())


@_members.command("list")
def member_list(
    directory: Annotated[Path, typer.Option("--dir", help="A coordinator's or site's directory.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """List the members, their keys' beginnings, and who is suspended."""
    from treaty.cli.network_files import list_members

    rows = list_members(directory)
    emit(
        form,
        [one.record() for one in rows],
        aligned([one.row() for one in rows], ("member", "standing", "runner", "transport")),
    )


@_members.command("suspend")
def member_suspend(
    member: Annotated[str, typer.Argument(help="Who is to be suspended.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Propose to suspend a member at once; others approve with `treaty proposal vote`."""
    from treaty.cli.network_files import desk
    from treaty.ids import MemberId

    _proposed(form, desk(directory, key).propose_suspension(MemberId(member)))


# --- sites ----------------------------------------------------------------------------------------


@_sites.command("join")
def site_join(
    invite: Annotated[Path, typer.Argument(help="The invitation.")],
    terms: Annotated[
        str, typer.Option("--terms", help="The digest of the terms, from your paper.")
    ],
    data: Annotated[Path | None, typer.Option("--data", help="The site's file.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="How it is read.")] = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="The site's policy.")] = None,
    directory: SiteOption = SITE_DIR,
    form: FormatOption = Format.TABLE,
) -> None:
    """Compare the terms with the paper, make keys, and write the request to send back."""
    from treaty.cli.network_files import join_site

    joined = join_site(directory, invite, terms, data, adapter, policy)
    emit(form, joined.record(), joined.lines())


@_sites.command("up")
def site_up(
    anchor: Annotated[
        str, typer.Option("--anchor", help="At the first start: the charter's anchor, by voice.")
    ] = "",
    directory: Annotated[
        list[Path] | None,
        typer.Option("--dir", help="The site's directory; repeat it to host several sites."),
    ] = None,
    metrics: MetricsOption = "",
    log: LogOption = "",
    level: LevelOption = LevelName.INFO,
    form: FormatOption = Format.TABLE,
) -> Order:
    """Run the site until it is told to stop. The first start signs the founding charter."""
    places = tuple(map(str, directory or (SITE_DIR,)))
    return Order(False, places, anchor, metrics, log, level.value, as_json=form is Format.JSON)


@_sites.command("status")
def site_status(directory: SiteOption = SITE_DIR, form: FormatOption = Format.TABLE) -> None:
    """Check what the site needs, what was refused lately, and what waits to be sent."""
    from treaty.cli.network_files import site_status as look

    status = look(directory)
    emit(form, status.record(), status.lines())
    _exit_unless(status.holds)


@_sites.command("withdraw")
def site_withdraw(directory: SiteOption = SITE_DIR, form: FormatOption = Format.TABLE) -> None:
    """Take no further part: a running site stops, and none starts here again."""
    from treaty.deployment.agent import withdraw

    news = withdraw(directory)
    emit(form, {"withdrawn": True}, ["withdrawn" if news else "had withdrawn already"])


@_sites.command("approve")
def site_approve(
    plan: Annotated[str, typer.Argument(help="The beginning of the plan's digest.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take consent back, from the next contribution on.")
    ] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Sign this site's consent to a plan and its code, where the policy asks for it."""
    from treaty.cli.network_files import desk

    found = desk(directory, key).consent(plan, withdraw=withdraw)
    word = "withdrawn" if withdraw else "approved"
    emit(form, {"decision": word, "plan": found}, [f"{word} at this site: {found}"])


# --- decisions ------------------------------------------------------------------------------------


@studies.command("propose")
def study_propose(
    plan: Annotated[Path, typer.Option("--plan", help="The study plan.")],
    contract: Annotated[Path, typer.Option("--contract", help="The data contract.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Propose a study, and its contract where it is not adopted yet."""
    from treaty.cli.network_files import propose_study

    proposed = propose_study(directory, plan, contract, key)
    emit(form, proposed.record(), proposed.lines())


@studies.command("halt")
def study_halt(
    study: Annotated[str, typer.Argument(help="Its name, or the beginning of its plan's digest.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Propose to halt a running study; the charter says how many must approve."""
    from treaty.cli.network_files import desk

    _proposed(form, desk(directory, key).propose_halt(study))


@studies.command("resume")
def study_resume(
    study: Annotated[str, typer.Argument(help="Its name, or the beginning of its plan's digest.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Propose to go on with a study that lacks members, and ask its question of others too.

    Whose input is in one of two such sums alone is exposed by them: each of these must approve.
    """
    from treaty.cli.network_files import desk

    _proposed(form, desk(directory, key).propose_resume(study))


@proposals.command("vote")
def proposal_vote(
    proposal: Annotated[str, typer.Argument(help="The beginning of its digest, 4 digits or more.")],
    choice: Annotated[ChoiceName, typer.Argument(help="What the ballot says.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Vote on a proposal. A ballot is final."""
    from treaty.cli.network_files import vote

    ballot, number = vote(directory, proposal, choice.value, key)
    emit(
        form,
        {"ballot": ballot, "choice": choice.value, "proposal": number},
        [f"{choice.value}: proposal {number[:16]}, to be sent by the running site"],
    )


def _proposed(form: Format, proposal: str) -> None:
    emit(form, {"proposal": proposal}, aligned([("proposal", proposal)]))


def _exit_unless(holds: bool) -> None:
    if not holds:
        raise typer.Exit(ResourceError.exit_code)
