"""`pelap prune --tokens`: larger patches, what they carry, and what is refused."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import pelap
from pelap.cli import main
from pelap.core.errors import ConfigError, ModelError
from pelap.families.transformer import STREAM
from pelap.pruning.tokens.fewer_tokens import check_tokens
from pelap.pruning.tokens.token_merging import MergedTokens, merge_outputs, merge_tokens
from pelap.pruning.width.width_criteria import WidthEvidence, magnitude
from tiny_models import DENOISERS, randomize
from tiny_pipelines import PIPELINES

PATCHED = ("dit", "pixart", "sd3", "sana")
WIDTH = 32
CHANNELS = 4
DATA = ["--data.source", "photos", "--data.size", "16"]


def build(kind: str, **more: Any) -> Any:
    """A tiny transformer whose tokens are single latents, wide enough to carry differences."""
    tiny: Any = DENOISERS[kind].build(CHANNELS)
    wider = {"cross_attention_dim": WIDTH, "caption_projection_dim": WIDTH}
    config = {name: value for name, value in tiny.config.items() if not name.startswith("_")}
    config |= {"patch_size": 1, "num_attention_heads": WIDTH // 8}
    config |= {name: value for name, value in wider.items() if name in config}
    return randomize(type(tiny).from_config(config | more))


def merge(denoiser: nn.Module) -> MergedTokens:
    return merge_tokens(denoiser, magnitude(WidthEvidence(dict(denoiser.state_dict()))))


def latents(seed: int = 0) -> Tensor:
    return torch.randn(2, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PATCHED)
def test_a_quarter_of_the_tokens_in_a_stock_config(kind: str, tmp_path: Path) -> None:
    denoiser = build(kind)
    before = {name: weight.clone() for name, weight in denoiser.state_dict().items()}
    merged: Any = merge(denoiser).denoiser
    assert merged.config["patch_size"] == 2
    merged.save_pretrained(tmp_path)
    stock = type(denoiser).from_pretrained(tmp_path)
    call = DENOISERS[kind].call
    with torch.no_grad():
        answer = call(merged, latents())
        assert answer.shape == call(denoiser, latents()).shape
        assert torch.equal(call(stock, latents()), answer)
    assert all(torch.equal(before[name], weight) for name, weight in denoiser.state_dict().items())


@pytest.mark.parametrize("kind", PATCHED)
def test_four_like_tokens_are_embedded_as_one_was(kind: str) -> None:
    denoiser = build(kind)
    found = merge(denoiser)
    embed: Any = getattr(denoiser, "pos_embed", None) or denoiser.patch_embed
    merged: Any = getattr(found.denoiser, "pos_embed", None) or found.denoiser.patch_embed  # type: ignore[attr-defined]
    coarse = torch.randn(1, CHANNELS, 4, 4)
    fine = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)
    old = embed.proj(fine)[..., ::2, ::2][:, found.kept[STREAM]]  # (1, D, 4, 4)
    new = merged.proj(fine)
    others = torch.ones(WIDTH, dtype=torch.bool)
    others[found.carried] = False
    change = (new - old)[:, others]  # the mean of positions moves the bias, and nothing else
    assert torch.allclose(change, change.mean(dim=(0, 2, 3), keepdim=True), atol=1e-5)
    assert new[:, found.carried].abs().max() < 1e-5  # no differences


def test_no_block_reads_or_writes_what_is_carried() -> None:
    found = merge(build("sd3"))
    block: Any = found.denoiser.transformer_blocks[0]  # type: ignore[index]
    assert len(found.carried) == 3 * CHANNELS
    assert not block.attn.to_q.weight[:, found.carried].any()
    assert not block.ff.net[0].proj.weight[:, found.carried].any()
    assert not block.attn.to_out[0].weight[found.carried].any()
    assert not block.attn.to_out[0].bias[found.carried].any()
    assert block.norm1.linear.weight.all()  # modulation knows nothing of it


def test_positions_stay_where_the_class_can_say_so() -> None:
    sd3, pixart = build("sd3"), build("pixart", interpolation_scale=2)
    old = sd3.pos_embed.pos_embed[0].reshape(8, 8, WIDTH)
    new: Any = merge(sd3).denoiser
    assert new.config["pos_embed_max_size"] == 4
    wanted = old.reshape(4, 2, 4, 2, WIDTH).mean(dim=(1, 3)).flatten(0, 1)
    assert torch.allclose(new.pos_embed.pos_embed[0], wanted, atol=1e-6)
    assert merge(pixart).denoiser.config["interpolation_scale"] == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("patch", [1, 2])
def test_outputs_of_old_tokens_are_those_of_merged_ones(patch: int) -> None:
    def unpatch(output: Tensor, size: int) -> Tensor:
        """As diffusers' transformers do it."""
        side = round(output.shape[1] ** 0.5)
        parts = output.reshape(len(output), side, side, size, size, -1)
        return torch.einsum("nhwpqc->nchpwq", parts).reshape(len(output), -1, side * size,
                                                              side * size)  # fmt: skip

    output = torch.randn(2, 16, patch**2 * 3)
    merged = merge_outputs(output, patch)
    assert merged.shape == (2, 4, 4 * patch**2 * 3)
    assert torch.equal(unpatch(merged, 2 * patch), unpatch(output, patch))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional pipeline with patches of one latent."""
    path = tmp_path_factory.mktemp("tokens") / "dit"
    pipeline: Any = PIPELINES["dit"]()
    pipeline.transformer = build("dit", num_embeds_ada_norm=1000, out_channels=CHANNELS)
    pipeline.save_pretrained(path)
    return path


def test_pruned_and_recovered_by_stock_means(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, better = tmp_path / "small", tmp_path / "better"
    drawn = [*DATA, "--unconditional"]
    command = ["prune", str(folder), "--keep", "3", "--rotate", "pca", "--tokens", "4"]
    wanted = [*drawn, "--num-pictures", "16", "--json"]
    assert main([*command, *wanted, "--output", str(small)]) == 0
    record = json.loads(capsys.readouterr().out)
    tokens = record["tokens"]
    assert tokens["patch_sizes"] == [1, 2]
    assert tokens["carried"] == 9
    assert 0.2 < tokens["macs"] / tokens["macs_before"] < 0.5  # the class' embedding stays as it is
    assert tokens["error"] > 0
    card = (small / "README.md").read_text()
    assert "with 3 of 4 latent channels and with 1 of 4 tokens" in card
    assert "Patches of 1×1 latents → 2×2" in card
    model = pelap.open_model(small)
    assert model.kept_units is not None
    assert model.kept_units.layers["pos_embed.proj"].name is None
    recover = ["recover", str(small), "--teacher", str(folder), "--steps", "80", *drawn]
    assert main([*recover, "--num-pictures", "16", "--output", str(better), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["denoiser"]["relative_error"] < found["denoiser_before"]["relative_error"]
    stock: Any = DiffusionPipeline.from_pretrained(better)
    assert stock.transformer.config["patch_size"] == 2
    pictures = stock([1], num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 16, 16, 3)


def test_width_goes_along(folder: Path) -> None:
    pruned = pelap.prune(str(folder), keep=[0, 1], tokens=4, denoiser_widths=(3,))
    denoiser: Any = pruned.pipeline().transformer  # type: ignore[attr-defined]
    assert denoiser.config["patch_size"] == 2
    assert denoiser.config["num_attention_heads"] == 3
    assert "1 of 4 tokens" in pruned.describe()


def test_what_cannot_be_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    model = pelap.open_model(folder)
    with pytest.raises(ConfigError, match="--tokens is 3: one token can be made of 4"):
        check_tokens(model, 3, None)
    assert main(["prune", str(folder), "--tokens", "2", "--output", str(tmp_path / "no")]) == 2
    for kind, reason in {
        "flux": "its pipeline packs 2×2 latents",
        "unet_2d": "its config says no patches",
    }.items():
        with pytest.raises(ModelError, match=reason):
            merge(DENOISERS[kind].build(CHANNELS))
    with pytest.raises(ModelError, match="no whole number of patches of 2"):
        merge(build("sana", sample_size=7))
    with pytest.raises(ModelError, match="24 differences are within a patch, too many for the 32"):
        merge(diffusers.DiTTransformer2DModel(
            in_channels=8, num_attention_heads=4, attention_head_dim=8, num_layers=1,
            sample_size=8, patch_size=1, num_embeds_ada_norm=3,
        ))  # fmt: skip
