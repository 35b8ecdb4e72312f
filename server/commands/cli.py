"""The command line: ``star-server serve | generate | info | convert | plan``.

What a user can get wrong ends in one sentence on stderr and exit code 2, never in a traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    CliApp,
    CliPositionalArg,
    CliSettingsSource,
    CliSubCommand,
    SettingsConfigDict,
    SettingsError,
)

from server import __version__
from server.commands.plan import Plan
from server.messages import Sampling
from server.settings import ModelSettings, Settings, SettingsFileError
from server.validation import complaints, nearest, unknown

PROGRAM = "star-server"
EXIT_USAGE = 2
EXIT_BROKEN_PIPE = 141  # as of a program that SIGPIPE ends
_NULL = "\0"
"""What stands for null in arguments, which cannot hold it: so the prompt "None" is a prompt."""


class Serve(Settings):
    """Serve a model over HTTP. Each flag is also a variable STAR_... and a key of the --config file."""

    def cli_cmd(self) -> None:
        """Serve until stopped."""
        from server.commands.serve import serve

        serve(self)


class Generate(ModelSettings):
    """Paint a prompt into files."""

    model_config = SettingsConfigDict(validate_by_name=True)

    prompt: CliPositionalArg[
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
    ] = Field(description="what to paint")
    output: Path = Field(
        Path("image.png"),
        validation_alias=AliasChoices("o", "output"),
        description="file to write (.png, .webp, .jpg); with --n 4, a.png becomes a-1.png to a-4.png",
    )
    n: int = Field(1, ge=1, le=1000, description="images to paint, each with a seed of its own")
    seed: int | None = Field(
        None, ge=0, le=2**32 - 1, description="of the first image; random when left out"
    )
    negative_prompt: str = Field("", max_length=2000, description="what to lead away from")
    guidance_scale: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="how closely to follow the prompt"
    )
    top_k: int | None = Field(
        None, ge=0, description="draw from the likeliest tokens only; 0 is all"
    )
    top_p: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="draw from tokens up to this probability; 1 is all",
    )
    smooth_scales: int | None = Field(
        None,
        ge=0,
        description="last scales painted with the mean of the likely tokens, not with one; 0 is none",
    )
    quality: int | None = Field(None, ge=1, le=100, description="of webp and jpeg")
    batch: int = Field(8, ge=1, le=1024, description="images painted at a time")

    def cli_cmd(self) -> None:
        """Paint, and say what was written."""
        from tqdm import tqdm

        from server.commands.offline import Picture, Progress, generate

        picture = Picture(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            n=self.n,
            sampling={f.name: getattr(self, f.name) for f in dataclasses.fields(Sampling)},
            quality=self.quality,
        )
        bars: list[tqdm[int]] = []

        def begin(scales: int, images: int) -> Progress:
            bar: tqdm[int] = tqdm(
                total=scales * images, unit="scale", desc=f"painting {images}", leave=False
            )
            bars.append(bar)

            def progress(painted: int, together: int) -> None:
                bar.update(painted * together)
                bar.set_postfix_str(f"{bar.n // scales} of {images} images done")

            return progress

        options = self.worker_options(slots=self.batch, max_batch=self.batch)
        try:
            files, warnings = generate(picture, self.output, options, begin, _remark)
        finally:
            for bar in bars:
                bar.close()
        for warning in warnings:
            _remark(warning)
        for path, seed in files:
            print(f"wrote {path} (seed {seed})")


class Info(BaseModel):
    """Print a model's architecture, parameters, scales and memory per slot."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    model: CliPositionalArg[str] = Field(
        "star-mini", description="name of a model, or the directory of one"
    )
    cache_dir: Path | None = Field(None, description="where fetched and converted models are kept")
    as_json: bool = Field(False, validation_alias=AliasChoices("json"), description="print JSON")

    def cli_cmd(self) -> None:
        """Print it."""
        from server.commands.offline import describe, description_text

        info = describe(self.model, self.cache_dir)
        print(json.dumps(info, indent=2) if self.as_json else description_text(info))


class Convert(BaseModel):
    """Convert the files of a published STAR or VAR checkpoint into a native model directory."""

    model_config = ConfigDict(extra="forbid")

    transformer: Path = Field(description="the transformer, a .pth file")
    vqvae: Path = Field(description="the VQVAE, a .pth file")
    text_encoder: Path | None = Field(
        None, description="the folder of the CLIP text encoder; a VAR has none"
    )
    out: Path = Field(description="directory to create")
    preset: str = Field("star-512", description="which published model the files are of")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of the converted transformer; that of the files when left out"
    )
    overwrite: bool = Field(False, description="replace a model that is already in the directory")
    allow_unsafe_pickle: bool = Field(
        False, description="load files that need more than tensors, and can run any code"
    )

    def cli_cmd(self) -> None:
        """Convert, and say what was written."""
        from star_model.checkpoints.published import convert_published

        convert_published(
            transformer=self.transformer,
            vqvae=self.vqvae,
            text_encoder=self.text_encoder,
            out=self.out,
            preset=self.preset,
            allow_unsafe_pickle=self.allow_unsafe_pickle,
            dtype=self.dtype,
            overwrite=self.overwrite,
        )
        print(f"wrote {self.out}; serve it with: {PROGRAM} serve --model {self.out}")


class Cli(BaseModel):
    """Text to image with STAR, scale-wise autoregressive models that paint coarse to fine."""

    model_config = SettingsConfigDict(
        cli_prog_name=PROGRAM,
        cli_parse_none_str=_NULL,
        # What CliApp does by itself, but not for a source of one's own.
        case_sensitive=True,
        cli_avoid_json=True,
        cli_enforce_required=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_kebab_case=True,
    )

    serve: CliSubCommand[Serve] = Field(description="serve a model over HTTP")
    generate: CliSubCommand[Generate] = Field(description="paint a prompt into files")
    info: CliSubCommand[Info] = Field(description="describe a model")
    convert: CliSubCommand[Convert] = Field(description="convert a published checkpoint")
    plan: CliSubCommand[Plan] = Field(description="say how many GPUs a load needs")

    def cli_cmd(self) -> None:
        """Run the subcommand."""
        CliApp.run_subcommand(self, cli_exit_on_error=False)


_COMMANDS: dict[str, type[BaseModel]] = {
    "serve": Serve,
    "generate": Generate,
    "info": Info,
    "convert": Convert,
    "plan": Plan,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the process when None.

    Returns:
        the exit code: 0, or 2 when the user can mend it, or 130 after Ctrl-C, or 141 when nobody reads the output.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            _run(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `star-server info | head`: nobody reads on
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what Python flushes when it ends
        return EXIT_BROKEN_PIPE
    except ValidationError as error:
        return _complain(_explain_values(given, error))
    except (SettingsError, SettingsFileError) as error:
        return _complain(_explain_flags(given, str(error)))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _is_users(error):
            raise
        return _complain(str(error))
    return 0


def _run(arguments: list[str]) -> None:
    if arguments[:1] in (["--version"], ["version"]):
        print(f"{PROGRAM} {__version__}")
        return
    # Any model has a source of its own, whatever the types say: CliApp itself makes them so.
    source = CliSettingsSource[Any](Cli, cli_exit_on_error=False, formatter_class=_Help)  # type: ignore[arg-type]
    CliApp.run(Cli, _normalised(arguments), cli_settings_source=source, cli_exit_on_error=False)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that has no default to tell where there is none."""

    def _expand_help(self, action: argparse.Action) -> str:
        return super()._expand_help(action).replace(f" (default: {_NULL})", "")


def _normalised(arguments: list[str]) -> list[str]:
    """One-letter options may have two dashes: ``--n 4`` is ``-n 4``; ``help`` is ``--help``."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [a[1:] if a == "--n" or a.startswith("--n=") else a for a in arguments[:end]]
    return flags + arguments[end:]


def _remark(sentence: str) -> None:
    print(f"{PROGRAM}: {sentence}", file=sys.stderr)


def _complain(message: str) -> int:
    whole = "\n" in message or message.endswith((".", "?"))  # several lines end with a list
    _remark(message if whole else f"{message}.")
    return EXIT_USAGE


def _is_users(error: Exception) -> bool:
    """Whether an exception's text is a sentence for the user; modules that are not loaded raised nothing."""
    kinds = {
        "server.commands.serve": ("CannotListen", "ServingFailed"),
        "server.commands.offline": ("UsageError",),
        "star_model.errors": ("StarError",),
    }
    types = [
        getattr(sys.modules[m], name)
        for m, names in kinds.items()
        if m in sys.modules
        for name in names
    ]
    return isinstance(error, tuple(types))


def _explain_values(arguments: Sequence[str], error: ValidationError) -> str:
    """Which value of which setting is wrong."""
    command = _COMMANDS.get(arguments[0] if arguments else "", Cli)
    found = complaints(error.errors(), command, skip=1)
    return " ".join(c.message for c in found)


def _flag(name: str, field: FieldInfo) -> str:
    aliases = (
        field.validation_alias.choices
        if isinstance(field.validation_alias, AliasChoices)
        else [name]
    )
    return max((str(alias) for alias in aliases), key=len).replace("_", "-")


def _explain_flags(arguments: Sequence[str], message: str) -> str:
    """What argparse or the settings refused, with the nearest flag that exists."""
    message = (
        message.removeprefix("error parsing CLI: ")
        .removeprefix("Error: ")
        .split("\nusage:")[0]
        .strip()
    )
    command = _COMMANDS.get(arguments[0] if arguments else "")
    if message.startswith("unrecognized arguments: ") and command is not None:
        refused = message.removeprefix("unrecognized arguments: ").split(" ")[0].split("=")[0]
        names = [_flag(name, field) for name, field in command.model_fields.items()]
        near = nearest(refused.lstrip("-"), names)
        if near == refused.lstrip("-"):  # it exists, but as the argument that has no flag
            return f"{near} goes without a flag: `{PROGRAM} {arguments[0]} {near.upper()}`."
        there = f"`{PROGRAM} {arguments[0]} --help` lists what there is."
        if refused.startswith("-"):
            return f"Unknown flag {refused}; " + (f"did you mean --{near}?" if near else there)
        if command is Generate:
            return f"What is {refused} for? A prompt of several words goes in quotes; {there}"
        return f"What is {refused} for? Values follow a flag; {there}"
    if message.startswith("argument {") and arguments:
        return unknown("command", arguments[0], list(_COMMANDS))
    if message.startswith("CLI subcommand is required"):
        return (
            f"Say what to do: {', '.join(_COMMANDS)}. `{PROGRAM} serve` serves a model; `{PROGRAM} --help` "
            "tells of the others."
        )
    return message
