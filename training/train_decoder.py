"""Sharpen a trained image tokenizer without changing its tokens: ``python -m training.train_decoder --init ...``.

Encoder, quantizer and codebook stay as they are, bit for bit, so that a transformer trained on the tokens stays valid;
the decoder and the convolution before it learn to paint more out of the same latents. Every update sees whole images,
with the model's own schedule: what the decoder's norms measure is then what they will measure at work.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from star_model.networks.vqvae import VQVAE
from training.muon import Muon
from training.precision import autocast
from training.recipe import add_flags, from_flags
from training.run import Run, batches, learning_rate
from training.tokenize import load_tokenizer
from training.train_tokenizer import (
    IMAGE_SIZE,
    Crops,
    TokenizerRecipe,
    psnr,
    to_pixels,
    unseen_scenes,
)


@dataclasses.dataclass(frozen=True)
class DecoderRecipe:
    """Lengths in updates, sizes in images; ``average`` is the decay of the moving average of the weights."""

    seed: int = 2
    vocabulary: str = "starter"
    steps: int = 2000
    batch_size: int = 2
    matrix_lr: float = 0.008
    peak_lr: float = 4e-4
    warmup: int = 50
    average: float = 0.998


def trained(vqvae: VQVAE) -> list[nn.Parameter]:
    """What is trained of ``vqvae``: all that comes after the quantizer."""
    return [*vqvae.post_quant_conv.parameters(), *vqvae.decoder.parameters()]


def fidelity_loss(output: Tensor, target: Tensor) -> Tensor:
    """Logarithm of each image's squared error, which is its PSNR, and L1 of the image gradients.

    So a scene counts the same whether it is easy or hard. L1 of the colours is left out: where the latent does not say
    on which side of an edge a pixel lies, it prefers flat areas and soft detail.
    """
    error = output - target
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return 0.05 * error.square().mean((1, 2, 3)).clamp_min(1e-8).log().mean() + 0.5 * gradients


class DecoderTrainer:
    """The decoder on its way: weights, optimizers and the moving average of the weights, which is what is kept."""

    def __init__(self, vqvae: VQVAE, recipe: DecoderRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.vqvae = vqvae.requires_grad_(False)
        weights = trained(vqvae)
        for weight in weights:
            weight.requires_grad_(True)
        self.average = copy.deepcopy(vqvae).requires_grad_(False)
        self.optimizers: dict[torch.optim.Optimizer, float] = {  # and the peak of its learning rate
            Muon(p for p in weights if p.ndim > 1): recipe.matrix_lr,
            torch.optim.AdamW(
                (p for p in weights if p.ndim == 1), betas=(0.9, 0.99), weight_decay=0.0
            ): recipe.peak_lr,
        }

    def state(self) -> dict[str, Any]:
        """``model`` is the average, which other steps read; ``weights`` goes on learning."""
        return {
            "model": self.average.state_dict(),
            "weights": self.vqvae.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }

    def load(self, state: dict[str, Any]) -> None:
        self.average.load_state_dict(state["model"])
        self.vqvae.load_state_dict(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """What the decoder will be given for ``images`` (B, 3, 512, 512): their tokens' f_hat (B, z, 16, 16)."""
        with autocast(self.device):
            features = self.vqvae.features(images)
        *_, (_, f_hat) = self.vqvae.quantizer.decompose(features.float())
        return f_hat

    def step(self, step: int, images: Tensor) -> dict[str, float]:
        """One update on whole ``images`` (B, 3, 512, 512); returns what to log."""
        recipe = self.recipe
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, peak=peak, warmup=recipe.warmup, total=recipe.steps
                )
        images = images.to(self.device, memory_format=torch.channels_last)
        latents = self.latents(images)
        with autocast(self.device):
            output = self.vqvae.decoder(self.vqvae.post_quant_conv(latents))
        output = output.float()
        loss = fidelity_loss(output, images)
        values = {"loss": loss.item(), "psnr": psnr(output.detach(), images)}
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(trained(self.vqvae), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.update_average(step)
        return {**values, "grad_norm": float(norm)}

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the average towards the weights; at first faster, so that it forgets where it started."""
        decay = min(self.recipe.average, (1 + step) / (10 + step))
        for mean, weight in zip(trained(self.average), trained(self.vqvae), strict=True):
            mean.lerp_(weight, 1 - decay)


def sharpness(output: Tensor, target: Tensor) -> float:
    """Sum of the image gradients of ``output`` over that of ``target``: below 1 is softer."""
    a, b = (sum(float(i.diff(dim=d).abs().sum()) for d in (-1, -2)) for i in (output, target))
    return a / b


@torch.no_grad()
def evaluate(
    trainer: DecoderTrainer, images: Tensor, tokens: list[list[Tensor]]
) -> tuple[dict[str, float], Tensor]:
    """Scores of whole unseen images (B, 3, 512, 512), given as ``tokens``, and their reconstructions."""
    output = torch.cat([trainer.average.decode_tokens(t).cpu() for t in tokens])
    pairs = list(zip(output, images, strict=True))
    return {
        "validation_psnr": sum(psnr(o, i) for o, i in pairs) / len(pairs),
        "validation_sharpness": sum(sharpness(o, i) for o, i in pairs) / len(pairs),
    }, output


def train(data: Path, init: Path, directory: Path, recipe: DecoderRecipe, save_every: int) -> None:
    """Train to the end of ``recipe``, from the tokenizer in ``init`` or from what ``directory`` holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(directory, {"recipe": dataclasses.asdict(recipe), "init": str(init)}, recipe.steps)
    trainer = DecoderTrainer(load_tokenizer(init, device), recipe, device)
    first = 0
    if state := run.resume():
        trainer.load(state)
        first = state["step"]
    # The scenes that the tokenizer's own training is scored by, so that the figures compare.
    validation = unseen_scenes(data, TokenizerRecipe(vocabulary=recipe.vocabulary))
    tokens = [trainer.vqvae.encode(image.unsqueeze(0).to(device)) for image in validation]
    if first == 0:
        run.record(0, **evaluate(trainer, validation, tokens)[0])
    scenes = Crops(
        data, TokenizerRecipe(seed=recipe.seed, vocabulary=recipe.vocabulary), IMAGE_SIZE
    )
    for step, images in enumerate(
        batches(scenes, start=first, stop=recipe.steps, batch_size=recipe.batch_size), start=first
    ):
        values = trainer.step(step, images)
        done = step + 1
        if done % 25 == 0:
            run.record(done, **values)
        if done % save_every == 0 or done == recipe.steps or run.stopping:
            scores, output = evaluate(trainer, validation, tokens)
            run.record(done, **scores)
            shown = torch.stack([validation[:6], output[:6]]).flatten(0, 1)
            run.write_sheet("reconstructions", to_pixels(shown), columns=6)
            run.draw_curves(["loss", "psnr", "validation_psnr", "validation_sharpness"])
            run.save(done, **trainer.state())
        if run.stopping:
            raise SystemExit(f"stopped after step {done}; the same command continues")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description="Train the decoder alone; stop and start it as you like."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--init",
        type=Path,
        default=Path("runs/tokenizer"),
        help="the tokenizer: a run, or a model directory",
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/decoder"), help="the run's directory"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    parser.add_argument(
        "--save-every", type=int, default=250, help="updates between two saved states"
    )
    add_flags(parser, DecoderRecipe)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    recipe = from_flags(arguments, DecoderRecipe)
    train(arguments.data, arguments.init, arguments.run, recipe, arguments.save_every)


if __name__ == "__main__":
    main()
