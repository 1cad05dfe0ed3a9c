"""Frozen dataclasses that describe one run. No torch here: the command line must start fast.

Every field is an override on the command line (`--objective.sparsity-weight 0.01`), and the whole
is saved with the run as config.json and reloads from it.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pelap.core.json_values import JsonObject

DataSource = Literal["photos", "cifar10", "folder", "dataset"]
AutoencoderKind = Literal["paper", "kl"]
DenoiserKind = Literal["paper", "unet_2d", "dit"]
GateKind = Literal["open", "sigmoid", "hard_concrete", "top_k", "nested"]
Process = Literal["ddpm", "flow"]
Prediction = Literal["epsilon", "v_prediction"]
Precision = Literal["auto", "fp32", "bf16"]
SamplerName = Literal["ddpm", "ddim", "dpm-solver++"]


@dataclass(frozen=True)
class Limit:
    """What the value of a setting must be, unless it is None; stands in the field's annotation."""

    expected: str
    holds: Callable[[Any], bool]


AT_LEAST_1 = Limit("at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Limit("0 or more", lambda value: value >= 0)
OCTUPLES = Limit("None or multiples of 8 above 0", lambda v: all(w > 0 and w % 8 == 0 for w in v))
Count = Annotated[int, AT_LEAST_1]
MaybeCount = Annotated[int | None, AT_LEAST_1]
Amount = Annotated[int, NOT_NEGATIVE]
Weight = Annotated[float, NOT_NEGATIVE]
Positive = Annotated[float, Limit("above 0", lambda value: value > 0)]
Octuple = Annotated[int, Limit("a multiple of 8 above 0", lambda v: v > 0 and v % 8 == 0)]
Part = Annotated[float, Limit("in [0, 1)", lambda value: 0 <= value < 1)]
Share = Annotated[float, Limit("in [0, 1]", lambda value: 0 <= value <= 1)]
Between = Annotated[float, Limit("between 0 and 1", lambda value: 0 < value < 1)]


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and how they are cut into batches."""

    source: DataSource = "photos"
    """photos (embedded), cifar10, folder (class folders) or dataset (hub id, parquet)."""
    path: str | None = None
    """Folder, parquet file or hub id; cifar10 finds $PELAP_DATA/cifar10 without it."""
    size: Count = 32
    """Side of the square pictures in pixels; a multiple of 8 where a run is trained on them."""
    resize: bool = False
    """Resize and centre-crop pictures of another size instead of refusing them."""
    batch_size: Count = 128
    """Pictures a step over all processes together."""
    flip: bool = True
    """Random horizontal flips in training."""
    num_train: MaybeCount = None
    """Use only the first so many training pictures that are whole."""
    num_test: MaybeCount = None
    """Use only the first so many test pictures that are whole."""
    image_column: str | None = None
    """Column of the pictures (source dataset); found by itself where there is one."""
    label_column: str | None = None
    """Column of the labels (source dataset); found by itself where there is one."""
    caption_column: str | None = None
    """Column of the captions (source dataset, and metadata.jsonl or .csv of a folder); by default
    text, caption or prompt."""
    memory_gb: Positive = 4.0
    """Keep the decoded pictures in memory up to this size, else decode again for each batch."""
    labels: bool = True
    """Read the labels (source dataset); without them all pictures are of one class."""
    strict: bool = False
    """Refuse broken pictures instead of leaving them out."""


@dataclass(frozen=True)
class NetworkConfig:
    """Kind and shapes of the networks."""

    autoencoder: AutoencoderKind = "paper"
    """The paper's, or diffusers' AutoencoderKL (kl)."""
    denoiser: DenoiserKind = "paper"
    """The paper's UNet, or diffusers' unconditional UNet (unet_2d) or DiT (dit)."""
    latent_channels: Count = 4
    autoencoder_channels: Octuple = 64
    """Width of the autoencoder's outermost level, a multiple of 8."""
    denoiser_channels: Octuple = 64
    """Width of the denoiser at full latent resolution, a multiple of 8; of 64 for dit."""
    time_channels: Annotated[
        int, Limit("an even number above 2", lambda v: v > 2 and v % 2 == 0)
    ] = 128
    """Width of the denoiser's time embedding, even (denoiser paper)."""
    denoiser_layers: Count = 2
    """Residual blocks a level (denoiser unet_2d), or transformer blocks (dit)."""
    patch_size: Count = 1
    """Latent pixels of a token's side (denoiser dit)."""
    num_classes: Amount = 0
    """Classes of pictures that the denoiser is told; 0 tells it none (unet_2d), dit needs some."""
    normalize_latents: bool = False
    """Bring each latent channel to mean 0 and variance 1 with running statistics."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape and further losses of an autoencoder of kind kl."""

    widths: Annotated[tuple[int, int, int] | None, OCTUPLES] = None
    """Width of each level, outermost first, multiples of 8; None takes w, 2w and 2w of
    `network.autoencoder_channels`."""
    attention: bool = True
    """Self-attention at latent resolution."""
    absolute_weight: Weight = 0.0
    """Weight of the mean absolute error, beside the squared one."""
    feature_weight: Weight = 0.0
    """Weight of the error in the features of a CIFAR-10 ResNet-32 (32×32 pictures; weights below
    $PELAP_DATA)."""


@dataclass(frozen=True)
class GateConfig:
    """The rule from scores to mask."""

    kind: GateKind = "sigmoid"
    """open (mask 1, the baseline), sigmoid (the paper), hard_concrete, top_k or nested."""
    adaptive: bool = True
    """Each input has its own mask; otherwise one set of channels serves all data."""
    budget: MaybeCount = None
    """Channels to keep; None leaves their number to the objective."""
    warmup: Part = 0.05
    """Fraction of the training before the budget begins to fall from all channels."""
    harden_at: Part = 0.3
    """Fraction of the training after which exactly `budget` channels are open for good."""
    multiplier_rate: Weight = 0.05
    """Step of the budget's Lagrange multiplier."""
    learning_rate_factor: Positive = 1.0
    """The importance predictor's learning rate as a multiple of the networks'."""
    full_fraction: Share = 0.0
    """Part of a training batch that kind nested leaves whole."""
    hidden_channels: Count = 32
    """Hidden width of the importance predictor."""
    initial_score: float = 3.0
    """Score at the start; sigmoid(3) = 0.953."""
    active_threshold: Between = 0.5
    """A channel counts as active when its mask is above this."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms of the loss; 0 switches a term off."""

    reconstruction_weight: Weight = 1.0
    kl_weight: Weight = 0.001
    diffusion_weight: Weight = 1.0
    sparsity_weight: Weight = 0.01
    """λ in the paper; without effect for gate kind open."""
    decoder_sees_mask: bool = False
    """Decode the masked latents, as whoever samples will; the paper decodes them unmasked."""
    encoder_diffusion_weight: Weight = 1.0
    """Share of the diffusion loss's gradient that reaches encoder and gate; 0 stops it."""
    open_channels_only: bool = False
    """Noise, and average KL and noise loss over, open channels only."""
    condition_dropout: Share = 0.1
    """Share of training pictures whose class the denoiser is not told, for guidance later."""


@dataclass(frozen=True)
class NoiseConfig:
    """The forward process, as diffusers' schedulers name it."""

    process: Process = "ddpm"
    """ddpm, or flow: straight paths from latents to noise (denoiser dit), whose timesteps training
    draws as the logistic function of a normal; the fields below then have no effect."""
    num_timesteps: Count = 1000
    beta_start: Between = 1e-4
    beta_end: Between = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    prediction: Prediction = "epsilon"
    """What the denoiser predicts: the noise, or v = √ᾱ·noise − √(1−ᾱ)·latents."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, and how its learning rate goes."""

    learning_rate: Positive = 2e-4
    final_learning_rate: Weight = 1e-5
    schedule: Literal["epoch", "step", "trapezoid"] = "epoch"
    """epoch and step: a cosine that falls once an epoch (the paper) or at each step. trapezoid:
    constant until the last `cooldown_epochs`, so that a run can be extended or cooled down."""
    cooldown_epochs: Weight = 0.0
    """Epochs of linear fall to the final rate at the end of a stage (schedule trapezoid)."""
    warmup_steps: Amount = 0
    """Steps of linear rise at the start of a stage."""
    weight_decay: Weight = 1e-4
    max_gradient_norm: Weight = 1.0
    """Clip the gradient's norm at this; 0 switches clipping off."""
    ema_decay: Part = 0.0
    """Decay of the moving average of the weights, used for validation and saving; 0 is off."""


@dataclass(frozen=True)
class LoopConfig:
    """How long, how precise, how often."""

    epochs: Count = 100
    """Passes over the pictures; with `denoiser_epochs`, those that train the autoencoder."""
    begin_with: str | None = None
    """Run or model folder whose weights the networks that are trained begin with."""
    denoiser_epochs: Annotated[int | None, NOT_NEGATIVE] = None
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
    max_steps: MaybeCount = None
    """Stop after this many steps, whatever epochs says."""
    seed: Amount = 42
    precision: Precision = "auto"
    """auto takes bf16 where the processor or GPU is made for it."""
    channels_last: bool = True
    compile: bool = False
    """torch.compile the networks; pays on a GPU, needs a C++ compiler on a CPU."""
    log_every: Count = 50
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: MaybeCount = None
    """Steps between checkpoints, beside the one at the end of each epoch."""
    validate_every: Count = 1
    """Epochs between validations, after which the model is saved if it is the best so far."""
    samples_every: MaybeCount = None
    """Epochs of the denoiser's between grids of samples, a class a row, with their accuracy."""
    keep_checkpoints: Count = 2
    """Keep the last so many checkpoints."""
    tracker: str | None = None
    """Any accelerate tracker by name, e.g. tensorboard or wandb, beside metrics.jsonl."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What `pelap evaluate` measures on the test split."""

    batch_size: Count = 250
    num_samples: Count = 64
    sampler: SamplerName = "ddim"
    num_steps: Count = 50
    guidance: Annotated[float, AT_LEAST_1] = 1.0
    """Classifier-free guidance of samples that have a class; 1 is none."""
    precision: Precision = "fp32"
    """Of the networks while they draw samples; losses are measured in fp32."""
    seed: Amount = 0
    """Seed of the fixed noise and timesteps."""
    extractor: str = "resnet20"
    """Features of Fréchet distance and its like: resnet20, inception, package.module:factory."""
    num_bootstraps: Count = 20
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


def to_dict(config: RunConfig) -> JsonObject:
    """The config as nested plain values."""
    return dataclasses.asdict(config)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the config as JSON that run_checks.py reads back."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n")
