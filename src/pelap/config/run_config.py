"""Frozen dataclasses that describe one run. No torch here: the command line must start fast.

Every field is an override on the command line (`--objective.sparsity-weight 0.01`), and the whole
is saved with the run as config.json and reloads from it.
"""

import dataclasses
import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pelap.core.errors import ConfigError
from pelap.core.records import read_record

DataSource = Literal["photos", "cifar10", "folder", "dataset"]
AutoencoderKind = Literal["paper", "kl"]
DenoiserKind = Literal["paper", "unet_2d", "dit"]
GateKind = Literal["open", "sigmoid", "hard_concrete", "top_k", "nested"]
Process = Literal["ddpm", "flow"]
Prediction = Literal["epsilon", "v_prediction"]
Precision = Literal["auto", "fp32", "bf16"]
SamplerName = Literal["ddpm", "ddim", "dpm-solver++"]


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and how they are cut into batches."""

    source: DataSource = "photos"
    """photos (embedded), cifar10, folder (class folders) or dataset (hub id, parquet)."""
    path: str | None = None
    """Folder, parquet file or hub id; cifar10 finds $PELAP_DATA/cifar10 without it."""
    size: int = 32
    """Side of the square pictures in pixels, a multiple of 8."""
    resize: bool = False
    """Resize and centre-crop pictures of another size instead of refusing them."""
    batch_size: int = 128
    """Pictures a step over all processes together."""
    flip: bool = True
    """Random horizontal flips in training."""
    num_train: int | None = None
    """Use only the first so many training pictures."""
    num_test: int | None = None
    """Use only the first so many test pictures."""
    image_column: str | None = None
    """Column of the pictures (source dataset); found by itself where there is one."""
    label_column: str | None = None
    """Column of the labels (source dataset); found by itself where there is one."""
    memory_gb: float = 4.0
    """Keep the decoded pictures in memory up to this size, else decode again for each batch."""


@dataclass(frozen=True)
class NetworkConfig:
    """Kind and shapes of the networks."""

    autoencoder: AutoencoderKind = "paper"
    """The paper's, or diffusers' AutoencoderKL (kl)."""
    denoiser: DenoiserKind = "paper"
    """The paper's UNet, or diffusers' UNet2DModel (unet_2d) or DiTTransformer2DModel (dit)."""
    latent_channels: int = 4
    autoencoder_channels: int = 64
    """Width of the autoencoder's outermost level, a multiple of 8."""
    denoiser_channels: int = 64
    """Width of the denoiser at full latent resolution, a multiple of 8; of 64 for dit."""
    time_channels: int = 128
    """Width of the denoiser's time embedding, even (denoiser paper)."""
    denoiser_layers: int = 2
    """Residual blocks a level (denoiser unet_2d), or transformer blocks (dit)."""
    patch_size: int = 1
    """Latent pixels of a token's side (denoiser dit)."""
    num_classes: int = 0
    """Classes of pictures that the denoiser is told; 0 tells it none (unet_2d), dit needs some."""
    normalize_latents: bool = False
    """Bring each latent channel to mean 0 and variance 1 with running statistics."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape and further losses of an autoencoder of kind kl."""

    widths: tuple[int, int, int] | None = None
    """Width of each level, outermost first, multiples of 8; None takes w, 2w and 2w of
    `network.autoencoder_channels`."""
    attention: bool = True
    """Self-attention at latent resolution."""
    absolute_weight: float = 0.0
    """Weight of the mean absolute error, beside the squared one."""
    feature_weight: float = 0.0
    """Weight of the error in the features of a CIFAR-10 ResNet-32 (32×32 pictures; weights below
    $PELAP_DATA)."""


@dataclass(frozen=True)
class GateConfig:
    """The rule from scores to mask."""

    kind: GateKind = "sigmoid"
    """open (mask 1, the baseline), sigmoid (the paper), hard_concrete, top_k or nested."""
    adaptive: bool = True
    """Each input has its own mask; otherwise one set of channels serves all data."""
    budget: int | None = None
    """Channels to keep; None leaves their number to the objective."""
    warmup: float = 0.05
    """Fraction of the training before the budget begins to fall from all channels."""
    harden_at: float = 0.3
    """Fraction of the training after which exactly `budget` channels are open for good."""
    multiplier_rate: float = 0.05
    """Step of the budget's Lagrange multiplier."""
    learning_rate_factor: float = 1.0
    """The importance predictor's learning rate as a multiple of the networks'."""
    full_fraction: float = 0.0
    """Part of a training batch that kind nested leaves whole."""
    hidden_channels: int = 32
    """Hidden width of the importance predictor."""
    initial_score: float = 3.0
    """Score at the start; sigmoid(3) = 0.953."""
    active_threshold: float = 0.5
    """A channel counts as active when its mask is above this."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms of the loss; 0 switches a term off."""

    reconstruction_weight: float = 1.0
    kl_weight: float = 0.001
    diffusion_weight: float = 1.0
    sparsity_weight: float = 0.01
    """λ in the paper; without effect for gate kind open."""
    decoder_sees_mask: bool = False
    """Decode the masked latents, as whoever samples will; the paper decodes them unmasked."""
    encoder_diffusion_weight: float = 1.0
    """Share of the diffusion loss's gradient that reaches encoder and gate; 0 stops it."""
    open_channels_only: bool = False
    """Noise, and average KL and noise loss over, open channels only."""
    condition_dropout: float = 0.1
    """Share of training pictures whose class the denoiser is not told, for guidance later."""


@dataclass(frozen=True)
class NoiseConfig:
    """The forward process, as diffusers' schedulers name it."""

    process: Process = "ddpm"
    """ddpm, or flow: straight paths from latents to noise (denoiser dit), whose timesteps training
    draws as the logistic function of a normal; the fields below then have no effect."""
    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    prediction: Prediction = "epsilon"
    """What the denoiser predicts: the noise, or v = √ᾱ·noise − √(1−ᾱ)·latents."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, and how its learning rate goes."""

    learning_rate: float = 2e-4
    final_learning_rate: float = 1e-5
    schedule: Literal["epoch", "step", "trapezoid"] = "epoch"
    """epoch and step: a cosine that falls once an epoch (the paper) or at each step. trapezoid:
    constant until the last `cooldown_epochs`, so that a run can be extended or cooled down."""
    cooldown_epochs: float = 0.0
    """Epochs of linear fall to the final rate at the end of a stage (schedule trapezoid)."""
    warmup_steps: int = 0
    """Steps of linear rise at the start of a stage."""
    weight_decay: float = 1e-4
    max_gradient_norm: float = 1.0
    """Clip the gradient's norm at this; 0 switches clipping off."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, used for validation and saving; 0 is off."""


@dataclass(frozen=True)
class LoopConfig:
    """How long, how precise, how often."""

    epochs: int = 100
    """Passes over the pictures; with `denoiser_epochs`, those that train the autoencoder."""
    begin_with: str | None = None
    """Run or model folder whose weights the networks that are trained begin with."""
    denoiser_epochs: int | None = None
    """Two-stage training: freeze the autoencoder after `epochs`, then train the denoiser for so
    many passes over cached latents (0 leaves it untrained). None trains both jointly."""
    autoencoder: str | None = None
    """Run whose autoencoder, normaliser and gate are taken as they are (first stage skipped), or
    the folder of a diffusers AutoencoderKL."""
    latent_cache: str | None = None
    """Folder for cached latents, to share between runs; by default the run's own, removed at
    the end."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do when a validation finds the model shrunken or collapsed."""
    max_steps: int | None = None
    """Stop after this many steps, whatever epochs says."""
    seed: int = 42
    precision: Precision = "auto"
    """auto takes bf16 where the processor or GPU is made for it."""
    channels_last: bool = True
    compile: bool = False
    """torch.compile the networks; pays on a GPU, needs a C++ compiler on a CPU."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, beside the one at the end of each epoch."""
    validate_every: int = 1
    """Epochs between validations, after which the model is saved if it is the best so far."""
    samples_every: int | None = None
    """Epochs of the denoiser's between grids of samples, a class a row, with their accuracy."""
    keep_checkpoints: int = 2
    """Keep the last so many checkpoints."""
    tracker: str | None = None
    """Any accelerate tracker by name, e.g. tensorboard or wandb, beside metrics.jsonl."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What `pelap evaluate` measures on the test split."""

    batch_size: int = 250
    num_samples: int = 64
    sampler: SamplerName = "ddim"
    num_steps: int = 50
    guidance: float = 1.0
    """Classifier-free guidance of samples that have a class; 1 is none."""
    seed: int = 0
    """Seed of the fixed noise and timesteps."""
    extractor: str = "resnet20"
    """Features of Fréchet distance and its like: resnet20, inception, package.module:factory."""
    num_bootstraps: int = 20
    """Resamples behind a quality metric's interval."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    preset: str = "paper"
    """Name of the preset this began as."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: LoopConfig = field(default_factory=LoopConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


FLOW_TIMESTEPS = 1000
MOST_CLASSES = 1000
"""diffusers' DiTPipeline takes class 1000 for none, whatever the model."""

_RULES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (
        "a multiple of 8 above 0",
        lambda value: value > 0 and value % 8 == 0,
        ("data.size", "network.autoencoder_channels", "network.denoiser_channels"),
    ),
    (
        "at least 1",
        lambda value: value is None or value >= 1,
        (
            "data.batch_size",
            "data.num_train",
            "data.num_test",
            "network.latent_channels",
            "network.denoiser_layers",
            "network.patch_size",
            "gate.hidden_channels",
            "noise.num_timesteps",
            "gate.budget",
            "run.max_steps",
            "run.log_every",
            "run.checkpoint_every",
            "run.keep_checkpoints",
            "run.validate_every",
            "run.samples_every",
            "evaluation.guidance",
            "evaluation.batch_size",
            "evaluation.num_samples",
            "evaluation.num_steps",
            "evaluation.num_bootstraps",
            "run.epochs",
        ),
    ),
    (
        "0 or more",
        lambda value: value is None or value >= 0,
        (
            "run.denoiser_epochs",
            "network.num_classes",
            "autoencoder.absolute_weight",
            "autoencoder.feature_weight",
            "optimizer.cooldown_epochs",
            "optimizer.warmup_steps",
            "objective.encoder_diffusion_weight",
            "gate.multiplier_rate",
            "run.seed",
            "evaluation.seed",
            "objective.reconstruction_weight",
            "objective.kl_weight",
            "objective.diffusion_weight",
            "objective.sparsity_weight",
            "optimizer.final_learning_rate",
            "optimizer.weight_decay",
            "optimizer.max_gradient_norm",
        ),
    ),
    (
        "above 0",
        lambda value: value > 0,
        ("optimizer.learning_rate", "data.memory_gb", "gate.learning_rate_factor"),
    ),
    (
        "None or multiples of 8 above 0",
        lambda value: value is None or all(w > 0 and w % 8 == 0 for w in value),
        ("autoencoder.widths",),
    ),
    ("an even number above 2", lambda v: v > 2 and v % 2 == 0, ("network.time_channels",)),
    (
        "in [0, 1)",
        lambda value: 0 <= value < 1,
        ("optimizer.ema_decay", "gate.warmup", "gate.harden_at"),
    ),
    (
        "in [0, 1]",
        lambda value: 0 <= value <= 1,
        ("gate.full_fraction", "objective.condition_dropout"),
    ),
    (
        "between 0 and 1",
        lambda value: 0 < value < 1,
        ("gate.active_threshold", "noise.beta_start", "noise.beta_end"),
    ),
)


def validate(config: RunConfig) -> None:
    """Refuse values that no run can use.

    Raises:
        ConfigError: Names the setting, its value, and what it must be.
    """
    for expected, holds, names in _RULES:
        for name in names:
            value = operator.attrgetter(name)(config)
            if not holds(value):
                raise ConfigError(f"{as_option(name)} is {value!r}: it must be {expected}.")
    _validate_autoencoder(config)
    _validate_denoiser(config)
    if config.noise.beta_start > config.noise.beta_end:
        raise ConfigError("--noise.beta-start must be at most --noise.beta-end.")
    budget, channels = config.gate.budget, config.network.latent_channels
    if budget is not None and budget > channels:
        raise ConfigError(
            f"--gate.budget is {budget}: it must be at most the {channels} latent channels."
        )
    if config.gate.warmup > config.gate.harden_at:
        raise ConfigError("--gate.warmup must be at most --gate.harden-at.")
    if config.run.autoencoder is not None and not config.run.denoiser_epochs:
        raise ConfigError(
            "--run.autoencoder needs --run.denoiser-epochs: only the denoiser is trained."
        )
    steps, most = config.evaluation.num_steps, config.noise.num_timesteps
    if steps > most:
        raise ConfigError(f"--evaluation.num-steps is {steps}: it must be at most {most}.")


def _validate_autoencoder(config: RunConfig) -> None:
    own = config.autoencoder
    if config.network.autoencoder == "paper" and (own.widths is not None or not own.attention):
        raise ConfigError(
            "--autoencoder.widths and --autoencoder.no-attention need --network.autoencoder kl."
        )
    if own.feature_weight and config.data.size != 32:
        raise ConfigError(
            f"--autoencoder.feature-weight needs --data.size 32 (now {config.data.size}): its "
            "features are those of a network for 32×32 pictures."
        )


def _validate_denoiser(config: RunConfig) -> None:
    network, side = config.network, config.data.size // 4
    if network.denoiser == "paper" and network.num_classes:
        raise ConfigError("--network.num-classes needs --network.denoiser dit or unet_2d.")
    if network.denoiser != "dit":
        if config.noise.process == "flow":
            raise ConfigError("--noise.process flow needs --network.denoiser dit.")
        return
    if config.noise.process == "flow" and config.noise.num_timesteps != FLOW_TIMESTEPS:
        raise ConfigError(
            f"--noise.num-timesteps is {config.noise.num_timesteps}: a flow has {FLOW_TIMESTEPS}."
        )
    if not 1 <= network.num_classes <= MOST_CLASSES:
        raise ConfigError(
            f"--network.num-classes is {network.num_classes}: --network.denoiser dit needs 1 to "
            f"{MOST_CLASSES}."
        )
    if network.denoiser_channels % 64:
        raise ConfigError(
            f"--network.denoiser-channels is {network.denoiser_channels}: it must be a multiple "
            "of 64 for --network.denoiser dit."
        )
    if side % network.patch_size:
        raise ConfigError(
            f"--network.patch-size is {network.patch_size}: it must divide the latents' side, "
            f"{side}."
        )
    if config.gate.kind != "open":
        raise ConfigError("--network.denoiser dit needs --gate.kind open; `pelap prune` removes.")


def as_option(name: str) -> str:
    """`group.field_name` as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def settings_without_effect(config: RunConfig) -> list[str]:
    """One line for each setting that this run ignores, so that nobody is misled."""
    lines = []
    default = RunConfig()
    if config.gate.kind == "open":
        if config.objective.sparsity_weight:
            lines.append(
                "objective.sparsity-weight has no effect: gate kind open has no mask to close."
            )
        if config.gate.initial_score != default.gate.initial_score:
            lines.append("gate.initial-score has no effect: gate kind open has no predictor.")
    gate = config.gate
    schedule = (gate.warmup, gate.harden_at)
    if gate.budget is None and schedule != (default.gate.warmup, default.gate.harden_at):
        lines.append("gate.warmup and gate.harden-at have effect with a gate.budget only.")
    if config.run.latent_cache is not None and config.run.denoiser_epochs is None:
        lines.append("run.latent-cache has effect with run.denoiser-epochs only.")
    if gate.kind == "open" and gate.budget is not None:
        lines.append("gate.budget has no effect: gate kind open keeps every channel.")
    if gate.full_fraction and gate.kind != "nested":
        lines.append("gate.full-fraction has effect for gate kind nested only.")
    network = config.network
    if network.denoiser != "paper" and network.time_channels != default.network.time_channels:
        lines.append("network.time-channels has effect for denoiser paper only.")
    if network.denoiser == "paper" and network.denoiser_layers != default.network.denoiser_layers:
        lines.append("network.denoiser-layers has effect for denoiser unet_2d and dit only.")
    if network.num_classes == 0 and config.evaluation.guidance != default.evaluation.guidance:
        lines.append("evaluation.guidance has effect with network.num-classes only.")
    if config.optimizer.cooldown_epochs and config.optimizer.schedule != "trapezoid":
        lines.append("optimizer.cooldown-epochs has effect for schedule trapezoid only.")
    if config.data.source == "photos" and config.data.path is not None:
        lines.append("data.path has no effect: source photos is embedded.")
    if config.data.source != "dataset" and (config.data.image_column or config.data.label_column):
        lines.append("data.image-column and data.label-column have effect for source dataset only.")
    return lines


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The config as nested plain values."""
    return dataclasses.asdict(config)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the config as JSON that `load_config` reads back."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n")


def load_config(path: Path) -> RunConfig:
    """Read a run's config.json.

    Raises:
        ConfigError: If the file is missing, is not JSON, or holds unknown or mistyped fields.
    """
    try:
        config = read_record(RunConfig, path, ConfigError)
    except OSError as error:
        raise ConfigError(f"No config at {path}: give the config.json of a run.") from error
    validate(config)
    return config
