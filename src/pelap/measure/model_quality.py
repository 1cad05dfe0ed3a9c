"""Quality of any model beside the unpruned one: the same pictures, the same number of samples."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.core.cache import cache_home
from pelap.core.errors import ConfigError, DataError
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.data.pictures import to_batch
from pelap.families.conditioned import Condition, Told
from pelap.measure.evaluation_record import MetricValue
from pelap.measure.features import load_extractor
from pelap.measure.quality import QualityPictures, measure_quality
from pelap.method.sampling import build_sampler, denoise, to_uint8
from pelap.method.system import LatentDiffusion
from pelap.models.conditions import NONE, Conditions, find_conditions
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits

TO_UNPRUNED = "-to-unpruned"
"""Ends the name of the distance from samples to the unpruned model's reconstructions."""


@dataclass(frozen=True)
class QualitySettings:
    """How many pictures, and how samples are drawn."""

    num_pictures: int = 2000
    """Test pictures that each model reconstructs."""
    num_samples: int = 5000
    sampler: str = "dpm-solver++"
    steps: int = 15
    num_references: int = 10_000
    """Test pictures that samples are compared with."""
    seed: int = 0
    """Says what noise the samples begin with."""

    def check(self) -> None:
        """Refuse counts that no distance can be made of.

        Raises:
            ConfigError: One line that names the option.
        """
        counts = {"--num-pictures": self.num_pictures, "--num-samples": self.num_samples}
        for name, value in counts.items():
            if value < 2:
                raise ConfigError(f"{name} is {value}: it must be at least 2.")


@dataclass(frozen=True)
class ToldPictures:
    """What every denoiser of the compared models is told."""

    condition: Condition
    """Where it is told nothing."""
    conditions: Conditions
    """Of the test pictures that are measured, and of as many samples, in turn."""
    num_pictures: int
    """With a condition."""

    def of_samples(self, first: int, num: int) -> Told:
        """What is said of samples `first`, `first` + 1, …"""
        return self.conditions.tell(torch.arange(first, first + num) % self.num_pictures)


@dataclass(frozen=True)
class References:
    """What every model is compared with; uint8 (N, 3, H, W)."""

    originals: Tensor
    """Test pictures, at least as many as are reconstructed."""
    reconstructions: Tensor
    """The first of the originals, decoded by the unpruned model."""
    pictures: str
    """Which these are, in words."""
    extractor: str | None
    """Name for `load_extractor`; None where there is none, and no Fréchet distances."""
    reason: str | None = None
    """Why there is none."""
    told: ToldPictures | None = None
    """What denoisers are told of the test pictures; None for nothing."""


def make_references(
    unpruned: LoadedModel, config: RunConfig, settings: QualitySettings, device: torch.device
) -> References:
    """Fetch the test pictures and let the unpruned model reconstruct some.

    Raises:
        ConfigError: If the model cannot take pictures of that size, or no extractor has that name.
        DataError: If the pictures cannot be read.
    """
    splits = load_splits(unpruned, config, needs_train=False)
    test, told = splits.test, None
    num_told = min(max(settings.num_pictures, settings.num_samples), len(test))
    size, asked = config.data.size, torch.arange(num_told)
    model, conditions = find_conditions(unpruned, splits, size, train=NONE, test=asked)
    if conditions is not None and model.condition is not None:
        told = ToldPictures(model.condition, conditions[1], num_told)
    num = max(settings.num_pictures, settings.num_references)
    originals = test.fetch(torch.arange(min(num, len(test))))
    extractor, reason = config.evaluation.extractor, None
    try:
        load_extractor(extractor, torch.device("cpu"))
    except DataError as error:
        extractor, reason = None, str(error)
    chosen = originals[: settings.num_pictures]
    system = unpruned.measured_system(device)
    decoded = reconstruct(system, chosen, config.evaluation.batch_size)
    said = describe_pictures(config, splits)
    return References(originals, decoded, said, extractor, reason, told)


def measure_model_quality(
    model: LoadedModel,
    references: References,
    config: RunConfig,
    settings: QualitySettings,
    device: torch.device,
) -> dict[str, MetricValue]:
    """PSNR and rFD of reconstructions; Fréchet distances of samples to both references.

    Args:
        model: The model; samples are left out where its denoiser needs more than latents and
            what is told of the pictures.
        references: From `make_references`.
        config: Its evaluation gives batch size and bootstraps.
        settings: How many, and which sampler.
        device: Where the model runs.

    Returns:
        By metric, e.g. FD-ResNet20 and FD-ResNet20-to-unpruned.

    Raises:
        ConfigError: If pictures do not come back at their size, or a metric cannot be measured.
    """
    told = references.told
    if told is not None:
        model = replace(model, condition=told.condition)
    system, size = model.measured_system(device), config.evaluation.batch_size
    originals = references.originals[: settings.num_pictures]
    decoded = reconstruct(system, originals, size)
    names = ["psnr"] if references.extractor is None else ["psnr", "rfd"]
    values = _measure(names, QualityPictures(originals, decoded), references, config)
    if references.extractor is None or system.denoiser is None:
        return values
    guidance = config.evaluation.guidance
    samples = draw_samples(
        system, originals[:1], settings, size, f"{model.name}: samples", told, guidance
    )
    for ending, compared in (("", references.originals), (TO_UNPRUNED, references.reconstructions)):
        pictures = QualityPictures(compared, samples=samples)
        distances = _measure(["fd"], pictures, references, config)
        values |= {name + ending: value for name, value in distances.items()}
    return values


def _measure(
    names: list[str], pictures: QualityPictures, references: References, config: RunConfig
) -> dict[str, MetricValue]:
    return measure_quality(
        names,
        pictures,
        references.extractor or config.evaluation.extractor,
        device=torch.device("cpu"),
        cache=cache_home(),
        num_bootstraps=config.evaluation.num_bootstraps,
        seed=config.evaluation.seed,
    )


@torch.no_grad()
def reconstruct(system: LatentDiffusion, originals: Tensor, batch_size: int) -> Tensor:
    """What decoding the encoder's mean gives, bytes (N, 3, H, W), of bytes of that shape."""
    device, parts = next(system.parameters()).device, []
    for part in originals.split(batch_size):
        mean = system.encode_moments(to_batch(part, device)).chunk(2, dim=1)[0]
        parts.append(to_uint8(system.decode(mean)).cpu())
    return torch.cat(parts)


@torch.no_grad()
def draw_samples(
    system: LatentDiffusion,
    picture: Tensor,
    settings: QualitySettings,
    batch_size: int,
    label: str,
    told: ToldPictures | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Pictures from noise, bytes (N, 3, H, W), the same for the same seed.

    Args:
        system: With a denoiser.
        picture: Bytes (1, 3, H, W): its latents have the shape of all.
        settings: Number, sampler, steps and seed.
        batch_size: Pictures at a time.
        label: Of a progress bar.
        told: What the denoiser is told of each; nothing by default.
        guidance: Towards that, see `denoise`.
    """
    device = next(system.parameters()).device
    _, channels, *sides = system.encode_moments(to_batch(picture, device)).shape
    source = generator(settings.seed, "sampling", 0, device)
    step_noise = generator(settings.seed, "sampling", 1, device)
    shape = (settings.num_samples, channels // 2, *sides)
    noise = torch.randn(shape, generator=source, device=device)
    sampler, parts = build_sampler(settings.sampler, system.scheduler), []
    if told is not None and not told.conditions.has_none:
        guidance = 1.0  # nothing to be guided away from
    for number, part in enumerate(track(noise.split(batch_size), label)):
        said = None if told is None else told.of_samples(number * batch_size, len(part))
        latents = denoise(
            system.denoiser, sampler, part, settings.steps, None, step_noise, said, guidance
        )
        parts.append(to_uint8(system.decode(latents)).cpu())
    return torch.cat(parts)
