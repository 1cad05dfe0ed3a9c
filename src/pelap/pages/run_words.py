"""Sentences about runs, made from the numbers under conditions: none claims more than they say.

Whether a denoiser reacts to its latent is read from the distance of its loss from the loss with
zeros, in either direction: on zeros a sound denoiser may well score lower, as the task is easier.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from pelap.measure.collapse import OPEN_MASK
from pelap.measure.diagnosis_record import Diagnosis
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
    sentences = [headline(runs), _mask_sentence(focus), denoiser_sentence(focus)]
    if focus.has_gate:
        sentences.append(_masked_decoding_sentence(focus))
    if baseline is not None and baseline is not focus:
        sentences += _against_baseline(focus, baseline)
    for run in [run for run in gated if run.sparsity_weight == 0][:1]:
        start = 1 / (1 + math.exp(-run.config.gate.initial_score))
        if run.mean_mask < start / 2:
            sentences.append(
                "With λ = 0 no term of the loss asks for sparsity, yet the mean mask fell from "
                f"{numbers.mask(start)} to {numbers.mask(run.mean_mask)}."
            )
    return " ".join(sentences)


def headline(runs: Sequence[ReportedRun]) -> str:
    """How many runs have which verdict."""
    (verdict, num), *others = Counter(run.verdict for run in runs).items()
    if len(runs) == 1:
        return f"{runs[0].label} {STATES[verdict][0]}."
    if not others:
        return f"{'Both' if num == 2 else f'All {num}'} runs {STATES[verdict][1]}."
    parts = [f"{num} {STATES[name][num > 1]}" for name, num in ((verdict, num), *others)]
    return f"Of {len(runs)} runs, {numbers.listed(parts)}."


def widest(run: ReportedRun) -> str:
    """The largest standard deviation of a latent channel, after the mask."""
    return numbers.significant(max(run.evaluation.masked_latent_std), 2)


def _mask_sentence(run: ReportedRun) -> str:
    """What the mask does; for a baseline, how large its latents are."""
    if not run.has_gate:
        return (
            f"{run.label} has no mask; the standard deviation of its widest latent channel is "
            f"{widest(run)}, beside noise of 1."
        )
    if not math.isfinite(run.mean_mask):
        return f"{run.title} has masks that are not numbers."
    num_channels, mean = len(run.evaluation.mask_mean), numbers.mask(run.mean_mask)
    num_closed = sum(mask < OPEN_MASK for mask in run.evaluation.mask_mean)
    if num_closed == num_channels:
        return f"{run.title} closes its mask: mean {mean}."
    closed = f"{num_closed or 'none'} of its {num_channels} channels"
    return f"{run.title} closes {closed}: mean mask {mean}."


def denoiser_sentence(run: ReportedRun) -> str:
    """Whether the latent makes a difference to the denoiser."""
    real, zeros = run.evaluation.diffusion_loss, run.evaluation.zero_latent_diffusion_loss
    scores = (
        f"Its denoiser scores {numbers.loss(real)} with the real latent and "
        f"{numbers.loss(zeros)} with zeros"
    )
    if not (math.isfinite(real) and math.isfinite(zeros)):
        return f"{scores}: no judgement is possible."
    distance = abs(real - zeros) / max(real, zeros) if max(real, zeros) > 0 else 0.0
    if distance < NEARLY_SAME_SCORE:
        almost = "" if distance < SAME_SCORE else "almost "
        return f"{scores}: the latent makes {almost}no difference to it."
    return f"{scores}, {numbers.percent(distance)} apart: it reacts to the latent."


def _masked_decoding_sentence(run: ReportedRun) -> str:
    """What decoding through the mask costs."""
    ratio = _masked_error_ratio(run)
    if not math.isfinite(ratio):
        return "Decoding through the mask gives no finite error."
    if ratio >= 2:
        return f"Decoding through the mask is {numbers.times(ratio)} worse."
    more = f"{numbers.percent(ratio - 1)} more" if ratio > 1 else "no"
    return f"Decoding through the mask costs {more} squared error."


def _masked_error_ratio(run: ReportedRun) -> float:
    """Squared error of decoding through the mask over that without it."""
    error = run.evaluation.reconstruction_mse_sum
    return run.evaluation.masked_reconstruction_mse_sum / error if error > 0 else math.inf


def _against_baseline(run: ReportedRun, baseline: ReportedRun) -> list[str]:
    """Two sentences, if both were measured on the same pictures."""
    mine, theirs = run.evaluation, baseline.evaluation
    pictures = [
        (data.source, data.path, data.size, found.split, found.num_pictures)
        for data, found in ((run.config.data, mine), (baseline.config.data, theirs))
    ]
    if pictures[0] != pictures[1]:
        return []
    loss = numbers.loss(theirs.diffusion_loss)
    noise = f"The baseline's noise loss is {loss}."
    if mine.diffusion_loss < theirs.diffusion_loss and run.verdict != "healthy":
        noise = (
            f"That noise loss is below the baseline's {loss}, but it is no sign of a better "
            "denoiser: the loss also falls when the latent disappears."
        )
    return [
        noise,
        "Reconstruction without the mask has a squared error of "
        f"{numbers.squared_error(mine.reconstruction_mse_sum)} a picture, against "
        f"{numbers.squared_error(theirs.reconstruction_mse_sum)} for the baseline.",
    ]


def samples_caption(run: ReportedRun) -> str:
    """How the samples came about, and what may be expected of them."""
    sampler = run.evaluation.sampler
    made = f"{sampler.name}, {sampler.num_steps} steps, seed {sampler.seed}."
    if run.has_gate:
        made += " This denoiser was trained on the masked latent, which the decoder never saw in "
        made += "training"
        if _masked_error_ratio(run) >= 2:
            return f"{made}: these are not expected to look like pictures."
        return f"{made}. {_masked_decoding_sentence(run)}"
    made += " The decoder was trained on the latents that the denoiser models"
    if run.verdict == "healthy":
        return f"{made}."
    return f"{made}, but their standard deviation is at most {widest(run)} beside noise of 1."


def denoiser_caption(runs: Sequence[ReportedRun]) -> str:
    """How to read the denoiser figure, with the paper's network's floor where it applies."""
    text = (
        "A gap between the first two bars, in either direction, says that the denoiser reacts to "
        "the latent; where they are equal it does not, and a low loss only says that there was "
        "little latent to tell from the noise."
    )
    sides = {run.config.data.size for run in runs}
    if len(sides) > 1 or any(run.config.network.latent_channels > 8 for run in runs):
        return text
    values = (sides.pop() // 4) ** 2
    return (
        f"{text} From noise alone the paper's denoiser cannot get much below "
        f"{numbers.loss(1.5 / values)} here: its first normalisation erases mean and scale of each "
        f"channel's {values} values."
    )


def timesteps_caption(diagnoses: Mapping[str, Diagnosis]) -> str:
    """How to read the losses by timestep, with the verdicts of `pelap diagnose`."""
    verdicts = "; ".join(f"{name}: {each.collapse.verdict}" for name, each in diagnoses.items())
    return (
        "A denoiser that knows its latents stays near the grey line or below it. One whose curve "
        "is flat and the same with zeros predicts the noise without any latent. "
        f"Verdicts of pelap diagnose, {verdicts}."
    )


def recovery_caption(diagnoses: Mapping[str, Diagnosis]) -> str:
    """How to read the recovered latents, with each model's error at 0 dB."""
    errors = {name: each.recovery[0].relative_error for name, each in diagnoses.items()}
    parts = [
        f"{name} has none: no timestep comes within 1 dB of it"
        if error is None
        else f"{name} {numbers.significant(error)}"
        for name, error in errors.items()
    ]
    return (
        "Squared error in the latent's own variance, which no shrinking of the latent can lower. "
        f"At 0 dB: {'; '.join(parts)}."
    )
