"""Dotted settings (`--objective.sparsity-weight 0.01`) onto a config, parsed by tyro."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence

from pelap.config.run_config import RunConfig, as_option, validate
from pelap.core.errors import ConfigError


def apply_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config with dotted settings replaced.

    Raises:
        ConfigError: If a setting is unknown or its value does not fit.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            config, unknown = tyro.cli(
                RunConfig, default=config, args=list(overrides), return_unknown_args=True
            )
    except SystemExit as error:
        raise ConfigError(_one_line(complaint.getvalue())) from error
    if unknown:
        raise ConfigError(_unknown_setting(unknown[0], config))
    validate(config)
    return config


def refuse_others(config: RunConfig, own: RunConfig, allowed: Sequence[str]) -> None:
    """Refuse changes that what is done with a finished run would not look at.

    Args:
        config: With the changes.
        own: What the run was trained with.
        allowed: Groups, and settings as group.field, that may differ.

    Raises:
        ConfigError: Names the setting.
    """
    for group in dataclasses.fields(config):
        theirs, ours = getattr(config, group.name), getattr(own, group.name)
        if group.name in allowed or not dataclasses.is_dataclass(theirs):
            continue
        for field in dataclasses.fields(theirs):
            name = f"{group.name}.{field.name}"
            value = getattr(ours, field.name)
            if getattr(theirs, field.name) != value and name not in allowed:
                raise ConfigError(
                    f"{as_option(name)} cannot be changed here: the run was trained with {value!r}."
                )


def _unknown_setting(name: str, config: RunConfig) -> str:
    import difflib

    known = [
        as_option(f"{group.name}.{field.name}")
        for group in dataclasses.fields(config)
        if dataclasses.is_dataclass(getattr(config, group.name))
        for field in dataclasses.fields(getattr(config, group.name))
    ]
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else " `pelap settings PRESET` lists them all."
    return f"Unknown setting {name}.{hint}"


def _one_line(text: str) -> str:
    """What tyro complains of, without its box, its help and its candidates."""
    words = " ".join(text.replace("│", " ").split())
    sections = re.split(r" -{9,} ", words)  # title, complaint, help
    return sections[min(1, len(sections) - 1)].split(" Got errors:")[0].strip("╭╮╰╯─ ")
