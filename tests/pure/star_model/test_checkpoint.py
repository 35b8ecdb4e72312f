from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from star_model.checkpoints import native as checkpoint
from star_model.checkpoints.native import load_model, read_config
from star_model.checkpoints.saving import save_model
from star_model.engine.engine import Engine
from star_model.errors import CheckpointError, ConfigError
from star_model.model import StarModel
from star_model.networks.precision import choose_device
from star_model.networks.text_encoder import TransformersTextEncoder
from star_model.sampling import Sampling
from tests.star_model.tiny import (
    build_tiny_model,
    class_conditional,
    tiny_bert,
    tiny_config,
    write_tiny_model,
)

FILES = {
    "config.json",
    "transformer.safetensors",
    "vqvae.safetensors",
    "text_encoder",
    "SHA256SUMS",
}


@pytest.fixture
def copied(tiny_directory: Path, tmp_path: Path) -> Path:
    """A model directory that may be damaged."""
    shutil.copytree(tiny_directory, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def saved() -> StarModel:
    """What ``tiny_directory`` was written from."""
    return build_tiny_model(text_encoder=tiny_bert())


def tokens(model: StarModel, prompt: str = "a red apple") -> list[int]:
    engine = Engine(model, slots=1)
    sequence = engine.prepare(model.text_encoder.encode([prompt])[0], Sampling(), seed=3)
    while not sequence.done:
        engine.step([sequence])
    drawn: list[int] = torch.cat(sequence.tokens).tolist()
    return drawn


# ---- what is right ---------------------------------------------------------------------------------------


def test_round_trip(tiny_directory: Path, saved: StarModel) -> None:
    assert {p.name for p in tiny_directory.iterdir()} == FILES
    model = load_model(tiny_directory, device="cpu", dtype="float32", verify=True)
    assert model.config == saved.config
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    for ours, theirs in ((model.transformer, saved.transformer), (model.vqvae, saved.vqvae)):
        assert not ours.training
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
            assert not tensor.requires_grad
            assert not tensor.is_meta
    assert torch.equal(model.transformer.rope, saved.transformer.rope)
    assert tokens(model) == tokens(saved)


def test_round_trip_of_a_class_conditional_model(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "model", **class_conditional())
    assert {p.name for p in directory.iterdir()} == FILES - {"text_encoder"}
    model = load_model(directory, device="cpu", dtype="float32", verify=True)
    assert model.config == tiny_config(**class_conditional())
    assert tokens(model, "goldfish") == tokens(build_tiny_model(model.config), "1")
    save_model(model, tmp_path / "again", dtype="float16")
    assert load_model(tmp_path / "again", device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_a_loaded_model_needs_its_files_no_more(copied: Path, saved: StarModel) -> None:
    model = load_model(copied, device="cpu", dtype="float32")
    for file in copied.glob("*.safetensors"):
        file.write_bytes(b"\0" * file.stat().st_size)  # in place: a memory map would see it
    assert tokens(model) == tokens(saved)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_dtype_is_the_transformers_and_the_decoders(
    tiny_directory: Path, dtype: str | torch.dtype
) -> None:
    model = load_model(tiny_directory, device="cpu", dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert model.dtype == expected
    assert {p.dtype for p in model.transformer.parameters()} == {expected}
    assert model.transformer.rope.dtype == torch.float32
    assert {p.dtype for p in model.vqvae.decoder.parameters()} == {torch.bfloat16}
    parts = dict(model.vqvae.named_children())
    for name in ("encoder", "quant_conv", "quantizer"):
        assert {p.dtype for p in parts[name].parameters()} == {torch.float32}
    assert isinstance(model.text_encoder, TransformersTextEncoder)
    assert {p.dtype for p in model.text_encoder.model.parameters()} == {torch.float32}
    assert len(tokens(model)) == 79


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_files_in_half_precision_load_into_any(
    saved: StarModel, tmp_path: Path, dtype: str
) -> None:
    save_model(saved, tmp_path / "half", dtype=dtype)
    half = getattr(torch, dtype)
    for file in (tmp_path / "half").rglob("*.safetensors"):
        assert {t.dtype for t in load_file(file).values()} == {half}
    model = load_model(tmp_path / "half", device="cpu", dtype="float32")
    assert {p.dtype for p in model.transformer.parameters()} == {torch.float32}
    expected = saved.transformer.head.weight.to(half).float()
    assert torch.equal(model.transformer.head.weight, expected)
    assert saved.transformer.head.weight.dtype == torch.float32


def test_saving_again_gives_the_same_files(tiny_directory: Path, tmp_path: Path) -> None:
    save_model(load_model(tiny_directory, device="cpu", dtype="float32"), tmp_path / "again")
    assert (tmp_path / "again" / "SHA256SUMS").read_text() == (
        tiny_directory / "SHA256SUMS"
    ).read_text()


def test_an_attention_backend_can_be_asked_for(tiny_directory: Path) -> None:
    assert load_model(tiny_directory, device="cpu", attention="sdpa").transformer is not None
    with pytest.raises(ConfigError, match="unknown attention backend"):
        load_model(tiny_directory, device="cpu", attention="magic")


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="device must be auto, cpu"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="device cuda:99 is not there"):
        choose_device("cuda:99")


# ---- what is wrong ---------------------------------------------------------------------------------------


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", sorted(FILES - {"SHA256SUMS", "text_encoder"}))
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_model(copied, device="cpu")


def test_a_missing_text_encoder_is_named(copied: Path) -> None:
    shutil.rmtree(copied / "text_encoder")
    with pytest.raises(CheckpointError, match=r"text_encoder.*config\.json is missing"):
        load_model(copied, device="cpu")


@pytest.mark.parametrize("name", ["transformer.safetensors", "vqvae.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 200, -10])
def test_a_damaged_file_is_named(copied: Path, name: str, keep: int) -> None:
    (copied / name).write_bytes((copied / name).read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=f"{name} is damaged or incomplete"):
        load_model(copied, device="cpu")


Change = Callable[[dict[str, Tensor]], None]


def drop(name: str) -> Change:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, tensor: Tensor) -> Change:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "transformer",
            drop("head.bias"),
            r"transformer\.safetensors: tensor head\.bias is missing",
        ),
        ("transformer", put("extra", torch.zeros(1)), "tensor extra is unexpected"),
        (
            "transformer",
            put("head.bias", torch.zeros(97)),
            r"head\.bias has shape \(97,\), expected \(96,\)",
        ),
        (
            "transformer",
            put("head.bias", torch.zeros(96, dtype=torch.int32)),
            r"head\.bias has type I32, not a float",
        ),
        (
            "vqvae",
            drop("quant_conv.bias"),
            r"vqvae\.safetensors: tensor quant_conv\.bias is missing",
        ),
    ],
)
def test_a_wrong_tensor_is_named(copied: Path, name: str, change: Change, message: str) -> None:
    file = copied / f"{name}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=message):
        load_model(copied, device="cpu")


def test_several_missing_tensors_are_counted(copied: Path) -> None:
    save_file({"head.bias": torch.zeros(96)}, copied / "transformer.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor blocks\.0\..* \(and \d\d more\) is missing"):
        load_model(copied, device="cpu")


def test_shapes_are_checked_before_data_is_read(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another model must not first fill the memory."""
    tensors = load_file(copied / "transformer.safetensors")
    save_file(
        {**tensors, "text_projection.bias": torch.zeros(3)}, copied / "transformer.safetensors"
    )
    opened: Any = safe_open
    read: list[str] = []

    class Watched:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = opened(*args, **kwargs)

        def __enter__(self) -> Any:
            self.file = self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            if name == "get_tensor":
                read.append(name)
            return getattr(self.file, name)

    monkeypatch.setattr(checkpoint, "safe_open", Watched)
    with pytest.raises(CheckpointError, match=r"text_projection\.bias has shape"):
        load_model(copied, device="cpu")
    assert not read


def rewrite(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((directory / "config.json").read_text())
    change(data)
    (directory / "config.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.update(format=3),
            r"config\.json has format 3, this version of star_model reads up to 2",
        ),
        (lambda d: d.pop("format"), r'it has no whole number "format"'),
        (lambda d: d.update(format="1"), r'it has no whole number "format"'),
        (lambda d: d.update(colour="red"), r"config\.json: unknown key colour"),
        (lambda d: d["transformer"].pop("depth"), r"config\.json: missing key transformer\.depth"),
        (
            lambda d: d["tokenizer"].update(vocab_size=0),
            r"config\.json: tokenizer\.vocab_size must be at least 1",
        ),
        (lambda d: d.update(patch_nums=[1, 3, 2]), r"config\.json: patch_nums must not decrease"),
    ],
)
def test_a_wrong_configuration_is_named(
    copied: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewrite(copied, change)
    with pytest.raises(CheckpointError, match=message):
        read_config(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_bad_json(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json is not"):
        read_config(copied)


def test_a_text_encoder_of_another_model(copied: Path) -> None:
    shutil.rmtree(copied / "text_encoder")
    tiny_bert(hidden_size=16).save(copied / "text_encoder")
    with pytest.raises(CheckpointError, match="hidden states have width 16, expected 32"):
        load_model(copied, device="cpu")
    shutil.rmtree(copied / "text_encoder")
    tiny_bert(max_tokens=8).save(copied / "text_encoder")
    with pytest.raises(CheckpointError, match="has 8 positions, expected at least 12"):
        load_model(copied, device="cpu")


@pytest.mark.parametrize("dtype", ["float64", torch.int8, "half"])
def test_an_unknown_dtype(tiny_directory: Path, dtype: str | torch.dtype) -> None:
    with pytest.raises(ConfigError, match="dtype must be one of float32, float16, bfloat16"):
        load_model(tiny_directory, device="cpu", dtype=dtype)


# ---- checksums -------------------------------------------------------------------------------------------


def test_checksums(copied: Path) -> None:
    load_model(copied, device="cpu", verify=True)
    data = bytearray((copied / "vqvae.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "vqvae.safetensors").write_bytes(data)
    load_model(copied, device="cpu")  # well-formed, so only the sum can tell
    with pytest.raises(CheckpointError, match=r"vqvae\.safetensors differs from its SHA-256 sum"):
        load_model(copied, device="cpu", verify=True)
    (copied / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="SHA256SUMS is missing"):
        load_model(copied, device="cpu", verify=True)


def test_checksums_are_in_the_usual_form(tiny_directory: Path) -> None:
    lines = (tiny_directory / "SHA256SUMS").read_text().splitlines()
    names = [line[66:] for line in lines]
    assert all(line[64:66] == "  " for line in lines)
    assert set(names) == {
        p.relative_to(tiny_directory).as_posix() for p in tiny_directory.rglob("*") if p.is_file()
    } - {"SHA256SUMS"}


# ---- saving ----------------------------------------------------------------------------------------------


def test_nothing_is_half_written(
    saved: StarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(TransformersTextEncoder, "save", fails)
    with pytest.raises(OSError, match="no space left"):
        save_model(saved, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_model_is_not_overwritten_by_accident(saved: StarModel, copied: Path) -> None:
    before = (copied / "SHA256SUMS").read_text()
    with pytest.raises(CheckpointError, match="is not empty"):
        save_model(saved, copied)
    assert (copied / "SHA256SUMS").read_text() == before
    file = copied.parent / "file"
    file.touch()
    with pytest.raises(CheckpointError, match="is not a directory"):
        save_model(saved, file)


def test_overwriting_keeps_what_is_not_the_models(saved: StarModel, copied: Path) -> None:
    (copied / "MODEL_CARD.md").write_text("a card")
    (copied / "licenses").mkdir()
    (copied / "licenses" / "MIT").write_text("a licence")
    (copied / "text_encoder" / "stale").touch()
    renamed = replace(saved, config=replace(tiny_config(), name="renamed"))
    save_model(renamed, copied, overwrite=True)
    assert read_config(copied).name == "renamed"
    assert {p.name for p in copied.iterdir()} == FILES | {"MODEL_CARD.md", "licenses"}
    assert (copied / "licenses" / "MIT").read_text() == "a licence"
    assert not (copied / "text_encoder" / "stale").exists()
    assert [p.name for p in copied.parent.iterdir()] == ["model"]
    load_model(copied, device="cpu", verify=True)


def test_others_may_read_it(tiny_directory: Path) -> None:
    """A server in a container is often another user than the one who converted."""
    probe = tiny_directory.parent / "probe"
    probe.mkdir()
    assert stat.S_IMODE(tiny_directory.stat().st_mode) == stat.S_IMODE(probe.stat().st_mode)
    probe.rmdir()
    readers = stat.S_IMODE(tiny_directory.stat().st_mode) & 0o444
    for file in tiny_directory.rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o444 == readers, file.name


def test_only_encoders_with_files_can_be_saved(tiny_model: StarModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a HashTextEncoder cannot be saved"):
        save_model(tiny_model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_half_precision_where_the_processor_is_fast_at_it(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr("star_model.networks.precision.has_fast_bfloat16", lambda: fast)
    model = load_model(tiny_directory, device="cpu", dtype="auto")
    expected = torch.bfloat16 if fast else torch.float32
    assert model.dtype == expected
    assert model.dtype_name == ("bfloat16" if fast else "float32")
    for network in (model.transformer, model.vqvae.decoder):
        assert {p.dtype for p in network.parameters()} == {expected}
    for other in (model.vqvae.quantizer, model.vqvae.encoder, model.text_encoder.model):  # type: ignore[attr-defined]
        assert {p.dtype for p in other.parameters()} == {torch.float32}


def test_a_failed_replacement_leaves_the_old_model(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    shutil.copytree(tiny_directory, path)
    before = {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    model = load_model(path, device="cpu")
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="the disk is gone"):
        save_model(model, path, dtype="float16", overwrite=True)
    after = {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    assert after == before
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1e999}', "\x00", '{"format": ' + "9" * 5000 + "}"]
)
def test_a_hostile_configuration_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)
