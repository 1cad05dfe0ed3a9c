"""Pictures that a model cannot take are one line."""

from pathlib import Path

import pytest

from pelap.cli import main
from tiny_pipelines import PIPELINES


@pytest.mark.parametrize("verb", [["evaluate"], ["prune", "--keep", "2", "-o", "small"]])
def test_pictures_beyond_the_positions_of_a_transformer_are_refused(
    verb: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    pipeline = PIPELINES["stable_diffusion_3"]()
    pipeline.save_pretrained("model")
    config = pipeline.transformer.config
    most = config.pos_embed_max_size * config.patch_size * pipeline.vae_scale_factor
    pictures = ["--data.source", "photos", "--data.size", str(2 * most), "--data.num-train", "8"]
    name, *options = verb
    assert main([name, "model", "--unconditional", *options, *pictures]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"cannot take pictures of {2 * most} pixels: its denoiser takes at most {most}." in said
    assert not Path("small").exists()
