"""The command ``treaty simulate``: what a privacy budget would buy, before any real data.

Declarations only; the work is in `rehearse_run`, imported when the command runs. Nothing is read
but the contract or a known public set; what is written goes to ``--out``.
"""

from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.options import FormatOption
from treaty.cli.output import Format, emit

__all__ = ["attach"]


def attach(app: typer.Typer) -> None:
    """Add the command of this module to `app`."""
    app.command("simulate")(simulate)


def simulate(
    contract: Annotated[
        Path | None, typer.Option("--contract", help="Draw the stand-in from this contract.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="A public set as stand-in: heart, ist or breast-cancer."),
    ] = None,
    sites: Annotated[
        str, typer.Option("--sites", help="How many sites, or their names with commas between.")
    ] = "4",
    persons: Annotated[
        str, typer.Option("--persons", help="Persons at each site: one number, or one for each.")
    ] = "200",
    epsilon: Annotated[
        str, typer.Option("--epsilon", help="Budgets to try, rising, with commas between.")
    ] = "0.5,1,3,8",
    colluders: Annotated[
        int, typer.Option("--colluders", help="Members that may collude, as the charter will say.")
    ] = 1,
    min_survivors: Annotated[
        int | None, typer.Option("--min-survivors", help="Only where the charter raises it.")
    ] = None,
    delta_inverse: Annotated[
        int | None, typer.Option("--delta-inverse", help="1/delta; by default 1e5 or 10 N.")
    ] = None,
    one_round: Annotated[
        bool, typer.Option("--one-round", help="One noised sum of statistics, no descent.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="Training rounds; by default 20.")
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option("--clip", help="Bound on a person's gradient or statistics."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Step length; by default 16.")
    ] = None,
    area: Annotated[
        float, typer.Option("--area", help="Expected area, for a stand-in from a contract.")
    ] = 0.85,
    prevalence: Annotated[
        float, typer.Option("--prevalence", help="Expected share of persons with the outcome.")
    ] = 0.3,
    repeats: Annotated[int, typer.Option("--repeats", help="Stand-ins, splits and noises.")] = 50,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Repeats side by side; above 1 needs joblib.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the repeats.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory for page, JSON and finished repeats; taken up."),
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Rehearse training with privacy noise on a stand-in: epsilon against utility."""
    from treaty.cli.rehearse_run import Wishes, rehearse_study

    found = rehearse_study(
        Wishes(
            contract=contract,
            data=data,
            sites=sites,
            persons=persons,
            epsilon=epsilon,
            colluders=colluders,
            min_survivors=min_survivors,
            delta_inverse=delta_inverse,
            one_round=one_round,
            rounds=rounds,
            clip=clip,
            learning_rate=learning_rate,
            area=area,
            prevalence=prevalence,
            repeats=repeats,
            jobs=jobs,
            seed=seed,
            out=out,
        ),
        show_progress=form is Format.TABLE,
    )
    emit(form, found.record(), found.lines())
