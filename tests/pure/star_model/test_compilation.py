"""What is compiled computes what is computed without, on a CPU as on a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from star_model.config import ModelConfig
from star_model.engine.compilation import compile_networks, restore_networks
from star_model.engine.engine import Engine
from star_model.model import StarModel
from star_model.sampling import Sampling
from tests.pure.star_model.test_graphs import on_gpu
from tests.star_model.tiny import build_tiny_model, class_conditional, tiny_config

pytestmark = pytest.mark.usefixtures("fresh_compiler")

PROMPTS = ["a cat", "a red apple", "moon"]


def paint(model: StarModel, count: int) -> tuple[list[list[int]], torch.Tensor]:
    """Tokens and pixels of some images together."""
    engine = Engine(model, slots=3, mode="fast")
    prompts = (
        [str(i) for i in range(count)] if model.config.transformer.num_classes else PROMPTS[:count]
    )
    texts = model.text_encoder.encode(prompts)
    sequences = [engine.prepare(text, Sampling(), seed=i) for i, text in enumerate(texts)]
    while not sequences[0].done:
        engine.step(sequences)
    pixels = engine.finish(sequences)
    return [torch.cat(s.tokens).tolist() for s in sequences], pixels


def check(config: ModelConfig, backend: str) -> None:
    """Two sizes of batch, all scales: what depends on a size is compiled anew, or for any."""
    model = build_tiny_model(config)
    expected = {count: paint(model, count) for count in (1, 3)}
    compile_networks(model, backend)
    for count, (tokens, pixels) in expected.items():
        found, painted = paint(model, count)
        assert found == tokens
        assert (painted.int() - pixels.int()).abs().max() <= 1, "a level of rounding"


@pytest.mark.parametrize(
    "config", [tiny_config(), tiny_config(**class_conditional())], ids=["text", "class"]
)
def test_what_is_traced_gives_the_same_tokens(config: ModelConfig) -> None:
    check(config, "eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning"
)  # of the compiler's own modules
def test_what_is_compiled_on_a_cpu_gives_the_same_tokens() -> None:
    check(tiny_config(), "inductor")


def test_all_blocks_share_what_is_compiled() -> None:
    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    counts = []
    for depth in (1, 3):
        config = tiny_config()
        model = build_tiny_model(
            replace(config, transformer=replace(config.transformer, depth=depth))
        )
        torch.compiler.reset()
        compile_networks(model, counting)
        paint(model, 1)
        counts.append(len(graphs))
        graphs.clear()
    assert counts[0] == counts[1] > 0


def test_it_can_be_undone() -> None:
    def refused(graph: object, inputs: object) -> Callable[..., object]:
        raise RuntimeError("no compiler")

    model = build_tiny_model()
    expected = paint(model, 1)
    compile_networks(model, refused)
    with pytest.raises(RuntimeError, match="no compiler"):
        paint(model, 1)
    restore_networks(model)
    tokens, pixels = paint(model, 1)
    assert tokens == expected[0]
    assert torch.equal(pixels, expected[1])


@pytest.mark.usefixtures("cuda")
def test_what_is_compiled_on_a_gpu_gives_nearly_the_same_images() -> None:
    config = tiny_config()
    model, plain = on_gpu(torch.float32), on_gpu(torch.float32)
    compile_networks(model)
    tokens, _ = paint(model, 3)
    expected, _ = paint(plain, 3)
    same = sum(
        a == b for x, y in zip(tokens, expected, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert same >= 0.9 * 3 * sum(config.schedule.lengths)
