"""What image files say, read by a program of somebody else: ExifTool."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from server.images.encode import EXTENSIONS, ImageFormat, encode_image
from server.images.metadata import describe
from server.messages import Pixels
from server.settings import MetadataLevel
from tests.server.fakes import make_job
from tests.server.image_metadata import SOURCE_TYPE

pytestmark = pytest.mark.skipif(
    not shutil.which("exiftool"),
    reason="ExifTool is not installed: apt install libimage-exiftool-perl",
)
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
PROMPT = '日本 🐸, <a> & "b": תפוח'


def read(folder: Path, image_format: ImageFormat, level: MetadataLevel) -> dict[str, Any]:
    """What ExifTool finds, by group and name; a warning of it is among that."""
    job = make_job("j", (7,), prompt=PROMPT, negative_prompt="fog")
    metadata = describe(job, 0, level, model="star-fake", size="16x16", scales=10, dtype="float32")
    path = folder / f"image.{EXTENSIONS[image_format]}"
    path.write_bytes(encode_image(Pixels(16, 16, bytes(768)), image_format, metadata=metadata))
    run = subprocess.run(
        ["exiftool", "-json", "-G1", str(path)],
        capture_output=True,
        check=True,
    )
    strict = subprocess.run(
        ["exiftool", "-validate", "-warning", "-a", str(path)], capture_output=True, check=True
    )
    # What a camera would write besides, such as a resolution, a generated image does not have.
    warnings = [line for line in strict.stdout.splitlines() if line.startswith(b"Warning")]
    assert [line for line in warnings if b"Missing required" not in line] == []
    (found,) = json.loads(run.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_reader_of_photographs_understands_it(tmp_path: Path, image_format: ImageFormat) -> None:
    found = read(tmp_path, image_format, "full")
    assert found["XMP-iptcExt:DigitalSourceType"] == f"{SOURCE_TYPE}trainedAlgorithmicMedia"
    assert found["XMP-iptcExt:AISystemUsed"] == "star-fake"
    assert found["XMP-iptcExt:AIPromptInformation"] == PROMPT
    assert json.loads(found["XMP-star:Generation"])["prompt"] == PROMPT
    place = "PNG:Parameters" if image_format == "png" else "ExifIFD:UserComment"
    assert found[place].startswith(f"{PROMPT}\nNegative prompt: fog\nSteps: 10,")
    assert "ExifTool:Warning" not in found


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_mark_alone(tmp_path: Path, image_format: ImageFormat) -> None:
    found = read(tmp_path, image_format, "provenance")
    assert found["XMP-iptcExt:DigitalSourceType"] == f"{SOURCE_TYPE}trainedAlgorithmicMedia"
    assert "fog" not in json.dumps(found)
    assert "日本" not in json.dumps(found, ensure_ascii=False)
