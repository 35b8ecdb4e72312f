"""The dependencies as declared, pinned, documented and imported are the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def parsed(lists: dict[str, list[str]]) -> dict[str, list[Requirement]]:
    return {name: [Requirement(line) for line in lines] for name, lines in lists.items()}


DEPENDENCIES = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
EXTRAS = parsed(PYPROJECT["project"]["optional-dependencies"])
GROUPS = parsed(PYPROJECT["dependency-groups"])
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M))

PARTS_OF = {
    "starlette": "fastapi",
    "anyio": "fastapi",
    "pydantic-core": "pydantic",
    "annotated-types": "pydantic",
}
"""Packages that may be imported because another one, which is declared, is made of them."""

SHARED = {"opentelemetry": "opentelemetry-sdk"}
"""Modules that several packages put parts into -> the one of them that stands for all."""

SERVED_EXTRAS = ("xformers", "ray", "s3", "safety", "c2pa", "otel")
"""What a server can be given beside its dependencies."""

USED_UNNAMED = {"uvloop", "numpy", "python-multipart"}
"""Found by uvicorn and Starlette when they are there; needed by torch for ``Tensor.numpy()``."""


def names(requirements: list[Requirement]) -> set[str]:
    """Their names, spelled one way."""
    return {str(canonicalize_name(requirement.name)) for requirement in requirements}


def imports(part: str) -> set[str]:
    """The third-party distributions that a part of the repository imports."""
    modules: set[str] = set()
    for path in (ROOT / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    owners = packages_distributions()
    ours = {"star_model", "server", "training", "benchmarks"}
    found = {
        str(canonicalize_name(SHARED.get(m) or owners.get(m, [m])[0]))
        for m in modules - sys.stdlib_module_names - ours
    }
    return {PARTS_OF.get(name, name) for name in found}


@pytest.mark.parametrize(
    "requirement",
    [
        *DEPENDENCIES,
        *(
            each
            for extra in ("train", "ray", "s3", "safety", "c2pa", "otel")
            for each in EXTRAS[extra]
        ),
        *GROUPS["test"],
        *GROUPS["deploy"],
    ],
    ids=str,
)
def test_each_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_each_is_explained() -> None:
    rows = re.findall(
        r"^\|(?! ---)(.*)$", (ROOT / "docs" / "dependencies.md").read_text("utf-8"), re.M
    )
    told = {name.split("[")[0] for row in rows for name in re.findall(r"`([\w.\[\]-]+)`", row)}
    optional = [*EXTRAS.values(), *GROUPS.values()]
    declared = names([*DEPENDENCIES, *(r for requirements in optional for r in requirements)])
    missing = declared - {canonicalize_name(name) for name in told}
    assert not missing


def test_what_runs_imports_what_is_declared() -> None:
    optional = names([each for extra in SERVED_EXTRAS for each in EXTRAS[extra]])
    imported = imports("star_model") | imports("server")
    assert imported - optional - USED_UNNAMED == names(DEPENDENCIES) - USED_UNNAMED


def test_training_imports_what_is_declared() -> None:
    assert imports("training") - names(DEPENDENCIES) == names(EXTRAS["train"])
