"""What the command line takes: one parser a verb. No torch here."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pelap import __version__
from pelap.config.presets import PRESETS
from pelap.core.errors import ConfigError

PRESET_NAMES = ", ".join(PRESETS)
OVERRIDES = (
    "Any setting of the run follows as --group.field VALUE, e.g. --run.max-steps 300; "
    "`pelap settings PRESET` lists them all."
)

AddVerb = Callable[..., argparse.ArgumentParser]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, through the errors everybody else uses."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`.")


def build_parser() -> argparse.ArgumentParser:
    """A parser whose result has `verb`, `takes_overrides` and the verb's own options."""
    parser = _Parser(
        prog="pelap",
        description="Find the latent channels that a latent diffusion model does not need.",
    )
    parser.add_argument("--version", action="version", version=f"pelap {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def add(name: str, text: str, *, overrides: bool = False) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name, help=text, description=text, epilog=OVERRIDES if overrides else None
        )
        verb.set_defaults(takes_overrides=overrides)
        return verb

    _add_verbs_on_a_run(add)
    _add_verbs_on_several_runs(add)
    _add_verbs_on_a_model(add)
    _add_other_verbs(add)
    return parser


def _add_verbs_on_a_run(add: AddVerb) -> None:
    verb = add("train", "Train a preset into a new run folder.", overrides=True)
    _add_preset(verb)
    verb.add_argument("--output", type=Path, required=True, help="the new run folder")

    verb = add(
        "resume", "Continue an interrupted run, or a finished one for longer.", overrides=True
    )
    verb.add_argument("run_folder", type=Path, metavar="RUN")
    verb.add_argument("--output", type=Path, help="go on in a copy, and leave RUN as it is")

    verb = add("evaluate", "Measure a run on its test split.", overrides=True)
    verb.add_argument("run_folder", type=Path, metavar="RUN")
    verb.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="METRIC",
        help="quality to add: psnr ssim rfd fd fd_to_reconstructions kid precision recall fid "
        "class_accuracy reconstruction_accuracy",
    )
    _add_json(verb)

    verb = add(
        "diagnose",
        "Find at which noise levels a denoiser works, and whether the model is healthy.",
        overrides=True,
    )
    verb.add_argument("model", type=Path, metavar="RUN|MODEL", help="a run, or a diffusers folder")
    verb.add_argument("--num-pictures", type=int, default=1000, help="test pictures (1000)")
    verb.add_argument("--output", type=Path, help="folder for the files (default: the run's)")
    _add_unconditional(verb)
    _add_json(verb)

    verb = add("sample", "Draw pictures from noise.")
    verb.add_argument("run_folder", type=Path, metavar="RUN")
    verb.add_argument("--output", type=Path, required=True, help="a .png file, or a new folder")
    verb.add_argument("--sampler", default="ddim", help="ddpm, ddim (default) or dpm-solver++")
    verb.add_argument("--steps", type=int, default=50, help="denoising steps (50)")
    verb.add_argument("--num", type=int, help="pictures (64); with --classes, of each (8)")
    verb.add_argument(
        "--classes", metavar="C", help="all, or names or numbers (ship,truck); a row of a .png each"
    )
    verb.add_argument(
        "--guidance", type=float, default=1.0, help="towards the class, 1 (default) is none"
    )
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--precision", default="fp32", help="fp32 (default) or bf16")
    verb.add_argument("--compile", action="store_true", help="translate by torch.compile first")
    verb.add_argument(
        "--channel-sets",
        choices=["static", "drawn"],
        default="static",
        help="for an adaptive gate: its best static set, or sets drawn as often as they occur",
    )


def _add_verbs_on_several_runs(add: AddVerb) -> None:
    verb = add(
        "report",
        "Write one page about evaluated runs, or about models: quality against cost.",
        overrides=True,
    )
    verb.add_argument(
        "paths", type=Path, metavar="RUN|MODEL", nargs="+",
        help="evaluated runs, or models with an unpruned and a randomly pruned one among them",
    )  # fmt: skip
    verb.add_argument("--output", type=Path, help="folder for the page (default: the first run's)")
    _add_tradeoff(verb)

    verb = add(
        "reproduce",
        "Train baseline and PeLAP-A, evaluate and report; call again to go on.",
        overrides=True,
    )
    _add_preset(verb)
    verb.add_argument("--output", type=Path, required=True, help="folder of the runs and the page")
    verb.add_argument("--lambdas", type=float, nargs="*", default=[], help="further λ to train")

    verb = add(
        "sweep",
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


def _add_verbs_on_a_model(add: AddVerb) -> None:
    _add_analyze(add)
    _add_prune(add)
    _add_recover(add)
    _add_export(add)


def _add_analyze(add: AddVerb) -> None:
    verb = add(
        "analyze",
        "Find which latent channels a model uses, and which to keep.",
        overrides=True,
    )
    _add_model(verb)
    verb.add_argument("--output", type=Path, required=True, help="folder for JSON and page")
    _add_analysis(verb)
    verb.add_argument("--keep", type=int, help="recommend so many channels")
    verb.add_argument("--max-psnr-drop", type=float, help="recommend the fewest within so many dB")
    _add_json(verb)


def _add_prune(add: AddVerb) -> None:
    verb = add(
        "prune",
        "Remove latent channels and the denoiser's width; the result is an ordinary diffusers "
        "folder.",
        overrides=True,
    )  # fmt: skip
    _add_model(verb)
    verb.add_argument("--output", type=Path, help="the new model folder")
    verb.add_argument("--keep", help="a number of channels (8), or channels (0,2,3)")
    verb.add_argument("--max-psnr-drop", type=float, help="keep the fewest within so many dB")
    verb.add_argument("--criterion", help="who chooses (default: the best one measured)")
    verb.add_argument(
        "--fill", choices=["zero", "mean", "linear"],
        help="what stands in for removed channels (linear where it can be folded)",
    )  # fmt: skip
    verb.add_argument(
        "--rotate", choices=["none", "pca", "decoder"], default="none",
        help="change of basis first, so that what matters sits in the first channels",
    )  # fmt: skip
    verb.add_argument(
        "--denoiser-macs", type=float, help="narrow the denoiser to this share of its MACs (0.55)"
    )
    verb.add_argument(
        "--denoiser-latency", type=float, help="likewise of a step's time, measured here"
    )
    verb.add_argument(
        "--denoiser-widths", help="of each level (24,48), or heads and layers (12,20)"
    )
    verb.add_argument(
        "--denoiser-criterion",
        help="which units stay: random, magnitude, taylor or diff_pruning (taylor where it can be)",
    )
    verb.add_argument("--analysis", type=Path, help="of this model, in place of a new one")
    _add_analysis(verb)
    verb.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    verb.add_argument(
        "--overwrite", action="store_true", help="replace what pelap made at --output"
    )
    _add_json(verb)


def _add_recover(add: AddVerb) -> None:
    verb = add(
        "recover", "Train a pruned model for a few steps; call again to go on.", overrides=True
    )
    _add_model(verb)
    verb.add_argument("--output", type=Path, required=True, help="the new model folder")
    verb.add_argument("--steps", type=int, required=True, help="training steps")
    verb.add_argument("--teacher", metavar="ORIGINAL", help="what MODEL was pruned from")
    verb.add_argument(
        "--parts", choices=["pruned", "denoiser", "all"], default="all",
        help="train the layers that carry the latents, the denoiser, or decoder and denoiser (all)",
    )  # fmt: skip
    verb.add_argument("--learning-rate", type=float, default=1e-4, help="highest (0.0001)")
    verb.add_argument("--batch-size", type=int, default=32, help="pictures a step (32)")
    verb.add_argument("--teacher-weight", type=float, default=1.0, help="of its losses (1)")
    verb.add_argument(
        "--feature-weight", type=float, default=0.0,
        help="of the loss towards what leaves the teacher's blocks (0)",
    )  # fmt: skip
    verb.add_argument("--num-pictures", type=int, default=1000, help="pictures measured (1000)")
    verb.add_argument("--checkpoint-every", type=int, default=100, help="steps (100)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--overwrite", action="store_true", help="replace what pelap made at --output"
    )
    _add_json(verb)


def _add_export(add: AddVerb) -> None:
    verb = add("export", "Write a model's networks as ONNX files, checked against torch.")
    verb.add_argument("model", metavar="MODEL", help="a run, a diffusers folder or a hub id")
    verb.add_argument("--format", choices=["onnx"], default="onnx", help="of the files (onnx)")
    verb.add_argument("--output", type=Path, required=True, help="the new folder")
    verb.add_argument(
        "--int8", action="store_true", help="also denoiser and decoder with 8-bit weights"
    )
    verb.add_argument("--size", type=int, help="side of the latents (what the model was made for)")
    verb.add_argument(
        "--overwrite", action="store_true", help="replace what pelap made at --output"
    )
    _add_json(verb)


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "model", nargs="?", metavar="MODEL", help="a run, a diffusers folder or a hub id"
    )
    verb.add_argument(
        "--autoencoder", metavar="PACKAGE.MODULE:FACTORY", help="one's own, in place of MODEL"
    )
    _add_unconditional(verb)


def _add_unconditional(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--unconditional", action="store_true",
        help="run a denoiser that wants text or a class on an empty prompt, or on none",
    )  # fmt: skip


def _add_analysis(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--num-pictures", type=int, default=1000, help="pictures analysed (1000)")
    verb.add_argument("--num-curve", type=int, default=256, help="held apart for the curves (256)")
    verb.add_argument("--num-search", type=int, default=64, help="for the greedy search (64)")
    verb.add_argument("--learned-steps", type=int, default=200, help="of the predictor (200)")
    verb.add_argument("--seed", type=int, default=0)


def _add_tradeoff(verb: argparse.ArgumentParser) -> None:
    models = verb.add_argument_group("models only")
    models.add_argument("--num-pictures", type=int, help="test pictures decoded (2000)")
    models.add_argument("--num-samples", type=int, help="samples of each model (5000)")
    models.add_argument("--sampler", help="ddpm, ddim or dpm-solver++ (default)")
    models.add_argument("--steps", type=int, help="denoising steps (15)")
    models.add_argument(
        "--batch-sizes", type=int, nargs="+", metavar="B",
        help="pictures at a time, for times (1 16)",
    )  # fmt: skip
    models.add_argument("--seed", type=int, help="of the samples (0)")
    models.add_argument("--json", action="store_true", default=None, help="one JSON on stdout")


def _add_other_verbs(add: AddVerb) -> None:
    verb = add("describe", "Parameters, shapes and MACs.", overrides=True)
    verb.add_argument("subject", metavar="PRESET|RUN", help=f"{PRESET_NAMES}, or a run folder")
    _add_json(verb)

    verb = add("settings", "List every setting of a preset with its value.")
    verb.add_argument("preset", metavar="PRESET", help=PRESET_NAMES)

    bench = add("bench", "Measure speed on this machine.")
    subjects = bench.add_subparsers(
        dest="subject", required=True, metavar="SUBJECT", parser_class=_Parser
    )
    _add_bench_train(subjects)
    _add_bench_sample(subjects)


def _add_bench_train(subjects: Any) -> None:
    text = "The training step against the naive one."
    verb = subjects.add_parser("train", help=text, description=text, epilog=OVERRIDES)
    verb.set_defaults(takes_overrides=True)
    verb.add_argument("preset", metavar="PRESET", help=PRESET_NAMES)
    verb.add_argument("--rounds", type=int, default=5, help="alternations (5)")
    _add_json(verb)


def _add_bench_sample(subjects: Any) -> None:
    text = "Drawing pictures with a model, alone or in turn with another."
    verb = subjects.add_parser("sample", help=text, description=text)
    verb.add_argument(
        "model", metavar="MODEL", help="a run, a diffusers folder, a hub id, or an export"
    )
    verb.add_argument("--against", metavar="OTHER", help="what MODEL alternates with")
    verb.add_argument("--sampler", default="ddim", help="ddpm, ddim (default) or dpm-solver++")
    verb.add_argument("--steps", type=int, default=50, help="denoising steps (50)")
    verb.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 16, 64], metavar="B",
        help="pictures at a time (1 16 64)",
    )  # fmt: skip
    verb.add_argument(
        "--precision", nargs="+", default=["fp32"], metavar="P", help="fp32 (default), bf16 or both"
    )
    verb.add_argument("--compile", action="store_true", help="also time what torch.compile makes")
    verb.add_argument("--backend", default="torch", help="torch (default) or onnxruntime")
    verb.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    verb.add_argument("--rounds", type=int, default=5, help="alternations (5)")
    verb.add_argument("--size", type=int, help="side of the latents (what the model was made for)")
    _add_json(verb)


def _add_preset(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("preset", metavar="PRESET", nargs="?", help=PRESET_NAMES)
    verb.add_argument("--config", type=Path, help="a run's config.json, in place of PRESET")


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
