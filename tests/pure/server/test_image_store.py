"""The store behind ``response_format: "url"``: bounded, and for a time."""

from __future__ import annotations

import pytest

from server.images.store import ImageStore, StoredImage


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def image(size: int = 10) -> StoredImage:
    return StoredImage("image/png", bytes(size))


def test_what_is_put_in_can_be_fetched_until_its_time_is_over() -> None:
    clock = Clock()
    store = ImageStore(10, 1000, 60, clock)
    picture = image()
    name = store.put(picture)
    clock.now = 59.9
    assert store.get(name) is picture
    clock.now = 60.0
    assert store.get(name) is None


def test_names_are_long_and_differ() -> None:
    store = ImageStore(100, 10_000, 60)
    names = {store.put(image()) for _ in range(100)}
    assert len(names) == 100
    assert all(
        len(name) >= 32 and name.replace("-", "").replace("_", "").isalnum() for name in names
    )


def test_the_count_is_bounded() -> None:
    store = ImageStore(3, 1000, 60)
    names = [store.put(image()) for _ in range(5)]
    assert [store.get(name) is not None for name in names] == [False, False, True, True, True]


def test_the_bytes_are_bounded() -> None:
    store = ImageStore(100, 25, 60)
    names = [store.put(image(10)) for _ in range(3)]
    assert [store.get(name) is not None for name in names] == [False, True, True]


def test_what_is_fetched_stays_longest() -> None:
    store = ImageStore(2, 1000, 60)
    first, second = store.put(image()), store.put(image())
    store.get(first)
    store.put(image())
    assert store.get(first) is not None
    assert store.get(second) is None


def test_time_frees_room() -> None:
    clock = Clock()
    store = ImageStore(2, 20, 60, clock)
    store.put(image())
    clock.now = 50.0
    kept = store.put(image())
    clock.now = 70.0
    store.put(image())
    assert store.get(kept) is not None


@pytest.mark.parametrize(
    ("store", "size"), [(ImageStore(0, 100, 60), 1), (ImageStore(1, 100, 60), 101)]
)
def test_what_does_not_fit_is_refused(store: ImageStore, size: int) -> None:
    with pytest.raises(ValueError, match=r"no images|too large"):
        store.put(image(size))
