"""Tune the decoder on latents that the transformer painted: ``python -m training.train_decoder --model ...``.

Encoder, quantizer and codebook stay as they are, bit for bit, so that the transformer stays valid. What a transformer
paints is not quite what an image is encoded to: it says the mean where it is unsure. So a part of the latents here is
painted: coarse scales are the scene's own, which fixes the drawing, and the fine ones are the transformer's. The
decoder learns to finish them as the scene is.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from star_model import Engine, ImageSequence, StarModel, load_model, make_edit
from star_model.networks.image_tokenizer import ImageTokenizer
from training.machine import Budget, add_machine_flags, command, loader_workers, use_machine
from training.muon import Muon
from training.pictures import open_pictures
from training.precision import autocast
from training.recipe import add_flags, from_flags
from training.run import Run, batches, learning_rate, write_atomically
from training.scenes import FOR_TRANSFORMER
from training.train_tokenizer import (
    TokenizerRecipe,
    psnr,
    to_pixels,
    to_tensor,
    unseen_pictures,
)

PAINTED_AT_ONCE = 16
PAINTING_SHARE = 0.4
"""Of the minutes, if they are limited, that painting latents may take."""


@dataclasses.dataclass(frozen=True)
class DecoderRecipe:
    """Lengths in updates, sizes in images.

    Args:
        seed: of the scenes and of what is painted.
        vocabulary: which things are drawn.
        steps: updates, if the time is not limited.
        painted: scenes whose latents the transformer paints, beforehand.
        painted_share: share of an update's images whose latents are painted.
        own_scales: coarse scales of a painted latent that are the scene's own.
        batch_size: images an update.
        matrix_lr: peak learning rate of matrices and kernels, by Muon.
        peak_lr: peak learning rate of all other weights.
        warmup: updates until the rates are at their peak.
        average: decay of the moving average of the weights, which is what is kept.
    """

    seed: int = 2
    vocabulary: str = "full"
    steps: int = 600
    painted: int = 600
    painted_share: float = 0.6
    own_scales: int = 4
    batch_size: int = 4
    matrix_lr: float = 0.004
    peak_lr: float = 2e-4
    warmup: int = 30
    average: float = 0.99


class PaintedScenes(Dataset[tuple[Tensor, Tensor]]):
    """Scenes (3, 512, 512) in [-1, 1] with the numbers of their painted latents, -1 for none; always the same."""

    def __init__(self, data: Path, recipe: DecoderRecipe) -> None:
        self.recipe, self.painted = recipe, recipe.painted
        self.pictures = open_pictures(
            data, seed=recipe.seed, vocabulary=recipe.vocabulary, variety=FOR_TRANSFORMER
        )

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.recipe.seed, index))
        number, scene = -1, self.recipe.painted + index
        if self.painted and rng.random() < self.recipe.painted_share:
            number = scene = int(rng.integers(self.painted))
        return self.image(scene), torch.tensor(number)

    def image(self, scene: int) -> Tensor:
        """Scene number ``scene`` as (3, 512, 512) in [-1, 1]."""
        return to_tensor(self.pictures.picture(scene))


@torch.inference_mode()
def paint_latents(
    model: StarModel, scenes: PaintedScenes, file: Path, in_time: Callable[[], bool] = lambda: True
) -> Tensor:
    """Latents (N, z, P, P) of the first scenes, painted once and kept in ``file``.

    Args:
        in_time: asked before each batch; False ends the painting early.
    """
    if file.exists():
        return torch.from_numpy(np.load(file))
    engine, latents = Engine(model, slots=PAINTED_AT_ONCE, mode="fast"), []
    for first in range(0, scenes.recipe.painted, PAINTED_AT_ONCE):
        if first and not in_time():
            break
        numbers = range(first, min(first + PAINTED_AT_ONCE, scenes.recipe.painted))
        sequences = [_prepare(engine, scenes, number) for number in numbers]
        for _ in range(engine.num_scales):
            engine.step(sequences)
        for sequence in sequences:
            latents.append(sequence.f_hat.cpu())
            engine.release(sequence)
    painted = torch.stack(latents)
    write_atomically(file, lambda path: _save(path, painted))
    return painted


def _prepare(engine: Engine, scenes: PaintedScenes, number: int) -> ImageSequence:
    """A sequence of scene ``number`` whose coarse scales are the scene's own."""
    model, recipe = engine.model, scenes.recipe
    pixels = torch.from_numpy(to_pixels(scenes.image(number).unsqueeze(0))[0])
    edit = make_edit(model, pixels, keep_scales=recipe.own_scales)
    conditioning = model.encode_prompt(scenes.pictures.plain_caption(number))
    return engine.prepare(conditioning, model.config.sampling, seed=number, edit=edit)


def _save(path: Path, values: Tensor) -> None:
    with path.open("wb") as stream:
        np.save(stream, values.numpy())


def trained(tokenizer: ImageTokenizer) -> list[nn.Parameter]:
    """The weights of all that comes after the quantizer."""
    return [p for module in tokenizer.decoding_modules for p in module.parameters()]


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

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        recipe: DecoderRecipe,
        device: torch.device,
        painted: Tensor | None = None,
    ) -> None:
        self.recipe, self.device, self.painted = recipe, device, painted
        self.tokenizer = tokenizer.requires_grad_(False)
        weights = trained(tokenizer)
        for weight in weights:
            weight.requires_grad_(True)
        self.average = copy.deepcopy(tokenizer).requires_grad_(False)
        matrices = [p for p in weights if p.ndim in (2, 4)]
        others = [p for p in weights if p.ndim not in (2, 4)]
        self.optimizers: dict[torch.optim.Optimizer, float] = {  # and the peak of its learning rate
            Muon(matrices): recipe.matrix_lr,
            torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0): recipe.peak_lr,
        }

    def state(self) -> dict[str, Any]:
        """``model`` is the average, which other steps read; ``weights`` goes on learning."""
        return {
            "model": self.average.state_dict(),
            "weights": self.tokenizer.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }

    def load(self, state: dict[str, Any]) -> None:
        self.average.load_state_dict(state["model"])
        self.tokenizer.load_state_dict(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    @torch.no_grad()
    def latents(self, images: Tensor, numbers: Iterable[int]) -> Tensor:
        """The decoder's input (B, z, P, P): the painted latent of each number, of -1 that of the image's tokens."""
        with autocast(self.device):
            features = self.tokenizer.features(images)
        *_, (_, f_hat) = self.tokenizer.quantizer.decompose(features.float())
        for i, number in enumerate(numbers):
            if self.painted is not None and number >= 0:
                f_hat[i] = self.painted[number].to(self.device)
        return f_hat

    def step(
        self, step: int, images: Tensor, numbers: Iterable[int] = (), progress: float | None = None
    ) -> dict[str, float]:
        """One update on whole ``images`` (B, 3, 512, 512) after a share ``progress``; returns what to log."""
        recipe = self.recipe
        share = step / recipe.steps if progress is None else progress
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                warm = min(1.0, (step + 1) / recipe.warmup)
                rate = learning_rate(round(1000 * share), peak=peak, warmup=0, total=1000)
                group["lr"] = warm * rate
        images = images.to(self.device)
        latents = self.latents(images, numbers)
        with autocast(self.device):
            output = self.tokenizer.paint(latents)
        output = output.float()
        loss = fidelity_loss(output, images)
        values = {"loss": loss.item(), "psnr": psnr(output.detach(), images)}
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(trained(self.tokenizer), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.update_average(step)
        return {**values, "grad_norm": float(norm)}

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the average towards the weights; at first faster, so that it forgets where it started."""
        decay = min(self.recipe.average, (1 + step) / (10 + step))
        for mean, weight in zip(trained(self.average), trained(self.tokenizer), strict=True):
            mean.lerp_(weight, 1 - decay)


def sharpness(output: Tensor, target: Tensor) -> float:
    """Image gradients of ``output`` relative to those of ``target``, on the target's edges; below 1 is softer.

    Edges alone count: noise in flat areas would make up for any blur.
    """
    strengths = []
    for dim in (-1, -2):
        wanted, found = target.diff(dim=dim), output.diff(dim=dim)
        edges = wanted.abs() > 0.2
        strengths.append(((found * wanted.sign())[edges].sum(), wanted.abs()[edges].sum()))
    return float(sum(s for s, _ in strengths) / max(float(sum(t for _, t in strengths)), 1e-6))


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


def train(arguments: argparse.Namespace, recipe: DecoderRecipe) -> None:
    """Train to the end of ``recipe`` or of the minutes, continuing what the run's directory holds."""
    device = use_machine(arguments)
    model = load_model(arguments.model, device=str(device), dtype="float32")
    settings = {
        "recipe": dataclasses.asdict(recipe),
        "config": model.config.to_dict(),
        "model": str(arguments.model),
    }
    run = Run(arguments.run, settings, recipe.steps, minutes=arguments.minutes)
    scenes = PaintedScenes(arguments.data, recipe)
    first, budget, painted = 0, Budget(recipe.steps, arguments.minutes), None
    if recipe.painted:
        painted = paint_latents(
            model,
            scenes,
            arguments.run / "latents.npy",
            lambda: not budget.minutes or budget.progress(0, run.seconds) < PAINTING_SHARE,
        )
        scenes.painted = len(painted)
    trainer = DecoderTrainer(model.vqvae, recipe, device, painted)
    if state := run.resume():
        trainer.load(state)
        first = state["step"]
    # The scenes that the tokenizer's own training is scored by, so that the figures compare.
    validation = unseen_pictures(arguments.data, TokenizerRecipe(vocabulary=recipe.vocabulary))
    tokens = [trainer.tokenizer.encode(image.unsqueeze(0).to(device)) for image in validation]
    if first == 0:
        run.record(0, **evaluate(trainer, validation, tokens)[0])
    loader = batches(
        scenes,
        start=first,
        stop=first + 10**6 if budget.minutes else recipe.steps,
        batch_size=recipe.batch_size,
        workers=loader_workers(device),
    )
    for step, (images, numbers) in enumerate(loader, start=first):
        values = trainer.step(step, images, numbers.tolist(), budget.progress(step, run.seconds))
        done = step + 1
        ended = budget.progress(done, run.seconds) >= 1
        if done % 25 == 0:
            run.record(done, **values)
        if done % arguments.save_every == 0 or ended or run.stopping:
            keep(run, trainer, done, validation, tokens)
        if ended:
            return
        if run.stopping:
            raise SystemExit(f"stopped after step {done}; the same command continues")


def keep(
    run: Run, trainer: DecoderTrainer, done: int, images: Tensor, tokens: list[list[Tensor]]
) -> None:
    """Score the state after ``done`` updates, and save it with its curves and a sheet of reconstructions."""
    scores, output = evaluate(trainer, images, tokens)
    run.record(done, **scores)
    shown = torch.stack([images[:6], output[:6]]).flatten(0, 1)
    run.write_sheet("reconstructions", to_pixels(shown), columns=len(shown) // 2)
    run.draw_curves(["loss", "psnr", "validation_psnr", "validation_sharpness"])
    run.save(done, **trainer.state())


@command
def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description="Train the decoder alone; stop and start it as you like."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/star-mini"),
        help="the model directory whose decoder is tuned and whose transformer paints",
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/decoder"), help="the run's directory"
    )
    parser.add_argument(
        "--save-every", type=int, default=250, help="updates between two saved states"
    )
    add_machine_flags(parser)
    add_flags(parser, DecoderRecipe)
    arguments = parser.parse_args()
    train(arguments, from_flags(arguments, DecoderRecipe))


if __name__ == "__main__":
    main()
