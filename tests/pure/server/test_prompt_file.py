"""``star-server generate --prompts``: reading the file, naming the images, recording and continuing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.commands.cli import main
from server.commands.prompt_file import BadLine, Pattern, PromptLine, Record, read_prompts
from server.errors import UsageError
from tests.star_model.tiny import class_conditional, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("prompts") / "model")


def lines_of(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text("utf-8").splitlines()]


def generate(model: Path, file: Path, pattern: Path, *flags: str) -> int:
    arguments = ("generate", "--prompts", str(file), "-o", str(pattern), "--model", str(model))
    return main([*arguments, *flags])


# ---- reading -----------------------------------------------------------------------------------------------
def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffa fox\r\n\n  ein Apfel \n".encode())
    assert read_prompts(file) == {1: PromptLine(prompt="a fox"), 3: PromptLine(prompt="ein Apfel")}


def test_json_lines_may_have_more(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a fox", "tag": "single", "seed": 5, "negative_prompt": "red"}\n')
    assert read_prompts(file) == {1: PromptLine(prompt="a fox", seed=5, negative_prompt="red")}


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("p.txt", "x" * 2001, "prompt must be a string of 1 to 2,000 characters"),
        ("p.jsonl", "a fox", "this is not JSON"),
        ("p.jsonl", '["a fox"]', "this is not an object"),
        ("p.jsonl", '{"text": "a fox"}', "prompt is required"),
        ("p.jsonl", '{"prompt": 3}', "prompt must be a string"),
        ("p.jsonl", '{"prompt": "a", "seed": -1}', "seed must be an integer from 0"),
    ],
)
def test_a_bad_line_says_why(tmp_path: Path, name: str, line: str, reason: str) -> None:
    (tmp_path / name).write_text(f"{line}\n")
    (bad,) = read_prompts(tmp_path / name).values()
    assert isinstance(bad, BadLine)
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"\n \n", "holds no prompt"), (b"a\xff", "not UTF-8")],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "p.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=rf"p\.txt.*{message}"):
        read_prompts(file)


# ---- names -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "path", "directory"),
    [
        ("out/{line:04}-{prompt}-{seed}.png", "out/0007-a-red-äpple-42.png", "out"),
        ("out/{line:03}/{image}.webp", "out/007/2.webp", "out"),
        ("{seed}.jpg", "42.jpg", "."),
        ("a/b{line}.png", "a/b7.png", "a"),
    ],
)
def test_names(pattern: str, path: str, directory: str) -> None:
    named = Pattern(pattern)
    assert named.path(line=7, image=2, seed=42, prompt="A red, Äpple!") == Path(path)
    assert named.directory == Path(directory)
    assert Path(path).is_relative_to(directory)


def test_a_prompt_never_leaves_the_directory() -> None:
    assert Pattern("out/{prompt}.png").path(line=1, image=1, seed=1, prompt="../../etc/x") == Path(
        "out/etc-x.png"
    )
    assert Pattern("{prompt}.png").path(line=1, image=1, seed=1, prompt="!?") == Path("prompt.png")
    long = Pattern("{prompt}.png").path(line=1, image=1, seed=1, prompt="ab " * 500)
    assert len(long.name) <= 44


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{lime}.png", r"Unknown field of --output \{lime\}; did you mean \{line\}"),
        ("{line.real}.png", "Unknown field"),
        ("{line!r}.png", "Unknown field"),
        ("{}.png", "Unknown field"),
        ("{line", "is no pattern"),
        ("{prompt:04}x{line:y}.png", "is no pattern"),
        ("{line}.gif", "must end in"),
        ("images/", "must end in"),
    ],
)
def test_a_bad_pattern_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pattern(pattern)


# ---- making ------------------------------------------------------------------------------------------------
def test_each_image_is_recorded_and_made_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, pattern = tmp_path / "p.txt", tmp_path / "out" / "{line:02}-{image}.png"
    file.write_text("a fox\na crab\n")
    assert generate(model, file, pattern, "--n", "2", "--batch", "3") == 0
    record = tmp_path / "out" / "images.jsonl"
    made = capsys.readouterr()
    assert made.out == f"wrote 4 images to {tmp_path / 'out'}; {record} lists them\n"
    assert made.err == ""
    lines = lines_of(record)
    assert [(x["file"], x["prompt"], x["seed"], x["line"]) for x in lines] == [
        ("01-1.png", "a fox", 0, 1),
        ("01-2.png", "a fox", 1, 1),
        ("02-1.png", "a crab", 0, 2),
        ("02-2.png", "a crab", 1, 2),
    ]
    assert all(x["model"] == "tiny" and x["parameters"]["top_k"] == 600 for x in lines)

    # Again: nothing is left to do. A lost file, and another prompt in a line, are made again.
    assert generate(model, file, pattern, "--n", "2") == 0
    assert "wrote 0 images" in capsys.readouterr().out
    (tmp_path / "out" / "01-2.png").unlink()
    file.write_text("a fox\na bus\n")
    with record.open("a") as stream:
        stream.write('{"file": "cut o')  # the power failed here
    assert generate(model, file, pattern, "--n", "2") == 0
    assert "wrote 3 images" in capsys.readouterr().out
    assert "2 were" not in record.read_text()
    assert [json.loads(x)["prompt"] for x in record.read_text().splitlines()[5:]] == [
        "a fox",
        "a bus",
        "a bus",
    ]


def test_another_type_of_weights_makes_the_images_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, pattern = tmp_path / "p.txt", tmp_path / "out" / "{line}.png"
    file.write_text("a fox\n")
    for dtype, written in (("bfloat16", 1), ("float32", 1), ("float32", 0)):
        assert generate(model, file, pattern, "--dtype", dtype) == 0
        assert f"wrote {written} images" in capsys.readouterr().out
    assert [x["dtype"] for x in lines_of(pattern.parent / "images.jsonl")] == [
        "bfloat16",
        "float32",
    ]


def test_what_was_drawn_otherwise_is_counted_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_tiny_model(tmp_path / "few")
    known = {"names": {"a fox": [], "a crab": []}, "words": ["fox", "crab", "on", "red"]}
    (few / "vocabulary.json").write_text(json.dumps(known), encoding="utf-8")
    file = tmp_path / "p.txt"
    file.write_text("a fox\na fox and a crab\n")
    assert generate(few, file, tmp_path / "out" / "{line}-{image}.png", "--n", "2") == 0
    assert "wrote 4 images" in (said := capsys.readouterr().out)
    assert ", 2 with warnings" in said
    plain, _, first, second = lines_of(tmp_path / "out" / "images.jsonl")
    assert "drawn" not in plain
    assert "warnings" not in plain
    assert first["drawn"] == second["drawn"] == "a fox"
    assert first["prompt"] == "a fox and a crab"
    assert "a crab" in first["warnings"][0]


def test_an_image_of_a_file_is_the_one_of_its_prompt(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a fox"}\n{"prompt": "a crab", "seed": 9, "negative_prompt": "red"}\n'
    )
    assert generate(model, file, tmp_path / "{line}.png", "--seed", "3", "--top-k", "9") == 0
    alone = tmp_path / "alone.png"
    common = ("-o", str(alone), "--model", str(model), "--top-k", "9")
    for number, flags in (
        (1, ("a fox", "--seed", "3")),
        (2, ("a crab", "--seed", "9", "--negative-prompt", "red")),
    ):
        assert main(["generate", *flags, *common]) == 0
        with Image.open(alone) as one, Image.open(tmp_path / f"{number}.png") as two:
            assert one.tobytes() == two.tobytes()


def test_a_prompt_that_fails_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_classes = write_tiny_model(tmp_path / "var", **class_conditional(1000))
    file = tmp_path / "p.txt"
    file.write_text("goldfish\nno such thing\n" + "x" * 3000 + "\ntench\n")
    assert generate(of_classes, file, tmp_path / "out" / "{line}.png") == 2
    errors = capsys.readouterr().err.splitlines()
    assert "p.txt line 3: prompt must be a string" in errors[0]
    assert "p.txt line 2: " in errors[1]
    assert errors[2].endswith("2 of 4 prompts failed; see above.")
    lines = lines_of(tmp_path / "out" / "images.jsonl")
    assert {x["line"] for x in lines if "error" in x} == {2, 3}
    assert {x["file"] for x in lines if "file" in x} == {"1.png", "4.png"}


def test_two_images_of_one_name_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a fox\na crab\n")
    assert generate(model, file, tmp_path / "{seed}.png") == 2
    assert "Two images would be written to" in capsys.readouterr().err


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be created"):
        Record(tmp_path / "file" / "out")
