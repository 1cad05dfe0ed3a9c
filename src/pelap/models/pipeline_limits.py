"""What a pipeline asks of its denoiser beyond what the denoiser's class does: refused before any
work, since stock diffusers would fail on what came out, or draw without it."""

from pelap.core.errors import ModelError
from pelap.families.registry import config_of, denoiser_family, denoiser_ports
from pelap.models.loaded import LoadedModel

FIXED_INPUTS = ("Inpaint", "InstructPix2Pix", "Fill", "Control")
"""In the names of diffusers' pipelines whose call compares its denoiser's input channels with
numbers of its own, or divides them among latents and pictures."""
READS_LATENTS = ("controlnet",)
"""Parts that read the noisy latents too."""
ADDS_FEATURES = ("controlnet", "adapter")
"""Parts whose features are added to the denoiser's, and are as wide."""


def check_latents_free(model: LoadedModel) -> None:
    """Refuse to change the latent channels of a pipeline that lives by their number.

    Raises:
        ModelError: Names the part or the layer in the way, and what can be pruned in their place.
    """
    for part in READS_LATENTS:
        if _has_part(model, part):
            raise ModelError(
                f"The pipeline's {part} reads all {model.num_channels} latent channels, so none "
                f"can be removed, nor width, which it shares: save it without its {part} and "
                "prune that (--keep, --denoiser-macs)."
            )
    if model.denoiser is None:
        return
    config = config_of(model.denoiser)
    obstacle = denoiser_family(model.denoiser).latents_obstacle(config)
    if obstacle is not None:
        raise ModelError(
            f"The denoiser's config has {obstacle}, so none can be removed or rotated: "
            "--denoiser-macs narrows it."
        )
    kind = str(model.parts.get("_class_name"))
    if not any(name in kind for name in FIXED_INPUTS):
        return
    layer = denoiser_ports(model.denoiser).input.layer
    raise ModelError(
        f"{kind} runs only with the {config['in_channels']} input channels of "
        f"{model.denoiser_name}.{layer}, so no latent channel can be removed or rotated: "
        "--denoiser-macs narrows its denoiser."
    )


def check_width_free(model: LoadedModel, what: str = "the width") -> None:
    """Refuse to narrow the denoiser of a pipeline that adds features to the denoiser's.

    Args:
        model: The pipeline's.
        what: Of the denoiser was to change.

    Raises:
        ModelError: Names the part in the way, and what can be pruned in its place.
    """
    for part in ADDS_FEATURES:
        if _has_part(model, part):
            way_on = "" if part in READS_LATENTS else "; --keep removes latent channels beside it"
            raise ModelError(
                f"The pipeline's {part} adds features to {model.denoiser_name}'s, so {what} "
                f"must stay: save it without its {part} and prune that{way_on}."
            )


def _has_part(model: LoadedModel, name: str) -> bool:
    """Whether a model's pipeline has a part of that name."""
    entry = model.parts.get(name)
    return isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] is not None
