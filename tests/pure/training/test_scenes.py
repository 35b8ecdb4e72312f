from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from star_model.colours import COLOURS
from tests.training.fake_data import CONCEPTS, SIZE, drawing, write_fake_data
from training.backdrops import BACKDROPS, paint_backdrop
from training.concepts import held_out_colours, held_out_styles, load_concepts, without_article
from training.scene import GRID, Background, PlacedObject, Scene, nearest_colour
from training.scenes import COLOUR_JITTER, FOR_TOKENIZER, SceneGenerator, Variety, render
from training.sources import STYLES
from training.sprites import Sprites


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_data(tmp_path_factory.mktemp("data"))


def placed(data: Path, label: str = "fox", **changes: object) -> PlacedObject:
    concept = next(c for c in load_concepts(data, "full") if c.label == label)
    fields = {
        "concept": concept,
        "style": STYLES[0],
        "x": 0.5,
        "y": 0.5,
        "size": 0.5,
        "mirrored": False,
    }
    return PlacedObject(**(fields | changes))  # type: ignore[arg-type]


def plain_scene(thing: PlacedObject) -> Scene:
    return Scene(
        objects=(thing,),
        background=Background(kind="plain", colours=("blue",), rgb=((10, 20, 200),)),
        arrangement=None,
        caption="",
    )


def test_a_scene_depends_on_seed_and_index_alone(data: Path) -> None:
    forward = SceneGenerator(data, seed=5, vocabulary="full", max_objects=3)
    backward = SceneGenerator(data, seed=5, vocabulary="full", max_objects=3)
    expected = [forward.scene(i) for i in range(40)]
    assert [backward.scene(i) for i in reversed(range(40))] == expected[::-1]
    assert len({scene.caption for scene in expected}) > 20
    other = SceneGenerator(data, seed=6, vocabulary="full", max_objects=3)
    assert [other.scene(i) for i in range(40)] != expected


def test_a_known_scene_stays_what_it_is(data: Path) -> None:
    # A change of this scene means that every model trained so far was trained on other data.
    scene = SceneGenerator(data, seed=0, vocabulary="full").scene(3)
    assert (scene.objects[0].concept.label, scene.style, scene.background.colours) == (
        "fox",
        "3d",
        ("green",),
    )
    assert scene.caption == "a fox, 3d style"


def test_training_never_shows_a_held_out_pair(data: Path) -> None:
    concepts = load_concepts(data, "full")
    styles, colours = held_out_styles(concepts, STYLES), held_out_colours(concepts, COLOURS)
    assert styles
    assert colours
    generator = SceneGenerator(
        data, seed=1, vocabulary="full", max_objects=3, variety=FOR_TOKENIZER
    )
    seen: set[tuple[str, str]] = set()
    for index in range(3000):
        scene = generator.scene(index)
        for thing in scene.objects:
            assert (thing.concept.label, thing.style) not in styles
            assert (
                not {(thing.concept.label, colour) for colour in scene.background.colours} & colours
            )
            seen.add((thing.concept.label, thing.style))
    assert seen == {(label, style) for label in CONCEPTS for style in STYLES} - styles


def test_every_held_out_scene_shows_a_held_out_pair(data: Path) -> None:
    concepts = load_concepts(data, "full")
    styles, colours = held_out_styles(concepts, STYLES), held_out_colours(concepts, COLOURS)
    generator = SceneGenerator(data, seed=1, vocabulary="full", split="held_out")
    by_style = by_colour = 0
    for index in range(200):
        scene = generator.scene(index)
        label = scene.objects[0].concept.label
        new_style = (label, scene.style) in styles
        new_colour = any((label, colour) in colours for colour in scene.background.colours)
        assert new_style != new_colour
        by_style, by_colour = by_style + new_style, by_colour + new_colour
    assert min(by_style, by_colour) > 50


def test_at_most_one_style_of_a_concept_is_held_out(data: Path) -> None:
    many = [f"label {i}" for i in range(2000)]
    concept = load_concepts(data, "full")[0]
    concepts = [type(concept)(label, "a thing", (), (), "objects", None, True) for label in many]
    held = held_out_styles(concepts, STYLES)
    assert len({label for label, _ in held}) == len(held)
    assert 0.03 < len(held) / (len(many) * len(STYLES)) < 0.06


@pytest.mark.parametrize("count", [1, 2, 3])
def test_objects_are_on_the_canvas_and_as_arranged(data: Path, count: int) -> None:
    generator = SceneGenerator(
        data, seed=2, vocabulary="full", max_objects=count, variety=FOR_TOKENIZER
    )
    counts = set()
    for index in range(400):
        scene = generator.scene(index)
        counts.add(len(scene.objects))
        assert len({thing.style for thing in scene.objects}) == 1
        assert len({thing.concept.label for thing in scene.objects}) == len(scene.objects)
        for thing in scene.objects:
            assert thing.size / 2 <= thing.x <= 1 - thing.size / 2
            assert thing.size / 2 <= thing.y <= 1 - thing.size / 2
            assert thing.concept.mirrorable or not thing.mirrored
        for one, two in combinations(scene.objects, 2):
            reach = (one.size + two.size) / 2
            assert abs(one.x - two.x) >= reach or abs(one.y - two.y) >= reach
        first, last = scene.objects[0], scene.objects[-1]
        match scene.arrangement:
            case "left of" | "row":
                assert last.x - first.x > 0.4
            case "above":
                assert last.y - first.y > 0.4
            case None:
                assert len(scene.objects) == 1
            case corner:
                assert ("left" in corner) == (first.x < 0.5)
                assert ("top" in corner) == (first.y < 0.5)
                assert first.size_word == "small"
    assert counts == set(range(1, count + 1))


def test_corners_of_drawings_are_on_the_grid_of_the_tokens(data: Path) -> None:
    generator = SceneGenerator(
        data, seed=2, vocabulary="full", max_objects=3, variety=FOR_TOKENIZER
    )
    sides = set()
    for index in range(400):
        for thing in generator.scene(index).objects:
            corner = ((thing.x - thing.size / 2) * GRID, (thing.y - thing.size / 2) * GRID)
            assert all(value == round(value) for value in corner)
            sides.add(thing.size * GRID)
    assert sides == {5, 6, 7, 8, 10, 12, 14}


def test_usual_scenes_have_one_place_for_one_object_and_two_pairs_for_two(data: Path) -> None:
    generator = SceneGenerator(data, seed=2, vocabulary="full", max_objects=2)
    found: dict[int, set[tuple[float, ...]]] = {1: set(), 2: set()}
    for scene in map(generator.scene, range(300)):
        places = [v * GRID for o in scene.objects for v in (o.size, o.x, o.y)]
        found[len(scene.objects)].add(tuple(places))
        assert not any(thing.mirrored for thing in scene.objects)
        assert scene.background.kind == "plain"
        assert scene.background.rgb == (COLOURS[scene.background.colours[0]],)
    assert found[1] == {(12, 8, 8)}
    assert found[2] == {(8, 4, 8, 8, 12, 8), (8, 8, 4, 8, 8, 12)}


def test_backdrops_are_painted_and_named(data: Path) -> None:
    generator = SceneGenerator(data, seed=2, vocabulary="full", variety=Variety(backdrops=1.0))
    names = set()
    for scene in map(generator.scene, range(100)):
        (name,) = scene.background.colours
        names.add(name)
        pixels = render(scene, Sprites(data), size=64)
        np.testing.assert_array_equal(pixels[:8], paint_backdrop(name, 64)[:8])
        part = render(scene, Sprites(data), size=64, crop=(5, 7, 30, 20))
        np.testing.assert_array_equal(part, pixels[7:27, 5:35])
        said = [phrase for phrase in BACKDROPS[name] if phrase in scene.caption]
        others = {p for n in BACKDROPS for p in BACKDROPS[n] if n != name} - set(BACKDROPS[name])
        assert said or not any(phrase in scene.caption for phrase in others)
    assert len(names) > 10


def test_there_are_few_other_places_for_one_object(data: Path) -> None:
    generator = SceneGenerator(data, seed=2, vocabulary="full", variety=Variety(elsewhere=1.0))
    things = [generator.scene(index).objects[0] for index in range(1500)]
    places = {(thing.size * GRID, thing.x * GRID, thing.y * GRID) for thing in things}
    assert len(places) == 16
    for side, count, drift in ((12, 5, 1), (10, 5, 2), (14, 1, 0)):
        offsets = {(x - GRID / 2, y - GRID / 2) for size, x, y in places if size == side}
        assert len(offsets) == count
        assert {abs(x) + abs(y) for x, y in offsets} == {0, drift}


def test_jitter_never_carries_a_colour_to_another_name(data: Path) -> None:
    extremes = [-COLOUR_JITTER, 0, COLOUR_JITTER]
    for name, rgb in COLOURS.items():
        for dr in extremes:
            for dg in extremes:
                for db in extremes:
                    moved = np.clip([rgb[0] + dr, rgb[1] + dg, rgb[2] + db], 0, 255)
                    assert nearest_colour(moved.tolist()) == name
    generator = SceneGenerator(data, seed=3, vocabulary="full", variety=Variety(elsewhere=1.0))
    for index in range(100):
        background = generator.scene(index).background
        assert tuple(nearest_colour(rgb) for rgb in background.rgb) == background.colours


def test_other_backgrounds_on_request(data: Path) -> None:
    mixed = SceneGenerator(data, seed=3, vocabulary="full", variety=FOR_TOKENIZER)
    kinds = {mixed.scene(i).background.kind for i in range(100)}
    assert kinds == {"plain", "gradient", "backdrop"}


def test_render_puts_the_drawing_over_the_background(data: Path) -> None:
    image = render(plain_scene(placed(data, "owl", style=STYLES[1])), Sprites(data), size=2 * SIZE)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert image[2, 2].tolist() == [10, 20, 200]
    # At size 0.5 the drawing is painted pixel for pixel, from (16, 16).
    row = list(CONCEPTS).index("owl")
    assert image[32, 16 + 8].tolist() == [200, 10 + 10 * row, 20 + 60]
    half = np.array([200, 10 + 10 * row, 20 + 60]) * 128 / 255 + np.array([10, 20, 200]) * 127 / 255
    assert np.abs(image[32, 16 + 22].astype(float) - half).max() <= 1
    assert image[32, 16 + 30].tolist() == [10, 20, 200]


def test_mirroring_swaps_left_and_right(data: Path) -> None:
    sprites = Sprites(data)
    usual = render(plain_scene(placed(data)), sprites, size=96)
    mirrored = render(plain_scene(placed(data, mirrored=True)), sprites, size=96)
    assert (usual[:, ::-1] == mirrored).all()
    assert (usual != mirrored).any()


def test_a_gradient_runs_from_the_first_colour_to_the_second(data: Path) -> None:
    background = Background(
        kind="gradient", colours=("red", "blue"), rgb=((200, 0, 0), (0, 0, 200))
    )
    scene = Scene(
        objects=(placed(data, size=0.2),), background=background, arrangement=None, caption=""
    )
    column = render(scene, Sprites(data), size=100)[:, 0].astype(int)
    assert column[0].tolist() == [199, 0, 1]
    assert column[-1].tolist() == [1, 0, 199]
    assert (np.diff(column[:, 0]) <= 0).all()


def test_a_crop_is_the_slice_of_the_whole(data: Path) -> None:
    sprites = Sprites(data)
    generator = SceneGenerator(
        data, seed=4, vocabulary="full", max_objects=3, variety=FOR_TOKENIZER
    )
    windows = [
        (0, 0, 64, 64),
        (100, 37, 91, 128),
        (255, 255, 1, 1),
        (0, 200, 256, 56),
        (3, 5, 7, 9),
    ]
    for index in range(25):
        scene = generator.scene(index)
        whole = render(scene, sprites, size=256)
        for x0, y0, width, height in windows:
            part = render(scene, sprites, size=256, crop=(x0, y0, width, height))
            np.testing.assert_array_equal(part, whole[y0 : y0 + height, x0 : x0 + width])


@pytest.mark.parametrize("crop", [(-1, 0, 8, 8), (0, 0, 0, 8), (60, 0, 8, 8), (0, 57, 8, 8)])
def test_a_window_off_the_canvas_is_an_error(data: Path, crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="not a window"):
        render(plain_scene(placed(data)), Sprites(data), size=64, crop=crop)


def test_arguments_are_checked(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_objects"):
        SceneGenerator(data, seed=0, vocabulary="full", max_objects=4)
    with pytest.raises(ValueError, match="styles"):
        SceneGenerator(data, seed=0, vocabulary="full", styles=("oil",))
    with pytest.raises(FileNotFoundError, match=r"training\.prepare"):
        SceneGenerator(tmp_path / "nothing", seed=0)
    with pytest.raises(ValueError, match="data does not hold"):
        SceneGenerator(data, seed=0, vocabulary="starter")
    few = write_fake_data(tmp_path / "few", {"fox": CONCEPTS["fox"], "owl": CONCEPTS["owl"]})
    drawn_less = (few / "sprites" / "index.json").read_text().replace('"owl"', '"elk"')
    (few / "sprites" / "index.json").write_text(drawn_less)
    with pytest.raises(ValueError, match="not drawn in cartoon: owl"):
        SceneGenerator(few, seed=0, vocabulary="full")


def test_the_fake_drawings_are_read_back(data: Path) -> None:
    sprites = Sprites(data)
    assert sprites.size == SIZE
    assert sprites.labels("flat") == tuple(CONCEPTS)
    np.testing.assert_array_equal(
        sprites.drawing("rocket", "flat"), drawing(9, STYLES.index("flat"))
    )
    assert without_article(load_concepts(data, "full")[0].phrase) == "fox"
