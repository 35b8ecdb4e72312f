"""How well a transformer foresees unseen scenes: ``python -m training.likelihood weights/star-mini``.

Cross-entropy in nats a token, scale by scale, of scenes that no training saw: as they are, and with mistakes among the
tokens that later scales see (``mistakes.py``). The second row tells how a model copes with what it samples itself.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from training.mistakes import make_lesson
from training.recipe import MODEL
from training.scenes import SceneGenerator
from training.tokenize import SceneEncoder, load_tokenizer, trained_weights
from training.train_transformer import Trainer, TransformerRecipe

SEED = 3_000_000
"""Of the scenes; training and evaluation use others."""


class UnseenScenes:
    """Scenes with their captions' features, to measure on.

    Args:
        data: what training.prepare wrote.
        tokenizer: the tokenizer's run, or a model directory.
        count: how many.
        vocabulary: which concepts they show.
    """

    def __init__(self, data: Path, tokenizer: Path, count: int, vocabulary: str) -> None:
        encoder = SceneEncoder(data, tokenizer, SceneGenerator(data, seed=SEED, vocabulary=vocabulary))
        arrays = encoder.arrays(range(count))
        self.tokens = torch.from_numpy(arrays["tokens"].astype("int64"))
        self.text = (
            torch.from_numpy(arrays["hidden"]),
            torch.from_numpy(arrays["lengths"]),
            torch.from_numpy(arrays["pooled"]),
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


def main() -> None:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description="Cross-entropy of unseen scenes, scale by scale.")
    parser.add_argument("models", type=Path, nargs="+", help="model directories, or runs of the transformer")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote")
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("weights/star-mini"), help="its run, or a model directory"
    )
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--vocabulary", default="starter", help="which concepts they show")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = TransformerRecipe()
    trainer = Trainer(MODEL, recipe, load_tokenizer(arguments.tokenizer, device), device)
    scenes = UnseenScenes(arguments.data, arguments.tokenizer, arguments.scenes, arguments.vocabulary)
    offsets = trainer.schedule.offsets
    print("| model | mistakes | all | " + " | ".join(f"{p} x {p}" for p in MODEL.patch_nums) + " |")
    print("| --- " * (3 + len(MODEL.patch_nums)) + "|")
    for model in arguments.models:
        trainer.start_from(trained_weights(model, "transformer.safetensors", "average"))
        for mistakes in (0.0, recipe.mistakes):
            losses = scenes.losses(trainer, mistakes)
            scales = [losses[a:b].mean().item() for a, b in pairwise(offsets)]
            figures = [losses.mean().item(), *scales]
            print(
                f"| {model} | {mistakes:.0%} | " + " | ".join(f"{f:.2f}" for f in figures) + " |", flush=True
            )


if __name__ == "__main__":
    main()
