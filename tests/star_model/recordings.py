"""The recorded models as downloads, as directories and in memory, each made once for all tests that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from star_model.checkpoints.native import load_model
from star_model.checkpoints.published import convert_published
from star_model.config import ModelConfig
from star_model.model import StarModel
from tests.star_model.golden import Golden, GoldenTextEncoder, OfficialFiles


class Recordings:
    """Makes each when it is first asked for. Files and tensors are not to be written to.

    Args:
        root: folder for their files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.files: Callable[[Golden], OfficialFiles] = cache(self._write)
        self._directory: Callable[[Golden, ModelConfig], Path] = cache(self._convert)
        self._model: Callable[[Path], StarModel] = cache(
            lambda path: load_model(path, device="cpu", dtype="float32")
        )

    def _write(self, recorded: Golden) -> OfficialFiles:
        folder = self._root / recorded.name / "official"
        folder.mkdir(parents=True)
        return recorded.write_official(folder)

    def _convert(self, recorded: Golden, config: ModelConfig) -> Path:
        transformer, vqvae, text_encoder = self.files(recorded)
        folder = self._root / recorded.name
        out = folder / f"native-{len(list(folder.iterdir()))}"
        convert_published(
            transformer=transformer,
            vqvae=vqvae,
            text_encoder=text_encoder,
            out=out,
            preset=config,
        )
        return out

    def directory(self, recorded: Golden, run: str = "generate") -> Path:
        """It, converted; an Infinity for the schedule of one of its runs."""
        config = recorded.infinity_config(run) if recorded.is_infinity else recorded.config
        return self._directory(recorded, config)

    def with_its_text_encoder(self, recorded: Golden, run: str = "generate") -> StarModel:
        """It, loaded from that directory."""
        return self._model(self.directory(recorded, run))

    def model(self, recorded: Golden, run: str = "generate") -> StarModel:
        """The same, with the recorded text features if it reads text."""
        model = self.with_its_text_encoder(recorded, run)
        return (
            model if recorded.is_var else replace(model, text_encoder=GoldenTextEncoder(recorded))
        )
