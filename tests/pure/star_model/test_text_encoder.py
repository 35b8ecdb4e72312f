from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from star_model.config import TextEncoderConfig
from star_model.errors import CheckpointError, UnknownClassError
from star_model.networks.text_encoder import (
    ClassConditioning,
    ClassEncoder,
    TransformersTextEncoder,
    load_published_clip,
    load_text_encoder,
)
from tests.star_model.tiny import MAX_TOKENS, tiny_bert, write_tiny_clip

CPU = torch.device("cpu")
CLIP = TextEncoderConfig("clip", 16)


@pytest.fixture(scope="module")
def bert() -> TransformersTextEncoder:
    return tiny_bert()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip") / "CLIP", hidden_size=24, max_tokens=16)


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> TransformersTextEncoder:
    return load_published_clip(clip_folder, CLIP, dtype=torch.float32)


@pytest.mark.parametrize(
    ("family", "width", "length"), [("bert", 32, MAX_TOKENS), ("clip", 24, 16)]
)
def test_shapes(family: str, width: int, length: int, request: pytest.FixtureRequest) -> None:
    encoder: TransformersTextEncoder = request.getfixturevalue(family)
    for prompt in ("", "red apple", "a" * 500, "🍎🍏", "תפוח אדום", "\n\t "):
        (text,) = encoder.encode([prompt])
        assert (text.hidden.shape, text.hidden.dtype) == ((length, width), torch.float32)
        assert (text.mask.shape, text.mask.dtype) == ((length,), torch.bool)
        assert text.pooled.shape == (width,)
        assert text.hidden.isfinite().all()
        assert text.mask[:2].all()  # start and end, at least


@pytest.mark.parametrize("family", ["bert", "clip"])
def test_a_prompt_does_not_depend_on_the_others(
    family: str, request: pytest.FixtureRequest
) -> None:
    encoder: TransformersTextEncoder = request.getfixturevalue(family)
    prompts = ["red", "a b c d e f", ""]
    for together, prompt in zip(encoder.encode(prompts), prompts, strict=True):
        (alone,) = encoder.encode([prompt])
        assert torch.equal(together.hidden, alone.hidden)
        assert torch.equal(together.pooled, alone.pooled)
        assert torch.equal(together.mask, alone.mask)


CONTROL_TOKENS = ("[SEP]", "[MASK]", "[PAD]", "[CLS]", "[UNK]", "<|endoftext|>", "<|startoftext|>")


def control_ids(encoder: TransformersTextEncoder, prompt: str) -> list[int]:
    """The control tokens among those that the model is given for a prompt."""
    given: list[int] = []
    take = encoder.model.register_forward_pre_hook(
        lambda _, __, inputs: given.extend(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    with take:
        encoder.encode([prompt])
    vocabulary = encoder.tokenizer.get_vocab()
    # [UNK] stands for letters that a small vocabulary lacks.
    special = {vocabulary.get(token) for token in CONTROL_TOKENS if token != "[UNK]"}
    return [token for token in given if token in special]


@pytest.fixture(scope="module")
def default() -> TransformersTextEncoder:
    folder = Path(__file__).parents[3] / "weights" / "star-mini" / "text_encoder"
    config = TextEncoderConfig("sentence", 48)
    return load_text_encoder(folder, config, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("family", ["bert", "clip", "default"])
@pytest.mark.parametrize("token", [*CONTROL_TOKENS, "<s>", "</s>", "[sep]", "<|ENDOFTEXT|>"])
def test_a_control_token_in_a_prompt_is_text(
    family: str, token: str, request: pytest.FixtureRequest
) -> None:
    encoder: TransformersTextEncoder = request.getfixturevalue(family)
    plain = control_ids(encoder, "a red apple")
    assert len(plain) == 2, "the start and the end"
    assert control_ids(encoder, f"red {token}") == plain
    with_token, without = encoder.encode([f"red {token}", "red"])
    assert not torch.equal(with_token.pooled, without.pooled), "it is read, not dropped"
    both = encoder.pooled([f"red {token}", "red"])
    torch.testing.assert_close(both, torch.stack([with_token.pooled, without.pooled]))


def test_other_prompts_keep_the_tokens_that_the_model_was_trained_with(
    clip: TransformersTextEncoder, bert: TransformersTextEncoder
) -> None:
    """The published CLIP pads with an exclamation mark, and so reads one as that token."""
    for encoder in (clip, bert):
        for prompt in ("red apple!", "red [sep", "\u2603", ""):
            assert not encoder._names_special_tokens([prompt]) or encoder is bert
            ids = encoder.tokenizer(prompt, return_tensors="pt")
            expected = encoder.model(**ids).last_hidden_state[0]
            (text,) = encoder.encode([prompt])
            assert torch.equal(text.hidden[: len(expected)], expected)


def test_sentence_pooling_is_the_normalised_mean(bert: TransformersTextEncoder) -> None:
    (text,) = bert.encode(["red apple"])
    assert text.mask.tolist() == [True] * 4 + [False] * (MAX_TOKENS - 4)
    mean = text.hidden[:4].mean(0)
    torch.testing.assert_close(text.pooled, mean / mean.norm())


def test_clip_pools_the_end_of_the_text(clip: TransformersTextEncoder) -> None:
    (text,) = clip.encode(["red"])
    assert text.mask.tolist() == [True] * 3 + [False] * 13
    assert torch.equal(text.pooled, text.hidden[2])


def test_bert_without_its_mask_would_differ(bert: TransformersTextEncoder) -> None:
    """Padding must not leak: the same prompt in a longer window has the same features."""
    (short,) = bert.encode(["red apple"])
    longer = TransformersTextEncoder(bert.model, bert.tokenizer, TextEncoderConfig("sentence", 6))
    (other,) = longer.encode(["red apple"])
    torch.testing.assert_close(short.hidden[:4], other.hidden[:4])
    torch.testing.assert_close(short.pooled, other.pooled)


@pytest.mark.parametrize(
    ("prompt", "truncated"),
    [
        ("", ""),
        ("red apple", ""),
        ("red " * 10, ""),  # 10 words and two special tokens: exactly full
        ("red " * 11, "red"),
        ("red green blue cat, a b c d e f g h", "f g h"),
        ("a b c d e f g h i 🍎 🍏 🍎", "🍏 🍎"),
        ("a b c d e f g h i j אדום תפוח", "אדום תפוח"),
        ("red apple \u200f", ""),  # a mark without a token is not something that was cut
        ("red apple" + " " * 500, ""),
    ],
)
def test_bert_reports_what_it_cut(
    bert: TransformersTextEncoder, prompt: str, truncated: str
) -> None:
    assert bert.encode([prompt])[0].truncated == truncated


@pytest.mark.parametrize(
    ("prompt", "truncated"),
    [
        ("red apple", ""),
        ("red " * 14, ""),
        ("red " * 15, "red"),
        ("🍎" * 3, ""),  # four bytes each, a token a byte
        ("red red red 🍎🍎🍎", "🍎"),  # cut inside the last one: all of it is reported
        ("ab אדום אדום", "ום"),
    ],
)
def test_clip_reports_what_it_cut(
    clip: TransformersTextEncoder, prompt: str, truncated: str
) -> None:
    assert clip.encode([prompt])[0].truncated == truncated


def test_what_was_cut_has_no_influence(clip: TransformersTextEncoder) -> None:
    short, long = clip.encode(["red " * 14, "red " * 14 + "apple"])
    assert torch.equal(short.hidden, long.hidden)
    assert (short.truncated, long.truncated) == ("", "apple")


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_save_and_load(
    bert: TransformersTextEncoder, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    bert.save(tmp_path, dtype)
    again = load_text_encoder(tmp_path, bert.config, device=CPU, dtype=torch.float32)
    assert next(again.model.parameters()).dtype == torch.float32
    assert next(bert.model.parameters()).dtype == torch.float32
    before, after = bert.encode(["red cat"])[0], again.encode(["red cat"])[0]
    tolerance = 1e-6 if dtype is None else 3e-2
    torch.testing.assert_close(before.hidden, after.hidden, atol=tolerance, rtol=tolerance)
    assert torch.equal(before.mask, after.mask)


def test_a_saved_clip_loads(clip: TransformersTextEncoder, tmp_path: Path) -> None:
    clip.save(tmp_path)
    again = load_text_encoder(tmp_path, CLIP, device=CPU, dtype=torch.float32)
    for prompt in ("", "a red apple", "🍎 אדום"):
        before, after = clip.encode([prompt])[0], again.encode([prompt])[0]
        assert torch.equal(before.mask, after.mask)
        torch.testing.assert_close(before.hidden[before.mask], after.hidden[after.mask])
        torch.testing.assert_close(before.pooled, after.pooled)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(bert: TransformersTextEncoder, tmp_path: Path, name: str) -> None:
    bert.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_text_encoder(tmp_path, bert.config, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_a_checkpoint_error(
    bert: TransformersTextEncoder, tmp_path: Path, name: str
) -> None:
    bert.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_text_encoder(tmp_path, bert.config, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 1e6},
        {"hidden_size": 10**9},
        {"vocab_size": 10**12},
        {"intermediate_size": 10**9},
        {"max_position_embeddings": -1},
        {"text_config": {"num_hidden_layers": 10**9}},
        {"text_config": []},
    ],
    ids=range(8),
)
def test_absurd_sizes_are_refused_before_anything_is_built(
    bert: TransformersTextEncoder, tmp_path: Path, change: dict[str, object]
) -> None:
    bert.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_text_encoder(tmp_path, bert.config, device=CPU, dtype=torch.float32)


def test_a_missing_tensor_is_not_made_up(bert: TransformersTextEncoder, tmp_path: Path) -> None:
    bert.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    dropped = min(tensors)
    del tensors[dropped]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks the tensor {dropped}"):
        load_text_encoder(tmp_path, bert.config, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("", "CLIP is missing"),
        ("tokenizer", "tokenizer is missing"),
        ("text_encoder/config.json", "config.json is missing"),
        ("text_encoder/model.safetensors", "model.safetensors is missing"),
        ("tokenizer/vocab.json", "vocab.json is missing"),
    ],
)
def test_an_incomplete_clip_folder(
    clip_folder: Path, tmp_path: Path, gone: str, message: str
) -> None:
    copy = tmp_path / "CLIP"
    shutil.copytree(clip_folder, copy)
    target = copy / gone if gone else copy
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(CheckpointError, match=message):
        load_published_clip(copy, CLIP, dtype=torch.float32)


def test_the_older_weights_format(
    clip: TransformersTextEncoder, clip_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "CLIP"
    shutil.copytree(clip_folder, copy)
    weights = copy / "text_encoder" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    again = load_published_clip(copy, CLIP, dtype=torch.float32)
    torch.testing.assert_close(again.encode(["red"])[0].hidden, clip.encode(["red"])[0].hidden)


def test_a_class_encoder_looks_up_classes() -> None:
    encoder = ClassEncoder(1000)
    assert encoder.encode(["golden retriever", "980", ""]) == [
        ClassConditioning(207), ClassConditioning(980), ClassConditioning(1000)
    ]  # fmt: skip
    assert (encoder.encode(["tench"])[0].num_tokens, encoder.encode(["tench"])[0].truncated) == (
        1,
        "",
    )
    with pytest.raises(UnknownClassError, match="did you mean"):
        encoder.encode(["tench", "a red apple on a blue background"])
    with pytest.raises(UnknownClassError, match="the classes are 0 to 9"):
        ClassEncoder(10).encode(["10"])
