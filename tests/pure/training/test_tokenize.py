"""Shards of tokenized scenes: written whole, continued where they end, read as one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.text_encoder import TextConditioning
from star_model.networks.tokenizers import build_tokenizer
from tests.training.fake_data import write_fake_data
from training import tokenize as tokenizing
from training.pictures import ScenePictures
from training.recipe import MODEL, TOKENIZER
from training.scenes import SceneGenerator
from training.tokenize import (
    SceneEncoder,
    TokenSet,
    refuse_others,
    tokenize,
    trained_weights,
)

VOCABULARY = "full"


class Letters:
    """A text encoder: one position a letter, at most as many as a caption may have."""

    def encode(self, prompts: list[str]) -> list[TextConditioning]:
        width = tokenizing.TEXT_TOKENS
        letters = [
            prompt[: width - 1] + "." for prompt in prompts
        ]  # the empty prompt has a position too
        hidden = [
            torch.tensor([*map(ord, text), *[7] * (width - len(text))]).float() for text in letters
        ]
        return [
            TextConditioning(
                hidden=values.unsqueeze(1), mask=torch.arange(width) < len(text), pooled=values[:1]
            )
            for text, values in zip(letters, hidden, strict=True)
        ]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tokenizing, "SHARD", 3)
    monkeypatch.setattr(tokenizing, "load_text_encoder", lambda *_, **__: Letters())
    monkeypatch.setattr(tokenizing, "load_tokenizer", small_tokenizer)
    return write_fake_data(tmp_path / "data")


def small_tokenizer(_directory: Path, _device: torch.device) -> ImageTokenizer:
    torch.manual_seed(0)
    config = dataclasses.replace(
        TOKENIZER, width=16, encoder_blocks=1, decoder_blocks=1, num_heads=1, refine_channels=8
    )
    return build_tokenizer(dataclasses.replace(MODEL, tokenizer=config)).eval()


def encoder(data: Path, seed: int = 0, captions: int = 1) -> SceneEncoder:
    scenes = ScenePictures(data, seed=seed, vocabulary=VOCABULARY, max_objects=1)
    return SceneEncoder(data, data, scenes, captions)


def contents(directory: Path) -> list[tuple[bytes, bytes, int, bytes]]:
    scenes = TokenSet(directory)
    return [
        (tokens.tobytes(), hidden.tobytes(), length, pooled.tobytes())
        for tokens, (hidden, length, pooled) in (scenes[i] for i in range(len(scenes)))
    ]


def test_a_set_that_is_continued_equals_one_made_at_once(tmp_path: Path, data: Path) -> None:
    tokenize(encoder(data), tmp_path / "once", count=5)
    tokenize(encoder(data), tmp_path / "parts", count=2)
    # What a stop in the second shard leaves behind.
    (tmp_path / "parts" / "00000002.partial").mkdir()
    tokenize(encoder(data), tmp_path / "parts", count=5)
    once = contents(tmp_path / "once")
    assert len(once) == 5  # as many as were asked for
    assert once == contents(tmp_path / "parts")
    assert len(set(once)) > 1


def test_rows_are_the_scenes_and_captions_of_their_index(tmp_path: Path, data: Path) -> None:
    tokenize(encoder(data), tmp_path / "out", count=6)
    scenes, generator = (
        TokenSet(tmp_path / "out"),
        SceneGenerator(data, seed=0, vocabulary=VOCABULARY),
    )
    captions = [
        caption
        for shard in tokenizing.shards_of(tmp_path / "out")
        for caption in json.loads((shard / "captions.json").read_text())
    ]
    for i in (0, 4, 5):
        tokens, (hidden, length, pooled) = scenes[i]
        caption = generator.scene(i).caption
        assert captions[i] == caption
        assert chr(int(pooled[0])) == caption[0]
        assert length == min(len(caption), tokenizing.TEXT_TOKENS - 1) + 1
        assert not hidden[length:].any()
        assert tokens.shape == (853,)
        assert tokens.dtype == np.uint16
    assert scenes.empty[1] == 1


def test_a_scene_has_its_captions_in_turn(tmp_path: Path, data: Path) -> None:
    tokenize(encoder(data, captions=2), tmp_path / "out", count=3)
    scenes, generator = (
        TokenSet(tmp_path / "out"),
        SceneGenerator(data, seed=0, vocabulary=VOCABULARY),
    )
    captions = json.loads((tmp_path / "out" / "00000000" / "captions.json").read_text())
    assert captions[2:4] == generator.captions(1, 2)
    for turn in range(4):
        tokens, (_, length, pooled) = scenes.captioned(1, turn)
        caption = captions[2 + turn % 2]
        assert chr(int(pooled[0])) == caption[0]
        assert length == min(len(caption), tokenizing.TEXT_TOKENS - 1) + 1
        assert np.array_equal(tokens, scenes[1][0])


def test_scenes_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    refuse_others(tmp_path, {"seed": 1})
    refuse_others(tmp_path, {"seed": 1})
    with pytest.raises(SystemExit, match=r'made with \{"seed": 1\}'):
        refuse_others(tmp_path, {"seed": 2})


def test_an_empty_directory_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run training\.tokenize first"):
        TokenSet(tmp_path)


def test_weights_come_from_a_run_or_from_a_model(tmp_path: Path) -> None:
    torch.save({"average": {"a": torch.ones(2)}}, tmp_path / "state.pt")
    assert torch.equal(
        trained_weights(tmp_path, "transformer.safetensors", "average")["a"], torch.ones(2)
    )
    shipped = Path(__file__).parents[3] / "weights" / "star-mini"
    weights = trained_weights(shipped, "vqvae.safetensors", "model")
    assert weights["quantizer.codebook.weight"].dtype == torch.float32
    with pytest.raises(FileNotFoundError, match="neither a run"):
        trained_weights(tmp_path / "nothing", "vqvae.safetensors", "model")
