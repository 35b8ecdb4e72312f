"""Image files as people have them: each kind is read as it looks, or refused with a sentence."""

from __future__ import annotations

import base64
import contextlib
import struct
import zlib

import pytest
from PIL import Image

from server.errors import InvalidRequest
from server.images.uploads import Upload, read_image
from tests.server.pictures import file_of, photo

LIMIT = 100_000


def read(file: bytes | str) -> Image.Image:
    image = read_image(Upload("image", file), LIMIT)
    assert image.mode == "RGBA"
    return image


def refusal(file: bytes | str) -> str:
    with pytest.raises(InvalidRequest) as refused:
        read(file)
    assert refused.value.param == "image"
    message = refused.value.message
    assert message.startswith("image ")
    assert message.endswith(".")
    return message


# ---- read --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data_url", [False, True])
def test_base64(data_url: bool) -> None:
    text = base64.b64encode(file_of(photo(8))).decode()
    seen = read(f"data:image/png;base64,{text}" if data_url else text)
    assert seen.convert("RGB").tobytes() == photo(8).tobytes()


@pytest.mark.parametrize("form", ["lines", "url", "unpadded", "parameters", "upper", "percent"])
def test_base64_in_all_its_forms(form: str) -> None:
    file = file_of(photo(9))
    text = base64.b64encode(file).decode()
    assert {"+", "/", "="} <= set(text), "the file should need all of the alphabet"
    quoted = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    forms = {
        "lines": base64.encodebytes(file).decode().replace("\n", "\r\n"),
        "url": base64.urlsafe_b64encode(file).decode(),
        "unpadded": base64.urlsafe_b64encode(file).decode().rstrip("="),
        "parameters": f"data:image/png;name=a.png;charset=utf-8;base64,{text}",
        "upper": f"DATA:image/png;BASE64,{text}",
        "percent": f"data:image/png;base64,{quoted}",
    }
    assert read(forms[form]).convert("RGB").tobytes() == photo(9).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_lossless_is_read_to_the_bit(kind: str) -> None:
    image = photo(20, 10)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert read(file_of(image, kind, **options)).convert("RGB").tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_each_kind_of_png_looks_as_it_does(mode: str) -> None:
    grey = Image.linear_gradient("L").resize((64, 64))
    if mode == "I;16":
        image = Image.frombytes(
            "I;16", (64, 64), b"".join(struct.pack("<H", v * 257) for v in grey.tobytes())
        )
    else:
        image = grey.convert(mode)
    expected = grey.convert("1") if mode == "1" else grey
    difference = [
        a - b
        for a, b in zip(
            read(file_of(image)).convert("L").tobytes(),
            expected.convert("L").tobytes(),
            strict=True,
        )
    ]
    assert max(map(abs, difference)) <= 1
    assert read(file_of(image)).getchannel("A").getextrema() == (255, 255)


def test_16_bits_of_colour() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 0xFFFF, 0x8080, 0) * 4 for _ in range(4))
    file = png(4, 4, 16, 2, rows)
    assert read(file).getpixel((1, 1)) == (255, 128, 0, 255)


def test_a_transparent_colour_of_a_palette() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    seen = read(file_of(image, transparency=0))
    assert (seen.getpixel((0, 0)), seen.getpixel((1, 0))) == ((255, 0, 0, 0), (0, 0, 255, 255))


def test_a_photo_in_cmyk() -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    red, green, blue, _ = read(file_of(image, "JPEG", quality=100)).getpixel((8, 8))  # type: ignore[misc]
    assert max(abs(red - 200), abs(green - 40), abs(blue - 90)) <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_held_upright(kind: str) -> None:
    image = Image.new("RGB", (32, 16), "blue")
    image.paste("red", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    seen = read(file_of(image, kind, exif=exif, quality=95))
    assert seen.size == (16, 32)
    top, bottom = seen.getpixel((8, 4)), seen.getpixel((8, 28))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert (top[0] > 200, bottom[2] > 200) == (True, True)


def test_a_cameras_file_with_a_preview_behind_the_photo() -> None:
    file = file_of(
        Image.new("RGB", (16, 16), "red"),
        "MPO",
        save_all=True,
        append_images=[Image.new("RGB", (8, 8), "blue")],
    )
    assert read(file).size == (16, 16)


# ---- refused -----------------------------------------------------------------------------------------------
def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file with this header, whatever is in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "is an empty file"),
        ("", "is an empty file"),
        (b"not an image", "must be a PNG, JPEG or WebP file; convert it"),
        (file_of(photo(8), "GIF"), "must be a PNG, JPEG or WebP file; convert it"),
        (file_of(photo(8), "TIFF"), "must be a PNG, JPEG or WebP file; convert it"),
        (b"%PDF-1.7", "must be a PNG, JPEG or WebP file; convert it"),
        ("not base64", "this is not base64"),
        ("ä", "this is not base64"),
        ("data:image/png,abc", "must be a data: URL in base64"),
        ("https://example.org/cat.png", "URLs are not fetched"),
        (png(400, 400, 8, 2, b""), "has 400 x 400 pixels, more than the 100,000 allowed; make it smaller"),
        (png(12_000, 8_000, 8, 2, b""), "more than the 100,000 allowed; make it smaller"),
        (png(30_000, 30_000, 8, 2, b""), "more than the 100,000 allowed; make it smaller"),
        (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "more than the 100,000 allowed; make it smaller"),
        (png(8, 8, 8, 2, b""), "is damaged or cut off"),
        (png(0, 0, 8, 2, b""), "image "),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_is_no_image_is_refused(file: bytes | str, words: str) -> None:
    assert words in refusal(file)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_file_that_is_cut_off(kind: str, share: float) -> None:
    file = file_of(photo(64), kind)
    message = refusal(file[: int(len(file) * share)])
    assert "cut off" in message or "convert it" in message


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation(kind: str) -> None:
    frames = [photo(8), photo(8).rotate(90)]
    assert "is animated; send one frame" in refusal(
        file_of(frames[0], kind, save_all=True, append_images=frames[1:])
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_with_a_byte_changed_is_read_or_refused(kind: str) -> None:
    """No decoder's own exception gets through."""
    file = bytearray(file_of(photo(16), kind, exif=Image.Exif()))
    for position in range(0, len(file), max(1, len(file) // 150)):
        changed = bytearray(file)
        changed[position] ^= 0xFF
        with contextlib.suppress(InvalidRequest):
            read(bytes(changed))
