"""The command line: each command parses, makes one call of the library, and prints.

stdout carries results only; messages and progress go to stderr. Exit codes: 0 all done, 1 some or all inputs failed,
2 the command or a setting is not accepted, 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys

from showtell.errors import DataError, ImageError, ShowtellError, TrainingError

_INPUT_FAILED = (DataError, ImageError, TrainingError)


def main() -> None:
    """Runs a command; an error that the user can mend is one sentence on stderr."""
    from showtell.cli.commands import app

    try:
        app(standalone_mode=True)
    except ShowtellError as error:
        print(f"showtell: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, _INPUT_FAILED) else 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a reader such as `head` has gone
        sys.exit(1)
