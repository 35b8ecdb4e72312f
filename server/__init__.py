"""The service: STAR models behind an HTTP interface, with the model in a worker process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star_model.threads import limit_spinning

limit_spinning()  # before the worker or an offline command loads torch; child processes inherit it

if TYPE_CHECKING:
    __version__: str

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Look up ``__version__`` when it is first used; the import of what knows it takes a while."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("star-server")
    except PackageNotFoundError:  # run from a source tree that is not installed
        found = "0+source"
    globals()[name] = found
    return found
