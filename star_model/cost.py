"""Cost of a model, computed from its configuration without running it: operations, bytes moved, bytes held.

The floor of a step is the longer of two times: its operations at the device's speed, and reading its weights and its
keys and values at the device's bandwidth (a roofline). No implementation can be faster at that precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star_model.config import KEPT_TEXTS, ModelConfig
from star_model.decoder_cost import decoder_cost


@dataclass(frozen=True)
class Device:
    """Speed and memory of a device.

    Attributes:
        flops: operations a second in large products of bfloat16 matrices; a multiply and an add are two.
        bandwidth: bytes of memory a second.
        memory: bytes.
    """

    flops: float
    bandwidth: float
    memory: float


DEVICES = {
    "h200": Device(790e12, 4.3e12, 141e9),  # measured; the memory from the data sheet
    "h100": Device(790e12, 3.35e12, 80e9),  # the H200's processor; the rest from the data sheet
    "a100": Device(312e12, 2.04e12, 80e9),  # from the data sheet
}
"""GPUs by name."""


@dataclass(frozen=True)
class Work:
    """Operations, and bytes read or written at least once."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def floor(self, device: Device) -> float:
        """Shortest possible time on ``device``, in seconds."""
        return max(self.flops / device.flops, self.bytes / device.bandwidth)


def step_work(
    config: ModelConfig,
    scale: int,
    batch: int = 1,
    *,
    bytes_per_value: int = 2,
    guided: bool = True,
) -> Work:
    """The transformer's work in one step of ``batch`` images of the first shape at ``scale``."""
    t, width = config.transformer, config.transformer.width
    rows = batch * (2 if guided else 1)
    text_rows = 0 if not t.text_dim else batch * (t.text_rows if guided else 1)
    length = config.schedule.lengths[scale]
    seen = config.tokens_seen(scale)
    matrices = 3 if t.feed_forward == "swiglu" else 2
    # Query, key, value, output; feed-forward.
    self_linears = 4 * width**2 + matrices * width * t.hidden_width
    cross_linears = 2 * width**2 if t.text_dim else 0  # query, output
    head = width * config.token_logits
    linears = t.depth * (rows * self_linears + text_rows * cross_linears) + batch * head
    attention = t.depth * 2 * width * (rows * seen + text_rows * config.text_encoder.max_tokens)
    weights = t.depth * (self_linears + cross_linears) + head
    cached = t.depth * 2 * width * (rows * seen + text_rows * config.text_encoder.max_tokens)
    return Work(2.0 * length * (linears + attention), float(bytes_per_value * (weights + cached)))


KERNELS_A_BLOCK = {"text": 34, "class": 26}
"""Kernels that a transformer block launches in a step, with and without cross-attention; a test counts them."""


def step_launches(config: ModelConfig) -> int:
    """Kernels that the transformer's blocks launch in a step without CUDA graphs, whatever its size."""
    kind = "text" if config.transformer.text_dim else "class"
    return KERNELS_A_BLOCK[kind] * config.transformer.depth


def decode_work(config: ModelConfig, batch: int = 1, *, bytes_per_value: int = 2) -> Work:
    """The decoder's work for ``batch`` images."""
    cost = decoder_cost(config.tokenizer, config.latent_size())
    return Work(
        2.0 * batch * cost.multiplications, float(batch * cost.map_values * bytes_per_value)
    )


def peak_bytes(
    config: ModelConfig, slots: int, batch: int | None = None, *, bytes_per_value: int = 2
) -> int:
    """Bytes of tensors that an engine holds at most; the text encoder is not counted.

    Args:
        slots: number allocated.
        batch: images in the largest step and decode; as many as slots if not given.
        bytes_per_value: 4 if everything is in float32, 2 if transformer and decoder are in a half precision.
    """
    return (
        network_bytes(config, bytes_per_value)
        + slots * config.memory_per_slot_bytes(bytes_per_value)
        + kept_text_bytes(config, bytes_per_value)
        + workspace_bytes(config, batch or slots, bytes_per_value)
    )


def graphs_bytes(
    config: ModelConfig, largest_batches: Sequence[int], *, bytes_per_value: int = 2
) -> int:
    """Bytes that captured graphs keep: working memory, which they share, input, result, and a padding slot.

    What a device keeps for the launches of each graph is not counted.

    Args:
        largest_batches: for each scale, the most images in a step; of any shape.
    """
    work = max(
        step_bytes(config, scale, n, bytes_per_value, shape)
        for shape in range(len(config.schedules))
        for scale, n in enumerate(largest_batches)
    )
    tokens = max(
        length * n
        for schedule in config.schedules
        for length, n in zip(schedule.lengths, largest_batches, strict=True)
    )
    ends = tokens * (2 * config.transformer.width + config.token_logits) * bytes_per_value
    return work + ends + config.memory_per_slot_bytes(bytes_per_value)


def kept_text_bytes(config: ModelConfig, bytes_per_value: int) -> int:
    """Bytes of the texts' keys and values that an engine caches."""
    t = config.transformer
    tokens = config.text_encoder.max_tokens if t.text_dim else 0
    return KEPT_TEXTS * 2 * t.depth * tokens * t.width * bytes_per_value


def network_bytes(config: ModelConfig, bytes_per_value: int) -> int:
    """Bytes of the transformer and the decoder, and of the rest of the VQVAE, which is always in float32."""
    from star_model.networks.meta import on_meta
    from star_model.networks.tokenizers import build_tokenizer
    from star_model.networks.transformer import StarTransformer

    with on_meta():
        transformer, vqvae = StarTransformer(config), build_tokenizer(config)
    whole, tokenizer, decoding = (
        sum(p.numel() for module in modules for p in module.parameters())
        for modules in ((transformer,), (vqvae,), vqvae.decoding_modules)
    )
    return (whole + decoding) * bytes_per_value + (tokenizer - decoding) * 4


def workspace_bytes(config: ModelConfig, batch: int, bytes_per_value: int) -> int:
    """Peak temporary bytes of a step or a decode of ``batch`` images, roughly: the largest terms only."""
    vocab, symbols = config.tokenizer.vocab_size, config.tokenizer.symbols
    shape = config.schedules.index(config.largest_schedule)
    lengths = [length * symbols for length in config.largest_schedule.lengths]
    scales = range(len(lengths))
    step = max(step_bytes(config, scale, 1, bytes_per_value, shape) for scale in scales)
    candidates = min(config.sampling.top_k or vocab, vocab)
    # Logits, candidates, and their weights among the whole vocabulary, for a smooth scale.
    sampling = lengths[-1] * (vocab * (bytes_per_value + 4) + candidates * 5 * 4)
    if config.sampling.mixed_scales:
        # The noise while it is computed, in 64 bits, and logits.
        drawn = min(config.sampling.unguided_scales, len(lengths) - 1)
        sampling = max(sampling, lengths[-1 - drawn] * vocab * 3 * 8)
    cost = decoder_cost(config.tokenizer, config.latent_size(shape))
    decoding = cost.workspace_values * bytes_per_value
    return batch * max(step, sampling, decoding)


_NORMALIZING = {("cosine", 2): 13, ("cosine", 4): 11, ("layer", 2): 17, ("layer", 4): 11}
"""Tensors of a step's size alive at most while queries and keys are normalised, by how and by bytes per value."""


def step_bytes(
    config: ModelConfig, scale: int, batch: int, bytes_per_value: int, shape: int = 0
) -> int:
    """Peak temporary bytes of the transformer in a step of ``batch`` images with guidance.

    Counted in units of the step's tokens, the larger of two moments: queries, keys and values being rotated and
    normalised in float32; or attention, with keys and values gathered from slots anywhere and, at the last scale, which
    no slot holds, concatenated with the step's own.
    """
    schedule = config.schedules[shape]
    length, seen = schedule.lengths[scale], config.tokens_seen(scale, shape)
    normalizing = _NORMALIZING[config.transformer.qk_norm, bytes_per_value]
    gathered = 2 * seen / length
    last = scale == len(schedule) - 1
    if config.transformer.self_attention == "own_scale":
        attending = 7.0  # nothing is gathered
    else:
        attending = 7 + (2 * gathered - 2 if last else gathered)
    units = max(normalizing, attending)
    return round(units * 2 * batch * length * config.transformer.width * bytes_per_value)
