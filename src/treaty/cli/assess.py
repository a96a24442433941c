"""The command `assess`: attack a model family on the site's own data before it is used.

Declarations only: what it does is in `assessing`, which is imported when it runs.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.options import FormatOption
from treaty.cli.output import Format, emit
from treaty.errors import PolicyError

__all__ = ["attach"]


class FamilyChoice(StrEnum):
    """Which models are assessed, with their default sizes."""

    PLAIN = "plain"
    SITE_INTERCEPTS = "site-intercepts"
    PERCEPTRON = "perceptron"


class KnownChoice(StrEnum):
    """Which known data set stands in for a site's own."""

    HEART = "heart"
    IST = "ist"
    BREAST_CANCER = "breast-cancer"


def attach(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("assess")(assess)


def assess(
    model: Annotated[
        FamilyChoice,
        typer.Option("--model", help="The family: logistic regression, or perceptron."),
    ] = FamilyChoice.PLAIN,
    contract: Annotated[Path | None, typer.Option("--contract", help="The data contract.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="The site's adapter.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The site's own file.")] = None,
    known: Annotated[
        KnownChoice | None, typer.Option("--known", help="A known set in place of a site's file.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Assess exact sums, which promise nothing.")
    ] = False,
    epsilon: Annotated[
        float, typer.Option("--epsilon", help="What the plan promises with noised sums.")
    ] = 1.0,
    one_round: Annotated[
        bool, typer.Option("--one-round", help="Assess one noised sum of statistics.")
    ] = False,
    delta_inverse: Annotated[
        int, typer.Option("--delta-inverse", min=2, help="1 / delta of what the plan promises.")
    ] = 100_000,
    members: Annotated[
        int, typer.Option("--members", min=3, help="Members of the consortium, for its thresholds.")
    ] = 4,
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look; it does not count as an assessment.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes all that is random.")] = 0,
    page: Annotated[
        Path | None, typer.Option("--page", help="A new file for the findings as a page.")
    ] = None,
    exposed: Annotated[
        Path | None,
        typer.Option("--exposed", help="A new private file for the ten most exposed persons."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="A new file for the signed record, with --key."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="The site's runner key, which signs the record.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Attack a model family on the site's own data, locally; exit 4 when the assessment fails."""
    from treaty.cli.assessing import Request, Watch, run_assessment

    with Watch(silent=form is Format.JSON) as watch:
        result = run_assessment(
            Request(
                model=model.value,
                contract=contract,
                adapter=adapter,
                data=data,
                known=None if known is None else known.value,
                epsilon=None if exact else epsilon,
                one_round=one_round,
                delta_inverse=delta_inverse,
                members=members,
                quick=quick,
                seed=seed,
                page=page,
                exposed=exposed,
                record=record,
                key=key,
            ),
            watch.show,
        )
    emit(form, result.record(), result.lines())
    if result.failed:
        raise typer.Exit(PolicyError.exit_code)
