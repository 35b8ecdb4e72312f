"""The service: STAR models behind an HTTP interface, with the model in a worker process of its own."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from star_model.threads import limit_spinning

limit_spinning()  # before the worker or an offline command loads torch; child processes inherit it

try:
    __version__ = version("star-server")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+source"

__all__ = ["__version__"]
