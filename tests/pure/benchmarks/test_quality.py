"""Benchmarks of papers: prompts are read, images drawn once each, references cut, scores noted. No score is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.quality import __main__ as quality
from benchmarks.quality import lite_distance as distances
from benchmarks.quality.drawing import RunError, begin, draw, layout
from benchmarks.quality.lite_distance import frechet_distance
from benchmarks.quality.prompts import Prompt, PromptsError, read_prompts
from benchmarks.quality.protocols import PUBLISHED, protocol_of
from benchmarks.quality.references import ReferencesError, find_references, prepare
from benchmarks.quality.scores import MissingError, fid, image_reward
from star_model.engine.engine import Engine
from star_model.families.registry import PRESETS
from star_model.sampling import Sampling
from tests.star_model.tiny import build_tiny_model, write_tiny_model


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("meta_data.json", {"a1": {"category": "x", "prompt": "one"}, "b2": {"prompt": "two"}}, 2),
        (
            "captions.json",
            {"annotations": [{"image_id": i, "caption": c} for i, c in ((7, "one "), (7, "b"), (9, "two"))]},
            2,
        ),
        ("evaluation_metadata.jsonl", '{"tag": "single", "prompt": "one"}\n{"prompt": "two"}\n', 2),
        ("coco.csv", ",captions\n0,one\n1,two\n", 2),
        ("plain.txt", "one\n\n  two \n", 2),
    ],
)  # fmt: skip
def test_prompts_are_read_as_they_are_published(
    tmp_path: Path, name: str, content: object, texts: int
) -> None:
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    assert [prompt.text for prompt in read_prompts(file)] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "no prompts"),
        ("a.json", "[1]", "not in the form"),
        ("a.json", '{"a": {"caption": "x"}}', "not in the form"),
        ("a.json", "{", "not in the form"),
        ("a.jsonl", '{"prompt": 3}', "not in the form"),
        ("a.csv", "prompt\na\n", "not in the form"),
    ],
)
def test_a_file_of_another_form_is_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(PromptsError, match=rf"{name}.* {message}"):
        read_prompts(tmp_path / name)
    with pytest.raises(PromptsError, match=r"nowhere\.txt cannot be read"):
        read_prompts(tmp_path / "nowhere.txt")


def test_protocols() -> None:
    star = protocol_of("mjhq", "star-512")
    assert (star.per_prompt, star.seed, star.crop) == (1, 4, "random")
    assert protocol_of("geneval", "star-512").per_prompt == 4
    assert protocol_of("imagenet", "var-d16-cca").sampling["guidance_scale"] == 0
    assert protocol_of("mjhq", "star-mini").sampling == {}
    for benchmark, name in PUBLISHED:
        sampling = PRESETS[name].sampling.changed(protocol_of(benchmark, name).sampling)
        assert sampling.draft == 0


def test_images_are_drawn_once_each_and_taken_up_again(tmp_path: Path) -> None:
    engine = Engine(build_tiny_model(), slots=2)
    prompts = [Prompt("a cat"), Prompt("a dog")]
    drawings = layout(tmp_path, prompts, 2, geneval=False)
    assert [d.file.name for d in drawings] == [
        "000000-000.png", "000000-001.png", "000001-000.png", "000001-001.png"
    ]  # fmt: skip
    seen: list[int] = []

    def leave(images: int) -> None:
        seen.append(images)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(engine, prompts, drawings, seed=3, sampling=Sampling(), done=leave)
    assert [d.file.is_file() for d in drawings] == [True, True, False, False]
    first = drawings[0].file.read_bytes()
    drawings[1].file.unlink()
    seen = []
    draw(engine, prompts, drawings, seed=3, sampling=Sampling(), done=seen.append)
    assert seen == [1, 2, 1]
    assert drawings[0].file.read_bytes() == first
    fresh = layout(tmp_path / "fresh", prompts, 2, geneval=False)
    draw(engine, prompts, fresh, seed=3, sampling=Sampling())
    assert [d.file.read_bytes() for d in fresh] == [d.file.read_bytes() for d in drawings]
    assert len({d.file.read_bytes() for d in fresh}) == 4
    assert engine.free_slots == 2


def test_images_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    begin(tmp_path / "a", {"model": "x", "seed": 1})
    begin(tmp_path / "a", {"model": "x", "seed": 1})
    with pytest.raises(RunError, match="has images with seed 1, not 2"):
        begin(tmp_path / "a", {"model": "x", "seed": 2})
    (tmp_path / "b").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "b" / "0.png")
    with pytest.raises(RunError, match="has images in it already"):
        begin(tmp_path / "b", {"model": "x"})


def test_references_become_square(tmp_path: Path) -> None:
    wide = Image.linear_gradient("L").resize((80, 40)).rotate(90, expand=True).resize((80, 40))
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    wide.convert("RGB").save(tmp_path / "in" / "deeper" / "a.JPG", format="jpeg")
    Image.new("RGBA", (10, 30)).save(tmp_path / "in" / "b.png")
    files = find_references(tmp_path / "in")
    for crop in ("random", "centre"):
        prepare(files, tmp_path / crop, 20, crop)
        for file in sorted((tmp_path / crop).iterdir()):
            with Image.open(file) as image:
                assert (image.size, image.mode) == ((20, 20), "RGB")
        assert len(list((tmp_path / crop).iterdir())) == 2
    before = (tmp_path / "random" / "000000.png").stat().st_mtime_ns
    prepare(files, tmp_path / "random", 20, "random")
    assert (tmp_path / "random" / "000000.png").stat().st_mtime_ns == before
    with pytest.raises(ReferencesError, match="has no images"):
        find_references(tmp_path / "nowhere")
    (tmp_path / "in" / "c.png").write_bytes(b"no image")
    with pytest.raises(ReferencesError, match=r"c\.png is not an image"):
        prepare(find_references(tmp_path / "in"), tmp_path / "out", 20, "centre")


def test_the_frechet_distance() -> None:
    means = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    covariances = torch.diag_embed(torch.tensor([[1.0, 4.0], [9.0, 4.0]], dtype=torch.float64))
    assert frechet_distance(means[0], covariances[0], means[0], covariances[0]) == pytest.approx(0)
    # (3^2 + 4^2) + (1 - 3)^2 + (2 - 2)^2
    found = frechet_distance(means[0], covariances[0], means[1], covariances[1])
    assert found == pytest.approx(29)
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64))[0]
    turned = [turn @ c @ turn.t() for c in covariances]
    assert frechet_distance(
        turn @ means[0], turned[0], turn @ means[1], turned[1]
    ) == pytest.approx(29)


def test_the_lite_distance_compares_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def features(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3))

    monkeypatch.setattr(distances, "load_features", lambda device: features)
    for folder, greys in (("a", (10, 20)), ("b", (20, 10)), ("c", (110, 120)), ("d", (1,))):
        (tmp_path / folder).mkdir()
        for i, grey in enumerate(greys):
            Image.new("RGB", (9, 9), (grey, grey, grey)).save(tmp_path / folder / f"{i}.png")
    cpu = torch.device("cpu")
    a, b, c, d = (tmp_path / folder for folder in "abcd")
    assert distances.lite_distance(a, b, cpu) == pytest.approx(0, abs=1e-3)
    assert distances.lite_distance(a, c, cpu) == pytest.approx(3 * 100**2)
    with pytest.raises(MissingError, match="has only 1 image"):
        distances.lite_distance(a, d, cpu)


def test_what_a_score_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(
        MissingError, match=r"FID needs torch-fidelity: pip install '\.\[quality\]'"
    ):
        fid(tmp_path, tmp_path, tmp_path, cpu)
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(MissingError, match="in an environment of its own"):
        image_reward([], "ImageReward-v1.0")


def test_the_command_draws_scores_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text('{"prompt": "a red apple", "tag": "colors"}\n{"prompt": "a cat"}\n', "utf-8")
    out = tmp_path / "run"

    def run(*more: str) -> str:
        monkeypatch.setattr(
            sys,
            "argv",
            [
                *("quality", "--model", str(model), "--device", "cpu", "--prompts", str(prompts)),
                *("--out", str(out), "--benchmark", "geneval", "--clip", "none", *more),
            ],
        )
        quality.main()
        return capsys.readouterr().out

    with pytest.raises(SystemExit):
        run("--only", "score")
    assert "has 0 images, not 8; draw all first" in capsys.readouterr().err
    assert "1 prompts, 4 images, seed 0" in run("--count", "1")
    said = run()
    assert "2 prompts, 8 images, seed 0" in said
    assert "geneval: run GenEval's evaluate_images.py on" in said
    assert json.loads(said.splitlines()[-1])["images"] == 8
    assert sorted(f.name for f in (out / "images" / "00001" / "samples").iterdir()) == [
        f"{number:05d}.png" for number in range(4)
    ]
    metadata = json.loads((out / "images" / "00000" / "metadata.jsonl").read_text("utf-8"))
    assert metadata == {"prompt": "a red apple", "tag": "colors"}
    with pytest.raises(SystemExit):
        run("--draft", "1")
    assert "choose another --out" in capsys.readouterr().err
