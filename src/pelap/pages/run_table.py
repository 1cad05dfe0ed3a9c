"""The page's tables: results beside the paper's, settings that differ, versions."""

from collections.abc import Callable, Sequence
from typing import Any

from pelap.config.run_config import to_dict
from pelap.pages import numbers
from pelap.pages.page import Table, text_table
from pelap.pages.reported_run import ReportedRun

PAPER_COLUMNS = ("Paper: baseline", "Paper: PeLAP-A, λ = 0.01")
"""As reported: full size, CIFAR-10, 100 epochs, one seed."""


def results_table(runs: Sequence[ReportedRun]) -> Table:
    """Measures as rows; a column for each run, then the two of the paper."""
    threshold = runs[0].evaluation["active_threshold"]
    unmasked, masked = (f"reconstruction error, {way} the mask" for way in ("without", "through"))
    error, all_closed = numbers.squared_error, "near 0, all channels"
    rows = [
        _row("verdict", runs, lambda run: run.verdict),
        _row("gate", runs, lambda run: run.kind),
        _row("preset", runs, lambda run: run.config.preset),
        _row("epochs trained", runs, _epochs, "100", "100"),
        _measure("diffusion loss", runs, "diffusion_loss", numbers.loss, "0.0240", "0.0236"),
        _measure("… with zeros for the latent", runs, "zero_latent_diffusion_loss", numbers.loss),
        _measure("… of the best linear predictor", runs, "gaussian_diffusion_loss", numbers.loss),
        _measure(unmasked, runs, "reconstruction_mse_sum", error, "24.67", "22.59"),
        _measure("… as PSNR", runs, "reconstruction_psnr_db", numbers.decibel),
        _measure(masked, runs, "masked_reconstruction_mse_sum", error),
        _measure("… as PSNR", runs, "masked_reconstruction_psnr_db", numbers.decibel),
        _row("mean mask", runs, lambda run: numbers.mask(run.mean_mask), "1", all_closed),
        _row("… of each channel", runs, lambda run: numbers.per_channel(run.mask_mean)),
        _row(f"active channels (mask above {threshold:g})", runs, _active),
        _row("largest latent standard deviation, after the mask", runs, _widest),
        _row("parameters", runs, lambda run: f"{run.evaluation['num_parameters']['total']:,}"),
        _row("pictures measured", runs, lambda run: f"{run.evaluation['num_pictures']:,}"),
    ]
    return text_table(["", *(run.label for run in runs), *PAPER_COLUMNS], rows, "with-paper")


def _row(
    name: str,
    runs: Sequence[ReportedRun],
    cell: Callable[[ReportedRun], str],
    *paper: str,
) -> list[str]:
    return [name, *(cell(run) for run in runs), *(paper or (numbers.ABSENT,) * 2)]


def _measure(
    name: str,
    runs: Sequence[ReportedRun],
    key: str,
    form: Callable[[float | None], str],
    *paper: str,
) -> list[str]:
    return _row(name, runs, lambda run: form(run.evaluation[key]), *paper)


def _active(run: ReportedRun) -> str:
    return f"{run.evaluation['active_channels']:.1f} of {len(run.mask_mean)}"


def _widest(run: ReportedRun) -> str:
    return numbers.significant(max(run.evaluation["masked_latent_std"]), 2)


def _epochs(run: ReportedRun) -> str:
    lines = run.train + run.validation
    return f"{max(line['epoch'] for line in lines):.3g}" if lines else numbers.ABSENT


def differing_settings(runs: Sequence[ReportedRun]) -> Table | None:
    """The settings in which the runs differ; None where there are none."""
    settings = [_flat(to_dict(run.config)) for run in runs]
    rows = [
        [name, *(str(each[name]) for each in settings)]
        for name in settings[0]
        if any(each[name] != settings[0][name] for each in settings)
    ]
    return text_table(["setting", *(run.label for run in runs)], rows) if rows else None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def versions_table(runs: Sequence[ReportedRun]) -> Table:
    """What each run was evaluated with and on."""
    names = list(dict.fromkeys(name for run in runs for name in run.evaluation["versions"]))
    rows = [
        [name, *(str(run.evaluation["versions"].get(name, numbers.ABSENT)) for run in runs)]
        for name in names
    ]
    rows.append(["machine", *(str(run.evaluation["machine"]) for run in runs)])
    return text_table(["", *(run.label for run in runs)], rows)
