from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from star_model.checkpoints import hub
from star_model.checkpoints.hub import resolve_model
from star_model.checkpoints.native import read_config
from star_model.errors import CheckpointError, ModelNotFoundError
from star_model.families import infinity, star, switti, var
from star_model.families.registry import PRESETS, family_of
from tests.star_model import golden
from tests.star_model.golden import OfficialFiles
from tests.star_model.recordings import Recordings

OFFICIAL_TRANSFORMERS = {
    name: file.place
    for family in (star.FAMILY, switti.FAMILY, infinity.FAMILY, var.FAMILY)
    for name, file in family.transformer_files.items()
}
OFFICIAL_VQVAE = "vae_ch160v4096z32.pth"


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published names, with a model behind them that a test can hold."""
    for name in PRESETS:
        recorded = {
            "star": golden.STAR,
            "switti": golden.SWITTI,
            "infinity": golden.INFINITY,
            "var": golden.VAR,
        }
        small = recorded[name.partition("-")[0]].config
        monkeypatch.setitem(PRESETS, name, replace(small, name=name))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the hub cannot be reached\nand more of that")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)


@pytest.fixture
def cache(official_files: OfficialFiles, tmp_path: Path) -> Path:
    """A cache into which a user has put the files of star-512 by hand."""
    transformer, vqvae, clip = official_files
    official = tmp_path / "cache" / "official"
    official.mkdir(parents=True)
    shutil.copy(transformer, official / OFFICIAL_TRANSFORMERS["star-512"])
    shutil.copy(vqvae, official / OFFICIAL_VQVAE)
    assert isinstance(clip, Path)
    shutil.copytree(clip, official / "CLIP")
    return tmp_path / "cache"


# ---- names and paths -------------------------------------------------------------------------------------


def listed_files(error: BaseException) -> list[str]:
    """Paths that an error asks to be filled."""
    return [line.strip().partition("  from ")[0] for line in str(error).splitlines()[1:]]


def test_every_preset_has_an_official_file() -> None:
    assert OFFICIAL_TRANSFORMERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_belongs_to_its_own_family(name: str) -> None:
    families = {"star": star, "switti": switti, "infinity": infinity, "var": var}
    assert family_of(PRESETS[name]) is families[name.partition("-")[0]].FAMILY


def test_a_directory_is_itself(tiny_directory: Path) -> None:
    assert resolve_model(tiny_directory) == tiny_directory
    assert resolve_model(str(tiny_directory)) == tiny_directory


def test_a_relative_path(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_directory.parent)
    assert resolve_model(tiny_directory.name).samefile(tiny_directory)
    assert resolve_model(f"./{tiny_directory.name}").samefile(tiny_directory)


def test_a_home_directory(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_directory.parent))
    assert resolve_model(f"~/{tiny_directory.name}") == tiny_directory
    assert hub.default_cache() == tiny_directory.parent / ".cache" / "star-server"


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere does not exist"):
        resolve_model(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="nowhere does not exist"):
        resolve_model("./nowhere")
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        resolve_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "near"),
    [("star-521", "star-512"), ("STAR-1024", "star-1024"), ("starmini", "star-mini")],
)
def test_an_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"unknown model '{name}'; did you mean {near}"):
        resolve_model(name)


def test_a_name_like_no_other_lists_all() -> None:
    with pytest.raises(
        ModelNotFoundError,
        match="unknown model 'x'; known models are star-mini, star-256, star-512",
    ):
        resolve_model("x")


def test_an_embedded_model(tiny_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "star-mini").symlink_to(tiny_directory)
    assert resolve_model("star-mini", weights_dir=tmp_path) == tmp_path / "star-mini"
    with pytest.raises(ModelNotFoundError, match=r"star-mini is not in .*elsewhere"):
        resolve_model("star-mini", weights_dir=tmp_path / "elsewhere")


@pytest.mark.parametrize("place", ["weights", "star_model/_weights"])
def test_an_embedded_model_of_a_checkout_and_of_a_wheel(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "star_model" / "checkpoints" / "hub.py"))
    target = tmp_path / place / "star-mini"
    target.parent.mkdir(parents=True)
    target.symlink_to(tiny_directory)
    assert resolve_model("star-mini") == target


# ---- published models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [True, False])
def test_files_put_in_place_are_converted_once_and_without_a_network(
    cache: Path, offline: bool
) -> None:
    said: list[str] = []
    path = resolve_model("star-512", cache_dir=cache, offline=offline, progress=said.append)
    assert path == cache / "models" / "star-512"
    assert read_config(path).name == "star-512"
    assert said == ["converting star-512, once; this takes a few minutes"]
    shutil.rmtree(cache / "official")
    assert resolve_model("star-512", cache_dir=cache, offline=offline, progress=said.append) == path
    assert len(said) == 1


def test_offline_names_each_file_and_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match="star-512 cannot be fetched: this is offline"
    ) as raised:
        resolve_model("star-512", cache_dir=tmp_path, offline=True)
    official = tmp_path / "official"
    for name in (
        "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth",
        "vae_ch160v4096z32.pth",
        "CLIP/tokenizer/vocab.json",
        "CLIP/tokenizer/merges.txt",
        "CLIP/text_encoder/config.json",
        "CLIP/text_encoder/model.safetensors",
    ):
        assert str(official / name) in str(raised.value)
    assert "taocrayon/STAR" in str(raised.value)
    assert "FoundationVision/var" in str(raised.value)


def test_what_is_there_is_not_asked_for(cache: Path) -> None:
    (cache / "official" / OFFICIAL_VQVAE).unlink()
    with pytest.raises(ModelNotFoundError, match="the hub cannot be reached") as raised:
        resolve_model("star-512", cache_dir=cache)
    message = str(raised.value)
    assert str(cache / "official" / OFFICIAL_VQVAE) in message
    assert "star_rope" not in message
    assert "vocab.json" not in message
    assert "and more of that" not in message


def test_weights_that_are_not_published(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"have not published its weights .* star-256$"):
        resolve_model("star-256-d16", cache_dir=cache)


def test_a_damaged_file_is_named_and_nothing_left(cache: Path) -> None:
    (cache / "official" / OFFICIAL_VQVAE).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match=r"vae_ch160v4096z32\.pth is damaged"):
        resolve_model("star-512", cache_dir=cache)
    assert [p.name for p in (cache / "models").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("name", ["var-d16", "var-d30", "var-d36", "var-d30-cca"])
def test_a_class_conditional_model_is_two_files(
    var_files: OfficialFiles, tmp_path: Path, name: str
) -> None:
    official = tmp_path / "official"
    transformer = OFFICIAL_TRANSFORMERS[name]
    with pytest.raises(
        ModelNotFoundError, match=f"{name} cannot be fetched: this is offline"
    ) as raised:
        resolve_model(name, cache_dir=tmp_path, offline=True)
    assert listed_files(raised.value) == [
        str(official / transformer),
        str(official / OFFICIAL_VQVAE),
    ]
    assert "FoundationVision/var" in str(raised.value)
    assert "taocrayon" not in str(raised.value)
    (official / transformer).parent.mkdir(parents=True)
    shutil.copy(var_files[0], official / transformer)
    shutil.copy(var_files[1], official / OFFICIAL_VQVAE)
    assert read_config(resolve_model(name, cache_dir=tmp_path, offline=True)).name == name


def test_fetching_a_class_conditional_model(
    var_files: OfficialFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []

    def download(repository: str, filename: str, **options: Any) -> str:
        calls.append((repository, filename))
        return str({"var_d30.pth": var_files[0], OFFICIAL_VQVAE: var_files[1]}[filename])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert read_config(resolve_model("var-d30", cache_dir=tmp_path)).name == "var-d30"
    assert calls == [
        ("FoundationVision/var", "var_d30.pth"),
        ("FoundationVision/var", OFFICIAL_VQVAE),
    ]


@pytest.mark.parametrize("own_cache", [True, False])
@pytest.mark.parametrize("safetensors", [True, False])
def test_fetching(
    official_files: OfficialFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_cache: bool,
    safetensors: bool,
) -> None:
    transformer, vqvae, clip = official_files
    assert isinstance(clip, Path)
    calls: list[tuple[Any, ...]] = []

    def download(
        repository: str,
        filename: str,
        *,
        cache_dir: Path | None,
        local_files_only: bool,
        tqdm_class: type,
    ) -> str:
        calls.append((repository, filename, cache_dir, local_files_only))
        return str(
            {OFFICIAL_TRANSFORMERS["star-512"]: transformer, OFFICIAL_VQVAE: vqvae}[filename]
        )

    def snapshot(repository: str, **options: Any) -> str:
        calls.append(
            (
                repository,
                options["allow_patterns"][0],
                options["cache_dir"],
                options["local_files_only"],
            )
        )
        if "*.bin" in options["ignore_patterns"] and not safetensors:
            (tmp_path / "empty" / "CLIP").mkdir(parents=True)
            return str(tmp_path / "empty")
        return str(clip.parent)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub, "default_cache", lambda: tmp_path)
    said: list[str] = []
    path = resolve_model(
        "star-512", cache_dir=tmp_path if own_cache else None, progress=said.append
    )
    assert path == tmp_path / "models" / "star-512"
    downloads = tmp_path / "hub" if own_cache else None
    assert calls[:2] == [
        ("taocrayon/STAR", "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth", downloads, False),
        ("FoundationVision/var", "vae_ch160v4096z32.pth", downloads, False),
    ]
    assert calls[2:] == [("taocrayon/STAR", "CLIP/*", downloads, False)] * (1 if safetensors else 2)
    assert [message.split()[0] for message in said] == ["fetching"] * 3 + ["converting"]


SWITTI_PARTS = [
    "Switti/model.safetensors",
    "VQVAE-Switti/model.safetensors",
    *(
        f"clip-vit-large-patch14/{name}"
        for name in (
            "config.json",
            "model.safetensors",
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
        )
    ),
    *(
        f"CLIP-ViT-bigG-14-laion2B-39B-b160k/{name}"
        for name in (
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
        )
    ),
]


def test_a_switti_has_two_text_encoders(
    tmp_path: Path, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline each file is named; on the hub, files of the same name come from four repositories."""
    with pytest.raises(ModelNotFoundError, match="switti-512 cannot be fetched") as raised:
        resolve_model("switti-512", cache_dir=tmp_path, offline=True)
    listed = listed_files(raised.value)
    assert listed == [str(tmp_path / "official" / part) for part in SWITTI_PARTS]
    assert "  from yresearch/VQVAE-Switti, model.safetensors\n" in str(raised.value)

    files = recordings.files(golden.SWITTI)[0].parent.parent
    calls: list[tuple[str, Any]] = []

    def download(repository: str, filename: str, **options: Any) -> str:
        calls.append((repository, filename))
        return str(files / repository.partition("/")[2] / filename)

    def snapshot(repository: str, **options: Any) -> str:
        calls.append((repository, options["allow_patterns"]))
        return str(files / repository.partition("/")[2])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    path = resolve_model("switti-512", cache_dir=tmp_path)
    assert read_config(path).text_encoder.family == "clip_pair"
    assert sorted(p.name for p in (path / "text_encoder").iterdir()) == ["first", "second"]
    assert calls[:2] == [
        ("yresearch/Switti", "model.safetensors"),
        ("yresearch/VQVAE-Switti", "model.safetensors"),
    ]
    assert [repository for repository, _ in calls[2:]][:1] == ["openai/clip-vit-large-patch14"]
    assert calls[-1][0] == "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    wanted = calls[-1][1]
    assert {"config.json", "vocab.json", "model*.safetensors"} <= set(wanted)
    assert not any(pattern in ("*", "*.bin", "*.safetensors") for pattern in wanted)


INFINITY_8B_PARTS = [
    *(
        f"infinity_8b_weights/{name}"
        for name in (
            "model.safetensors.index.json",
            *(f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)),
        )
    ),
    "infinity_vae_d56_f8_14_patchify.pth",
    *(
        f"flan-t5-xl/{name}"
        for name in (
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        )
    ),
]


def test_an_infinity_in_shards(
    tmp_path: Path, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline each file is named; put there by hand, they are converted without a network."""
    small = replace(golden.INFINITY_PATCHIFY.config, name="infinity-8b")
    monkeypatch.setitem(PRESETS, "infinity-8b", small)
    with pytest.raises(ModelNotFoundError, match="infinity-8b cannot be fetched") as raised:
        resolve_model("infinity-8b", cache_dir=tmp_path, offline=True)
    listed = listed_files(raised.value)
    assert listed == [str(tmp_path / "official" / part) for part in INFINITY_8B_PARTS]

    official = tmp_path / "official"
    official.mkdir()
    transformer, vqvae, t5 = recordings.files(golden.INFINITY_PATCHIFY)
    assert isinstance(t5, Path)
    (official / "infinity_8b_weights").symlink_to(transformer)
    (official / "infinity_vae_d56_f8_14_patchify.pth").symlink_to(vqvae)
    (official / "flan-t5-xl").symlink_to(t5)
    path = resolve_model("infinity-8b", cache_dir=tmp_path, offline=True)
    config = read_config(path)
    assert (config.text_encoder.family, config.tokenizer.kind) == ("t5", "bits")
    assert config == small


def test_two_processes_convert_once(cache: Path) -> None:
    said: list[str] = []
    paths: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: paths.append(
                resolve_model("star-512", cache_dir=cache, progress=said.append)
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [cache / "models" / "star-512"] * 3
    assert len(said) == 1
