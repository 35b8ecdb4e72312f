"""The metric can fail: it tells right pictures from wrong ones, each of its figures by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from star_model.colours import COLOURS
from tests.training.fake_data import CONCEPTS, mosaic, write_fake_data
from training.evaluate import HALVES, SIZE, Judge, make_splits, psnr
from training.recognition import background_of, find_object, to_canvas
from training.scene import Scene, nearest_colour
from training.scenes import SceneGenerator, Variety, render
from training.sprites import Pixels, Sprites


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_data(tmp_path_factory.mktemp("data"), draw=mosaic)


@pytest.fixture(scope="module")
def sprites(data: Path) -> Sprites:
    return Sprites(data)


def scenes(data: Path, objects: int, count: int = 12) -> list[Scene]:
    generator = SceneGenerator(data, seed=3, vocabulary="full", max_objects=objects, split="train")
    found = (generator.scene(i) for i in range(1000))
    return [scene for scene in found if len(scene.objects) == objects][:count]


def paint(sprites: Sprites, some: list[Scene]) -> list[Pixels]:
    return [render(scene, sprites, SIZE) for scene in some]


@pytest.mark.parametrize("objects", [1, 2])
def test_real_scenes_score_high_and_swapped_ones_low(
    data: Path, sprites: Sprites, objects: int
) -> None:
    judge, some = Judge(sprites, CONCEPTS), scenes(data, objects)
    pictures = paint(sprites, some)
    right = judge.score(pictures, some)
    assert min(right.object, right.style, right.colour, right.known) > 0.9
    wrong = judge.score([*pictures[1:], pictures[0]], some)
    assert max(wrong.object, wrong.colour) < 0.5
    assert right.pictures == len(some)


def test_what_the_vocabulary_lacks_is_not_known(data: Path, sprites: Sprites) -> None:
    some = scenes(data, 1)
    drawn = {scene.objects[0].concept.label for scene in some}
    assert Judge(sprites, set(CONCEPTS) - drawn).score(paint(sprites, some), some).known < 0.1


def test_objects_before_backdrops_and_the_backdrops_are_told_apart(
    data: Path, sprites: Sprites
) -> None:
    places = Variety(backdrops=1.0)
    generator = SceneGenerator(data, seed=3, vocabulary="full", variety=places)
    some = [generator.scene(i) for i in range(12)]
    judge, pictures = Judge(sprites, CONCEPTS), paint(sprites, some)
    right = judge.score(pictures, some)
    assert (right.object, right.style, right.colour, right.known) == (1, 1, 1, 1)
    wrong = judge.score([*pictures[1:], pictures[0]], some)
    assert max(wrong.object, wrong.colour) < 0.5


def test_objects_in_each_others_place_are_wrong(data: Path, sprites: Sprites) -> None:
    some = [scene for scene in scenes(data, 2) if scene.arrangement in HALVES]
    swapped = [
        dataclasses.replace(scene, objects=tuple(reversed(scene.objects))) for scene in some
    ]  # the same picture, asked for the other way round
    assert Judge(sprites, CONCEPTS).score(paint(sprites, some), swapped).object < 0.1


def test_the_style_is_judged_apart_from_the_object(data: Path, sprites: Sprites) -> None:
    (scene,) = scenes(data, 1, count=1)
    other = next(style for style in sprites.styles if style != scene.style)
    asked = dataclasses.replace(
        scene, objects=(dataclasses.replace(scene.objects[0], style=other),)
    )
    score = Judge(sprites, CONCEPTS).score(paint(sprites, [scene]), [asked])
    assert (score.object, score.style, score.colour) == (1, 0, 1)


def test_a_blank_picture_shows_nothing_that_was_asked_for(data: Path, sprites: Sprites) -> None:
    some = scenes(data, 1)
    blank = [
        np.broadcast_to(np.array(scene.background.rgb[0], np.uint8), (SIZE, SIZE, 3))
        for scene in some
    ]
    score = Judge(sprites, CONCEPTS).score(blank, some)
    assert score.colour == 1
    assert score.object < 0.5


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_background_is_found_behind_an_object_and_its_slope(colour: str) -> None:
    picture = np.tile(np.array(COLOURS[colour], np.uint8), (SIZE, SIZE, 1))
    picture[100:420, 60:450] = (90, 200, 10)
    found = background_of(to_canvas(picture))
    assert nearest_colour((found.mean(dim=(1, 2)) * 255).tolist()) == colour
    rows = np.linspace(0, 200, SIZE).round().astype(np.uint8)
    slope = background_of(to_canvas(np.tile(rows[:, None, None], (1, SIZE, 3))))
    assert np.allclose(slope[0, :, 0].numpy() * 255, np.linspace(0, 200, 128), atol=8)


def test_an_object_is_cut_out_by_its_bounding_box() -> None:
    picture = np.full((SIZE, SIZE, 3), 240, np.uint8)
    picture[128:256, 64:320] = (200, 30, 30)
    canvas = to_canvas(picture)
    region = find_object(canvas, background_of(canvas))
    assert region.centre == pytest.approx((0.375, 0.375), abs=0.01)
    assert region.size == pytest.approx(0.5, abs=0.02)
    assert region.aspect == pytest.approx(np.log(2), abs=0.05)


def test_splits_ask_for_what_they_say(data: Path) -> None:
    splits = make_splits(data, vocabulary="full", pictures=6, seed=9)
    generator = SceneGenerator(data, seed=9, vocabulary="full")
    shown = {(s.objects[0].concept.label, s.style) for s in map(generator.scene, range(500))}
    assert all((s.objects[0].concept.label, s.style) in shown for s in splits["plain"].scenes)
    assert all(len(scene.objects) == 2 for scene in splits["two"].scenes)
    assert {s.background.kind for s in splits["backdrops"].scenes} == {"backdrop"}
    for scene, caption in zip(splits["keywords"].scenes, splits["keywords"].captions, strict=True):
        assert scene.objects[0].concept.phrase not in caption
    assert all(len(split.scenes) == len(split.captions) == 6 for split in splits.values())


def test_figures_of_pictures() -> None:
    a = np.zeros((8, 8, 3), np.uint8)
    assert psnr(a, a) > 100
    assert psnr(a, a + 16) == pytest.approx(24.05, abs=0.01)
