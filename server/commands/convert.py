"""``star-server convert``: a published checkpoint as a native model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Convert(BaseModel):
    """Convert the files of a published STAR, Switti or VAR checkpoint into a native model directory."""

    model_config = ConfigDict(extra="forbid")

    transformer: Path = Field(description="the transformer, a .pth or .safetensors file")
    vqvae: Path = Field(description="the VQVAE, likewise")
    text_encoder: list[Path] = Field(
        [],
        description="directory of the CLIP text encoder; given twice for the two of a Switti, the smaller first; VAR "
        "models have none",
    )
    out: Path = Field(description="directory to create")
    preset: str = Field("star-512", description="published model that the files belong to")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="type of the converted transformer's weights; that of the files when left out",
    )
    overwrite: bool = Field(False, description="replace a model that is already in the directory")
    allow_unsafe_pickle: bool = Field(
        False, description="load files that hold more than tensors; loading them can run any code"
    )

    def cli_cmd(self) -> None:
        """Convert the files and print the directory that was written."""
        from star_model.checkpoints.published import convert_published

        convert_published(
            transformer=self.transformer,
            vqvae=self.vqvae,
            text_encoder=self.text_encoder,
            out=self.out,
            preset=self.preset,
            allow_unsafe_pickle=self.allow_unsafe_pickle,
            dtype=self.dtype,
            overwrite=self.overwrite,
        )
        print(f"wrote {self.out}; serve it with: star-server serve --model {self.out}")
