"""What a model costs, counted from its configuration: operations, bytes moved, bytes held. Nothing is run.

The floor of a step is the longer of two times: that of its operations at the device's speed, and that of reading
its weights and its keys and values at the device's bandwidth. No implementation can be faster at that precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star_model.config import KEPT_TEXTS, ModelConfig


@dataclass(frozen=True)
class Device:
    """What a device can do.

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
        """Seconds below which ``device`` cannot do it."""
        return max(self.flops / device.flops, self.bytes / device.bandwidth)


def step_work(
    config: ModelConfig,
    scale: int,
    batch: int = 1,
    *,
    bytes_per_value: int = 2,
    guided: bool = True,
) -> Work:
    """The transformer's work in one step of ``batch`` images at ``scale``."""
    t, width = config.transformer, config.transformer.width
    rows = batch * (2 if guided else 1)
    text_rows = 0 if not t.text_dim else batch * (t.text_rows if guided else 1)
    length, seen = config.schedule.lengths[scale], config.schedule.offsets[scale + 1]
    hidden = round(width * t.mlp_ratio)
    self_linears = 4 * width**2 + 2 * width * hidden  # query, key, value, output; feed-forward
    cross_linears = 2 * width**2 if t.text_dim else 0  # query, output
    head = width * config.tokenizer.vocab_size
    linears = t.depth * (rows * self_linears + text_rows * cross_linears) + batch * head
    attention = t.depth * 2 * width * (rows * seen + text_rows * config.text_encoder.max_tokens)
    weights = t.depth * (self_linears + cross_linears) + head
    cached = t.depth * 2 * width * (rows * seen + text_rows * config.text_encoder.max_tokens)
    return Work(2.0 * length * (linears + attention), float(bytes_per_value * (weights + cached)))


def decode_work(config: ModelConfig, batch: int = 1, *, bytes_per_value: int = 2) -> Work:
    """The decoder's work for ``batch`` images: its convolutions, and its attention where it has one."""
    k, widths = config.tokenizer, config.tokenizer.level_channels
    side = config.schedule.last_side

    def block(inputs: int, outputs: int) -> int:  # weights of a residual block
        return 9 * outputs * (inputs + outputs) + (inputs * outputs if inputs != outputs else 0)

    def attention(tokens: int) -> int:  # operations of attention over all positions, halved
        return tokens * (4 * widths[-1] ** 2 + 2 * tokens * widths[-1]) if k.attention else 0

    pixels = side * side
    halves = pixels * 9 * k.latent_channels * (k.latent_channels + widths[-1])
    halves += pixels * 2 * block(widths[-1], widths[-1]) + attention(pixels)
    last = len(widths) - 1
    for i in reversed(range(len(widths))):
        above = widths[min(i + 1, last)]
        halves += pixels * (
            block(above, widths[i]) + k.num_res_blocks * block(widths[i], widths[i])
        )
        halves += (k.num_res_blocks + 1) * attention(pixels) if i == last else 0
        if i:
            pixels *= 4
            halves += pixels * 9 * widths[i] ** 2
    halves += pixels * 9 * widths[0] * 3 * k.patch_size**2
    return Work(2.0 * batch * halves, float(batch * pixels * widths[0] * bytes_per_value))


def image_floor(config: ModelConfig, device: Device, batch: int = 1) -> float:
    """Seconds below which ``batch`` images together cannot be painted: all scales, and the decoder."""
    steps = sum(
        step_work(config, scale, batch).floor(device) for scale in range(len(config.schedule))
    )
    return steps + decode_work(config, batch).floor(device)


def peak_bytes(
    config: ModelConfig, slots: int, batch: int | None = None, *, bytes_per_value: int = 2
) -> int:
    """Bytes of tensors that an engine holds at most; the text encoder is not counted.

    Args:
        slots: that are allocated.
        batch: images in the largest step and decode; as many as slots if not given.
        bytes_per_value: 4 where everything is in float32, 2 where transformer and decoder are in a half precision.
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
    """Bytes that captured graphs keep: what one of them works in, its input and its result, and a slot for padding.

    Args:
        largest_batches: most images in a step of each scale.
    """
    work = max(
        step_bytes(config, scale, n, bytes_per_value) for scale, n in enumerate(largest_batches)
    )
    tokens = max(
        length * n for length, n in zip(config.schedule.lengths, largest_batches, strict=True)
    )
    ends = tokens * (2 * config.transformer.width + config.tokenizer.vocab_size) * bytes_per_value
    return work + ends + config.memory_per_slot_bytes(bytes_per_value)


def kept_text_bytes(config: ModelConfig, bytes_per_value: int) -> int:
    """Bytes of the keys and values of the texts that an engine keeps."""
    t = config.transformer
    tokens = config.text_encoder.max_tokens if t.text_dim else 0
    return KEPT_TEXTS * 2 * t.depth * tokens * t.width * bytes_per_value


def network_bytes(config: ModelConfig, bytes_per_value: int) -> int:
    """Bytes of the transformer and the decoder, and of the rest of the VQVAE, which is always in float32."""
    import torch

    from star_model.networks.transformer import StarTransformer
    from star_model.networks.vqvae import VQVAE

    with torch.device("meta"):
        transformer, vqvae = StarTransformer(config), VQVAE(config.tokenizer, config.schedule)
    whole, decoding, rest = (
        sum(p.numel() for module in modules for p in module.parameters())
        for modules in (
            (transformer,), (vqvae.post_quant_conv, vqvae.decoder), (vqvae.encoder, vqvae.quant_conv, vqvae.quantizer)
        )
    )  # fmt: skip
    return (whole + decoding) * bytes_per_value + rest * 4


def workspace_bytes(config: ModelConfig, batch: int, bytes_per_value: int) -> int:
    """Bytes that a step or a decode of ``batch`` images takes for a moment, at most; a rough count of few terms."""
    k, vocab = config.tokenizer, config.tokenizer.vocab_size
    step = max(
        step_bytes(config, scale, 1, bytes_per_value) for scale in range(len(config.schedule))
    )
    candidates = config.sampling.top_k or vocab
    # Logits, candidates, and their weights among the whole vocabulary, for a smooth scale.
    sampling = config.schedule.lengths[-1] * (vocab * (bytes_per_value + 4) + candidates * 5 * 4)
    # The first block at the highest resolution: what comes from below, normalised, padded by copying, convolved.
    widths = k.level_channels
    copies = 3 if k.padding_mode == "replicate" else 2
    channels = copies * widths[min(1, len(widths) - 1)] + widths[0]
    decoding = (config.image_size // k.patch_size) ** 2 * channels * bytes_per_value
    return batch * max(step, sampling, decoding)


def step_bytes(config: ModelConfig, scale: int, batch: int, bytes_per_value: int) -> int:
    """Bytes that the transformer takes for a moment in a step of ``batch`` images with guidance, at most.

    In units of the step's tokens: either its queries, keys and values are being turned and normalised, in float32;
    or they are there, and what they attend to has been gathered from slots anywhere, and at the last scale, which
    no slot holds, put together with them.
    """
    length, seen = config.schedule.lengths[scale], config.schedule.offsets[scale + 1]
    normalizing = 15 if bytes_per_value == 2 else 11
    gathered = 2 * seen / length
    last = scale == len(config.schedule) - 1
    units = max(normalizing, 7 + (2 * gathered - 2 if last else gathered))
    return round(units * 2 * batch * length * config.transformer.width * bytes_per_value)
