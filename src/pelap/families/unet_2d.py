"""diffusers' UNet2DModel: unconditional latent diffusion, and what runs here train as `unet_2d`."""

import math

from diffusers.models.unets.unet_2d import UNet2DModel

from pelap.config.run_config import NetworkConfig
from pelap.families.family import Config
from pelap.families.ports import DenoiserPorts, Port
from pelap.families.unet import LAYERS, Depth, UNetFamily


class UNet2DFamily(UNetFamily):
    """A UNet without text; of a run here, the last of its classes means none."""

    class_name = "UNet2DModel"
    ports = DenoiserPorts(
        Port("conv_in"),
        Port("conv_out"),
        {"Skip": "its skip branches mix latents that have passed no convolution"},
    )
    stock_pipeline = "LDMPipeline"

    def runs_on_latents(self, config: Config) -> bool:
        """Whether it takes no classes."""
        return not (config.get("num_class_embeds") or config.get("class_embed_type"))

    def none_class(self, config: Config) -> int | None:
        """The last class: that of runs here."""
        classes = self.num_classes(config)
        return classes - 1 if classes else None

    def num_classes(self, config: Config) -> int | None:
        """All that it has an embedding of."""
        return None if config.get("class_embed_type") else config.get("num_class_embeds")

    def narrower(self, config: Config, level: int, attends: bool) -> list[int]:
        """Multiples of the norms' groups; one head at least where it attends."""
        groups, width = config["norm_num_groups"], config["block_out_channels"][level]
        is_last = level == len(config["block_out_channels"]) - 1
        if is_last and config.get("attn_norm_num_groups"):  # of the middle block's attention
            groups = math.lcm(groups, config["attn_norm_num_groups"])
        least = max(width // 4, (config["attention_head_dim"] or 1) if attends else 1)
        return [value for value in range(groups, width, groups) if value >= least]

    def depths(self, config: Config) -> list[Depth]:
        """One number for all levels."""
        layers, levels = config[LAYERS], tuple(range(len(config["block_out_channels"])))
        return [Depth("layers", LAYERS, levels, layers)] if layers > 1 else []


UNET_2D = UNet2DFamily()
FAMILIES = (UNET_2D,)


def build_unet_2d(config: NetworkConfig, latent_size: int) -> UNet2DModel:
    """A run's UNet with fresh weights, for latents of that side."""
    width = config.denoiser_channels
    return UNet2DModel(
        sample_size=latent_size,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=config.denoiser_layers,
        attention_head_dim=32,
        norm_num_groups=8,
        num_class_embeds=config.num_classes + 1 if config.num_classes else None,  # the last: none
    )
