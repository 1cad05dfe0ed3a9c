"""Thin verbs, each calling one public function. torch is imported by the verb that needs it.

Settings of a run are dotted (`--objective.sparsity-weight 0.01`) and parsed by tyro from the config
dataclasses; everything else is argparse. With --json one JSON object goes to stdout; all else goes
to stderr.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pelap import __version__
from pelap.config import RunConfig, load_config
from pelap.errors import ConfigError, PelapError
from pelap.overrides import apply_overrides
from pelap.presets import PRESETS, get_preset

PRESET_NAMES = ", ".join(PRESETS)
OVERRIDES = (
    "Any setting of the run follows as --group.field VALUE, e.g. --run.max-steps 300; "
    "`pelap settings PRESET` lists them all."
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, through the errors everybody else uses."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when done, 2 for a user's mistake, 130 when interrupted."""
    arguments, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    try:
        options = _build_parser().parse_args(arguments)
        if overrides and not options.takes_overrides:
            raise ConfigError(f"`pelap {options.verb}` takes no setting {overrides[0]}.")
        options.overrides = overrides
        return options.run(options) or 0
    except PelapError as error:
        print(f"pelap: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("pelap: interrupted; the same command or `pelap resume` continues.", file=sys.stderr)  # noqa: T201
        return 130


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


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pelap",
        description="Find the latent channels that a latent diffusion model does not need.",
    )
    parser.add_argument("--version", action="version", version=f"pelap {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def add(
        name: str,
        run: Callable[[argparse.Namespace], int | None],
        text: str,
        *,
        overrides: bool = False,
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name, help=text, description=text, epilog=OVERRIDES if overrides else None
        )
        verb.set_defaults(run=run, takes_overrides=overrides)
        return verb

    verb = add("train", _train, "Train a preset into a new run folder.", overrides=True)
    _add_preset(verb)
    verb.add_argument("--output", type=Path, required=True, help="the new run folder")

    verb = add("resume", _resume, "Continue an interrupted run.")
    verb.add_argument("run_folder", type=Path, metavar="RUN")

    verb = add("evaluate", _evaluate, "Measure a run on its test split.", overrides=True)
    verb.add_argument("run_folder", type=Path, metavar="RUN")
    verb.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="METRIC",
        help="quality to add: psnr ssim rfd fd fd_to_reconstructions kid precision recall fid",
    )
    _add_json(verb)

    verb = add(
        "diagnose",
        _diagnose,
        "Find at which noise levels a denoiser works, and whether the model is healthy.",
        overrides=True,
    )
    verb.add_argument("model", type=Path, metavar="RUN|MODEL", help="a run, or a diffusers folder")
    verb.add_argument("--num-pictures", type=int, default=1000, help="test pictures (1000)")
    verb.add_argument("--output", type=Path, help="folder for the files (default: the run's)")
    _add_json(verb)

    verb = add("sample", _sample, "Draw pictures from noise.")
    verb.add_argument("run_folder", type=Path, metavar="RUN")
    verb.add_argument("--output", type=Path, required=True, help="a .png file, or a new folder")
    verb.add_argument("--sampler", default="ddim", help="ddpm, ddim (default) or dpm-solver++")
    verb.add_argument("--steps", type=int, default=50, help="denoising steps (50)")
    verb.add_argument("--num", type=int, default=64, help="pictures (64)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--channel-sets",
        choices=["static", "drawn"],
        default="static",
        help="for an adaptive gate: its best static set, or sets drawn as often as they occur",
    )

    verb = add("report", _report, "Write one page about one or several evaluated runs.")
    verb.add_argument("run_folders", type=Path, metavar="RUN", nargs="+")
    verb.add_argument("--output", type=Path, help="folder for the page (default: the first run's)")

    verb = add(
        "reproduce",
        _reproduce,
        "Train baseline and PeLAP-A, evaluate and report; call again to go on.",
        overrides=True,
    )
    _add_preset(verb)
    verb.add_argument("--output", type=Path, required=True, help="folder of the runs and the page")
    verb.add_argument("--lambdas", type=float, nargs="*", default=[], help="further λ to train")

    verb = add(
        "sweep",
        _sweep,
        "Train a grid of settings with several seeds; call again to go on. Exit code 1 if a trial "
        "failed.",
        overrides=True,
    )
    _add_preset(verb)
    verb.add_argument("--output", type=Path, required=True, help="folder of trials and results")
    verb.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="GROUP.FIELD=A,B",
        help="a setting and its values; several make all combinations",
    )
    verb.add_argument("--seeds", type=int, default=1, help="trainings of each combination (1)")
    verb.add_argument("--jobs", type=int, default=1, help="trials at a time (1)")
    verb.add_argument("--metrics", nargs="+", default=[], help="quality metrics, as for evaluate")
    _add_json(verb)

    verb = add("describe", _describe, "Parameters, shapes and MACs.", overrides=True)
    verb.add_argument("subject", metavar="PRESET|RUN", help=f"{PRESET_NAMES}, or a run folder")
    _add_json(verb)

    verb = add("settings", _settings, "List every setting of a preset with its value.")
    verb.add_argument("preset", metavar="PRESET", help=PRESET_NAMES)

    bench = add("bench", _bench_train, "Measure speed on this machine.", overrides=True)
    bench.add_argument("subject", choices=["train"], help="what to time")
    bench.add_argument("preset", metavar="PRESET", help=PRESET_NAMES)
    bench.add_argument("--rounds", type=int, default=5, help="alternations (5)")
    _add_json(bench)
    return parser


def _add_preset(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("preset", metavar="PRESET", nargs="?", help=PRESET_NAMES)
    verb.add_argument("--config", type=Path, help="a run's config.json, in place of PRESET")


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _config(options: argparse.Namespace) -> RunConfig:
    if (options.preset is None) == (options.config is None):
        raise ConfigError(f"Give one of PRESET ({PRESET_NAMES}) and --config FILE.")
    config = load_config(options.config) if options.config else get_preset(options.preset)
    return apply_overrides(config, options.overrides)


def _print(text: str) -> None:
    print(text)  # noqa: T201


def _train(options: argparse.Namespace) -> None:
    config = _config(options)
    from pelap.training import train

    train(config, options.output)


def _resume(options: argparse.Namespace) -> None:
    from pelap.run_folder import open_run

    folder = open_run(options.run_folder)
    from pelap.training import resume

    resume(folder.path)


def _evaluate(options: argparse.Namespace) -> None:
    from pelap.run_folder import open_run

    folder = open_run(options.run_folder)
    config = apply_overrides(folder.config(), options.overrides)
    from pelap.evaluation import evaluate_run

    result = evaluate_run(folder, config, options.metrics)
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
    from pelap.diagnose import describe_diagnosis, diagnose_model, load_diagnosable

    model = load_diagnosable(options.model)
    config = apply_overrides(model.config, options.overrides)
    if not model.is_run_config and "--data.source" not in " ".join(options.overrides):
        raise ConfigError(f"{options.model} names no pictures: give --data.source.")
    result = diagnose_model(model, config, num_pictures=options.num_pictures, output=options.output)
    _print(json.dumps(result) if options.json else describe_diagnosis(result))


def _sample(options: argparse.Namespace) -> None:
    from pelap.run_folder import open_run

    folder = open_run(options.run_folder)
    from pelap.evaluation import sample_run

    sample_run(
        folder,
        options.output,
        sampler=options.sampler,
        num_steps=options.steps,
        num_samples=options.num,
        seed=options.seed,
        channel_sets=options.channel_sets,
    )
    _print(str(options.output))


def _report(options: argparse.Namespace) -> None:
    from pelap.report import write_report
    from pelap.run_folder import open_run

    folders = [open_run(path) for path in options.run_folders]
    _print(str(write_report(folders, options.output or folders[0].path)))


def _reproduce(options: argparse.Namespace) -> None:
    config = _config(options)
    from pelap.reproduce import reproduce

    _print(str(reproduce(config, options.output, options.lambdas)))


def _sweep(options: argparse.Namespace) -> int:
    config = _config(options)
    from pelap.sweep import parse_axis, sweep, table

    grid = [parse_axis(text) for text in options.grid]
    result = sweep(
        config, grid, options.seeds, options.output, jobs=options.jobs, metrics=options.metrics
    )
    _print(json.dumps(result.as_dict()) if options.json else table(result))
    return 1 if result.failed else 0


def _describe(options: argparse.Namespace) -> None:
    from pelap.run_folder import open_run

    if options.subject in PRESETS or not Path(options.subject).exists():
        config = get_preset(options.subject)
    else:
        config = open_run(options.subject).config()
    config = apply_overrides(config, options.overrides)
    from pelap.evaluation import describe
    from pelap.system import build_system

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


def _bench_train(options: argparse.Namespace) -> None:
    if options.rounds < 1:
        raise ConfigError(f"--rounds is {options.rounds}: it must be at least 1.")
    config = apply_overrides(get_preset(options.preset), options.overrides)
    from pelap.bench import bench_train

    result: dict[str, Any] = bench_train(config, options.rounds)
    if options.json:
        _print(json.dumps(result))
        return
    for name, value in result.items():
        _print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
