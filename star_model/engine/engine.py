"""The engine: images as sequences that advance one scale at a time, alone or together.

    sequence = engine.prepare(conditioning, sampling, seed=1)   takes a slot, stores the text or class in it
    while not sequence.done:
        engine.step([sequence, ...])                            all at the same scale; each advances by one
        engine.preview([sequence])                              optional: decode the unfinished image
    pixels = engine.finish([sequence, ...])                     decode, free the slots

This is what makes scale-level batching possible. All state of a sequence is in the sequence and its slot, so it may
start while others are at any scale. A step takes a cohort, the sequences that have one shape and are at one scale, in
three parts:

    predict    the sequence so far -> logits of its next token map    (the transformer)
    sample     logits -> tokens, by each sequence's own random numbers, and their codebook vectors
    advance    vectors -> the latent that they add to, and from it the next scale's input    (the quantizer)

The caller decides which cohort steps next. A step queues work on a GPU and does not wait for it: its caller may
prepare the next one meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from star_model.config import KEPT_TEXTS
from star_model.engine.candidates import random_numbers
from star_model.engine.editing import Edit
from star_model.engine.forward import EagerForward, Forward
from star_model.engine.graphs import Capture, GraphedForward, Progress, buckets
from star_model.engine.kv_cache import KVCache
from star_model.engine.sequence import ImageSequence
from star_model.engine.token_sampler import TokenSampler
from star_model.errors import CaptureError
from star_model.guidance import strengths
from star_model.model import StarModel
from star_model.networks.text_encoder import ClassConditioning, Conditioning, TextConditioning
from star_model.sampling import SEEDS, Sampling
from star_model.transfer import to_device

Mode = Literal["deterministic", "fast"]


def default_mode(device: str) -> Mode:
    """Return the mode of an engine that was not told one: deterministic where that costs nothing, which is on a CPU.

    Args:
        device: type of the device, as PyTorch names it.
    """
    return "deterministic" if device == "cpu" else "fast"


class Engine:
    """Advances sequences over preallocated slots.

    Args:
        model: a loaded model.
        slots: most images in flight at once.
        mode: ``deterministic`` computes every image by itself, so that its tokens are the same whatever else is in
            the step; ``fast`` computes all images of a step in one batch, which changes the low bits of sums and,
            now and then, a token.
        capture: recorder of graphs, on a device that has them; None runs without graphs.
        largest_batches: for each scale, the most images in a step that has a graph; as many as slots if not given. A
            larger step runs without a graph.

    Raises:
        ValueError: when ``slots`` is less than 1.
    """

    def __init__(
        self,
        model: StarModel,
        *,
        slots: int,
        mode: Mode = "deterministic",
        capture: Capture | None = None,
        largest_batches: Sequence[int] | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.model = model
        self.mode = mode
        self.schedules = model.config.schedules
        with torch.inference_mode():
            model.transformer.freeze()
        # All images of a request share one text, and most have the empty one as their negative.
        self._text_keys_values = lru_cache(maxsize=KEPT_TEXTS)(self._compute_text_keys_values)
        self._learnt_text = lru_cache(maxsize=KEPT_TEXTS)(self._make_learnt_text)
        pads = capture is not None
        self.cache = KVCache(
            model.config, slots=slots + pads, device=model.device, dtype=model.dtype
        )
        (self._empty,) = model.text_encoder.encode([""])
        # Graphs have a fixed batch size; its padding computes on a slot of its own, which no sequence ever owns.
        self._padding_slot = self.cache.allocate() if pads else None
        if self._padding_slot is not None:
            # Some text, since attention to nothing at all is not a number.
            with torch.inference_mode():
                self._condition(self._padding_slot, [self._empty, self._empty])
        self._sampler = TokenSampler(model.vqvae.quantizer, model.device, together=mode == "fast")
        self._eager = EagerForward(model.transformer, self.cache)
        self._forward: Forward = self._eager
        if capture is not None and self._padding_slot is not None:
            largest = [min(slots, n) for n in largest_batches or [slots] * self.num_scales]
            self._forward = GraphedForward(
                self._eager,
                capture,
                model.config,
                sizes=[buckets(n) if mode == "fast" else (1,) for n in largest],
                padding_slot=self._padding_slot,
                # For the model's own sampling parameters; requests with others run without a graph.
                guided=model.config.guided_scales,
            )

    @torch.inference_mode()
    def warm_up(self, progress: Progress = lambda done, of: None) -> None:
        """Capture the graphs, if the engine has any, so that the first image does not wait for them.

        Raises:
            CaptureError: when they cannot be captured; the engine goes on without graphs.
        """
        if isinstance(self._forward, GraphedForward):
            try:
                self._forward.capture_all(progress)
            except CaptureError:
                self._forward = self._eager
                raise

    @property
    def num_scales(self) -> int:
        return len(self.schedules[0])

    @property
    def total_slots(self) -> int:
        return self.cache.total_slots - (self._padding_slot is not None)

    @property
    def free_slots(self) -> int:
        return self.cache.free_slots

    @torch.inference_mode()
    def prepare(
        self,
        conditioning: Conditioning,
        sampling: Sampling | None = None,
        *,
        seed: int,
        negative: Conditioning | None = None,
        edit: Edit | None = None,
        shape: int = 0,
    ) -> ImageSequence:
        """Start an image: take a slot and store its text or its class in it.

        Args:
            conditioning: of the prompt, from the model's encoder.
            sampling: guidance, and which tokens may be drawn; by default the model's own.
            seed: start of the image's own random stream, 0 to 2**32 - 1.
            negative: conditioning that guidance leads away from; the empty prompt, a learnt text, or no class, as the
                model was trained, if not given.
            edit: the image to edit, from :func:`star_model.engine.editing.make_edit`; None generates from nothing.
            shape: number of the image's shape, in the order of ``config.sizes``; an edit has that of its image.

        Raises:
            OutOfSlotsError: when no slot is free.
            TypeError: when the conditioning is of the other kind of model.
            ValueError: when the seed or the shape is out of range, or a draft would leave out all scales.
        """
        if not 0 <= seed < SEEDS:
            raise ValueError(f"seed must be 0 to {SEEDS - 1}, got {seed}")
        if not 0 <= shape < len(self.schedules):
            raise ValueError(f"shape must be 0 to {len(self.schedules) - 1}, got {shape}")
        sampling = sampling or self.model.sampling_defaults
        if sampling.draft >= self.num_scales:
            raise ValueError(f"draft must be less than {self.num_scales}, the scales of the model")
        if edit is not None:
            shape = edit.shape
        slot = self.cache.allocate()
        try:
            negative = negative or self._unconditional(conditioning)
            start = self._condition(slot, [conditioning, negative])
            return self._new_sequence(slot, sampling, seed, shape, start, negative, edit)
        except BaseException:  # the caller never sees the slot, so nobody else could free it
            self.cache.free(slot)
            raise

    def _new_sequence(
        self,
        slot: int,
        sampling: Sampling,
        seed: int,
        shape: int,
        start: Tensor,
        negative: Conditioning,
        edit: Edit | None,
    ) -> ImageSequence:
        config, device = self.model.config, self.model.device
        symbols = self.schedules[shape].num_tokens * config.tokenizer.symbols
        strength = torch.tensor(strengths(sampling, config.guidance, self.num_scales))
        latent = (config.tokenizer.latent_channels, *config.latent_size(shape))
        return ImageSequence(
            slot,
            sampling,
            seed,
            shape=shape,
            uniform=to_device(random_numbers(seed, symbols), device),
            strengths=to_device(strength, device),
            top_p=to_device(torch.tensor(sampling.top_p), device),
            guided_scales=config.guided_scales_of(sampling),
            start=start,
            f_hat=torch.zeros(latent, device=device),
            negative=negative,
            edit=edit,
        )

    def _condition(self, slot: int, pair: Sequence[Conditioning]) -> Tensor:
        """Store the texts and the modulation of a guidance pair in ``slot``; returns its start token maps (2, 1, C)."""
        model, num_classes = self.model, self.model.config.transformer.num_classes
        classes = [c.class_id for c in pair if isinstance(c, ClassConditioning)]
        texts = [t for t in pair if isinstance(t, TextConditioning)]
        if len(classes if num_classes else texts) < len(pair):
            kind = "class" if num_classes else "text"
            raise TypeError(
                f"{model.config.name} is {kind}-conditional: prepare() needs the conditioning of a {kind}"
            )
        if classes:
            condition = to_device(torch.tensor(classes), model.device)
        else:
            condition = torch.stack([self._pooled(t) for t in texts])
            for row, text in enumerate(texts[: model.config.transformer.text_rows]):
                keys_values = self._text_keys_values(text)[:, :, 0]
                self.cache.write_text(slot, row, keys_values, to_device(text.mask, model.device))
        if model.config.transformer.modulation_vectors:
            self.cache.write_modulation(slot, model.transformer.modulation(condition))
        return model.transformer.embed_start(condition)

    def _unconditional(self, conditioning: Conditioning) -> Conditioning:
        """What guidance leads away from if nothing is given."""
        if self.model.config.transformer.refiner_heads:
            return self._learnt_text(conditioning.num_tokens)
        return self._empty

    def _make_learnt_text(self, length: int) -> TextConditioning:
        """As many rows of the model's learnt unconditional text."""
        hidden = self.model.transformer.text_refiner.unconditional[:length]
        mask = torch.ones(length, dtype=torch.bool)
        return TextConditioning(hidden, mask, pooled=torch.empty(0))

    def _pooled(self, text: TextConditioning) -> Tensor:
        """The vector of a text that starts and modulates the image: (D,)."""
        model = self.model
        if not model.config.transformer.refiner_heads:
            return to_device(text.pooled, model.device, model.dtype)
        hidden = to_device(text.hidden[text.mask], model.device, model.dtype)
        pooled: Tensor = model.transformer.text_refiner.pooled(hidden)
        return pooled

    def _compute_text_keys_values(self, text: TextConditioning) -> Tensor:
        """Keys and values of a text for all layers: (layers, 2, 1, T, H, D)."""
        hidden = to_device(text.hidden.unsqueeze(0), self.model.device, self.model.dtype)
        return self.model.transformer.text_keys_values(hidden)

    @torch.inference_mode()
    def step(self, sequences: Sequence[ImageSequence]) -> None:
        """Predict the next token map of each of ``sequences``.

        Raises:
            ValueError: when they are not all at the same scale and of the same shape, one is done, or one was released.
        """
        if not sequences:
            return
        scales = {s.scale for s in sequences}
        if len(scales) != 1 or any(s.done or s.slot is None for s in sequences):
            raise ValueError(
                "a step needs unfinished sequences at one scale, "
                f"got scales {sorted(scales)} of {self.num_scales}"
            )
        if len({s.shape for s in sequences}) != 1:
            raise ValueError("a step needs sequences of one shape")
        ordered = sorted(
            sequences, key=lambda s: s.slot or 0
        )  # adjacent slots are read without a copy
        for sequence in ordered:
            if self._ends_guidance(sequence):
                self._keep_unconditional(sequence)
        for batch in self._batches(ordered):
            self._step_batch(batch)

    def _batches(self, sequences: Sequence[ImageSequence]) -> Iterator[Sequence[ImageSequence]]:
        """Split ``sequences`` into batches, each all with guidance, which doubles the work, or all without."""
        guided = [s for s in sequences if s.guided]
        # Both lists are made before the first batch advances its sequences.
        others = [s for s in sequences if not s.guided]
        largest = 1 if self.mode == "deterministic" else len(sequences)
        for alike in (guided, others):
            for start in range(0, len(alike), largest):
                yield alike[start : start + largest]

    def _ends_guidance(self, sequence: ImageSequence) -> bool:
        """True if the unconditional row of ``sequence`` goes on alone from its next scale on."""
        scale = sequence.scale
        return (
            self.model.config.transformer.unguided_row == "unconditional"
            and scale == sequence.num_scales - sequence.sampling.unguided_scales
            and scale > 0
            and all(sequence.guided_scales[:scale])  # then that row has keys and values of them all
        )

    def _keep_unconditional(self, sequence: ImageSequence) -> None:
        """Drop the conditional row of ``sequence``; the other one reads its own text from now on."""
        slot, text = sequence.slot, sequence.negative
        if slot is None:
            return
        self.cache.keep_unconditional(slot)
        if isinstance(text, TextConditioning):
            keys_values = self._text_keys_values(text)[:, :, 0]
            self.cache.write_text(slot, 0, keys_values, to_device(text.mask, self.model.device))

    def _step_batch(self, sequences: Sequence[ImageSequence]) -> None:
        """Advance ``sequences`` by one scale, in one batch."""
        logits = self._predict(sequences)  # (B, l, s * V)
        tokens, vectors = self._sampler(logits, sequences)
        self._advance(sequences, tokens, vectors)

    def _predict(self, sequences: Sequence[ImageSequence]) -> Tensor:
        """Guided logits (B, l, s * V) of the next token maps."""
        scale = sequences[0].scale
        slots = [s.slot for s in sequences if s.slot is not None]
        guided = sequences[0].guided
        x = torch.cat(
            [
                s.next_tokens.expand(2, -1, -1)[: 1 + guided]
                for s in sequences
                if s.next_tokens is not None
            ]
        )  # (2 B, l, C)
        strength = torch.stack([s.strengths[scale] for s in sequences]) if guided else None
        return self._forward(scale, x, slots, strength, sequences[0].shape)

    def _advance(self, sequences: Sequence[ImageSequence], tokens: Tensor, vectors: Tensor) -> None:
        """Record ``tokens`` (B, l * s), add their ``vectors`` to the latents, embed the next scale's input."""
        transformer, quantizer = self.model.transformer, self.model.vqvae.quantizer
        scale, shape = sequences[0].scale, sequences[0].shape
        f_hat = torch.stack([s.f_hat for s in sequences])
        f_hat = f_hat + quantizer.contribution_of(vectors, scale, shape)
        for i, sequence in enumerate(sequences):
            if sequence.edit is not None:
                f_hat[i] = sequence.edit.keep_latent(f_hat[i], scale)
        next_tokens: Sequence[Tensor | None] = [None] * len(sequences)
        if scale + 1 < self.num_scales:
            next_input = quantizer.next_input(f_hat, scale + 1, shape).to(self.model.dtype)
            next_tokens = transformer.embed_scale(next_input, scale + 1).unsqueeze(1).unbind()
        for sequence, *state in zip(sequences, tokens, f_hat, next_tokens, strict=True):
            sequence.advance(*state)

    @torch.inference_mode()
    def preview(self, sequences: Sequence[ImageSequence]) -> Tensor:
        """Decode sequences of one shape at any scale, as they are so far: uint8 images (B, H, W, 3)."""
        return self._decode(sequences)

    @torch.inference_mode()
    def finish(self, sequences: Sequence[ImageSequence]) -> Tensor:
        """Decode finished sequences of one shape to uint8 images (B, H, W, 3) and free their slots.

        Raises:
            ValueError: when a sequence has scales left.
        """
        if not all(s.done for s in sequences):
            raise ValueError("finish needs sequences whose scales are all predicted")
        for sequence in sequences:
            self.release(sequence)
        return self._decode(sequences)

    def release(self, sequence: ImageSequence) -> None:
        """Free the slot of ``sequence``, finished or not; calling it again does nothing."""
        if sequence.slot is not None:
            self.cache.free(sequence.slot)
            sequence.slot = None

    def _decode(self, sequences: Sequence[ImageSequence]) -> Tensor:
        f_hats = [s.f_hat for s in sequences]
        batches = [torch.stack(f_hats)] if self.mode == "fast" else [f.unsqueeze(0) for f in f_hats]
        pixels = torch.cat([_to_pixels(self.model.decode(batch)) for batch in batches])
        for i, sequence in enumerate(sequences):
            if sequence.edit is not None:
                pixels[i] = sequence.edit.composite(pixels[i])
        return pixels


def _to_pixels(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], which are overwritten -> uint8 (B, H, W, 3)."""
    return images.add_(1).mul_(127.5).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
