"""``star-server convert``: a published checkpoint as a native model directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from star_model.config import ModelConfig
from star_model.families.registry import PRESETS


class Convert(BaseModel):
    """Convert the files of a published STAR, Switti, Infinity or VAR checkpoint into a native model directory."""

    model_config = ConfigDict(extra="forbid")

    transformer: Path = Field(
        description="the transformer: a .pth or .safetensors file, the index of several, or a folder with one"
    )
    vqvae: Path = Field(description="the VQVAE, likewise")
    text_encoder: list[Path] = Field(
        [],
        description="directory of the text encoder: CLIP for a STAR, T5 for an Infinity; given twice for the two of a "
        "Switti, the smaller first; VAR models have none",
    )
    out: Path = Field(description="directory to create")
    preset: str = Field("star-512", description="published model that the files belong to")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="type of the converted transformer's weights; that of the files when left out",
    )
    without_logit_norm: bool = Field(
        False,
        description="the transformer was trained without the norm before its head, which its tensors do not tell; all "
        "published ones were trained with it",
    )
    overwrite: bool = Field(False, description="replace a model that is already in the directory")
    allow_unsafe_pickle: bool = Field(
        False,
        description="read tensors of kinds that no published file has; this runs any code that is in the file",
    )

    def cli_cmd(self) -> None:
        """Convert the files and print the directory that was written."""
        from star_model.checkpoints.published import convert_published

        convert_published(
            transformer=self.transformer,
            vqvae=self.vqvae,
            text_encoder=self.text_encoder,
            out=self.out,
            preset=self._preset(),
            allow_unsafe_pickle=self.allow_unsafe_pickle,
            dtype=self.dtype,
            overwrite=self.overwrite,
        )
        print(f"wrote {self.out}; serve it with: star-server serve --model {self.out}")

    def _preset(self) -> str | ModelConfig:
        """The preset's configuration, changed where the checkpoint differs; a name that is unknown is left as it is."""
        config = PRESETS.get(self.preset)
        if config is None or not self.without_logit_norm:
            return self.preset
        return replace(config, transformer=replace(config.transformer, logit_norm=False))
