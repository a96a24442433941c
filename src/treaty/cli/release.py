"""Commands about releases: stewards approve the release of a model, and take it back.

Declarations only: what a command does is in `treaty.deployment.desk`, which is imported when it
runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.network import SITE_DIR, KeyOption, SiteOption
from treaty.cli.options import FormatOption
from treaty.cli.output import Format, aligned, emit

__all__ = ["attach"]

StudyArgument = Annotated[
    str, typer.Argument(help="Its name, or the beginning of its plan's digest.")
]

_releases = typer.Typer(help="Releases of models, by the stewards.", rich_markup_mode=None)


def attach(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(_releases, name="release")


@_releases.command("approve")
def release_approve(
    study: StudyArgument,
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Approve and sign the release of a study's model, and ask the other stewards.

    It takes effect when as many have approved as the charter asks.
    """
    from treaty.cli.network_files import desk

    _answered(form, desk(directory, key).approve_release(study), directory)


@_releases.command("withdraw")
def release_withdraw(
    study: StudyArgument,
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Take the released model of a study back; the charter says how many must approve.

    It stays withdrawn: another release needs another study.
    """
    from treaty.cli.network_files import desk

    _answered(form, desk(directory, key).withdraw_release(study), directory)


def _answered(form: Format, proposal: str, directory: Path) -> None:
    emit(
        form,
        {"choice": "approve", "proposal": proposal},
        [
            *aligned([("proposal", proposal), ("approve", "signed, to be sent by the site")]),
            f"who has not answered: treaty study status --dir {directory}",
        ],
    )
