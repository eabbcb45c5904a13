"""Where a search keeps its trials: Optuna's tables in one SQLite file, opened by one process, without chatter."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from showtell.errors import BackendError, ConfigError, TrainingError
from showtell.locks import alone

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


def require_search_stack() -> None:
    """Raises:
    BackendError: Optuna or what draws the page is not installed; the sentence has the line that installs them.
    """
    from importlib.util import find_spec

    missing = [name for name in ("optuna", "matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"a search needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "run: pip install 'showtell[tune]'"
        )


@contextlib.contextmanager
def open_storage(directory: Path) -> Iterator[RDBStorage]:
    """The database of the search in a directory, for one process at a time.

    Raises:
        ConfigError: Another process has it.
        TrainingError: It is damaged or of another program, or the disk is full; also while it is open.
    """
    busy = ConfigError(f"a search is under way in {directory}; wait until it has ended, or give another directory")
    with alone(directory / "study.lock", busy), _without_chatter(), _opened(directory / "study.db") as storage:
        yield storage


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[RDBStorage]:
    """The database; what it complains of while it is open is said in a sentence."""
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=60, check_same_thread=False)  # the pool hands it on
        # Safe without a sync of the disk at each of Optuna's many small writes, which take seconds on a busy one.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    try:
        # A path as part of the URL would be taken apart at its "?" and "%".
        storage = RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        first: BaseException = error  # SQLite's own words, without the statement and the links around them
        while first.__cause__ is not None:
            first = first.__cause__
        raise TrainingError(
            f"cannot use the search in {path}: {first}; make room, or give another directory"
        ) from error


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
