"""What a run tells TensorBoard: the numbers of each epoch, and some captions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from showtell.errors import BackendError
from showtell.learn.training import Row, Watch

_CAPTIONS = 12
_FLUSH = 5  # seconds after which what was written can be seen


@contextmanager
def watch_in_tensorboard(directory: str | Path) -> Iterator[Watch]:
    """A watch that writes events into a directory, and is done with them at the end; a run that goes on adds a file.

    Raises:
        BackendError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise BackendError("events need tensorboardX; run: pip install 'showtell[tensorboard]'") from error
    with closing(SummaryWriter(str(directory), flush_secs=_FLUSH)) as writer:

        def watch(row: Row, captions: dict[str, str]) -> None:
            epoch = int(row["epoch"])
            for name, value in row.items():
                if isinstance(value, int | float) and name != "epoch":
                    writer.add_scalar(name, value, epoch)
            said = list(captions.items())
            lines = [f"`{name}`: {text}" for name, text in said[:: -(-len(said) // _CAPTIONS) or 1]]
            if lines:
                writer.add_text("captions", "\n\n".join(lines), epoch)

        yield watch
