"""What a recovery gives: the model, and the record of what it brought."""

from dataclasses import asdict, dataclass
from datetime import date

from pelap import __version__
from pelap.commands.any_model import ModelResult
from pelap.core.json_values import JsonObject
from pelap.measure.denoiser_fidelity import DenoiserFidelity
from pelap.models.loaded import LoadedModel
from pelap.models.saving import ChangedModel
from pelap.training.recovery.recovered_quality import Quality
from pelap.training.recovery.recovery_card import NO_LONGER_TOLD, fidelity_rows, is_untold
from pelap.training.recovery.recovery_record import RecoveryFacts, RecoveryRecord
from pelap.training.recovery.recovery_settings import RecoverySettings


@dataclass(frozen=True)
class Recovered(ModelResult):
    """A trained model, and what the training brought."""

    record: RecoveryRecord
    """As in the history of the model."""
    source: LoadedModel
    """Before."""
    changed: ChangedModel
    """What takes the place of its networks."""

    def describe(self) -> str:
        """What was trained, and what that brought to decoder and denoiser."""
        record = self.record
        lines = [
            f"{'steps':24} {record['steps']:,} of {record['batch_size']} pictures",
            f"{'teacher':24} {record['teacher'] or 'none'}",
            f"{'PSNR':24} {record['psnr_db_before']:.2f} → {record['psnr_db']:.2f} dB, "
            f"{record['num_pictures']:,} pictures",
        ]
        noise_before, noise = record["noise_loss_before"], record["noise_loss"]
        if noise_before is not None and noise is not None:
            lines.append(f"{'noise loss':24} {noise_before:.4f} → {noise:.4f}")
        for name, before, after in fidelity_rows(record):
            lines.append(f"{name:24} {before} → {after}")
        if record["denoiser"] and DenoiserFidelity(**record["denoiser"]).needs_recovery:
            lines.append(f"{'needs recovery':24} still: more steps bring it nearer")
        if is_untold(record):
            lines.append(f"{'--unconditional':24} {NO_LONGER_TOLD}")
        return "\n".join(lines)

    def as_dict(self) -> JsonObject:
        """As in the history of the model."""
        return self.record

    def change(self) -> tuple[LoadedModel, ChangedModel]:
        """The model before, and what takes the place of its networks."""
        return self.source, self.changed


def make_record(
    settings: RecoverySettings,
    measured_before: tuple[Quality, DenoiserFidelity | None],
    measured: tuple[Quality, DenoiserFidelity | None],
    num_pictures: int,
    facts: RecoveryFacts,
    precision: str,
) -> RecoveryRecord:
    """What goes into the model's history.

    Args:
        settings: Of the recovery.
        measured_before: Of the pruned model.
        measured: Of the recovered one.
        num_pictures: That were measured.
        facts: Teacher, data and what the denoiser was told.
        precision: What the networks computed in.
    """
    (before, denoiser_before), (after, denoiser) = measured_before, measured
    assert settings.parts is not None
    return {
        "recovered": date.today().isoformat(),
        "pelap": __version__,
        "steps": settings.steps,
        "teacher": facts["teacher"],
        "parts": settings.parts,
        "unconditional": facts["unconditional"],
        "conditions": facts["conditions"],
        "feature_weight": settings.feature_weight,
        "learning_rate": settings.learning_rate,
        "decoder_learning_rate": settings.decoder_learning_rate,
        "train": settings.train,
        "precision": precision,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "psnr_db_before": before.psnr_db,
        "psnr_db": after.psnr_db,
        "noise_loss_before": before.noise_loss,
        "noise_loss": after.noise_loss,
        "denoiser_before": None if denoiser_before is None else asdict(denoiser_before),
        "denoiser": None if denoiser is None else asdict(denoiser),
        "num_pictures": num_pictures,
        "data": facts["data"],
    }
