"""``star-server info``: a model's architecture, parameters, scales and memory, from its configuration alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from server.escaping import escaped
from server.worker.scheduler import Policy, resolve_max_step, token_shares

if TYPE_CHECKING:
    from star_model.config import ModelConfig

_BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
_SLOTS = 8  # for the peak memory that is shown; the default of `serve`


class Info(BaseModel):
    """Print a model's architecture, parameters, scales and memory per slot."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    model: CliPositionalArg[str] = Field(
        "star-mini", description="name of a model, or the directory of one"
    )
    cache_dir: Path | None = Field(
        None, description="directory for downloaded and converted models"
    )
    as_json: bool = Field(False, validation_alias=AliasChoices("json"), description="print JSON")

    def cli_cmd(self) -> None:
        """Print the description of the model."""
        info = describe(self.model, self.cache_dir)
        print(json.dumps(info, indent=2) if self.as_json else description_text(info))


def describe(name: str, cache_dir: Path | None) -> dict[str, Any]:
    """Describe a model's architecture, parameters, scales and memory from its configuration; no weights are read.

    Args:
        name: of a model, downloaded or not, or the directory of a native model.
        cache_dir: directory of downloaded models; None for the default.

    Returns:
        JSON-ready data; ``path`` is None for a model that has not been downloaded.

    Raises:
        star_model.errors.StarError: there is no such model, or its configuration is damaged.
    """
    from star_model.cost import graphs_bytes, peak_bytes

    config, path = find_config(name, cache_dir)
    policy = Policy(token_shares(config.patch_nums), _SLOTS, max_step=resolve_max_step(0.0, "fast"))
    largest = [policy.batch_limit(scale) for scale in range(len(config.patch_nums))]
    transformer, tokenizer = count_parameters(config)
    return {
        "name": config.name,
        "path": str(path) if path is not None else None,
        "image_size": config.image_size,
        "sizes": [f"{width}x{height}" for height, width in config.sizes],
        "license": _license(config, path),
        "capabilities": _capabilities(config, path),
        "scales": list(config.patch_nums),
        "tokens_per_image": sum(side * side for side in config.patch_nums),
        "parameters": {
            "transformer": transformer,
            "vqvae": tokenizer,
            "total": transformer + tokenizer,
        },
        "memory_per_slot_bytes": {
            dtype: config.memory_per_slot_bytes(size) for dtype, size in _BYTES_PER_VALUE.items()
        },
        "caches_tokens": config.cached_tokens > 0,
        "peak_memory_bytes": {
            dtype: peak_bytes(config, _SLOTS, bytes_per_value=size)
            for dtype, size in _BYTES_PER_VALUE.items()
        },
        "cuda_graphs_bytes": {
            dtype: graphs_bytes(config, largest, bytes_per_value=size)
            for dtype, size in _BYTES_PER_VALUE.items()
        },
        "config": config.to_dict(),
    }


def _license(config: ModelConfig, path: Path | None) -> str | None:
    """Licence of the weights; None if their publisher states none, or it is not known."""
    from star_model.about import read_about
    from star_model.families.registry import family_of

    if path is None:
        return family_of(config).license_of(config.name)
    return read_about(path).license


def _capabilities(config: ModelConfig, path: Path | None) -> dict[str, Any]:
    """What requests for the model may have, beside what a server's settings decide."""
    import torch

    from star_model.capabilities import capabilities
    from star_model.networks.tokenizers import build_tokenizer
    from star_model.vocabulary import read_vocabulary

    with torch.device("meta"):
        can_encode = build_tokenizer(config).can_encode
    return capabilities(
        sampling=config.sampling,
        guidance=config.guidance,
        num_scales=len(config.schedule),
        sizes=config.sizes,
        num_classes=config.transformer.num_classes,
        has_vocabulary=path is not None and read_vocabulary(path) is not None,
        can_encode=can_encode,
    ).model_dump()


def find_config(name: str, cache_dir: Path | None) -> tuple[ModelConfig, Path | None]:
    """Return the configuration of a model and its directory; None if it has not been downloaded.

    Raises:
        star_model.errors.StarError: there is no such model, or its configuration is damaged.
    """
    from star_model import PRESETS, resolve_model
    from star_model.checkpoints.native import read_config
    from star_model.errors import ModelNotFoundError

    try:
        path = resolve_model(name, cache_dir=cache_dir, offline=True)
    except ModelNotFoundError:
        if name not in PRESETS:
            raise
        return PRESETS[name], None
    return read_config(path), path


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """Return the number of parameters of the transformer and of the VQVAE; allocates nothing."""
    import torch

    from star_model.networks.tokenizers import build_tokenizer
    from star_model.networks.transformer import StarTransformer

    with torch.device("meta"):
        modules = StarTransformer(config), build_tokenizer(config)
    transformer, tokenizer = (sum(p.numel() for p in module.parameters()) for module in modules)
    return transformer, tokenizer


def _kind_of_tokens(tokenizer: Mapping[str, Any]) -> str:
    if tokenizer["kind"] == "bits":
        return f"of {tokenizer['latent_channels'] * tokenizer['token_patch'] ** 2} bits each"
    return f"from a codebook of {tokenizer['vocab_size']:,}"


def description_text(info: Mapping[str, Any]) -> str:
    """Return the result of :func:`describe` as text."""
    config = info["config"]
    parameters, memory = info["parameters"], info["memory_per_slot_bytes"]
    side = info["image_size"]
    lines = [
        ("model", info["name"]),
        ("path", info["path"] or "not downloaded yet; `star-server serve --model` downloads it"),
        ("image", f"{side}x{side} pixels"),
        *([("other sizes", " ".join(info["sizes"][1:]))] if len(info["sizes"]) > 1 else []),
        ("licence", info["license"] or "none is known to be stated"),
        ("capabilities", _abilities(info["capabilities"])),
        ("scales", f"{len(info['scales'])}: " + " ".join(str(side) for side in info["scales"])),
        (
            "tokens",
            f"{info['tokens_per_image']:,} per image, {_kind_of_tokens(config['tokenizer'])}",
        ),
        (
            "parameters",
            f"{parameters['total'] / 1e6:,.1f} M (transformer {parameters['transformer'] / 1e6:,.1f} M, "
            f"VQVAE {parameters['vqvae'] / 1e6:,.1f} M; the text encoder is not counted)",
        ),
        (
            "memory per slot",
            ", ".join(f"{size / 2**20:,.1f} MiB in {dtype}" for dtype, size in memory.items())
            + ("" if info["caches_tokens"] else "; no token is cached, a scale attends to itself"),
        ),
        (
            f"with {_SLOTS} slots",
            ", ".join(
                f"{size / 2**20:,.0f} MiB in {dtype}"
                for dtype, size in info["peak_memory_bytes"].items()
            )
            + ", at most; the text encoder is not counted",
        ),
        (
            "with graphs",
            ", ".join(
                f"{size / 2**20:,.0f} MiB in {dtype}"
                for dtype, size in info["cuda_graphs_bytes"].items()
            )
            + " more (serve --cuda-graphs)",
        ),
        *((part.replace("_", " "), _inline(config[part])) for part in ("transformer", "tokenizer")),
        ("text encoder", _inline(config["text_encoder"])),
        ("sampling", _inline(config["sampling"])),
    ]
    width = max(len(label) for label, _ in lines) + 2
    return "\n".join(f"{label:<{width}}{escaped(text)}" for label, text in lines)


def _abilities(found: Mapping[str, Any]) -> str:
    """Return what requests may have, in words; sizes have a line of their own."""
    default = "" if found["negative_prompt"] else " with a guidance_scale"
    said = [
        f"{found['prompt']} prompts" + (" from a vocabulary" if found["vocabulary"] else ""),
        *(["edits"] if found["editing"] else []),
        f"{found['guidance']} guidance",
        f"negative prompts{default}",
        f"drafts (up to {found['max_draft']})",
    ]
    return ", ".join(said)


def _inline(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value != "")
