from __future__ import annotations

import pytest

from star_model.errors import UnknownClassError
from star_model.imagenet import find_class, imagenet_classes


def test_the_thousand_classes() -> None:
    classes = imagenet_classes()
    assert [c.number for c in classes] == list(range(1000))
    assert len({c.wordnet_id for c in classes}) == 1000
    assert all(
        c.definition and all(name == name.strip() != "" for name in c.names) for c in classes
    )
    # Known by their numbers to everybody who works with them.
    for number, name in (
        (0, "tench"),
        (22, "bald eagle"),
        (207, "golden retriever"),
        (562, "fountain"),
    ):
        assert classes[number].names[0] == name
    assert classes[980].names[0] == "volcano"
    assert classes[999].names[0] == "toilet tissue"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("207", 207),
        (" 0 ", 0),
        ("golden retriever", 207),
        ("Golden_Retriever", 207),
        ("a golden  retriever", 207),
        ("n02099601", 207),
        ("N02099601", 207),
        ("American eagle", 22),  # a synonym of the bald eagle
        ("an American eagle", 22),
        ("black and tan coonhound", 165),  # black-and-tan coonhound
        ("harp", 594),  # the usual name of one class and a synonym of the harmonica
        ("ptarmigan", 81),
    ],
)
def test_found(text: str, number: int) -> None:
    assert find_class(text).number == number


def test_every_usual_name_is_found_unless_two_classes_share_it() -> None:
    shared = []
    for c in imagenet_classes():
        try:
            assert find_class(c.names[0].upper()) is c
        except UnknownClassError:
            shared.append(c.number)
    assert shared == [
        134,
        264,
        474,
        517,
        638,
        639,
    ]  # two cranes, Cardigan and cardigan, two maillots


def test_an_ambiguous_name_names_the_candidates() -> None:
    with pytest.raises(UnknownClassError) as raised:
        find_class("Crane")
    message = str(raised.value)
    assert (
        "'Crane' names 2 ImageNet classes; give a number instead: 134 is crane: large long-necked"
        in message
    )
    assert "517 is crane: lifts and moves heavy objects" in message


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("cat", "tiger cat (282)"),
        ("golden retreiver", "golden retriever (207)"),
        ("volcanoe", "volcano (980)"),
        ("a brown bear in the snow", "brown bear (294)"),
    ],
)
def test_an_unknown_name_names_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(
        UnknownClassError, match="is not the name of an ImageNet class; did you mean"
    ) as raised:
        find_class(text)
    assert nearest in str(raised.value)


@pytest.mark.parametrize("text", ["", " ", "a", "!", "🦊", "x" * 2000])
def test_nonsense_is_answered_with_a_sentence(text: str) -> None:
    with pytest.raises(UnknownClassError, match="did you mean"):
        find_class(text)


@pytest.mark.parametrize("text", ["1000", "-1", "+7", "99999999999999999999", "9" * 32_000])
def test_a_number_out_of_range(text: str) -> None:
    with pytest.raises(UnknownClassError, match="the classes are 0 to 999"):
        find_class(text)


def test_a_model_of_fewer_classes() -> None:
    assert find_class("9", 10).names[0] == "ostrich"
    for text in ("10", "brambling"):
        with pytest.raises(UnknownClassError, match="0 to 9"):
            find_class(text, 10)
