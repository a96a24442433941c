"""Commands that operate a consortium: demonstrate it, see how it stands, and export what it proves.

Declarations only: what a command does is in `demo`, `demo_view`, `standing` and `next_step`,
which are imported when it runs. But for `demo` and what is written to `--out`, nothing changes.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.options import FormatOption
from treaty.cli.output import Format, emit
from treaty.errors import VerificationError

__all__ = ["attach", "proposals", "studies"]


class DataChoice(StrEnum):
    """Which data set the demonstration runs on."""

    AUTO = "auto"
    HEART = "heart"
    IST = "ist"
    BREAST_CANCER = "breast-cancer"


class ModelChoice(StrEnum):
    """Which model the demonstration trains."""

    LOGISTIC = "logistic"
    SITE_INTERCEPTS = "site-intercepts"
    PLAIN = "plain"
    PERCEPTRON = "perceptron"


class EditionChoice(StrEnum):
    """What a bundle holds."""

    FULL = "full"
    ATTESTED = "attested"


class RoleChoice(StrEnum):
    """For whom the next step is asked."""

    COORDINATOR = "coordinator"
    MEMBER = "member"
    STEWARD = "steward"
    AUDITOR = "auditor"


DirectoryOption = Annotated[
    Path, typer.Option("--dir", help="The directory of a simulated consortium.")
]
MemberOption = Annotated[
    str | None,
    typer.Option("--member", help="Read this member's copy of the log, not the coordinator's."),
]

_bundles = typer.Typer(help="Evidence to take away.", rich_markup_mode=None)
studies = typer.Typer(help="Studies of a consortium.", rich_markup_mode=None)
proposals = typer.Typer(help="What members are asked to decide.", rich_markup_mode=None)


def attach(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("demo")(demo)
    app.command("report")(report)
    app.command("next")(next_command)
    for name, group in (("bundle", _bundles), ("study", studies), ("proposal", proposals)):
        app.add_typer(group, name=name)


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Where everything goes; an interrupted run goes on there.")
    ] = Path("treaty-demo"),
    data: Annotated[
        DataChoice, typer.Option("--data", help="auto is heart, or a bundled set in its place.")
    ] = DataChoice.AUTO,
    model: Annotated[
        ModelChoice | None,
        typer.Option(
            "--model", help="What the sites train; site-intercepts and plain need --no-dp."
        ),
    ] = None,
    no_dp: Annotated[
        bool, typer.Option("--no-dp", help="Exact sums, without differential privacy.")
    ] = False,
    holdout_epsilon: Annotated[
        float | None,
        typer.Option("--holdout-epsilon", help="Noise the evaluation, at this epsilon."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes which rows are held out.")] = 0,
    form: FormatOption = Format.TABLE,
) -> None:
    """Let hospitals train one model together, and have it verified by a process of its own."""
    from treaty.cli.demo import run_demo
    from treaty.cli.demo_view import DemoView, result_lines, result_record

    with DemoView(silent=form is Format.JSON) as view:
        result = run_demo(
            out,
            data=data.value,
            seed=seed,
            model=None if model is None else model.value,
            exact=no_dp,
            holdout_epsilon=holdout_epsilon,
            progress=view.show,
            announce=view.announce,
        )
    emit(form, result_record(result, out), result_lines(result, out))
    if not result.verified:
        raise typer.Exit(VerificationError.exit_code)


@_bundles.command("export")
def bundle_export(
    directory: DirectoryOption,
    out: Annotated[Path, typer.Option("--out", help="A new directory for the bundle.")],
    edition: Annotated[
        EditionChoice | None,
        typer.Option(
            "--edition",
            help="full: sums can be added up again (at a site not at hand); attested: without.",
        ),
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Write everything that is needed to check a consortium's history offline."""
    from treaty.cli.standing import export_bundle

    exported = export_bundle(directory, out, None if edition is None else edition.value)
    emit(form, exported.record(), exported.lines())


def report(
    bundle: Annotated[Path, typer.Argument(help="The directory of the bundle.")],
    anchor: Annotated[
        str,
        typer.Option("--anchor", help="Digest of the founding charter, from another source."),
    ],
    out: Annotated[Path, typer.Option("--out", help="A new file for the page.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Verify a bundle, then write it as one self-contained page to read."""
    from treaty import wiring
    from treaty.cli.bundle_files import report_on

    wiring.write_new_file(out, report_on(bundle, anchor))
    emit(form, {"file": str(out)}, [f"written {out}"])


@studies.command("status")
def study_status(
    directory: DirectoryOption,
    member: MemberOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say how the consortium and its studies stand, and who is waited for."""
    from treaty.cli.standing import status_of

    status = status_of(directory, member)
    emit(form, status.record(), status.lines())


@proposals.command("list")
def proposal_list(
    directory: DirectoryOption,
    member: MemberOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List what was put to the vote, and how it ended."""
    from treaty.cli.standing import proposal_table, proposals_of

    found = proposals_of(directory, member)
    emit(form, [one.record() for one in found], proposal_table(found))


@proposals.command("show")
def proposal_show(
    proposal: Annotated[str, typer.Argument(help="The beginning of its digest, 4 digits or more.")],
    directory: DirectoryOption,
    member: MemberOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show one proposal: what it is about, who voted how, whose ballot is missing."""
    from treaty.cli.standing import proposal_named

    found = proposal_named(directory, member, proposal)
    emit(form, found.record(), found.lines())


def next_command(
    directory: DirectoryOption,
    role: Annotated[RoleChoice, typer.Option("--role", help="Who asks.")],
    member: Annotated[
        str | None, typer.Option("--member", help="Which member or steward asks.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say the one thing that this role has to do now."""
    from treaty.cli.next_step import next_step

    step = next_step(directory, role.value, member)
    emit(form, step.record(), step.lines())
