"""What turns a prompt into conditioning, behind one small protocol.

Three families. ``clip``, as in the published STAR: hidden states of all 77 positions, and the feature at the
end of the text, for the start token map. ``sentence``, a sentence-embedding BERT: hidden states of all
positions, and their mean, normalised. ``imagenet``, for class-conditional models: the number of the class that
the prompt names. ``transformers`` takes seconds to import, so it is imported when an encoder is loaded and not
before.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.config import TextEncoderConfig
from star_model.errors import CheckpointError
from star_model.imagenet import find_class
from star_model.transfer import to_device


@dataclass(frozen=True, eq=False)
class TextConditioning:
    """What a transformer needs of one prompt.

    Args:
        hidden: hidden states (T, D).
        mask: which of the T positions are not padding, boolean (T,).
        pooled: the feature (D,) that makes the start token map.
        truncated: the end of the prompt that did not fit into T positions, or "".
        read_as: what was encoded in place of the prompt, or "" if the prompt was: see :mod:`star_model.vocabulary`.
    """

    hidden: Tensor
    mask: Tensor
    pooled: Tensor
    truncated: str = ""
    read_as: str = ""

    @property
    def num_tokens(self) -> int:
        """Positions that the prompt takes."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class ClassConditioning:
    """What a class-conditional transformer needs: the number of a class, or of none (``num_classes``)."""

    class_id: int
    truncated: ClassVar[str] = ""
    read_as: ClassVar[str] = ""
    num_tokens: ClassVar[int] = 1


Conditioning = TextConditioning | ClassConditioning


class TextEncoder(Protocol):
    """Any frozen encoder of prompts."""

    def encode(self, prompts: Sequence[str]) -> Sequence[Conditioning]:
        """The conditioning of each prompt, which does not depend on the others; of nothing for ``""``."""


class ClassEncoder:
    """Takes a prompt for the name of an ImageNet class, or its number.

    Args:
        num_classes: of the model, which knows the first of ImageNet's.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def encode(self, prompts: Sequence[str]) -> list[ClassConditioning]:
        """The class of each prompt; the empty prompt is that of no class.

        Raises:
            UnknownClassError: see :func:`star_model.imagenet.find_class`.
        """
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> ClassConditioning:
        if not prompt:
            return ClassConditioning(self.num_classes)
        return ClassConditioning(find_class(prompt, self.num_classes).number)


class TransformersTextEncoder:
    """An encoder and tokenizer of the ``transformers`` library.

    Args:
        model: a CLIP text model, or a BERT model.
        tokenizer: its fast tokenizer.
        config: the family and the window.
    """

    def __init__(self, model: Any, tokenizer: Any, config: TextEncoderConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = config

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[TextConditioning]:
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> TextConditioning:
        # One prompt at a time, so that its features are the same in any company; and without the padding, whose
        # features nobody looks at.
        batch = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.config.max_tokens,
            truncation=True,
            return_tensors="pt",
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
        )
        device = next(self.model.parameters()).device
        mask = batch["attention_mask"][0].bool()
        length = int(mask.sum())
        inputs = {
            k: to_device(batch[k][:1, :length], device) for k in ("input_ids", "attention_mask")
        }
        output = self.model(**inputs)
        hidden = F.pad(
            output.last_hidden_state[0].float(), (0, 0, 0, self.config.max_tokens - length)
        )
        if self.config.family == "clip":
            pooled = output.pooler_output[0].float()
        else:
            pooled = F.normalize(hidden[:length].mean(0), dim=0)
        return TextConditioning(
            hidden, mask, pooled, truncated=_overflow(prompt, batch["offset_mapping"])
        )

    @torch.inference_mode()
    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """Pooled features (N, D) of many prompts at once: those of :meth:`encode` but for rounding."""
        batch = self.tokenizer(
            list(prompts),
            padding=True,
            max_length=self.config.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        inputs = {k: to_device(batch[k], device) for k in ("input_ids", "attention_mask")}
        output = self.model(**inputs)
        if self.config.family == "clip":
            return torch.as_tensor(output.pooler_output).float()
        mask = inputs["attention_mask"].unsqueeze(2)
        return F.normalize((output.last_hidden_state.float() * mask).sum(1) / mask.sum(1), dim=1)

    def save(self, directory: Path, dtype: torch.dtype | None = None) -> None:
        """Write model and tokenizer to ``directory`` for :func:`load_text_encoder`, in ``dtype`` if given."""
        _draw_no_progress_bars()
        model = self.model if dtype is None else copy.deepcopy(self.model).to(dtype)
        model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def _draw_no_progress_bars() -> None:
    """Keep the bars of ``transformers`` out of a server's log, and out of a command's own."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _overflow(prompt: str, offsets: Tensor) -> str:
    """The part of ``prompt`` that starts with the first token beyond the window, or "".

    ``offsets`` (windows, T, 2) are the characters that each token stands for, empty for special tokens.
    """
    if len(offsets) == 1:
        return ""
    starts, ends = offsets[1].unbind(-1)
    return prompt[int(starts[ends > starts].min()) :].strip()


def load_text_encoder(
    directory: Path, config: TextEncoderConfig, *, device: torch.device, dtype: torch.dtype
) -> TransformersTextEncoder:
    """Load the encoder in ``directory``, which holds what ``save_pretrained`` of model and tokenizer write.

    Raises:
        CheckpointError: naming what is missing or damaged.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{directory / name} is missing; the text encoder cannot be loaded without it"
            )
    from transformers import AutoTokenizer, BertModel, CLIPTextModel

    if config.family == "clip":
        return _load(directory, config, CLIPTextModel, {}, directory, AutoTokenizer, device, dtype)
    no_pooler = {"add_pooling_layer": False}  # the mean of all positions is taken here
    return _load(directory, config, BertModel, no_pooler, directory, AutoTokenizer, device, dtype)


def load_published_clip(
    folder: Path, config: TextEncoderConfig, *, dtype: torch.dtype
) -> TransformersTextEncoder:
    """Load a ``CLIP`` folder as published, with ``tokenizer/`` and ``text_encoder/`` in it, on the CPU.

    Raises:
        CheckpointError: naming what is missing or damaged.
    """
    tokenizer, encoder = folder / "tokenizer", folder / "text_encoder"
    for needed in (folder, tokenizer, encoder):
        if not needed.is_dir():
            raise CheckpointError(
                f"{needed} is missing; the text encoder is a folder with tokenizer/ and text_encoder/"
            )
    for alternatives in (
        (encoder / "config.json",),
        (encoder / "model.safetensors", encoder / "pytorch_model.bin"),
        (tokenizer / "vocab.json", tokenizer / "tokenizer.json"),
    ):
        if not any(file.is_file() for file in alternatives):
            raise CheckpointError(
                f"{alternatives[0]} is missing; the text encoder cannot be loaded without it"
            )
    from transformers import CLIPTextModel, CLIPTokenizer

    return _load(
        encoder, config, CLIPTextModel, {}, tokenizer, CLIPTokenizer, torch.device("cpu"), dtype
    )


def _load(
    directory: Path,
    config: TextEncoderConfig,
    model_class: Any,
    options: dict[str, Any],
    tokenizer_directory: Path,
    tokenizer_class: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> TransformersTextEncoder:
    _draw_no_progress_bars()
    try:
        tokenizer = tokenizer_class.from_pretrained(tokenizer_directory, local_files_only=True)
        model, loading = model_class.from_pretrained(
            directory, local_files_only=True, dtype=dtype, output_loading_info=True, **options
        )
    except Exception as error:  # whatever a damaged file makes the library raise
        raise CheckpointError(
            f"the text encoder in {directory} cannot be loaded: {error}"
        ) from error
    for option in ("is_local", "local_files_only"):  # how it was loaded is not to be saved with it
        tokenizer.init_kwargs.pop(option, None)
    if missing := sorted(loading["missing_keys"]):  # the library would make these up at random
        raise CheckpointError(f"the text encoder in {directory} lacks the tensor {missing[0]}")
    return TransformersTextEncoder(model.to(device), tokenizer, config)
