"""The verbs on models of any origin. torch is imported when one runs."""

import argparse
import json
import sys
from typing import Any

from pelap.core.errors import ConfigError
from pelap.core.output import claimed


def analyze(options: argparse.Namespace) -> None:
    """Which channels a model uses, as table or JSON."""
    if options.output.is_file():
        raise ConfigError(f"--output {options.output} is a file: give a folder.")
    settings = _analysis_settings(options)
    from pelap.analysis.analysis_record import Analysis
    from pelap.commands.analyze import (
        analyze_model,
        check_wanted,
        describe_analysis,
        is_first_process,
        write_results,
    )
    from pelap.core.records import from_json_dict
    from pelap.models.model_pictures import open_any, pictures_config

    model = open_any(options.model, options.autoencoder)
    check_wanted(model, options.keep, options.max_psnr_drop)
    config = pictures_config(model, options.overrides)
    model = _without_condition(model, options, config)
    result = analyze_model(model, config, settings)
    found = write_results(
        result, options.output, keep=options.keep, max_psnr_drop=options.max_psnr_drop
    )
    if not is_first_process():
        return
    analysis = from_json_dict(Analysis, result, "the analysis")
    print(json.dumps(result) if options.json else describe_analysis(analysis, found))


def _without_condition(model: Any, options: argparse.Namespace, config: Any) -> Any:
    """The model, its denoiser run on an empty prompt where that is asked for."""
    if not options.unconditional:
        return model
    from pelap.models.unconditional import without_condition

    found = model if config is None else without_condition(model, config.data.size)
    if found is model:
        why = f"{model.name} wants no condition" if config else "there are no pictures"
        print(f"note: --unconditional has no effect: {why}.", file=sys.stderr)
    return found


def _analysis_settings(options: argparse.Namespace) -> Any:
    from pelap.analysis.analysis_record import AnalysisSettings

    try:
        return AnalysisSettings(
            num_pictures=options.num_pictures,
            num_curve=options.num_curve,
            num_search=options.num_search,
            learned_steps=options.learned_steps,
            seed=options.seed,
            fill=getattr(options, "fill", None) or "linear",
        )
    except ValueError as error:
        raise ConfigError(f"{error}") from error


def prune(options: argparse.Namespace) -> None:
    """A smaller model."""
    if options.output is None and not options.dry_run:
        raise ConfigError("Give --output FOLDER, or --dry-run.")
    with claimed(options.output, options.overwrite):
        _prune(options)


def _prune(options: argparse.Namespace) -> None:
    settings = _analysis_settings(options)
    from pelap.commands.prune import (
        check_pruning,
        describe_pruned,
        find_analysis,
        padding_note,
        prune_model,
    )
    from pelap.models.model_pictures import open_any, pictures_config
    from pelap.pruning.apply import plan_pruning, save_pruned

    wish = _wish(options)
    model = open_any(options.model, options.autoencoder)
    has_pictures = model.config is not None or bool(options.overrides)
    config = pictures_config(model, options.overrides) if has_pictures else None
    check_pruning(model, wish, has_pictures)
    model = _without_condition(model, options, config)
    plan = None
    if wish.latents is not None:
        analysis = find_analysis(model, wish.latents, config, options.analysis, settings)
        plan = plan_pruning(model, wish.latents, analysis)
    if options.dry_run and wish.width is None:
        print(describe_pruned(plan, None, {}))
        return
    pruned, costs = prune_model(model, plan, wish.width, config, options.num_pictures)
    if options.dry_run:
        print(describe_pruned(plan, pruned.width, {}))
        return
    record = save_pruned(pruned, options.output, costs, overwrite=options.overwrite)
    note = padding_note(plan, costs)
    if note is not None:
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(record) if options.json else describe_pruned(plan, pruned.width, costs))


def _wish(options: argparse.Namespace) -> Any:
    from pelap.commands.prune import Wish
    from pelap.pruning.latents.latent_plan import PruneRequest, parse_keep
    from pelap.pruning.width.width_plan import WidthRequest

    channels, num_kept = (None, None) if options.keep is None else parse_keep(options.keep)
    latents = PruneRequest(
        channels,
        None if channels is not None else num_kept,
        options.max_psnr_drop,
        options.criterion,
        options.fill,
        options.rotate,
        options.seed,
    )
    widths = options.denoiser_widths
    width = WidthRequest(
        options.denoiser_macs,
        options.denoiser_latency,
        None if widths is None else _numbers("--denoiser-widths", widths),
        options.denoiser_criterion,
        options.seed,
    )
    return Wish(latents if latents.is_asked() else None, width if width.is_asked() else None)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}: give numbers with commas (24,48).") from error


def recover(options: argparse.Namespace) -> None:
    """A pruned model, trained for a few steps."""
    with claimed(options.output, options.overwrite):
        _recover(options)


def _recover(options: argparse.Namespace) -> None:
    from pelap.commands.recover import check_overrides, describe_recovered, recover_model
    from pelap.models.model_pictures import open_any, pictures_config
    from pelap.models.opening import open_model
    from pelap.training.recovery.recovery_settings import RecoverySettings

    settings = RecoverySettings(
        options.steps,
        options.parts,
        options.learning_rate,
        options.batch_size,
        options.teacher_weight,
        options.feature_weight,
        options.seed,
        options.num_pictures,
        options.checkpoint_every,
    )
    settings.check()
    check_overrides(options.overrides)
    model = open_any(options.model, options.autoencoder)
    teacher = None if options.teacher is None else open_model(options.teacher)
    config = pictures_config(model, options.overrides)
    model = _without_condition(model, options, config)
    if teacher is not None:
        teacher = _without_condition(teacher, options, config)
    done = recover_model(
        model, teacher, config, settings, options.output, overwrite=options.overwrite
    )
    if done.is_main_process:
        print(json.dumps(done.record) if options.json else describe_recovered(done.record))


def export(options: argparse.Namespace) -> None:
    """Files that need no torch."""
    from pelap.export.export_words import describe_export
    from pelap.export.onnx_export import export_model
    from pelap.models.opening import open_model

    with claimed(options.output, options.overwrite):
        model = open_model(options.model)
        record = export_model(
            model,
            options.output,
            side=options.size,
            int8=options.int8,
            overwrite=options.overwrite,
        )
    print(json.dumps(record) if options.json else describe_export(record))


def bench_sample(options: argparse.Namespace) -> None:
    """What sampling costs, beside another model."""
    from pelap.commands.bench_sample import BenchSettings, bench_sample, open_subject
    from pelap.core.records import to_json_dict
    from pelap.measure.bench_words import describe_sampling

    settings = BenchSettings(
        options.sampler,
        options.steps,
        options.batch_sizes,
        options.precision,
        options.compile,
        options.backend,
        options.device,
        options.rounds,
        options.size,
    )
    settings.check()
    model = open_subject(options.model)
    against = None if options.against is None else open_subject(options.against)
    result = bench_sample(model, against, settings)
    print(json.dumps(to_json_dict(result)) if options.json else describe_sampling(result))


REPORT_OPTIONS = (
    "num_pictures", "num_samples", "sampler", "steps", "batch_sizes", "seed", "json"
)  # fmt: skip
"""Of a report about models; those about runs measure nothing."""


def refuse_report_options(options: argparse.Namespace) -> None:
    """Say that what was given is for models, where all paths are runs.

    Raises:
        ConfigError: Names the option.
    """
    given = [name for name in REPORT_OPTIONS if getattr(options, name) is not None]
    names = [f"--{name.replace('_', '-')}" for name in given] + options.overrides
    if names:
        raise ConfigError(
            f"`pelap report RUN` takes no setting {names[0]}: that is for models, and one must be "
            "a diffusers folder."
        )


def report(options: argparse.Namespace) -> None:
    """Quality against cost."""
    if options.output is None:
        raise ConfigError("Give --output FOLDER for the page about these models.")
    from pelap.commands.compare import describe_tradeoff, tradeoff
    from pelap.commands.compare_measure import TradeoffSettings

    names = [name for name in REPORT_OPTIONS if name != "json"]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = TradeoffSettings(**given)
    result = tradeoff(options.paths, options.output, settings, options.overrides)
    print(json.dumps(result) if options.json else describe_tradeoff(result, options.output))
