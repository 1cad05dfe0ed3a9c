"""Sentences about runs, made from the numbers under conditions: none claims more than they say.

Whether a denoiser reacts to its latent is read from the distance of its loss from the loss with
zeros, in either direction: on zeros a sound denoiser may well score lower, as the task is easier.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pelap.measure.collapse import OPEN_MASK
from pelap.pages import numbers
from pelap.pages.reported_run import ReportedRun

STATES = {
    "healthy": ("is healthy", "are healthy"),
    "shrunken": ("has shrunken latents", "have shrunken latents"),
    "collapsed": ("has collapsed", "have collapsed"),
    "undertrained": ("is undertrained", "are undertrained"),
}
SAME_SCORE, NEARLY_SAME_SCORE = 0.01, 0.05


def summary(runs: Sequence[ReportedRun]) -> str:
    """The page's first paragraph: what became of the runs, in plain words."""
    gated = [run for run in runs if run.has_gate]
    focus = next((run for run in gated if run.sparsity_weight > 0), (gated or runs)[0])
    baseline = next((run for run in runs if not run.has_gate), None)
    sentences = [headline(runs), mask_sentence(focus), denoiser_sentence(focus)]
    if focus.has_gate:
        sentences.append(masked_decoding_sentence(focus))
    if baseline is not None and baseline is not focus:
        sentences += _against_baseline(focus, baseline)
    for run in [run for run in gated if run.sparsity_weight == 0][:1]:
        sentences += _without_sparsity_loss(run)
    return " ".join(sentences)


def headline(runs: Sequence[ReportedRun]) -> str:
    """How many runs have which verdict."""
    if len(runs) == 1:
        return f"{runs[0].label} {_state(runs[0].verdict, 1)}."
    verdicts = [run.verdict for run in runs]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    if len(counts) == 1:
        every = "Both" if len(runs) == 2 else f"All {len(runs)}"
        return f"{every} runs {_state(verdicts[0], 2)}."
    parts = [f"{count} {_state(verdict, count)}" for verdict, count in counts.items()]
    return f"Of {len(runs)} runs, {', '.join(parts[:-1])} and {parts[-1]}."


def _state(verdict: str, count: int) -> str:
    singular, plural = STATES.get(verdict, (f"is {verdict}", f"are {verdict}"))
    return singular if count == 1 else plural


def mask_sentence(run: ReportedRun) -> str:
    """What the mask does; for a baseline, how large its latents are."""
    if not run.has_gate:
        widest = max(run.evaluation["masked_latent_std"])
        return (
            f"{run.label} has no mask; the standard deviation of its widest latent channel is "
            f"{numbers.significant(widest, 2)}, beside noise of 1."
        )
    num_channels, mean = len(run.mask_mean), numbers.mask(run.mean_mask)
    num_closed = sum(mask < OPEN_MASK for mask in run.mask_mean)
    name = run.title
    if not math.isfinite(run.mean_mask):
        return f"{name} has masks that are not numbers."
    if num_closed == num_channels:
        return f"{name} closes its mask: mean {mean}."
    if num_closed:
        return f"{name} closes {num_closed} of its {num_channels} channels: mean mask {mean}."
    return f"{name} closes none of its {num_channels} channels: mean mask {mean}."


def denoiser_sentence(run: ReportedRun) -> str:
    """Whether the latent makes a difference to the denoiser."""
    real, zeros = run.evaluation["diffusion_loss"], run.evaluation["zero_latent_diffusion_loss"]
    scores = (
        f"Its denoiser scores {numbers.loss(real)} with the real latent and "
        f"{numbers.loss(zeros)} with zeros"
    )
    if not (math.isfinite(real) and math.isfinite(zeros)):
        return f"{scores}: no judgement is possible."
    distance = abs(real - zeros) / max(real, zeros) if max(real, zeros) > 0 else 0.0
    if distance < SAME_SCORE:
        return f"{scores}: the latent makes no difference to it."
    if distance < NEARLY_SAME_SCORE:
        return f"{scores}: the latent makes almost no difference to it."
    return f"{scores}, {numbers.percent(distance)} apart: it reacts to the latent."


def masked_decoding_sentence(run: ReportedRun) -> str:
    """What decoding through the mask costs."""
    ratio = masked_error_ratio(run)
    if not math.isfinite(ratio):
        return "Decoding through the mask gives no finite error."
    if ratio >= 2:
        return f"Decoding through the mask is {numbers.times(ratio)} worse."
    if ratio > 1:
        return f"Decoding through the mask costs {numbers.percent(ratio - 1)} more squared error."
    return "Decoding through the mask costs no squared error."


def masked_error_ratio(run: ReportedRun) -> float:
    """Squared error of decoding through the mask over that without it."""
    error = run.evaluation["reconstruction_mse_sum"]
    return run.evaluation["masked_reconstruction_mse_sum"] / error if error > 0 else math.inf


def _against_baseline(run: ReportedRun, baseline: ReportedRun) -> list[str]:
    if _measured_on(run) != _measured_on(baseline):
        return []
    mine, theirs = run.evaluation["diffusion_loss"], baseline.evaluation["diffusion_loss"]
    sentences = []
    if mine < theirs and run.verdict != "healthy":
        sentences.append(
            f"That noise loss is below the baseline's {numbers.loss(theirs)}, but it is no sign of "
            "a better denoiser: the loss also falls when the latent disappears."
        )
    else:
        sentences.append(f"The baseline's noise loss is {numbers.loss(theirs)}.")
    mine, theirs = (each.evaluation["reconstruction_mse_sum"] for each in (run, baseline))
    sentences.append(
        f"Reconstruction without the mask has a squared error of {numbers.squared_error(mine)} a "
        f"picture, against {numbers.squared_error(theirs)} for the baseline."
    )
    return sentences


def _measured_on(run: ReportedRun) -> tuple[object, ...]:
    data = run.config.data
    return (
        data.source,
        data.path,
        data.size,
        run.evaluation["split"],
        run.evaluation["num_pictures"],
    )


def _without_sparsity_loss(run: ReportedRun) -> list[str]:
    start = 1 / (1 + math.exp(-run.config.gate.initial_score))
    if not run.mean_mask < start / 2:
        return []
    return [
        "With λ = 0 no term of the loss asks for sparsity, yet the mean mask fell from "
        f"{numbers.mask(start)} to {numbers.mask(run.mean_mask)}."
    ]


def samples_caption(run: ReportedRun) -> str:
    """How the samples came about, and what may be expected of them."""
    sampler = run.evaluation["sampler"]
    made = f"{sampler['name']}, {sampler['num_steps']} steps, seed {sampler['seed']}."
    if not run.has_gate:
        widest = max(run.evaluation["masked_latent_std"])
        if run.verdict == "healthy":
            return f"{made} The decoder was trained on the latents that the denoiser models."
        return (
            f"{made} The decoder was trained on the latents that the denoiser models, but their "
            f"standard deviation is at most {numbers.significant(widest, 2)} beside noise of 1."
        )
    trained = (
        f"{made} This denoiser was trained on the masked latent, which the decoder never saw in "
        "training"
    )
    if masked_error_ratio(run) >= 2:
        return f"{trained}: these are not expected to look like pictures."
    return f"{trained}. {masked_decoding_sentence(run)}"


def denoiser_caption(runs: Sequence[ReportedRun]) -> str:
    """How to read the denoiser figure, with the paper's network's floor where it applies."""
    text = (
        "A gap between the first two bars, in either direction, says that the denoiser reacts to "
        "the latent; where they are equal it does not, and a low loss only says that there was "
        "little latent to tell from the noise."
    )
    sides = {run.config.data.size for run in runs}
    if len(sides) == 1 and all(run.config.network.latent_channels <= 8 for run in runs):
        values = (sides.pop() // 4) ** 2
        floor = numbers.loss(1.5 / values)
        text += (
            f" From noise alone the paper's denoiser cannot get much below {floor} here: its first "
            f"normalisation erases mean and scale of each channel's {values} values."
        )
    return text


def timesteps_caption(diagnoses: Mapping[str, dict[str, Any]]) -> str:
    """How to read the losses by timestep, with the verdicts of `pelap diagnose`."""
    verdicts = "; ".join(
        f"{name}: {diagnosis['collapse']['verdict']}" for name, diagnosis in diagnoses.items()
    )
    return (
        "A denoiser that knows its latents stays near the grey line or below it. One whose curve "
        "is flat and the same with zeros predicts the noise without any latent. "
        f"Verdicts of pelap diagnose, {verdicts}."
    )


def recovery_caption(diagnoses: Mapping[str, dict[str, Any]]) -> str:
    """How to read the recovered latents, with each model's error at 0 dB."""
    parts = []
    for name, diagnosis in diagnoses.items():
        error = diagnosis["recovery"][0]["relative_error"]
        if error is None:
            parts.append(f"{name} has none: no timestep comes within 1 dB of it")
        else:
            parts.append(f"{name} {numbers.significant(error)}")
    return (
        "Squared error in the latent's own variance, which no shrinking of the latent can lower. "
        f"At 0 dB: {'; '.join(parts)}."
    )
