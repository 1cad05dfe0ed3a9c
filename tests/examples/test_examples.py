"""The examples run as people run them, at a size of seconds."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import DiffusionPipeline, LDMPipeline

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(source: str, name: str) -> ModuleType:
    """A script as a module, without running what stands behind `if __name__`."""
    spec = importlib.util.spec_from_loader(name, None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


class TestTrainingLoop:
    source = (EXAMPLES / "training_loop.py").read_text()

    def test_five_lines_are_marked_in_their_order(self):
        marks = re.findall(r"# pelap (\d)", self.source)
        assert marks == ["1", "2", "3", "4", "5"]

    def test_without_the_five_lines_it_is_a_plain_loop(self):
        plain = "\n".join(line for line in self.source.splitlines() if "# pelap " not in line)
        body = plain.partition("class Model")[2].partition("def train")[0]
        assert "gate" not in re.sub(r"harden_after", "", body)
        model = load(plain, "plain_loop").train(size=16, num_steps=3)
        assert not hasattr(model, "gate")

    @pytest.fixture(scope="class")
    @classmethod
    def output(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """What 30 steps of the whole script write."""
        folder = tmp_path_factory.mktemp("loop")
        load(cls.source, "training_loop").main(folder, size=16, num_steps=30)
        return folder

    @torch.no_grad()
    def test_what_the_gate_closed_is_gone_and_changes_nothing(self, output: Path):
        whole, pruned = (LDMPipeline.from_pretrained(output / name) for name in ("whole", "pruned"))
        (record,) = pruned.vqvae.config["_pelap"]
        kept = record["kept"]
        assert len(kept) == 2
        assert pruned.unet.config["in_channels"] == pruned.vqvae.config["latent_channels"] == 2
        latents = whole.vqvae.encode(torch.rand(2, 3, 16, 16)).latent_dist.mean
        masked = torch.zeros_like(latents)
        masked[:, kept] = latents[:, kept]
        pictures = whole.vqvae.decode(masked).sample
        difference = pruned.vqvae.decode(latents[:, kept]).sample - pictures
        assert float(difference.std() / pictures.std()) < 0.1  # zero padding at the edges
        torch.testing.assert_close(
            pruned.unet(latents[:, kept], 7).sample, whole.unet(masked, 7).sample[:, kept],
            atol=1e-5, rtol=1e-4,
        )  # fmt: skip

    def test_the_result_is_an_ordinary_pipeline(self, output: Path):
        pipeline = DiffusionPipeline.from_pretrained(output / "pruned")
        pipeline.set_progress_bar_config(disable=True)
        pictures = pipeline(batch_size=1, num_inference_steps=2, output_type="np").images
        assert pictures.shape == (1, 16, 16, 3)
