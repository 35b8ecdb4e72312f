"""Prompts of edits for a model that knows few things: what they must name, and what is added to them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image

from server.messages import Job
from star_model.people import NO_THING
from star_model.reading import Reading
from tests.server.fakes import VOCABULARY, FakeEngine, FakeSequence, FakeText
from tests.server.pictures import file_of
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

SIDE = 512
BLUE, GREEN = (42, 104, 214), (62, 160, 76)
ADDED = (
    'The prompt names no background: "on a blue background" was added, the colour around the '
    "painted part."
)


class Reader(FakeEngine):
    """Knows a fox, and what is said of backgrounds."""

    def prepare(
        self, text: FakeText, negative: FakeText | None, job: Job, seed: int
    ) -> FakeSequence:
        painted.append((job.prompt, job.literal))
        return super().prepare(text, negative, job, seed)

    def read(self, prompt: str) -> Reading:
        if "man" in prompt.split():
            return Reading(
                "a fox",
                unknown="man",
                notes=("-",),
                refused="It draws no people.",
                suggestions=("a fox",),
            )
        said = {"forest": "in a forest", "red background": "on a red background"}
        background = next((drawn for name, drawn in said.items() if name in prompt), "")
        if "fox" in prompt:
            return Reading(prompt, ("a fox",), background=background)
        if background and "robot" not in prompt:
            return Reading(
                "an owl",
                ("an owl",),
                background=background,
                unknown=prompt,
                notes=("-",),
                refused=NO_THING,
            )
        unknown = "robot" if "robot" in prompt else prompt
        return Reading("an owl", ("an owl",), background=background, unknown=unknown, notes=("-",))


painted: list[tuple[str, bool]] = []
"""Prompt of each job, and whether it is taken as it stands."""


def make_engine() -> Reader:
    return Reader(vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Service]:
    async with serve_fake(make_engine=make_engine) as service:
        yield service


def picture(colour: tuple[int, int, int]) -> bytes:
    return file_of(Image.new("RGB", (SIDE, SIDE), colour))


def hole(*, inside: bool = True) -> bytes:
    mask = Image.new("L", (SIDE, SIDE), 0 if inside else 255)
    mask.paste(255 if inside else 0, (200, 200, 300, 300))
    return file_of(mask)


async def edit(service: Service, prompt: str, **given: Any) -> httpx.Response:
    files = {"image": given.pop("image", picture(BLUE))}
    if (mask := given.pop("mask", hole())) is not None:
        files["mask"] = mask
    return await service.http.post(
        "/v1/images/edits", files=files, data={"prompt": prompt, **given}
    )


PARTS = pytest.mark.parametrize(
    "given", [{}, {"mask": None, "place": "0.25,0.25,0.75,0.75"}], ids=["mask", "place"]
)


@PARTS
@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [("make it red", "make it red"), ("a robot in a forest", "robot"), ("a face", "a face")],
)
async def test_a_part_needs_a_thing_that_is_known(
    shared: Service, given: dict[str, Any], prompt: str, unknown: str
) -> None:
    answer = await edit(shared, prompt, **given)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_thing", "prompt")
    assert f'cannot draw "{unknown}"' in error["message"]
    assert '"a fox on a blue background"' in error["message"]


@PARTS
async def test_people_are_refused_even_where_the_nearest_is_wanted(given: dict[str, Any]) -> None:
    async with serve_fake(make_engine=make_engine, on_unknown="nearest") as service:
        answer = await edit(service, "a man in a forest", **given)
    assert answer.status_code == 400
    assert "It draws no people." in answer.json()["error"]["message"]


async def test_transparent_pixels_are_a_mask_too(shared: Service) -> None:
    image = Image.new("RGBA", (SIDE, SIDE), (*BLUE, 255))
    image.paste((0, 0, 0, 0), (200, 200, 300, 300))
    answer = await edit(shared, "a robot", image=file_of(image), mask=None)
    assert answer.json()["error"]["code"] == "unknown_thing"


@PARTS
@pytest.mark.parametrize(
    ("prompt", "drawn", "is_said"),
    [
        ("in a forest", "in a forest", False),
        ("on a red background", "on a red background", False),
        ("a forest", "in a forest", True),
        ("Change the background to a red forest", "in a forest", True),
        ("put it in a forest", "in a forest", False),
    ],
)
async def test_a_background_alone_is_encoded_without_a_thing(
    shared: Service, given: dict[str, Any], prompt: str, drawn: str, is_said: bool
) -> None:
    answer = await edit(shared, prompt, **given)
    assert answer.status_code == 200, answer.text
    assert painted[-1] == (drawn, True)
    note = f'"{prompt}" is drawn as "{drawn}".'
    assert answer.json()["warnings"] == ([note] if is_said else [])


async def test_the_nearest_thing_is_painted_where_it_is_wanted() -> None:
    async with serve_fake(make_engine=make_engine, on_unknown="nearest") as service:
        assert (await edit(service, "a robot")).status_code == 200


async def test_a_variation_needs_none(shared: Service) -> None:
    assert (await edit(shared, "a robot", mask=None)).status_code == 200


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ({}, "a fox, on a blue background"),
        ({"mask": None, "place": "0.25,0.25,0.75,0.75"}, "a fox, on a blue background"),
        ({"prompt": "a fox in a forest"}, "a fox in a forest"),
        ({"prompt": "a fox on a red background"}, "a fox on a red background"),
        ({"mask": hole(inside=False)}, "a fox"),  # the background, of which nothing is known
        ({"image": picture(GREEN)}, "a fox"),  # no colour of the model's backgrounds
        ({"mask": None}, "a fox"),  # a variation
    ],
)
async def test_the_colour_around_is_the_background_of_a_part(
    shared: Service, given: dict[str, Any], prompt: str
) -> None:
    given = dict(given)
    answer = await edit(shared, given.pop("prompt", "a fox"), output_format="png", **given)
    assert answer.status_code == 200, answer.text
    assert painted[-1] == (prompt, False)
    changed = prompt == "a fox, on a blue background"
    assert answer.json()["warnings"] == ([ADDED] if changed else [])


async def test_generate_says_it_too(shared: Service) -> None:
    files = {
        name: base64.b64encode(file).decode()
        for name, file in (("image", picture(BLUE)), ("mask", hole()))
    }
    answer = await shared.generate(prompt="a fox", **files)
    assert answer.json()["warnings"] == [ADDED]
    refused = await shared.generate(prompt="make it red", **files)
    assert "not what is to be done" in refused.json()["error"]["message"]
    wanted = await shared.generate(prompt="make it red", on_unknown="nearest", **files)
    assert wanted.status_code == 200
