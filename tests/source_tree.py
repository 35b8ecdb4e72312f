"""The source of the four parts, read without running it: imports, circles, sizes, reads of the environment."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import cache
from pathlib import Path

PARTS = ("star_model", "server", "training", "benchmarks")

TORCH = {"torch", "torchvision", "transformers", "xformers", "safetensors.torch"}
"""Modules that are torch or load it."""

TYPING_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Imports(IntEnum):
    """Which imports of a file are meant; each set contains the one before."""

    AT_LOAD = 0
    """Those that run when the file is imported."""
    AT_TOP = 1
    """Those for type checkers as well: everything outside functions."""
    ALL = 2
    """Those in functions as well."""


def nodes(tree: ast.AST, imports: Imports) -> Iterator[ast.AST]:
    """Every node of a file in which an import counts."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if imports < Imports.ALL and isinstance(node, Function | ast.Lambda):
            continue
        if (
            imports < Imports.AT_TOP
            and isinstance(node, ast.If)
            and ast.unparse(node.test) in TYPING_ONLY
        ):
            pending += node.orelse
            continue
        yield node
        pending += ast.iter_child_nodes(node)


def imported(tree: ast.AST, package: str, imports: Imports) -> Iterator[tuple[str, int]]:
    """The modules that a file imports, with their lines.

    Args:
        tree: the parsed file.
        package: the package that holds the file, for relative imports.
        imports: which of them.

    Yields:
        Absolute dotted names. ``from a import b`` gives ``a.b``, since ``b`` may be a module.
    """
    for node in nodes(tree, imports):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
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


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every function and method with its number of lines, docstring included, decorators not."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def within(module: str, roots: set[str]) -> str | None:
    """The one of ``roots`` that ``module`` is, or lies in; None if there is none."""
    return next((root for root in roots if module == root or module.startswith(root + ".")), None)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, sorted (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found)


class Tree:
    """The Python files of the four parts under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = [path for part in PARTS for path in sorted((root / part).rglob("*.py"))]
        self.parse: Callable[[Path], ast.Module] = cache(
            lambda path: ast.parse(path.read_text(encoding="utf-8"), str(path))
        )
        self.imports: Callable[[Path, Imports], list[tuple[str, int]]] = cache(
            lambda path, which: list(imported(self.parse(path), self.package(path), which))
        )
        self.find: Callable[[str], list[Path]] = cache(self._find)

    def name(self, path: Path) -> str:
        """``server/api/generate.py``."""
        return path.relative_to(self.root).as_posix()

    def package(self, path: Path) -> str:
        """``server.api`` for ``server/api/generate.py`` and for ``server/api/__init__.py``."""
        return ".".join(path.relative_to(self.root).parent.parts)

    def module(self, path: Path) -> str:
        """``server.api.generate``; ``server.api`` for its ``__init__.py``."""
        return ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    def _find(self, module: str) -> list[Path]:
        """The files that ``import module`` runs: each package on the way, then the module. A name in a module
        finds the module."""
        parts = module.split(".")
        if parts[0] not in PARTS:
            return []
        ways = (self.root.joinpath(*parts[: i + 1]) for i in range(len(parts)))
        files = (file for way in ways for file in (way / "__init__.py", way.with_suffix(".py")))
        return [file for file in files if file.is_file()]

    def imports_of(self, path: Path, imports: Imports) -> Iterator[tuple[str, int]]:
        """The modules of the four parts that a file names in its imports, with their lines; never a package
        for a module in it."""
        for name, line in self.imports(path, imports):
            if found := self.find(name):
                yield self.module(found[-1]), line

    def graph(self) -> dict[str, set[str]]:
        """Module -> the modules that it imports outside functions, type checkers' imports included."""
        return {
            self.module(path): {target for target, _ in self.imports_of(path, Imports.AT_TOP)}
            - {self.module(path)}
            for path in self.files
        }

    def loads_torch(self, start: Path) -> str | None:
        """The way from ``start`` to torch along imports that run at load; None if there is none."""
        ways = {path: self.name(path) for path in (*self.find(self.package(start)), start)}
        pending = list(ways)
        while pending:
            path = pending.pop(0)
            for module, line in self.imports(path, Imports.AT_LOAD):
                if found := within(module, TORCH):
                    return f"{ways[path]}:{line} -> {found}"
                for target in self.find(module):
                    if target not in ways:
                        ways[target] = f"{ways[path]}:{line} -> {self.name(target)}"
                        pending.append(target)
        return None
