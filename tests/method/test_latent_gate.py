"""A gate for other people's loops: what it hands out, what it learns, and that it cannot cheat."""

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from pelap.core.errors import ConfigError
from pelap.method.latent_gate import LatentGate, LatentGateKind
from pelap.method.latent_map import LatentMoments, keep_channels
from pelap.models.loaded import LoadedModel
from pelap.pruning.apply import plan_pruning, prune
from pelap.pruning.latents.latent_plan import PruneRequest
from tiny_models import DENOISERS

C = 4
KINDS = get_args(LatentGateKind)
SHAPES = [(6, C, 5), (6, C, 4, 5), (6, C, 2, 4, 5)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hardened(kind: LatentGateKind = "top_k", budget: int = 2) -> LatentGate:
    """A gate after its last step, whose latents have means and sizes of their own."""
    gate = LatentGate(C, budget, kind, harden_after=1)
    with torch.no_grad():
        gate.predictor.out.bias.copy_(torch.tensor([0.1, 0.4, 0.2, 0.3]))
    for _ in range(2):
        gate(torch.arange(1.0, C + 1)[:, None, None] * draw(32, C, 8, 8) + 3)
    return gate


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_axes_behind_the_channels(kind: LatentGateKind, shape: tuple[int, ...]):
    gate = LatentGate(C, 2, kind)
    gated = gate(draw(*shape))
    assert [tensor.shape for tensor in gated] == [torch.Size(shape)] * 3
    assert gate.mask.shape == shape[:2]


def test_pictures_and_the_same_values_as_a_video_are_gated_alike():
    latents, noise = draw(6, C, 4, 6), draw(6, C, 4, 6, seed=1)
    flat, video = LatentGate(C, 2), LatentGate(C, 2)
    video.load_state_dict(flat.state)
    torch.manual_seed(3)
    of_picture = flat(latents, noise)
    torch.manual_seed(3)
    of_video = video(latents.view(6, C, 2, 2, 6), noise.view(6, C, 2, 2, 6))
    for one, other in zip(of_picture, of_video, strict=True):
        torch.testing.assert_close(one, other.view_as(one))


def test_an_open_gate_leaves_the_decoder_its_latents():
    gate = LatentGate(C, C, "top_k")
    latents = 5 * draw(6, C, 4, 4) + 2
    torch.testing.assert_close(gate(latents).to_decode, latents)


def test_what_is_denoised_has_mean_0_and_variance_1_whatever_the_encoder_scales():
    for scale in (1e-3, 1.0, 1e3):
        gate = LatentGate(C, C, "top_k")
        values = gate(scale * draw(64, C, 8, 8) + 7 * scale).to_denoise.transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(dim=1), torch.zeros(C), atol=1e-3, rtol=0)
        torch.testing.assert_close(values.std(dim=1), torch.ones(C), atol=1e-3, rtol=0)


def test_a_closed_channel_is_its_mean_for_the_decoder_and_nothing_for_the_denoiser():
    gate = hardened().eval()
    latents = draw(6, C, 4, 4)
    gated = gate(latents)
    assert gate.kept() == (1, 3)
    mean = gate.normalizer.mean
    for channel in (0, 2):
        torch.testing.assert_close(
            gated.to_decode[:, channel], mean[channel].expand_as(gated.to_decode[:, channel])
        )
        assert not gated.to_denoise[:, channel].any()
        assert not gated.noise[:, channel].any()
    torch.testing.assert_close(gated.to_decode[:, [1, 3]], latents[:, [1, 3]])


def test_the_decoder_gets_what_pruning_with_fill_mean_puts_there():
    gate = hardened().eval()
    latents = draw(6, C, 4, 4)
    eye, ones = torch.eye(C, dtype=torch.float64), torch.ones(C, dtype=torch.float64)
    moments = LatentMoments(gate.normalizer.mean.double(), eye, ones)
    pruned = keep_channels(gate.kept(), moments, "mean").substitute(latents)
    torch.testing.assert_close(gate(latents).to_decode, pruned)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_of_the_denoiser_reaches_encoder_or_gate(kind: LatentGateKind):
    gate = LatentGate(C, 2, kind)
    latents = draw(6, C, 4, 4).requires_grad_()
    gated = gate(latents)
    assert not gated.to_denoise.requires_grad
    assert not gated.noise.requires_grad
    prediction = draw(6, C, 4, 4).requires_grad_()
    gate.diffusion_loss(prediction, gated.noise - gated.to_denoise).backward()
    assert latents.grad is None
    assert all(parameter.grad is None for parameter in gate.parameters())


def test_the_budget_term_reaches_the_predictor_and_not_the_encoder():
    gate = LatentGate(C, 1, harden_after=10)
    latents = draw(6, C, 4, 4).requires_grad_()
    for _ in range(9):
        gate(latents)
    gate.loss().backward()
    assert latents.grad is None
    slope = gate.predictor.out.bias.grad
    assert slope is not None
    assert bool((slope > 0).all())  # lower scores would close more


@pytest.mark.parametrize("kind", ["hard_concrete", "top_k"])
def test_the_reconstruction_reaches_the_predictor_and_the_encoder(kind: LatentGateKind):
    torch.manual_seed(1)
    gate = LatentGate(C, 2, kind)
    with torch.no_grad():
        gate.predictor.out.bias.zero_()
    latents = draw(32, C, 4, 4).requires_grad_()
    (gate(latents).to_decode - latents.detach()).square().mean().backward()
    assert latents.grad is not None
    assert float(latents.grad.abs().sum()) > 0
    slope = gate.predictor.out.bias.grad
    assert slope is not None
    assert float(slope.abs().sum()) > 0


def test_smaller_latents_lower_no_noise_loss():
    """The best linear denoiser does equally well at every scale, by its closed form."""
    alpha = torch.tensor(0.5)
    losses = []
    for scale in (1.0, 1e-2):
        gate = LatentGate(C, C, "top_k")
        gated = gate(scale * draw(256, C, 8, 8))
        noisy = alpha.sqrt() * gated.to_denoise + (1 - alpha).sqrt() * gated.noise
        losses.append(float(gate.diffusion_loss((1 - alpha).sqrt() * noisy, gated.noise)))
    assert losses == pytest.approx([0.5, 0.5], abs=0.01)


@pytest.mark.parametrize("budget", [1, 2, 4])
def test_closed_channels_lower_no_noise_loss(budget: int):
    gate = hardened(budget=budget)
    gated = gate(draw(6, C, 4, 4), torch.ones(6, C, 4, 4))
    assert float(gate.diffusion_loss(torch.zeros_like(gated.noise), gated.noise)) == 1
    assert float(gated.noise.mean()) == budget / C


def test_a_soft_mask_scales_nothing_that_the_denoiser_sees():
    gate = LatentGate(C, 2, harden_after=100)
    with torch.no_grad():
        gate.predictor.out.bias.fill_(-1 / 30)
    gated = gate(draw(64, C, 8, 8))
    assert bool(((gate.mask > 0) & (gate.mask < 1)).any())
    deviations = gated.to_denoise[gate.is_open].flatten(1).std(dim=1)
    assert float(deviations.min()) > 0.7


def test_the_budget_falls_in_a_straight_line_and_is_met_exactly():
    gate = LatentGate(C, 2, harden_after=10)
    targets = []
    for _ in range(10):
        gate(draw(6, C, 4, 4))
        targets.append(float(gate.gate.target))
        assert not gate.gate.is_hard
    assert targets == pytest.approx([4, 4, 4, 3.75, 3.5, 3.25, 3, 2.75, 2.5, 2.25])
    for _ in range(2):
        gate(draw(6, C, 4, 4))
        assert gate.mask.unique().tolist() == [0, 1]
        assert gate.mask.sum(dim=1).tolist() == [2] * 6


def test_a_final_set_costs_nothing_and_gives_every_parameter_a_gradient():
    gate = hardened()
    loss = gate.loss()
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(not parameter.grad.any() for parameter in gate.predictor.parameters())  # type: ignore[union-attr]


def test_without_a_budget_the_term_is_the_expected_fraction_of_open_channels():
    gate = LatentGate(C, sparsity=0.5)
    gate(draw(6, C, 4, 4))
    # P(mask > 0) at score 3 (Louizos et al., equation 12)
    chance = torch.sigmoid(torch.tensor(3.0) - 2 / 3 * torch.log(torch.tensor(0.1 / 1.1)))
    assert float(gate.loss().detach()) == pytest.approx(0.5 * float(chance), rel=1e-5)


def test_without_a_budget_what_is_more_open_than_closed_stays():
    gate = LatentGate(C, harden_after=2)
    with torch.no_grad():
        gate.predictor.out.bias.copy_(torch.tensor([0.1, -0.1, 0.2, -0.3]))
    for _ in range(3):
        gate(draw(6, C, 4, 4))
    assert gate.gate.is_hard
    assert gate.kept() == (0, 2)


def test_the_gate_learns_which_channels_the_decoder_needs():
    """Of four channels, the pictures are made of the second and the last."""
    torch.manual_seed(0)
    gate = LatentGate(C, 2, harden_after=60)
    optimizer = torch.optim.Adam(gate.parameters(), lr=1e-2)
    for step in range(70):
        latents = draw(64, C, 4, 4, seed=step)
        error = (gate(latents).to_decode - latents)[:, [1, 3]].square().mean()
        optimizer.zero_grad()
        (error + gate.loss()).backward()
        optimizer.step()
    assert gate.kept() == (1, 3)


def test_a_nested_gate_keeps_the_first_channels():
    assert hardened("nested").kept() == (0, 1)
    assert LatentGate(C, 3, "nested").kept() == (0, 1, 2)


def test_kept_says_beforehand_what_would_stay():
    gate = LatentGate(C, 2)
    with torch.no_grad():
        gate.predictor.out.bias.copy_(torch.tensor([0.1, 0.4, 0.2, 0.3]))
    gate(draw(6, C, 4, 4))
    assert not gate.gate.is_hard
    assert gate.kept() == (1, 3)


def test_the_state_goes_through_a_safetensors_file(tmp_path: Path):
    gate, again = hardened(), LatentGate(C, 2, "top_k", harden_after=1)
    save_file(gate.state, tmp_path / "gate.safetensors")
    again.load_state_dict(load_file(tmp_path / "gate.safetensors"))
    latents, noise = draw(6, C, 4, 4), draw(6, C, 4, 4, seed=1)
    assert again.kept() == gate.kept()
    for one, other in zip(gate.eval()(latents, noise), again.eval()(latents, noise), strict=True):
        assert torch.equal(one, other)


def test_a_gate_that_has_learned_can_be_copied():
    gate = LatentGate(C, 1, harden_after=5)
    for _ in range(4):
        gate(draw(6, C, 4, 4).requires_grad_())
    again = copy.deepcopy(gate)
    assert torch.equal(again.mask, gate.mask)
    assert again.kept() == gate.kept()
    gate.loss().backward()


def test_latents_keep_their_precision():
    gated = LatentGate(C, 2)(draw(6, C, 4, 4).bfloat16())
    assert {tensor.dtype for tensor in gated} == {torch.bfloat16}


def kl(**extra: bool) -> Any:
    build: Any = AutoencoderKL
    return build(
        latent_channels=C, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **extra,
    ).eval()  # fmt: skip


@torch.no_grad()
def test_folding_makes_the_autoencoder_speak_the_denoisers_scale():
    gate, autoencoder, images = hardened().eval(), kl(), draw(4, 3, 16, 16)
    before = gate(autoencoder.encode(images).latent_dist.mean)
    pictures = autoencoder.decode(before.to_decode).sample
    gate.fold_into(autoencoder)
    after = gate(autoencoder.encode(images).latent_dist.mean)
    torch.testing.assert_close(after.to_denoise, before.to_denoise, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.to_decode, before.to_denoise, atol=1e-5, rtol=1e-4)
    again = autoencoder.decode(after.to_decode).sample
    torch.testing.assert_close(again, pictures, atol=1e-5, rtol=1e-4)
    assert autoencoder.config["scaling_factor"] == 1


@torch.no_grad()
def test_the_gated_model_is_the_pruned_model():
    gate, images, timestep = hardened().eval(), draw(4, 3, 16, 16), 7
    gate.normalizer.mean.zero_()
    autoencoder, denoiser = kl(), DENOISERS["unet_2d"].build(C).eval()
    autoencoder.post_quant_conv.bias.zero_()
    gated = gate(autoencoder.encode(images).latent_dist.mean, draw(4, C, 8, 8))
    pictures = autoencoder.decode(gated.to_decode).sample
    prediction = denoiser(gated.to_denoise + gated.noise, timestep).sample
    gate.fold_into(autoencoder)
    whole = LoadedModel("tiny", autoencoder, denoiser)
    pruned: Any = prune(whole, plan_pruning(whole, PruneRequest(channels=gate.kept()))).model
    kept = list(gate.kept())
    latents = pruned.autoencoder.encode(images).latent_dist.mean
    close: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(latents, gated.to_denoise[:, kept], **close)
    torch.testing.assert_close(pruned.autoencoder.decode(latents).sample, pictures, **close)
    noisy = latents + gated.noise[:, kept]
    torch.testing.assert_close(
        pruned.denoiser(noisy, timestep).sample, prediction[:, kept], **close
    )


def test_an_autoencoder_without_convolutions_to_fold_into_is_told_the_scale():
    gate, autoencoder = hardened(), kl(use_quant_conv=False, use_post_quant_conv=False)
    gate.fold_into(autoencoder)
    assert autoencoder.config["latents_mean"] == gate.normalizer.mean.tolist()
    assert autoencoder.config["latents_std"] == gate.normalizer.std.tolist()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"budget": C + 1}, "budget is 5"),
        ({"budget": 2, "kind": "sigmoid"}, "kind is 'sigmoid'"),
        ({"kind": "top_k"}, "needs a budget"),
        ({"budget": 2, "harden_after": 0}, "harden_after is 0"),
    ],
)
def test_impossible_gates_are_refused_in_one_line(arguments: dict, complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        LatentGate(C, **arguments)


@pytest.mark.parametrize("shape", [(6, C), (6, C + 1, 4, 4)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"wanted \(B, 4, …\)"):
        LatentGate(C, 2)(draw(*shape))
