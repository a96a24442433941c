"""Commands on a site's privacy budget: register a data set, see what it has spent, accept a loss.

Declarations only; the work is in `budget_files`.
"""

from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.options import FormatOption
from treaty.cli.output import Format, emit

__all__ = ["attach"]

_budgets = typer.Typer(
    help="What a site's data set may spend, and has spent.", rich_markup_mode=None
)

SiteOption = Annotated[Path, typer.Option("--dir", help="The site's own directory.")]
KeyOption = Annotated[
    Path, typer.Option("--key", help="The approval key of the site's officer, who signs.")
]


def attach(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(_budgets, name="budget")


@_budgets.command("show")
def budget_show(
    directory: Annotated[
        Path, typer.Option("--dir", help="A site's directory, or that of a simulated consortium.")
    ],
    member: Annotated[
        str | None, typer.Option("--member", help="Only this member of a simulated consortium.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what each registered data set may spend, has reserved, spent and disclosed."""
    from treaty.cli.budget_files import budgets_of

    found = budgets_of(directory, member)
    emit(
        form,
        [one.record() for one in found],
        (line for one in found for line in (*one.lines(), "")),
    )


@_budgets.command("register")
def budget_register(
    identity: Annotated[str, typer.Argument(help="The site's own name for the data set.")],
    directory: SiteOption,
    charter: Annotated[Path, typer.Option("--charter", help="The charter in force.")],
    member: Annotated[str, typer.Option("--member", help="The site's name in the charter.")],
    key: KeyOption,
    home: Annotated[
        str, typer.Option("--home", help="Where ledger and keys lie, relative to the site's.")
    ] = "ledger",
    holdout_permille: Annotated[
        int,
        typer.Option(
            "--holdout-permille", min=0, max=999, help="Share of persons kept for evaluations."
        ),
    ] = 340,
    form: FormatOption = Format.TABLE,
) -> None:
    """Register the site's rows: the officer signs that no other data set holds these persons."""
    from treaty.cli.budget_files import register

    done = register(
        identity,
        directory,
        charter=charter,
        member=member,
        key=key,
        home=home,
        holdout_permille=holdout_permille,
    )
    emit(form, done.record(), done.lines())


@_budgets.command("rebase")
def budget_rebase(
    directory: SiteOption,
    member: Annotated[str, typer.Option("--member", help="The site's name in the charter.")],
    key: KeyOption,
    out: Annotated[Path, typer.Option("--out", help="A new file for the signed statement.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Accept that the ledger is lost or was put back: everything counts as spent."""
    from treaty.cli.budget_files import rebase

    done = rebase(directory, member=member, key=key, out=out)
    emit(form, done.record(), done.lines())
