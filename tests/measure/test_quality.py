"""Feature extractors and the quality metrics that are made with them."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from pelap.config.run_config import DataConfig
from pelap.core.errors import ConfigError, DataError
from pelap.data.load import load_pictures
from pelap.measure.features import ResNet20, extract, load_extractor
from pelap.measure.quality import QualityPictures, check_names, measure_quality

CPU = torch.device("cpu")


class MeanColour(nn.Module):
    name = "MeanColour"
    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def pictures(num: int = 64, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, 16, 16), generator=source, dtype=torch.uint8)


def measure(names: list[str], found: QualityPictures, **more: object):
    return measure_quality(names, found, f"{__name__}:MeanColour", device=CPU, **more)  # type: ignore[arg-type]


def test_psnr_is_that_of_the_mean_error_over_all_pictures():
    originals = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    changed = originals.clone()
    changed[:2] += 10
    value = measure(["psnr"], QualityPictures(originals, changed))["psnr_db"]
    assert value.value == pytest.approx(10 * math.log10(255**2 / 50))
    assert value.low is not None
    assert value.low <= value.value <= (value.high or 0)
    assert value.num_pictures == 4


def test_ssim_is_1_for_equal_pictures_and_lower_with_noise():
    originals = pictures(8)
    assert measure(["ssim"], QualityPictures(originals, originals))["ssim"].value == pytest.approx(
        1, abs=1e-5
    )
    noisy = (originals.float() * 0.5 + pictures(8, 1).float() * 0.5).to(torch.uint8)
    assert measure(["ssim"], QualityPictures(originals, noisy))["ssim"].value < 0.9


def test_the_extractors_name_is_part_of_the_metrics_names():
    originals = pictures()
    names = ["rfd", "fd", "fd_to_reconstructions", "kid", "precision", "recall"]
    found = measure(names, QualityPictures(originals, originals.flip(3), pictures(seed=1)))
    assert list(found) == [
        "rFD-MeanColour", "FD-MeanColour", "FD-MeanColour-to-reconstructions", "KID-MeanColour",
        "precision-MeanColour", "recall-MeanColour",
    ]  # fmt: skip
    assert found["rFD-MeanColour"].value == pytest.approx(0, abs=1e-4)
    assert found["FD-MeanColour"].value == pytest.approx(
        found["FD-MeanColour-to-reconstructions"].value, abs=1e-3
    )
    assert found["FD-MeanColour"].num_references == 64


def test_the_interval_of_a_small_distance_holds_it():
    value = measure(["fd"], QualityPictures(pictures(200), samples=pictures(200, 1)))[
        "FD-MeanColour"
    ]
    assert value.low is not None
    assert value.high is not None
    assert value.low <= value.value <= value.high


def test_unknown_metrics_and_missing_pictures_are_refused():
    with pytest.raises(ConfigError, match="Did you mean psnr"):
        check_names(["pnsr"])
    with pytest.raises(ConfigError, match="fd needs samples"):
        measure(["fd"], QualityPictures(pictures()))


def test_the_originals_features_are_cached_and_a_damaged_cache_is_made_anew(tmp_path: Path):
    found = QualityPictures(pictures(), samples=pictures(seed=1))
    first = measure(["fd"], found, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    assert measure(["fd"], found, cache=tmp_path) == first
    kept.write_bytes(b"broken")
    assert measure(["fd"], found, cache=tmp_path) == first
    assert kept.read_bytes() == content
    for damaged in (torch.zeros(3, 5), torch.full((64, 3), math.nan)):
        kept.write_bytes(save({"features": damaged}))
        assert measure(["fd"], found, cache=tmp_path) == first
        assert kept.read_bytes() == content


def test_the_cache_tells_the_same_bytes_in_another_shape_apart(tmp_path: Path):
    small = pictures()
    large = small.reshape(16, 3, 32, 32)
    measure(["rfd"], QualityPictures(small, small.flip(3)), cache=tmp_path)
    found = QualityPictures(large, large.flip(2))
    assert measure(["rfd"], found, cache=tmp_path) == measure(["rfd"], found)


def test_equal_pictures_have_no_psnr_interval():
    value = measure(["psnr"], QualityPictures(pictures(), pictures()))["psnr_db"]
    assert value.value == math.inf
    assert (value.std, value.low, value.high) == (None, None, None)


def test_too_few_or_unmatched_pictures_are_refused():
    with pytest.raises(ConfigError, match="precision cannot be measured"):
        measure(["precision"], QualityPictures(pictures(), samples=pictures(3)))
    with pytest.raises(ConfigError, match="are not those of the originals"):
        measure(["psnr"], QualityPictures(pictures(8), pictures(7)))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("resnet21", "known are resnet20"), ("math:pi", "known are"), ("nowhere:f", "nowhere")],
)
def test_an_unknown_extractor_is_refused(name: str, complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        load_extractor(name, CPU)


def test_an_extractor_lacking_its_name_is_refused():
    with pytest.raises(ConfigError, match="needs `name`"):
        load_extractor("builtins:dict", CPU)


def test_missing_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("PELAP_DATA", raising=False)
    with pytest.raises(DataError, match="set PELAP_DATA"):
        load_extractor("resnet20", CPU)
    monkeypatch.setenv("PELAP_DATA", str(tmp_path))
    with pytest.raises(DataError, match="No ResNet-20 weights"):
        load_extractor("resnet20", CPU)


def test_resnet20_has_its_published_size():
    assert sum(p.numel() for p in ResNet20().parameters()) == 269_722 + 0 * 64


def test_resnet20_recognises_real_pictures_and_measures_the_known_distances(cifar10: Path):
    splits = load_pictures(DataConfig(source="cifar10", num_train=3000, num_test=3000), 0)
    network = load_extractor("resnet20", CPU)
    assert isinstance(network, ResNet20)
    test = splits.test.fetch(torch.arange(3000))
    right = network.classify(test[:1000]) == splits.test.labels[:1000]
    assert float(right.float().mean()) > 0.9
    assert extract(network, test[:4], CPU).shape == (4, 64)
    source = torch.Generator().manual_seed(0)
    noise = 12 * torch.randn(test.shape, generator=source)
    noisy = (test.float() + noise).round().clamp(0, 255).to(torch.uint8)
    train = splits.train.fetch(torch.arange(3000))
    found = measure_quality(
        ["rfd", "fd"], QualityPictures(test, noisy, train), "resnet20", device=CPU
    )
    assert 8 < found["rFD-ResNet20"].value < 11
    assert found["FD-ResNet20"].value < 0.15
