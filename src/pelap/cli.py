"""Thin verbs, each calling one public function. torch is imported by the verb that needs it.

Settings of a run are dotted (`--objective.sparsity-weight 0.01`) and parsed by tyro from the config
dataclasses; everything else is argparse. With --json one JSON object goes to stdout; all else goes
to stderr.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pelap.commands import model_verbs
from pelap.commands.arguments import PRESET_NAMES, build_parser
from pelap.config.overrides import apply_overrides, refuse_others
from pelap.config.presets import PRESETS, get_preset
from pelap.config.run_config import RunConfig, load_config
from pelap.core.errors import ConfigError, PelapError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when done, 2 for a user's mistake, 130 when interrupted."""
    arguments, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    try:
        options = build_parser().parse_args(arguments)
        if overrides and not options.takes_overrides:
            raise ConfigError(f"`pelap {options.verb}` takes no setting {overrides[0]}.")
        options.overrides = overrides
        return VERBS[options.verb](options) or 0
    except PelapError as error:
        print(f"pelap: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("pelap: interrupted; the same command or `pelap resume` continues.", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:  # `pelap … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"pelap: {error.filename}: {error.strerror}.", file=sys.stderr)  # noqa: T201
        return 2


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part `--group.field value…` from the rest, each list in its order."""
    own: list[str] = []
    overrides: list[str] = []
    target = own
    for token in argv:
        if token.startswith("-") and not _is_number(token):
            target = overrides if "." in token.split("=")[0] else own
        target.append(token)
    return own, overrides


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _config(options: argparse.Namespace) -> RunConfig:
    if (options.preset is None) == (options.config is None):
        raise ConfigError(f"Give one of PRESET ({PRESET_NAMES}) and --config FILE.")
    config = load_config(options.config) if options.config else get_preset(options.preset)
    return apply_overrides(config, options.overrides)


def _print(text: str) -> None:
    print(text)  # noqa: T201


def _train(options: argparse.Namespace) -> None:
    config = _config(options)
    from pelap.training.trainer import train

    train(config, options.output)


def _resume(options: argparse.Namespace) -> None:
    from pelap.config.run_folder import open_run

    folder = open_run(options.run_folder)
    config = apply_overrides(folder.config(), options.overrides)
    from pelap.training.trainer import resume

    resume(folder.path, config, output=options.output)


def _evaluate(options: argparse.Namespace) -> None:
    from pelap.config.run_folder import open_run

    folder = open_run(options.run_folder)
    config = apply_overrides(folder.config(), options.overrides)
    refuse_others(config, folder.config(), ("data", "evaluation", "gate.budget"))
    from pelap.core.records import to_json_dict
    from pelap.measure.run_evaluation import evaluate_run

    result = to_json_dict(evaluate_run(folder, config, options.metrics))
    if options.json:
        _print(json.dumps(result))
        return
    shown = ("diffusion_loss", "zero_latent_diffusion_loss", "reconstruction_mse_sum",
             "masked_reconstruction_mse_sum", "active_channels")  # fmt: skip
    for name in shown:
        _print(f"{name:32} {result[name]:.4f}")
    _print(f"{'mask_mean':32} {' '.join(f'{value:.4f}' for value in result['mask_mean'])}")
    for name, value in result.get("quality", {}).items():
        _print(f"{name:32} {_with_interval(value)}")
    for name, value in _channel_sets(result.get("channel_sets")).items():
        _print(f"{name:32} {value}")
    _print(f"{'verdict':32} {result['collapse']['verdict']}")
    for reason in result["collapse"]["reasons"]:
        _print(f"{'':32} {reason}")


def _with_interval(quality: dict[str, Any]) -> str:
    text = f"{quality['value']:.4f}"
    if quality["low"] is not None:
        text += f" ({quality['low']:.4f} to {quality['high']:.4f})"
    return f"{text}, {quality['num_pictures']:,} pictures"


def _channel_sets(found: dict[str, Any] | None) -> dict[str, str]:
    if found is None:
        return {}
    static = found["static"]
    channels = " ".join(map(str, static["channels"]))
    return {
        "channel_sets": f"{found['num_sets']} distinct",
        "best_static_set": f"{channels} (costs {static['cost_db']:.2f} dB)",
    }


def _diagnose(options: argparse.Namespace) -> None:
    from pelap.commands.diagnose import describe_diagnosis, diagnose_model, load_diagnosable

    model = load_diagnosable(options.model, unconditional=options.unconditional)
    config = apply_overrides(model.config, options.overrides)
    if not model.is_run_config and "--data.source" not in " ".join(options.overrides):
        raise ConfigError(f"{options.model} names no pictures: give --data.source.")
    if options.unconditional and getattr(model.system.denoiser, "condition", None) is None:
        print(  # noqa: T201
            f"note: --unconditional has no effect: {model.name} wants no condition.",
            file=sys.stderr,
        )
    result = diagnose_model(model, config, num_pictures=options.num_pictures, output=options.output)
    _print(json.dumps(result) if options.json else describe_diagnosis(result))


def _sample(options: argparse.Namespace) -> None:
    from pelap.config.run_folder import open_run

    folder = open_run(options.run_folder)
    from pelap.measure.run_sampling import sample_run

    sample_run(
        folder,
        options.output,
        sampler=options.sampler,
        num_steps=options.steps,
        num_samples=options.num,
        classes=options.classes,
        guidance=options.guidance,
        seed=options.seed,
        channel_sets=options.channel_sets,
        precision=options.precision,
        compiled=options.compile,
    )
    _print(str(options.output))


def _report(options: argparse.Namespace) -> None:
    if any((path / "model_index.json").is_file() for path in options.paths):
        model_verbs.report(options)
        return
    model_verbs.refuse_report_options(options)
    from pelap.config.run_folder import open_run
    from pelap.report.run_page import write_report

    folders = [open_run(path) for path in options.paths]
    _print(str(write_report(folders, options.output or folders[0].path)))


def _reproduce(options: argparse.Namespace) -> None:
    config = _config(options)
    from pelap.commands.reproduce import reproduce

    _print(str(reproduce(config, options.output, options.lambdas)))


def _sweep(options: argparse.Namespace) -> int:
    config = _config(options)
    from pelap.commands.sweep import parse_axis, sweep
    from pelap.commands.sweep_table import table

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trials are to end with it
    grid = [parse_axis(text) for text in options.grid]
    result = sweep(
        config, grid, options.seeds, options.output, jobs=options.jobs, metrics=options.metrics
    )
    _print(json.dumps(result.as_dict()) if options.json else table(result))
    return 1 if result.failed else 0


def _describe(options: argparse.Namespace) -> None:
    from pelap.config.run_folder import open_run

    if options.subject in PRESETS or not Path(options.subject).exists():
        config = get_preset(options.subject)
    else:
        config = open_run(options.subject).config()
    config = apply_overrides(config, options.overrides)
    from pelap.measure.run_cost import describe
    from pelap.method.system import build_system

    description = describe(build_system(config), config)
    if options.json:
        _print(json.dumps(description))
        return
    for name, count in description["num_parameters"].items():
        _print(f"{name + ' parameters':24} {count:>14,}")
    for name, shape in description["shapes"].items():
        _print(f"{name + ' shape':24} {' × '.join(map(str, shape)):>14}")
    for name, count in description["macs"].items():
        _print(f"{name + ' MACs':24} {count:>14,}")


def _settings(options: argparse.Namespace) -> None:
    config = get_preset(options.preset)
    import tyro

    with contextlib.suppress(SystemExit):
        tyro.cli(RunConfig, default=config, args=["--help"], prog="pelap train PRESET")


def _bench(options: argparse.Namespace) -> None:
    if options.subject == "sample":
        model_verbs.bench_sample(options)
        return
    if options.rounds < 1:
        raise ConfigError(f"--rounds is {options.rounds}: it must be at least 1.")
    config = apply_overrides(get_preset(options.preset), options.overrides)
    from pelap.commands.bench_train import bench_train

    result: dict[str, Any] = bench_train(config, options.rounds)
    if options.json:
        _print(json.dumps(result))
        return
    for name, value in result.items():
        _print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "diagnose": _diagnose,
    "sample": _sample,
    "report": _report,
    "reproduce": _reproduce,
    "sweep": _sweep,
    "analyze": model_verbs.analyze,
    "prune": model_verbs.prune,
    "recover": model_verbs.recover,
    "export": model_verbs.export,
    "describe": _describe,
    "settings": _settings,
    "bench": _bench,
}
