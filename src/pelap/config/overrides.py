"""Options of dataclasses, parsed by tyro; dotted settings (`--run.seed 1`) onto a config."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Sequence
from itertools import dropwhile, takewhile
from typing import Any, TypeVar

from pelap.config.run_checks import as_option, check_limits, validate
from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError

Options = TypeVar("Options")


def parse_options(
    kind: type[Options], words: Sequence[str], command: str, description: str = "", **how: Any
) -> Options:
    """A dataclass from words of the command line; `-h` prints the help.

    Args:
        kind: A dataclass, whose fields are the options.
        words: Of the command line.
        command: What stands before the words, for help and errors.
        description: For the help.
        **how: Further arguments of `tyro.cli`.

    Raises:
        ConfigError: If a word does not fit. One line.
        SystemExit: With code 0, after the help.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=words, prog=command, description=description, **how)
    except SystemExit as error:
        if not error.code:
            raise
        helper = f"{command} --help" if how.get("add_help", True) else command
        raise ConfigError(f"{_one_line(complaint.getvalue())}; see `{helper}`.") from error


def apply_overrides(config: RunConfig, words: Sequence[str], *, is_run: bool = True) -> RunConfig:
    """The config with the dotted settings among the words in their places.

    Args:
        config: Of a run, or only of the pictures for a model that is of none.
        words: Of the command line.
        is_run: Whether a run must be able to use it.

    Raises:
        ConfigError: If a setting is unknown or its value does not fit.
    """
    given = given_settings(words)
    if not given:
        return config
    refuse_unknown(given, known_settings(), "`pelap settings PRESET` lists them all.")
    config, _ = split_overrides(words, config)
    check = validate if is_run else check_limits
    check(config)
    return config


def split_overrides(words: Sequence[str], config: RunConfig) -> tuple[RunConfig, list[str]]:
    """The config with the dotted settings, unchecked, and the words that are none of theirs.

    Raises:
        ConfigError: If a value does not fit its setting.
    """
    return parse_options(
        RunConfig,  # type: ignore[arg-type]
        words,
        "pelap settings PRESET",
        default=config,
        return_unknown_args=True,
        add_help=False,
    )  # type: ignore[return-value]


def given_settings(words: Sequence[str]) -> list[str]:
    """The options with a dot in their name, as they are written: `--data.source`."""
    names = [word.partition("=")[0].replace("_", "-") for word in words]
    return [name for name in names if name.startswith("--") and "." in name]


def known_settings() -> list[str]:
    """Every setting of a run as an option; of a switch also its opposite, `--run.no-compile`."""
    config, known = RunConfig(), []
    for group in dataclasses.fields(config):
        values = getattr(config, group.name)
        for field in dataclasses.fields(values) if dataclasses.is_dataclass(values) else ():
            known.append(as_option(f"{group.name}.{field.name}"))
            if isinstance(getattr(values, field.name), bool):
                known.append(as_option(f"{group.name}.no_{field.name}"))
    return known


def refuse_unknown(given: Sequence[str], known: Sequence[str], hint: str) -> None:
    """Refuse an option that there is not, and name the nearest.

    Raises:
        ConfigError: With the hint where none is near.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"Did you mean {near[0]}?" if near else hint
            raise ConfigError(f"Unknown setting {name}. {advice}")


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


def refuse_named_code(config: RunConfig, words: Sequence[str]) -> None:
    """Refuse a file's name of code to run, unless it was typed too.

    Args:
        config: Read from a file, with the settings among the words.
        words: Of the command line.

    Raises:
        ConfigError: Names the setting.
    """
    name = config.evaluation.extractor
    if ":" in name and "--evaluation.extractor" not in given_settings(words):
        raise ConfigError(
            f"The config file names code to be run ({name}): if you trust it, say so with "
            f"--evaluation.extractor {name}."
        )


PLAINER = (
    (r"Error parsing (\S+): no type matching (?:\{None\}\|)?(.+) could be instantiated from "
     r"\[(.*)\]", r"\1 is \3: it must be \2"),
    (r"Error parsing (\S+): invalid literal for int.*: (.*)", r"\1 is \2: it must be INT"),
    (r"Error parsing (\S+): could not convert string to float: (.*)",
     r"\1 is \2: it must be FLOAT"),
    (r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]",
     r"\1 cannot be \2"),
    (r"Missing value for argument '(.+)'.*", r"\1 lacks its value"),
)  # fmt: skip
"""What tyro complains of, and how we say it."""
SHORT = re.compile(r"(?<![\w-])-\w(/| \S+, )(?=--)")
"""The short name of an option in front of its long one: `-o PATH, --output PATH`, `-o/--output`."""
DIVIDER = re.compile(r"\s*[-─]{3,}\s*")


def _one_line(text: str) -> str:
    """What tyro complains of, without its box, its title, its help and its candidates."""
    lines = [line.strip("│╭╮╰╯").rstrip() for line in text.splitlines()][1:]  # without its title
    lines = list(dropwhile(DIVIDER.fullmatch, lines))  # where it draws its box in ASCII
    body = list(takewhile(lambda line: not DIVIDER.fullmatch(line), lines))
    if body[0].strip().startswith("Missing from"):  # names, and more indented what they mean
        indent = len(body[1]) - len(body[1].lstrip())
        names = [line.strip() for line in body[1:] if not line[indent].isspace()]
        names = [SHORT.sub("", name) for name in names]
        return f"Give {' and '.join(names)}"
    words = " ".join(" ".join(body).split()).split(" Got errors:")[0].strip(" .")
    words = SHORT.sub("", words)
    choice = re.fullmatch(r"invalid choice (.+) for argument '(.+)'\. Expected one of (.+)", words)
    if choice is not None:
        known = sorted(set(re.findall(r"'([^']+)'", choice[3])) - {"None"})
        return f"{choice[2]} is {choice[1]}: it must be one of {', '.join(known)}"
    for pattern, plain in PLAINER:
        words = re.sub(pattern, plain, words)
    return words
