"""``generate``, ``info`` and ``convert`` on a tiny model of real code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.commands.cli import main
from star_model.sampling import Sampling
from star_model.vocabulary import Vocabulary
from tests.server.image_metadata import generation_of, parameters_text_of, xmp_of
from tests.star_model.tiny import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("offline") / "model")


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_generate_writes_images_that_say_what_they_are(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    output = tmp_path / "apple.png"
    arguments = ["generate", "a red apple", "-o", str(output), "--model", str(model), "--seed", "7"]
    assert main([*arguments, "--n", "3", "--batch", "2"]) == 0
    paths = [tmp_path / f"apple-{i}.png" for i in (1, 2, 3)]
    written = capsys.readouterr()
    assert written.out.splitlines() == [
        f"wrote {path} (seed {7 + i})" for i, path in enumerate(paths)
    ]
    assert "3 of 3 images done" in written.err
    pictures = [opened(path) for path in paths]
    generations = [generation_of(path.read_bytes()) for path in paths]
    assert [generation["seed"] for generation in generations] == [7, 8, 9]
    assert generations[0]["prompt"] == "a red apple"
    assert len({p.tobytes() for p in pictures}) == 3

    # Alone and without a number, the same seed is the same picture. Off a terminal, there is no progress bar.
    monkeypatch.undo()
    assert main([*arguments[:-1], "8"]) == 0
    assert opened(output).tobytes() == pictures[1].tobytes()
    assert capsys.readouterr().err == ""


def test_a_file_carries_the_negative_prompt_and_the_parameters(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "apple.png"
    arguments = ["generate", "a red apple", "-o", str(output), "--model", str(model), "--seed", "7"]
    assert main([*arguments, "--negative-prompt", "fog", "--top-k", "9"]) == 0
    written = generation_of(output.read_bytes())
    parameters = written["parameters"]
    assert parameters["guidance_scale"] > 0
    assert (parameters["negative_prompt"], parameters["top_k"]) == ("fog", 9)
    assert set(parameters) == {"negative_prompt", *Sampling.model_fields}
    assert (written["prompt"], written["seed"], written["model"]) == ("a red apple", 7, "tiny")

    plain = tmp_path / "plain.png"
    arguments[3] = str(plain)
    assert main([*arguments, "--top-k", "9"]) == 0
    assert "negative_prompt" not in generation_of(plain.read_bytes())["parameters"]
    assert opened(plain).tobytes() != opened(output).tobytes(), "it was written but not used"


@pytest.mark.parametrize(
    ("level", "has_xmp", "has_text"),
    [("full", True, True), ("provenance", True, False), ("none", False, False)],
)
def test_the_command_line_decides_how_much_a_file_says(
    model: Path, tmp_path: Path, level: str, has_xmp: bool, has_text: bool
) -> None:
    output = tmp_path / "apple.webp"
    arguments = ["generate", "a red apple", "-o", str(output), "--model", str(model)]
    assert main([*arguments, "--metadata", level]) == 0
    data = output.read_bytes()
    assert bool(xmp_of(data)) == has_xmp
    assert bool(parameters_text_of(data)) == has_text


def test_generate_says_what_it_left_out_of_a_prompt(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "apple " * 20, "-o", str(tmp_path / "a.jpg"), "--model", str(model)]
    assert main(arguments) == 0
    assert "left out" in capsys.readouterr().err
    assert opened(tmp_path / "a.jpg").format == "JPEG"


def test_generate_refuses_what_the_model_does_not_know(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    shutil.copytree(model, few)
    Vocabulary({"a fox": (), "a car": ()}, ("a", "fox", "car"), least_likeness=1.0).save(few)
    output = tmp_path / "a.png"
    wanted = ["-o", str(output), "--model", str(few)]
    assert main(["generate", "a robot", *wanted]) == 2
    assert 'cannot draw "robot". Try "a ' in (said := capsys.readouterr().err)
    assert "--on-unknown nearest" in said
    for choice in ("suggest", "nearest"):
        assert main(["generate", "a nun", *wanted, "--on-unknown", choice]) == 2
        assert "The model draws no people." in capsys.readouterr().err
    assert not output.exists()
    assert main(["generate", "a robot", *wanted, "--on-unknown", "nearest"]) == 0
    assert output.exists()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a robot\na nun\na fox\n")
    pattern = str(tmp_path / "out" / "{line}.png")
    assert main(["generate", "--prompts", str(prompts), "-o", pattern, "--model", str(few)]) == 2
    lines = [json.loads(x) for x in (tmp_path / "out" / "images.jsonl").read_text().splitlines()]
    failed = {line["line"]: line["error"] for line in lines if "error" in line}
    assert ('"robot"' in failed[1], '"nun"' in failed[2]) == (True, True)
    assert [line["file"] for line in lines if "file" in line] == ["3.png"]


def test_generate_refuses_an_unknown_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.png"
    assert main(["generate", "a", "-o", str(output), "--model", "star-minii"]) == 2
    assert "star-mini" in capsys.readouterr().err
    assert not output.exists()


HOSTILE = "\x1b]0;x\x07\x1b[2J\u202egnp\nmodel  star-512"


@pytest.mark.parametrize(
    "change",
    [
        {"name": HOSTILE},
        {"name": [HOSTILE]},
        {HOSTILE: 1},
        {"transformer": {HOSTILE: 1}},
        {"text_encoder": {"family": HOSTILE}},
    ],
    ids=range(5),
)
def test_a_models_files_cannot_write_to_the_terminal(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    """A directory may come from anybody, and its texts are shown."""
    config = json.loads((model / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    main(["info", str(tmp_path)])
    main(["generate", "a", "-o", str(tmp_path / "a.png"), "--model", str(tmp_path)])
    output, errors = capsys.readouterr()
    assert not set(output + errors) & set("\x1b\x07\u202e"), errors
    assert "\nmodel  star-512" not in output


def test_info_describes_a_directory(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model)]) == 0
    text = capsys.readouterr().out
    for words in (
        "tiny",
        "28x28 pixels",
        "4: 1 2 5 7",
        "depth 2",
        "MiB in float32",
        "79 per image",
    ):
        assert words in text, text


def test_info_describes_a_published_model_without_fetching_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "star-512", "--json", "--cache-dir", str(tmp_path)]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["path"] is None
    assert info["image_size"] == 512
    assert info["scales"] == [1, 2, 3, 4, 6, 9, 13, 18, 24, 32]
    assert info["license"] is None
    assert info["capabilities"]["aspect_ratios"] == ["1:1"]
    assert 1.5e9 < info["parameters"]["transformer"] < 2e9
    assert info["memory_per_slot_bytes"]["float32"] == 2 * info["memory_per_slot_bytes"]["bfloat16"]


@pytest.mark.parametrize(
    ("name", "licence", "can"),
    [
        ("star-mini", "Apache-2.0", "text prompts from a vocabulary, edits, rising guidance, "),
        ("infinity-2b", "MIT", "text prompts, edits, constant guidance, negative prompts, "),
        ("var-d16", "MIT", "class prompts, edits, rising guidance, negative prompts, "),
        ("var-d16-cca", "none is known", "rising guidance, negative prompts with a guidance_scale"),
    ],
)
def test_info_says_what_a_model_can_do_and_under_which_licence(
    name: str, licence: str, can: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", name, "--cache-dir", str(tmp_path)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["licence"].strip().startswith(licence)
    assert can in lines["capabilities"]


@pytest.mark.parametrize(("name", "cached"), [("switti-512", False), ("switti-512-ar", True)])
def test_info_says_whether_a_slot_holds_the_images_tokens(
    name: str, cached: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", name, "--cache-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "transformer 2,470.5 M" in text
    assert ("no token is cached, a scale attends to itself" in text) != cached


def test_info_refuses_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_convert_refuses_files_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [f"--{part}={tmp_path / part}" for part in ("transformer", "vqvae", "text-encoder")]
    assert main(["convert", *parts, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "transformer") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
