"""Which settings recover a narrowed denoiser fastest: rate, and weights of the teacher's losses.

    python benchmarks/recovery.py --runs runs/headline --output results/recovery

Takes a model and its narrowed copy from headline.py. What is done is not done again.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evidence import for_each, markdown, put_table, write_experiment
from headline import BATCH_SIZE, Unit, base_folder
from pelap.core.files import write_whole

NARROWED = Unit("width", 42)
STEPS, NUM_MEASURED = 600, 500


@dataclass(frozen=True)
class Settings:
    """One recovery."""

    learning_rate: float
    teacher_weight: float | None
    """None: without a teacher."""
    feature_weight: float

    @property
    def name(self) -> str:
        return f"{self.learning_rate:g}-{self.teacher_weight}-{self.feature_weight:g}"


TRIED = (
    Settings(1e-3, None, 0.0),
    Settings(1e-3, 1.0, 0.0),
    Settings(1e-3, 1.0, 0.1),
    Settings(1e-3, 10.0, 1.0),
    Settings(2e-3, 10.0, 1.0),
    Settings(4e-3, 10.0, 1.0),
    Settings(8e-3, 10.0, 1.0),
    Settings(4e-3, 10.0, 0.0),
    Settings(4e-3, 1.0, 0.1),
    Settings(4e-3, None, 0.0),
)


def measure(settings: Settings, runs: Path) -> None:
    """Recover once, and write how far the prediction is from the unpruned one."""
    import torch

    import pelap
    from pelap.measure.encoded_batches import Batches
    from pelap.models.model_pictures import load_splits
    from pelap.models.opening import open_model
    from width import noisy_latents

    path = runs / "recovery" / f"{settings.name}.json"
    if path.exists():
        return
    teacher = open_model(base_folder(NARROWED.seed, runs))
    config = teacher.config
    assert config is not None
    output = runs / "recovery" / settings.name
    if not output.exists():
        has_teacher = settings.teacher_weight is not None
        pelap.recover(
            runs / "pruned" / NARROWED.name,
            config,
            teacher=teacher if has_teacher else None,
            output=output,
            steps=STEPS,
            parts="denoiser",
            learning_rate=settings.learning_rate,
            batch_size=BATCH_SIZE,
            teacher_weight=settings.teacher_weight or 0.0,
            feature_weight=settings.feature_weight,
            seed=NARROWED.seed,
            num_pictures=NUM_MEASURED,
        )
    student = open_model(output)
    batches = Batches(load_splits(teacher, config).test, torch.arange(NUM_MEASURED), 50, 0)
    noisy, steps = noisy_latents(teacher.measured_system(), batches)
    with torch.no_grad():
        wanted, given = (
            model.denoiser(noisy, steps).sample  # type: ignore[misc]
            for model in (teacher, student)
        )
    found: dict[str, Any] = {
        **asdict(settings),
        "apart": float((given - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()),
        "noise_loss": student.history[-1]["noise_loss"],
    }
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def table(found: list[dict[str, Any]]) -> str:
    """A row a setting."""
    rows = [
        [
            f"{one['learning_rate']:g}",
            "no teacher" if one["teacher_weight"] is None else f"{one['teacher_weight']:g}",
            f"{one['feature_weight']:g}", f"{one['apart']:.3f}", f"{one['noise_loss']:.4f}",
        ]
        for one in found
    ]  # fmt: skip
    header = ["`--learning-rate`", "`--teacher-weight`", "`--feature-weight`",
              "prediction apart from the unpruned", "noise loss"]  # fmt: skip
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="of headline.py")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="at a time, a thread each (2)")
    options = parser.parse_args()
    for_each(partial(measure, runs=options.runs), TRIED, options.jobs)
    files = [options.runs / "recovery" / f"{settings.name}.json" for settings in TRIED]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    result = {"steps": STEPS, "num_measured": NUM_MEASURED, "tried": found}
    write_experiment(options.output / "recovery.json", __doc__, result)
    for readme in (options.output / "README.md", Path("docs/recover.md")):
        put_table(readme, "recovery", table(found))


if __name__ == "__main__":
    main()
