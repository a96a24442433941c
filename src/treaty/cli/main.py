"""The command ``treaty``: the tree of commands and the outermost handling of errors.

Guarantees (docs/cli.md):
  * A failure is one line ``error: ...`` on standard error, or with ``--format json`` one object
    on standard output. Exit codes: 0 ok, 1 a bug, 2 usage, 3 peer or verification, 4 policy,
    5 resource.
  * ``treaty --help`` loads no numerical library: what a command needs it imports when it runs.
  * A traceback is printed only when ``TREATY_TRACEBACK=1``; it may show paths, never a secret,
    since secrets live in types that show nothing.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Protocol, runtime_checkable

import typer
import typer.main

from treaty.cli import assess, audit, budget, govern, network, operate, rehearse
from treaty.cli.output import print_error, wants_json
from treaty.errors import TreatyError, code_of

__all__ = ["app", "main", "run"]

INTERRUPTED = 130


@runtime_checkable
class _Misuse(Protocol):
    """A mistake on the command line, whichever parser typer brings along."""

    exit_code: int

    def format_message(self) -> str:
        """Return what is wrong."""
        ...


app = typer.Typer(
    name="treaty",
    help="Institutions that train one model together and keep their data at home.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
govern.attach(app)
audit.attach(app)
operate.attach(app)
budget.attach(app)
rehearse.attach(app)
assess.attach(app)
network.attach(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"treaty {version('treaty')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command line without the program's name, and return its exit code.

    Prints results and errors; raises nothing but what ends a process on purpose.
    """
    as_json = wants_json(arguments)
    try:
        code = typer.main.get_command(app).main(
            args=list(arguments), prog_name="treaty", standalone_mode=False
        )
        sys.stdout.flush()
    except TreatyError as error:
        print_error(str(error), code=code_of(error), exit_code=error.exit_code, as_json=as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted", code="interrupted", exit_code=INTERRUPTED, as_json=as_json)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The reader went away (`treaty charter show | head`), where the parser ends the process
        # itself. What the reader did not want is not lost, so this is no failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost loop: one line for whatever it is
        return _explain(error, as_json)
    return code if isinstance(code, int) else 0


def _explain(error: Exception, as_json: bool) -> int:
    """Print an error that is not ours: a mistake on the command line, or a bug."""
    if isinstance(error, _Misuse):
        message = error.format_message().rstrip(".")
        print_error(
            message[:1].lower() + message[1:],
            code="usage",
            exit_code=error.exit_code,
            as_json=as_json,
        )
        return error.exit_code
    if os.environ.get("TREATY_TRACEBACK") == "1":
        traceback.print_exception(error, file=sys.stderr)
    print_error(
        f"unexpected {type(error).__name__}: this is a bug; "
        "set TREATY_TRACEBACK=1 to see where, and report it",
        code="bug",
        exit_code=1,
        as_json=as_json,
    )
    return 1


def main() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
