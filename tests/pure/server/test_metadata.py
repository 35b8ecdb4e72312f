"""What image files say about themselves: the same in all formats, and only what was asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest

from server import __version__
from server.images.encode import ImageFormat, encode_image
from server.images.metadata import ImageMetadata, describe
from server.messages import ImageEdit, Job, Pixels
from server.settings import MetadataLevel
from tests.server.fakes import make_job
from tests.server.image_metadata import (
    IPTC,
    SOURCE_TYPE,
    generation_of,
    opened,
    parameters_text_of,
    xmp_of,
)

FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
PIXELS = Pixels(16, 16, bytes(16 * 16 * 3))
JOB = make_job("j", (7, 8), prompt="a red apple, 3d: <shiny> & 🐸", negative_prompt="fog")


def metadata_of(
    job: Job = JOB, level: MetadataLevel = "full", image: int = 1
) -> ImageMetadata | None:
    return describe(job, image, level, model="star-fake", size="16x16", scales=10, dtype="float32")


def file_of(
    image_format: ImageFormat, job: Job = JOB, level: MetadataLevel = "full", image: int = 1
) -> bytes:
    return encode_image(PIXELS, image_format, metadata=metadata_of(job, level, image))


@pytest.mark.parametrize("image_format", FORMATS)
def test_json_has_all_that_it_takes_to_generate_the_image_again(image_format: ImageFormat) -> None:
    assert generation_of(file_of(image_format)) == {
        "prompt": JOB.prompt,
        "seed": 8,
        "model": "star-fake",
        "dtype": "float32",
        "size": "16x16",
        "parameters": JOB.parameters,
        "software": f"star-server {__version__}",
    }


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_text_is_automatic1111s(image_format: ImageFormat) -> None:
    text = parameters_text_of(file_of(image_format))
    assert text is not None
    prompt, negative, pairs = text.split("\n")
    assert prompt == JOB.prompt
    assert negative == "Negative prompt: fog"
    # The expression of the web UI itself, which needs three pairs or more to take the line for one.
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', pairs)
    assert dict(found) == {
        "Steps": "10",
        "Sampler": "scale-wise",
        "CFG scale": "4.0",
        "Seed": "8",
        "Size": "16x16",
        "Model": "star-fake",
        "dtype": "float32",
        **{
            name: str(value)
            for name, value in JOB.sampling.model_dump().items()
            if name != "guidance_scale"
        },
        "Version": f"star-server {__version__}",
    }


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("level", ["full", "provenance"])
def test_iptcs_properties_say_that_a_model_made_it(
    image_format: ImageFormat, level: MetadataLevel
) -> None:
    xmp = xmp_of(file_of(image_format, level=level))
    assert xmp[f"{IPTC}DigitalSourceType"] == f"{SOURCE_TYPE}trainedAlgorithmicMedia"
    assert xmp[f"{IPTC}AISystemUsed"] == "star-fake"
    assert xmp[f"{IPTC}AISystemVersionUsed"] == f"star-server {__version__}"
    assert xmp.get(f"{IPTC}AIPromptInformation") == (JOB.prompt if level == "full" else None)


@pytest.mark.parametrize("image_format", FORMATS)
def test_provenance_keeps_the_prompt_and_the_parameters_out(image_format: ImageFormat) -> None:
    job = make_job("j", (123456789,), prompt="zebra", negative_prompt="walrus")
    data = file_of(image_format, job, "provenance", 0)
    for secret in ("zebra", "walrus", "123456789", "top_k"):
        for encoding in ("utf-8", "utf-16-be"):
            assert secret.encode(encoding) not in data
    assert parameters_text_of(data) is None


@pytest.mark.parametrize("image_format", FORMATS)
def test_none_is_the_bare_image(image_format: ImageFormat) -> None:
    assert metadata_of(level="none") is None
    data = file_of(image_format, level="none")
    assert data == encode_image(PIXELS, image_format)
    image = opened(data)
    assert not image.getexif()
    assert not {"xmp", "exif", "parameters", "Software"} & set(image.info)


EDIT = ImageEdit(PIXELS, bytes(256), 0, erase=True, focus=False, feather=True)


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (EDIT, "compositeWithTrainedAlgorithmicMedia"),
        (replace(EDIT, mask=None, keep_scales=4), "trainedAlgorithmicMedia"),
    ],
)
def test_an_image_with_pixels_of_an_upload_is_a_composite(edit: ImageEdit, kind: str) -> None:
    xmp = xmp_of(file_of("png", replace(JOB, edit=edit)))
    assert xmp[f"{IPTC}DigitalSourceType"] == SOURCE_TYPE + kind


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(
    "character", ["\0", "\x1f", "\x7f", "\ud800", "\uffff", "\\", '"', "&", "<", "é", "苹", "🐸"]
)
def test_prompts_of_any_characters_and_length_fit(
    image_format: ImageFormat, character: str
) -> None:
    prompt = character * 32_000
    job = make_job("j", prompt=prompt, negative_prompt=prompt)
    data = file_of(image_format, job, image=0)
    written = generation_of(data)
    assert written["prompt"] == prompt[:2999] + "…"
    assert written["parameters"]["negative_prompt"] == prompt[:2999] + "…"
    text = parameters_text_of(data)
    assert text is not None
    assert text.count("\n") == 2
    assert f"{IPTC}AIPromptInformation" in xmp_of(data)


def test_a_prompt_cannot_forge_the_lines_after_it() -> None:
    job = make_job("j", prompt="a fox\nNegative prompt: dog\nSteps: 1, Seed: 5, Model: other")
    text = parameters_text_of(file_of("png", job, image=0))
    assert text is not None
    prompt, pairs = text.split("\n")
    assert prompt == "a fox Negative prompt: dog Steps: 1, Seed: 5, Model: other"
    assert "Seed: 1," in pairs


def test_the_pixels_are_the_same_with_and_without() -> None:
    assert opened(file_of("png")).tobytes() == PIXELS.data
    assert opened(file_of("jpeg")).tobytes() == opened(encode_image(PIXELS, "jpeg")).tobytes()


def test_what_has_metadata_is_signed_and_nothing_else() -> None:
    calls: list[tuple[str, ImageMetadata]] = []

    class Signer:
        def sign(self, data: bytes, media_type: str, metadata: ImageMetadata) -> bytes:
            calls.append((media_type, metadata))
            return data + b"signed"

    metadata = metadata_of()
    assert metadata is not None
    signed = encode_image(PIXELS, "webp", metadata=metadata, signer=Signer())
    assert signed.endswith(b"signed")
    assert calls == [("image/webp", metadata)]
    assert opened(encode_image(PIXELS, "webp", signer=Signer())).size == (16, 16)
    assert len(calls) == 1
