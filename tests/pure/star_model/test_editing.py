"""In- and out-painting and variations: what is kept, what is painted, and that an edit is a sequence like any other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star_model.engine.editing import (
    CONTEXT,
    Edit,
    Window,
    fill_from_rim,
    kept_tokens,
    make_edit,
    opacity,
    place_on_canvas,
    resize,
    touched_cells,
    window_around,
)
from star_model.engine.engine import Engine, Mode
from star_model.engine.sequence import ImageSequence
from star_model.model import StarModel
from star_model.sampling import Sampling
from star_model.scales import ScaleSchedule
from tests.star_model.tiny import build_tiny_model, class_conditional, tiny_config

SIDE = 28
"""Of the tiny model's images: scales 1, 2, 5 and 7, so that cells of 5 do not fall on whole pixels."""


def picture(seed: int = 0) -> Tensor:
    """Noise, uint8 (28, 28, 3)."""
    return torch.randint(
        0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def box(left: int, top: int, right: int, bottom: int, side: int = SIDE) -> Tensor:
    """A mask of one rectangle."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


LARGE, SMALL = box(6, 4, 26, 20), box(3, 4, 9, 9)
NOTHING, EVERYTHING = box(0, 0, 0, 0), box(0, 0, SIDE, SIDE)


def prepare(
    engine: Engine, edit: Edit | None, prompt: str = "a cat", seed: int = 1
) -> ImageSequence:
    (conditioning,) = engine.model.text_encoder.encode([prompt])
    return engine.prepare(conditioning, Sampling(top_k=0, top_p=1.0), seed=seed, edit=edit)


def run(engine: Engine, *sequences: ImageSequence) -> None:
    while not sequences[0].done:
        engine.step(sequences)


def tokens_of(sequence: ImageSequence) -> list[int]:
    tokens: list[int] = torch.cat(sequence.tokens).tolist()
    return tokens


def paint(
    model: StarModel, edit: Edit | None, prompt: str = "a cat", seed: int = 1
) -> tuple[list[int], Tensor]:
    """The tokens and the pixels of an image on its own."""
    engine = Engine(model, slots=1)
    sequence = prepare(engine, edit, prompt, seed)
    run(engine, sequence)
    return tokens_of(sequence), engine.finish([sequence])[0]


def encoded(model: StarModel, image: Tensor) -> list[Tensor]:
    """The token maps (p * p,) of ``image``."""
    return [tokens[0] for tokens in model.vqvae.encode((image.permute(2, 0, 1)[None] / 127.5) - 1)]


# ---- masks -----------------------------------------------------------------------------------------------


@given(
    left=st.integers(0, 27),
    top=st.integers(0, 27),
    width=st.integers(1, 28),
    height=st.integers(1, 28),
)
@settings(max_examples=settings().max_examples // 2)
def test_a_cell_is_touched_by_any_pixel_of_it(left: int, top: int, width: int, height: int) -> None:
    mask = box(left, top, left + width, top + height)
    for side in (1, 2, 5, 7):
        cells = touched_cells(mask, side)
        for row in range(side):
            for column in range(side):
                rows = slice(row * SIDE // side, math.ceil((row + 1) * SIDE / side))
                columns = slice(column * SIDE // side, math.ceil((column + 1) * SIDE / side))
                assert cells[row, column] == mask[rows, columns].any(), (side, row, column)


def test_a_token_is_kept_if_its_whole_cell_lies_outside() -> None:
    schedule = ScaleSchedule((1, 2, 4))
    kept = kept_tokens(
        box(4, 4, 5, 7, side=8), schedule
    )  # the lower right quarter, left half of it
    assert [k.tolist() for k in kept[:2]] == [[False], [True, True, True, False]]
    assert kept[2].view(4, 4).int().tolist() == [
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 0, 1],
        [1, 1, 0, 1],
    ]


@pytest.mark.parametrize("keep_scales", range(5))
def test_the_first_scales_may_be_kept_whole(keep_scales: int) -> None:
    kept = kept_tokens(EVERYTHING, tiny_config().schedule, keep_scales)
    assert [bool(k.all()) for k in kept] == [scale < keep_scales for scale in range(4)]
    assert [bool(k.any()) for k in kept] == [scale < keep_scales for scale in range(4)]


def test_opacity_fades_inside_the_mask_alone() -> None:
    mask = box(4, 0, 20, 28)  # from the upper to the lower border of the image, which are no seams
    shown = opacity(mask, 3)[:, :, 0]
    assert not shown[~mask].any()
    assert shown[0, 4:20].tolist() == [0.25, 0.5, 0.75, *[1.0] * 10, 0.75, 0.5, 0.25]
    assert (shown == shown[0]).all()
    assert torch.equal(opacity(mask, 0)[:, :, 0], mask.float())
    assert opacity(EVERYTHING, 3).min() == 1


def test_a_hole_is_filled_from_its_rim() -> None:
    image = torch.full((SIDE, SIDE, 3), 200, dtype=torch.uint8)
    image[:, :8] = 50
    image[0, 0] = torch.tensor([255, 0, 0], dtype=torch.uint8)  # far away: has no say
    hole = box(4, 10, 24, 20)
    filled = fill_from_rim(image, hole, 1)
    assert torch.equal(filled[~hole], image[~hole])
    assert 50 <= filled[hole].min() <= filled[hole].max() <= 200
    assert (filled[..., 0] == filled[..., 1])[hole].all(), "grey all round, grey inside"
    assert filled[15, 5].float().mean() < 120 < filled[15, 22].float().mean(), "dark on the left"
    torch.manual_seed(0)
    image[hole] = torch.randint(0, 256, (int(hole.sum()), 3), dtype=torch.uint8)
    assert torch.equal(fill_from_rim(image, hole, 1), filled), "what was in the hole has no say"


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (SMALL, Window(2, 1, 9, 9)),  # 6 wide with half as much again, about the middle
        (box(0, 0, 6, 2), Window(0, 0, 9, 9)),  # pushed into the image
        (box(27, 26, 28, 28), Window(21, 21, 7, 7)),  # no smaller than a quarter of it
        (box(0, 13, 28, 14), Window(0, 0, 28, 28)),
        (NOTHING, Window(0, 0, 28, 28)),
        (EVERYTHING, Window(0, 0, 28, 28)),
    ],
)
def test_window(mask: Tensor, expected: Window) -> None:
    assert CONTEXT == 1.5
    window = window_around(mask)
    assert window == expected
    assert window.crop(mask).sum() == mask.sum()
    assert window.crop(mask).shape == window.size


def test_a_window_has_the_shape_of_its_image() -> None:
    mask = torch.zeros(20, 40, dtype=torch.bool)
    mask[5:9, 10:14] = True  # four of twenty rows: as much as eight of forty
    assert window_around(mask) == Window(4, 6, 6, 12)
    mask[:, 39] = True
    assert window_around(mask) == Window(0, 0, 20, 40)


def test_resize() -> None:
    image = picture()
    assert resize(image, (SIDE, SIDE)) is image
    flat = torch.full((10, 6, 3), 77, dtype=torch.uint8)
    assert torch.equal(resize(flat, (3, 8)), torch.full((3, 8, 3), 77, dtype=torch.uint8))


def test_an_image_on_a_larger_canvas() -> None:
    image = torch.full((10, 20, 3), 9, dtype=torch.uint8)
    canvas, mask = place_on_canvas(image, (0.25, 0.5, 1.0, 0.75), 40)
    assert (canvas.shape, canvas.dtype, mask.shape, mask.dtype) == (
        (40, 40, 3), torch.uint8, (40, 40), torch.bool
    )  # fmt: skip
    assert torch.equal(mask, ~box(10, 20, 40, 30, side=40))
    assert (canvas[~mask] == 9).all()
    unscaled, _ = place_on_canvas(picture(), (0.5, 0.0, 1.0, 0.5), 2 * SIDE)
    assert torch.equal(unscaled[:SIDE, SIDE:], picture())


def test_a_canvas_need_not_be_square() -> None:
    canvas, mask = place_on_canvas(picture(), (0.5, 0.0, 1.0, 1.0), (SIDE, 2 * SIDE))
    assert torch.equal(canvas[:, SIDE:], picture())
    assert mask[:, :SIDE].all()
    assert not mask[:, SIDE:].any()


@pytest.mark.parametrize(
    "bounds", [(-0.1, 0, 1, 1), (0, 0, 1.1, 1), (0.5, 0, 0.5, 1), (0, 0.7, 1, 0.3)]
)
def test_a_box_must_be_on_the_canvas(bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="box must be left, top, right, bottom"):
        place_on_canvas(picture(), bounds, 40)


# ---- what is kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [LARGE, SMALL, box(0, 0, 14, 28)], ids=["large", "small", "half"])
@pytest.mark.parametrize("keep_scales", [0, 1, 3])
@pytest.mark.parametrize("erase", [False, True])
def test_tokens_outside_are_the_images_own_at_every_scale(
    tiny_model: StarModel, mask: Tensor, keep_scales: int, erase: bool
) -> None:
    image = picture()
    edit = make_edit(tiny_model, image, mask, keep_scales=keep_scales, erase=erase, focus=False)
    own = encoded(tiny_model, fill_from_rim(image, mask, 1) if erase else image)
    engine = Engine(tiny_model, slots=1)
    sequence = prepare(engine, edit)
    free = prepare_and_run(tiny_model)
    f_hats = list(tiny_model.vqvae.quantizer.f_hats([t[None] for t in own]))
    for scale, side in enumerate(tiny_model.config.patch_nums):
        engine.step([sequence])
        kept = ~touched_cells(mask, side).flatten() | (scale < keep_scales)
        tokens = sequence.tokens[scale]
        assert torch.equal(tokens[kept], own[scale][kept]), f"scale {scale}"
        if scale == 0:  # nothing differs yet, so what is sampled is what a generation samples
            assert torch.equal(tokens[~kept], free.tokens[scale][~kept])
        outside = ~touched_cells(mask, 7)
        assert torch.equal(sequence.f_hat[:, outside], f_hats[scale][0][:, outside]), (
            f"scale {scale}"
        )
    assert not all(torch.equal(a, b) for a, b in zip(sequence.tokens, own, strict=True)), (
        "some is painted"
    )


def test_what_is_kept_is_not_averaged(tiny_model: StarModel) -> None:
    edit = make_edit(tiny_model, picture(), LARGE, keep_scales=3, erase=False, focus=False)
    engine = Engine(tiny_model, slots=2)
    (text,) = engine.model.text_encoder.encode(["a cat"])
    smooth, drawn = (
        engine.prepare(text, Sampling(top_k=9, smooth_scales=n), seed=1, edit=edit) for n in (4, 0)
    )
    for _ in range(3):
        engine.step([smooth])
        engine.step([drawn])
        assert torch.equal(smooth.f_hat, drawn.f_hat), "all tokens so far are the image's own"
    engine.step([smooth])
    engine.step([drawn])
    outside = ~touched_cells(LARGE, 7)
    assert torch.equal(smooth.tokens[3], drawn.tokens[3])
    assert torch.equal(smooth.f_hat[:, outside], drawn.f_hat[:, outside])
    assert not torch.equal(smooth.f_hat, drawn.f_hat)


def prepare_and_run(model: StarModel) -> ImageSequence:
    """A plain generation with the parameters of the edits."""
    engine = Engine(model, slots=1)
    sequence = prepare(engine, None)
    run(engine, sequence)
    return sequence


@pytest.mark.parametrize("mask", [LARGE, SMALL, box(0, 0, 14, 28)], ids=["large", "small", "half"])
@pytest.mark.parametrize("focus", [False, True])
@pytest.mark.parametrize("feather", [False, True])
@pytest.mark.parametrize("mode", ["deterministic", "fast"])
def test_pixels_outside_are_the_inputs(
    tiny_model: StarModel, mask: Tensor, focus: bool, feather: bool, mode: Mode
) -> None:
    image = picture()
    edit = make_edit(tiny_model, image, mask, focus=focus, feather=feather)
    engine = Engine(tiny_model, slots=2, mode=mode)
    pair = [prepare(engine, edit), prepare(engine, None)]
    while not pair[0].done:
        engine.step(pair)
        assert torch.equal(engine.preview(pair)[0][~mask], image[~mask])
    result = engine.finish(pair)[0]
    assert torch.equal(result[~mask], image[~mask])
    assert (result[mask] != image[mask]).any(-1).float().mean() > 0.9


def test_without_a_feather_the_mask_shows_what_is_painted(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1)
    sequence = prepare(engine, make_edit(tiny_model, picture(), LARGE, focus=False, feather=False))
    run(engine, sequence)
    decoded = ((tiny_model.decode(sequence.f_hat[None])[0] + 1) * 127.5).round().permute(1, 2, 0)
    assert torch.equal(engine.finish([sequence])[0][LARGE].float(), decoded[LARGE])


@pytest.mark.parametrize("focus", [False, True])
def test_what_is_erased_has_no_influence(tiny_model: StarModel, focus: bool) -> None:
    one = picture()
    other = torch.where(SMALL.unsqueeze(-1), picture(1), one)
    results = [
        paint(tiny_model, make_edit(tiny_model, image, SMALL, focus=focus))
        for image in (one, other)
    ]
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    kept = [
        make_edit(tiny_model, image, SMALL, keep_scales=4, erase=False, focus=focus)
        for image in (one, other)
    ]
    assert not torch.equal(kept[0].tokens[-1], kept[1].tokens[-1])


def test_a_window_is_painted_at_full_size(tiny_model: StarModel) -> None:
    image = picture()
    edit = make_edit(tiny_model, image, SMALL, erase=False)
    assert edit.window == Window(2, 1, 9, 9)
    own = encoded(tiny_model, resize(image[2:11, 1:10], (SIDE, SIDE)))
    for found, expected in zip(edit.tokens, own, strict=True):
        assert torch.equal(found, expected)
    _, result = paint(tiny_model, edit)
    inside = box(1, 2, 10, 11)
    assert torch.equal(result[~inside], image[~inside])


# ---- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("focus", [False, True])
def test_an_empty_mask_gives_the_image_back(tiny_model: StarModel, focus: bool) -> None:
    image = picture()
    tokens, result = paint(tiny_model, make_edit(tiny_model, image, NOTHING, focus=focus))
    assert torch.equal(result, image)
    assert tokens == torch.cat(encoded(tiny_model, image)).tolist()


@pytest.mark.parametrize("feather", [False, True])
def test_a_full_mask_is_a_generation(tiny_model: StarModel, feather: bool) -> None:
    tokens, result = paint(
        tiny_model, make_edit(tiny_model, picture(), EVERYTHING, feather=feather)
    )
    expected, generated = paint(tiny_model, None)
    assert tokens == expected
    assert torch.equal(result, generated)


def test_a_variation_that_keeps_nothing_is_a_generation(tiny_model: StarModel) -> None:
    tokens, result = paint(tiny_model, make_edit(tiny_model, picture(), keep_scales=0))
    expected, generated = paint(tiny_model, None)
    assert tokens == expected
    assert torch.equal(result, generated)


def test_a_variation_that_keeps_everything_is_the_reconstruction(tiny_model: StarModel) -> None:
    tokens, result = paint(tiny_model, make_edit(tiny_model, picture(), keep_scales=4))
    own = encoded(tiny_model, picture())
    assert tokens == torch.cat(own).tolist()
    with torch.inference_mode():
        decoded = tiny_model.vqvae.decode_tokens([t[None] for t in own])[0]
    torch.testing.assert_close(
        result.permute(2, 0, 1) / 127.5 - 1, decoded, atol=0.6 / 127.5, rtol=0
    )


@pytest.mark.parametrize("keep_scales", [1, 2, 3])
def test_a_variation_keeps_the_coarse_scales_and_paints_the_fine_ones(
    tiny_model: StarModel, keep_scales: int
) -> None:
    edit = make_edit(tiny_model, picture(), keep_scales=keep_scales)
    own = encoded(tiny_model, picture())
    variations = []
    for seed in (1, 2):
        engine = Engine(tiny_model, slots=1)
        sequence = prepare(engine, edit, seed=seed)
        run(engine, sequence)
        for scale, tokens in enumerate(sequence.tokens):
            assert torch.equal(tokens, own[scale]) == (scale < keep_scales)
        variations.append(tokens_of(sequence))
    assert variations[0] != variations[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": picture()[:20]},
            r"image must be uint8 of shape \(28, 28, 3\), got torch.uint8 of \(20, 28, 3\)",
        ),
        ({"image": picture().float()}, "image must be uint8 .* got torch.float32"),
        ({"image": picture()[..., :1]}, r"got torch.uint8 of \(28, 28, 1\)"),
        (
            {"mask": LARGE[:, :5]},
            r"mask must be bool of shape \(28, 28\), got torch.bool of \(28, 5\)",
        ),
        ({"mask": LARGE.float()}, "mask must be bool .* got torch.float32"),
        ({"keep_scales": 5}, "keep_scales must be 0 to 4, got 5"),
        ({"keep_scales": -1}, "keep_scales must be 0 to 4, got -1"),
    ],
)
def test_wrong_input_is_named(tiny_model: StarModel, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"image": picture(), "mask": LARGE} | change
    with pytest.raises(ValueError, match=message):
        make_edit(tiny_model, **arguments)


# ---- in company ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["text", "classes"])
def model(request: pytest.FixtureRequest) -> StarModel:
    return build_tiny_model(
        tiny_config(**(class_conditional() if request.param == "classes" else {}))
    )


def jobs(model: StarModel) -> list[tuple[Edit | None, str, int]]:
    """Edits and generations: edit, prompt, seed."""
    prompts = (
        ["3", "7"] if model.config.transformer.num_classes else ["a cat", "a red apple on a mat"]
    )
    edits = [
        None,
        make_edit(model, picture(), LARGE),
        make_edit(model, picture(), LARGE, keep_scales=0),
        make_edit(model, picture(1), SMALL, feather=False),
        make_edit(model, picture(1), keep_scales=2),
        make_edit(model, picture(1), EVERYTHING),
    ]
    return [(edit, prompts[i % 2], i % 3) for i, edit in enumerate(edits)]


def test_edits_batch_with_generations_and_keep_the_seed_guarantee(model: StarModel) -> None:
    todo = jobs(model)
    alone = []
    for edit, prompt, seed in todo:
        engine = Engine(model, slots=1)
        sequence = prepare(engine, edit, prompt, seed)
        run(engine, sequence)
        alone.append((tokens_of(sequence), engine.finish([sequence])[0]))
    for shift in range(len(todo)):
        order = [*range(shift, len(todo)), *range(shift)]
        engine = Engine(model, slots=len(todo))
        sequences = {i: prepare(engine, *todo[i]) for i in order}
        run(engine, *sequences.values())
        images = engine.finish(list(sequences.values()))
        for i, image in zip(order, images, strict=True):
            assert tokens_of(sequences[i]) == alone[i][0], f"job {i}, shift {shift}"
            assert torch.equal(image, alone[i][1])


def test_an_edit_joins_while_others_are_at_a_later_scale(model: StarModel) -> None:
    edit, prompt, seed = jobs(model)[1]
    engine = Engine(model, slots=3)
    ahead = [prepare(engine, None, prompt, 8), prepare(engine, edit, prompt, 9)]
    engine.step(ahead)
    engine.step(ahead)
    joined = prepare(engine, edit, prompt, seed)
    engine.step([joined])
    run(engine, *ahead)
    while not joined.done:
        engine.step([joined])
    expected, image = paint(model, edit, prompt, seed)
    assert tokens_of(joined) == expected
    assert torch.equal(engine.finish([joined])[0], image)
