"""Turn scenes into what the transformer trains on: ``python -m training.tokenize --data ... --tokenizer ...``.

For each scene its tokens, and for its captions the frozen text encoder's features. Both networks are frozen, so this
is done once: the transformer then sees each scene several times without paying for it again, with another caption each
time if there are several (``--captions``). It can be stopped at any moment and goes on where it was; with a larger
``--count``, it adds to what there is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from star_model.checkpoints.int8 import SCALE, restore_rows
from star_model.checkpoints.native import read_config
from star_model.config import ModelConfig
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.text_encoder import TransformersTextEncoder, load_text_encoder
from star_model.networks.tokenizers import build_tokenizer
from training.machine import add_machine_flags, command, loader_workers, use_machine
from training.pictures import Pictures, open_pictures
from training.precision import autocast
from training.recipe import TEXT_ENCODER
from training.scenes import FOR_TRANSFORMER
from training.train_tokenizer import to_tensor

TEXT_TOKENS = 32
"""Positions of a caption; none is longer. The model itself takes longer prompts."""

CPU = torch.device("cpu")

TEXTS_AT_ONCE = 256

SHARD = 1000
"""Pictures that are saved together: what a stop loses at most."""

SCENES = 40_000
"""Scenes that are encoded by default."""


Array = np.ndarray[Any, Any]
Text = tuple[Array, int, Array]
"""Text features (TEXT_TOKENS, D) in float16, zero beyond the caption; positions in use; pooled (D,) in float32."""


class TokenSet:
    """Tokenized scenes in ``directory``, memory-mapped: one shard after the other.

    Raises:
        FileNotFoundError: when the directory was not filled by this module.
    """

    def __init__(self, directory: Path) -> None:
        names = ("tokens", "hidden", "lengths", "pooled")
        self._shards = [
            tuple(np.load(shard / f"{name}.npy", mmap_mode="r") for name in names)
            for shard in shards_of(directory)
        ]
        if not self._shards:
            raise FileNotFoundError(
                f"{directory} holds no tokenized scenes; run training.tokenize first"
            )
        self._ends = np.cumsum([len(tokens) for tokens, *_ in self._shards])
        empty = np.load(directory / "empty.npz")
        self.empty: Text = (empty["hidden"], int(empty["length"]), empty["pooled"])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[Array, Text]:
        """The tokens (L,) of all scales of scene ``index``, one scale after the other, and its caption's features."""
        return self.captioned(index, 0)

    def captioned(self, index: int, turn: int) -> tuple[Array, Text]:
        """The same with the caption whose turn it is: after the last one the first again."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[shard])  # counted from the shard's end
        tokens, *texts = (array[row] for array in self._shards[shard])
        hidden, lengths, pooled = (array[turn % len(array)] for array in texts)
        return tokens, (hidden, int(lengths), pooled)


def shards_of(directory: Path) -> list[Path]:
    """The finished shards in ``directory``, in order."""
    return sorted(path for path in directory.glob("[0-9]*") if path.suffix != ".partial")


class Some(Dataset[Tensor]):
    """Some of ``pictures``, by their numbers, as (3, 512, 512) floats in [-1, 1]."""

    def __init__(self, pictures: Pictures, numbers: range) -> None:
        self.pictures, self.numbers = pictures, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Tensor:
        return to_tensor(self.pictures.picture(self.numbers[index]))


def load_encoder(data: Path, device: torch.device) -> TransformersTextEncoder:
    """The frozen text encoder, with the window of a caption."""
    # A shorter window gives the same features for less: what is masked out does not count.
    window = dataclasses.replace(TEXT_ENCODER, max_tokens=TEXT_TOKENS)
    return load_text_encoder(data / "text_encoder", window, device=device, dtype=torch.float32)


def load_tokenizer(directory: Path, device: torch.device) -> ImageTokenizer:
    """The image tokenizer of a model directory, or as a training run last saved it, ready to encode and decode.

    Raises:
        FileNotFoundError: ``directory`` is neither.
    """
    tokenizer = build_tokenizer(config_of(directory))
    tokenizer.load_state_dict(trained_weights(directory, "vqvae.safetensors", "model"))
    return tokenizer.to(device).eval().requires_grad_(False)


def config_of(directory: Path) -> ModelConfig:
    """The configuration of a model directory or of a training run.

    Raises:
        FileNotFoundError: ``directory`` is neither, or the run has saved nothing yet.
    """
    if (directory / "config.json").exists():
        return read_config(directory)
    settings = saved_state(directory)["settings"]
    return ModelConfig.from_dict(settings["config"])


def saved_state(directory: Path) -> dict[str, Any]:
    """The state of a training run on the CPU.

    Raises:
        FileNotFoundError: it has saved none.
    """
    if not (directory / "state.pt").exists():
        raise FileNotFoundError(
            f"{directory} is neither a run with a state.pt nor a model directory"
        )
    state: dict[str, Any] = torch.load(
        directory / "state.pt", weights_only=True, map_location="cpu"
    )
    return state


def trained_weights(directory: Path, file: str, of_state: str) -> dict[str, Tensor]:
    """What training goes on from: ``file`` of a model directory, or the entry ``of_state`` of a run's saved state.

    Raises:
        FileNotFoundError: ``directory`` is neither.
    """
    if (directory / file).exists():
        stored = load_file(directory / file)
        scales = {
            name for name in stored if name.removesuffix(SCALE) in stored and name.endswith(SCALE)
        }
        return {
            name: restore_rows(weight, stored[name + SCALE])
            if name + SCALE in scales
            else weight.float()
            for name, weight in stored.items()
            if name not in scales
        }
    weights: dict[str, Tensor] = saved_state(directory)[of_state]
    return weights


def refuse_others(out: Path, settings: dict[str, Any]) -> None:
    """Note in ``out`` what its scenes are made with.

    Raises:
        SystemExit: it holds scenes made with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    note = out / "settings.json"
    if note.exists() and json.loads(note.read_text()) != settings:
        raise SystemExit(
            f"{out} holds scenes made with {note.read_text()}; give another --out, or these settings"
        )
    note.write_text(json.dumps(settings))


class SceneEncoder:
    """The frozen networks.

    Args:
        data: what training.prepare wrote.
        tokenizer: the tokenizer's run, or a model directory.
        pictures: what is encoded.
        captions: of each picture.
        device: of both networks.

    Attributes:
        cut: captions so far that are longer than a caption may be, so that their ends were left out.
    """

    def __init__(
        self,
        data: Path,
        tokenizer: Path,
        pictures: Pictures,
        captions: int = 1,
        device: torch.device = CPU,
    ) -> None:
        self.device = device
        self.pictures, self._captions = pictures, captions
        self.cut = 0
        self._vqvae = load_tokenizer(tokenizer, self.device)
        self._text = load_encoder(data, self.device)

    def text(self, caption: str) -> Text:
        """Features of a caption."""
        return self.texts([caption])[0]

    def texts(self, captions: Sequence[str]) -> list[Text]:
        """Features of captions, which are encoded together: a GPU takes as long for one as for many."""
        found: list[Text] = []
        for first in range(0, len(captions), TEXTS_AT_ONCE):
            for t in self._text.encode(captions[first : first + TEXTS_AT_ONCE]):
                self.cut += bool(t.truncated)
                hidden = (t.hidden * t.mask.unsqueeze(1)).cpu().numpy().astype(np.float16)
                found.append((hidden, int(t.mask.sum()), t.pooled.cpu().numpy()))
        return found

    def arrays(self, numbers: range) -> dict[str, Array]:
        """Tokens (N, L) in uint16 and text features (N, captions, ...) of the N pictures ``numbers``, by name."""
        texts = self.texts(self.captions(numbers))
        hidden, lengths, pooled = (
            np.stack(column).reshape(len(numbers), self._captions, *np.shape(column[0]))
            for column in zip(*texts, strict=True)
        )
        return {
            "tokens": self._tokens(numbers),
            "hidden": hidden,
            "lengths": lengths,
            "pooled": pooled,
        }

    def captions(self, numbers: range) -> list[str]:
        """All captions of the pictures ``numbers``, those of one picture together."""
        return [caption for i in numbers for caption in self.pictures.captions(i, self._captions)]

    @torch.no_grad()
    def _tokens(self, numbers: range) -> Array:
        pictures = Some(self.pictures, numbers)
        tokens = []
        workers, size = loader_workers(self.device), 8 if self.device.type == "cpu" else 32
        for images in DataLoader(pictures, batch_size=size, num_workers=workers, prefetch_factor=4):
            with autocast(self.device):
                features = self._vqvae.features(images.to(self.device))
            maps = self._vqvae.quantizer.encode(features.float())
            tokens.append(torch.cat(maps, dim=1).cpu().numpy().astype(np.uint16))
        return np.concatenate(tokens)


def tokenize(encoder: SceneEncoder, out: Path, *, count: int, minutes: float = 0.0) -> None:
    """Fill ``out`` with the first ``count`` pictures, those that it holds left out.

    Args:
        minutes: stop after so long, but not before the first shard is complete; 0 for no limit.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "empty.npz").exists():
        hidden, length, pooled = encoder.text("")
        np.savez(out / "empty.npz", hidden=hidden, length=length, pooled=pooled)
    started, begin = time.monotonic(), sum(map(_length, shards_of(out)))
    for first in range(begin, count, SHARD):
        scenes = range(first, min(first + SHARD, count))
        shard = out / f"{first:08d}"
        partial = shard.with_suffix(".partial")
        partial.mkdir(exist_ok=True)
        for name, array in encoder.arrays(scenes).items():
            np.save(partial / f"{name}.npy", array)
        (partial / "captions.json").write_text(json.dumps(encoder.captions(scenes)))
        partial.rename(shard)
        left = (time.monotonic() - started) / (scenes.stop - begin) * (count - scenes.stop)
        if minutes:
            left = max(0.0, min(left, 60 * minutes - (time.monotonic() - started)))
        print(f"pictures {scenes.stop}/{count}  {left / 60:.1f} min left", flush=True)
        if minutes and time.monotonic() - started > 60 * minutes:
            return


def _length(shard: Path) -> int:
    """Return the number of pictures in a shard."""
    return len(np.load(shard / "tokens.npy", mmap_mode="r"))


def count_of(pictures: Pictures, asked: int | None) -> int:
    """Return the number of pictures to encode: ``asked``, or else all pictures of one's own, or 40,000 scenes.

    Raises:
        ValueError: there are fewer, or less than one is asked for.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"--count must be at least 1, got {asked}")
    if asked is not None and pictures.count is not None and asked > pictures.count:
        raise ValueError(f"--count is {asked}, but there are {pictures.count} pictures")
    return asked or pictures.count or SCENES


@command
def main() -> None:
    """Parse the command line and encode."""
    parser = argparse.ArgumentParser(
        description="Encode scenes and captions for the transformer's training."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path("runs/tokenizer"),
        help="the tokenizer's run, or a model directory",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tokens"))
    parser.add_argument(
        "--count",
        type=int,
        help=f"scenes, {SCENES} by default; of your own pictures, by default all",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", default="full")
    parser.add_argument("--max-objects", type=int, default=2, help="1 to 3")
    parser.add_argument(
        "--captions", type=int, default=3, help="of each scene, one for each time it is learnt"
    )
    add_machine_flags(parser)
    arguments = parser.parse_args()
    device = use_machine(arguments)
    what = {name: getattr(arguments, name) for name in ("seed", "vocabulary", "max_objects")}
    others = {"captions": arguments.captions, "tokenizer": str(arguments.tokenizer)}
    refuse_others(arguments.out, what | others)
    pictures = open_pictures(arguments.data, **what, variety=FOR_TRANSFORMER)
    count = count_of(pictures, arguments.count)
    encoder = SceneEncoder(
        arguments.data, arguments.tokenizer, pictures, arguments.captions, device
    )
    tokenize(encoder, arguments.out, count=count, minutes=arguments.minutes)
    if encoder.cut:
        print(
            f"{encoder.cut} captions are longer than {TEXT_TOKENS} tokens; their ends were left out"
        )


if __name__ == "__main__":
    main()
