"""Failures: how a command's end becomes a line and an exit code, whoever ran it."""

import os
import sys
import traceback

from treaty.cli.output import print_error
from treaty.errors import TreatyError, code_of

__all__ = ["INTERRUPTED", "told"]

INTERRUPTED = 130

_BUG = "this is a bug; set TREATY_TRACEBACK=1 to see where, and report it"


def told(error: BaseException, as_json: bool, *, where: str = "") -> int:
    """Print what `error` says to people or programs, and return the exit code.

    `where` stands before it, where several parties print in one place.
    """
    if isinstance(error, BrokenPipeError | SystemExit):
        # The reader went away (`treaty charter show | head`), where the parser ends the process
        # itself. What the reader did not want is not lost, so this is no failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return 0
    if isinstance(error, TreatyError):
        text, code, number = str(error), code_of(error), error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        text, code, number = "interrupted", "interrupted", INTERRUPTED
    else:
        if os.environ.get("TREATY_TRACEBACK") == "1":
            traceback.print_exception(error, file=sys.stderr)
        text, code, number = f"unexpected {type(error).__name__}: {_BUG}", "bug", 1
    message = f"{where}: {text}" if where else text
    print_error(message, code=code, exit_code=number, as_json=as_json)
    return number
