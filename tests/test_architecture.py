"""Who may import whom: the rule of the four parts, read from the source without running it.

- ``star_model`` imports nothing of the others; these never import each other.
- ``benchmarks`` know of ``server`` the simulation of its scheduler; all else they meet over HTTP.
- In ``server``, only the worker, the command line's offline part and the look-up of class names know ``star_model``.
- The application and its routes load no torch, not even through what they import.
- The environment is read in ``settings.py`` alone.
- A file is named after what it holds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("star_model", "server", "training", "benchmarks")
MAY_IMPORT: dict[str, set[str]] = {
    "star_model": set(),
    "server": {"star_model"},
    "training": {"star_model"},
    "benchmarks": {"star_model"},
}
MODEL_IMPORTERS = {
    "server/worker.py",
    "server/star_engine.py",
    "server/cli.py",
    "server/offline.py",
    "server/class_names.py",
    "server/capacity.py",
    "server/plan_command.py",
}
"""The files of ``server`` that may import ``star_model``: the worker, the offline commands, and what looks up names."""

SIMULATION = {"server.capacity", "server.plan_command"}
"""What ``benchmarks`` may import of ``server``: the simulation of its scheduler, and how its results are shown."""

TORCH = {"torch", "torchvision", "transformers", "xformers", "safetensors.torch"}
"""Modules that are torch or load it."""

TYPING_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")

NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
"""File names that say nothing of what the file holds."""


# ---- reading the source ------------------------------------------------------------------------------------
def nodes(tree: ast.AST, *, at_load: bool) -> Iterator[ast.AST]:
    """Every node of a file; with ``at_load``, those that run when it is imported: no functions, no typing."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_load and isinstance(node, ast.If) and ast.unparse(node.test) in TYPING_ONLY:
            pending += node.orelse
            continue
        yield node
        pending += ast.iter_child_nodes(node)


def imported(tree: ast.AST, package: str, *, at_load: bool = False) -> Iterator[tuple[str, int]]:
    """The modules that a file imports, with their lines.

    Args:
        tree: the parsed file.
        package: the package that holds the file, for relative imports.
        at_load: only what is imported when the file itself is.

    Yields:
        Absolute dotted names. ``from a import b`` gives ``a`` and ``a.b``, since ``b`` may be a module.
    """
    for node in nodes(tree, at_load=at_load):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value, node.lineno


def environment_reads(tree: ast.AST) -> Iterator[int]:
    """The lines that read an environment variable. Writing one, for a child process, is another matter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            if ast.unparse(node.value).endswith("environ"):
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("environ.get", "getenv")
        ):
            yield node.lineno


def within(module: str, roots: set[str]) -> str | None:
    """The one of ``roots`` that ``module`` is, or lies in; None if there is none."""
    return next((root for root in roots if module == root or module.startswith(root + ".")), None)


class Tree:
    """The Python files of the four parts under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = [path for part in PARTS for path in sorted((root / part).rglob("*.py"))]
        self.parse = cache(lambda path: ast.parse(path.read_text(encoding="utf-8"), str(path)))

    def name(self, path: Path) -> str:
        """``server/api/generate.py``."""
        return path.relative_to(self.root).as_posix()

    def package(self, path: Path) -> str:
        """``server.api`` for ``server/api/generate.py`` and for ``server/api/__init__.py``."""
        return ".".join(path.relative_to(self.root).parent.parts)

    def find(self, module: str) -> list[Path]:
        """The files that ``import module`` runs: each package on the way, then the module."""
        parts = module.split(".")
        if parts[0] not in PARTS:
            return []
        inits = [self.root.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
        return [p for p in (*inits, self.root.joinpath(*parts).with_suffix(".py")) if p.is_file()]

    def loads_torch(self, start: Path) -> str | None:
        """The way from ``start`` to torch along imports that run at load; None if there is none."""
        ways = {path: self.name(path) for path in (*self.find(self.package(start)), start)}
        pending = list(ways)
        while pending:
            path = pending.pop(0)
            for module, line in imported(self.parse(path), self.package(path), at_load=True):
                if found := within(module, TORCH):
                    return f"{ways[path]}:{line} -> {found}"
                for target in self.find(module):
                    if target not in ways:
                        ways[target] = f"{ways[path]}:{line} -> {self.name(target)}"
                        pending.append(target)
        return None


# ---- the rules ---------------------------------------------------------------------------------------------
def violations(root: Path) -> list[str]:
    """What under ``root`` breaks a rule, a sentence each."""
    tree = Tree(root)
    found = []
    for path in tree.files:
        name, part = tree.name(path), tree.name(path).split("/")[0]
        allowed = MAY_IMPORT[part] | {part}
        if part == "server" and name not in MODEL_IMPORTERS:
            allowed -= {"star_model"}
        for module, line in imported(tree.parse(path), tree.package(path)):
            target = within(module, set(PARTS))
            if part == "benchmarks" and within(module, SIMULATION):
                continue
            if target and target not in allowed:
                found.append(f"{name}:{line} imports {target}")
        routes = name == "server/app.py" or name.startswith("server/api/")
        if routes and (way := tree.loads_torch(path)):
            found.append(f"{name} loads torch: {way}")
        if part in ("star_model", "server") and path.name != "settings.py":
            found += [
                f"{name}:{line} reads the environment"
                for line in environment_reads(tree.parse(path))
            ]
        if path.stem in NAMELESS or path.stem.endswith("_manager"):
            found.append(f"{name} has a name that does not say what it holds")
    return sorted(set(found))


def test_the_rules_hold() -> None:
    assert violations(ROOT) == []


def test_there_is_something_to_check() -> None:
    checked = {path.relative_to(ROOT).as_posix() for path in Tree(ROOT).files}
    assert {"star_model/__init__.py", "server/app.py"} <= checked
    assert checked >= MODEL_IMPORTERS, "a file that the rule names is gone"


# ---- the checker sees what it should -----------------------------------------------------------------------
def write(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


GOOD = {
    "star_model/__init__.py": "import torch\n",
    "star_model/config.py": "",
    "server/__init__.py": "",
    "server/cli.py": "def main():\n    from star_model.config import x\n",
    "server/worker.py": "from star_model import config\n",
    "server/app.py": "from server import client\n",
    "server/client.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    "def start():\n    from server import worker\n",
    "server/settings.py": "import os\nhome = os.environ['HOME']\n",
    "server/api/__init__.py": "",
    "server/api/generate.py": "from ..client import start\n",
    "training/train.py": "import star_model.config\n",
    "benchmarks/load.py": "import httpx\n",
}


def test_a_good_tree_passes(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("star_model/engine.py", "import server.messages", "star_model/engine.py:1 imports server"),
        (
            "star_model/engine.py",
            "from training import data",
            "star_model/engine.py:1 imports training",
        ),
        (
            "server/queue.py",
            "from star_model import config",
            "server/queue.py:1 imports star_model",
        ),
        (
            "server/queue.py",
            "def f():\n    import star_model",
            "server/queue.py:2 imports star_model",
        ),
        ("server/queue.py", "import training.data", "server/queue.py:1 imports training"),
        ("server/queue.py", "__import__('benchmarks')", "server/queue.py:1 imports benchmarks"),
        ("training/eval.py", "from server.app import app", "training/eval.py:1 imports server"),
        ("benchmarks/load.py", "import server", "benchmarks/load.py:1 imports server"),
        (
            "benchmarks/load.py",
            "import_module('server.app')",
            "benchmarks/load.py:1 imports server",
        ),
        (
            "server/api/edits.py",
            "import torch",
            "server/api/edits.py loads torch: server/api/edits.py:1",
        ),
        ("server/app.py", "import safetensors.torch", "server/app.py:1 -> safetensors.torch"),
        ("server/client.py", "import torch.nn", "server/app.py:1 -> server/client.py:1 -> torch"),
        (
            "server/client.py",
            "class C:\n    from . import worker",
            "star_model/__init__.py:1 -> torch",
        ),
        (
            "server/client.py",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import torch",
            "server/client.py:4",
        ),
        (
            "server/__init__.py",
            "try:\n    import torch\nfinally:\n    pass",
            "server/__init__.py:2 -> torch",
        ),
        ("server/queue.py", "x = os.environ.get('X')", "server/queue.py:1 reads the environment"),
        ("server/queue.py", "x = getenv('X')", "server/queue.py:1 reads the environment"),
        ("server/queue.py", "x = os.environ['X']", "server/queue.py:1 reads the environment"),
        ("star_model/utils.py", "", "star_model/utils.py has a name"),
        ("server/api/helpers.py", "", "server/api/helpers.py has a name"),
        ("server/slot_manager.py", "", "server/slot_manager.py has a name"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, name: str, source: str, expected: str) -> None:
    write(tmp_path, {**GOOD, name: source})
    assert any(expected in violation for violation in violations(tmp_path)), violations(tmp_path)


def test_writing_the_environment_of_a_child_is_allowed(tmp_path: Path) -> None:
    write(
        tmp_path, {**GOOD, "server/worker.py": "import os\nos.environ['OMP_NUM_THREADS'] = '1'\n"}
    )
    assert violations(tmp_path) == []
