"""Scores of images that are drawn: FID, CLIP score, ImageReward, each by the package that papers use or its equal.

The packages and their weights are optional: a score that cannot be computed says what is missing. No weights are
fetched here but by name through the hub library, which a path to local files replaces.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from star_model.checkpoints.pth import read_pth
from star_model.errors import CheckpointError

Progress = Callable[[int], None]
Pair = tuple[Path, str]
"""An image and the prompt that it was drawn from."""


LAST_LAYER = (1008, 2048)
"""Shape of the last layer of the Inception v3 of the FID: it has more classes than other versions of the network."""


class MissingError(RuntimeError):
    """A package or weights that a score needs are not there."""


def fid(images: Path, references: Path, weights: Path | None, device: torch.device) -> float:
    """Fréchet distance between two folders of images in the features of Inception v3, by ``torch-fidelity``.

    Args:
        images, references: folders; all images in them count.
        weights: the FID Inception weights (``pt_inception-2015-12-05``), in a file that is read without running code
            from it.
        device: on which the features are computed.

    Raises:
        MissingError: the package or the weights are not there, or the weights are others.
    """
    try:
        from torch_fidelity import calculate_metrics
    except ImportError as error:
        raise MissingError("FID needs torch-fidelity: pip install '.[quality]'") from error
    except RuntimeError as error:  # of torchvision, which torch-fidelity imports
        raise MissingError(
            "FID needs a torchvision that is built for the PyTorch that is installed, "
            f"{torch.__version__}: install both from the same index ({error})"
        ) from error
    state = read_inception(weights)
    with tempfile.TemporaryDirectory() as folder:
        # The package unpickles its file and would run what is in it; this one has nothing but the tensors.
        safe = Path(folder) / "inception.pth"
        torch.save(state, safe)
        found: dict[str, float] = calculate_metrics(
            input1=str(images),
            input2=str(references),
            fid=True,
            cuda=device.type == "cuda",
            samples_find_deep=True,
            feature_extractor_weights_path=str(safe),
            cache=False,
            verbose=False,
        )
    return found["frechet_inception_distance"]


def read_inception(weights: Path | None) -> dict[str, torch.Tensor]:
    """Read the weights of the FID's Inception v3; no code from the file is run.

    Raises:
        MissingError: there is no file, or it holds something else.
    """
    if weights is None:
        raise MissingError(
            "FID needs --inception FILE: the weights pt_inception-2015-12-05 of pytorch-fid or torch-fidelity, which "
            "are in no package"
        )
    try:
        state = {name: lazy.read() for name, lazy in read_pth(weights).items()}
    except CheckpointError as error:
        raise MissingError(str(error)) from error
    last = state.get("fc.weight")
    if last is None or last.shape != LAST_LAYER:
        raise MissingError(
            f"{weights} holds other weights than pt_inception-2015-12-05: a tensor fc.weight of shape {LAST_LAYER} is "
            "expected; torchvision's Inception v3 is another network"
        )
    return state


def clip_score(
    pairs: Sequence[Pair],
    model: str,
    device: torch.device,
    *,
    batch: int = 32,
    done: Progress = lambda images: None,
) -> float:
    """Mean cosine of image and prompt in the space of a CLIP model.

    Args:
        pairs: what is scored.
        model: its name on the hub, or the folder that it is in.
        device: on which it runs.
        batch: images at a time.
        done: called with the number of images after each batch.

    Raises:
        MissingError: the model cannot be had.
    """
    from transformers import AutoModel, AutoProcessor

    try:
        processor: Any = AutoProcessor.from_pretrained(model)  # type: ignore[no-untyped-call]
        network: Any = AutoModel.from_pretrained(model).eval().to(device)
    except Exception as error:  # the libraries have many ways to fail
        reason = str(error).strip().partition("\n")[0]
        raise MissingError(
            f"the CLIP score needs the model {model}, which cannot be loaded: {reason}. Give its folder with --clip"
        ) from error
    cosines: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(pairs), batch):
            chunk = pairs[start : start + batch]
            pictures = [Image.open(file).convert("RGB") for file, _ in chunk]
            inputs = processor(
                images=pictures,
                text=[prompt for _, prompt in chunk],
                return_tensors="pt",
                padding="max_length",
                truncation=True,
            ).to(device)
            output = network(**inputs)
            image, text = (
                torch.nn.functional.normalize(e.float(), dim=-1)
                for e in (output.image_embeds, output.text_embeds)
            )
            cosines += (image * text).sum(-1).tolist()
            done(len(chunk))
    return fmean(cosines)


def image_reward(
    pairs: Sequence[Pair], model: str, *, done: Progress = lambda images: None
) -> float:
    """Mean ImageReward, by its package.

    Args:
        pairs: what is scored.
        model: its name, ``ImageReward-v1.0``, or the file of its weights.
        done: called with 1 after each image.

    Raises:
        MissingError: the package or the weights are not there.
    """
    try:
        import ImageReward

        network: Any = ImageReward.load(model)
    except Exception as error:  # an import of a package that is out of date raises anything
        raise MissingError(
            f"ImageReward cannot be loaded ({type(error).__name__}: {error}). Its package needs an older transformers "
            "than this project: score in an environment of its own, with --only score"
        ) from error
    rewards: list[float] = []
    for file, prompt in pairs:
        rewards.append(float(network.score(prompt, str(file))))
        done(1)
    return fmean(rewards)
