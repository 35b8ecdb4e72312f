import inspect
from itertools import chain, combinations

import numpy as np
import pytest

from training import backdrops
from training.backdrops import BACKDROPS, CELLS, paint_backdrop

NAMES = list(BACKDROPS)
SIZE = 128


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 50, SIZE])
def test_a_backdrop_is_rgb_of_the_size_asked_for(name: str, size: int) -> None:
    picture = paint_backdrop(name, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("name", NAMES)
def test_painting_again_gives_the_same_picture(name: str) -> None:
    first = paint_backdrop(name, SIZE)
    assert paint_backdrop(name, SIZE) is first
    paint_backdrop.cache_clear()
    again = paint_backdrop(name, SIZE)
    assert again is not first
    np.testing.assert_array_equal(again, first)


def test_a_backdrop_is_shared_and_so_cannot_be_painted_over() -> None:
    picture = paint_backdrop(NAMES[0], SIZE)
    with pytest.raises(ValueError, match="read-only"):
        picture[0, 0] = 0


@pytest.mark.parametrize(("one", "other"), list(combinations(NAMES, 2)))
def test_backdrops_are_easily_told_apart(one: str, other: str) -> None:
    difference = paint_backdrop(one, SIZE).astype(int) - paint_backdrop(other, SIZE)
    assert np.abs(difference).mean() > 15


@pytest.mark.parametrize("name", NAMES)
def test_a_smaller_backdrop_is_the_larger_one_reduced(name: str) -> None:
    large = paint_backdrop(name, 512).reshape(256, 2, 256, 2, 3).mean((1, 3))
    difference = np.abs(large - paint_backdrop(name, 256))
    assert difference.mean() < 0.3
    assert difference.max() < 64


@pytest.mark.parametrize("name", NAMES)
def test_a_backdrop_has_no_unpainted_place(name: str) -> None:
    assert paint_backdrop(name, SIZE).max(axis=-1).min() > 30  # the canvas is black


@pytest.mark.parametrize("name", NAMES)
def test_most_pixels_are_of_few_colours(name: str) -> None:
    colours = paint_backdrop(name, 512).astype(np.uint32) @ (1 << 16, 1 << 8, 1)
    _, counts = np.unique(colours, return_counts=True)
    assert np.sort(counts)[-12:].sum() > 0.97 * 512 * 512


@pytest.mark.parametrize("name", NAMES)
def test_many_cells_are_alike(name: str) -> None:
    cell = SIZE // CELLS
    cells = paint_backdrop(name, SIZE).reshape(CELLS, cell, CELLS, cell, 3).swapaxes(1, 2)
    assert len(np.unique(cells.reshape(CELLS * CELLS, -1), axis=0)) < 60


@pytest.mark.parametrize("name", ["grass", "snow", "sea"])
def test_the_horizon_lies_on_a_cell_border(name: str) -> None:
    row = 10 * SIZE // CELLS
    middle = paint_backdrop(name, SIZE)[:, SIZE // 2].astype(int)
    assert (middle[row - 1] == middle[row - 2]).all()
    assert (middle[row] == middle[row + 1]).all()
    assert np.abs(middle[row] - middle[row - 1]).max() > 30


def test_the_grass_is_green_under_a_blue_sky() -> None:
    sky, grass = paint_backdrop("grass", SIZE)[[0, -1], SIZE // 2]
    assert sky.argmax() == 2
    assert grass.argmax() == 1


def test_each_backdrop_has_a_few_phrases_and_shares_none() -> None:
    assert all(2 <= len(phrases) <= 3 for phrases in BACKDROPS.values())
    phrases = list(chain.from_iterable(BACKDROPS.values()))
    assert len(set(phrases)) == len(phrases)
    first_words = {phrase.split()[0] for phrase in phrases}
    assert first_words <= {"in", "on", "at", "under", "among", "inside", "indoors", "underwater"}
    assert all(phrase == phrase.strip().lower() and phrase[-1].isalpha() for phrase in phrases)


def test_an_unknown_backdrop_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'moon'.*grass.*under water"):
        paint_backdrop("moon", SIZE)


@pytest.mark.parametrize("size", [0, -4])
def test_a_backdrop_without_pixels_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        paint_backdrop(NAMES[0], size)


def test_nothing_is_left_to_chance_or_read_from_elsewhere() -> None:
    source = inspect.getsource(backdrops)
    assert "random" not in source
    assert "open(" not in source
