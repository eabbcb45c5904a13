"""The command line: each command parses, makes one call of the library, and prints.

stdout carries results only; messages and progress go to stderr. Exit codes: 0 all done, 1 some or all inputs failed,
2 the command or a setting is not accepted, 130 stopped by the user.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from copy import copy
from typing import Any

from showtell.errors import DataError, ImageError, ShowtellError, TrainingError

_INPUT_FAILED = (DataError, ImageError, TrainingError)


def main() -> None:
    """Runs a command; an error that the user can mend is one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be text
    gc.set_threshold(50_000)  # imports leave much to look through and nothing to free
    atexit.register(gc.freeze)  # nor does the end
    try:
        from showtell.cli.commands import app

        asked = [command for command in app.registered_commands if [_name_of(command)] == sys.argv[1:2]]
        if asked:  # the options of the others need not be looked at
            app = copy(app)
            app.registered_commands, app.registered_groups = asked, []
        app(standalone_mode=True)
    except ShowtellError as error:
        print(f"showtell: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, _INPUT_FAILED) else 2)
    except KeyboardInterrupt:  # while typer was still being imported
        sys.exit(130)
    except BrokenPipeError:  # a reader such as `head` has gone
        _flush_or_forget()
        sys.exit(1)
    except OSError as error:  # of an output: what is read has errors of its own
        where = f" {error.filename}" if error.filename else ""
        print(
            f"showtell: cannot write{where}: {error.strerror or error}; give another path, or make room",
            file=sys.stderr,
        )
        _flush_or_forget()
        sys.exit(2)


def _name_of(command: Any) -> str:
    return str(command.name or command.callback.__name__)


def _flush_or_forget() -> None:
    """What stdout still holds goes out or, when it cannot, nowhere: Python would complain of it on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
