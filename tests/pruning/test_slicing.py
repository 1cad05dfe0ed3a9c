"""Every class with ports: the sliced model is the original with removed channels held."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pelap.core.errors import ModelError
from pelap.families.ports import Port
from pelap.families.registry import autoencoder_ports
from pelap.method.latent_map import (
    LatentMap,
    LatentMoments,
    find_rotation,
    keep_channels,
    predict_noisy,
)
from pelap.method.normalizer import LatentNormalizer, read_statistics
from pelap.pruning.latents.latent_slicing import slice_autoencoder, slice_denoiser
from tiny_models import AUTOENCODERS, DENOISERS, SIDE, randomize

CHANNELS = 6
TOLERANCE = 1e-5
ROTATABLE = [name for name in AUTOENCODERS if name not in ("tiny", "flux2")]


def moments(seed: int = 0) -> LatentMoments:
    source = torch.Generator().manual_seed(seed)
    factor = torch.randn(CHANNELS, CHANNELS, generator=source).double()
    mean, spread = torch.randn(2, CHANNELS, generator=source).double()
    return LatentMoments(mean, factor @ factor.T, 0.1 + spread.square())


def rotation(kind: str = "pca", num_kept: int = 3) -> Tensor:
    found = find_rotation(kind, moments(), torch.diag(torch.arange(1.0, 7)), num_kept)  # type: ignore[arg-type]
    assert found is not None
    return found


def statistics(autoencoder: Any) -> LatentNormalizer | None:
    config = getattr(autoencoder, "config", {})
    return read_statistics(autoencoder) if "latent_channels" in config else None


def encode(autoencoder: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Means and log-variances (B, C, h, w) as the denoiser sees them."""
    encoded = autoencoder.encode(images)
    if "latent_dist" not in encoded:
        mean, logvar = encoded["latents" if "latents" in encoded else "latent"], None
    else:
        mean, logvar = encoded.latent_dist.mean, encoded.latent_dist.logvar
    normalizer = statistics(autoencoder)
    if normalizer is None:
        return mean, logvar
    if logvar is not None:
        logvar = logvar - 2 * normalizer.std.log()[:, None, None]
    return normalizer(mean), logvar


def first_layer(autoencoder: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """What leaves the decoder's first layer (with its shortcut), and the images."""
    normalizer = statistics(autoencoder)
    raw = latents if normalizer is None else normalizer.inverse(latents)
    seen: list[Any] = []
    layer = autoencoder.get_submodule(autoencoder_ports(autoencoder).decoder)
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    images = autoencoder.decode(raw).sample
    handle.remove()
    if getattr(autoencoder.decoder, "in_shortcut", False):
        seen[0] = seen[0] + raw.repeat_interleave(autoencoder.decoder.in_shortcut_repeats, dim=1)
    return seen[0], images


def apply(latent_map: LatentMap, latents: Tensor) -> Tensor:
    return torch.einsum("kc,bchw->bkhw", latent_map.encode.float(), latents)


def fills(name: str) -> list[str]:
    return ["zero", "mean"] if name == "tiny" else ["zero", "mean", "linear"]


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_encoder_gives_the_kept_channels(name: str) -> None:
    original = randomize(AUTOENCODERS[name]())
    latent_map = keep_channels([0, 2, 5], moments(), "zero")
    sliced = slice_autoencoder(original, latent_map, moments(), statistics(original))
    images = torch.randn(2, 3, 16, 16)
    (mean, logvar), (kept, kept_logvar) = encode(original, images), encode(sliced, images)
    torch.testing.assert_close(kept, apply(latent_map, mean), atol=TOLERANCE, rtol=TOLERANCE)
    if logvar is not None:
        assert kept_logvar is not None
        expected = apply(latent_map, logvar)
        torch.testing.assert_close(kept_logvar, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_decoder_sees_the_substitute(name: str) -> None:
    original = randomize(AUTOENCODERS[name]())
    latents = torch.randn(2, CHANNELS, SIDE, SIDE)
    for fill in fills(name):
        latent_map = keep_channels([1, 2, 4], moments(), fill)  # type: ignore[arg-type]
        sliced = slice_autoencoder(original, latent_map, moments(), statistics(original))
        expected, expected_images = first_layer(original, latent_map.substitute(latents))
        found, images = first_layer(sliced, apply(latent_map, latents))
        inside = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(found[inside], expected[inside], atol=TOLERANCE, rtol=TOLERANCE)
        if fill == "zero" and name in ("tiny", "dc", "paper"):
            torch.testing.assert_close(images, expected_images, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_keeping_every_channel_changes_nothing(name: str) -> None:
    original = randomize(AUTOENCODERS[name]())
    everything = keep_channels(range(CHANNELS), moments(), "zero")
    sliced = slice_autoencoder(original, everything, moments(), statistics(original))
    images, latents = torch.randn(2, 3, 16, 16), torch.randn(2, CHANNELS, SIDE, SIDE)
    torch.testing.assert_close(
        encode(sliced, images)[0], encode(original, images)[0], atol=TOLERANCE, rtol=TOLERANCE
    )
    torch.testing.assert_close(
        first_layer(sliced, latents)[1],
        first_layer(original, latents)[1],
        atol=TOLERANCE,
        rtol=TOLERANCE,
    )


@pytest.mark.parametrize("name", ROTATABLE)
def test_rotation_with_every_direction_is_the_same_function(name: str) -> None:
    original = randomize(AUTOENCODERS[name]())
    latent_map = keep_channels(range(CHANNELS), moments(), "linear", rotation())
    sliced = slice_autoencoder(original, latent_map, moments(), statistics(original))
    images, latents = torch.randn(2, 3, 16, 16), torch.randn(2, CHANNELS, SIDE, SIDE)
    mean, _ = encode(original, images)
    torch.testing.assert_close(
        encode(sliced, images)[0], apply(latent_map, mean), atol=1e-4, rtol=0
    )
    expected = first_layer(original, latents)[1]
    found = first_layer(sliced, apply(latent_map, latents))[1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["tiny", "flux2"])
def test_rotation_is_refused_where_it_cannot_be_stored(kind: str) -> None:
    original = randomize(AUTOENCODERS[kind]())
    latent_map = keep_channels([0, 1, 2], moments(), "zero", rotation())
    with pytest.raises(ModelError, match="rotat"):
        slice_autoencoder(original, latent_map, moments())


def test_flux2_statistics_follow_their_channels() -> None:
    original: Any = randomize(AUTOENCODERS["flux2"]())
    latent_map = keep_channels([0, 3], moments(), "zero")
    sliced: Any = slice_autoencoder(original, latent_map, moments())
    expected = original.bn.running_mean.view(CHANNELS, 4)[[0, 3]].flatten()
    assert torch.equal(sliced.bn.running_mean, expected)


def test_variances_of_a_rotated_encoder_are_right_to_first_order() -> None:
    original: Any = randomize(AUTOENCODERS["kl"]())
    latent_map = keep_channels([0, 1, 2], moments(), "linear", rotation())
    images = torch.randn(2, 3, 16, 16)
    logvar = encode(original, images)[1]
    assert logvar is not None
    exact = LatentMoments(
        moments().mean, moments().covariance, logvar.exp().mean(dim=(0, 2, 3)).double()
    )
    sliced = slice_autoencoder(original, latent_map, exact, statistics(original))
    rotated = torch.einsum("kc,bchw->bkhw", latent_map.encode.square().float(), logvar.exp())
    found = encode(sliced, images)[1]
    assert found is not None
    assert (found - rotated.log()).abs().mean() < 0.1 * rotated.log().std()


@pytest.mark.parametrize("name", DENOISERS)
def test_denoiser_is_the_original_with_removed_channels_at_zero(name: str) -> None:
    tiny = DENOISERS[name]
    original = randomize(tiny.build(CHANNELS))
    latent_map = keep_channels([0, 1, 4], moments(), "zero")
    sliced = slice_denoiser(original, latent_map)
    kept = torch.randn(2, 3, SIDE, SIDE)
    held = torch.einsum("kc,bkhw->bchw", latent_map.encode.float(), kept)
    expected = kept_outputs(latent_map, tiny.call(original, held))
    found = tiny.call(sliced, kept)
    if name == "paper":  # what a zero becomes in its norm is a constant: borders differ
        layer = {"down.conv_in": (slice(None), slice(None), slice(1, -1), slice(1, -1))}
        assert_layers_agree(original, sliced, (held, 7), (kept, 7), layer)
        return
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in DENOISERS if name != "paper"])
@pytest.mark.parametrize("kind", ["none", "decoder"])
def test_denoiser_is_the_original_with_removed_channels_predicted(name: str, kind: Any) -> None:
    tiny = DENOISERS[name]
    original = randomize(tiny.build(CHANNELS))
    basis = None if kind == "none" else rotation(kind)
    latent_map = keep_channels([0, 1, 2], moments(), "linear", basis)
    stand_in = predict_noisy(latent_map, moments().covariance)
    sliced = slice_denoiser(original, latent_map, stand_in)
    kept = torch.randn(2, 3, SIDE, SIDE)
    held = torch.einsum("ck,bkhw->bchw", stand_in.float(), kept)
    expected = kept_outputs(latent_map, tiny.call(original, held))
    torch.testing.assert_close(tiny.call(sliced, kept), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_noisy_latents_are_predicted_where_they_weigh_as_much_as_the_noise() -> None:
    covariance = moments().covariance
    noisy = covariance + torch.eye(CHANNELS).double()
    for basis in (None, rotation("decoder")):
        latent_map = keep_channels([0, 1, 2], moments(), "linear", basis)
        stand_in = predict_noisy(latent_map, covariance)
        encode = latent_map.encode
        torch.testing.assert_close(encode @ stand_in, torch.eye(3).double())
        # of the best linear prediction nothing is left that goes with what it was made from
        left = noisy @ encode.T - stand_in @ (encode @ noisy @ encode.T)
        torch.testing.assert_close(left, torch.zeros_like(left), atol=1e-9, rtol=0)
    for fill in ("zero", "mean"):
        latent_map = keep_channels([1, 4], moments(), fill)
        assert predict_noisy(latent_map, covariance).equal(latent_map.encode.T)


def assert_layers_agree(
    first: nn.Module, second: nn.Module, first_inputs: Any, second_inputs: Any, layers: Any
) -> None:
    for name, part in layers.items():
        one, other = output_of(first, name, first_inputs), output_of(second, name, second_inputs)
        torch.testing.assert_close(one[part], other[part], atol=TOLERANCE, rtol=TOLERANCE)


def output_of(model: nn.Module, layer: str, inputs: Any) -> Tensor:
    seen: list[Any] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda _layer, _inputs, output: seen.append(output)
    )
    model(*inputs)
    handle.remove()
    return seen[0]


def kept_outputs(latent_map: LatentMap, outputs: Tensor) -> Tensor:
    """(B, K or 2K, h, w): learned variances follow with the squares of the directions."""
    halves = outputs.split(CHANNELS, dim=1)
    maps = (latent_map.encode.float(), latent_map.encode.square().float())
    return torch.cat(
        [torch.einsum("kc,bchw->bkhw", m, h) for m, h in zip(maps, halves, strict=False)], dim=1
    )


@pytest.mark.parametrize("name", [name for name in DENOISERS if name != "paper"])
def test_denoiser_follows_a_rotation(name: str) -> None:
    tiny = DENOISERS[name]
    original = randomize(tiny.build(CHANNELS))
    latent_map = keep_channels(range(CHANNELS), moments(), "linear", rotation())
    sliced = slice_denoiser(original, latent_map)
    latents = torch.randn(2, CHANNELS, SIDE, SIDE)
    expected = kept_outputs(latent_map, tiny.call(original, latents))
    found = tiny.call(sliced, apply(latent_map, latents))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in DENOISERS if name != "paper"])
def test_gradients_of_kept_weights_agree(name: str) -> None:
    tiny = DENOISERS[name]
    original = randomize(tiny.build(CHANNELS))
    latent_map = keep_channels([1, 2, 5], moments(), "zero")
    sliced = with_own_weights(slice_denoiser(original, latent_map))
    kept = torch.randn(2, 3, SIDE, SIDE)
    held = torch.einsum("kc,bkhw->bchw", latent_map.encode.float(), kept)
    original.requires_grad_(True)
    kept_outputs(latent_map, tiny.call(original, held)).square().sum().backward()
    tiny.call(sliced, kept).square().sum().backward()
    # removal of channels is linear in the weights, so gradients can be sliced like them
    expected = dict(slice_denoiser(gradients_as_weights(original), latent_map).named_parameters())
    for key, parameter in sliced.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, expected[key].detach(), atol=1e-4, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_gradients_of_the_encoder_agree(name: str) -> None:
    original = randomize(AUTOENCODERS[name]())
    latent_map = keep_channels([0, 2, 5], moments(), "zero")
    sliced = with_own_weights(
        slice_autoencoder(original, latent_map, moments(), statistics(original))
    )
    images = torch.randn(2, 3, 16, 16)
    original.requires_grad_(True)
    apply(latent_map, encode(original, images)[0]).square().sum().backward()
    encode(sliced, images)[0].square().sum().backward()
    assert_gradients_agree(sliced, original)


def assert_gradients_agree(sliced: nn.Module, original: nn.Module) -> None:
    """Of the weights that have kept their shape."""
    theirs, compared = dict(original.named_parameters()), 0
    for key, parameter in sliced.named_parameters():
        whole = theirs.get(key)
        if parameter.grad is None or whole is None or whole.shape != parameter.shape:
            continue
        torch.testing.assert_close(parameter.grad, whole.grad, atol=1e-3, rtol=1e-4, msg=key)
        compared += 1
    assert compared > 4


def with_own_weights(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.requires_grad_(True)


def gradients_as_weights(model: nn.Module) -> nn.Module:
    found = copy.deepcopy(model)
    for parameter, source in zip(found.parameters(), model.parameters(), strict=True):
        gradient = torch.zeros_like(source) if source.grad is None else source.grad
        parameter.data = gradient.clone()
    return found.requires_grad_(False)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_gradients_of_the_decoder_agree(name: str) -> None:
    original: Any = randomize(AUTOENCODERS[name]())
    if getattr(original, "post_quant_conv", None) is not None:
        nn.init.zeros_(original.post_quant_conv.bias)
    if name == "kl_with_statistics":
        original.register_to_config(latents_mean=[0.0] * CHANNELS)
    if name == "kl_shifted_without_quant":
        original.register_to_config(shift_factor=None)
    # so that nothing constant stands in front of the padded layer, and borders agree too
    latent_map = keep_channels([0, 2, 5], moments(), "zero")
    sliced = with_own_weights(
        slice_autoencoder(original, latent_map, moments(), statistics(original))
    )
    latents = torch.randn(2, CHANNELS, SIDE, SIDE)
    original.requires_grad_(True)
    expected = first_layer(original, latent_map.substitute(latents))[1]
    found = first_layer(sliced, apply(latent_map, latents))[1]
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert_gradients_agree(sliced, original)


KEPT_SETS = st.sets(st.integers(0, CHANNELS - 1), min_size=1).map(sorted)


@pytest.mark.parametrize("name", AUTOENCODERS)
@settings(max_examples=5)
@given(kept=KEPT_SETS)
def test_any_set_of_channels_can_be_kept_in_an_autoencoder(name: str, kept: list[int]) -> None:
    latent_map = keep_channels(kept, moments(), "zero")
    original: Any = randomize(AUTOENCODERS[name]())
    sliced = slice_autoencoder(original, latent_map, moments(), statistics(original))
    images = torch.randn(1, 3, 16, 16)
    expected = apply(latent_map, encode(original, images)[0])
    found = encode(sliced, images)[0]
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    latents = torch.randn(2, CHANNELS, SIDE, SIDE)
    expected = first_layer(original, latent_map.substitute(latents))[0]
    found = first_layer(sliced, apply(latent_map, latents))[0]
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(found[inside], expected[inside], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in DENOISERS if name != "paper"])
@settings(max_examples=5)
@given(kept=KEPT_SETS)
def test_any_set_of_channels_can_be_kept_in_a_denoiser(name: str, kept: list[int]) -> None:
    latent_map = keep_channels(kept, moments(), "zero")
    tiny = DENOISERS[name]
    original = randomize(tiny.build(CHANNELS))
    latents = torch.randn(2, len(kept), SIDE, SIDE)
    held = torch.einsum("kc,bkhw->bchw", latent_map.encode.float(), latents)
    expected = kept_outputs(latent_map, tiny.call(original, held))
    found = tiny.call(slice_denoiser(original, latent_map), latents)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", DENOISERS)
def test_keeping_every_channel_changes_nothing_in_a_denoiser(name: str) -> None:
    tiny = DENOISERS[name]
    original = randomize(tiny.build(CHANNELS))
    sliced = slice_denoiser(original, keep_channels(range(CHANNELS), moments(), "zero"))
    for key, tensor in original.state_dict().items():
        assert torch.equal(sliced.state_dict()[key], tensor), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_survive(dtype: torch.dtype) -> None:
    original: Any = randomize(AUTOENCODERS["kl"]()).to(dtype)
    original.enable_tiling()
    sliced: Any = slice_autoencoder(
        original, keep_channels([0, 1], moments(), "linear"), moments(), statistics(original)
    )
    assert {p.dtype for p in sliced.parameters()} == {dtype}
    assert sliced.use_tiling
    assert not sliced.use_slicing


def test_a_denoiser_of_another_autoencoder_is_refused() -> None:
    original = DENOISERS["unet_2d"].build(4)
    with pytest.raises(ModelError, match="4"):
        slice_denoiser(original, keep_channels([0], moments(), "zero"))


def test_members_of_a_port_are_disjoint_and_in_order() -> None:
    members = Port("x", kinds=("mean", "variance"), inner=2).members(24, 6, others=0)
    assert members.shape == (6, 4)
    assert members.flatten().sort().values.equal(torch.arange(24))
    assert members[0].tolist() == [0, 1, 12, 13]
