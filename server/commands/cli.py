"""The command line: ``star-server serve | generate | info | convert | plan | settings``.

A mistake of the user ends in one sentence on stderr and exit code 2, never in a traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    CliApp,
    CliSettingsSource,
    CliSubCommand,
    SettingsConfigDict,
    SettingsError,
)

from server import __version__
from server.commands.convert import Convert
from server.commands.generate import Generate, remark
from server.commands.info import Info
from server.commands.key import MakeKey
from server.commands.plan import Plan
from server.errors import UsageError
from server.setting_groups import GROUPS, OTHERS, SAMPLING, example_file, group_of
from server.settings import Settings
from server.settings_file import SettingsFileError, new_name
from server.validation import complaints, nearest, unknown
from star_model.errors import StarError
from star_model.sampling import Sampling

PROGRAM = "star-server"
EXIT_USAGE = 2
EXIT_BROKEN_PIPE = 141  # as of a program that SIGPIPE ends
_TYPES = ((r"\bPath\b", "path"), (r"\bSecretStr\b", "str"), (r"^list\[(.+)\]$", r"\1,..."))
"""Types of Python, as pydantic shows them, and what the help shows."""
_NULL = "\0"
"""Stands for null in arguments. They cannot contain it, so the prompt "None" is a prompt."""


class Serve(Settings):
    """Serve a model over HTTP. Each flag is also a variable STAR_... and a key of the --config file."""

    _flags: dict[str, Any] = PrivateAttr(default_factory=dict)

    if not TYPE_CHECKING:  # checkers know the fields of the constructor better than this says

        def __init__(self, **flags: Any) -> None:
            super().__init__(**flags)
            self._flags = flags

    def cli_cmd(self) -> None:
        """Serve until stopped."""
        from server.commands.serve import check_models, serve

        check_models(self.model)
        serve(self, read_again=lambda: type(self)(**self._flags))


class PrintSettings(BaseModel):
    """Print all settings of the server with their defaults, as a YAML file for `serve --config`."""

    def cli_cmd(self) -> None:
        """Print the file."""
        print(example_file(), end="")


class Cli(BaseModel):
    """Serve and run STAR, scale-wise autoregressive text-to-image models."""

    model_config = SettingsConfigDict(
        cli_prog_name=PROGRAM,
        cli_parse_none_str=_NULL,
        # Defaults of CliApp, which it does not apply to a source of our own.
        case_sensitive=True,
        cli_avoid_json=True,
        cli_enforce_required=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_kebab_case=True,
    )

    serve: CliSubCommand[Serve] = Field(description="serve a model over HTTP")
    generate: CliSubCommand[Generate] = Field(description="generate images from a prompt")
    info: CliSubCommand[Info] = Field(description="describe a model")
    convert: CliSubCommand[Convert] = Field(description="convert a published checkpoint")
    plan: CliSubCommand[Plan] = Field(description="estimate the GPUs that a load needs")
    key: CliSubCommand[MakeKey] = Field(description="make an API key")
    settings: CliSubCommand[PrintSettings] = Field(description="print all settings as a YAML file")

    def cli_cmd(self) -> None:
        """Run the subcommand."""
        CliApp.run_subcommand(self, cli_exit_on_error=False)


_COMMANDS: dict[str, type[BaseModel]] = {
    "serve": Serve,
    "generate": Generate,
    "info": Info,
    "convert": Convert,
    "plan": Plan,
    "key": MakeKey,
    "settings": PrintSettings,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the process when None.

    Returns:
        the exit code: 0; 2 for a mistake of the user; 130 after Ctrl-C; 141 when the output is a closed pipe.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            _run(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `star-server info | head`: the reader is gone
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # Python flushes it when it exits
        return EXIT_BROKEN_PIPE
    except ValidationError as error:
        return _complain(_explain_values(given, error))
    except (SettingsError, SettingsFileError) as error:
        return _complain(_explain_flags(given, str(error)))
    except KeyboardInterrupt:
        return 130
    except (UsageError, StarError) as error:
        return _complain(str(error))
    return 0


def _run(arguments: list[str]) -> None:
    if arguments[:1] in (["--version"], ["version"]):
        print(f"{PROGRAM} {__version__}")
        return
    # The types demand BaseSettings; CliApp itself builds sources for any model in this way.
    source = CliSettingsSource[Any](Cli, cli_exit_on_error=False, formatter_class=_Help)  # type: ignore[arg-type]
    CliApp.run(Cli, _normalised(arguments), cli_settings_source=source, cli_exit_on_error=False)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that shows settings in their groups, and no default where there is none."""

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        """Add the usage; flags are many, and listed below it with what they mean."""
        given = list(actions)
        named = [action for action in given if not action.option_strings]
        flags = "[options]" if len(named) < len(given) else ""
        short = ["%(prog)s", flags, self._format_actions_usage(named, [])]
        super().add_usage(usage or " ".join(filter(None, short)), given, groups, prefix)

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        """Add the arguments of a section; settings get sections of their own, after the others."""
        grouped: dict[str, list[argparse.Action]] = {}
        for action in actions:
            names = [option.removeprefix("--") for option in action.option_strings]
            title = next((t for t in map(_title_of, names) if t), "")
            grouped.setdefault(title, []).append(action)
        super().add_arguments(grouped.pop("", []))
        for title in filter(grouped.__contains__, GROUPS):
            self.end_section()
            self.start_section(title)
            super().add_arguments(grouped[title])

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """Return what stands behind a flag, in words for types of Python that a user need not know."""
        shown = super()._format_args(action, default_metavar)
        for pattern, word in _TYPES:
            shown = re.sub(pattern, word, shown)
        return shown

    def _expand_help(self, action: argparse.Action) -> str:
        return super()._expand_help(action).replace(f" (default: {_NULL})", "")


def _title_of(flag: str) -> str:
    """Return the title of a flag's section of the help; empty for those of the command itself."""
    if flag.replace("-", "_") in Sampling.model_fields:
        return SAMPLING
    title = group_of(flag)
    return "" if title == OTHERS else title


def _normalised(arguments: list[str]) -> list[str]:
    """Return the arguments with ``help`` as ``--help`` and ``--n 4`` as ``-n 4``: one-letter flags have one dash."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [a[1:] if a == "--n" or a.startswith("--n=") else a for a in arguments[:end]]
    return flags + arguments[end:]


def _complain(message: str) -> int:
    whole = "\n" in message or message.endswith((".", "?"))  # several lines end with a list
    remark(message if whole else f"{message}.")
    return EXIT_USAGE


def _explain_values(arguments: Sequence[str], error: ValidationError) -> str:
    """Return a sentence about each wrong value."""
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
    """Return a sentence about an argument that argparse or the settings refused, with the nearest flag."""
    message = (
        message.removeprefix("error parsing CLI: ")
        .removeprefix("Error: ")
        .split("\nusage:")[0]
        .strip()
    )
    command = _COMMANDS.get(arguments[0] if arguments else "")
    if message.startswith("unrecognized arguments: ") and command is not None:
        refused = message.removeprefix("unrecognized arguments: ").split(" ")[0].split("=")[0]
        if (new := new_name(refused.lstrip("-"))) is not None:
            return f"The flag {refused} is called --{new} now."
        names = [_flag(name, field) for name, field in command.model_fields.items()]
        near = nearest(refused.lstrip("-"), names)
        if near == refused.lstrip("-"):  # it exists, but as the argument that has no flag
            return f"{near} takes no flag: `{PROGRAM} {arguments[0]} {near.upper()}`."
        there = f"`{PROGRAM} {arguments[0]} --help` lists all flags."
        if refused.startswith("-"):
            return f"Unknown flag {refused}; " + (f"did you mean --{near}?" if near else there)
        if command is Generate:
            return (
                f"Unexpected argument {refused}; put a prompt of several words in quotes. {there}"
            )
        return f"Unexpected argument {refused}; a value must follow its flag. {there}"
    if message.startswith("argument {") and arguments:
        return unknown("command", arguments[0], list(_COMMANDS))
    if message.startswith("CLI subcommand is required"):
        return (
            f"Name a command: {', '.join(_COMMANDS)}. `{PROGRAM} serve` serves a model; `{PROGRAM} --help` "
            "describes all."
        )
    return message
