"""Edits by OpenAI's client, unmodified, on the real server: what is kept is kept, and a seed is a promise."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent, ImagesResponse
from PIL import Image, ImageChops

from tests.live_server import LiveServer, running_server
from tests.server.pictures import file_of, mask, opened, photo, see_through
from tests.star_model.tiny import write_tiny_model

SIDE = 28
BOX = (4, 8, 20, 24)
"""What the masks mark: left, top, right, bottom."""
IMAGE = ("image.png", file_of(photo(SIDE)), "image/png")
MASK = ("mask.png", file_of(see_through(photo(SIDE), BOX)), "image/png")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("edits")
    model = write_tiny_model(folder / "model")
    with running_server("--model", str(model), "--threads", "1", log=folder / "log") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def files(answer: ImagesResponse) -> list[str]:
    assert answer.data is not None
    return [image.b64_json or "" for image in answer.data]


def changed(file: str, original: Image.Image) -> tuple[int, int, int, int] | None:
    """The box around what differs."""
    image = opened(file)
    assert image.size == original.size
    return ImageChops.difference(image, original).getbbox()


def part_painted(file: str, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Where ``file`` differs from the image, which is somewhere, and inside ``box`` alone."""
    left, top, right, bottom = part = changed(file, photo(SIDE)) or (0, 0, 0, 0)
    assert part != (0, 0, 0, 0), "nothing is painted"
    assert left >= box[0]
    assert top >= box[1]
    assert right <= box[2]
    assert bottom <= box[3]
    return part


def test_only_what_is_marked_is_painted(client: openai.OpenAI) -> None:
    answer = client.images.edit(
        image=IMAGE, mask=MASK, prompt="a red apple", n=2, size="auto", extra_body={"seed": 7}
    )
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.image_tokens == 1 + 4 + 25 + 49
    one, other = files(answer)
    assert one != other
    for file in (one, other):
        left, top, right, bottom = part_painted(file, BOX)
        assert (right - left) * (bottom - top) > 100, "something is painted"


def test_a_small_part_is_painted_in_a_window_around_it_unless_that_is_switched_off(
    client: openai.OpenAI,
) -> None:
    small = (20, 4, 26, 10)
    marks = ("mask.png", file_of(mask(SIDE, small)), "image/png")

    def painted(box: tuple[str, bytes, str], **extra: object) -> str:
        answer = client.images.edit(
            image=IMAGE, mask=box, prompt="a cat", extra_body={"seed": 7, **extra}
        )
        return files(answer)[0]

    in_window, in_whole = painted(marks, focus=True), painted(marks, focus=False)
    assert painted(marks) == in_window
    assert in_window != in_whole
    for file in (in_window, in_whole):
        part_painted(file, small)
    large = ("mask.png", file_of(mask(SIDE, (1, 1, 27, 27))), "image/png")
    assert painted(large, focus=True) == painted(large, focus=False), (
        "its window is the whole picture"
    )


def test_one_image_in_a_list(client: openai.OpenAI) -> None:
    one = client.images.edit(image=[IMAGE], mask=MASK, prompt="a red apple", extra_body={"seed": 7})
    same = client.images.edit(image=IMAGE, mask=MASK, prompt="a red apple", extra_body={"seed": 7})
    assert files(one) == files(same)


def test_a_stream_of_partial_images(client: openai.OpenAI) -> None:
    with client.images.edit(
        image=IMAGE,
        mask=MASK,
        prompt="a frog",
        stream=True,
        partial_images=2,
        extra_body={"seed": 3},
    ) as stream:
        events = list(stream)
    partial = [event for event in events if isinstance(event, ImageEditPartialImageEvent)]
    assert [event.partial_image_index for event in partial] == [0, 1]
    (completed,) = [event for event in events if isinstance(event, ImageEditCompletedEvent)]
    assert completed is events[-1]
    for event in events:
        assert changed(event.b64_json, photo(SIDE)) is not None
        inside = ImageChops.multiply(
            opened(event.b64_json), mask(SIDE, BOX, inside=0).convert("RGB")
        )
        expected = ImageChops.multiply(photo(SIDE), mask(SIDE, BOX, inside=0).convert("RGB"))
        assert inside.tobytes() == expected.tobytes(), "what is kept is shown from the first"
    whole = client.images.edit(image=IMAGE, mask=MASK, prompt="a frog", extra_body={"seed": 3})
    assert files(whole) == [completed.b64_json]


def test_what_is_around_an_image_is_painted(client: openai.OpenAI) -> None:
    small = ("small.png", file_of(photo(14)), "image/png")
    answer = client.images.edit(
        image=small, prompt="a cat", extra_body={"place": "0.25,0.25,0.75,0.75"}
    )
    (file,) = files(answer)
    assert opened(file).crop((7, 7, 21, 21)).tobytes() == photo(14).tobytes()
    assert opened(file).crop((0, 0, 28, 7)).getextrema() != ((0, 0),) * 3


def test_variations(client: openai.OpenAI) -> None:
    def painted(keep_scales: int, prompt: str) -> str:
        extra = {"seed": 5, "keep_scales": keep_scales}
        return (
            opened(files(client.images.edit(image=IMAGE, prompt=prompt, extra_body=extra))[0])
            .tobytes()
            .hex()
        )

    assert painted(4, "a cat") == painted(4, "a red apple"), "nothing is left to the prompt"
    assert len({painted(scales, "a cat") for scales in range(5)}) == 5
    new = client.images.generate(prompt="a cat", extra_body={"seed": 5})
    assert painted(0, "a cat") == opened(files(new)[0]).tobytes().hex(), (
        "nothing is left of the image"
    )


def test_an_edit_in_company_is_the_edit_alone(server: LiveServer) -> None:
    """Edits and generations at once, in one batch: each file is that of its request on its own, to the bit."""
    image, marks = (base64.b64encode(file).decode() for file in (IMAGE[1], MASK[1]))
    edits: list[dict[str, object]] = [
        {"image": image, "mask": marks},
        {"image": image, "keep_scales": 2},
        {"image": image, "place": "0,0,0.5,0.5"},
    ]
    bodies: list[dict[str, object]] = [
        {"prompt": prompt, "seed": seed, **edit}
        for seed, prompt in enumerate(("a cat", "a red apple"))
        for edit in (*edits, {})
    ]

    def paint(body: dict[str, object]) -> str:
        answer = httpx.post(
            f"{server.url}/generate", json={**body, "n": 2}, timeout=60
        ).raise_for_status()
        return str([image["b64_json"] for image in answer.json()["data"]])

    alone = [paint(body) for body in bodies]
    assert len(set(alone)) == len(bodies)
    with ThreadPoolExecutor(len(bodies)) as pool:
        for _ in range(3):
            assert list(pool.map(paint, bodies)) == alone
    page = httpx.get(f"{server.url}/metrics").text
    sizes = {
        line.split()[0]: float(line.split()[1])
        for line in page.splitlines()
        if line.startswith("star_batch_size")
    }
    assert sizes["star_batch_size_sum"] > sizes["star_batch_size_count"], (
        "some were painted together"
    )


@pytest.mark.parametrize(
    ("image", "marks", "param"),
    [
        (b"no image", MASK, "image"),
        (IMAGE[1][:300], MASK, "image"),
        (IMAGE, ("mask.png", file_of(Image.new("L", (SIDE, SIDE)))), "mask"),
        (IMAGE, ("mask.png", file_of(Image.new("L", (SIDE, SIDE), 255))), "mask"),
        (IMAGE, ("mask.png", file_of(photo(8))), "mask"),
    ],
    ids=["no image", "cut off", "empty mask", "full mask", "mask of another size"],
)  # fmt: skip
def test_a_bad_upload(client: openai.OpenAI, image: object, marks: object, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(image=image, mask=marks, prompt="a cat")  # type: ignore[call-overload]
    assert refused.value.param == param
