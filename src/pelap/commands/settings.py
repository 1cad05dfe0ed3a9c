"""`pelap settings`: every setting of a preset with its value."""

import contextlib
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from pelap.commands.verb_settings import PRESET_NAMES, shown
from pelap.config.overrides import parse_options
from pelap.config.presets import get_preset
from pelap.config.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class PresetListSettings:
    """What `pelap settings` takes."""

    preset: Annotated[Positional[str], shown("PRESET", help=PRESET_NAMES)]


def run(settings: PresetListSettings) -> None:
    """Print them all, as options."""
    with contextlib.suppress(SystemExit):
        parse_options(
            RunConfig, ["--help"], "pelap train PRESET", default=get_preset(settings.preset)
        )
