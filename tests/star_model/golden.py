"""The recorded models: their files as a download would have them, and what they must compute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from star_model.config import (
    BitTokenizerConfig,
    ModelConfig,
    TextEncoderConfig,
    TokenizerConfig,
    TransformerConfig,
)
from star_model.families import infinity, switti
from star_model.networks.text_encoder import TextConditioning
from star_model.sampling import Sampling
from tests.star_model.formula import normal, official_parameter
from tests.star_model.tiny import (
    HashTextEncoder,
    write_tiny_clip,
    write_tiny_clip_repository,
    write_tiny_t5,
)

DATA = Path(__file__).parent.parent / "data"


class Golden:
    """One recorded model.

    Args:
        name: of its folder in ``tests/data`` and of the files there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = DATA / name

    @cached_property
    def description(self) -> dict[str, Any]:
        """Configuration, salt, and official names and shapes."""
        data: dict[str, Any] = json.loads(
            (self.folder / f"{self.name}.json").read_text(encoding="utf-8")
        )
        return data

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The recorded inputs and outputs."""
        return load_file(self.folder / f"{self.name}.safetensors")

    @property
    def is_var(self) -> bool:
        """Whether a class conditions it, rather than a text."""
        return "num_classes" in self.description["config"]

    @property
    def is_switti(self) -> bool:
        """Whether it is of that family."""
        return "use_swiglu_ffn" in self.description["config"]

    @property
    def is_infinity(self) -> bool:
        """Whether it is of that family."""
        return "patchify" in self.description["config"]

    def infinity_config(self, run: str = "generate") -> ModelConfig:
        """The native configuration for one of its runs, which differ in shape and number of scales."""
        c = self.description["config"]
        given = c["runs"][run]
        patch, levels = (2, (1, 2, 4, 4)) if c["patchify"] else (1, (1, 2, 4, 4, 4))
        return infinity.model_config(
            self.name.replace("_", "-"),
            infinity.transformer_config(c["depth"], c["width"] // 128, text_dim=c["text_dim"]),
            BitTokenizerConfig(
                latent_channels=c["d"],
                token_patch=patch,
                base_channels=c["ch"],
                channel_multipliers=levels,
            ),
            scales=given["scales"],
            shapes=() if given["ratio"] == 1 else (infinity.PORTRAIT[f"{given['ratio']:.3f}"],),
        )

    @property
    def config(self) -> ModelConfig:
        """The native configuration."""
        c = self.description["config"]
        if self.is_infinity:
            return self.infinity_config()
        if self.is_var:
            text_encoder = TextEncoderConfig(family="imagenet", max_tokens=0)
            transformer = TransformerConfig(
                depth=c["depth"],
                num_heads=c["depth"],
                num_classes=c["num_classes"],
                positions="absolute",
                adaptive_norm="shared" if c["shared_aln"] else "block",
            )
        elif self.is_switti:
            text_encoder = TextEncoderConfig(family="clip_pair")
            transformer = replace(
                switti.transformer_config(
                    c["depth"],
                    "earlier_scales" if c["use_ar"] else "own_scale",
                    c["rope_size"],
                ),
                rope_theta=c["rope_theta"],
            )
        else:
            text_encoder = TextEncoderConfig()
            transformer = TransformerConfig(
                depth=c["depth"],
                num_heads=c["depth"],
                text_dim=c["text_dim"],
                rope_theta=c["rope_theta"],
                rope_norm=c["rope_norm"],
                cross_attention_rows="conditional",
            )
        return ModelConfig(
            name=self.name.replace("_", "-"),
            patch_nums=tuple(c["patch_nums"]),
            transformer=transformer,
            tokenizer=TokenizerConfig(
                vocab_size=c["V"], latent_channels=c["z"], base_channels=c["ch"]
            ),
            text_encoder=text_encoder,
        )

    @property
    def prompt(self) -> str:
        """What the recorded image is of."""
        return str(self.description["config"]["label"]) if self.is_var else RECORDED_PROMPT

    @property
    def other_prompts(self) -> list[str]:
        """Three others."""
        return (
            ["0", "9", "goldfish"]
            if self.is_var
            else ["a cat", "three green frogs in a row", "moon"]
        )

    @property
    def sampling(self) -> Sampling:
        """Greedy, with the recorded guidance."""
        return self.runs["generate"]

    @property
    def runs(self) -> dict[str, Sampling]:
        """The parameters of each recorded image, by the first part of its tensors' names."""
        config = self.description["config"]
        scales = len(self.config.schedule)
        runs = {}
        for name, given in config.get("runs", {"generate": config}).items():
            if self.is_infinity:
                runs[name] = _infinity_sampling(given)
                continue
            runs[name] = Sampling(
                guidance_scale=given["cfg"],
                top_k=1,
                top_p=0.0,
                unguided_scales=scales - given.get("turn_off_cfg_start_si", scales),
                unguided_temperature=given.get("last_scale_temp", 1.0),
                guidance_from=given.get("turn_on_cfg_start_si", 0),
                mixed_scales=scales - given.get("smooth_start_si", scales),
            )
        return runs

    def official_state(self, part: str) -> dict[str, Tensor]:
        """The official state dict of ``transformer`` or ``vae``, buffers included."""
        salt, shapes = self.description["salt"], self.description["shapes"][part]
        state = {
            name: official_parameter(f"{salt}{part}.", name, tuple(shape))
            for name, shape in shapes.items()
        }
        if self.is_infinity:
            for name, buffer in self.description["buffers"][part].items():
                (count,) = buffer["shape"]
                mask = 2 ** torch.arange(count - 1, -1, -1)
                state[name] = mask if "lfq" in name else torch.zeros(count)
            return state
        sides = self.description["config"]["patch_nums"]
        if part == "vae":
            state["quantize.ema_vocab_hit_SV"] = torch.full(
                (10, self.description["config"]["V"]), 3.0
            )
            return state
        for name in [name for name in state if name.endswith(".q_bias")]:
            state[name.replace("q_bias", "zero_k_bias")] = torch.zeros_like(state[name])
        if self.is_var or self.is_switti:
            scale_of = torch.cat([torch.full((side * side,), k) for k, side in enumerate(sides)])
            state["lvl_1L"] = scale_of[None]
            hidden = ~self.visible
            state["attn_bias_for_masking"] = torch.zeros(hidden.shape).masked_fill(
                hidden, -torch.inf
            )[None, None]
        return state

    @property
    def visible(self) -> Tensor:
        """Which tokens (columns) each token (row) attends to, booleans (L, L)."""
        lengths = self.config.schedule.lengths
        scale_of = torch.cat([torch.full((n,), k) for k, n in enumerate(lengths)])
        rows, columns = scale_of[:, None], scale_of[None, :]
        own_scale = self.config.transformer.self_attention == "own_scale"
        return rows == columns if own_scale else rows >= columns

    def tokens(self, prefix: str, scale: int) -> list[list[int]]:
        """The recorded tokens, or bits, of ``prefix`` at ``scale``, for each image."""
        kind = "bits" if self.is_infinity else "tokens"
        found: list[list[int]] = self.tensors[f"{prefix}.{kind}.{scale}"].flatten(1).tolist()
        return found

    def write_official(self, directory: Path) -> OfficialFiles:
        """Write the files as the downloads are laid out: transformer, VQVAE, and the CLIP folder of a STAR."""
        if self.is_infinity:
            return self._write_infinity(directory)
        if self.is_switti:
            return self._write_switti(directory)
        transformer, vqvae = directory / f"{self.name}.pth", directory / "vae_tiny.pth"
        torch.save(self.official_state("vae"), vqvae)
        state = self.official_state("transformer")
        if self.is_var:
            torch.save(state, transformer)
            return transformer, vqvae, None
        trainer = {"var_wo_ddp": state, "config": {"depth": 2}}
        torch.save(
            {"epoch": 1, "iter": 30000, "trainer": trainer, "args": {"fp16": 1}}, transformer
        )
        clip = write_tiny_clip(directory / "CLIP", hidden_size=self.config.transformer.text_dim)
        return transformer, vqvae, clip

    def _write_infinity(self, directory: Path) -> OfficialFiles:
        """A bare ``.pth`` as the 2B model is published, or shards with an index as the 8B models are."""
        transformer, vqvae = directory / "infinity_reg.pth", directory / "infinity_vae.pth"
        state = self.official_state("transformer")
        if self.description["config"]["patchify"]:
            transformer = directory / "infinity_weights"
            transformer.mkdir()
            placed: dict[str, str] = {}
            for number, names in enumerate((list(state)[::2], list(state)[1::2]), start=1):
                shard = f"model-0000{number}-of-00002.safetensors"
                save_file({name: state[name] for name in names}, transformer / shard)
                placed |= dict.fromkeys(names, shard)
            index = {"metadata": {"total_size": 0}, "weight_map": placed}
            (transformer / "model.safetensors.index.json").write_text(json.dumps(index))
        else:
            torch.save(state, transformer)
        torch.save({"vae": self.official_state("vae")}, vqvae)
        t5 = write_tiny_t5(directory / "flan-t5", hidden_size=self.config.transformer.text_dim)
        return transformer, vqvae, t5

    def _write_switti(self, directory: Path) -> OfficialFiles:
        files = []
        for part, folder in (("transformer", "Switti"), ("vae", "VQVAE-Switti")):
            files.append(directory / folder / "model.safetensors")
            files[-1].parent.mkdir()
            save_file(self.official_state(part), files[-1])
        clips = [
            write_tiny_clip_repository(directory / name, hidden_size=width)
            for name, width in (
                ("clip-vit-large-patch14", 768),
                ("CLIP-ViT-bigG-14-laion2B-39B-b160k", 1280),
            )
        ]
        return files[0], files[1], clips


OfficialFiles = tuple[Path, Path, Path | list[Path] | None]

STAR = Golden("star_tiny")
VAR = Golden("var_tiny")
VAR_SHARED = Golden("var_tiny_shared_aln")
SWITTI = Golden("switti_tiny")
SWITTI_AR = Golden("switti_tiny_ar")
INFINITY = Golden("infinity_tiny")
INFINITY_PATCHIFY = Golden("infinity_tiny_patchify")
ALL = (STAR, VAR, VAR_SHARED, SWITTI, SWITTI_AR, INFINITY, INFINITY_PATCHIFY)

RECORDED_PROMPT = "the recorded prompt"
NEGATIVE_PROMPT = "the recorded negative prompt"
"""Of an Infinity."""


class GoldenTextEncoder:
    """The recorded features for the recorded and the empty prompt; made up ones for any other."""

    def __init__(self, recorded: Golden) -> None:
        self.recorded = recorded

    def encode(self, prompts: Sequence[str]) -> list[TextConditioning]:
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> TextConditioning:
        if self.recorded.is_infinity:
            return self._without_padding(prompt)
        if prompt not in ("", RECORDED_PROMPT):
            t = self.recorded.config.transformer
            return HashTextEncoder(t.text_dim, 77, t.pooled_width).encode([prompt])[0]
        row = 0 if prompt else 1
        hidden, mask, pooled = (
            self.recorded.tensors[f"text.{name}"][row]
            for name in ("hidden_states", "attention_mask", "pooled")
        )
        return TextConditioning(hidden.float(), mask.bool(), pooled)

    def _without_padding(self, prompt: str) -> TextConditioning:
        """As Infinity reads texts: hidden states of the used positions alone."""
        hidden = {
            RECORDED_PROMPT: self.recorded.tensors["text.hidden_states"],
            NEGATIVE_PROMPT: self.recorded.tensors["negative.hidden_states"],
        }.get(prompt)
        if hidden is None:
            text_dim = self.recorded.config.transformer.text_dim
            hidden = normal(f"hidden/{prompt}", (len(prompt.split()) + 1, text_dim))
        return TextConditioning(hidden, torch.ones(len(hidden), dtype=torch.bool), torch.empty(0))


def _infinity_sampling(given: dict[str, Any]) -> Sampling:
    """The parameters of a recorded run, each a number or one for each scale."""
    parameters: dict[str, Any] = {"top_k": 1, "top_p": 0.0}
    for ours, theirs in (("guidance", "cfg"), ("temperature", "tau")):
        value = given[theirs]
        if isinstance(value, list):
            parameters[f"{ours}_by_scale"] = ",".join(f"{number:g}" for number in value)
        else:
            parameters["guidance_scale" if ours == "guidance" else ours] = value
    return Sampling(**parameters)
