"""Text encoders: from prompts to conditioning.

There are five families. ``clip``, as in the published STAR: hidden states of all 77 positions, and the feature at the
end of the text, for the start token map. ``clip_pair``, two of those: :mod:`star_model.networks.clip_pair`.
``sentence``, a sentence-embedding BERT: hidden states of all positions, and their mean, normalised. ``t5``, as in the
published Infinity: hidden states of the prompt's own tokens, without padding, and no pooled feature. ``imagenet``, for
class-conditional models: the number of the class that the prompt names. The ``transformers`` library takes seconds to
import, so it is imported only when an encoder is loaded.
"""

from __future__ import annotations

import copy
import reprlib
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
from star_model.json_file import read_json
from star_model.transfer import to_device


@dataclass(frozen=True, eq=False)
class TextConditioning:
    """An encoded prompt.

    Args:
        hidden: hidden states (T, D), of all positions that the text encoder has, or of the used ones alone.
        mask: True for positions that are not padding, boolean (T,).
        pooled: the feature (D,) from which the start token map is made.
        truncated: the end of the prompt that did not fit into T positions, or "".
        notes: sentences about what is drawn otherwise than it was asked for: see :mod:`star_model.prompt_reader`.
    """

    hidden: Tensor
    mask: Tensor
    pooled: Tensor
    truncated: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Number of positions that the prompt takes."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class ClassConditioning:
    """The prompt of a class-conditional model: the number of a class, or ``num_classes`` for no class."""

    class_id: int
    truncated: ClassVar[str] = ""
    notes: ClassVar[tuple[str, ...]] = ()
    num_tokens: ClassVar[int] = 1


Conditioning = TextConditioning | ClassConditioning


class TextEncoder(Protocol):
    """A frozen encoder of prompts."""

    def encode(self, prompts: Sequence[str]) -> Sequence[Conditioning]:
        """Encode each prompt independently of the others; ``""`` is the unconditional one."""


class ClassEncoder:
    """A :class:`TextEncoder` that takes a prompt for the name or the number of an ImageNet class.

    Args:
        num_classes: number of classes of the model, which are the first of ImageNet's.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def encode(self, prompts: Sequence[str]) -> list[ClassConditioning]:
        """Look up the class of each prompt; the empty prompt stands for no class.

        Raises:
            UnknownClassError: see :func:`star_model.imagenet.find_class`.
        """
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> ClassConditioning:
        if not prompt:
            return ClassConditioning(self.num_classes)
        return ClassConditioning(find_class(prompt, self.num_classes).number)


class TransformersTextEncoder:
    """A :class:`TextEncoder` around an encoder and a tokenizer of the ``transformers`` library.

    Args:
        model: a CLIP text model, a BERT model, or the encoder of a T5 model.
        tokenizer: its fast tokenizer.
        config: the family, and the maximum number of tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, config: TextEncoderConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = config

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def pooled_size(self) -> int:
        """Width of the pooled feature; 0 if there is none."""
        return 0 if self.config.family == "t5" else self.hidden_size

    @property
    def positions(self) -> int:
        """The most tokens that it can encode."""
        if self.config.family == "t5":  # its positions are relative
            return self.config.max_tokens
        return int(self.model.config.max_position_embeddings)

    def is_word(self, word: str) -> bool:
        """Tell whether the tokenizer has a token for this word alone, as it has for the common ones of its language.

        Args:
            word: in lower case.
        """
        tokens = self.tokenizer.tokenize(word)
        return len(tokens) == 1 and tokens[0] != self.tokenizer.unk_token

    @torch.inference_mode()
    def hidden_states(self, prompt: str, length: int) -> Tensor:
        """Hidden states of the first ``length`` positions, padding included, and zeros after them: (T, D)."""
        batch = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.config.max_tokens,
            truncation=True,
            return_tensors="pt",
            split_special_tokens=self._names_special_tokens([prompt]),
        )
        device = next(self.model.parameters()).device
        output = self.model(input_ids=to_device(batch["input_ids"][:, :length], device))
        left = self.config.max_tokens - length
        return F.pad(output.last_hidden_state[0].float(), (0, 0, 0, left))

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[TextConditioning]:
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> TextConditioning:
        # One prompt at a time, so that its features do not depend on other prompts; and without the padding, whose
        # features are masked anyway.
        batch = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.config.max_tokens,
            truncation=True,
            return_tensors="pt",
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
            split_special_tokens=self._names_special_tokens([prompt]),
        )
        device = next(self.model.parameters()).device
        mask = batch["attention_mask"][0].bool()
        length = int(mask.sum())
        inputs = {
            k: to_device(batch[k][:1, :length], device) for k in ("input_ids", "attention_mask")
        }
        output = self.model(**inputs)
        hidden = output.last_hidden_state[0].float()
        truncated = _overflow(prompt, batch["offset_mapping"])
        if self.config.family == "t5":
            return TextConditioning(hidden, mask[:length], torch.empty(0), truncated)
        hidden = F.pad(hidden, (0, 0, 0, self.config.max_tokens - length))
        if self.config.family == "clip":
            pooled = output.pooler_output[0].float()
        else:
            pooled = F.normalize(hidden[:length].mean(0), dim=0)
        return TextConditioning(hidden, mask, pooled, truncated)

    @torch.inference_mode()
    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """Pooled features (N, D) of many prompts in one batch: equal to those of :meth:`encode` up to rounding."""
        batch = self.tokenizer(
            list(prompts),
            padding=True,
            max_length=self.config.max_tokens,
            truncation=True,
            return_tensors="pt",
            split_special_tokens=self._names_special_tokens(prompts),
        )
        device = next(self.model.parameters()).device
        inputs = {k: to_device(batch[k], device) for k in ("input_ids", "attention_mask")}
        output = self.model(**inputs)
        if self.config.family == "clip":
            return torch.as_tensor(output.pooler_output).float()
        mask = inputs["attention_mask"].unsqueeze(2)
        return F.normalize((output.last_hidden_state.float() * mask).sum(1) / mask.sum(1), dim=1)

    def _names_special_tokens(self, prompts: Sequence[str]) -> bool:
        """Return True if a prompt spells a control token such as ``[SEP]``, which then is to be read as text.

        All other prompts keep the tokens that the model was trained with: some CLIP tokenizers pad with ``!``, and
        so read an exclamation mark as that token.
        """
        added = self.tokenizer.added_tokens_decoder.items()
        special = {number for number, token in added if token.special and len(token.content) > 1}
        found = self.tokenizer(list(prompts), add_special_tokens=False).input_ids
        return any(not special.isdisjoint(tokens) for tokens in found)

    def save(self, directory: Path, dtype: torch.dtype | None = None) -> None:
        """Write model and tokenizer to ``directory`` for :func:`load_text_encoder`, in ``dtype`` if given."""
        _disable_progress_bars()
        model = self.model if dtype is None else copy.deepcopy(self.model).to(dtype)
        model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def _disable_progress_bars() -> None:
    """Keep the progress bars of ``transformers`` out of logs and of a command's output."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _overflow(prompt: str, offsets: Tensor) -> str:
    """The rest of ``prompt`` from the first token that did not fit, or "".

    ``offsets`` (windows, T, 2) are the character ranges of the tokens, empty for special tokens.
    """
    if len(offsets) == 1:
        return ""
    starts, ends = offsets[1].unbind(-1)
    return prompt[int(starts[ends > starts].min()) :].strip()


_LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers"), 1000),
    **dict.fromkeys(("num_attention_heads", "num_heads"), 10_000),
    **dict.fromkeys(("hidden_size", "d_model", "d_kv", "projection_dim"), 100_000),
    **dict.fromkeys(("intermediate_size", "d_ff", "max_position_embeddings"), 1_000_000),
    "vocab_size": 10_000_000,
}
"""Sizes in the configuration of an encoder, and how large they may be: several times those of any published one."""


def _check_sizes(file: Path) -> None:
    """Refuse a configuration whose network could not be built in any time or memory; the library would try.

    Raises:
        CheckpointError: naming the size, or that the file is no configuration.
    """
    parts = [read_json(file)]
    while parts:
        part = parts.pop()
        if not isinstance(part, dict):
            raise CheckpointError(f"{file.name} is not the configuration of a text encoder")
        for name, most in _LARGEST.items():
            size = part.get(name)
            if size is not None and not (isinstance(size, int) and 0 < size <= most):
                raise CheckpointError(
                    f"{name} in {file.name} must be from 1 to {most}, not {reprlib.repr(size)}"
                )
        parts += [part[name] for name in ("text_config", "vision_config") if name in part]


def load_text_encoder(
    directory: Path, config: TextEncoderConfig, *, device: torch.device, dtype: torch.dtype
) -> TransformersTextEncoder:
    """Load the encoder in ``directory``, as ``save_pretrained`` of model and tokenizer write it.

    Raises:
        CheckpointError: naming what is missing or damaged.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{directory / name} is missing; the text encoder cannot be loaded without it"
            )
    from transformers import AutoTokenizer, BertModel, CLIPTextModel, T5EncoderModel

    if config.family in ("clip", "t5"):
        model = CLIPTextModel if config.family == "clip" else T5EncoderModel
        return _load(directory, config, model, {}, directory, AutoTokenizer, device, dtype)
    no_pooler = {"add_pooling_layer": False}  # the mean of all positions is used instead
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
    return load_published_encoder(encoder, tokenizer, config, dtype=dtype)


def load_published_t5(
    folder: Path, config: TextEncoderConfig, *, dtype: torch.dtype
) -> TransformersTextEncoder:
    """Load the encoder and the tokenizer of a T5 model from its repository's files in ``folder``, on the CPU.

    Raises:
        CheckpointError: naming what is missing or damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing; it is the folder of the text encoder")
    return load_published_encoder(folder, folder, config, dtype=dtype)


def load_published_encoder(
    encoder: Path, tokenizer: Path, config: TextEncoderConfig, *, dtype: torch.dtype
) -> TransformersTextEncoder:
    """Load a text model and its tokenizer from the folders of each, which may be the same, on the CPU.

    Raises:
        CheckpointError: naming what is missing or damaged.
    """
    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    for alternatives in (
        (encoder / "config.json",),
        tuple(encoder / name for name in weights),
        (tokenizer / "vocab.json", tokenizer / "tokenizer.json"),
    ):
        if not any(file.is_file() for file in alternatives):
            raise CheckpointError(
                f"{alternatives[0]} is missing; the text encoder cannot be loaded without it"
            )
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    published: dict[str, tuple[Any, Any]] = {
        "clip": (CLIPTextModel, CLIPTokenizer),
        "t5": (T5EncoderModel, T5Tokenizer),
    }
    model, tokens = published[config.family]
    return _load(encoder, config, model, {}, tokenizer, tokens, torch.device("cpu"), dtype)


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
    _disable_progress_bars()
    try:
        _check_sizes(directory / "config.json")
        tokenizer = tokenizer_class.from_pretrained(tokenizer_directory, local_files_only=True)
        model, loading = model_class.from_pretrained(
            directory, local_files_only=True, dtype=dtype, output_loading_info=True, **options
        )
    except Exception as error:  # a damaged file makes the library raise anything
        raise CheckpointError(
            f"the text encoder in {directory} cannot be loaded: {error}"
        ) from error
    for option in ("is_local", "local_files_only"):  # not to be saved with it
        tokenizer.init_kwargs.pop(option, None)
    if missing := sorted(loading["missing_keys"]):  # the library initialises these at random
        raise CheckpointError(f"the text encoder in {directory} lacks the tensor {missing[0]}")
    return TransformersTextEncoder(model.to(device), tokenizer, config)
