"""The lines of metrics.jsonl, also of a run that was killed while it wrote one."""

import json
from collections.abc import Iterator
from typing import Any

from pelap.config.run_folder import RunFolder, write_whole
from pelap.core.errors import RunError


def whole_lines(folder: RunFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line as text and as values, up to the first that is broken."""
    if not folder.metrics_path.exists():
        return
    for line in folder.metrics_path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            return  # it was being written when the run was killed
        yield line, values


def keep_metrics_until(folder: RunFolder, step: int) -> None:
    """Drop the lines of steps that will be taken again.

    Raises:
        RunError: If a line before them is broken.
    """
    kept = [line for line, values in whole_lines(folder) if values["step"] <= step]
    if step > 0 and not kept and folder.metrics_path.exists():
        raise RunError(f"{folder.metrics_path} has no line up to step {step}: the run is damaged.")
    if folder.metrics_path.exists():
        write_whole(folder.metrics_path, "".join(line + "\n" for line in kept).encode())
