"""STAR in a plain loop, written as the published code computes it: what the engine is compared with.

The same weights and the same random numbers, so the same tokens. What makes it slow is left in on purpose:
keys and values grown by concatenation, those of the text computed again at every scale, the empty prompt
encoded for every request, two text rows where one would do, rotation in complex numbers, biases put together
at every call, and a full sort of the vocabulary for every token. What only carries zeros and ones about (the
adaptive norms of the published blocks) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from star_model import Sampling, StarModel, TextConditioning
from star_model.networks.attention_layers import (
    MAX_LOG_TEMPERATURE,
    CosineCrossAttention,
    CosineSelfAttention,
)
from star_model.networks.block import StarBlock
from star_model.networks.feed_forward import GeluFeedForward

Cache = tuple[Tensor, Tensor]


class PlainLoop:
    """Generates images from start to end, all of a batch together.

    Args:
        model: text-conditional.
    """

    def __init__(self, model: StarModel) -> None:
        self.model = model
        self.schedule = model.config.schedule
        cos, sin = model.transformer.rope
        self.rotation = torch.complex(cos, sin)  # (tokens, 32)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], sampling: Sequence[Sampling], seeds: Sequence[int]
    ) -> tuple[list[Tensor], Tensor]:
        """The token maps (B, p * p) of each scale, and images (B, H, W, 3) in uint8."""
        model, transformer = self.model, self.model.transformer
        quantizer = model.vqvae.quantizer
        texts = cast(
            "Sequence[TextConditioning]",
            model.text_encoder.encode([*prompts, *[""] * len(prompts)]),
        )  # the prompts', then as many of the empty prompt: rows 2 B
        hidden = torch.stack([t.hidden for t in texts]).to(model.device, model.dtype)
        mask = torch.stack([t.mask for t in texts]).to(model.device)[:, None, None, :]
        pooled = torch.stack([t.pooled for t in texts]).to(model.device, model.dtype)
        streams = [torch.Generator(model.device).manual_seed(seed) for seed in seeds]
        caches: list[Cache | None] = [None] * len(transformer.blocks)
        size = model.config.latent_size()
        f_hat = torch.zeros(
            len(prompts), model.config.tokenizer.latent_channels, *size, device=model.device
        )
        x = transformer.embed_start(pooled)  # (2 B, 1, C)
        tokens = []
        for scale in range(len(self.schedule)):
            for layer, block in enumerate(transformer.blocks):
                x, caches[layer] = self._block(
                    cast("StarBlock", block), x, scale, hidden, mask, caches[layer]
                )
            logits = transformer.head(
                F.layer_norm(x, x.shape[-1:], eps=1e-6)
            ).float()  # (2 B, p * p, V)
            conditional, unconditional = logits.chunk(2)
            ramp = scale / (len(self.schedule) - 1)
            t = torch.tensor([p.guidance_scale * ramp for p in sampling], device=x.device).view(
                -1, 1, 1
            )
            likely, order = cut((1 + t) * conditional - t * unconditional, sampling)
            tokens.append(draw(likely, order, streams))
            smooth = [scale >= len(self.schedule) - p.smooth_scales for p in sampling]
            vectors = quantizer.vectors(tokens[-1])
            if any(smooth):
                means = (likely.unsqueeze(-1) * quantizer.vectors(order)).sum(2)
                vectors = torch.where(
                    torch.tensor(smooth, device=x.device).view(-1, 1, 1), means, vectors
                )
            f_hat = f_hat + quantizer.contribution_of(vectors, scale)
            if scale + 1 < len(self.schedule):
                given = quantizer.next_input(f_hat, scale + 1).to(model.dtype)
                x = transformer.embed_scale(given, scale + 1).repeat(2, 1, 1)
        images = (self.model.vqvae.decode(f_hat) + 1) * 127.5
        return tokens, images.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _block(
        self,
        block: StarBlock,
        x: Tensor,
        scale: int,
        hidden: Tensor,
        mask: Tensor,
        cache: Cache | None,
    ) -> tuple[Tensor, Cache]:
        attended, cache = self._self_attention(
            cast("CosineSelfAttention", block.self_attention), norm(x), scale, cache
        )
        x = x + attended
        x = x + self._cross_attention(
            cast("CosineCrossAttention", block.cross_attention), norm(x), hidden, mask
        )
        feed_forward = cast("GeluFeedForward", block.feed_forward)
        h = F.linear(norm(x), feed_forward.fc1.weight, feed_forward.fc1.bias)
        return x + feed_forward.fc2(F.gelu(h, approximate="tanh")), cache

    def _self_attention(
        self, attention: CosineSelfAttention, x: Tensor, scale: int, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        q_bias, k_bias, v_bias = attention.qkv.bias.chunk(3)
        qkv = F.linear(
            x, attention.qkv.weight, torch.cat([q_bias, torch.zeros_like(k_bias) + k_bias, v_bias])
        )
        q, k, v = heads(qkv, 3, attention.head_dim)  # (2 B, H, p * p, D) each
        q, k = self._rotate(q, scale), self._rotate(k, scale)
        q, k = F.normalize(q, dim=-1) * temperature(attention), F.normalize(k, dim=-1)
        if cache is not None:
            k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
        return attention.proj(out), (k, v)

    def _cross_attention(
        self, attention: CosineCrossAttention, x: Tensor, hidden: Tensor, mask: Tensor
    ) -> Tensor:
        (q,) = heads(attention.q(x), 1, attention.head_dim)
        k, v = heads(attention.kv(hidden), 2, attention.head_dim)
        q, k = F.normalize(q, dim=-1) * temperature(attention), F.normalize(k, dim=-1)
        out = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            .transpose(1, 2)
            .flatten(2)
        )
        result: Tensor = attention.proj(out)
        if self.model.config.transformer.cross_attention_rows == "conditional":
            return result.chunk(2)[0].repeat(2, 1, 1)  # both rows get the prompt's
        return result

    def _rotate(self, x: Tensor, scale: int) -> Tensor:
        """Turn channel pairs as complex numbers."""
        start, end = self.schedule.offsets[scale], self.schedule.offsets[scale + 1]
        pairs = torch.view_as_complex(torch.unflatten(x.float(), -1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * self.rotation[start:end]).flatten(-2).to(x.dtype)


def norm(x: Tensor) -> Tensor:
    """LayerNorm without affine parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def heads(x: Tensor, parts: int, head_dim: int) -> tuple[Tensor, ...]:
    """(B, L, parts * C) -> ``parts`` tensors (B, H, L, head_dim)."""
    return torch.unflatten(x, -1, (parts, -1, head_dim)).permute(2, 0, 3, 1, 4).unbind(0)


def temperature(attention: CosineSelfAttention | CosineCrossAttention) -> Tensor:
    """What each head's normalised queries are multiplied by: (H, 1, 1)."""
    return attention.log_temperature.unsqueeze(-1).clamp(max=MAX_LOG_TEMPERATURE).exp()


def cut(logits: Tensor, sampling: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """What is left of ``logits`` (B, L, V), by a full sort: probabilities (B, L, V), and of which tokens they are.

    They are in the order of rank; in that of the vocabulary where nothing is cut.
    """
    vocab = logits.shape[2]
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    whole = torch.tensor(
        [p.top_k in (0, vocab) and p.top_p == 1 for p in sampling], device=logits.device
    ).view(-1, 1, 1)
    ranked = torch.where(whole, logits, ranked)
    order = torch.where(whole, torch.arange(vocab, device=logits.device), order)
    top_k = torch.tensor([p.top_k or vocab for p in sampling], device=logits.device).view(-1, 1, 1)
    top_p = torch.tensor([p.top_p for p in sampling], device=logits.device).view(-1, 1, 1)
    ranked = ranked.masked_fill(torch.arange(vocab, device=logits.device) >= top_k, float("-inf"))
    before = ranked.softmax(-1).cumsum(-1).roll(1, -1)  # probability of all that come before
    before[..., 0] = -1  # the likeliest is always a candidate
    return ranked.masked_fill((before >= top_p) & (top_p < 1), float("-inf")).softmax(-1), order


def draw(probabilities: Tensor, order: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    """One token for each place, by inverting the distribution in the order it has: indices (B, L)."""
    length = probabilities.shape[1]
    uniform = torch.stack([torch.rand(length, generator=s, device=order.device) for s in streams])
    drawn = (probabilities.cumsum(-1) <= uniform.unsqueeze(-1)).sum(-1, keepdim=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(drawn, last)).squeeze(-1)
