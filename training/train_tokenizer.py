"""Train the image tokenizer on composed scenes: ``python -m training.train_tokenizer --data ... --run ...``.

Whole scenes from the first update to the last. A plain autoencoder first, until its features mean something; then the
codebook starts from samples of the residuals that it will have to name, and learns without touching the encoder; then
the decoder's input moves from the features to what their tokens say, while the encoder learns to commit to them.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from star_model.config import ModelConfig
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.quantizer import with_codebook
from star_model.networks.tokenizers import build_tokenizer
from training.machine import Budget, add_machine_flags, command, loader_workers, use_machine
from training.muon import Muon
from training.pictures import (
    UNSEEN,
    FolderPictures,
    Pictures,
    ScenePictures,
    has_own_pictures,
)
from training.precision import autocast
from training.recipe import SIZES, add_flags, add_size_flag, from_flags
from training.run import Run, batches
from training.scenes import FOR_TOKENIZER

REVIVE_EVERY = 25
"""Updates between two searches for codebook vectors that nothing uses."""
REVIVE_UNTIL = 0.8
"""Share of the training after which codebook vectors stay."""
WIDEST = 8192
"""Columns of a matrix beyond which AdamW updates it: Muon would take longer than the rest of a small network."""
RESIDUAL_GAIN = 0.3
"""Of the last layer of each residual branch at the start, relative to PyTorch's: the branches begin small."""
_BRANCH_ENDS = ("depthwise.weight", "attention_out.weight", "mlp_out.weight")


@dataclasses.dataclass(frozen=True)
class TokenizerRecipe:
    """Lengths in updates, shares of the whole training, sizes in images.

    Args:
        seed: of weights and scenes.
        vocabulary: which things are drawn.
        steps: updates, if the time is not limited.
        codebook_at: share of the training after which the codebook starts.
        ramp_from: share after which the decoder begins to see tokens.
        ramp_until: share after which it sees nothing else.
        batch_size: images an update.
        matrix_lr: peak learning rate of matrices and kernels, by Muon.
        peak_lr: peak learning rate of all other weights.
        codebook_lr: peak learning rate of the codebook.
        warmup: updates until the rates are at their peak.
        decay_from: share of the training after which the rates fall, to zero at its end.
    """

    seed: int = 0
    vocabulary: str = "full"
    steps: int = 3000
    codebook_at: float = 0.02
    ramp_from: float = 0.03
    ramp_until: float = 0.1
    batch_size: int = 8
    matrix_lr: float = 0.02
    peak_lr: float = 1e-3
    codebook_lr: float = 1e-2
    warmup: int = 30
    decay_from: float = 0.3

    def rate(self, step: int, progress: float) -> float:
        """Fraction of the peak learning rates at update ``step``, after a share ``progress`` of the training."""
        falling = (1 - progress) / (1 - self.decay_from)
        return min(1.0, (step + 1) / self.warmup) * max(0.01, min(1.0, falling))

    def quantized(self, progress: float) -> float:
        """Share of the tokens' latent, 0 to 1, in the decoder's input after ``progress`` of the training."""
        ramp = (progress - self.ramp_from) / (self.ramp_until - self.ramp_from)
        return min(1.0, max(0.0, ramp))


class WholePictures(Dataset[Tensor]):
    """Training pictures as (3, 512, 512) floats in [-1, 1]; item ``i`` is always the same."""

    def __init__(self, data: Path, seed: int, vocabulary: str) -> None:
        self.pictures: Pictures
        if has_own_pictures(data):
            self.pictures = FolderPictures(data, seed=seed, unseen=False)
        else:
            self.pictures = ScenePictures(
                data, seed=seed, vocabulary=vocabulary, variety=FOR_TOKENIZER
            )

    def __getitem__(self, index: int) -> Tensor:
        return to_tensor(self.pictures.picture(index))


def to_tensor(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + L2 + L1 of the image gradients, which keeps edges where they are."""
    error = output - target
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + gradients


def residuals(model: ImageTokenizer, features: Tensor) -> Tensor:
    """The vectors (N, z) that the quantizer looks up for ``features``, of all scales."""
    rest, f_hat = [], torch.zeros_like(features)
    for scale, (_, next_f_hat) in enumerate(model.quantizer.decompose(features)):
        size = model.quantizer.schedule.sizes[scale]
        rest.append(F.interpolate(features - f_hat, size=size, mode="area").flatten(2))
        f_hat = next_f_hat
    return torch.cat(rest, dim=2).transpose(1, 2).flatten(0, 1)


class Trainer:
    """The tokenizer on its way: weights, optimizers and the usage of each codebook vector."""

    def __init__(self, config: ModelConfig, recipe: TokenizerRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        torch.manual_seed(recipe.seed)
        self.model = build_tokenizer(config).to(device)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name.endswith(_BRANCH_ENDS):
                    parameter.mul_(RESIDUAL_GAIN)
        codebook = with_codebook(self.model.quantizer).codebook.weight
        phi = list(with_codebook(self.model.quantizer).phi.parameters())
        self.networks = [
            p for n, p in self.model.named_parameters() if not n.startswith("quantizer.")
        ]
        matrices = [p for p in self.networks if p.ndim in (2, 4) and p[0].numel() <= WIDEST]
        others = [p for p in self.networks if all(p is not matrix for matrix in matrices)]
        self.codebook_optimizer = torch.optim.AdamW([codebook], betas=(0.9, 0.99), weight_decay=0.0)
        self.optimizers: dict[torch.optim.Optimizer, float] = {  # and the peak of its learning rate
            Muon(matrices): recipe.matrix_lr,
            torch.optim.AdamW([*others, *phi], betas=(0.9, 0.99), weight_decay=0.0): recipe.peak_lr,
            self.codebook_optimizer: recipe.codebook_lr,
        }
        self.usage = torch.ones(len(codebook), device=device)
        self.has_codebook = False

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "usage": self.usage,
            "has_codebook": self.has_codebook,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.usage.copy_(state["usage"])
        self.has_codebook = state["has_codebook"]

    def step(self, step: int, images: Tensor, progress: float) -> dict[str, float]:
        """One update on ``images`` (B, 3, 512, 512) after a share ``progress`` of the training; returns the log."""
        recipe = self.recipe
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * recipe.rate(step, progress)
        images = images.to(self.device)
        with autocast(self.device):
            features = self.model.features(images)
        features = features.float()
        if progress >= recipe.codebook_at and not self.has_codebook:
            self.start_codebook(features.detach())
        latent, commitment = self.quantized(features, recipe.quantized(progress))
        with autocast(self.device):
            output = self.model.paint(latent)
        output = output.float()
        loss = reconstruction_loss(output, images)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss + commitment)
        norm = torch.nn.utils.clip_grad_norm_(self.networks, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.has_codebook and step % REVIVE_EVERY == 0 and progress < REVIVE_UNTIL:
            self.revive(features.detach())
        return {
            "loss": loss.item(), "commitment": commitment.item(), "grad_norm": float(norm),
            "psnr": psnr(output.detach(), images), "codebook_used": float((self.usage > 0.5).float().mean()),
        }  # fmt: skip

    def quantized(self, features: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The decoder's input (B, z, P, P), ``share`` of it from the tokens, and the loss of codebook and encoder.

        Gradients pass straight through to the features. Muon's updates are as large for the commitment as for the
        picture, so its weight has to grow with the share.
        """
        loss = torch.zeros((), device=self.device)
        if not self.has_codebook:
            return features, loss
        scales = len(self.model.quantizer.schedule)
        for tokens, f_hat in self.model.quantizer.decompose(features):
            to_codebook = F.mse_loss(f_hat, features.detach())
            to_encoder = F.mse_loss(f_hat.detach(), features)
            loss = loss + (to_codebook + 0.25 * share * to_encoder) / scales
            flat = tokens.flatten()
            self.usage.index_add_(0, flat, torch.ones_like(flat, dtype=self.usage.dtype))
        self.usage *= 0.99
        return features + share * (f_hat - features).detach(), loss

    @torch.no_grad()
    def start_codebook(self, features: Tensor) -> None:
        """Fill the codebook with samples of what it has to name, coarse scales refined by coarser samples first."""
        codebook = with_codebook(self.model.quantizer).codebook.weight
        vectors = features.permute(0, 2, 3, 1).flatten(0, 2)
        for _ in range(
            3
        ):  # each pass sees the residuals that the codebook of the pass before leaves
            chosen = torch.randint(len(vectors), (len(codebook),), device=vectors.device)
            codebook.copy_(vectors[chosen] + 0.01 * vectors.std() * torch.randn_like(codebook))
            vectors = residuals(self.model, features)
        self.has_codebook = True

    @torch.no_grad()
    def revive(self, features: Tensor) -> None:
        """Move the codebook vectors that nothing uses to vectors of this batch."""
        dead = (self.usage < 0.5).nonzero().flatten()
        if len(dead) == 0:
            return
        vectors = residuals(self.model, features)
        chosen = torch.randint(len(vectors), (len(dead),), device=vectors.device)
        weight = with_codebook(self.model.quantizer).codebook.weight
        weight[dead] = vectors[chosen]
        for moment in self.codebook_optimizer.state[weight].values():
            if moment.shape == weight.shape:
                moment[dead] = 0
        self.usage[dead] = 1.0


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    error = (output.clamp(-1, 1) - target).square().mean()
    return float(10 * torch.log10(4 / error.clamp_min(1e-10)))


def unseen_pictures(data: Path, recipe: TokenizerRecipe) -> Tensor:
    """The pictures (12, 3, 512, 512) in [-1, 1] that a run of ``recipe`` is scored by and never trains on.

    Of scenes, usual ones. Of fewer than :data:`training.pictures.ENOUGH` pictures of one's own, 12 at most that it
    does train on, since there are too few to do without some.
    """
    pictures: Pictures
    if has_own_pictures(data):
        pictures = FolderPictures(data, unseen=True)
    else:
        pictures = ScenePictures(data, seed=recipe.seed + 1, vocabulary=recipe.vocabulary)
    count = min(UNSEEN, pictures.count or UNSEEN)
    return torch.stack([to_tensor(pictures.picture(i)) for i in range(count)])


@torch.no_grad()
def evaluate(model: ImageTokenizer, images: Tensor) -> tuple[dict[str, float], Tensor]:
    """PSNR of unseen images (B, 3, 512, 512) through all tokens and without them; and their reconstructions."""
    device = next(model.parameters()).device
    features = [model.features(i.unsqueeze(0).to(device)) for i in images]
    output = torch.cat([model.decode_tokens(model.quantizer.encode(f)).cpu() for f in features])
    plain = torch.cat([model.decode(f).cpu() for f in features])
    scores = [
        sum(psnr(o, i) for o, i in zip(shown, images, strict=True)) / len(images)
        for shown in (output, plain)
    ]
    return {"validation_psnr": scores[0], "not_quantized_psnr": scores[1]}, output


def train(arguments: argparse.Namespace, recipe: TokenizerRecipe, config: ModelConfig) -> None:
    """Train to the end of ``recipe`` or of the minutes, continuing what the run's directory holds."""
    device = use_machine(arguments)
    budget = Budget(recipe.steps, arguments.minutes)
    settings = {"recipe": dataclasses.asdict(recipe), "config": config.to_dict()}
    run = Run(arguments.run, settings, recipe.steps, minutes=arguments.minutes)
    trainer = Trainer(config, recipe, device)
    first = 0
    if state := run.resume():
        trainer.load(state)
        first = state["step"]
    validation = unseen_pictures(arguments.data, recipe)
    loader = batches(
        WholePictures(arguments.data, recipe.seed, recipe.vocabulary),
        start=first,
        stop=first + 10**6 if budget.minutes else recipe.steps,
        batch_size=recipe.batch_size,
        workers=loader_workers(device),
    )
    if first and budget.progress(first, run.seconds) >= 1:
        return
    for step, images in enumerate(loader, start=first):
        values = trainer.step(step, images, budget.progress(step, run.seconds))
        done = step + 1
        ended = budget.progress(done, run.seconds) >= 1
        if done % 25 == 0:
            run.record(done, **values)
        if done % arguments.save_every == 0 or ended or run.stopping:
            scores, output = evaluate(trainer.model, validation)
            run.record(done, **scores)
            shown = torch.stack([validation[:6], output[:6]]).flatten(0, 1)
            run.write_sheet("reconstructions", to_pixels(shown), columns=len(shown) // 2)
            run.draw_curves(["loss", "psnr", "validation_psnr", "codebook_used"])
            run.save(done, **trainer.state())
        if ended:
            return
        if run.stopping:
            raise SystemExit(f"stopped after step {done}; the same command continues")


@command
def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description="Train the image tokenizer; stop and start it as you like."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/tokenizer"), help="the run's directory"
    )
    parser.add_argument(
        "--save-every", type=int, default=250, help="updates between two saved states"
    )
    add_size_flag(parser)
    add_machine_flags(parser)
    add_flags(parser, TokenizerRecipe)
    arguments = parser.parse_args()
    train(arguments, from_flags(arguments, TokenizerRecipe), SIZES[arguments.size])


if __name__ == "__main__":
    main()
