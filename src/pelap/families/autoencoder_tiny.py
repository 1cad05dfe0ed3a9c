"""diffusers' AutoencoderTiny, which squashes latents in front of its decoder."""

from pelap.families.family import AutoencoderFamily
from pelap.families.ports import AutoencoderPorts, Port

TINY = AutoencoderPorts(
    encoder=(Port("encoder.layers.-1"),), decoder="decoder.layers.0", tanh_scale=3.0
)
FAMILIES = (AutoencoderFamily("AutoencoderTiny", TINY),)
