"""What `pelap adapt` reads: names, ranks, alphas, DoRA, and files that it refuses in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

import pelap
from pelap.cli import main
from pelap.core.errors import ConfigError, ModelError
from pelap.families.registry import example_inputs
from tiny_loras import by_peft_names, random_pairs
from tiny_pipelines import PIPELINES

Tensors = dict[str, Tensor]
ATTENTION = "attn1"
LAYERS_PER_BLOCK = 2
"""Of the deeper tiny XL."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion with two of four latents and half its width."""
    folder = tmp_path_factory.mktemp("models") / "small"
    options: dict[str, Any] = {"denoiser_widths": (4, 8), "denoiser_criterion": "magnitude"}
    model = PIPELINES["stable_diffusion"]()
    pelap.prune(model, keep=[0, 2], fill="zero", **options).save(folder)
    return folder


def lora(match: str = ATTENTION) -> Any:
    return random_pairs(PIPELINES["stable_diffusion"]().unet, match=match)  # type: ignore[attr-defined]


def kohya(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def adapted(small: Path, folder: Path, tensors: Tensors, **metadata: str) -> Tensors:
    save_file(tensors, folder / "lora.safetensors", metadata=metadata)
    pelap.adapt(small, folder / "lora.safetensors", folder / "new.safetensors", overwrite=True)
    return load_file(folder / "new.safetensors")


def by_names(kind: str, pairs: Any, alphas: dict[str, float]) -> tuple[Tensors, dict[str, str]]:
    """One LoRA in a way of naming, with alphas where that has them."""
    named = by_peft_names(pairs, "unet")
    if kind == "diffusers":
        ranks = {name: pair[0].shape[0] for name, pair in pairs.items()}
        config = {"unet.r": 2, "unet.lora_alpha": 2, "unet.rank_pattern": ranks,
                  "unet.alpha_pattern": alphas}  # fmt: skip
        return named, {"lora_adapter_metadata": json.dumps(config)}
    found: Tensors = {}
    for name, (down, up) in pairs.items():
        scale = alphas[name] / down.shape[0]
        if kind == "kohya":
            found |= {f"{kohya(name)}.lora_down.weight": down, f"{kohya(name)}.lora_up.weight": up,
                      f"{kohya(name)}.alpha": torch.tensor(alphas[name])}  # fmt: skip
        elif kind == "peft":
            found |= {f"base_model.model.{name}.lora_A.weight": down,
                      f"base_model.model.{name}.lora_B.weight": up * scale}  # fmt: skip
        else:
            found |= {f"unet.{name}.lora.down.weight": down,
                      f"unet.{name}.lora.up.weight": up * scale}  # fmt: skip
    if kind == "older":  # of the attention processors
        found = {
            re.sub(r"\.(to_\w+)(\.0)?\.lora\.", r".processor.\1_lora.", name): tensor
            for name, tensor in found.items()
        }
    return found, {}


@pytest.mark.parametrize("kind", ["kohya", "peft", "older"])
def test_every_way_of_naming_says_the_same(small: Path, tmp_path: Path, kind: str) -> None:
    pairs = lora()
    alphas = {name: 1.0 + number for number, name in enumerate(pairs)}
    wanted, metadata = by_names("diffusers", pairs, alphas)
    first = adapted(small, tmp_path, wanted, **metadata)
    second = adapted(small, tmp_path, by_names(kind, pairs, alphas)[0])
    assert first.keys() == second.keys()
    assert len({pair[0].shape[0] for pair in pairs.values()}) > 1
    for name in first:
        torch.testing.assert_close(first[name], second[name])


def in_sgm(name: str) -> str:
    """A tiny XL's layer as kohya's trainers name it, by Stability's blocks."""
    down, up = r"down_blocks\.(\d+)\.attentions\.(\d+)\.", r"up_blocks\.(\d+)\.attentions\.(\d+)\."
    found = re.match(f"{down}|{up}", name)
    if found is None:
        return name.replace("mid_block.attentions.0.", "middle_block.1.")
    block, layer = (int(number) for number in found.groups() if number is not None)
    place = block * (LAYERS_PER_BLOCK + 1) + layer
    is_down = name.startswith("down")
    start = f"input_blocks.{place + 1}.1." if is_down else f"output_blocks.{place}.1."
    return start + name[found.end() :]


def in_bfl(name: str) -> str:
    """A layer of Flux' first block as kohya's trainers name it."""
    start = "transformer_blocks.0."
    names = {"attn.to_out.0": "img_attn_proj", "ff.net.0.proj": "img_mlp_0",
             "ff.net.2": "img_mlp_2", "norm1.linear": "img_mod_lin",
             "ff_context.net.2": "txt_mlp_2"}  # fmt: skip
    return f"double_blocks.0.{names[name.removeprefix(start)]}"


def deeper_xl() -> Any:
    pipeline: Any = PIPELINES["stable_diffusion_xl"]()
    config = {**pipeline.unet.config, "layers_per_block": LAYERS_PER_BLOCK}
    pipeline.register_modules(unet=UNet2DConditionModel.from_config(config))
    return pipeline


@pytest.mark.parametrize(
    ("build", "match", "rename"),
    [
        (deeper_xl, ATTENTION, in_sgm),
        (
            PIPELINES["flux"],
            r"^transformer_blocks\.0\.(attn\.to_out|ff\.net|norm1\.|ff_context\.net\.2)",
            in_bfl,
        ),
    ],
)
def test_names_of_the_models_first_code_say_the_same(
    build: Callable[[], Any], match: str, rename: Callable[[str], str], tmp_path: Path
):
    pipeline = build()
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    small = tmp_path / "small"
    options: dict[str, Any] = {"keep": [0, 2], "fill": "zero"}
    if part == "unet":
        options = {"denoiser_widths": (8, 16, 1, 1), "denoiser_criterion": "magnitude"}
    pelap.prune(pipeline, **options).save(small)
    pairs = random_pairs(getattr(pipeline, part))
    pairs = {name: pair for name, pair in pairs.items() if re.search(match, name)}
    assert len(pairs) > 4
    first = adapted(small, tmp_path, by_peft_names(pairs, part))
    renamed: Tensors = {}
    for name, (down, up) in pairs.items():
        own = kohya(rename(name))
        assert own != kohya(name)
        renamed |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up / 4}
        renamed[f"{own}.alpha"] = torch.tensor(4.0 * down.shape[0])
    second = adapted(small, tmp_path, renamed)
    assert first.keys() == second.keys()
    layers = {name.split(".lora_")[0] for name in first}
    for layer in layers:  # where the alpha goes is the converter's choice
        one, other = (
            found[f"{layer}.lora_B.weight"] @ found[f"{layer}.lora_A.weight"]
            for found in (first, second)
        )
        torch.testing.assert_close(one, other)


def test_a_config_of_peft_beside_the_file_counts(small: Path, tmp_path: Path) -> None:
    plain = adapted(small, tmp_path, by_peft_names(lora(), ""))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "r": 2}))
    scaled = adapted(small, tmp_path, by_peft_names(lora(), ""))
    ranks = {f"unet.{name}": pair[0].shape[0] for name, pair in lora().items()}
    for name in plain:
        layer, is_up = name.split(".lora_")[0], "lora_B" in name
        factor = 6 / ranks[layer] if is_up else 1
        torch.testing.assert_close(scaled[name], plain[name] * factor)


@pytest.mark.parametrize("says", ["peft", "peft, of the denoiser", "diffusers", "kohya"])
def test_what_says_that_it_was_trained_on_a_pruned_model_is_refused(
    small: Path, tmp_path: Path, says: str
) -> None:
    base = small / "unet" if says == "peft, of the denoiser" else small
    config, metadata = {"base_model_name_or_path": str(base)}, {}
    if says.startswith("peft"):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    elif says == "diffusers":
        named = {f"unet.{name}": value for name, value in config.items()}
        metadata = {"lora_adapter_metadata": json.dumps(named)}
    else:
        metadata = {"ss_sd_model_name": small.name}
    with pytest.raises(ModelError, match=r"was trained on .*, a pruned model, as it says"):
        adapted(small, tmp_path, by_peft_names(lora(), ""), **metadata)
    assert not (tmp_path / "new.safetensors").exists()


def test_what_says_that_it_was_trained_on_another_model_is_carried(
    small: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "a/model"}')
    metadata = {"ss_sd_model_name": "model.safetensors"}
    assert adapted(small, tmp_path, by_peft_names(lora(), ""), **metadata)


def test_text_encoders_pass_and_the_file_is_marked(small: Path, tmp_path: Path) -> None:
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    pair = {f"{text}.lora_linear_layer.down.weight": torch.randn(2, 16),
            f"{text}.lora_linear_layer.up.weight": torch.randn(16, 2)}  # fmt: skip
    found = adapted(small, tmp_path, by_peft_names(lora(), "unet") | pair)
    rank = max(down.shape[0] for down, _ in lora().values())
    assert rank == 3
    assert torch.equal(
        found[f"{text}.lora_A.weight"], pair[f"{text}.lora_linear_layer.down.weight"]
    )
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        assert json.loads(file.metadata()["pelap_adapted_for"])["model"] == "small"
    record = json.loads((tmp_path / "new.json").read_text())
    assert record["num_passed"] == 1
    assert record["num_carried"] == len(lora())
    assert 0 < record["kept_share"] < 1


def test_several_go_into_a_folder(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        save_file(by_peft_names(lora(), "unet"), tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    output = str(tmp_path / "new")
    assert main(["adapt", str(small), "--lora", *files, "--output", output, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["loras"]) == 2
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"one.safetensors", "one.json", "two.safetensors", "two.json"}


def test_layers_that_went_are_dropped_aloud(tmp_path: Path) -> None:
    pipeline: Any = PIPELINES["stable_diffusion_3"]()
    config = dict(pipeline.transformer.config) | {"num_layers": 3}
    pipeline.register_modules(transformer=type(pipeline.transformer).from_config(config))
    pairs = random_pairs(pipeline.transformer, match="attn.to_q")
    small = pelap.prune(pipeline, denoiser_widths=(2, 2), denoiser_criterion="magnitude")
    save_file(by_peft_names(pairs, "transformer"), tmp_path / "lora.safetensors")
    found = pelap.adapt(small, tmp_path / "lora.safetensors", tmp_path / "new.safetensors")
    assert found.loras[0].dropped == ["transformer_blocks.1.attn.to_q"]
    assert "transformer_blocks.1.attn.to_q" in found.describe()
    kept = load_file(tmp_path / "new.safetensors")
    last = pairs["transformer_blocks.2.attn.to_q"][0]
    new = kept["transformer.transformer_blocks.1.attn.to_q.lora_A.weight"]
    assert torch.equal(new[: len(last)], last)


def test_dora_is_carried_where_its_inputs_stay(tmp_path: Path) -> None:
    pipeline: Any = PIPELINES["stable_diffusion"]()
    pipeline.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, use_dora=True, target_modules=["to_q", "to_k"])
    )
    for name, weight in pipeline.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, mean=0.5, std=0.3)
    wanted = predict(pipeline.unet)
    layers = get_peft_model_state_dict(pipeline.unet)
    pipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, weight_name="lora.safetensors")
    original = PIPELINES["stable_diffusion"]()
    same = pelap.prune(original, keep=[0, 1, 2, 3], fill="zero")
    pelap.adapt(same, tmp_path / "lora.safetensors", tmp_path / "new.safetensors")
    assert any("magnitude" in name for name in load_file(tmp_path / "new.safetensors"))
    loaded: Any = same.pipeline()
    loaded.load_lora_weights(tmp_path / "new.safetensors")
    torch.testing.assert_close(predict(loaded.unet), wanted, rtol=1e-4, atol=1e-4)


def predict(unet: Any) -> Tensor:
    with torch.no_grad():
        return unet(**example_inputs(unet, 2, 8), return_dict=False)[0]


def test_stock_training_on_the_small_model_runs_and_its_lora_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline: Any = DiffusionPipeline.from_pretrained(small)
    unet = pipeline.unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    inputs = example_inputs(unet, 2, 8)
    wanted, losses = torch.randn_like(inputs["sample"]), []
    for _ in range(5):
        loss = (unet(**inputs).sample - wanted).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    layers: Any = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    pipeline.delete_adapters("default")
    pipeline.load_lora_weights(file)
    assert refusal(small, file, capsys).count("load it as it is") == 1


def refusal(small: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    output = file.with_name("out.safetensors")
    capsys.readouterr()
    assert main(["adapt", str(small), "--lora", str(file), "--output", str(output)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("pelap: ")
    assert text.count("\n") == 1
    assert not output.exists()
    return text


def layer() -> str:
    return next(iter(lora()))


def changed(change: Callable[[Tensors, str], object], **metadata: str) -> bytes:
    """A sound LoRA with one change, given its tensors and a layer of it."""
    tensors = by_peft_names(lora(), "unet")
    change(tensors, f"unet.{layer()}.lora_")
    return save(tensors, metadata=metadata)


def renamed(old: str, new: str) -> bytes:
    tensors = by_peft_names(lora(), "unet")
    return save({name.replace(old, new): tensor for name, tensor in tensors.items()})


def kohya_with(name: str, tensor: Tensor) -> bytes:
    pairs = lora()
    alphas = dict.fromkeys(pairs, 1.0)
    return save(by_names("kohya", pairs, alphas)[0] | {f"{kohya(layer())}.{name}": tensor})


def put(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors, str], object]:
    return lambda tensors, start: tensors.update(
        {start + name: value(tensors[start + name]).contiguous()}
    )


ONE = torch.ones(2, 2)
MALFORMED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "damaged"),
    "cut": (lambda: changed(lambda t, s: None)[:-9], "damaged"),
    "text": (lambda: b"not a LoRA at all, but words", "damaged"),
    "no tensors": (lambda: save({}), "holds no tensors"),
    "no down": (lambda: changed(lambda t, s: t.pop(s + "A.weight")), "lacks its down"),
    "no up": (lambda: changed(lambda t, s: t.pop(s + "B.weight")), "lacks its up"),
    "ranks": (lambda: changed(put("A.weight", lambda t: t[:1])), "has rank 1 on one side"),
    "rank 0": (lambda: changed(put("A.weight", lambda t: t[:0])), "has rank 0"),
    "axes": (lambda: changed(put("A.weight", lambda t: t.flatten())), "axes"),
    "mixed axes": (lambda: changed(put("B.weight", lambda t: t[..., None, None])), "axes"),
    "inputs": (lambda: changed(put("A.weight", lambda t: t[:, :-1])), "in the original"),
    "outputs": (lambda: changed(put("B.weight", lambda t: t[:-1])), "in the original"),
    "nan": (lambda: changed(put("A.weight", lambda t: t * float("nan"))), "not finite"),
    "integers": (lambda: changed(put("A.weight", Tensor.int)), "not floating-point"),
    "other layer": (lambda: renamed("attn1", "attn9"), "no layer of the original"),
    "whole model": (lambda: save({"unet.conv_in.weight": ONE}), "no part of a LoRA"),
    "LoKr": (lambda: save({f"unet.{layer()}.lokr_w1": ONE}), "LoKr"),
    "LoHa": (lambda: save({f"{kohya(layer())}.hada_w1_a": ONE}), "LoHa"),
    "middle": (lambda: kohya_with("lora_mid.weight", ONE), "LoCon"),
    "kohya's DoRA": (lambda: kohya_with("dora_scale", torch.ones(8, 1)), "DoRA"),
    "two alphas": (lambda: kohya_with("alpha", torch.ones(2)), "one finite number"),
    "kohya's other": (lambda: save({"lora_unet_x.lora_down.weight": ONE}), "cannot read"),
    "config": (lambda: changed(lambda t, s: None, lora_adapter_metadata="{"), "config is damaged"),
    "cut DoRA": (
        lambda: changed(lambda t, s: t.update({s + "magnitude_vector": torch.ones(16)})),
        "DoRA",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_file_is_one_line(
    small: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = MALFORMED[what]
    (tmp_path / "lora.safetensors").write_bytes(make())
    assert expected in refusal(small, tmp_path / "lora.safetensors", capsys)


def test_what_stands_in_the_way_is_one_line(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted(small, tmp_path, by_peft_names(lora(), "unet"))
    assert "carried to a pruned model already" in refusal(
        small, tmp_path / "new.safetensors", capsys
    )
    pickle = tmp_path / "lora.bin"
    pickle.write_bytes(b"x")
    assert "never pickles" in refusal(small, pickle, capsys)
    assert "is no file" in refusal(small, tmp_path / "none.safetensors", capsys)
    PIPELINES["stable_diffusion"]().save_pretrained(tmp_path / "whole")
    line = refusal(tmp_path / "whole", tmp_path / "lora.safetensors", capsys)
    assert "does not say which units it kept" in line


@pytest.mark.parametrize("name", ["new.json", "new.safetensors"])
def test_overwrite_replaces_only_what_adapt_made(small: Path, tmp_path: Path, name: str):
    adapted(small, tmp_path, by_peft_names(lora(), "unet"))
    theirs = b'{"title": "my notes"}' if name == "new.json" else save({"mine": torch.ones(2)})
    (tmp_path / name).write_bytes(theirs)
    with pytest.raises(ConfigError, match=rf"{name} was not made by `pelap adapt`"):
        adapted(small, tmp_path, by_peft_names(lora(), "unet"))
    assert (tmp_path / name).read_bytes() == theirs
    (tmp_path / name).unlink()
    adapted(small, tmp_path, by_peft_names(lora(), "unet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lora.safetensors", "new.json", "new.safetensors",
    ]  # fmt: skip


def test_overwrite_replaces_no_link(small: Path, tmp_path: Path):
    adapted(small, tmp_path, by_peft_names(lora(), "unet"))
    (tmp_path / "new.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "new.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ConfigError, match="was not made by"):
        adapted(small, tmp_path, by_peft_names(lora(), "unet"))
    assert (tmp_path / "new.json").is_symlink()
