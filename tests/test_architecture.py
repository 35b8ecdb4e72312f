"""The import rule, read from the source without running it, and the sizes that files and functions keep.

- Of the four parts, ``server``, ``training`` and ``benchmarks`` import ``star_model``, and it none of them. Benchmarks
  take the simulation of the scheduler from ``server``; all else they meet over HTTP, but for one module that runs the
  server with an engine of its own.
- Inside ``star_model`` and ``server``, a package imports those that ``MAY_IMPORT`` gives it, in one direction.
- No module imports itself by way of others, type checkers' imports included.
- Where only the worker and the commands may load torch, nothing does, not even through what it imports.
- The environment is read in ``settings.py`` alone; what is not a setting of ours, in ``READ_ENVIRONMENT``.
- A file is named after what it holds, has at most 450 lines, and a function at most 50.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_tree import (
    PARTS,
    Imports,
    Tree,
    circles,
    environment_reads,
    functions,
    within,
)

ROOT = Path(__file__).parent.parent

MODEL = {"star_model", "star_model.networks", "star_model.model", "star_model.cost"}
SERVED = {
    *("server", "server.http", "server.images", "server.dispatch", "server.safety"),
    *("server.batches", "server.tracing"),
}
STAR_MODEL = MODEL | {"star_model.families", "star_model.checkpoints", "star_model.engine"}

MAY_IMPORT: dict[str, set[str]] = {
    "star_model": set(),
    "star_model.families": {"star_model"},
    "star_model.networks": {"star_model"},
    "star_model.model": {"star_model", "star_model.networks"},
    "star_model.cost": {"star_model", "star_model.networks"},
    "star_model.engine": MODEL,
    "star_model.checkpoints": MODEL | {"star_model.families"},
    "server": STAR_MODEL,
    "server.images": {"server"} | STAR_MODEL,
    "server.safety": {"server", "server.images", "server.tracing"} | STAR_MODEL,
    "server.tracing": {"server"} | STAR_MODEL,
    "server.http": {"server", "server.tracing"} | STAR_MODEL,
    "server.dispatch": {"server", "server.tracing"} | STAR_MODEL,
    "server.batches": {"server", "server.http", "server.images"} | STAR_MODEL,
    "server.worker": {"server"} | STAR_MODEL,
    "server.api": SERVED | STAR_MODEL,
    "server.app": SERVED | {"server.api"} | STAR_MODEL,
    "server.ray": {"server", "server.app", "server.tracing"} | STAR_MODEL,
    "server.commands": SERVED | {"server.app", "server.worker"} | STAR_MODEL,
    "server.__main__": {"server.commands"},
    "training": STAR_MODEL,
    "benchmarks": STAR_MODEL,
}
"""Room -> the rooms that its modules may import beside their own; all imports count, those in functions too.

A room is a package, or the modules that stand beside the packages of its part: ``server`` is ``settings``, ``errors``
and their neighbours. Those that join packages together are rooms of their own: ``ROOMS``.
"""

ROOMS = {"star_model.model", "star_model.cost", "server.app", "server.__main__"}
"""Modules beside the packages that import packages."""

IN_FUNCTIONS = {("server.dispatch", "server.worker")}
"""What may be imported in a function, beside what may be anywhere: the child process imports the worker by itself."""

LOAD_TORCH = {"server.worker", "server.commands"}
"""The rooms of ``server`` that may load torch, and import modules of ``star_model`` that do."""

SIMULATION = {
    "server.commands.capacity",
    "server.commands.plan",
    "server.commands.simulation",
    "server.commands.tenant_simulation",
}
"""What ``benchmarks`` may import of ``server``: the simulation of its scheduler, and how its results are shown."""

RUN_SERVER = {"benchmarks.peers.star_server"}
"""Modules of ``benchmarks`` that run the server around an engine of their own, and may import all of it."""

READ_ENVIRONMENT = {
    "server/settings.py",
    "server/tracing/environment.py",
    "star_model/threads.py",
}
"""The second for OpenTelemetry's standard variables; the last only to leave alone what the user has set: it runs before
anything else is imported."""

NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
"""File names that say nothing of what the file holds."""

MOST_LINES, LONGEST_FUNCTION = 450, 50


# ---- the rules ---------------------------------------------------------------------------------------------
def room_of(tree: Tree, module: str) -> str:
    """The room that a module of ``star_model`` or ``server`` is in; of the other parts, the part."""
    part, *inside = module.split(".")
    if part not in ("star_model", "server"):
        return part
    here = ".".join([part, *inside[:1]])
    package = (tree.root / part / inside[0]).is_dir() if inside else False
    return here if here in ROOMS or package else part


def wrong_imports(tree: Tree, path: Path) -> Iterator[str]:
    """The imports of a file that its room may not have, a sentence each."""
    module = tree.module(path)
    room, part = room_of(tree, module), module.split(".")[0]
    if room not in MAY_IMPORT:
        yield f"{tree.name(path)} is in {room}, of which MAY_IMPORT says nothing"
        return
    at_top = set(tree.imports_of(path, Imports.AT_TOP))
    for target, line in tree.imports_of(path, Imports.ALL):
        where = f"{tree.name(path)}:{line}"
        aim = room_of(tree, target)
        inner = (target, line) not in at_top
        allowed = (
            aim in MAY_IMPORT[room] | {room}
            or module in PARTS  # the package itself: only its public names, and those of all rooms
            or (inner and (room, aim) in IN_FUNCTIONS)
            or (part == "benchmarks" and within(target, SIMULATION))
            or module in RUN_SERVER
        )
        if not allowed:
            yield f"{where} imports {target}"
        if part == "server" and room not in LOAD_TORCH and target.startswith("star_model"):
            yield from (f"{where} imports {target}: {fault}" for fault in loads(tree, target))


def loads(tree: Tree, target: str) -> Iterator[str]:
    """Why a module of ``star_model`` is not for those that load no torch; nothing if it is."""
    if target == "star_model":
        yield "take the name from its module, which tells whether torch is loaded"
    elif way := tree.loads_torch(tree.find(target)[-1]):
        yield way


def violations(root: Path) -> list[str]:
    """What under ``root`` breaks a rule, a sentence each."""
    tree = Tree(root)
    found = [f"imports go round in a circle: {', '.join(ring)}" for ring in circles(tree.graph())]
    for path in tree.files:
        name, module = tree.name(path), tree.module(path)
        part = module.split(".")[0]
        found += wrong_imports(tree, path)
        torch_free = part == "server" and room_of(tree, module) not in LOAD_TORCH
        if torch_free and (way := tree.loads_torch(path)):
            found.append(f"{name} loads torch: {way}")
        if part in ("star_model", "server") and name not in READ_ENVIRONMENT:
            found += [
                f"{name}:{line} reads the environment"
                for line in environment_reads(tree.parse(path))
            ]
        if path.stem in NAMELESS or path.stem.endswith("_manager"):
            found.append(f"{name} has a name that does not say what it holds")
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MOST_LINES:
            found.append(f"{name} has {lines} lines")
        found += [
            f"{name}: {function} has {length} lines"
            for function, length in functions(tree.parse(path))
            if length > LONGEST_FUNCTION
        ]
    return sorted(set(found))


def test_the_rules_hold() -> None:
    assert violations(ROOT) == []


def test_there_is_something_to_check() -> None:
    tree = Tree(ROOT)
    modules = {tree.module(path) for path in tree.files}
    assert modules >= ROOMS, "a module that the rule names is gone"
    named = {room for room in MAY_IMPORT if (ROOT / room.replace(".", "/")).is_dir()} | ROOMS
    assert named == set(MAY_IMPORT), "a package that the rule names is gone"
    assert modules >= SIMULATION
    assert {name for name in READ_ENVIRONMENT if (ROOT / name).is_file()} == READ_ENVIRONMENT


def test_the_rule_itself_has_no_circle() -> None:
    assert circles(MAY_IMPORT) == []


# ---- the checker sees what it should -----------------------------------------------------------------------
def write(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


GOOD = {
    "star_model/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    "    from star_model.engine.engine import Engine\n",
    "star_model/config.py": "",
    "star_model/networks/vqvae.py": "import torch\nfrom star_model.config import x\n",
    "star_model/cost.py": "",
    "star_model/model.py": "from star_model.networks.vqvae import VQVAE\n",
    "star_model/engine/engine.py": "from star_model.model import StarModel\n",
    "star_model/threads.py": "import os\nkept = os.environ.get('GOMP_SPINCOUNT')\n",
    "server/__init__.py": "",
    "server/__main__.py": "from server.commands.cli import main\n",
    "server/app.py": "from server.api import generate\n",
    "server/settings.py": "import os\nhome = os.environ['HOME']\n",
    "server/api/__init__.py": "",
    "server/api/generate.py": "from ..dispatch.client import start\nfrom star_model.config import x\n",
    "server/dispatch/client.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    "def start():\n    from server.worker import main\n",
    "server/worker/main.py": "import torch\nfrom star_model import Engine\n",
    "server/commands/cli.py": "from server import app\ndef main():\n    from server.worker import main\n",
    "server/commands/simulation.py": "",
    "training/train.py": "import star_model.config\n",
    "benchmarks/load.py": "import httpx\nfrom server.commands import simulation\n",
}


def test_a_good_tree_passes(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert violations(tmp_path) == []


QUEUE, CLIENT = "server/queue.py", "server/dispatch/client.py"


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("star_model/scales.py", "import server.settings", "scales.py:1 imports server.settings"),
        ("star_model/scales.py", "from training import train", "imports training.train"),
        ("star_model/config.py", "from star_model import model", "imports star_model.model"),
        ("star_model/networks/rope.py", "import star_model.engine.engine", "imports star_model.en"),
        ("star_model/other/new.py", "", "star_model/other/new.py is in star_model.other, of which"),
        (QUEUE, "import training.train", "server/queue.py:1 imports training.train"),
        (QUEUE, "import_module('benchmarks.load')", "server/queue.py:1 imports benchmarks.load"),
        (QUEUE, "def f():\n    from server import app", "server/queue.py:2 imports server.app"),
        ("server/http/auth.py", "from server.api import generate", "imports server.api.generate"),
        ("server/images/png.py", "from ..dispatch import client", "imports server.dispatch.client"),
        ("server/worker/loop.py", "from server.dispatch import client", "imports server.dispatch"),
        (CLIENT, "from server.worker import main", "client.py:1 imports server.worker.main"),
        (CLIENT, "if TYPE_CHECKING:\n    from server.worker import main", "client.py:2 imports"),
        ("server/dispatch/queue.py", "def f():\n    import server.app", "imports server.app"),
        ("training/eval.py", "from server.app import app", "training/eval.py:1 imports server.app"),
        ("benchmarks/load.py", "import server.app", "benchmarks/load.py:1 imports server.app"),
        (QUEUE, "def f():\n    from star_model.model import x", "star_model.model: star_model/mo"),
        (QUEUE, "from star_model import Engine", "imports star_model: take the name from its mod"),
        ("server/api/edits.py", "import torch", "server/api/edits.py loads torch: server/api/ed"),
        ("server/app.py", "import safetensors.torch", "server/app.py:1 -> safetensors.torch"),
        (CLIENT, "import torch.nn", "server/api/generate.py:1 -> server/dispatch/client.py:1 -> t"),
        (QUEUE, "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "server/queue.py:4"),
        ("server/__init__.py", "try:\n    import torch\nfinally:\n    pass", "__init__.py:2 -> to"),
        (QUEUE, "x = os.environ.get('X')", "server/queue.py:1 reads the environment"),
        (QUEUE, "x = getenv('X')", "server/queue.py:1 reads the environment"),
        (QUEUE, "x = os.environ['X']", "server/queue.py:1 reads the environment"),
        ("star_model/utils.py", "", "star_model/utils.py has a name"),
        ("server/api/helpers.py", "", "server/api/helpers.py has a name"),
        ("server/slot_manager.py", "", "server/slot_manager.py has a name"),
        ("training/long.py", "\n" * 451, "training/long.py has 451 lines"),
        ("training/long.py", "def f():\n" + "    x\n" * 50, "training/long.py: f has 51 lines"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, name: str, source: str, expected: str) -> None:
    write(tmp_path, {**GOOD, name: source})
    assert any(expected in violation for violation in violations(tmp_path)), violations(tmp_path)


@pytest.mark.parametrize(
    "back", ["from training.train import x", "if TYPE_CHECKING:\n    import training.train"]
)
def test_a_circle_is_found(tmp_path: Path, back: str) -> None:
    there = "from training import data"
    write(tmp_path, {**GOOD, "training/train.py": there, "training/data.py": back})
    assert violations(tmp_path) == ["imports go round in a circle: training.data, training.train"]


def test_an_import_in_a_function_is_no_circle(tmp_path: Path) -> None:
    back = "def f():\n    from training import train"
    write(tmp_path, {**GOOD, "training/train.py": "import training.data", "training/data.py": back})
    assert violations(tmp_path) == []


def test_writing_the_environment_of_a_child_is_allowed(tmp_path: Path) -> None:
    source = "import os\nos.environ['OMP_NUM_THREADS'] = '1'\n"
    write(tmp_path, {**GOOD, "server/worker/main.py": source})
    assert violations(tmp_path) == []
