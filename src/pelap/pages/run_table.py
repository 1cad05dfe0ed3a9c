"""The page's tables: results beside the paper's, settings that differ, versions."""

from collections.abc import Callable, Sequence

from pelap.config.run_config import to_dict
from pelap.core.json_values import JsonObject
from pelap.pages import numbers
from pelap.pages.page import Table, text_table
from pelap.pages.reported_run import ReportedRun
from pelap.pages.run_words import widest

PAPER_COLUMNS = ("Paper: baseline", "Paper: PeLAP-A, λ = 0.01")
"""As reported: full size, CIFAR-10, 100 epochs, one seed."""


def results_table(runs: Sequence[ReportedRun]) -> Table:
    """Measures as rows; a column for each run, then the two of the paper."""

    def row(name: str, cell: Callable[[ReportedRun], str], *paper: str) -> list[str]:
        return [name, *map(cell, runs), *(paper or (numbers.ABSENT,) * 2)]

    def measure(
        name: str, field: str, form: Callable[[float | None], str], *paper: str
    ) -> list[str]:
        return row(name, lambda run: form(getattr(run.evaluation, field)), *paper)

    threshold = runs[0].evaluation.active_threshold
    unmasked, masked = (f"reconstruction error, {way} the mask" for way in ("without", "through"))
    loss, error, decibel = numbers.loss, numbers.squared_error, numbers.decibel
    rows = [
        row("verdict", lambda run: run.verdict),
        row("gate", lambda run: run.kind),
        row("preset", lambda run: run.config.preset),
        row("epochs trained", _epochs, "100", "100"),
        measure("diffusion loss", "diffusion_loss", loss, "0.0240", "0.0236"),
        measure("… with zeros for the latent", "zero_latent_diffusion_loss", loss),
        measure("… of the best linear predictor", "gaussian_diffusion_loss", loss),
        measure(unmasked, "reconstruction_mse_sum", error, "24.67", "22.59"),
        measure("… as PSNR", "reconstruction_psnr_db", decibel),
        measure(masked, "masked_reconstruction_mse_sum", error),
        measure("… as PSNR", "masked_reconstruction_psnr_db", decibel),
        row("mean mask", lambda run: numbers.mask(run.mean_mask), "1", "near 0, all channels"),
        row("… of each channel", lambda run: numbers.per_channel(run.evaluation.mask_mean)),
        row(
            f"active channels (mask above {threshold:g})",
            lambda run: f"{run.evaluation.active_channels:.1f} of {len(run.evaluation.mask_mean)}",
        ),
        row("largest latent standard deviation, after the mask", widest),
        row("parameters", lambda run: f"{run.evaluation.num_parameters['total']:,}"),
        row("pictures measured", lambda run: f"{run.evaluation.num_pictures:,}"),
    ]
    return text_table(["", *(run.label for run in runs), *PAPER_COLUMNS], rows, "with-paper")


def _epochs(run: ReportedRun) -> str:
    lines = [*run.train, *run.validation]
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


def _flat(values: JsonObject, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def versions_table(runs: Sequence[ReportedRun]) -> Table:
    """What each run was evaluated with and on."""
    versions = [run.evaluation.versions for run in runs]
    names = dict.fromkeys(name for each in versions for name in each)
    rows = [[name, *(each.get(name, numbers.ABSENT) for each in versions)] for name in names]
    rows.append(["machine", *(run.evaluation.machine for run in runs)])
    return text_table(["", *(run.label for run in runs)], rows)
