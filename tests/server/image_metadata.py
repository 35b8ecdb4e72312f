"""Reads what image files say about themselves, the same way for every format."""

from __future__ import annotations

import io
import json
from typing import Any
from xml.etree import ElementTree

from PIL import ExifTags, Image

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def xmp_of(data: bytes) -> dict[str, str]:
    """The properties of a file's XMP packet, by name with namespace; empty without one."""
    packet = opened(data).info.get("xmp")
    if packet is None:
        return {}
    root = ElementTree.fromstring(packet)
    description = next(root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"))
    return {element.tag: element.text or "" for element in description}


def generation_of(data: bytes) -> dict[str, Any]:
    """The JSON that says how an image is generated again."""
    generation: dict[str, Any] = json.loads(xmp_of(data)["{urn:star-server:1.0:}generation"])
    return generation


def parameters_text_of(data: bytes) -> str | None:
    """The text in AUTOMATIC1111's convention: of a PNG's chunk, or of the EXIF comment of other formats."""
    image = opened(data)
    if image.format == "PNG":
        text = image.info.get("parameters")
        return None if text is None else str(text)
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if comment is None:
        return None
    assert comment.startswith(b"UNICODE\0")
    return str(comment[8:].decode("utf-16-be"))
