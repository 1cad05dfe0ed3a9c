"""Training a student: what to train with, what the loop minimises, and going on after a stop."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from pelap.config.run_folder import RunFolder
from pelap.core.digests import digest
from pelap.core.errors import ConfigError, RunError
from pelap.core.files import read_object, remove_folder, write_whole
from pelap.core.json_values import JsonObject
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures, to_batch
from pelap.families.conditioned import Told, bare
from pelap.method.system import LatentDiffusion, sample_moments
from pelap.models.conditions import Conditions
from pelap.training.checkpoint import TrainingState
from pelap.training.latent_cache import CachedLatents
from pelap.training.loop import DivergenceError, Loop, Objective, restore
from pelap.training.preparation import check_batch
from pelap.training.recovery.adapters import merge_adapters
from pelap.training.recovery.low_memory import build_adamw, takes_bf16
from pelap.training.recovery.recovery_losses import (
    RecoveryBatch,
    RecoveryLosses,
    TrainedNetworks,
    recovery_losses,
)
from pelap.training.recovery.recovery_settings import RecoverySettings
from pelap.training.recovery.student import Student, Teacher
from pelap.training.recovery.validation_grid import ValidationGrid
from pelap.training.tracking import Tracker
from pelap.training.training_batches import draw_pictures, share_of

EMA_DECAY = 0.999
MAX_GRADIENT_NORM = 1.0
LOG_EVERY = 10
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class StudentTraining:
    """A student with all that its recovery needs."""

    student: Student
    """On the accelerator's device."""
    teacher: Teacher | None
    pictures: Pictures
    """To train on."""
    flip: bool
    """Whether pictures are mirrored at random."""
    settings: RecoverySettings
    accelerator: Accelerator
    conditions: Conditions | None = None
    """What the denoisers are told of the pictures; None for nothing."""
    grid: ValidationGrid | None = None
    """Pictures drawn now and then; None for none."""
    cached: CachedLatents | None = None
    """Of the pictures, as the encoder gives them; None where they are encoded in each step."""

    @property
    def encoder(self) -> LatentDiffusion:
        """What encodes the pictures: the teacher's, whose latents the student's follow from."""
        return self.student.system if self.teacher is None else self.teacher.system


def begin(training: StudentTraining, folder: RunFolder, described: JsonObject) -> None:
    """Make the folder, or see that what it holds was begun with the same weights and settings.

    Args:
        training: What is to be trained.
        folder: For checkpoints and metrics.jsonl.
        described: What else must be the same to go on, as JSON.

    Raises:
        ConfigError: If it is of another recovery, or the batch does not fit.
    """
    settings, accelerator = training.settings, training.accelerator
    check_batch("--batch-size", settings.batch_size, len(training.pictures), accelerator)
    teacher = training.teacher.system if training.teacher else None
    wanted = {
        **asdict(settings),
        **described,
        "weights": digest(training.student.system, teacher),
    }
    path = folder.path / SETTINGS_FILE
    if path.exists():
        begun = read_object(path, RunError)
        other = [name for name in wanted if begun.get(name) != wanted[name]]
        if other:
            raise ConfigError(
                f"{folder.path} holds an unfinished recovery with another {', '.join(other)}: "
                "repeat that command, or remove the folder."
            )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
    accelerator.wait_for_everyone()


def train_student(training: StudentTraining, folder: RunFolder) -> None:
    """Train the student in place; at the end its weights are their moving average.

    On a CPU an interrupted recovery ends bit for bit as an uninterrupted one.

    Args:
        training: What is to be trained.
        folder: From `begin`; goes on from its last checkpoint, if any.

    Raises:
        RunError: If a checkpoint is broken, or the loss stops being finite: nothing is left then.
    """
    settings, accelerator = training.settings, training.accelerator
    weights = training.student.weights
    optimizer = build_adamw(settings, training.student)
    # without use_ema_warmup its decay is min(decay, (1 + step) / (10 + step))
    ema = EMAModel(weights, decay=EMA_DECAY)
    taps = training.teacher.taps if training.teacher else ()
    networks = TrainedNetworks(training.student.system, [tap.student for tap in taps])
    model, wrapped = accelerator.prepare(networks, optimizer)
    # frozen weights come from the model itself, so that checkpoints need not hold them
    state = TrainingState(nn.ParameterList(weights), wrapped, ema)
    steps = range(restore(folder, state, accelerator), settings.steps)
    if settings.tracker is not None:
        accelerator.init_trackers("pelap", {k: str(v) for k, v in asdict(settings).items()})
    if training.grid is not None and steps.start == 0:
        training.grid.draw(0)
    try:
        with Tracker(folder, accelerator, "Recovering", settings.batch_size, steps) as tracker:
            loop = Loop(accelerator, folder, state, tracker, keep_checkpoints=1)
            loop.run(RecoveryObjective(training, model), steps)
    except DivergenceError:
        if accelerator.is_main_process:
            remove_folder(folder.path)
        raise
    if settings.train == "lora":
        merge_adapters(bare(training.student.system.denoiser))


def kept_files(folder: RunFolder) -> dict[str, bytes]:
    """What the finished model keeps of the folder, by path: metrics, grids, a tracker's files."""
    others = (folder.checkpoints.name, folder.latents.name, SETTINGS_FILE)
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    named = [(path.relative_to(folder.path), path) for path in files]
    return {str(name): path.read_bytes() for name, path in named if name.parts[0] not in others}


class RecoveryObjective(Objective):
    """What the pictures say, and what the teacher answers.

    Args:
        training: Student, teacher, pictures and settings.
        model: The student's `TrainedNetworks`, wrapped for several processes.
    """

    stage = "recovery"
    max_gradient_norm = MAX_GRADIENT_NORM

    def __init__(self, training: StudentTraining, model: nn.Module):
        self.training, self.model = training, model
        self.settings = training.settings
        self.remedy = f"lower --learning-rate (now {self.settings.learning_rate:g})"
        size, parts = self.settings.batch_size, self.settings.accumulate
        self.tried = f"{size // parts} pictures at a time (--batch-size {size})"
        self.smaller = (
            f"raise --accumulate (now {parts}), add --gradient-checkpointing or --train lora, or "
            "lower --batch-size"
        )
        self.steps_per_epoch = len(training.pictures) // self.settings.batch_size
        student = training.student  # decoder and denoiser each on their own: they share nothing
        groups = (student.decoder_weights, student.denoiser_weights)
        self.clipped = [weights for weights in groups if weights]

    def learning_rate(self, step: int) -> float:
        return self.settings.rate(step)

    def backward(self, step: int, accelerator: Accelerator) -> RecoveryLosses:
        """Part by part, so that only one part's activations are kept at a time."""
        num_parts = self.settings.accumulate

        def take(part: int) -> RecoveryLosses:
            losses = self.forward(step, part)
            accelerator.backward(losses.total_loss / num_parts)
            return losses.from_vector(losses.to_vector())  # without what backward needed

        taken = [take(part) for part in range(num_parts)]
        return taken[0].from_vector(torch.stack([one.to_vector() for one in taken]).mean(dim=0))

    def forward(self, step: int, part: int = 0) -> RecoveryLosses:
        """The losses of one of the parts that this process takes its pictures in."""
        settings, training = self.settings, self.training
        size, seed, num = settings.batch_size, settings.seed, len(training.pictures)
        share = self._share(part)
        indices, flips = draw_pictures(step, num, size, seed, flip=training.flip, share=share)
        told = self._tell(indices, step, share)
        with self._autocast():
            images, moments = self._encode(indices, flips)
            batch = self._make_batch(images, moments, step, share, told)
        with self._autocast():  # anew: it would remember weights in bf16 without their gradients
            output = self.model(batch.latents, batch.noisy, batch.timesteps, batch.told)
        return recovery_losses(output, batch, settings.teacher_weight, settings.feature_weight)

    def end_step(self, loop: Loop, done: int) -> None:
        every, grid = self.settings.validation_every, self.training.grid
        if grid is not None and every and (done % every == 0 or done == self.settings.steps):
            with loop.state.averaged():
                grid.draw(done)

    def _share(self, part: int) -> slice:
        whole = share_of(self.training.accelerator, self.settings.batch_size)
        size = (whole.stop - whole.start) // self.settings.accumulate
        return slice(whole.start + part * size, whole.start + (part + 1) * size)

    def _autocast(self) -> torch.autocast:
        device = self.training.accelerator.device
        use_bf16 = takes_bf16(self.settings, device)
        return torch.autocast(device.type, torch.bfloat16, enabled=use_bf16)

    def _tell(self, indices: Tensor, step: int, share: slice) -> Told | None:
        conditions, settings = self.training.conditions, self.settings
        if conditions is None:
            return None
        source = generator(settings.seed, "drops", step)
        drops = torch.rand(settings.batch_size, generator=source) < settings.condition_dropout
        return conditions.tell(indices, drops[share])

    @torch.no_grad()
    def _encode(self, indices: Tensor, flips: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Images (B, 3, H, W), None where latents are cached, and their moments (B, 2C, …)."""
        training, device = self.training, self.training.accelerator.device
        if training.cached is not None:
            return None, training.cached.fetch(indices, flips).to(device)
        images = to_batch(training.pictures.fetch(indices), device, flips)
        return images, training.encoder.encode_moments(images)

    @torch.no_grad()
    def _make_batch(
        self, images: Tensor | None, whole: Tensor, step: int, share: slice, told: Told | None
    ) -> RecoveryBatch:
        """Draw latents, timesteps and noise for the whole batch, and take this process's part.

        With E the way from the teacher's channels to the student's (1 without a teacher) and x the
        teacher's latents: the student sees E·x_t, its target is E·ε or E·v, and the teacher's
        prediction at x_t is carried over as E·prediction. Rows of E are orthonormal, so E·ε is
        noise.
        """
        student, teacher = self.training.student, self.training.teacher
        device, system, size = whole.device, student.system, self.settings.batch_size
        carry: Callable[[Tensor], Tensor] = (
            teacher.to_student if teacher else lambda latents: latents
        )
        source = generator(self.settings.seed, "draws", step, device)
        shape = (size, whole.shape[1] // 2, *whole.shape[2:])
        latent_noise = torch.randn(shape, generator=source, device=device)[share]
        noise = torch.randn(shape, generator=source, device=device)[share]
        num_timesteps = len(system.scheduler.alphas_cumprod)
        timesteps = torch.randint(num_timesteps, (size,), generator=source, device=device)[share]
        latents = decoded = noisy = target = prediction = features = None
        if student.trains_decoder and images is not None:
            own = whole if teacher is None else system.encode_moments(images)  # (B, 2K, …)
            latents = sample_moments(own, carry(latent_noise)).latents
            if teacher is not None:
                decoded = teacher.system.decode(whole.chunk(2, dim=1)[0])
        if system.denoiser is not None:
            drawn = sample_moments(whole, latent_noise).latents  # (B, C, …)
            noisy, target = system.noised(drawn, noise, timesteps)  # (B, C, …) each
            if teacher is not None and teacher.system.denoiser is not None:
                prediction = carry(teacher.system.predict(noisy, timesteps, told))
            if teacher is not None and teacher.listener is not None:
                features = tuple(
                    given.float()
                    if tap.features is None
                    else given[:, tap.features.to(given.device)].float()
                    for given, tap in zip(teacher.listener.take(), teacher.taps, strict=True)
                )
            noisy, target = carry(noisy), carry(target)
        return RecoveryBatch(
            latents, images, decoded, noisy, timesteps, target, prediction, told, features
        )

    def is_logged(self, done: int) -> bool:
        return done == 1 or done % LOG_EVERY == 0 or self.is_saved(done)

    def is_saved(self, done: int) -> bool:
        return done % self.settings.checkpoint_every == 0 or done == self.settings.steps
