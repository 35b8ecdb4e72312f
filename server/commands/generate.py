"""``star-server generate``: images of a prompt, or of a file of prompts, without a server."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from server.commands.image_files import ImageWriter, format_of, output_paths
from server.commands.prompt_file import (
    DEFAULT_PATTERN,
    RECORD,
    BadLine,
    Pattern,
    Prompt,
    PromptLine,
    Record,
    read_prompts,
)
from server.errors import UsageError
from server.escaping import escaped_lines
from server.images.credentials import open_signer
from server.messages import Job, Pixels
from server.model_settings import ModelSettings
from server.sampling import SamplingOverrides
from server.settings import FileSettings, OnUnknown
from star_model.errors import StarError
from star_model.guidance import has_guidance
from star_model.sampling import SEEDS, Seed

if TYPE_CHECKING:
    from server.worker.star_engine import StarEngine
    from star_model.model import StarModel
    from star_model.networks.text_encoder import Conditioning
    from star_model.reading import Reading

    Texts = tuple[Conditioning, Conditioning | None]
    """The encoded prompt, and the negative prompt if there is one."""


class Generate(SamplingOverrides, FileSettings, ModelSettings):
    """Generate images of a prompt, or of each prompt in a file, and write them to files."""

    model_config = SettingsConfigDict(validate_by_name=True)

    prompt: CliPositionalArg[Prompt | None] = Field(None, description="description of the image")
    prompts: Path | None = Field(
        None,
        description=(
            "file of prompts, one a line; or in .jsonl, of JSON objects with prompt, negative_prompt and seed; "
            "- is the standard input. What is there already is kept, so the same command continues"
        ),
    )
    output: Path | None = Field(
        None,
        validation_alias=AliasChoices("o", "output"),
        description=(
            "file to write (.png, .webp, .jpg), image.png when left out; with --n 4, a.png becomes a-1.png to a-4.png. "
            "With --prompts, a pattern with {line}, {image}, {seed} and {prompt}, "
            f"{DEFAULT_PATTERN} when left out; {RECORD} beside them says what was made"
        ),
    )
    n: int = Field(
        1, ge=1, le=1000, description="number of images of a prompt, each with a seed of its own"
    )
    seed: Seed | None = Field(
        None,
        description="seed of the first image; random when left out, or 0 with --prompts",
    )
    negative_prompt: str = Field(
        "", max_length=2000, description="text that guidance leads away from"
    )
    quality: int | None = Field(None, ge=1, le=100, description="quality of webp and jpeg")
    size: str | None = Field(
        None,
        max_length=32,
        description="width and height in pixels, such as 1024x1024; one of those that info lists",
    )
    on_unknown: OnUnknown = Field(
        "suggest",
        description="suggest refuses a prompt for what the model does not know, nearest draws the nearest thing",
    )
    batch: int = Field(8, ge=1, le=1024, description="images in flight at a time")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.prompt is None and self.prompts is None:
            raise ValueError("Give a PROMPT, in quotes, or a file of them with --prompts")
        if self.prompt is not None and self.prompts is not None:
            raise ValueError("Give a PROMPT or --prompts, not both")
        return self

    def cli_cmd(self) -> None:
        """Generate, and print what was written."""
        if self.prompts is not None:
            self._generate_file(self.prompts)
            return
        paths = output_paths(self.output or Path("image.png"), self.n)
        self._check_quality(paths[0])
        model, engine, writer = self._open(self.n)
        job = self._job(PromptLine(prompt=self.prompt or ""), model, secrets.randbelow(SEEDS))
        with _Progress(engine.num_scales - job.sampling.draft, self.n) as progress:
            results = _Written(writer, progress)
            generate(engine, [Order(job, dict(enumerate(paths)))], results, self.on_unknown)
        for warning in results.warnings:
            remark(warning)
        for path, seed in zip(paths, job.seeds, strict=True):
            print(f"wrote {path} (seed {seed})")

    def _generate_file(self, file: Path) -> None:
        """Generate the images of a file of prompts that are not there yet.

        Raises:
            UsageError: at the end, if prompts failed; each has been named.
        """
        pattern = Pattern(str(self.output or DEFAULT_PATTERN))
        self._check_quality(pattern.path(line=1, image=1, seed=1, prompt="x"))
        lines = read_prompts(file)
        record = Record(pattern.directory)
        good = {number: line for number, line in lines.items() if isinstance(line, PromptLine)}
        bad = {number: line for number, line in lines.items() if isinstance(line, BadLine)}
        model, engine, writer = self._open(self.n * len(good))
        jobs = {number: self._job(line, model, 0) for number, line in good.items()}
        size = _sizes(model)[self._shape(model)]
        about = {"model": writer.model, "size": size, "dtype": writer.dtype}
        orders = make_orders(jobs, pattern, record, about)
        left = sum(len(order.paths) for order in orders)
        draft = model.sampling_defaults.changed({"draft": self.draft}).draft
        with _Progress(engine.num_scales - draft, left) as progress:
            results = _Recorded(writer, progress, record, file, about, model.read_prompt)
            for number, line in bad.items():
                results.refuse(number, line.text, line.reason)
            generate(engine, orders, results, self.on_unknown)
        there = self.n * len(good) - left
        print(
            f"wrote {results.written} images to {pattern.directory}"
            + f", {results.warned} with warnings" * bool(results.warned)
            + f", {there} were there already" * bool(there)
            + f"; {record.path} lists them"
        )
        if results.failed:
            raise UsageError(f"{results.failed} of {len(lines)} prompts failed; see above.")

    def _check_quality(self, path: Path) -> None:
        if self.quality is not None and format_of(path) == "png":
            raise UsageError("--quality is for webp and jpeg; png is lossless.")

    def _shape(self, model: StarModel) -> int:
        """Return the number of the size that is asked for among the model's."""
        names = _sizes(model)
        if self.size is not None and self.size not in names:
            raise UsageError(f"--size must be {' or '.join(names)}; got {self.size}.")
        return 0 if self.size is None else names.index(self.size)

    def _open(self, images: int) -> tuple[StarModel, StarEngine, ImageWriter]:
        """Load the model; return it with an engine and a writer of its images."""
        signer = open_signer(self)
        from server.worker.loading import open_model, resolve_mode
        from server.worker.star_engine import StarEngine
        from star_model import Engine

        model = open_model(self, remark)
        mode = resolve_mode(self.mode, model.device.type)
        engine = StarEngine(Engine(model, slots=max(1, min(self.batch, images)), mode=mode))
        name = model.config.name
        if self.draft is not None and self.draft >= engine.num_scales:
            raise UsageError(
                f"--draft must be less than {engine.num_scales}, the scales of {name}."
            )
        writer = ImageWriter(
            name, engine.num_scales, model.dtype_name, self.quality, self.metadata, signer
        )
        return model, engine, writer

    def _job(self, line: PromptLine, model: StarModel, seed: int) -> Job:
        """Return the images of one prompt; ``seed`` is the first if neither the line nor the command gives one."""
        defaults = model.sampling_defaults
        sampling = defaults.changed(self.model_dump(include=set(SamplingOverrides.model_fields)))
        negative = self.negative_prompt if line.negative_prompt is None else line.negative_prompt
        if negative and not has_guidance(
            sampling, model.config.guidance, len(model.config.patch_nums)
        ):
            raise UsageError(
                "--negative-prompt needs guidance, and guidance_scale "
                f"{sampling.guidance_scale:g} is none; set --guidance-scale, to 2 for example."
            )
        first = next(s for s in (line.seed, self.seed, seed) if s is not None)
        return Job(
            id="generate",
            prompt=line.prompt,
            negative_prompt=negative,
            seeds=tuple((first + i) % SEEDS for i in range(self.n)),
            shape=self._shape(model),
            sampling=sampling,
        )


def _sizes(model: StarModel) -> list[str]:
    """Return the sizes of a model's images, such as ``1024x1024``: width and height."""
    return [f"{width}x{height}" for height, width in model.config.sizes]


@dataclass(frozen=True)
class Order:
    """Images of one prompt.

    Args:
        job: the prompt, its seeds and parameters.
        paths: index in the job's seeds -> file to write; images that are not in it are not generated.
        line: number of the prompt's line in its file.
    """

    job: Job
    paths: Mapping[int, Path]
    line: int = 0


class Results(Protocol):
    """Receives what :func:`generate` makes."""

    def advance(self, images: int) -> None:
        """Note that this many images have advanced by one scale."""

    def write(self, order: Order, image: int, pixels: Pixels, texts: Texts) -> None:
        """Write an image."""

    def fail(self, order: Order, error: StarError) -> None:
        """Note that a prompt cannot be encoded."""


def make_orders(
    jobs: Mapping[int, Job], pattern: Pattern, record: Record, about: Mapping[str, str]
) -> list[Order]:
    """Return the images that are not there yet.

    Args:
        jobs: by the numbers of their prompts' lines.
        pattern: names the files.
        record: of the images that are there.
        about: what the record says of all images: their model, size and type of weights.

    Raises:
        UsageError: two images would have the same file.
    """
    orders, taken = [], set[Path]()
    for number, job in jobs.items():
        paths = {}
        for image, seed in enumerate(job.seeds):
            path = pattern.path(line=number, image=image + 1, seed=seed, prompt=job.prompt)
            if path in taken:
                raise UsageError(
                    f"Two images would be written to {path}; put {{line}} and {{image}} into --output."
                )
            taken.add(path)
            if not record.has(entry_of(record, path, job, image, about)):
                paths[image] = path
        if paths:
            orders.append(Order(job, paths, number))
    return orders


def entry_of(
    record: Record, path: Path, job: Job, image: int, about: Mapping[str, str]
) -> dict[str, object]:
    """Return what the record says of an image before it is made: its file, and what decides its pixels."""
    return record.entry(
        path, **about, prompt=job.prompt, seed=job.seeds[image], parameters=job.parameters
    )


def generate(
    engine: StarEngine, orders: Iterable[Order], results: Results, on_unknown: OnUnknown
) -> None:
    """Generate the images of all orders, as many in flight as the engine has slots.

    Args:
        engine: with free slots.
        orders: the images.
        results: receives images and failures.
        on_unknown: what is done with prompts for what the model does not know.

    Raises:
        UsageError: a file cannot be written.
    """
    waiting = _encoded(engine, orders, results, on_unknown)
    while batch := list(islice(waiting, engine.total_slots)):
        sequences = [
            engine.prepare(*texts, order.job, order.job.seeds[image])
            for order, image, texts in batch
        ]
        while not sequences[0].done:
            engine.step(sequences).wait()
            results.advance(len(sequences))
        done = engine.finish(sequences).wait()
        for (order, image, texts), pixels in zip(batch, done, strict=True):
            results.write(order, image, pixels, texts)


def _encoded(
    engine: StarEngine, orders: Iterable[Order], results: Results, on_unknown: OnUnknown
) -> Iterator[tuple[Order, int, Texts]]:
    """Yield each image with its encoded prompts; a prompt that cannot be encoded is passed over."""
    for order in orders:
        job = order.job
        try:
            if on_unknown == "suggest":
                engine.require_known(job.prompt, "set --on-unknown nearest")
            text = engine.encode(job.prompt)
        except StarError as error:
            results.fail(order, error)
            continue
        negative = engine.encode(job.negative_prompt, literal=True) if job.negative_prompt else None
        for image in order.paths:
            yield order, image, (text, negative)


class _Written:
    """Writes images, and keeps the warnings about their prompt; a prompt that fails ends the command."""

    def __init__(self, writer: ImageWriter, progress: _Progress) -> None:
        self._writer = writer
        self._progress = progress
        self.written = 0
        self.warnings: Sequence[str] = ()

    def advance(self, images: int) -> None:
        self._progress.advance(images)

    def write(self, order: Order, image: int, pixels: Pixels, texts: Texts) -> None:
        from server.worker.text_warnings import text_warnings

        self._writer.write(order.paths[image], pixels, order.job, image)
        self.written += 1
        self.warnings = text_warnings(*texts)

    def fail(self, order: Order, error: StarError) -> None:
        raise error


class _Recorded(_Written):
    """Writes images and a line of the record for each; a prompt that fails is a line too.

    Args:
        writer: of the images.
        progress: to advance.
        record: of the images.
        file: of the prompts.
        about: what the record says of all images.
        read: a prompt, as the model reads it.
    """

    def __init__(
        self,
        writer: ImageWriter,
        progress: _Progress,
        record: Record,
        file: Path,
        about: Mapping[str, str],
        read: Callable[[str], Reading],
    ) -> None:
        super().__init__(writer, progress)
        self._record = record
        self._file = file
        self._about = about
        self._read = lru_cache(maxsize=1)(read)  # the images of a prompt come one after the other
        self.failed = 0
        self.warned = 0

    def write(self, order: Order, image: int, pixels: Pixels, texts: Texts) -> None:
        super().write(order, image, pixels, texts)
        entry = entry_of(self._record, order.paths[image], order.job, image, self._about)
        about: dict[str, object] = {"line": order.line}
        if texts[0].notes:
            about["drawn"] = self._read(order.job.prompt).prompt
        if self.warnings:
            about["warnings"] = list(self.warnings)
            self.warned += 1
        self._record.add({**entry, **about})

    def fail(self, order: Order, error: StarError) -> None:
        self._progress.drop(len(order.paths))
        self.refuse(order.line, order.job.prompt, str(error))

    def refuse(self, line: int, prompt: str, reason: str) -> None:
        """Note that a prompt failed."""
        self.failed += 1
        self._progress.say(f"{self._file} line {line}: {reason}")
        self._record.add({"line": line, "prompt": prompt, "error": reason})


class _Progress:
    """A progress bar over the scales of all images, if stderr is a terminal.

    Args:
        scales: of an image.
        images: number of images.
    """

    def __init__(self, scales: int, images: int) -> None:
        from tqdm import tqdm

        self._scales, self._images = scales, images
        self._bar: tqdm[int] = tqdm(
            total=scales * images,
            unit="scale",
            desc=f"generating {images}",
            leave=False,
            disable=None,
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, images: int) -> None:
        """Note that this many images have advanced by one scale."""
        self._bar.update(images)
        self._show()

    def drop(self, images: int) -> None:
        """Note that this many images will not be generated."""
        self._images -= images
        self._bar.total = self._scales * self._images
        self._show()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        with self._bar.external_write_mode(file=sys.stderr):
            remark(sentence)

    def _show(self) -> None:
        self._bar.set_postfix_str(f"{self._bar.n // self._scales} of {self._images} images done")


def remark(sentence: str) -> None:
    """Print a sentence on stderr, under the program's name; what it quotes may come from a file of anybody's."""
    print(f"star-server: {escaped_lines(sentence)}", file=sys.stderr)
