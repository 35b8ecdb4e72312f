"""The GPU's report on a model that a CPU can run, with the recording capture in place of CUDA's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_gpu, gpu_variant
from benchmarks.bench_gpu import RESULTS, TABLES, run_part, tables
from benchmarks.gpu_variant import VARIANTS, Variant, floors, measure
from star_model.cost import DEVICES, decode_work, step_work
from star_model.engine.compilation import compile_networks
from star_model.families.registry import PRESETS
from tests.star_model.captures import RecordingCapture
from tests.star_model.tiny import build_tiny_model

STAGES = ["prepare", "scale 1x1", "scale 2x2", "scale 5x5", "scale 7x7", "decode", "image"]


def measured(variant: Variant) -> dict[str, Any]:
    found = measure(
        build_tiny_model(),
        variant,
        batches=[1, 2],
        repeats=1,
        capture=RecordingCapture(),
        gpu="h200",
    )
    return {
        "part": variant.name,
        "model": "tiny",
        "gpu": "cpu",
        "floor_of": "h200",
        **json.loads(json.dumps(found)),
    }


def test_the_variants_say_what_they_are() -> None:
    assert list(VARIANTS)[:4] == [
        "eager-bfloat16", "graphs-bfloat16", "compiled-bfloat16", "compiled+graphs-bfloat16",
    ]  # fmt: skip
    assert VARIANTS["xformers+graphs-bfloat16"].attention == "xformers"


def test_a_variant_has_every_stage_and_its_floor() -> None:
    found = measured(Variant("float32", graphs=True))
    for batch in ("1", "2"):
        assert list(found["batches"][batch]["milliseconds"]) == STAGES
        assert list(found["batches"][batch]["floor"]) == STAGES[1:]
    assert found["same_tokens"] == {"1": 1.0, "2": 1.0}
    assert found["memory_gib"]["used"] is None
    assert (
        found["memory_gib"]["predicted"] > measured(Variant("float32"))["memory_gib"]["predicted"]
    )


@pytest.mark.usefixtures("fresh_compiler")
def test_what_is_compiled_is_compared_with_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpu_variant, "compile_networks", lambda model: compile_networks(model, "eager")
    )
    model = build_tiny_model()
    found = measure(
        model, Variant("float32", compiled=True), batches=[1], repeats=1, capture=None, gpu=None
    )
    assert found["same_tokens"] == {1: 1.0}
    assert found["batches"][1]["floor"] == {}
    assert model.vqvae.decoder._compiled_call_impl is None, "put back"


def test_the_floor_is_that_of_all_stages() -> None:
    config = PRESETS["star-512"]
    found = floors(config, 8, "h200")
    device = DEVICES["h200"]
    assert found["scale 32x32"] == 1000 * step_work(config, 9, 8).floor(device)
    assert found["decode"] == 1000 * decode_work(config, 8).floor(device)
    assert found["image"] == pytest.approx(
        sum(ms for stage, ms in found.items() if stage != "image")
    )


def test_the_tables_hold_everything() -> None:
    parts = [
        {"part": "tests", "summary": "12 passed in 3.21s"},
        measured(Variant("float32")),
        measured(Variant("float32", graphs=True)),
        {"part": "xformers+graphs-bfloat16", "skipped": "the extra xformers is not installed"},
        {"part": "float16", "error": "exit code 1", "tail": ["RuntimeError: no kernel"]},
    ]
    text = tables(parts)
    head = next(line for line in text.splitlines() if line.startswith("batch 2, ms"))
    assert head.split() == [
        "batch",
        "2,",
        "ms",
        "floor",
        "share",
        "eager-float32",
        "graphs-float32",
    ]
    assert len([line for line in text.splitlines() if line.startswith("scale 7x7")]) == 2
    assert "tests: 12 passed in 3.21s" in text
    assert "tokens as without: 100.00 % at 1, 100.00 % at 2" in text
    assert "left out, the extra xformers is not installed" in text
    assert "float16: FAILED, exit code 1\n    RuntimeError: no kernel" in text


def test_a_part_that_fails_or_hangs_is_noted(tmp_path: Path) -> None:
    found = run_part(
        "a", [sys.executable, "-c", "print('so far'); raise SystemExit(3)"], tmp_path, 60
    )
    assert (found["error"], found["tail"]) == ("exit code 3", ["so far"])
    found = run_part("b", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.5)
    assert found["error"] == "took longer than 0.5 s"
    found = run_part(
        "c", [sys.executable, "-c", "print('noise'); print('{\"x\": 1}')"], tmp_path, 60
    )
    assert found["x"] == 1
    assert (tmp_path / "c.log").read_text(encoding="utf-8") == 'noise\n{"x": 1}\n'


def test_what_was_found_is_kept_though_a_part_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys; name = sys.argv[1]; print('{}' if 'eager' in name else 1 / 0)"

    def fake(arguments: object) -> list[tuple[str, list[str] | str]]:
        names = ("graphs-float16", "eager-float16")
        return [(name, [sys.executable, "-c", script, name]) for name in names] + [
            ("later", "not wanted")
        ]

    monkeypatch.setattr(bench_gpu, "commands", fake)
    monkeypatch.setattr(bench_gpu, "_rest", lambda part: part["part"])
    monkeypatch.setattr(sys, "argv", ["bench_gpu", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main()
    assert ended.value.code == 1
    lines = [
        json.loads(line) for line in (tmp_path / RESULTS).read_text(encoding="utf-8").splitlines()
    ]
    assert [line["part"] for line in lines] == ["graphs-float16", "eager-float16", "later"]
    assert "ZeroDivisionError: division by zero" in lines[0]["tail"]
    assert (tmp_path / TABLES).read_text(encoding="utf-8").split() == [
        "graphs-float16",
        "eager-float16",
        "later",
    ]


ON_A_TINY_MODEL = """
from benchmarks import gpu_variant
from tests.star_model.tiny import class_conditional, tiny_config
gpu_variant.PRESETS = {**gpu_variant.PRESETS, "var-d16": tiny_config(**class_conditional())}
gpu_variant.main()
"""


def test_one_command_does_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real processes, on a CPU, with a tiny model in the place of a published one."""
    commands = bench_gpu.commands

    def on_a_tiny_model(arguments: argparse.Namespace) -> Iterator[tuple[str, list[str] | str]]:
        for name, command in commands(arguments):
            if isinstance(command, list):
                assert command[:3] == [sys.executable, "-m", "benchmarks.gpu_variant"]
                command = [sys.executable, "-c", ON_A_TINY_MODEL, *command[3:]]
            yield name, command

    monkeypatch.setattr(bench_gpu, "commands", on_a_tiny_model)
    flags = ["--preset", "var-d16", "--batch", "1", "--repeats", "1", "--gpu", "h100"]
    # In float32, since many processors have no other arithmetic and take minutes to imitate it.
    flags += ["--parts", "eager-float32", "xformers+graphs-bfloat16"]
    monkeypatch.setattr(
        sys, "argv", ["bench_gpu", "--output", str(tmp_path), "--device", "cpu", *flags]
    )
    with pytest.raises(SystemExit):
        bench_gpu.main()
    parts = {
        part["part"]: part for part in json.loads(capsys.readouterr().out.splitlines()[-1])["parts"]
    }
    assert list(parts["eager-float32"]["batches"]["1"]["milliseconds"]) == STAGES
    assert parts["eager-float32"]["floor_of"] == "h100"
    assert (
        "skipped" in parts["xformers+graphs-bfloat16"]
        or "error" in parts["xformers+graphs-bfloat16"]
    )
