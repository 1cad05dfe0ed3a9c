"""The figures of `pelap diagnose`, for one or several models. canvas.py holds their style."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pelap.measure.diagnosis_record import Diagnosis
from pelap.pages import canvas, numbers

Diagnoses = Mapping[str, Diagnosis]
"""By the name of the model."""
CURVES = (
    ("gaussian_diffusion_loss", canvas.GREY, "-", canvas.GREY),
    ("zero_latent_diffusion_loss", canvas.ORANGE, "s-", "white"),
    ("diffusion_loss", canvas.BLUE, "o-", canvas.BLUE),
)
"""Name, colour, style and the marker's face of each loss, in the order in which to draw them."""
LOWEST_LOSS = 1e-4
"""Curves leave the figure below this: where nearly all is noise, any loss tends to zero."""
LABEL_LIMIT = 44
"""Characters of a model's name."""


def draw_all(diagnoses: Diagnoses) -> dict[str, bytes]:
    """Every figure as PNG, by file name without ending."""
    figures = {
        "denoiser_by_timestep": plot_denoisers,
        "recovered_latent": plot_recovery,
        "latent_channels": plot_channels,
    }
    return {
        name: canvas.drawing(lambda plot=plot: plot(diagnoses)).png
        for name, plot in figures.items()
    }


def plot_denoisers(diagnoses: Diagnoses) -> Figure:
    """Noise loss against the timestep: with latents, with zeros, best linear predictor."""
    num = len(diagnoses)
    figure, panels = canvas.new_panels(1.25 + 2.0 * num, num, sharex=True, sharey=True)
    shown: list[float] = []
    for (name, diagnosis), axes in zip(diagnoses.items(), panels, strict=True):
        timesteps = [level.timestep for level in diagnosis.levels]
        for loss, colour, style, face in CURVES:
            losses = [getattr(level, loss) for level in diagnosis.levels]
            axes.plot(timesteps, losses, style, color=colour, mfc=face, lw=1.8, ms=5)
            shown += losses
        axes.set_yscale("log", nonpositive="mask")
        axes.set_title(f"{canvas.plain(name, LABEL_LIMIT)}: {diagnosis.collapse.verdict}")
        axes.set_ylabel("noise loss")
    low, high = max(min(shown), LOWEST_LOSS), max(*shown, 10 * LOWEST_LOSS)
    panels[0].set_ylim(low / 1.6, high * 1.6)
    canvas.plain_numbers(panels[0].yaxis)
    panels[-1].set_xlabel("timestep (left: almost no noise, right: almost only noise)")
    handles = [
        canvas.key(canvas.BLUE, "with the latents", line=True),
        canvas.key(
            canvas.ORANGE, "same denoiser, zeros in the latents' place", "s", hollow=True, line=True
        ),
        canvas.key(
            canvas.GREY, "best linear predictor for Gaussian latents this size", "", line=True
        ),
    ]
    canvas.legend(figure, handles)
    return figure


def plot_recovery(diagnoses: Diagnoses) -> Figure:
    """Error of the recovered clean latent against the signal-to-noise ratio."""
    figure, (axes,) = canvas.new_panels(3.2 + 0.25 * len(diagnoses))
    ratios = [point.snr_db for point in next(iter(diagnoses.values())).recovery]
    fine = np.linspace(min(ratios), max(ratios), 100)
    axes.plot(fine, 1 / (1 + 10 ** (fine / 10)), color=canvas.GREY, linewidth=1.8)
    axes.axhline(1, color=canvas.BLACK, linestyle="--", linewidth=1.4)
    handles = [
        canvas.key(canvas.GREY, "best linear predictor, 1 / (1 + SNR)", "", line=True),
        canvas.key(canvas.BLACK, "always guessing the mean", "", line=True),
    ]
    handles[-1].set_linestyle("--")
    for index, (name, diagnosis) in enumerate(diagnoses.items()):
        colour, marker = canvas.look_of(index)
        points = [point for point in diagnosis.recovery if point.relative_error is not None]
        reached = [point.snr_db for point in points]
        errors = [point.relative_error or 0.0 for point in points]
        axes.plot(reached, errors, f"{marker}-", color=colour, linewidth=1.8, markersize=6)
        missing = "" if points else ": its latents drown in the noise"
        handles.append(
            canvas.key(colour, canvas.plain(name, LABEL_LIMIT) + missing, marker, line=True)
        )
    axes.set_yscale("log", nonpositive="mask")
    canvas.plain_numbers(axes.yaxis)
    axes.set_xticks(ratios)
    axes.set_xlabel("signal-to-noise ratio of the noisy latent (dB)")
    axes.set_ylabel("error / variance of the latent")
    canvas.legend(figure, handles)
    return figure


def plot_channels(diagnoses: Diagnoses) -> Figure:
    """Bars a channel: standard deviation before and after the mask, and mean mask."""
    heights = [0.5 + 0.36 * len(diagnosis.mask_mean) for diagnosis in diagnoses.values()]
    figure, panels = canvas.new_panels(
        0.9 + sum(heights), len(diagnoses), 2, sharex="col", height_ratios=heights,
        width_ratios=(3, 2),
    )  # fmt: skip
    pairs = zip(diagnoses.items(), panels[::2], panels[1::2], strict=True)
    for (name, diagnosis), left, right in pairs:
        _bars(left, diagnosis.latent_std, -0.2, canvas.BLUE)
        _bars(left, diagnosis.masked_latent_std, 0.2, canvas.VERMILLION)
        _bars(right, diagnosis.mask_mean, 0, canvas.GREEN, height=0.6, form=numbers.mask)
        left.set_title(canvas.plain(name, LABEL_LIMIT))
        left.axvline(1, color=canvas.GREY, linestyle="--", linewidth=1.4)
        for axes in (left, right):
            canvas.channel_rows(axes, range(len(diagnosis.mask_mean)))
            axes.grid(False, axis="y")
        right.set_ylabel("")
        right.tick_params(labelleft=False)
        right.set_xlim(0, 1.3)
        right.set_xticks([0, 0.5, 1])
    widest = max(max(diagnosis.latent_std) for diagnosis in diagnoses.values())
    panels[0].set_xlim(0, 1.25 * max(widest, 1.0))
    panels[-2].set_xlabel("standard deviation (dashed: noise)")
    panels[-1].set_xlabel("mean mask")
    canvas.legend(
        figure,
        [
            canvas.key(canvas.BLUE, "before the mask", "s"),
            canvas.key(canvas.VERMILLION, "after the mask", "s"),
        ],
        2,
    )
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
        canvas.write_beside(axes, form(value), (value, place), (3, 0), va="center", size=8.5)
