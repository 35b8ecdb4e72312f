"""The settings of models and of their workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.setting_values import are_models, split_models
from server.settings_file import ENV_PREFIX

CONFIG = SettingsConfigDict(
    env_prefix=ENV_PREFIX,
    extra="forbid",
    frozen=True,
    protected_namespaces=("model_validate", "model_dump"),
)
"""Of all groups of settings."""


class OneModel(BaseSettings):
    """The model of a command or a worker."""

    model_config = CONFIG

    model: str = Field("star-mini", min_length=1, description="name or directory of a model")


class SeveralModels(BaseSettings):
    """The models of a server."""

    model_config = CONFIG

    model: Annotated[
        list[str], NoDecode, BeforeValidator(split_models), AfterValidator(are_models)
    ] = Field(
        ["star-mini"],
        description=(
            "name or directory of a model; several, given again and again or separated by commas, are served side by "
            "side, each by workers of its own"
        ),
    )


class RunSettings(BaseSettings):
    """How a model runs."""

    model_config = CONFIG

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device to run on; auto is a GPU if there is one"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="type of the transformer's weights; auto is bfloat16 where the device is fast at it",
    )
    mode: Literal["auto", "deterministic", "fast"] = Field(
        "auto",
        description="deterministic: an image is the same in any batch; auto: that on a CPU, fast on a GPU",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of each worker; 0 is its share of the processors"
    )
    attention: Literal["auto", "sdpa", "xformers"] = Field(
        "auto", description="attention backend; auto is sdpa, xformers is an extra and needs a GPU"
    )
    cache_dir: Path | None = Field(
        None, description="directory for downloaded and converted models"
    )
    offline: bool = Field(
        False,
        description="use no network for models: what is neither shipped nor cached is an error that lists its files",
    )
    allow_unsafe_pickle: bool = Field(
        False,
        description="read tensors of kinds that no published file has; this runs any code that is in the file",
    )


class ModelSettings(RunSettings, OneModel):
    """A model, and how it runs. Frozen, like all settings."""


class EngineSettings(RunSettings):
    """Workers and batches of each model."""

    workers: int = Field(
        0, ge=0, le=64, description="worker processes; 0 is one per visible GPU, or one on a CPU"
    )
    slots: int = Field(
        8, ge=1, le=1024, description="images in flight per worker; each takes a slot of memory"
    )
    max_batch: int = Field(
        0, ge=0, le=1024, description="images in one step at most; 0 is as many as slots"
    )
    max_step: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="work of one step at most, in images, half of it while slots are free; 0 is 0.2 in deterministic "
        "mode, 1 in fast mode",
    )
    cuda_graphs: bool = Field(
        False, description="on a GPU, capture CUDA graphs at start and replay them; takes memory"
    )
    compile: bool = Field(
        False, description="fuse kernels with torch.compile at start, which takes minutes on a CPU"
    )
    unguided_scales: int | None = Field(
        None,
        ge=0,
        description="finest scales that run without guidance, at half the cost, unless a request says otherwise; the "
        "model's own number when left out",
    )
    draft: int | None = Field(
        None,
        ge=0,
        le=2,
        description="finest scales, 1 or 2, that are left out unless a request says otherwise; the model's own number, "
        "mostly none, when not given",
    )
    text_cache: int = Field(256, ge=0, le=1_000_000, description="encoded prompts that are cached")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="log format; auto is console on a terminal and JSON elsewhere"
    )

    @property
    def largest_batch(self) -> int:
        """Images in one step at most."""
        return min(self.max_batch or self.slots, self.slots)


class WorkerSettings(EngineSettings, ModelSettings):
    """All that a worker process needs: a frozen part of the settings of a server, sent to it when it starts.

    Attributes:
        models: number of models that share the machine's processors.
        beside_others: another model of this server holds memory already.
        swap: number of the swap that brings the model, for the log; 0 for a model of the settings.
    """

    models: int = 1
    beside_others: bool = False
    swap: int = 0
