"""One subcommand a verb: its Settings parsed by tyro, its `run` called, its record printed.

With --json one JSON object goes to stdout; all else goes to stderr. torch is imported by the verb
that needs it, tyro when a verb is named.
"""

import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from io import TextIOWrapper
from typing import Any

from pelap import __version__
from pelap.core.errors import ConfigError, PelapError, in_one_line, is_out_of_memory
from pelap.core.notes import printable

VERBS = {
    "train": ("TrainSettings", "Train a preset into a new run folder."),
    "resume": ("ResumeSettings", "Continue an interrupted run, or a finished one for longer."),
    "evaluate": ("EvaluateSettings", "Measure a run, or any model, on test pictures."),
    "diagnose": (
        "DiagnoseSettings",
        "Find at which noise levels a denoiser works, and whether the model is healthy.",
    ),
    "sample": ("SampleSettings", "Draw pictures from noise."),
    "report": (
        "ReportSettings",
        "Write one page about evaluated runs.",
    ),
    "compare": (
        "CompareSettings",
        "Write one page about models: quality against cost, and the same prompts side by side.",
    ),
    "reproduce": (
        "ReproduceSettings",
        "Train baseline and PeLAP-A, evaluate and report; call again to go on.",
    ),
    "sweep": (
        "SweepSettings",
        "Train a grid of settings with several seeds; call again to go on. Exit code 1 if a trial "
        "failed.",
    ),
    "analyze": ("AnalyzeSettings", "Find which latent channels a model uses, and which to keep."),
    "prune": (
        "PruneSettings",
        "Remove latent channels and the denoiser's width or tokens; an ordinary diffusers folder "
        "comes out.",
    ),
    "recover": ("RecoverSettings", "Train a pruned model for a few steps; call again to go on."),
    "adapt": (
        "AdaptSettings",
        "Carry LoRAs, a ControlNet or an IP-Adapter of the original to a pruned model.",
    ),
    "export": ("ExportSettings", "Write a model's networks as ONNX files, checked against torch."),
    "describe": ("DescribeSettings", "Parameters, shapes and MACs."),
    "settings": ("PresetListSettings", "List every setting of a preset with its value."),
    "bench train": ("BenchTrainSettings", "Time the training step against the naive one."),
    "bench sample": (
        "BenchSampleSettings",
        "Time drawing pictures with a model, alone or in turn with another.",
    ),
}
"""The class of each verb's settings, in the module of its name, and what it does."""
NO_OPTIONS = ("model", "overrides", "paths", "preset", "run_folder", "subject")
"""Fields of settings that have a place in place of a name."""
OVERRIDES = (
    "Any setting of the run follows as --group.field VALUE, e.g. --run.max-steps 300; "
    "`pelap settings PRESET` lists them all."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when done, 2 for a user's mistake, 130 when interrupted."""
    if argv is None:  # a job scheduler's end is as good as Ctrl-C
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # twice it is refused
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # of what its encoding has no letters for
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        way_on = "interrupted; the same command or `pelap resume` continues."
        print(f"pelap: {printable(str(stop) or way_on)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `pelap … | head`
        _forget_stdout()
        return 1
    except Exception as error:
        complaint = _complaint(error)
        if complaint is None or os.environ.get("PELAP_TRACEBACK"):
            raise
        if isinstance(error, OSError):
            _forget_stdout()  # it may be what is full
        print(f"pelap: {printable(complaint)}", file=sys.stderr)
        return 2
    finally:
        if "torch" in sys.modules:
            from pelap.core.processes import part

            part()


def _forget_stdout() -> None:
    """Keep the interpreter from complaining at its end of what could not be printed."""
    if isinstance(sys.stdout, TextIOWrapper):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complaint(error: Exception) -> str | None:
    """What is wrong, in one line; None of a fault of ours."""
    if isinstance(error, PelapError):
        return in_one_line(error, 10_000)
    if isinstance(error, OSError):
        if error.strerror is None:
            return in_one_line(error)
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part) + "."
    kind, text = type(error).__name__, in_one_line(error)
    if kind == "SafetensorError" and "os error" in text:  # has no errno
        return f"{text.removeprefix('Error while serializing: ')}."
    if kind in ("LinAlgError", "_LinAlgError"):  # numpy's and torch's
        return f"The model's numbers are out of all range, as of damaged weights: {text}"
    if is_out_of_memory(error):
        return (
            "There is not enough memory: give a smaller batch (--data.batch-size of a run, "
            "--batch-size and --accumulate of `recover`), or smaller pictures."
        )
    return None


def _main(words: list[str]) -> int:
    if words[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    if words[:1] == ["--version"]:
        print(f"pelap {__version__}")
        return 0
    num_words = 2 if words[:1] == ["bench"] else 1
    verb = " ".join(words[:num_words])
    if verb not in VERBS:
        if words[:1] == ["bench"] and words[1:] in ([], ["-h"], ["--help"]):
            print(_usage("bench "))
            return 0
        raise _unknown_verb(verb)
    module = importlib.import_module(f"pelap.commands.{verb.replace(' ', '_')}")
    settings = _parse(getattr(module, VERBS[verb][0]), verb, words[num_words:])
    from pelap.commands.verb_settings import DeviceSettings

    if isinstance(settings, DeviceSettings) and settings.device is not None:
        from pelap.core.devices import choose_device

        choose_device(settings.device)
    record = module.run(settings)
    if record is not None and os.environ.get("RANK", "0") == "0":
        wants_json = getattr(settings, "json", False)
        print(json.dumps(record.as_dict()) if wants_json else printable(record.describe()))
    return 1 if getattr(record, "failed", None) else 0


def _parse(kind: Any, verb: str, words: list[str]) -> Any:
    """The settings of a verb, and the words in which settings of a run may stand."""
    from pelap.config.overrides import (
        given_settings,
        known_settings,
        parse_options,
        refuse_unknown,
        split_overrides,
    )
    from pelap.config.run_checks import as_option
    from pelap.config.run_config import RunConfig

    own, description = words, VERBS[verb][1]
    names = [field.name for field in fields(kind)]
    known = ["--", "--help", *(as_option(name) for name in names if name not in NO_OPTIONS)]
    if "overrides" in names:
        description += f"\n\n{OVERRIDES}"
        known += known_settings()
    elif given_settings(words):
        raise ConfigError(f"`pelap {verb}` takes no setting {given_settings(words)[0]}.")
    given = [word.partition("=")[0].replace("_", "-") for word in words]
    refuse_unknown(
        [name for name in given if name.startswith("--")], known, f"See `pelap {verb} --help`."
    )
    if given_settings(words):
        _, own = split_overrides(words, RunConfig())
    from tyro.conf import FlagCreatePairsOff

    config = (FlagCreatePairsOff,)
    settings = parse_options(kind, own, f"pelap {verb}", description, config=config)
    return replace(settings, overrides=tuple(words)) if "overrides" in names else settings


def _unknown_verb(verb: str) -> ConfigError:
    import difflib

    known = list(VERBS)
    near = difflib.get_close_matches(verb, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "See `pelap --help`."
    return ConfigError(f"Unknown verb {verb!r}. {hint}" if verb else f"Give a VERB. {hint}")


def _usage(prefix: str = "") -> str:
    """What there is to call."""
    lines = [
        f"usage: pelap {prefix}[-h] [--version] VERB …",
        "",
        "Find the latent channels that a latent diffusion model does not need.",
        "",
    ]
    for verb, (_, description) in VERBS.items():
        if verb.startswith(prefix):
            lines.append(f"  {verb:14}{description}")
    return "\n".join([*lines, "", "`pelap VERB --help` says what a verb takes."])
