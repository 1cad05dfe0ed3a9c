"""Tiny pipelines of every family: stock diffusers loads and runs them where pelap is absent."""

import json
import subprocess
import sys
from pathlib import Path

from tiny_pipelines import PIPELINES

SCRIPT = Path(__file__).with_name("stock_generate.py")
SIDES = dict.fromkeys(PIPELINES, 16) | {"sana": 32}


def test_stock_diffusers_generates(tmp_path: Path):
    pipelines = {name: build() for name, build in PIPELINES.items()}
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(tmp_path / name)

    output = tmp_path / "out.json"
    folders = [tmp_path / name for name in pipelines]
    command = [sys.executable, SCRIPT, *folders, output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    results = dict(zip(pipelines, json.loads(output.read_text()), strict=True))
    for name, result in results.items():
        assert result["pipeline"] == type(pipelines[name]).__name__
        assert result["shape"] == [1, SIDES[name], SIDES[name], 3]
        assert result["finite"]
        assert result["std"] > 0.01
