"""How well a transformer foresees unseen scenes: ``python -m training.likelihood weights/star-mini``.

Cross-entropy in nats a token, scale by scale, of scenes that no training saw: as they are, and with mistakes among the
tokens that later scales see (``mistakes.py``). The second row tells how a model copes with what it samples itself.

A second table says how much of the picture that is: what a scale has to add to the latent, when all coarser ones are
the scene's own, and the share of its energy that the scale's tokens say, and that the mean of the tokens that a model
foresees says. Where that share is low, the picture is lost.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.machine import command
from training.mistakes import make_lesson
from training.pictures import ScenePictures
from training.precision import autocast
from training.teacher_forcing import token_logits
from training.tokenize import SceneEncoder, config_of, load_tokenizer, trained_weights
from training.transformer_trainer import Trainer, TransformerRecipe

SEED = 3_000_000
"""Of the scenes; training and evaluation use others."""


@dataclass(frozen=True)
class Said:
    """What a scale has to add to the latent when all coarser ones are the scene's own.

    Attributes:
        energy: its mean square.
        by_tokens: share of it that the scale's own tokens say.
        by_model: share of it that the mean of the tokens that the model foresees says; below 0 if that does harm.
    """

    energy: float
    by_tokens: float
    by_model: float


@dataclass(frozen=True)
class UnseenScenes:
    """Scenes with their captions' features, to measure on.

    Attributes:
        tokens: (N, L) of all scales.
        text: hidden states (N, T, D), their lengths (N,), pooled features (N, D).
    """

    tokens: Tensor
    text: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def encoded(cls, data: Path, tokenizer: Path, count: int, vocabulary: str) -> UnseenScenes:
        """The first ``count`` scenes of ``vocabulary``, from what training.prepare wrote to ``data``, by a tokenizer's
        run or model directory."""
        encoder = SceneEncoder(
            data, tokenizer, ScenePictures(data, seed=SEED, vocabulary=vocabulary, max_objects=1)
        )
        arrays = encoder.arrays(range(count))
        hidden, lengths, pooled = (
            torch.from_numpy(arrays[name]) for name in ("hidden", "lengths", "pooled")
        )
        return cls(
            torch.from_numpy(arrays["tokens"].astype("int64")), (hidden.float(), lengths, pooled)
        )

    @torch.no_grad()
    def losses(self, trainer: Trainer, mistakes: float) -> Tensor:
        """Cross-entropy (L,) of each token of the sequence, with up to a share of ``mistakes`` before it."""
        schedule, device = trainer.schedule, trainer.device
        lesson = make_lesson(
            trainer.quantizer,
            self.tokens.to(device).tensor_split(schedule.offsets[1:-1], dim=1),
            len(schedule),
            most=mistakes,
            clean=0.0 if mistakes else 1.0,
            generator=torch.Generator().manual_seed(0),
        )
        hidden, lengths, pooled = (values.to(device) for values in self.text)
        everywhere = torch.arange(schedule.num_tokens, device=device)
        parts = [
            trainer.loss(lesson[part], (hidden[part], lengths[part], pooled[part]), everywhere)
            for part in (slice(i, i + 16) for i in range(0, len(hidden), 16))
        ]
        return torch.cat(parts).mean(dim=0).cpu()

    @torch.no_grad()
    def said(self, trainer: Trainer) -> list[Said]:
        """How much of each scale is said, by its tokens and by the model."""
        quantizer, schedule = trainer.quantizer, trainer.schedule
        codebook = quantizer.codebook.weight
        maps = self.tokens.to(trainer.device).tensor_split(schedule.offsets[1:-1], dim=1)
        f_hats = list(quantizer.f_hats(maps))
        foreseen = self._foreseen(trainer, quantizer.teacher_forcing_input(maps))  # (N, L, z)
        result = []
        for scale, size in enumerate(schedule.sizes):
            missing = f_hats[-1] - f_hats[scale - 1] if scale else f_hats[-1]
            rest = F.adaptive_avg_pool2d(missing, size).flatten(2).transpose(1, 2)  # (N, p * p, z)
            means = foreseen[:, schedule.offsets[scale] : schedule.offsets[scale + 1]]
            by_tokens, by_model = (
                1 - ((says - rest).square().mean() / rest.square().mean()).item()
                for says in (codebook[maps[scale]], means)
            )
            result.append(Said(rest.square().mean().item(), by_tokens, by_model))
        return result

    def _foreseen(self, trainer: Trainer, inputs: Tensor) -> Tensor:
        """The mean codebook vector (N, L, z) of what the model foresees at each place, given the true ``inputs``."""
        hidden, lengths, pooled = (values.to(trainer.device) for values in self.text)
        means = []
        for part in (slice(i, i + 16) for i in range(0, len(inputs), 16)):
            text = hidden[part], lengths[part], pooled[part]
            with autocast(trainer.device):
                logits = token_logits(
                    trainer.model, inputs[part], text, trainer.model.rope, trainer.scale_of
                )
            means.append(logits.float().softmax(-1) @ trainer.quantizer.codebook.weight)
        return torch.cat(means)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Cross-entropy of unseen scenes, scale by scale.")
    parser.add_argument(
        "models", type=Path, nargs="+", help="model directories, or runs of the transformer"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path("weights/star-mini"),
        help="its run, or a model directory",
    )
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--vocabulary", default="full", help="which concepts they show")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    return parser.parse_args()


@command
def main() -> None:
    """Measure each model, print two tables."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = TransformerRecipe()
    config = config_of(arguments.models[0])
    trainer = Trainer(config, recipe, load_tokenizer(arguments.tokenizer, device), device)
    scenes = UnseenScenes.encoded(
        arguments.data, arguments.tokenizer, arguments.scenes, arguments.vocabulary
    )
    offsets = trainer.schedule.offsets
    print("| model | mistakes | all | " + " | ".join(config.schedule.labels) + " |")
    print("| --- " * (3 + len(config.schedule)) + "|")
    said = []
    for model in arguments.models:
        trainer.start_from(trained_weights(model, "transformer.safetensors", "average"))
        for mistakes in (0.0, recipe.mistakes):
            losses = scenes.losses(trainer, mistakes)
            scales = [losses[a:b].mean().item() for a, b in pairwise(offsets)]
            figures = [losses.mean().item(), *scales]
            print(
                f"| {model} | {mistakes:.0%} | " + " | ".join(f"{f:.2f}" for f in figures) + " |",
                flush=True,
            )
        said.append(scenes.said(trainer))
    print("\n| | " + " | ".join(config.schedule.labels) + " |")
    print("| --- " * (1 + len(config.schedule)) + "|")
    print(
        "| to be said, mean square | " + " | ".join(f"{part.energy:.4f}" for part in said[0]) + " |"
    )
    print(
        "| said by the tokens | " + " | ".join(f"{part.by_tokens:.0%}" for part in said[0]) + " |"
    )
    for model, parts in zip(arguments.models, said, strict=True):
        print(f"| said by {model} | " + " | ".join(f"{part.by_model:.0%}" for part in parts) + " |")


if __name__ == "__main__":
    main()
