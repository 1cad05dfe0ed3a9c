"""`pelap diagnose`: at which noise levels a denoiser works, and whether the model is healthy."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from pelap.commands.verb_settings import AnyPath, JsonSettings, OverrideSettings
from pelap.config.overrides import apply_overrides, given_settings
from pelap.core.errors import ConfigError

if TYPE_CHECKING:
    from pelap.commands.diagnose_model import DiagnosisResult


@dataclass(frozen=True, kw_only=True)
class DiagnoseSettings(OverrideSettings, JsonSettings):
    """What `pelap diagnose` takes."""

    model: Annotated[Positional[Path], arg(metavar="RUN|MODEL")]
    """A run, or a diffusers folder."""
    num_pictures: int = 1000
    """Test pictures."""
    output: AnyPath = None
    """Folder for the files (by default the run's)."""
    unconditional: bool = False
    """Run a denoiser that wants text or a class on an empty prompt, or on none."""


def run(settings: DiagnoseSettings) -> "DiagnosisResult":
    """Diagnose the model and write diagnosis.json and figures."""
    from pelap.commands.diagnose_model import DiagnosisResult, diagnose_model, load_diagnosable

    model = load_diagnosable(settings.model, unconditional=settings.unconditional)
    config = apply_overrides(model.config, settings.overrides)
    if not model.is_run_config and "--data.source" not in given_settings(settings.overrides):
        raise ConfigError(f"{settings.model} names no pictures: give --data.source.")
    if settings.unconditional and getattr(model.system.denoiser, "condition", None) is None:
        print(  # noqa: T201
            f"note: --unconditional has no effect: {model.name} wants no condition.",
            file=sys.stderr,
        )
    return DiagnosisResult(
        diagnose_model(model, config, num_pictures=settings.num_pictures, output=settings.output)
    )


def describe(result: dict[str, Any]) -> str:
    """What diagnosis.json holds, for people: verdict, levels, recovery, channels."""
    from pelap.pages import numbers

    collapse = result["collapse"]
    lines = [f"{'verdict':10} {collapse['verdict']}"]
    lines += [f"{'':10} {reason}" for reason in [*collapse["reasons"], *result["notes"]]]
    lines += ["", "noise loss at   SNR dB   latents     zeros   best linear"]
    for level in _some(result["levels"]):
        losses = (
            level["diffusion_loss"],
            level["zero_latent_diffusion_loss"],
            level["gaussian_diffusion_loss"],
        )
        ratio = "–" if level["snr_db"] is None else f"{level['snr_db']:.1f}"
        first, second, third = map(numbers.loss, losses)
        lines.append(f"t = {level['timestep']:<9} {ratio:>7} {first:>9} {second:>9} {third:>13}")
    lines += ["", "latent recovered at   error / variance   1 / (1 + SNR)"]
    for point in result["recovery"]:
        error = point["relative_error"]
        shown = "–" if error is None else f"{error:.3f}"
        linear = point["linear_relative_error"]
        lines.append(f"{point['snr_db']:>4g} dB {shown:>29} {linear:>15.3f}")
    lines += ["", "channel      std   masked std   mean mask"]
    rows = zip(result["latent_std"], result["masked_latent_std"], result["mask_mean"], strict=True)
    for channel, (std, masked, mask) in enumerate(rows):
        lines.append(f"{channel:<7} {std:>8.4f} {masked:>12.4f} {mask:>11.4f}")
    plain, through = result["reconstruction_psnr_db"], result["masked_reconstruction_psnr_db"]
    lines += ["", f"decoded at {plain:.2f} dB, through the mask at {through:.2f} dB"]
    return "\n".join(lines)


def _some(levels: list[Any], most: int = 8) -> list[Any]:
    """Evenly spread, the first and the last among them."""
    import numpy as np

    places = np.linspace(0, len(levels) - 1, min(most, len(levels))).round().astype(int)
    return [levels[place] for place in places]
