"""The figures of `pelap diagnose`, for one or several models. canvas.py holds their style."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pelap.config.run_folder import write_whole
from pelap.core.records import to_json_dict
from pelap.measure.diagnosis_record import Diagnosis
from pelap.pages import numbers
from pelap.pages.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    drawing,
    key,
    legend,
    look_of,
    new_figure,
    plain,
    plain_numbers,
    write_beside,
)

Diagnoses = Mapping[str, Diagnosis | dict[str, Any]]
"""By the name of the model; as a dict what diagnosis.json holds."""
LOWEST_LOSS = 1e-4
"""Curves leave the figure below this: where nearly all is noise, any loss tends to zero."""


def draw_denoiser_curves(diagnoses: Diagnoses, path: Path) -> None:
    """Write the denoisers' losses against the timestep as a PNG, one panel a model."""
    write_whole(path, drawing(lambda: plot_denoisers(diagnoses)).png)


def draw_all(diagnoses: Diagnoses) -> dict[str, bytes]:
    """Every figure as PNG, by file name without ending."""
    return {
        "denoiser_by_timestep": drawing(lambda: plot_denoisers(diagnoses)).png,
        "recovered_latent": drawing(lambda: plot_recovery(diagnoses)).png,
        "latent_channels": drawing(lambda: plot_channels(diagnoses)).png,
    }


def plot_denoisers(diagnoses: Diagnoses) -> Figure:
    """Noise loss against the timestep: with latents, with zeros, best linear predictor."""
    found = _as_dicts(diagnoses)
    figure = new_figure(1.25 + 2.0 * len(found))
    panels = figure.subplots(len(found), 1, sharex=True, sharey=True, squeeze=False).flat
    for (name, diagnosis), axes in zip(found.items(), panels, strict=True):
        _denoiser_panel(axes, diagnosis["levels"])
        axes.set_title(f"{_label(name)}: {diagnosis['collapse']['verdict']}")
        axes.set_ylabel("noise loss")
    panels[0].set_ylim(*_limits(found))
    plain_numbers(panels[0].yaxis)
    panels[-1].set_xlabel("timestep (left: almost no noise, right: almost only noise)")
    handles = [
        key(BLUE, "with the latents", line=True),
        key(ORANGE, "same denoiser, zeros in the latents' place", "s", hollow=True, line=True),
        key(GREY, "best linear predictor for Gaussian latents this size", "", line=True),
    ]
    legend(figure, handles)
    return figure


def _denoiser_panel(axes: Axes, levels: list[dict[str, Any]]) -> None:
    timesteps = [level["timestep"] for level in levels]

    def curve(name: str, colour: str, style: str, **more: Any) -> None:
        values = [level[name] for level in levels]
        axes.plot(timesteps, values, style, color=colour, linewidth=1.8, markersize=5, **more)

    curve("gaussian_diffusion_loss", GREY, "-")
    curve("zero_latent_diffusion_loss", ORANGE, "s-", markerfacecolor="white")
    curve("diffusion_loss", BLUE, "o-")
    axes.set_yscale("log", nonpositive="mask")


def _limits(found: dict[str, dict[str, Any]]) -> tuple[float, float]:
    names = ("diffusion_loss", "zero_latent_diffusion_loss", "gaussian_diffusion_loss")
    levels = [level for diagnosis in found.values() for level in diagnosis["levels"]]
    losses = [level[name] for level in levels for name in names]
    return max(min(losses), LOWEST_LOSS) / 1.6, max(*losses, 10 * LOWEST_LOSS) * 1.6


def plot_recovery(diagnoses: Diagnoses) -> Figure:
    """Error of the recovered clean latent against the signal-to-noise ratio."""
    found = _as_dicts(diagnoses)
    figure = new_figure(3.2 + 0.25 * len(found))
    axes = figure.subplots()
    ratios = [point["snr_db"] for point in next(iter(found.values()))["recovery"]]
    fine = np.linspace(min(ratios), max(ratios), 100)
    axes.plot(fine, 1 / (1 + 10 ** (fine / 10)), color=GREY, linewidth=1.8)
    axes.axhline(1, color=BLACK, linestyle="--", linewidth=1.4)
    handles = [
        key(GREY, "best linear predictor, 1 / (1 + SNR)", "", line=True),
        key(BLACK, "always guessing the mean", "", line=True),
    ]
    handles[-1].set_linestyle("--")
    for index, (name, diagnosis) in enumerate(found.items()):
        colour, marker = look_of(index)
        points = [point for point in diagnosis["recovery"] if point["relative_error"] is not None]
        reached = [point["snr_db"] for point in points]
        errors = [point["relative_error"] for point in points]
        axes.plot(reached, errors, f"{marker}-", color=colour, linewidth=1.8, markersize=6)
        missing = "" if points else ": its latents drown in the noise"
        handles.append(key(colour, _label(name) + missing, marker, line=True))
    axes.set_yscale("log", nonpositive="mask")
    plain_numbers(axes.yaxis)
    axes.set_xticks(ratios)
    axes.set_xlabel("signal-to-noise ratio of the noisy latent (dB)")
    axes.set_ylabel("error / variance of the latent")
    legend(figure, handles)
    return figure


def plot_channels(diagnoses: Diagnoses) -> Figure:
    """Bars a channel: standard deviation before and after the mask, and mean mask."""
    found = _as_dicts(diagnoses)
    heights = [0.5 + 0.36 * len(diagnosis["mask_mean"]) for diagnosis in found.values()]
    figure = new_figure(0.9 + sum(heights))
    panels = figure.subplots(
        len(found), 2, sharex="col", squeeze=False, height_ratios=heights, width_ratios=(3, 2)
    )
    for (name, diagnosis), (left, right) in zip(found.items(), panels, strict=True):
        _bars(left, diagnosis["latent_std"], -0.2, BLUE)
        _bars(left, diagnosis["masked_latent_std"], 0.2, VERMILLION)
        _bars(right, diagnosis["mask_mean"], 0, GREEN, height=0.6, form=numbers.mask)
        left.set_title(_label(name))
        left.set_ylabel("channel")
        left.axvline(1, color=GREY, linestyle="--", linewidth=1.4)
        for axes in (left, right):
            axes.set_ylim(len(diagnosis["mask_mean"]) - 0.4, -0.6)
            axes.set_yticks(range(len(diagnosis["mask_mean"])))
            axes.grid(False, axis="y")
        right.tick_params(labelleft=False)
        right.set_xlim(0, 1.3)
        right.set_xticks([0, 0.5, 1])
    widest = max(max(diagnosis["latent_std"]) for diagnosis in found.values())
    panels[0, 0].set_xlim(0, 1.25 * max(widest, 1.0))
    panels[-1, 0].set_xlabel("standard deviation (dashed: noise)")
    panels[-1, 1].set_xlabel("mean mask")
    legend(figure, [key(BLUE, "before the mask", "s"), key(VERMILLION, "after the mask", "s")], 2)
    return figure


def _bars(
    axes: Axes,
    values: list[float],
    shift: float,
    colour: str,
    height: float = 0.38,
    form: Callable[[float], str] = lambda value: numbers.significant(value, 2),
) -> None:
    places = np.arange(len(values)) + shift
    axes.barh(places, values, height=height, color=colour, linewidth=0)
    for place, value in zip(places, values, strict=True):
        write_beside(axes, form(value), (value, place), (3, 0), va="center", size=8.5)


def _label(name: str) -> str:
    return plain(name, 44)


def _as_dicts(diagnoses: Diagnoses) -> dict[str, dict[str, Any]]:
    return {
        name: to_json_dict(found) if isinstance(found, Diagnosis) else found
        for name, found in diagnoses.items()
    }
