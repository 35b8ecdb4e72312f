from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from star_model.checkpoints.lazy_tensor import Span
from star_model.checkpoints.native import load_model, tensor_shapes
from star_model.checkpoints.pth import read_pth
from star_model.checkpoints.published import (
    convert_published,
    transformer_sources,
    vqvae_sources,
)
from star_model.config import ModelConfig, TokenizerConfig
from star_model.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from star_model.families.registry import PRESETS, family_of
from tests.star_model import golden
from tests.star_model.golden import Golden, OfficialFiles
from tests.star_model.recordings import Recordings
from tests.star_model.tiny import tiny_config, write_tiny_clip


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {part: golden.STAR.official_state(part) for part in ("transformer", "vae")}


@dataclass
class Conversion:
    """Converts good files, of which a test may replace one, and checks that a failure leaves nothing."""

    recorded: Golden
    files: OfficialFiles
    directory: Path

    def __call__(
        self,
        *,
        transformer: Any = None,
        vae: Any = None,
        clip: Path | None = None,
        preset: str | ModelConfig | None = None,
        **options: Any,
    ) -> Path:
        paths: list[Any] = []
        for good, given in zip(self.files, (transformer, vae, clip), strict=True):
            if isinstance(given, dict):
                path = self.directory / f"changed_{len(paths)}.pth"
                torch.save(given, path)
                paths.append(path)
            else:
                paths.append(given or good)
        out = self.directory / "out" / "native"
        before = set(self.directory.rglob("*"))
        try:
            convert_published(
                transformer=paths[0] or Path(),
                vqvae=paths[1] or Path(),
                text_encoder=paths[2],
                out=out,
                preset=preset or self.recorded.config,
                **options,
            )
        except Exception:
            left = set(self.directory.rglob("*")) - before - {out.parent}
            assert not left, f"left behind: {left}"
            raise
        return out


@pytest.fixture
def convert(official_files: OfficialFiles, tmp_path: Path) -> Conversion:
    return Conversion(golden.STAR, official_files, tmp_path)


@pytest.fixture
def convert_var(var_files: OfficialFiles, tmp_path: Path) -> Conversion:
    return Conversion(golden.VAR, var_files, tmp_path)


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"trainer": {"var_wo_ddp": state}}


# ---- what is right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [*PRESETS.values(), *(g.config for g in golden.ALL)], ids=lambda config: config.name
)
def test_every_native_tensor_has_a_source_of_its_size(config: ModelConfig) -> None:
    # Blocks are alike, and to build thirty of them takes a second.
    config = replace(config, transformer=replace(config.transformer, depth=2))
    for sources, shapes in zip(
        (transformer_sources(config), vqvae_sources(config)), tensor_shapes(config), strict=True
    ):
        assert sources.keys() == shapes.keys()
        used = [name for source in sources.values() for name in source.published]
        assert len(used) == len(set(used)), "an official tensor is used twice"
        for name, source in sources.items():
            elements = sum(torch.Size(shape).numel() for _, shape in source.parts)
            assert elements == torch.Size(shapes[name]).numel(), name


@pytest.mark.parametrize("recorded", golden.ALL, ids=lambda recorded: recorded.name)
def test_the_map_covers_the_official_names(recorded: Golden) -> None:
    """With the exception of what STAR has left over from VAR."""
    family = family_of(recorded.config)
    for part, network, sources in (
        ("transformer", family.transformer, transformer_sources(recorded.config)),
        ("vae", family.vqvae, vqvae_sources(recorded.config)),
    ):
        official = {name: shape for s in sources.values() for name, shape in s.published.items()}
        parameters = recorded.description["shapes"][part]
        canonical = network.canonical(parameters)
        assert official == {
            canonical[name]: tuple(shape)
            for name, shape in parameters.items()
            if recorded.is_var or name != "class_emb.weight"
        }


def test_values_arrive_where_they_belong(
    golden_directory: Path, states: dict[str, dict[str, Tensor]]
) -> None:
    """Some by hand, of each kind; parity of the whole is in ``test_parity.py``."""
    native, official = (
        load_file(golden_directory / "transformer.safetensors"),
        states["transformer"],
    )
    block, theirs = "blocks.1.self_attention.", "blocks.1.attn."
    bias = torch.cat([official[theirs + "q_bias"], torch.zeros(128), official[theirs + "v_bias"]])
    assert torch.equal(native[block + "qkv.bias"], bias)
    assert torch.equal(
        native[block + "log_temperature"], official[theirs + "scale_mul_1H11"].view(2, 1)
    )
    assert torch.equal(native["start_position"], official["pos_start"].flatten())
    bias = torch.cat([torch.zeros(128), official["blocks.0.cross_attn.v_bias"]])
    assert torch.equal(native["blocks.0.cross_attention.kv.bias"], bias)
    native, official = load_file(golden_directory / "vqvae.safetensors"), states["vae"]
    assert torch.equal(
        native["decoder.levels.0.blocks.2.conv1.weight"],
        official["decoder.up.4.block.2.conv1.weight"],
    )
    assert torch.equal(
        native["encoder.middle.2.norm1.bias"], official["encoder.mid.block_2.norm1.bias"]
    )


@pytest.mark.parametrize(
    "recorded", [golden.VAR, golden.VAR_SHARED], ids=lambda recorded: recorded.name
)
def test_values_of_a_var_arrive_where_they_belong(recorded: Golden, recordings: Recordings) -> None:
    out = recordings.directory(recorded)
    assert {file.name for file in out.iterdir()} == {
        "config.json", "transformer.safetensors", "vqvae.safetensors", "SHA256SUMS"
    }  # fmt: skip
    native, official = (
        load_file(out / "transformer.safetensors"),
        recorded.official_state("transformer"),
    )
    assert torch.equal(native["position_embedding"], official["pos_1LC"][0])
    assert torch.equal(native["class_embedding.weight"], official["class_emb.weight"])
    assert torch.equal(native["head_modulation.weight"], official["head_nm.ada_lin.1.weight"])
    if recorded is golden.VAR:
        assert torch.equal(native["blocks.1.modulation.bias"], official["blocks.1.ada_lin.1.bias"])
    else:
        assert torch.equal(native["blocks.1.modulation_offset"], official["blocks.1.ada_gss"][0, 0])
        assert torch.equal(native["shared_modulation.bias"], official["shared_ada_lin.1.bias"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float32])
def test_dtype(convert: Conversion, dtype: str | torch.dtype) -> None:
    out = convert(dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {t.dtype for t in load_file(out / "transformer.safetensors").values()} == {expected}
    assert {t.dtype for t in load_file(out / "text_encoder" / "model.safetensors").values()} == {
        expected
    }
    assert {t.dtype for t in load_file(out / "vqvae.safetensors").values()} == {torch.float32}
    model = load_model(out, device="cpu", dtype="float32", verify=True)
    assert {p.dtype for p in model.transformer.parameters()} == {torch.float32}


def test_half_precision_files_stay_half(
    convert: Conversion, states: dict[str, dict[str, Tensor]]
) -> None:
    half = {name: tensor.half() for name, tensor in states["transformer"].items()}
    out = convert(transformer=wrapped(half))
    assert {t.dtype for t in load_file(out / "transformer.safetensors").values()} == {torch.float16}


def test_the_older_pickle_format(
    convert: Conversion, states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    old = tmp_path / "old.pth"
    torch.save(states["vae"], old, _use_new_zipfile_serialization=False)
    assert (convert(vae=old) / "vqvae.safetensors").is_file()


def test_a_bare_transformer_state_dict(
    convert: Conversion, states: dict[str, dict[str, Tensor]]
) -> None:
    assert (convert(transformer=states["transformer"]) / "config.json").is_file()


@pytest.mark.parametrize("rows", [0, 14])
def test_the_usage_statistic_may_have_any_length(
    convert: Conversion, states: dict[str, dict[str, Tensor]], rows: int
) -> None:
    convert(vae={**states["vae"], "quantize.ema_vocab_hit_SV": torch.zeros(rows, 256)})


def test_buffers_of_training_are_dropped(
    convert: Conversion, states: dict[str, dict[str, Tensor]]
) -> None:
    extra = {"lvl_1L": torch.zeros(1, 130), "attn_bias_for_masking": torch.zeros(1, 1, 130, 130)}
    out = convert(transformer=wrapped({**states["transformer"], **extra}))
    assert not extra.keys() & load_file(out / "transformer.safetensors").keys()


@pytest.mark.parametrize("given", ["index", "folder"])
def test_shards_with_an_index(
    convert: Conversion, states: dict[str, dict[str, Tensor]], tmp_path: Path, given: str
) -> None:
    index = write_shards(tmp_path / "sharded", states["transformer"])
    whole = convert(transformer=index if given == "index" else index.parent)
    other = Conversion(golden.STAR, convert.files, tmp_path / "other")()
    name = "transformer.safetensors"
    assert (whole / name).read_bytes() == (other / name).read_bytes()


def test_tensors_are_read_one_by_one_and_only_those_that_are_used(
    convert: Conversion,
    states: dict[str, dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file with an optimizer's state, which is larger than the weights, is converted in the memory of a tensor."""
    state = states["transformer"]
    content = wrapped(state)
    moments = {i: {"exp_avg": t + 1, "exp_avg_sq": t + 2} for i, t in enumerate(state.values())}
    content["trainer"]["optimizer"] = {"state": moments}
    torch.save(content, tmp_path / "training.pth")
    with zipfile.ZipFile(tmp_path / "training.pth") as archive:
        pickled = archive.getinfo("training/data.pkl").file_size
    read_span, read, most = Span.read, list[tuple[StorageWeakRef, int]](), 0

    def counted(span: Span, start: int = 0, size: int | None = None) -> Tensor:
        nonlocal most
        values = read_span(span, start, size)
        if span.file.name == "training.pth":
            read.append((StorageWeakRef(values.untyped_storage()), values.nbytes))  # type: ignore[no-untyped-call]
            most = max(most, sum(n for ref, n in read if not ref.expired()))  # type: ignore[misc, no-untyped-call]
        return values

    monkeypatch.setattr(Span, "read", counted)
    convert(transformer=tmp_path / "training.pth")
    weights = sum(tensor.nbytes for tensor in state.values())
    assert most <= max(pickled, 2 * max(tensor.nbytes for tensor in state.values()))
    # All but what is left over from VAR: once for the checksum, once for use.
    assert weights < sum(n for _, n in read) < 2 * weights + 3 * pickled


# ---- what is wrong ---------------------------------------------------------------------------------------

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def without(name: str) -> Change:
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_tensor(name: str, value: Tensor) -> Change:
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "transformer",
            without("blocks.1.ffn.fc1.bias"),
            r"tensor blocks\.1\.ffn\.fc1\.bias is missing",
        ),
        (
            "transformer",
            with_tensor("blocks.0.attn.k_bias", torch.zeros(1)),
            r"blocks\.0\.attn\.k_bias is unex",
        ),
        (
            "transformer",
            with_tensor("head_logits.weight", torch.zeros(255, 128)),
            r"tensor head_logits\.weight has shape \(255, 128\), expected \(256, 128\)",
        ),
        ("transformer", with_tensor("pos_start", torch.zeros(128)), r"expected \(1, 1, 128\)"),
        (
            "transformer",
            with_tensor("blocks.0.attn.zero_k_bias", torch.ones(128)),
            "zero_k_bias is not all zeros",
        ),
        (
            "transformer",
            with_tensor("head_logits.bias", torch.full((256,), torch.nan)),
            r"tensor head_logits\.bias holds values that are not finite",
        ),
        (
            "vae",
            without("decoder.up.2.upsample.conv.weight"),
            r"decoder\.up\.2\.upsample\.conv\.weight is missing",
        ),
        ("vae", with_tensor("loss.weight", torch.zeros(1)), r"tensor loss\.weight is unexpected"),
        (
            "vae",
            with_tensor("quantize.embedding.weight", torch.zeros(256, 16)),
            r"quantize\.embedding\.weight has shape \(256, 16\), expected \(256, 32\)",
        ),
    ],
)
def test_a_wrong_tensor_is_named(
    convert: Conversion,
    states: dict[str, dict[str, Tensor]],
    part: str,
    change: Change,
    message: str,
) -> None:
    changed = change(states[part])
    with pytest.raises(CheckpointError, match=message):
        convert(transformer=wrapped(changed)) if part == "transformer" else convert(vae=changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_logits.bias": "elsewhere.safetensors"}, r"elsewhere\.safetensors is missing"),
        ({"head_logits.bias": "../a.safetensors"}, "must name .safetensors files beside it"),
        ({"head_logits.bias": "pickle.pth"}, "must name .safetensors files beside it"),
        ({"head_logits.bias": 3}, r"weight_map\.head_logits\.bias must be a string"),
        (
            {"head_logits.bias": "1.safetensors"},
            r"1\.safetensors lacks the tensor head_logits\.bias",
        ),
        (
            {"head_logits.bias": None},
            r"0\.safetensors has the tensor head_logits\.bias, which the in",
        ),
    ],
)
def test_a_wrong_index_is_named(
    convert: Conversion,
    states: dict[str, dict[str, Tensor]],
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    index = write_shards(tmp_path / "sharded", states["transformer"])
    data = json.loads(index.read_text(encoding="utf-8"))
    placed = {**data["weight_map"], **change}
    data["weight_map"] = {name: shard for name, shard in placed.items() if shard is not None}
    index.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        convert(transformer=index)


def test_a_folder_without_an_index(convert: Conversion, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty has no \.safetensors file in it"):
        convert(transformer=tmp_path / "empty")


def write_shards(folder: Path, state: dict[str, Tensor]) -> Path:
    """Write a state dict as two shards, ``head_logits.bias`` in the first; returns the index."""
    names = sorted(state, key=lambda name: name != "head_logits.bias")
    folder.mkdir()
    placed = {}
    for i, shard in enumerate((names[:40], names[40:])):
        save_file({name: state[name] for name in shard}, folder / f"{i}.safetensors")
        placed.update(dict.fromkeys(shard, f"{i}.safetensors"))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}), encoding="utf-8")
    return index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("blocks.1.ada_lin.1.bias"), r"tensor blocks\.1\.ada_lin\.1\.bias is missing"),
        (without("class_emb.weight"), r"tensor class_emb\.weight is missing"),
        (
            with_tensor("shared_ada_lin.1.bias", torch.zeros(768)),
            r"shared_ada_lin\.1\.bias is unexpected",
        ),
        (
            with_tensor("pos_1LC", torch.zeros(1, 131, 128)),
            r"pos_1LC has shape \(1, 131, 128\), expected \(1, 130, 128\)",
        ),
        (
            with_tensor("class_emb.weight", torch.zeros(1001, 128)),
            r"class_emb\.weight has shape \(1001, 128\), expected \(11, 128\)",
        ),
    ],
)
def test_a_wrong_tensor_of_a_var_is_named(
    convert_var: Conversion, change: Change, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_var(transformer=change(golden.VAR.official_state("transformer")))


def test_a_text_encoder_is_for_texts(convert: Conversion, convert_var: Conversion) -> None:
    clip = convert.files[2]
    assert isinstance(clip, Path)
    with pytest.raises(ConfigError, match="which has no text encoder"):
        convert_var(clip=clip)
    convert.files = (*convert.files[:2], None)
    with pytest.raises(
        ConfigError, match="star-tiny is a STAR transformer, which needs the folder"
    ):
        convert()


def test_another_family_is_named(
    convert: Conversion, convert_var: Conversion, states: dict[str, dict[str, Tensor]]
) -> None:
    transformer, vqvae, _ = convert.files
    with pytest.raises(
        CheckpointError, match="a class-conditional VAR transformer, but a STAR transformer is"
    ):
        convert(transformer=convert_var.files[0])
    with pytest.raises(
        CheckpointError, match="a STAR transformer, but a class-conditional VAR transformer is"
    ):
        convert_var(transformer=transformer)
    with pytest.raises(
        CheckpointError, match="VAR transformer, but a VQVAE is expected here; are the two files"
    ):
        convert_var(vae=convert_var.files[0])
    with pytest.raises(
        CheckpointError,
        match="a VQVAE, but a STAR transformer is expected here; are the two files swapped",
    ):
        convert(transformer=vqvae)
    with pytest.raises(
        CheckpointError,
        match="a STAR transformer, but a VQVAE is expected here; are the two files swapped",
    ):
        convert(vae=transformer)
    with pytest.raises(
        CheckpointError, match=r"another family \(its first tensor is conv1\.weight\)"
    ):
        convert(transformer={"conv1.weight": torch.zeros(3)})
    for name in ("word_embed_head.weight", "head_logits2.weight", "pos_start_last"):
        with pytest.raises(
            CheckpointError,
            match=r"a STAR transformer with the causal sampler .* were never released",
        ):
            convert(transformer=wrapped({**states["transformer"], name: torch.zeros(1)}))


def test_another_size_is_named(convert: Conversion, states: dict[str, dict[str, Tensor]]) -> None:
    with pytest.raises(CheckpointError, match="has 2 blocks, but star-512 has 30"):
        convert(preset="star-512")
    longer = replace(golden.STAR.config, patch_nums=(1, 2, 3, 4, 6, 7, 8))
    with pytest.raises(CheckpointError, match="has 6 scales, but star-tiny has 7"):
        convert(preset=longer)
    larger = {**states["transformer"], "lvl_embed.weight": torch.zeros(14, 1920)}
    larger |= {"blocks.29.attn.q_bias": torch.zeros(1920)}
    with pytest.raises(
        CheckpointError, match=r"has 14 scales, but star-512 has 10; it fits star-1024$"
    ):
        convert(transformer=wrapped(larger), preset="star-512")
    with pytest.raises(ConfigError, match="star-256-d16 is not available: its authors"):
        convert(preset="star-256-d16")


def test_another_size_of_var_is_named(convert_var: Conversion) -> None:
    state = golden.VAR.official_state("transformer")
    d24 = {
        **state,
        "lvl_embed.weight": torch.zeros(10, 1536),
        "blocks.23.attn.q_bias": torch.zeros(1536),
    }
    with pytest.raises(
        CheckpointError, match=r"has 24 blocks, but var-d30 has 30; it fits var-d24 or var-d24-cca$"
    ):
        convert_var(transformer=d24, preset="var-d30")


def test_an_unknown_preset(convert: Conversion) -> None:
    with pytest.raises(
        ConfigError, match="unknown preset 'star-2048'; known are star-256, star-512, star-1024"
    ):
        convert(preset="star-2048")
    with pytest.raises(
        ConfigError, match="dtype must be one of float32, float16, bfloat16, got 'int8'"
    ):
        convert(dtype="int8")
    tokenizer = golden.STAR.config.tokenizer
    assert isinstance(tokenizer, TokenizerConfig)
    shallow = replace(golden.STAR.config, tokenizer=replace(tokenizer, num_phi=5))
    with pytest.raises(CheckpointError, match=r"quantize\.quant_resi\.qresi_ls\.4\.bias"):
        convert(preset=shallow)


def test_a_text_encoder_of_another_width(convert: Conversion, tmp_path: Path) -> None:
    clip = write_tiny_clip(tmp_path / "other", hidden_size=32)
    with pytest.raises(CheckpointError, match="hidden states have width 32, expected 48"):
        convert(clip=clip)
    with pytest.raises(CheckpointError, match="nowhere is missing"):
        convert(clip=tmp_path / "nowhere")


# ---- what is damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 1])
def test_missing_and_damaged_files(convert: Conversion, tmp_path: Path, part: int) -> None:
    whole = convert.files[:2][part].read_bytes()
    bad = tmp_path / "bad.pth"
    with pytest.raises(CheckpointError, match=r"bad\.pth is missing"):
        convert(transformer=bad) if part == 0 else convert(vae=bad)
    with pytest.raises(CheckpointError, match=r"bad\.pth and \S*worse\.pth are missing"):
        convert(transformer=bad, vae=tmp_path / "worse.pth")
    for damage in (
        b"",
        whole[: len(whole) // 2],
        whole[:-30],
        b"\x80\x02garbage",
        b"<html>404</html>",
        os.urandom(99),
    ):
        bad.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"bad\.pth is damaged or incomplete"):
            convert(transformer=bad) if part == 0 else convert(vae=bad)


def test_no_advice_to_load_a_damaged_file_unsafely(tmp_path: Path) -> None:
    """PyTorch gives it where an old pickle is damaged."""
    legacy = tmp_path / "legacy.pth"
    torch.save({"a": torch.zeros(3)}, legacy, _use_new_zipfile_serialization=False)
    whole = legacy.read_bytes()
    for damage in (
        whole[:40],
        whole[:-8],
        b"\x80\x02}q\x00.",
        whole.replace(b"FloatStorage", b"FlootStorage"),
    ):
        legacy.write_bytes(damage)
        with pytest.raises(CheckpointError) as error:
            read_pth(legacy)
        assert "weights_only" not in str(error.value)


def test_a_flipped_byte(convert: Conversion, tmp_path: Path) -> None:
    data = bytearray(convert.files[0].read_bytes())
    data[len(data) // 2] ^= 1
    bad = tmp_path / "bad.pth"
    bad.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"the checksum of .* is wrong"):
        convert(transformer=bad)


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"trainer": {}}, {"trainer": {"var_wo_ddp": 3}}, {"a": "b"}]
)
def test_no_state_dict(convert: Conversion, tmp_path: Path, content: Any) -> None:
    bad = tmp_path / "bad.pth"
    torch.save(content, bad)
    with pytest.raises(CheckpointError, match="does not hold a state dict"):
        convert(transformer=bad)


class Marker:
    """An object whose unpickling runs code, which leaves a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_other_objects_beside_the_weights_run_nothing(
    convert: Conversion, states: dict[str, dict[str, Tensor]], tmp_path: Path, zipped: bool
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "with_objects.pth"
    content = {**wrapped(states["transformer"]), "args": Marker(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    convert(transformer=file)
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_runs_only_if_allowed(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, zipped: bool
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "unsafe.pth"
    state = {**states["transformer"], "head_logits.bias": torch.eye(2).to_sparse()}
    content = {**wrapped(state), "args": Marker(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"head_logits\.bias.*--allow-unsafe-pickle"):
        read_pth(file)
    assert not mark.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library may remark on what is asked of it
        assert read_pth(file, allow_unsafe_pickle=True).keys() == states["transformer"].keys()
    assert mark.exists()


def test_a_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "plain.pth"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError):
        read_pth(file)


# ---- where it goes ---------------------------------------------------------------------------------------


def test_an_output_in_use_is_refused_before_any_work(convert: Conversion, tmp_path: Path) -> None:
    out = tmp_path / "out" / "native"
    out.mkdir(parents=True)
    (out / "precious").write_text("keep")
    with pytest.raises(CheckpointError, match="is not empty"):
        convert(transformer=tmp_path / "missing")
    assert (out / "precious").read_text() == "keep"
    convert(overwrite=True)
    assert (out / "precious").read_text() == "keep"
    assert (out / "config.json").is_file()


def test_only_published_architectures(convert: Conversion) -> None:
    config = tiny_config()
    assert vqvae_sources(config).keys() == tensor_shapes(config)[1].keys()
