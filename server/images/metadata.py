"""What an image file says about itself: its origin, and all that it takes to generate it again.

The same in PNG, JPEG and WebP: an XMP packet with IPTC's properties for generated images and the generation as JSON,
and the text that AUTOMATIC1111's web UI writes, which most programs for generated images read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from PIL import ExifTags, Image

from server import __version__
from server.messages import Job
from server.settings import MetadataLevel

SOFTWARE = f"star-server {__version__}"
NAMESPACE = "urn:star-server:1.0:"
"""Of the XMP property ``generation``."""

_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_PROMPT_CHARACTERS = 3000
"""Of a prompt that are written: three copies of this many, escaped, fit into the 64 KiB that JPEG allows."""
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_UNICODE = b"UNICODE\0"
"""How EXIF names the encoding of a comment."""


@dataclass(frozen=True, slots=True)
class Generation:
    """All that it takes to generate an image again.

    Args:
        prompt: describes it.
        negative_prompt: what guidance leads away from; empty for none.
        seed: 0 to 2^32 - 1.
        size: such as ``512x512``.
        scales: of the model.
        dtype: of its weights; another type may give another image.
        parameters: of sampling, by name, the negative prompt among them.
    """

    prompt: str
    negative_prompt: str
    seed: int
    size: str
    scales: int
    dtype: str
    parameters: Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What is written into one image file.

    Args:
        model: name of the model.
        composite: parts of an uploaded image are in it.
        generation: None leaves the prompt and the parameters out.
    """

    model: str
    composite: bool
    generation: Generation | None

    @property
    def source_type(self) -> str:
        """The term of IPTC's vocabulary for the image's origin, as an address."""
        kind = (
            "compositeWithTrainedAlgorithmicMedia" if self.composite else "trainedAlgorithmicMedia"
        )
        return _SOURCE_TYPE + kind


def describe(
    job: Job,
    image: int,
    level: MetadataLevel,
    *,
    model: str,
    size: str,
    scales: int,
    dtype: str,
) -> ImageMetadata | None:
    """Return the metadata of one image of a job; None if it is to have none.

    Args:
        job: of the image.
        image: index in the job's seeds.
        level: how much is written.
        model: name of the model.
        size: such as ``512x512``.
        scales: of the model.
        dtype: of the model's weights.
    """
    if level == "none":
        return None
    generation = Generation(
        _shortened(job.prompt),
        _shortened(job.negative_prompt),
        job.seeds[image],
        size,
        scales,
        dtype,
        {
            name: _shortened(value) if isinstance(value, str) else value
            for name, value in job.parameters.items()
        },
    )
    composite = job.edit is not None and job.edit.mask is not None
    return ImageMetadata(model, composite, generation if level == "full" else None)


def save_options(metadata: ImageMetadata) -> dict[str, Any]:
    """Return Pillow's options that write the metadata into a JPEG or WebP file."""
    exif = Image.Exif()
    exif.endian = ">"  # of the comment's UTF-16 too, whose byte order EXIF leaves open
    exif[ExifTags.Base.Software] = SOFTWARE
    if metadata.generation is not None:
        text = parameters_text(metadata.model, metadata.generation)
        comment = _UNICODE + text.encode("utf-16-be", "replace")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    # Pillow gives the comment the type BYTE, where EXIF wants UNDEFINED.
    block = exif.tobytes().replace(b"\x92\x86\x00\x01", b"\x92\x86\x00\x07", 1)
    return {"exif": block, "xmp": xmp_packet(metadata).encode()}


def png_texts(metadata: ImageMetadata) -> dict[str, str]:
    """Return the text chunks of a PNG file, by keyword."""
    texts = {"Software": SOFTWARE, "XML:com.adobe.xmp": xmp_packet(metadata)}
    if metadata.generation is not None:
        text = parameters_text(metadata.model, metadata.generation)
        texts["parameters"] = text.encode("utf-8", "replace").decode()
    return texts


def parameters_text(model: str, generation: Generation) -> str:
    """Return a generation as AUTOMATIC1111's web UI writes it.

    The lines are the prompt, ``Negative prompt: ...`` if there is one, and pairs of name and value. A pair of this
    server alone has the name that it has in the API.
    """
    own = {
        name: value
        for name, value in generation.parameters.items()
        if name not in ("guidance_scale", "negative_prompt")
    }
    pairs = {
        "Steps": generation.scales,
        "Sampler": "scale-wise",
        "CFG scale": generation.parameters["guidance_scale"],
        "Seed": generation.seed,
        "Size": generation.size,
        "Model": model,
        "dtype": generation.dtype,
        **own,
        "Version": SOFTWARE,
    }
    lines = [_one_line(generation.prompt)]
    if generation.negative_prompt:
        lines.append(f"Negative prompt: {_one_line(generation.negative_prompt)}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in pairs.items()))
    return "\n".join(lines)


def generation_json(model: str, generation: Generation) -> str:
    """Return a generation as JSON: what a request needs to generate the image again."""
    values = {
        "prompt": generation.prompt,
        "seed": generation.seed,
        "model": model,
        "dtype": generation.dtype,
        "size": generation.size,
        "parameters": dict(generation.parameters),
        "software": SOFTWARE,
    }
    text = json.dumps(values, ensure_ascii=False)
    # What XML cannot hold stands inside strings, where JSON has another way to write it.
    return _NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def xmp_packet(metadata: ImageMetadata) -> str:
    """Return the XMP packet of a file: IPTC's properties, and the generation as JSON."""
    properties = {
        "Iptc4xmpExt:DigitalSourceType": metadata.source_type,
        "Iptc4xmpExt:AISystemUsed": metadata.model,
        "Iptc4xmpExt:AISystemVersionUsed": SOFTWARE,
        "xmp:CreatorTool": SOFTWARE,
    }
    if metadata.generation is not None:
        prompt = _NOT_IN_XML.sub(" ", metadata.generation.prompt)
        properties["Iptc4xmpExt:AIPromptInformation"] = prompt
        properties["star:generation"] = generation_json(metadata.model, metadata.generation)
    elements = "\n".join(
        f"   <{name}>{escape(value)}</{name}>" for name, value in properties.items()
    )
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:star="{NAMESPACE}">
{elements}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def _shortened(text: str) -> str:
    return text if len(text) <= _PROMPT_CHARACTERS else text[: _PROMPT_CHARACTERS - 1] + "…"


def _one_line(text: str) -> str:
    """Return a prompt that cannot be taken for several lines of the text it stands in."""
    return " ".join(text.replace("\0", " ").split())


def _quoted(value: float | int | str) -> str:
    """Return a value, in quotes where it would end or begin another."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text
