"""Networks without memory: on the meta device, and without the initialisation that their weights have no use for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta() -> Iterator[None]:
    """Build networks on the meta device in this context.

    PyTorch would "initialise" some of their weights by operations written in Python, for which it imports its
    compiler: two seconds, in which nothing happens.
    """
    with torch.device("meta"), _WithoutInitialization():
        yield


class _WithoutInitialization(TorchFunctionMode):
    """Leaves tensors as they are that a function of :mod:`torch.nn.init` would fill."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            # All of them return the tensor that they fill.
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
