"""The packages of the wheel carry what the project's classifiers claim."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_type_checkers_may_read_each_package() -> None:
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    packages = [ROOT / path for path in included if (ROOT / path / "__init__.py").is_file()]
    assert len(packages) == 2
    assert "Typing :: Typed" in PYPROJECT["project"]["classifiers"]
    assert [package.name for package in packages if not (package / "py.typed").is_file()] == []


def test_tools_of_developers_are_no_extras() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(extras) == {"train", "quality", "xformers", "ray", "s3", "safety", "c2pa", "otel"}
    assert set(PYPROJECT["dependency-groups"]) == {"test", "deploy"}
