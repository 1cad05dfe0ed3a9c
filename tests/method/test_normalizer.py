"""Statistics of the latents, and that folding or exporting them changes nothing."""

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from pelap.method.normalizer import (
    LatentNormalizer,
    fold_normalizer,
    read_statistics,
    write_statistics,
)
from pelap.method.paper_autoencoder import PaperAutoencoder


def batches(num: int) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.01, 1.0, 30.0])[:, None, None]
    shift = torch.tensor([5.0, 0.0, -7.0])[:, None, None]
    return [torch.randn(64, 3, 4, 4, generator=source) * scale + shift for _ in range(num)]


def trained(num: int = 20) -> LatentNormalizer:
    normalizer = LatentNormalizer(3).train()
    for batch in batches(num):
        normalizer(batch)
    return normalizer.eval()


def test_running_statistics_are_those_of_all_batches_so_far():
    normalizer = trained()
    everything = torch.cat(batches(20))
    torch.testing.assert_close(
        normalizer.mean, everything.mean(dim=(0, 2, 3)), rtol=1e-3, atol=2e-2
    )
    torch.testing.assert_close(normalizer.std, everything.std(dim=(0, 2, 3)), rtol=1e-2, atol=0)


def test_normalised_latents_have_mean_0_and_variance_1_and_go_back():
    normalizer = trained()
    batch = batches(1)[0]
    normalised = normalizer(batch)
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(3), atol=0.2, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2, 3)), torch.ones(3), atol=0.1, rtol=0)
    torch.testing.assert_close(normalizer.inverse(normalised), batch, atol=1e-4, rtol=1e-4)


def test_only_training_moves_the_statistics_and_no_gradient_goes_through_them():
    normalizer = trained()
    before = normalizer.mean.clone()
    normalizer(batches(1)[0] + 100)
    assert torch.equal(normalizer.mean, before)
    latents = torch.randn(2, 3, 2, 2, requires_grad=True)
    normalizer.train()(latents).sum().backward()
    expected = (1 / normalizer.std)[None, :, None, None].expand_as(latents)
    torch.testing.assert_close(latents.grad, expected)


def test_statistics_travel_in_the_autoencoders_config(tmp_path):
    autoencoder = PaperAutoencoder(3, 8)
    write_statistics(trained(), autoencoder)
    autoencoder.save_pretrained(tmp_path)
    again = read_statistics(PaperAutoencoder.from_pretrained(tmp_path))
    assert again is not None
    torch.testing.assert_close(again.mean, trained().mean)
    torch.testing.assert_close(again.std, trained().std)


def test_an_autoencoder_without_statistics_has_no_normaliser():
    assert read_statistics(PaperAutoencoder(3, 8)) is None


def test_diffusers_scaling_factor_is_read_as_statistics():
    normalizer = read_statistics(small_kl(scaling_factor=0.5, shift_factor=2.0))
    assert normalizer is not None
    latents = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(normalizer(latents), (latents - 2.0) * 0.5)


def small_kl(**more: object) -> Any:
    torch.manual_seed(0)
    build: Any = AutoencoderKL
    return build(
        latent_channels=3, block_out_channels=(8, 16), norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **{"scaling_factor": 1.0, **more},
    ).eval()  # fmt: skip


def test_folding_is_exact_in_encoder_and_decoder():
    autoencoder, normalizer = small_kl(), trained()
    write_statistics(normalizer, autoencoder)
    images, latents = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = autoencoder.encode(images).latent_dist
        decoded = autoencoder.decode(normalizer.inverse(latents)).sample
        fold_normalizer(normalizer, autoencoder)
        after = autoencoder.encode(images).latent_dist
        torch.testing.assert_close(after.mean, normalizer(before.mean), atol=1e-4, rtol=1e-4)
        scale = normalizer.std[:, None, None]
        torch.testing.assert_close(after.std * scale, before.std, atol=1e-4, rtol=1e-4)
        folded = autoencoder.decode(latents).sample
    torch.testing.assert_close(folded, decoded, atol=1e-4, rtol=1e-4)
    assert read_statistics(autoencoder) is None


def test_folding_needs_the_1x1_convolutions():
    with pytest.raises(ValueError, match="no quant_conv"):
        fold_normalizer(trained(), small_kl(use_quant_conv=False, use_post_quant_conv=False))
