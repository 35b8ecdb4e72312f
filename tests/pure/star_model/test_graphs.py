"""Captured graphs, with a capture that needs no GPU: what is recorded is run again on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from star_model.engine import graphs
from star_model.engine.engine import Engine, Mode
from star_model.engine.graphs import (
    CudaCapture,
    GraphedForward,
    GraphKey,
    buckets,
    choose_capture,
    largest_step,
)
from star_model.engine.sequence import ImageSequence
from star_model.errors import CaptureError
from star_model.model import StarModel
from star_model.sampling import Sampling
from star_model.transfer import ToHost
from tests.star_model.captures import BrokenCapture, ForgetfulCapture, RecordingCapture
from tests.star_model.tiny import WIDE, build_tiny_model, infinity_like, tiny_config

TALL = tuple((width, height) for height, width in WIDE)
PROMPTS = ["a cat", "a red apple", "", "moon", "two moons"]


def of_three_shapes() -> StarModel:
    """An Infinity that makes square, wide and tall images."""
    changes = infinity_like() | {
        "other_shapes": (WIDE, TALL),
        "rope_grids": ((9, 9), (6, 11), (11, 6)),
    }
    return build_tiny_model(tiny_config(**changes))


def on_gpu(dtype: torch.dtype, model: StarModel | None = None) -> StarModel:
    model, device = model or build_tiny_model(), torch.device("cuda")
    return replace(
        model,
        transformer=model.transformer.to(device, dtype),
        vqvae=model.vqvae.to(device),
        device=device,
        dtype=dtype,
    )


def prepare(engine: Engine, count: int, **params: float) -> list[ImageSequence]:
    texts = engine.model.text_encoder.encode(PROMPTS[:count])
    return [
        engine.prepare(text, Sampling(guidance_scale=1.0 + 3.0 * i).changed(params), seed=i)
        for i, text in enumerate(texts)
    ]


def paint_shape(engine: Engine, shape: int, count: int = 1) -> list[list[int]]:
    """The tokens of ``count`` images of one shape, painted together."""
    texts = engine.model.text_encoder.encode(PROMPTS[:count])
    sequences = [engine.prepare(text, seed=i, shape=shape) for i, text in enumerate(texts)]
    while not sequences[0].done:
        engine.step(sequences)
    for sequence in sequences:
        engine.release(sequence)
    return [torch.cat(s.tokens).tolist() for s in sequences]


def captured(engine: Engine) -> set[GraphKey]:
    assert isinstance(engine._forward, GraphedForward)
    return set(engine._forward.captured)


def tokens(engine: Engine, count: int, **params: float) -> list[list[int]]:
    sequences = prepare(engine, count, **params)
    while not sequences[0].done:
        engine.step(sequences)
    for sequence in sequences:
        engine.release(sequence)
    return [torch.cat(s.tokens).tolist() for s in sequences]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("mode", ["fast", "deterministic"])
def test_graphs_compute_what_is_computed_without(
    tiny_model: StarModel, mode: Mode, count: int
) -> None:
    capture = RecordingCapture()
    engine = Engine(tiny_model, slots=5, mode=mode, capture=capture)
    plain = Engine(tiny_model, slots=5, mode=mode)
    assert tokens(engine, count) == tokens(plain, count)
    assert tokens(engine, count) == tokens(plain, count), "the same graphs, again"
    assert capture.captured == engine.num_scales
    batches = 2 * engine.num_scales * (count if mode == "deterministic" else 1)
    assert capture.replayed == batches + engine.num_scales, "and each graph once, to verify it"


def test_any_slots_in_any_order(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=4, mode="fast", capture=RecordingCapture())
    plain = Engine(tiny_model, slots=4, mode="fast")
    found = []
    for e in (engine, plain):
        first, gap, second, third = prepare(e, 4)
        e.release(gap)
        while not first.done:
            e.step([third, first, second])
        found.append([torch.cat(s.tokens).tolist() for s in (first, second, third)])
    assert found[0] == found[1]


def test_padding_writes_to_nobodys_slot(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=6, mode="fast", capture=RecordingCapture())
    assert (engine.total_slots, engine.free_slots) == (6, 6)
    sequences = prepare(engine, 5)  # the graph is for six
    sixth = engine.cache.image[:, :, 6].clone()
    assert sequences[-1].slot == 5
    engine.step(sequences)
    assert torch.equal(engine.cache.image[:, :, 6], sixth)
    assert engine.cache.image.isfinite().all()


def test_warming_captures_everything_and_says_how_far_it_is(tiny_model: StarModel) -> None:
    capture, said = RecordingCapture(), []
    engine = Engine(tiny_model, slots=3, mode="fast", capture=capture)
    engine.warm_up(lambda done, of: said.append((done, of)))
    assert said == [(i, 12) for i in range(13)]  # four scales, batches of 1, 2 and 3
    assert capture.captured == 12
    tokens(engine, 2)
    assert capture.captured == 12


def test_no_more_graphs_than_the_largest_batch_of_each_scale_needs(tiny_model: StarModel) -> None:
    capture = RecordingCapture()
    engine = Engine(tiny_model, slots=5, mode="fast", capture=capture, largest_batches=[9, 5, 2, 1])
    engine.warm_up()
    assert capture.captured == 5 + 5 + 2 + 1
    replayed = capture.replayed
    assert tokens(engine, 3) == tokens(Engine(tiny_model, slots=5, mode="fast"), 3)
    assert capture.replayed == replayed + 2, "the two scales whose graphs are for three"


@pytest.mark.parametrize("broken", [BrokenCapture, ForgetfulCapture])
def test_what_cannot_be_captured_is_said_and_done_without(
    tiny_model: StarModel, broken: type[RecordingCapture]
) -> None:
    capture = broken()
    engine = Engine(tiny_model, slots=3, mode="fast", capture=capture)
    with pytest.raises(
        CaptureError, match=r"the graph of scale \d for \d images.*(not permitted|off by nan)"
    ):
        engine.warm_up()
    replayed = capture.replayed
    assert tokens(engine, 3) == tokens(Engine(tiny_model, slots=3, mode="fast"), 3)
    assert capture.replayed == replayed


def test_all_graphs_write_to_one_place(tiny_model: StarModel) -> None:
    """A graph's logits are gone once another has run, which the engine must not mind."""
    engine = Engine(tiny_model, slots=4, mode="fast", capture=RecordingCapture())
    plain = Engine(tiny_model, slots=4, mode="fast")
    found = []
    for e in (engine, plain):
        a, b, c, d = prepare(e, 4)
        for _ in range(e.num_scales):
            e.step([c, d])
            e.step([a])
            e.step([b])
        found.append([torch.cat(s.tokens).tolist() for s in (a, b, c, d)])
    assert found[0] == found[1]


def test_there_are_graphs_on_a_gpu_alone_and_where_they_are_wanted() -> None:
    assert choose_capture(torch.device("cpu"), wanted=True) is None
    assert choose_capture(torch.device("cuda"), wanted=False) is None


def test_without_graphs_there_is_nothing_to_warm(tiny_model: StarModel) -> None:
    Engine(tiny_model, slots=1).warm_up(lambda done, of: pytest.fail("nothing to say"))


def test_unguided_scales_are_captured_as_such(tiny_model: StarModel) -> None:
    sampling = Sampling(unguided_scales=2)
    model = replace(tiny_model, config=replace(tiny_model.config, sampling=sampling))
    capture = RecordingCapture()
    engine = Engine(model, slots=2, mode="fast", capture=capture)
    plain = Engine(model, slots=2, mode="fast")
    assert tokens(engine, 2, unguided_scales=2) == tokens(plain, 2, unguided_scales=2)


@pytest.mark.parametrize("default", [0.0, 4.0])
def test_graphs_are_for_what_the_model_does_by_default(
    tiny_model: StarModel, default: float
) -> None:
    """Guided images, or those without guidance; the others are made all the same."""
    sampling = Sampling(guidance_scale=default)
    model = replace(tiny_model, config=replace(tiny_model.config, sampling=sampling))
    for asked in (0.0, 4.0):
        capture = RecordingCapture()
        engine = Engine(model, slots=2, mode="fast", capture=capture)
        plain = Engine(tiny_model, slots=2, mode="fast")
        assert tokens(engine, 2, guidance_scale=asked) == tokens(plain, 2, guidance_scale=asked)
        assert (capture.replayed > 0) == (asked == default)


def all_scales(shape: int, size: int) -> set[GraphKey]:
    return {GraphKey(shape, scale, size) for scale in range(4)}


def test_the_graphs_of_other_shapes_are_captured_when_they_are_needed() -> None:
    model, capture = of_three_shapes(), RecordingCapture()
    engine = Engine(model, slots=2, mode="fast", capture=capture)
    plain = Engine(model, slots=2, mode="fast")
    engine.warm_up()
    first = all_scales(0, 1) | all_scales(0, 2)
    assert captured(engine) == first
    for shape, count in ((1, 1), (2, 2), (0, 1), (1, 2), (2, 1)):
        assert paint_shape(engine, shape, count) == paint_shape(plain, shape, count)
    assert captured(engine) == first.union(*(all_scales(s, n) for s in (1, 2) for n in (1, 2)))
    count, replayed = capture.captured, capture.replayed
    assert paint_shape(engine, 1) == paint_shape(plain, 1)
    assert (capture.captured, capture.replayed) == (count, replayed + engine.num_scales)


def test_images_of_several_shapes_take_turns() -> None:
    """All graphs read from the same tensors, whatever the shapes of their images."""
    model, found = of_three_shapes(), []
    for capture in (RecordingCapture(), None):
        engine = Engine(model, slots=4, mode="fast", capture=capture)
        engine.warm_up()
        texts = engine.model.text_encoder.encode(PROMPTS[:4])
        images = [
            engine.prepare(text, seed=i, shape=(0, 1, 2, 1)[i]) for i, text in enumerate(texts)
        ]
        for _ in range(engine.num_scales):
            for cohort in ([images[1], images[3]], [images[0]], [images[2]]):
                engine.step(cohort)
        found.append([torch.cat(image.tokens).tolist() for image in images])
    assert found[0] == found[1]


def test_there_are_so_many_graphs_of_other_shapes_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphs, "MOST_OF_OTHER_SHAPES", 6)
    model, capture = of_three_shapes(), RecordingCapture()
    engine = Engine(model, slots=1, mode="fast", capture=capture)
    plain = Engine(model, slots=1, mode="fast")
    engine.warm_up()
    paint_shape(engine, 2)
    assert paint_shape(engine, 1) == paint_shape(plain, 1)
    assert captured(engine) == all_scales(0, 1) | all_scales(2, 1) | {
        GraphKey(1, 0, 1),
        GraphKey(1, 1, 1),
    }
    replayed = capture.replayed
    assert paint_shape(engine, 1) == paint_shape(plain, 1)
    assert capture.replayed == replayed + 2, "the two scales that got a graph"


def test_a_capture_that_fails_while_serving_fails_no_image(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, capture = of_three_shapes(), BrokenCapture(works=6)
    engine = Engine(model, slots=1, mode="fast", capture=capture)
    plain = Engine(model, slots=1, mode="fast")
    engine.warm_up()
    for shape in (1, 2, 1, 0):
        assert paint_shape(engine, shape) == paint_shape(plain, shape)
    assert captured(engine) == all_scales(0, 1) | {GraphKey(1, 0, 1), GraphKey(1, 1, 1)}
    assert capture.failed == 1, "it is not tried again"
    assert "the graph of scale 2 for 1 images of shape 1: operation not permitted" in caplog.text


def test_a_wrong_graph_of_another_shape_is_not_used() -> None:
    class WrongOnce(RecordingCapture):
        def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
            replay = super().__call__(work)
            return (lambda: None) if self.captured == 5 else replay

    model = of_three_shapes()
    engine = Engine(model, slots=1, mode="fast", capture=WrongOnce())
    engine.warm_up()
    assert paint_shape(engine, 1) == paint_shape(Engine(model, slots=1, mode="fast"), 1)
    assert captured(engine) == all_scales(0, 1)


def test_which_graph_a_batch_gets() -> None:
    model = of_three_shapes()
    engine = Engine(
        model, slots=5, mode="fast", capture=RecordingCapture(), largest_batches=[5, 5, 5, 2]
    )
    forward = engine._forward
    assert isinstance(forward, GraphedForward)
    assert forward.key_of(2, 1, 3, guided=True) == (2, 1, 3)
    assert forward.key_of(1, 3, 2, guided=True) == (1, 3, 2)
    assert forward.key_of(0, 3, 3, guided=True) is None, "larger than any graph of that scale"
    assert forward.key_of(0, 0, 1, guided=False) is None, "the model guides at that scale"


def test_room_is_for_the_largest_step_of_any_shape() -> None:
    assert largest_step([(1, 4, 9), (1, 6, 8)], [(1, 2), (1, 2), (1,)]) == (12, 2)
    assert largest_step([(1, 4, 9), (1, 4, 20)], [(1, 2), (1, 2), (1,)]) == (20, 2)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, (1,)), (2, (1, 2)), (4, (1, 2, 3, 4)), (5, (1, 2, 3, 4, 5)), (8, (1, 2, 3, 4, 6, 8)),
        (33, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 33)),
    ],
)  # fmt: skip
def test_buckets(largest: int, sizes: tuple[int, ...]) -> None:
    assert buckets(largest) == sizes


def test_little_of_a_bucket_is_padding() -> None:
    sizes = buckets(64)
    for n in range(1, 65):
        size = next(s for s in sizes if s >= n)
        assert (size - n) / size <= 1 / 3


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_graphs(dtype: torch.dtype) -> None:
    model, device = on_gpu(dtype), torch.device("cuda")
    engine = Engine(model, slots=4, mode="fast", capture=CudaCapture(device))
    engine.warm_up()
    for count in (1, 3, 4):
        assert tokens(engine, count) == tokens(Engine(model, slots=4, mode="fast"), count)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_graphs_of_other_shapes(dtype: torch.dtype) -> None:
    """Captured between two steps, while images of another shape are in flight."""
    model = on_gpu(dtype, of_three_shapes())
    engine = Engine(model, slots=4, mode="fast", capture=CudaCapture(torch.device("cuda")))
    plain = Engine(model, slots=4, mode="fast")
    engine.warm_up()
    (text,) = engine.model.text_encoder.encode(PROMPTS[:1])
    square = engine.prepare(text, seed=9)
    engine.step([square])
    for shape, count in ((1, 1), (2, 3), (1, 2), (2, 3)):
        assert paint_shape(engine, shape, count) == paint_shape(plain, shape, count)
    while not square.done:
        engine.step([square])
    assert {key.shape for key in captured(engine)} == {0, 1, 2}
    expected = plain.prepare(text, seed=9)
    while not expected.done:
        plain.step([expected])
    assert torch.equal(torch.cat(square.tokens), torch.cat(expected.tokens))


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("captures", [False, True])
def test_nothing_between_preparing_and_the_pixels_waits_for_the_device(captures: bool) -> None:
    """PyTorch raises an error at every wait that it knows of; of memory that is not pinned, too."""
    device = torch.device("cuda")
    engine = Engine(
        on_gpu(torch.bfloat16),
        slots=4,
        mode="fast",
        capture=CudaCapture(device) if captures else None,
    )
    engine.warm_up()
    tokens(engine, 4)  # what happens once, such as loading kernels, may wait
    sequences = prepare(engine, 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        while not sequences[0].done:
            engine.step(
                [sequences[3], sequences[0], sequences[1]]
            )  # not adjacent, so their numbers are sent
            arriving = ToHost(engine.preview(sequences[:1]))
        arriving_last = ToHost(engine.finish([sequences[0], sequences[1], sequences[3]]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert arriving.wait().shape == arriving_last.wait()[:1].shape
    assert torch.equal(arriving.wait(), arriving_last.wait()[:1])
