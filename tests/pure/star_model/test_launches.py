"""The number of kernels that a block launches in a step, which planning rests on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from star_model import Engine, ModelConfig
from star_model.cost import KERNELS_A_BLOCK, step_launches
from tests.star_model.tiny import build_tiny_model, class_conditional, tiny_config

VIEWS = {
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "expand", "permute", "transpose", "t", "alias"),
    *("slice", "select", "narrow", "unsqueeze", "squeeze", "split", "split_with_sizes", "chunk", "unbind"),
    *("as_strided", "detach", "empty", "lift_fresh"),
}  # fmt: skip
"""Operations that compute nothing on the device."""


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that compute something."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def launches_of_a_step(config: ModelConfig) -> int:
    model = build_tiny_model(config)
    engine = Engine(model, slots=1, mode="fast")
    sequence = engine.prepare(model.encode_prompt("0"), seed=1)
    engine.step([sequence])  # the first computes what is cached
    with Launches() as launches:
        engine.step([sequence])
    return sum(launches.names.values())


@pytest.mark.parametrize("kind", ["text", "class"])
def test_each_further_block_launches_as_many(kind: str) -> None:
    config = tiny_config(**({} if kind == "text" else class_conditional(10)))
    shallow, deep = (
        replace(config, transformer=replace(config.transformer, depth=depth)) for depth in (2, 4)
    )
    more = launches_of_a_step(deep) - launches_of_a_step(shallow)
    assert more == 2 * KERNELS_A_BLOCK[kind]
    assert step_launches(deep) == 4 * KERNELS_A_BLOCK[kind]
