"""Image files."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from server.images.encode import ImageFormat, encode_image
from server.messages import Pixels

RANDOM = Pixels(48, 32, random.Random(0).randbytes(48 * 32 * 3))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_png_is_lossless() -> None:
    image = opened(encode_image(RANDOM, "png"))
    assert image.size == (48, 32)
    assert image.mode == "RGB"
    assert image.tobytes() == RANDOM.data


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_quality_decides_the_size(image_format: ImageFormat) -> None:
    sizes = [len(encode_image(RANDOM, image_format, quality)) for quality in (1, 50, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    assert opened(encode_image(RANDOM, image_format)).size == (48, 32)
