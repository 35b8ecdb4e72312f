"""Train the image tokenizer (VQVAE) on composed scenes: ``python -m training.train_tokenizer --data ... --run ...``.

Three phases. A plain autoencoder first, until its features mean something; the codebook then starts from samples
of the residuals that it will have to name. Quantized training on crops follows, and a last part on whole images with
the model's own schedule, so that what the decoder sees is what it will decode.
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

from star_model.config import TokenizerConfig
from star_model.networks.vqvae import VQVAE
from star_model.scales import ScaleSchedule
from training.muon import Muon
from training.precision import autocast
from training.recipe import PATCH_NUMS, TOKENIZER, add_flags, from_flags
from training.run import Run, batches, learning_rate
from training.scenes import SceneGenerator, render
from training.sprites import Sprites

IMAGE_SIZE = 512
CROP_SIZE = 256
CROP_PATCH_NUMS = (1, 2, 3, 4, 5, 6, 8)
REVIVE_EVERY = 25
"""Steps between two searches for codebook vectors that nothing uses."""


@dataclasses.dataclass(frozen=True)
class TokenizerRecipe:
    """Lengths in steps, sizes in images."""

    seed: int = 0
    vocabulary: str = "starter"
    steps: int = 2200
    autoencoder_steps: int = 250
    whole_image_steps: int = 300
    batch_size: int = 8
    matrix_lr: float = 0.02
    peak_lr: float = 1e-3
    codebook_lr: float = 1e-2
    warmup: int = 50


class Crops(Dataset[Tensor]):
    """Crops of training scenes as (3, size, size) floats in [-1, 1]; item ``i`` is always the same."""

    def __init__(self, data: Path, recipe: TokenizerRecipe, size: int) -> None:
        self.sprites = Sprites(data)
        self.scenes = SceneGenerator(
            data, seed=recipe.seed, vocabulary=recipe.vocabulary, max_objects=2
        )
        self.seed, self.size = recipe.seed, size

    def __getitem__(self, index: int) -> Tensor:
        x, y = np.random.default_rng((self.seed, index)).integers(0, IMAGE_SIZE - self.size + 1, 2)
        crop = (int(x), int(y), self.size, self.size)
        pixels = render(self.scenes.scene(index), self.sprites, IMAGE_SIZE, crop=crop)
        return to_tensor(pixels)


def to_tensor(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    return (
        ((images.float().clamp(-1, 1) + 1) * 127.5)
        .round()
        .byte()
        .permute(0, 2, 3, 1)
        .contiguous()
        .numpy()
    )


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + L2 + L1 of the image gradients, which keeps edges where they are."""
    error = output - target
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + gradients


def residuals(model: VQVAE, features: Tensor) -> Tensor:
    """The vectors (N, z) that the quantizer looks up for ``features``, of all scales."""
    rest, f_hat = [], torch.zeros_like(features)
    for scale, (_, next_f_hat) in enumerate(model.quantizer.decompose(features)):
        side = model.quantizer.schedule.patch_nums[scale]
        rest.append(F.interpolate(features - f_hat, size=(side, side), mode="area").flatten(2))
        f_hat = next_f_hat
    return torch.cat(rest, dim=2).transpose(1, 2).flatten(0, 1)


class Trainer:
    """The tokenizer on its way: weights, optimizer and the usage of each codebook vector."""

    def __init__(
        self, config: TokenizerConfig, recipe: TokenizerRecipe, device: torch.device
    ) -> None:
        self.recipe, self.device = recipe, device
        torch.manual_seed(recipe.seed)
        self.whole = channels_last(VQVAE(config, ScaleSchedule(PATCH_NUMS)).to(device))
        self.crops = VQVAE(config, ScaleSchedule(CROP_PATCH_NUMS)).to(device)
        share_parameters(self.crops, self.whole)
        codebook = self.whole.quantizer.codebook.weight
        phi = list(self.whole.quantizer.phi.parameters())
        rest = [p for p in self.whole.parameters() if all(p is not q for q in (codebook, *phi))]
        self.codebook_optimizer = torch.optim.AdamW([codebook], betas=(0.9, 0.99), weight_decay=0.0)
        others = [*phi, *(p for p in rest if p.ndim == 1)]
        self.optimizers: dict[torch.optim.Optimizer, float] = {  # and the peak of its learning rate
            Muon(p for p in rest if p.ndim > 1): recipe.matrix_lr,
            torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0): recipe.peak_lr,
            self.codebook_optimizer: recipe.codebook_lr,
        }
        self.usage = torch.ones(config.vocab_size, device=device)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.whole.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "usage": self.usage,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.whole.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.usage.copy_(state["usage"])

    def step(self, step: int, images: Tensor) -> dict[str, float]:
        """One update on ``images`` (B, 3, S, S); returns what to log."""
        recipe = self.recipe
        model = self.whole if images.shape[-1] == IMAGE_SIZE else self.crops
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, peak=peak, warmup=recipe.warmup, total=recipe.steps
                )
        images = images.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            features = model.features(images)
        features = features.float()
        if step == recipe.autoencoder_steps:
            self.start_codebook(residuals_of=features, model=model)
        commitment = torch.zeros((), device=self.device)
        latent = features
        if step >= recipe.autoencoder_steps:
            for tokens, f_hat in model.quantizer.decompose(features):
                commitment = commitment + (
                    F.mse_loss(f_hat, features.detach())
                    + 0.25 * F.mse_loss(f_hat.detach(), features)
                ) / len(model.quantizer.schedule)
                self.usage.index_add_(
                    0, tokens.flatten(), torch.ones(tokens.numel(), device=self.device)
                )
            latent = features + (f_hat - features).detach()
        with autocast(self.device):
            output = model.decoder(model.post_quant_conv(latent))
        output = output.float()
        loss = reconstruction_loss(output, images) + commitment
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.whole.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        values = {
            "loss": loss.item(), "commitment": commitment.item(), "grad_norm": float(norm),
            "psnr": psnr(output.detach(), images),
        }  # fmt: skip
        if step >= recipe.autoencoder_steps:
            self.usage *= 0.99
            values["codebook_used"] = float((self.usage > 0.5).float().mean())
            on_crops = step <= recipe.steps - recipe.whole_image_steps
            if on_crops and step % REVIVE_EVERY == 0 and step > recipe.autoencoder_steps:
                self.revive(features, model)
        return values

    @torch.no_grad()
    def start_codebook(self, residuals_of: Tensor, model: VQVAE) -> None:
        """Fill the codebook with samples of what it has to name, coarse scales refined by coarser samples first."""
        codebook = model.quantizer.codebook.weight
        vectors = residuals_of.detach().permute(0, 2, 3, 1).flatten(0, 2)
        for _ in range(
            3
        ):  # each pass sees the residuals that the codebook of the pass before leaves
            chosen = torch.randint(len(vectors), (len(codebook),), device=vectors.device)
            codebook.copy_(vectors[chosen] + 0.01 * vectors.std() * torch.randn_like(codebook))
            vectors = residuals(model, residuals_of.detach())

    @torch.no_grad()
    def revive(self, features: Tensor, model: VQVAE) -> None:
        """Move the codebook vectors that nothing uses to vectors of this batch."""
        dead = (self.usage < 0.5).nonzero().flatten()
        if len(dead) == 0:
            return
        vectors = residuals(model, features.detach())
        chosen = torch.randint(len(vectors), (len(dead),), device=vectors.device)
        weight = model.quantizer.codebook.weight
        weight[dead] = vectors[chosen]
        for moment in self.codebook_optimizer.state[weight].values():
            if moment.shape == weight.shape:
                moment[dead] = 0
        self.usage[dead] = 1.0


def channels_last(vqvae: VQVAE) -> VQVAE:
    """Lay the kernels of ``vqvae`` out as its convolutions run fastest, in place."""
    for parameter in vqvae.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return vqvae


def share_parameters(target: VQVAE, source: VQVAE) -> None:
    """Let ``target`` use the parameters of ``source``, which has the same shapes and another schedule."""
    for name, module in target.named_modules():
        for key in list(module._parameters):
            module._parameters[key] = source.get_submodule(name)._parameters[key]


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    error = (output.clamp(-1, 1) - target).square().mean()
    return float(10 * torch.log10(4 / error.clamp_min(1e-10)))


def unseen_scenes(data: Path, recipe: TokenizerRecipe) -> Tensor:
    """The 12 whole scenes (12, 3, 512, 512) in [-1, 1] that a run of ``recipe`` is scored by and never trains on."""
    scenes = SceneGenerator(data, seed=recipe.seed + 1, vocabulary=recipe.vocabulary, max_objects=2)
    sprites = Sprites(data)
    return torch.stack([to_tensor(render(scenes.scene(i), sprites, IMAGE_SIZE)) for i in range(12)])


@torch.no_grad()
def evaluate(trainer: Trainer, images: Tensor) -> tuple[dict[str, float], Tensor]:
    """PSNR of whole unseen images (B, 3, 512, 512) through all tokens, and their reconstructions."""
    model, device = trainer.whole, trainer.device
    output = torch.cat(
        [model.decode_tokens(model.encode(i.unsqueeze(0).to(device))).cpu() for i in images]
    )
    values = [psnr(o, i) for o, i in zip(output, images, strict=True)]
    return {"validation_psnr": sum(values) / len(values)}, output


def train(
    data: Path, directory: Path, recipe: TokenizerRecipe, config: TokenizerConfig, save_every: int
) -> None:
    """Train to the end of ``recipe``, continuing what ``directory`` holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = {"recipe": dataclasses.asdict(recipe), "config": dataclasses.asdict(config)}
    run = Run(directory, settings, recipe.steps)
    trainer = Trainer(config, recipe, device)
    first = 0
    if state := run.resume():
        trainer.load(state)
        first = state["step"]
    validation = unseen_scenes(data, recipe)

    crop_steps = recipe.steps - recipe.whole_image_steps
    phases = (
        (CROP_SIZE, recipe.batch_size, 0, crop_steps),
        (IMAGE_SIZE, max(recipe.batch_size // 4, 1), crop_steps, recipe.steps),
    )
    for size, batch_size, begin, end in phases:
        if first >= end:
            continue
        crops = batches(
            Crops(data, recipe, size), start=max(first, begin), stop=end, batch_size=batch_size
        )
        for step, images in enumerate(crops, start=max(first, begin)):
            values = trainer.step(step, images)
            done = step + 1
            if done % 25 == 0:
                run.record(done, **values)
            if done % save_every == 0 or done == recipe.steps or run.stopping:
                scores, output = evaluate(trainer, validation)
                run.record(done, **scores)
                shown = torch.stack([validation[:6], output[:6]]).flatten(0, 1)
                run.write_sheet("reconstructions", to_pixels(shown), columns=6)
                run.draw_curves(["loss", "psnr", "validation_psnr", "codebook_used"])
                run.save(done, **trainer.state())
            if run.stopping:
                raise SystemExit(f"stopped after step {done}; the same command continues")


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
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    parser.add_argument(
        "--save-every", type=int, default=250, help="steps between two saved states"
    )
    add_flags(parser, TokenizerRecipe)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    recipe = from_flags(arguments, TokenizerRecipe)
    train(arguments.data, arguments.run, recipe, TOKENIZER, arguments.save_every)


if __name__ == "__main__":
    main()
