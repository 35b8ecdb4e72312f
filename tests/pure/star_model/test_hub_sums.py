"""Fetching, by the hub library, from a server that answers as the hub does, and what can go wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download

from star_model.checkpoints.hub import resolve_model
from star_model.checkpoints.native import read_config
from star_model.errors import ModelNotFoundError
from star_model.families import star, var
from star_model.families.registry import PRESETS
from tests.star_model import golden
from tests.star_model.golden import OfficialFiles
from tests.star_model.hub_server import COMMIT, HubServer, running_hub

TRANSFORMER, VQVAE = "var_d30.pth", "vae_ch160v4096z32.pth"
STAR = star.FAMILY.transformer_files["star-512"].path


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published names, with a model behind them that a test can hold."""
    monkeypatch.setitem(PRESETS, "star-512", replace(golden.STAR.config, name="star-512"))
    monkeypatch.setitem(PRESETS, "var-d30", replace(golden.VAR.config, name="var-d30"))


@pytest.fixture
def hub(
    official_files: OfficialFiles, var_files: OfficialFiles, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub with the two repositories that a STAR and a VAR come from."""
    transformer, vqvae, clip = official_files
    assert isinstance(clip, Path)
    texts = {
        f"CLIP/{file.relative_to(clip).as_posix()}": file.read_bytes()
        for file in clip.rglob("*")
        if file.is_file()
    }
    texts["CLIP/text_encoder/pytorch_model.bin"] = b"the same in an older format"
    repositories = {
        star.REPOSITORY: {STAR: transformer.read_bytes(), **texts},
        var.REPOSITORY: {TRANSFORMER: var_files[0].read_bytes(), VQVAE: vqvae.read_bytes()},
    }
    # Before it goes on with a download that was interrupted, the library waits a second.
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    with running_hub(repositories, monkeypatch) as server:
        yield server


def blobs(cache: Path, repository: str) -> Path:
    return cache / "hub" / f"models--{repository.replace('/', '--')}" / "blobs"


def refusal(name: str, cache: Path, *, offline: bool = False) -> str:
    """The first line of what a failed fetch says."""
    with pytest.raises(ModelNotFoundError) as raised:
        resolve_model(name, cache_dir=cache, offline=offline)
    return str(raised.value).splitlines()[0]


def test_every_file_is_compared_with_what_the_hub_states(hub: HubServer, tmp_path: Path) -> None:
    said: list[str] = []
    path = resolve_model("star-512", cache_dir=tmp_path, progress=said.append)
    assert read_config(path).name == "star-512"
    checked = [sentence.split()[1] for sentence in said if sentence.startswith("checking")]
    assert checked == [STAR, VQVAE, *sorted(name for name in checked if name.startswith("CLIP/"))]
    assert {"CLIP/tokenizer/vocab.json", "CLIP/text_encoder/model.safetensors"} <= set(checked)
    assert not any(name.endswith(".bin") for name in (*checked, *hub.fetched)), "not needed"


def test_a_connection_that_ends_is_taken_up_where_it_ended(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = 1000
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", piece)  # the last one is lost
    hub.faults[TRANSFORMER] = "dropped"
    half = len(hub.repositories[var.REPOSITORY][TRANSFORMER].content) // 2
    assert read_config(resolve_model("var-d30", cache_dir=tmp_path)).name == "var-d30"
    assert hub.ranges == [f"bytes={half - half % piece}-"]
    assert hub.fetched.count(TRANSFORMER) == 2


def test_a_file_that_comes_short_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.faults[TRANSFORMER] = "short"
    size = len(hub.repositories[var.REPOSITORY][TRANSFORMER].content)
    message = refusal("var-d30", tmp_path)
    assert f"should be of size {size} but has size {size // 2}" in message
    assert f"{TRANSFORMER}). Put these files in place" in message
    assert not list((tmp_path / "models").glob("var*"))
    hub.faults.clear()
    assert resolve_model("var-d30", cache_dir=tmp_path).is_dir()


def test_a_file_with_another_content_is_named_and_fetched_again(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.faults[VQVAE] = "wrong"
    found = hub.repositories[var.REPOSITORY][VQVAE]
    message = refusal("var-d30", tmp_path)
    assert f"{VQVAE} of {var.REPOSITORY} is damaged: its SHA-256 is " in message
    assert f"and the hub states {found.sha256} ({len(found.content):,} bytes" in message
    assert [blob.name for blob in blobs(tmp_path, var.REPOSITORY).iterdir()] == [
        hub.repositories[var.REPOSITORY][TRANSFORMER].sha256
    ]
    hub.faults.clear()
    assert resolve_model("var-d30", cache_dir=tmp_path).is_dir()
    assert (hub.fetched.count(TRANSFORMER), hub.fetched.count(VQVAE)) == (1, 2)


def test_a_small_file_has_gits_sum(hub: HubServer, tmp_path: Path) -> None:
    name = "CLIP/text_encoder/config.json"
    hub.faults[name] = "wrong"
    message = refusal("star-512", tmp_path)
    assert f"{name} of {star.REPOSITORY} is damaged: its Git SHA-1 is " in message
    assert hub.repositories[star.REPOSITORY][name].git_sha1 in message


@pytest.mark.parametrize("offline", [True, False])
def test_what_changed_on_the_disk_is_found(hub: HubServer, tmp_path: Path, offline: bool) -> None:
    native = resolve_model("var-d30", cache_dir=tmp_path)
    native.rename(tmp_path / "elsewhere")
    blob = blobs(tmp_path, var.REPOSITORY) / hub.repositories[var.REPOSITORY][TRANSFORMER].sha256
    content = blob.read_bytes()
    blob.write_bytes(content[: len(content) // 2])
    message = refusal("var-d30", tmp_path, offline=offline)
    assert f"{TRANSFORMER} of {var.REPOSITORY} is damaged" in message


@pytest.mark.parametrize("fault", [None, "wrong"])
def test_a_cache_without_links_asks_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda folder=None: False)
    if fault:
        hub.faults[TRANSFORMER] = "wrong"
        assert f"{TRANSFORMER} of {var.REPOSITORY} is damaged" in refusal("var-d30", tmp_path)
        return
    said: list[str] = []
    native = resolve_model("var-d30", cache_dir=tmp_path, progress=said.append)
    snapshot = blobs(tmp_path, var.REPOSITORY).parent / "snapshots" / COMMIT
    assert not (snapshot / TRANSFORMER).is_symlink()
    assert f"checking {TRANSFORMER} of {var.REPOSITORY}" in said
    native.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model("var-d30", cache_dir=tmp_path) == native, "what cannot be asked is taken"


def test_a_file_that_is_not_on_the_hub_is_said(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories = {star.REPOSITORY: {}, var.REPOSITORY: {}}
    assert "var-d30 cannot be fetched" in refusal("var-d30", tmp_path)
