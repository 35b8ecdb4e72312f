"""Two CLIP text encoders that read each prompt together, as Switti uses them: a small one and a large one.

Their last hidden states are joined along the width, the first encoder's before the second's. Number of tokens, mask and
pooled feature are the second's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from star_model.config import TextEncoderConfig
from star_model.errors import CheckpointError
from star_model.networks.text_encoder import (
    TextConditioning,
    TransformersTextEncoder,
    load_published_encoder,
    load_text_encoder,
)

FOLDERS = ("first", "second")
"""In the native format: a folder for each, in the folder of the text encoder."""


class ClipPairEncoder:
    """A :class:`~star_model.networks.text_encoder.TextEncoder` around two CLIP encoders.

    Args:
        first, second: see the top of this module; both with as many positions.
    """

    def __init__(self, first: TransformersTextEncoder, second: TransformersTextEncoder) -> None:
        self.first, self.second = first, second

    @property
    def hidden_size(self) -> int:
        """Width of the joined hidden states."""
        return self.first.hidden_size + self.second.hidden_size

    @property
    def pooled_size(self) -> int:
        """Width of the pooled feature."""
        return self.second.pooled_size

    @property
    def positions(self) -> int:
        """The most tokens that both can encode."""
        return min(self.first.positions, self.second.positions)

    def encode(self, prompts: Sequence[str]) -> list[TextConditioning]:
        """Encode each prompt independently of the others."""
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> TextConditioning:
        (text,) = self.second.encode([prompt])
        # Where the two disagree about the number of tokens, the second's mask decides what is read of the first.
        hidden = self.first.hidden_states(prompt, text.num_tokens)
        return replace(text, hidden=torch.cat([hidden, text.hidden], dim=1))

    def save(self, directory: Path, dtype: torch.dtype | None = None) -> None:
        """Write both to ``directory`` for :func:`load_clip_pair`, in ``dtype`` if given."""
        for encoder, name in zip((self.first, self.second), FOLDERS, strict=True):
            (directory / name).mkdir()
            encoder.save(directory / name, dtype)


def load_clip_pair(
    directory: Path, config: TextEncoderConfig, *, device: torch.device, dtype: torch.dtype
) -> ClipPairEncoder:
    """Load the encoders in ``directory``, as :meth:`ClipPairEncoder.save` writes them.

    Raises:
        CheckpointError: naming what is missing or damaged.
    """
    single = replace(config, family="clip")
    first, second = (
        load_text_encoder(directory / name, single, device=device, dtype=dtype) for name in FOLDERS
    )
    return ClipPairEncoder(first, second)


def load_published_clip_pair(
    folders: Sequence[Path], config: TextEncoderConfig, *, dtype: torch.dtype
) -> ClipPairEncoder:
    """Load two CLIP models from folders as they are published, each with its model and its tokenizer, on the CPU.

    Raises:
        CheckpointError: naming what is missing or damaged.
    """
    single = replace(config, family="clip")
    for folder in folders:
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is missing; it is the folder of a text encoder")
    first, second = (load_published_encoder(f, f, single, dtype=dtype) for f in folders)
    return ClipPairEncoder(first, second)
