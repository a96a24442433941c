"""The command ``treaty``: the tree of commands and the outermost handling of errors.

Guarantees (docs/cli.md):
  * A failure is one line ``error: ...`` on standard error, or with ``--format json`` one object
    on standard output. Exit codes: 0 ok, 1 a bug, 2 usage, 3 peer or verification, 4 policy,
    5 resource.
  * ``treaty --help`` loads no numerical library: what a command needs it imports when it runs.
  * A traceback is printed only when ``TREATY_TRACEBACK=1``; it may show paths, never a secret,
    since secrets live in types that show nothing.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Protocol, runtime_checkable

import typer
import typer.main

from treaty.cli import assess, audit, budget, govern, network, operate, rehearse, release, rotation
from treaty.cli.failures import told
from treaty.cli.output import escape_unencodable, print_error, wants_json
from treaty.cli.serving import Order, become, serve
from treaty.errors import TreatyError

__all__ = ["app", "main", "run"]


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
release.attach(app)
rotation.attach()


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


def run(arguments: Sequence[str], *, perform: Callable[[Order], int] = serve) -> int:
    """Run one command line without the program's name, and return its exit code.

    Prints results and errors; raises nothing but what ends a process on purpose. `perform` is what
    happens with the order of a command that serves.
    """
    as_json = wants_json(arguments)
    try:
        code = typer.main.get_command(app).main(
            args=list(arguments), prog_name="treaty", standalone_mode=False
        )
        if isinstance(code, Order):
            code = perform(code)
        sys.stdout.flush()
    except typer.Abort:
        return told(KeyboardInterrupt(), as_json)
    except (TreatyError, KeyboardInterrupt, SystemExit) as error:
        return told(error, as_json)
    except Exception as error:  # noqa: BLE001 - the outermost loop: one line for whatever it is
        if isinstance(error, _Misuse):
            return _explain(error, as_json)
        return told(error, as_json)
    return code if isinstance(code, int) else 0


def _explain(error: _Misuse, as_json: bool) -> int:
    """Print a mistake on the command line."""
    # The parser's checker of values puts the name of an exception before some of its sentences.
    message = error.format_message().rstrip(".").replace(": Value error, ", ": ")
    print_error(
        message[:1].lower() + message[1:],
        code="usage",
        exit_code=error.exit_code,
        as_json=as_json,
    )
    return error.exit_code


def main() -> None:
    """Run the command line of this process and exit."""
    escape_unencodable()
    sys.exit(run(sys.argv[1:], perform=become))
