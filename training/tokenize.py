"""Turn scenes into what the transformer trains on: ``python -m training.tokenize --data ... --tokenizer ...``.

For each scene its tokens, and for its caption the frozen text encoder's features. Both networks are frozen, so this is
done once: the transformer then sees each scene several times without paying for it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from star_model.scales import ScaleSchedule
from star_model.text_encoder import TextConditioning, TransformersTextEncoder, load_text_encoder
from star_model.vqvae import VQVAE
from training.recipe import PATCH_NUMS, TEXT_ENCODER, TOKENIZER
from training.run import write_atomically
from training.scenes import SceneGenerator, render
from training.sprites import Sprites
from training.train_tokenizer import IMAGE_SIZE, channels_last, to_tensor

TEXT_TOKENS = 32
"""Positions of a caption; none is longer. The model itself takes longer prompts."""


@dataclass(frozen=True)
class TokenSet:
    """N scenes as arrays, memory-mapped.

    Attributes:
        tokens: (N, L) uint16, all scales one after the other.
        hidden: (N, 32, D) float16 text features, zero beyond the caption.
        lengths: (N,) int64, text positions in use.
        pooled: (N, D) float32.
        empty: the same three of the empty prompt, for guidance.
    """

    tokens: np.ndarray[Any, Any]
    hidden: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    pooled: np.ndarray[Any, Any]
    empty: tuple[np.ndarray[Any, Any], int, np.ndarray[Any, Any]]

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def open(cls, directory: Path) -> TokenSet:
        """Raises FileNotFoundError when ``directory`` was not filled by this module."""
        arrays = {
            n: np.load(directory / f"{n}.npy", mmap_mode="r")
            for n in ("tokens", "hidden", "lengths", "pooled")
        }
        hidden, lengths, pooled = (arrays[n] for n in ("hidden", "lengths", "pooled"))
        return cls(  # the last row of the text arrays is the empty prompt
            arrays["tokens"],
            hidden[:-1],
            lengths[:-1],
            pooled[:-1],
            (hidden[-1], int(lengths[-1]), pooled[-1]),
        )


class Scenes(Dataset[Tensor]):
    """Whole scenes as (3, 512, 512) floats in [-1, 1]."""

    def __init__(self, data: Path, scenes: SceneGenerator, count: int) -> None:
        self.sprites, self.scenes, self.count = Sprites(data), scenes, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return to_tensor(render(self.scenes.scene(index), self.sprites, IMAGE_SIZE))


def load_tokenizer(directory: Path, device: torch.device) -> VQVAE:
    """The tokenizer as a training run last saved it, or that of a model directory."""
    vqvae = VQVAE(TOKENIZER, ScaleSchedule(PATCH_NUMS))
    vqvae.load_state_dict(trained_weights(directory, "vqvae.safetensors", "model"))
    return channels_last(vqvae.to(device).eval().requires_grad_(False))


def trained_weights(directory: Path, file: str, of_state: str) -> dict[str, Tensor]:
    """What training goes on from: ``file`` of a model directory, or the entry ``of_state`` of a run's saved state.

    Raises:
        FileNotFoundError: ``directory`` is neither.
    """
    if (directory / file).exists():
        return {name: weight.float() for name, weight in load_file(directory / file).items()}
    if not (directory / "state.pt").exists():
        raise FileNotFoundError(f"{directory} is neither a run with a state.pt nor a model with a {file}")
    weights: dict[str, Tensor] = torch.load(directory / "state.pt", weights_only=True, map_location="cpu")[
        of_state
    ]
    return weights


def encode_captions(encoder: TransformersTextEncoder, captions: list[str]) -> list[TextConditioning]:
    """Conditionings of ``captions``, with the time left shown."""
    started, out = time.monotonic(), []
    for i, caption in enumerate(captions, start=1):
        out += encoder.encode([caption])
        if i % 1000 == 0:
            left = (time.monotonic() - started) / i * (len(captions) - i)
            print(f"captions {i}/{len(captions)}  {left / 60:.1f} min left", flush=True)
    return out


def tokenize(
    data: Path, run: Path, out: Path, *, count: int, seed: int, vocabulary: str, max_objects: int
) -> None:
    """Write a :class:`TokenSet` of scenes 0 to ``count - 1`` to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vqvae = load_tokenizer(run, device)
    generator = SceneGenerator(data, seed=seed, vocabulary=vocabulary, max_objects=max_objects)
    captions = [generator.scene(i).caption for i in range(count)]

    started, tokens = time.monotonic(), []
    loader = DataLoader(Scenes(data, generator, count), batch_size=8, num_workers=1, prefetch_factor=4)
    for i, images in enumerate(loader, start=1):
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            features = vqvae.features(images.to(device, memory_format=torch.channels_last))
        maps = vqvae.quantizer.encode(features.float())
        tokens.append(torch.cat(maps, dim=1).cpu().numpy().astype(np.uint16))
        if i % 50 == 0:
            left = (time.monotonic() - started) / i * (len(loader) - i)
            print(f"scenes {8 * i}/{count}  {left / 60:.1f} min left", flush=True)

    # A shorter window gives the same features for less: what is masked out does not count.
    window = dataclasses.replace(TEXT_ENCODER, max_tokens=TEXT_TOKENS)
    encoder = load_text_encoder(data / "text_encoder", window, device=device, dtype=torch.float32)
    texts = encode_captions(encoder, [*captions, ""])
    arrays = {
        "tokens": np.concatenate(tokens),
        "hidden": np.stack(
            [(t.hidden * t.mask.unsqueeze(1)).cpu().numpy().astype(np.float16) for t in texts]
        ),
        "lengths": np.array([int(t.mask.sum()) for t in texts]),
        "pooled": np.stack([t.pooled.cpu().numpy() for t in texts]),
    }
    for name, array in arrays.items():

        def save(path: Path, array: np.ndarray[Any, Any] = array) -> None:
            with path.open("wb") as file:
                np.save(file, array)

        write_atomically(out / f"{name}.npy", save)
    (out / "captions.json").write_text(json.dumps(captions))


def main() -> None:
    """Parse the command line and encode."""
    parser = argparse.ArgumentParser(description="Encode scenes and captions for the transformer's training.")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path("runs/tokenizer"),
        help="the tokenizer's run, or a model directory",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tokens"))
    parser.add_argument("--count", type=int, default=20000, help="scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", default="starter")
    parser.add_argument("--max-objects", type=int, default=1, help="1 to 3")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tokenize(
        arguments.data,
        arguments.tokenizer,
        arguments.out,
        count=arguments.count,
        seed=arguments.seed,
        vocabulary=arguments.vocabulary,
        max_objects=arguments.max_objects,
    )


if __name__ == "__main__":
    main()
