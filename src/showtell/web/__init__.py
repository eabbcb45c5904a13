"""The service of `showtell serve`; needs the extra `web`. Importing this package imports nothing heavy."""

from showtell.errors import BackendError


def require_web_stack() -> None:
    """Raises:
    BackendError: FastAPI and its friends are not installed; the sentence has the line that installs them.
    """
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"the web service needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "run: pip install 'showtell[web]'"
        )
