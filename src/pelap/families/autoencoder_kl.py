"""diffusers' AutoencoderKL and its kin: a convolution at each end, 1×1 convolutions around the
latents, and Flux.2's statistics."""

from dataclasses import replace

from pelap.families.family import AutoencoderFamily
from pelap.families.ports import MOMENTS, AutoencoderPorts, Port

KL = AutoencoderPorts(
    encoder=(Port("encoder.conv_out", kinds=MOMENTS),),
    decoder="decoder.conv_in",
    quant="quant_conv",
    post_quant="post_quant_conv",
)
WITH_SWITCH = replace(KL, optional_post_quant="use_post_quant_conv")
FLUX_2 = replace(WITH_SWITCH, statistics=(Port("bn", inner=4),), rotates=False)

FAMILIES = (
    AutoencoderFamily("AutoencoderKL", WITH_SWITCH),
    AutoencoderFamily("AsymmetricAutoencoderKL", KL),
    AutoencoderFamily("AutoencoderKLFlux2", FLUX_2),
    AutoencoderFamily("VQModel", None),
)
