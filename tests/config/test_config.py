"""Configs reload as they were; mistakes are named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pelap.config.presets import PRESETS, as_baseline, get_preset, paper, paper_baseline
from pelap.config.run_checks import load_config, settings_without_effect, validate
from pelap.config.run_config import save_config, to_dict
from pelap.core.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_reload(name: str, tmp_path: Path):
    config = get_preset(name)
    validate(config)
    assert config.preset == name
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config


def test_paper_preset_states_the_papers_values():
    config = paper()
    assert (config.data.batch_size, config.run.epochs, config.run.seed) == (128, 100, 42)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (2e-4, 1e-4)
    assert (config.objective.kl_weight, config.objective.sparsity_weight) == (0.001, 0.01)
    assert config.optimizer.ema_decay == 0


def test_baseline_differs_in_gate_and_sparsity_alone():
    a, b = to_dict(paper()), to_dict(paper_baseline())
    different = {
        f"{g}.{k}" for g in a if isinstance(a[g], dict) for k in a[g] if a[g][k] != b[g][k]
    }
    assert different == {"gate.kind", "objective.sparsity_weight"}


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean paper_small"):
        get_preset("paper_smal")


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ("data", {"size": 30}),
        ("data", {"batch_size": 0}),
        ("objective", {"sparsity_weight": -1.0}),
        ("run", {"epochs": 0}),
        ("optimizer", {"ema_decay": 1.0}),
        ("network", {"denoiser_channels": 12}),
        ("evaluation", {"num_steps": 1001}),
    ],
)
def test_impossible_values_are_refused_by_name(group: str, values: dict):
    config = replace(paper(), **{group: replace(getattr(paper(), group), **values)})
    name = next(iter(values)).replace("_", "-")
    with pytest.raises(ConfigError, match=f"--{group}.{name} is"):
        validate(config)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"bogus": 1}', "unknown field 'bogus'"),
        ('{"run": {"epochs": "many"}}', "epochs is 'many'"),
        ('{"data": {"source": "web"}}', "one of photos"),
    ],
)
def test_broken_config_files_are_named(text: str, match: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config(tmp_path / "config.json")


def test_a_config_of_an_older_version_takes_defaults(tmp_path: Path):
    values = to_dict(paper())
    del values["optimizer"]["ema_decay"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_config(tmp_path / "config.json") == paper()


def test_settings_without_effect_are_reported():
    assert settings_without_effect(paper()) == []
    assert settings_without_effect(as_baseline(paper())) == []
    idle = replace(as_baseline(paper()), objective=paper().objective)
    assert "sparsity-weight has no effect" in settings_without_effect(idle)[0]
