"""showtell looks at a picture and says what it sees.

`Captioner.load("default").caption(["photo.jpg"])` is the short way in. The names below load when they are first used,
so that `import showtell` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from showtell.captioner import Captioner as Captioner
    from showtell.decoding import SearchOptions as SearchOptions
    from showtell.records import Caption as Caption
    from showtell.records import Failure as Failure

_HOMES = {"Captioner": "captioner", "SearchOptions": "decoding", "Caption": "records", "Failure": "records"}
__all__ = ["Caption", "Captioner", "Failure", "SearchOptions", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"showtell.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'showtell' has no attribute {name!r}")
