"""Inspection of image files: what is made to cost a decoder much is found without one."""

from __future__ import annotations

import zlib

import pytest
from PIL import Image, ImageCms

from server.errors import UnusableImage
from server.images.structure import UnsafeStructure, inspect, strip_png
from server.images.uploads import Upload, read_image
from tests.server.hostile_images import (
    bomb,
    chunk,
    endless_scans,
    huge_webp,
    many_segments,
    png_with,
)
from tests.server.pictures import file_of, photo


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("lossless", [False, True])
def test_the_declared_size_is_found(kind: str, lossless: bool) -> None:
    options = {"lossless": lossless} if kind == "WEBP" else {}
    assert inspect(file_of(photo(40, 30), kind, **options)) == (40, 30)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 1}, {}])
def test_an_honest_jpeg_passes(options: dict[str, bool | int]) -> None:
    assert inspect(file_of(photo(400, 300), "JPEG", **options)) == (400, 300)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (endless_scans(64, 101), "more than 100 scans"),
        (many_segments(2001), "more than 2,000 segments"),
        (png_with(*[chunk(b"tEXt", b"a\0b")] * 1001), "more than 1,000 chunks"),
        (png_with(*[chunk(b"IDAT", b"")] * 65_536), "more than 65,536 chunks of pixels"),
        (b"RIFF\0\0\0\0WEBP" + b"EXIF\0\0\0\0" * 1001, "more than 1,000 chunks"),
    ],
)
def test_too_many_parts_are_refused(file: bytes, words: str) -> None:
    with pytest.raises(UnsafeStructure, match=words):
        inspect(file)
    with pytest.raises(UnusableImage) as refused:
        read_image(Upload("image", file), 1 << 24)
    assert (refused.value.reason, refused.value.decoded) == ("structure", False)


def test_a_webp_is_measured_before_its_canvas_is_made() -> None:
    assert inspect(huge_webp(16_000, 16_000)) == (16_000, 16_000)
    with pytest.raises(UnusableImage, match="16000 x 16000 pixels") as refused:
        read_image(Upload("image", huge_webp(16_000, 16_000)), 1 << 24)
    assert refused.value.reason == "size"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_is_cut_off_anywhere_is_no_surprise(kind: str) -> None:
    file = file_of(photo(16), kind)
    for length in range(len(file)):
        inspect(file[:length])
        strip_png(file[:length])


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"a\0\0" + bomb(100)),
        chunk(b"iTXt", b"a\0\1\0\0\0" + bomb(100)),
        chunk(b"iCCP", b"a\0\0" + bomb(100)),
        chunk(b"iCCP", b"a\0\0no zlib"),
        chunk(b"iCCP", b""),
        chunk(b"eXIf", bytes(2 << 20)),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"tEXt", b"a\0" + bytes(3 << 20)),
    ],
)
def test_a_png_is_read_whatever_stands_beside_its_pixels(extra: bytes) -> None:
    read = read_image(Upload("image", png_with(extra, image=photo(8))), 100)
    assert read.convert("RGB").tobytes() == photo(8).tobytes()


def swapped_profile(padding: int = 0) -> bytes:
    """sRGB with red and blue exchanged: the tags of their primaries have each other's names."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"....", 1).replace(b"bXYZ", b"rXYZ", 1)
    swapped = swapped.replace(b"....", b"bXYZ", 1).replace(
        "sRGB".encode("utf-16-be"), b"\0x\0G\0R\0B"
    )
    return (len(swapped) + padding).to_bytes(4) + swapped[4:] + bytes(padding)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("padding", [0, 2 << 20])
def test_a_colour_profile_is_applied(kind: str, padding: int) -> None:
    red = Image.new("RGB", (8, 8), (200, 30, 20))
    profile = swapped_profile(padding)
    if kind == "PNG":
        file = png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(profile)), image=red)
    else:
        file = file_of(red, kind, icc_profile=profile)
    seen = read_image(Upload("image", file), 100).getpixel((4, 4))
    assert isinstance(seen, tuple)
    assert seen[2] > 150 > seen[0], seen


def test_a_profile_leaves_transparency_and_a_damaged_one_leaves_colours() -> None:
    image = Image.new("RGBA", (8, 8), (200, 30, 20, 77))
    read = read_image(Upload("image", file_of(image, icc_profile=swapped_profile())), 100)
    assert read.getchannel("A").getextrema() == (77, 77)
    read = read_image(Upload("image", file_of(image, icc_profile=b"no profile")), 100)
    assert read.tobytes() == image.tobytes()


def test_an_srgb_profile_changes_no_bit() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    read = read_image(Upload("image", file_of(photo(20), icc_profile=profile)), 1000)
    assert read.convert("RGB").tobytes() == photo(20).tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_a_profile_for_other_colours_is_ignored(mode: str) -> None:
    image = Image.new("RGB", (8, 8), (200, 200, 200)).convert(mode)
    read = read_image(Upload("image", file_of(image, "JPEG", icc_profile=swapped_profile())), 100)
    expected = image.convert("RGB").getpixel((4, 4))
    seen = read.convert("RGB").getpixel((4, 4))
    assert isinstance(seen, tuple)
    assert isinstance(expected, tuple)
    assert max(abs(a - b) for a, b in zip(seen, expected, strict=True)) < 8
