"""The paper's own networks (arXiv 2606.23086)."""

from pelap.families.family import (
    AutoencoderFamily,
    Config,
    DenoiserFamily,
    Inputs,
    Normal,
    example_timestep,
)
from pelap.families.ports import AutoencoderPorts, DenoiserPorts, Port


class PaperUNetFamily(DenoiserFamily):
    """Takes latents and a timestep, and norms the latents before its first convolution."""

    class_name = "PaperUNet"
    ports = DenoiserPorts(Port("down.conv_in"), Port("out"), input_norm="down.norm_in")
    latents_name = "sample"

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents and timestep."""
        sample = normal(config["latent_channels"], side, side)
        return {"sample": sample, "timestep": example_timestep(sample)}

    def runs_on_latents(self, config: Config) -> bool:
        """Always."""
        return True


PAPER_AUTOENCODER = AutoencoderPorts(
    encoder=(Port("to_mean"), Port("to_logvar", kinds=("variance",))), decoder="decoder.0"
)
FAMILIES = (PaperUNetFamily(), AutoencoderFamily("PaperAutoencoder", PAPER_AUTOENCODER))
