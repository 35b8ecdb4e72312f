"""``star-server generate``: images from a prompt, without a server."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AliasChoices, Field, StringConstraints
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from server.errors import SigningFailed, UsageError
from server.images.credentials import open_signer
from server.images.encode import ImageFormat, Signer, encode_image
from server.images.metadata import describe
from server.messages import Job, Pixels
from server.sampling import SamplingOverrides
from server.settings import FileSettings, MetadataLevel, ModelSettings
from star_model.sampling import SEEDS, Sampling, Seed

if TYPE_CHECKING:
    from server.worker.engine_protocol import Text
    from server.worker.star_engine import StarEngine

_SUFFIXES: dict[str, ImageFormat] = {
    ".png": "png",
    ".webp": "webp",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
}

Report = Callable[[int], None]
"""Called with the number of images that have advanced by one scale."""


class Generate(SamplingOverrides, FileSettings, ModelSettings):
    """Generate images from a prompt and write them to files."""

    model_config = SettingsConfigDict(validate_by_name=True)

    prompt: CliPositionalArg[
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
    ] = Field(description="description of the image")
    output: Path = Field(
        Path("image.png"),
        validation_alias=AliasChoices("o", "output"),
        description="file to write (.png, .webp, .jpg); with --n 4, a.png becomes a-1.png to a-4.png",
    )
    n: int = Field(1, ge=1, le=1000, description="number of images, each with a seed of its own")
    seed: Seed | None = Field(None, description="seed of the first image; random when left out")
    negative_prompt: str = Field(
        "", max_length=2000, description="text that guidance leads away from"
    )
    quality: int | None = Field(None, ge=1, le=100, description="quality of webp and jpeg")
    size: str | None = Field(
        None,
        max_length=32,
        description="width and height in pixels, such as 1024x1024; one of those that info lists",
    )
    batch: int = Field(8, ge=1, le=1024, description="images in flight at a time")

    def cli_cmd(self) -> None:
        """Generate, and print the files that were written."""
        paths = self._check()
        signer = open_signer(self)
        from server.worker.loading import open_model, resolve_mode
        from server.worker.star_engine import StarEngine
        from server.worker.text_warnings import text_warnings
        from star_model import Engine

        model = open_model(self, remark)
        job = self._job(model.sampling_defaults, model.config.sizes)
        engine = StarEngine(
            Engine(
                model,
                slots=min(self.batch, self.n),
                mode=resolve_mode(self.mode, model.device.type),
            )
        )
        writer = ImageWriter(
            model.config.name, engine.num_scales, self.quality, self.metadata, signer
        )
        if job.sampling.draft >= engine.num_scales:
            raise UsageError(
                f"--draft must be less than {engine.num_scales}, the scales of {model.config.name}."
            )
        with _Progress(engine.num_scales - job.sampling.draft, self.n) as progress:
            texts = generate(engine, job, paths, writer, progress.advance)
        for warning in text_warnings(*texts):
            remark(warning)
        for path, seed in zip(paths, job.seeds, strict=True):
            print(f"wrote {path} (seed {seed})")

    def _check(self) -> list[Path]:
        """Return the files to write, before any time is spent on the model.

        Raises:
            UsageError: they cannot be written, or the quality does not fit the format.
        """
        paths = output_paths(self.output, self.n)
        if self.quality is not None and _format_of(self.output) == "png":
            raise UsageError("--quality is for webp and jpeg; png is lossless.")
        return paths

    def _shape(self, sizes: Sequence[tuple[int, int]]) -> int:
        """Return the number of the size that is asked for among the model's, which are heights and widths."""
        names = [f"{width}x{height}" for height, width in sizes]
        if self.size is not None and self.size not in names:
            raise UsageError(f"--size must be {' or '.join(names)}; got {self.size}.")
        return 0 if self.size is None else names.index(self.size)

    def _job(self, defaults: Sampling, sizes: Sequence[tuple[int, int]]) -> Job:
        sampling = defaults.changed(self.model_dump(include=set(SamplingOverrides.model_fields)))
        if self.negative_prompt and not sampling.guidance_scale:
            raise UsageError(
                "--negative-prompt needs guidance, and guidance_scale is 0; set --guidance-scale, to 2 for example."
            )
        first = self.seed if self.seed is not None else secrets.randbelow(SEEDS)
        return Job(
            id="generate",
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seeds=tuple((first + i) % SEEDS for i in range(self.n)),
            shape=self._shape(sizes),
            sampling=sampling,
        )


@dataclass(frozen=True)
class ImageWriter:
    """Writes image files with metadata.

    Args:
        model: name of the model.
        scales: of the model.
        quality: of WebP and JPEG, 1 to 100; None for the default.
        metadata: how much the files say about themselves.
        signer: signs files that have metadata.
    """

    model: str
    scales: int
    quality: int | None
    metadata: MetadataLevel
    signer: Signer | None

    def write(self, path: Path, pixels: Pixels, job: Job, image: int) -> None:
        """Write one image of a job; the suffix of the path names the format.

        Raises:
            UsageError: the file cannot be written or signed.
        """
        size = f"{pixels.width}x{pixels.height}"
        metadata = describe(
            job, image, self.metadata, model=self.model, size=size, scales=self.scales
        )
        try:
            data = encode_image(pixels, _format_of(path), self.quality, metadata, self.signer)
            path.write_bytes(data)
        except SigningFailed as error:
            reason = error.__cause__ or error
            raise UsageError(f"{path} cannot be signed: {reason}.") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


class _Progress:
    """A progress bar over the scales of all images.

    Args:
        scales: of an image.
        images: number of images.
    """

    def __init__(self, scales: int, images: int) -> None:
        from tqdm import tqdm

        self._scales, self._images = scales, images
        self._bar: tqdm[int] = tqdm(
            total=scales * images, unit="scale", desc=f"generating {images}", leave=False
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, images: int) -> None:
        """Note that this many images have advanced by one scale."""
        self._bar.update(images)
        self._bar.set_postfix_str(f"{self._bar.n // self._scales} of {self._images} images done")


def remark(sentence: str) -> None:
    """Print a sentence on stderr, under the program's name."""
    print(f"star-server: {sentence}", file=sys.stderr)


def output_paths(output: Path, n: int) -> list[Path]:
    """Return the files of ``n`` images: ``apple.png``, or ``apple-1.png``, ``apple-2.png``, ...

    Raises:
        UsageError: the directory is missing or not writable, the suffix is no image format, or a directory is in the
            way.
    """
    _format_of(output)
    if not output.parent.is_dir():
        raise UsageError(
            f"The directory {output.parent} does not exist; create it or name another output."
        )
    paths = [output] if n == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(n)]
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a directory; name a file in it.")
    probe = output.parent / f".star-{secrets.token_hex(8)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"Nothing can be written to {output.parent}: {error.strerror}.") from error
    return paths


def generate(
    engine: StarEngine,
    job: Job,
    paths: Sequence[Path],
    writer: ImageWriter,
    report: Report,
) -> tuple[Text, Text | None]:
    """Generate the images of a job and write them to files.

    Args:
        engine: with free slots; as many images are in flight at a time.
        job: the images.
        paths: a file for each image; its suffix names the format.
        writer: writes the files.
        report: see :data:`Report`.

    Returns:
        the encoded prompt, and the negative prompt if there is one.

    Raises:
        UsageError: a file cannot be written.
    """
    text = engine.encode(job.prompt)
    negative = engine.encode(job.negative_prompt, negative=True) if job.negative_prompt else None
    for start in range(0, len(paths), engine.total_slots):
        batch = range(start, min(start + engine.total_slots, len(paths)))
        sequences = [engine.prepare(text, negative, job, job.seeds[i]) for i in batch]
        for _ in range(engine.num_scales - job.sampling.draft):
            engine.step(sequences).wait()
            report(len(sequences))
        for i, pixels in zip(batch, engine.finish(sequences).wait(), strict=True):
            writer.write(paths[i], pixels, job, i)
    return text, negative


def _format_of(path: Path) -> ImageFormat:
    """Return the format that a file's suffix names.

    Raises:
        UsageError: it names none.
    """
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path} must end in {', '.join(_SUFFIXES)}, which names the format."
        ) from None
