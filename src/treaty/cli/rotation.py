"""Commands that exchange a member's keys, lost, expiring or in the wrong hands, for new ones.

Declarations only: what a command does is in `rotation_files`, which is imported when it runs.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.govern import keys
from treaty.cli.network import SITE_DIR, KeyOption, SiteOption
from treaty.cli.options import FormatOption
from treaty.cli.output import Format, emit

__all__ = ["attach"]


class SiteKey(StrEnum):
    """What a key of a site is for."""

    APPROVAL = "approval"
    RUNNER = "runner"
    TRANSPORT = "transport"
    WITNESS = "witness"


def attach() -> None:
    """Add the commands of this module to the group of keys, which `govern` attaches."""
    keys.command("rotate")(key_rotate)
    keys.command("accept")(key_accept)


def key_rotate(
    role: Annotated[list[SiteKey], typer.Argument(help="Which keys are exchanged.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    by_request: Annotated[
        bool,
        typer.Option(
            "--by-request",
            help="Only write the request: the approval key is lost, or the site cannot connect.",
        ),
    ] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make new keys for this site and propose them; the old ones serve until they are in force."""
    from treaty.cli.rotation_files import rotate_keys

    made = rotate_keys(directory, [one.value for one in role], key, by_request=by_request)
    emit(form, made.record(), made.lines())


def key_accept(
    request: Annotated[Path, typer.Argument(help="The request of another member.")],
    directory: SiteOption = SITE_DIR,
    key: KeyOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Propose the new keys of a member that cannot propose them itself; approve them by a vote."""
    from treaty.cli.rotation_files import accept_keys

    proposed = accept_keys(directory, request, key)
    emit(form, proposed.record(), proposed.lines())
