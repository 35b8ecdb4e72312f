from __future__ import annotations

import torch
import torch.nn.functional as F

from star_model.model import StarModel
from star_model.networks.quantizer import Phi, with_codebook


def test_nearest_is_nearest(tiny_model: StarModel) -> None:
    quantizer = with_codebook(tiny_model.vqvae.quantizer)
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 2
    expected = torch.cdist(features, quantizer.codebook.weight).argmin(1)
    assert quantizer.nearest(features).tolist() == expected.tolist()
    assert quantizer.nearest(quantizer.codebook.weight).tolist() == list(range(96))


def test_phi_mixes_with_its_input() -> None:
    x = torch.randn(2, 3, 5, 5)
    phi = Phi(3, 0.5, "zeros")
    torch.testing.assert_close(phi(x), 0.5 * x + 0.5 * phi.conv(x))
    assert torch.equal(Phi(3, 0.0, "zeros")(x), x)


def test_contribution(tiny_model: StarModel) -> None:
    quantizer = with_codebook(tiny_model.vqvae.quantizer)
    schedule = tiny_model.config.schedule
    for scale, (side, _) in enumerate(schedule.sizes):
        tokens = torch.arange(2 * side * side).view(2, -1) % 96
        vectors = quantizer.codebook.weight[tokens].view(2, side, side, 8).permute(0, 3, 1, 2)
        large = F.interpolate(vectors, size=(7, 7), mode="bicubic") if side != 7 else vectors
        phi = quantizer.phi[schedule.phi_index(scale, 4)]
        torch.testing.assert_close(quantizer.contribution(tokens, scale), phi(large))


@torch.inference_mode()
def test_each_scale_encodes_what_is_left(tiny_model: StarModel) -> None:
    quantizer = with_codebook(tiny_model.vqvae.quantizer)
    features = torch.randn(2, 8, 7, 7, generator=torch.Generator().manual_seed(2))
    *_, (_, f_hat) = quantizer.decompose(features)
    tokens = quantizer.encode(features)
    assert [t.shape for t in tokens] == [(2, 1), (2, 4), (2, 25), (2, 49)]
    *_, added_up = quantizer.f_hats(tokens)
    torch.testing.assert_close(added_up, f_hat)
    assert (features - f_hat).square().mean() < features.square().mean()
    rest = features - list(quantizer.f_hats(tokens))[-2]
    last = quantizer.nearest(rest.permute(0, 2, 3, 1).flatten(0, 2)).view(2, -1)
    assert torch.equal(last, tokens[-1])


@torch.inference_mode()
def test_teacher_forcing_is_what_the_steps_see(tiny_model: StarModel) -> None:
    quantizer, schedule = with_codebook(tiny_model.vqvae.quantizer), tiny_model.config.schedule
    tokens = [torch.full((1, n), scale + 1) for scale, n in enumerate(schedule.lengths)]
    given = quantizer.teacher_forcing_input(tokens)
    assert given.shape == (1, schedule.num_tokens - 1, 8)
    f_hat = torch.zeros(1, 8, 7, 7)
    for scale, part in enumerate(torch.split(given, list(schedule.lengths[1:]), dim=1), start=1):
        f_hat = f_hat + quantizer.contribution(tokens[scale - 1], scale - 1)
        torch.testing.assert_close(part, quantizer.next_input(f_hat, scale))


def test_area_downsampling(tiny_model: StarModel) -> None:
    f_hat = torch.randn(1, 8, 7, 7)
    mean = tiny_model.vqvae.quantizer.next_input(f_hat, 0)
    torch.testing.assert_close(mean, f_hat.mean((2, 3)).view(1, 1, 8))


def test_gradients_reach_codebook_and_phi_alone(tiny_model: StarModel) -> None:
    quantizer = with_codebook(tiny_model.vqvae.quantizer)
    features = torch.randn(1, 8, 7, 7, requires_grad=True)
    quantizer.requires_grad_(True)
    try:
        *_, (_, f_hat) = quantizer.decompose(features)
        torch.autograd.backward(f_hat.square().sum())
        assert features.grad is None
        assert quantizer.codebook.weight.grad is not None
        assert all(
            p.grad is not None
            for phi in (quantizer.phi[0], quantizer.phi[3])
            for p in phi.parameters()
        )
    finally:
        quantizer.requires_grad_(False)
        quantizer.zero_grad(set_to_none=True)
