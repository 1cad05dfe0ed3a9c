"""`pelap evaluate` of a model that is no run of ours: the denoiser's losses, and quality."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.core.cache import cache_home
from pelap.core.devices import torch_device
from pelap.core.errors import RunError
from pelap.data.load import CIFAR10_CLASSES
from pelap.data.pictures import to_batch
from pelap.families.conditioned import Told
from pelap.measure.counts import count_parameters
from pelap.measure.evaluation_record import MetricValue, ModelEvaluation, SamplerUse
from pelap.measure.machine import machine, versions
from pelap.measure.model_quality import QualitySettings, ToldPictures, draw_samples, reconstruct
from pelap.measure.noise_levels import diagnose
from pelap.measure.quality import METRICS, QualityPictures, check_metrics, measure_quality
from pelap.measure.run_evaluation import NUM_DIAGNOSED
from pelap.method.step import in_precision, uses_bf16
from pelap.method.system import LatentDiffusion
from pelap.models.conditions import NONE, Conditions, check_told, find_conditions
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits


@dataclass(frozen=True)
class _Subject:
    """A model that can be run, and its pictures."""

    system: LatentDiffusion
    originals: Tensor
    """uint8 (N, 3, H, W)."""
    labels: Tensor | None
    """Where they are classes of CIFAR-10."""
    told: ToldPictures | None
    config: RunConfig
    data: str
    """Which pictures, in words."""

    def __iter__(self) -> Iterator[Tensor]:
        """Images in [-1, 1], those that the denoiser's losses are measured on."""
        for part in self.originals[:NUM_DIAGNOSED].split(self.config.evaluation.batch_size):
            yield to_batch(part, "cpu")

    def tell(self, number: int) -> Told | None:
        """What is said of a batch of these."""
        size = self.config.evaluation.batch_size
        num = min(size, min(NUM_DIAGNOSED, len(self.originals)) - number * size)
        return None if self.told is None else self.told.of_samples(number * size, num)


def evaluate_model(
    model: LoadedModel, config: RunConfig, metrics: Sequence[str] = ()
) -> ModelEvaluation:
    """Measure any model on the test split; the same call gives the same numbers.

    Args:
        model: With a denoiser.
        config: Says which pictures; its evaluation gives sampler, counts, guidance and seed.
        metrics: Names of quality metrics to add, see `pelap.measure.quality`.

    Raises:
        ConfigError: If a metric is unknown, the model cannot take such pictures, or they do not
            say what its denoiser takes.
        RunError: If it has no denoiser that can be run.
        DataError: If the pictures cannot be read.
    """
    device, used = torch_device(), config.evaluation
    check_metrics(metrics, used.extractor, device)
    subject, kind = _prepare(model, config)
    found = diagnose(subject.system, subject, seed=used.seed, tell=subject.tell)
    return ModelEvaluation(
        model=model.name,
        data=subject.data,
        split="test",
        num_pictures=len(subject.originals),
        num_diagnosed=found.num_pictures,
        conditions=kind,
        num_parameters=count_parameters(subject.system),
        diffusion_loss=found.diffusion_loss,
        zero_latent_diffusion_loss=found.zero_latent_diffusion_loss,
        gaussian_diffusion_loss=found.gaussian_diffusion_loss,
        reconstruction_psnr_db=found.reconstruction_psnr_db,
        latent_std=found.latent_std,
        relative_error=found.recovery[0].relative_error,
        collapse=found.collapse,
        sampler=SamplerUse(
            used.sampler,
            used.num_steps,
            used.num_samples,
            used.seed,
            used.guidance if kind else None,
            precision="bf16" if uses_bf16(used.precision, device) else None,
        ),
        versions=versions(),
        machine=machine(),
        quality=_quality(subject, metrics, model.name),
    )


def _prepare(model: LoadedModel, config: RunConfig) -> tuple[_Subject, str | None]:
    """The model with its pictures and what it is told of them, and what kind that is."""
    splits = load_splits(model, config, needs_train=False)
    check_told(model, splits)
    told_model, both = find_conditions(model, splits, config.data.size, train=NONE)
    system = told_model.measured_system(torch_device())
    if system.denoiser is None:
        raise RunError(
            f"{model.name} has no denoiser that can be run: `pelap analyze` measures an "
            "autoencoder on its own."
        )
    test, told = splits.test, None
    conditions: Conditions | None = both and both[1]
    if conditions is not None and told_model.condition is not None:
        told = ToldPictures(told_model.condition, conditions, len(test))
    labels = test.labels if test.class_names == CIFAR10_CLASSES else None
    originals = test.fetch(torch.arange(len(test)))
    kind = None if conditions is None else conditions.kind
    data = describe_pictures(config, splits)
    return _Subject(system, originals, labels, told, config, data), kind


def _quality(subject: _Subject, metrics: Sequence[str], name: str) -> dict[str, MetricValue] | None:
    if not metrics:
        return None
    used, originals, needs = subject.config.evaluation, subject.originals, set()
    for metric in metrics:
        needs |= {METRICS[metric].needs}
    decoded = reconstruct(subject.system, originals, used.batch_size)
    samples = labels = None
    if "samples" in needs:
        how = QualitySettings(
            num_samples=used.num_samples, sampler=used.sampler, steps=used.num_steps, seed=used.seed
        )
        with in_precision(used.precision, torch_device()):
            samples = draw_samples(
                subject.system,
                originals[:1],
                how,
                used.batch_size,
                f"{name}: samples",
                subject.told,
                used.guidance,
            )
        if subject.labels is not None and subject.told is not None:
            labels = subject.labels[torch.arange(used.num_samples) % len(originals)]
    return measure_quality(
        metrics,
        QualityPictures(originals, decoded, samples, subject.labels, labels),
        used.extractor,
        device=torch_device(),
        cache=cache_home(),
        num_bootstraps=used.num_bootstraps,
        seed=used.seed,
    )
