"""The page holds all it shows, says what the numbers say, and no more."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from page_tags import Tags

from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError
from pelap.pages import run_words as words
from pelap.pages.reported_run import read_runs
from pelap.pages.run_page import write_report

MakeRun = Callable[..., RunFolder]
pytestmark = pytest.mark.usefixtures("small_figures")


def text_of(page: str) -> str:
    body = re.sub(r"(?s)<style>.*?</style>", "", page)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def change(run: RunFolder, **values: object) -> RunFolder:
    run.evaluation_path.write_text(json.dumps({**run.evaluation(), **values}))
    return run


def test_page_of_three_runs(three_runs: list[RunFolder], tmp_path: Path) -> None:
    path = write_report(three_runs, tmp_path / "out")

    page = path.read_text()
    tags, text = Tags(page), text_of(page)
    assert path == tmp_path / "out" / "report.html"
    assert "script" not in tags.names
    assert "link" not in tags.names
    assert not re.search(r"url\(|@import|https?://", page)
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    alts = tags.values("alt")
    assert all(alts)
    for expected in (
        "0.0236", "0.0284", "0.00021", "47.30", "24.10", "1,687", "27.1 dB", "8.6 dB", "0.0040",
        "748,467", "10,000", "0.0240", "24.67", "22.59", "near 0, all channels", "2606.23086",
        "a reason to call it shrunken", "a reason to call it collapsed",
        "objective.sparsity_weight",
        "x86_64 CPU, 2 threads", "2.13.0", "0.0 of 4", "the decoder never saw",
    ):  # fmt: skip
        assert expected in text, expected
    files = {file.name for file in (tmp_path / "out" / "figures").iterdir()}
    assert len(files) == len(alts)
    assert files == {
        "denoiser_and_latent.png", "sparsity_weight.png", "training_curves.png", "latent_std.png",
        "reconstructions.png", "importance_by_class_2_pelap-a.png",
        "importance_by_class_3_no-sparsity.png", "mask_histograms_2_pelap-a.png",
        "mask_histograms_3_no-sparsity.png", "samples_1_baseline.png", "samples_2_pelap-a.png",
        "samples_3_no-sparsity.png",
    }  # fmt: skip
    for name in files:
        embedded = base64.b64encode((tmp_path / "out" / "figures" / name).read_bytes()).decode()
        assert f"base64,{embedded}" in page
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_summary_of_a_collapse(three_runs: list[RunFolder]) -> None:
    summary = words.summary(read_runs(three_runs))

    assert summary == (
        "Of 3 runs, 1 has shrunken latents and 2 have collapsed. "
        "pelap-a (λ = 0.01) closes its mask: mean 0.0040. "
        "Its denoiser scores 0.0236 with the real latent and 0.0236 with zeros: the latent makes "
        "no difference to it. Decoding through the mask is 70 times worse. "
        "That noise loss is below the baseline's 0.0284, but it is no sign of a better denoiser: "
        "the loss also falls when the latent disappears. "
        "Reconstruction without the mask has a squared error of 24.10 a picture, against 47.30 for "
        "the baseline. "
        "With λ = 0 no term of the loss asks for sparsity, yet the mean mask fell from 0.953 to "
        "0.021."
    )


def test_healthy_run_reads_as_healthy(make_run: MakeRun, tmp_path: Path) -> None:
    page = write_report([make_run("sound", 0.93, 0.01, "healthy")], tmp_path / "out").read_text()

    text = text_of(page)
    assert "sound is healthy. sound (λ = 0.01) closes none of its 4 channels: mean mask" in text
    assert "29 % apart: it reacts to the latent" in text
    assert "Decoding through the mask costs 5.0 % more squared error" in text
    for claim in ("no difference", "collapsed", "shrunken", "worse", "not expected to look"):
        assert claim not in text, claim


def test_one_run_has_no_comparison(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("alone")

    path = write_report([run], run.path)

    text = text_of(path.read_text())
    assert path == run.path / "report.html"
    assert "alone has collapsed." in text
    assert "Where the runs differ" not in text
    assert "What the weight λ changes" not in text
    assert not (run.figures / "sparsity_weight.png").exists()
    assert (run.figures / "samples_1_alone.png").exists()


def test_baseline_alone(make_run: MakeRun, tmp_path: Path) -> None:
    text = text_of(write_report([make_run("base", 1.0, None, "shrunken")], tmp_path).read_text())

    assert "base has shrunken latents. base has no mask; the standard deviation" in text
    assert "Decoding through the mask" not in text
    assert "Mask by class" not in text


def test_baseline_on_other_pictures_is_not_compared(three_runs: list[RunFolder]) -> None:
    change(three_runs[0], num_pictures=500)

    assert "baseline's" not in words.summary(read_runs(three_runs))


def test_partly_closed_mask(make_run: MakeRun) -> None:
    run = change(make_run("half", verdict="healthy"), mask_mean=[0.9, 0.8, 0.01, 0.022])

    assert "closes 2 of its 4 channels: mean mask 0.433" in words.summary(read_runs([run]))


@pytest.mark.parametrize(
    ("zeros", "conclusion"),
    [
        (0.1005, "makes no difference"),
        (0.103, "makes almost no difference"),
        (0.2, "50 % apart: it reacts"),
        (0.08, "20 % apart: it reacts"),
        (float("nan"), "no judgement"),
    ],
)
def test_denoiser_sentence(make_run: MakeRun, zeros: float, conclusion: str) -> None:
    run = change(make_run("run"), diffusion_loss=0.1, zero_latent_diffusion_loss=zeros)

    assert conclusion in words.denoiser_sentence(read_runs([run])[0])


def test_names_and_reasons_are_escaped(make_run: MakeRun, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\"'&"
    run = change(
        make_run(name),
        collapse={"verdict": "collapsed", "reasons": ["</style><script>alert(2)</script>"]},
        mask_mean_by_class={"<b>": [0.1] * 4},
    )

    path = write_report([run], tmp_path / "out")

    tags = Tags(path.read_text())
    assert "script" not in tags.names
    assert "b" not in tags.names
    assert all(address.startswith("data:image/png") for address in tags.addresses)
    assert "&lt;img src=x onerror=alert(1)&gt;" in path.read_text()
    assert (tmp_path / "out/figures/samples_1_img-src-x-onerror-alert-1.png").exists()


def test_diverged_run_is_reported_without_claims(make_run: MakeRun, tmp_path: Path) -> None:
    nothing = float("nan")
    run = change(
        make_run("diverged"),
        diffusion_loss=nothing,
        zero_latent_diffusion_loss=nothing,
        reconstruction_mse_sum=nothing,
        masked_reconstruction_mse_sum=nothing,
        reconstruction_psnr_db=float("inf"),
        mask_mean=[nothing] * 4,
        mask_mean_by_class={"a": [nothing] * 4, "b": [nothing] * 4},
        latent_std=[nothing] * 4,
        masked_latent_std=[nothing] * 4,
    )

    text = text_of(write_report([run], tmp_path / "out").read_text())

    assert "has masks that are not numbers" in text
    assert "no judgement is possible" in text
    assert "gives no finite error" in text
    assert "closes" not in text


def test_runs_of_one_name_are_told_apart(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a/seed"), make_run("b/seed")])

    assert [run.label for run in runs] == ["a/seed", "b/seed"]
    assert words.summary(runs).startswith("Both runs have collapsed. a/seed (λ = 0.01) closes")


def test_run_that_is_not_evaluated(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("done"), make_run("fresh")]
    runs[1].evaluation_path.unlink()

    with pytest.raises(RunError, match="pelap evaluate"):
        write_report(runs, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_unusable_runs_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    old, bare = make_run("old"), make_run("bare")
    old.evaluation_path.write_text(json.dumps({"split": "test"}))
    whole = bytearray(bare.pictures_path.read_bytes())

    with pytest.raises(RunError, match="lacks the field 'run'"):
        write_report([old], tmp_path / "out")
    whole[len(whole) // 2 - 20 : len(whole) // 2 + 20] = bytes(40)
    for content in (b"not an archive", b"", whole):
        bare.pictures_path.write_bytes(content)
        with pytest.raises(RunError, match="cannot be read"):
            write_report([bare], tmp_path / "out")
    with pytest.raises(RunError, match="at least one"):
        write_report([], tmp_path / "out")


def test_second_report_replaces_the_first(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("again")
    first = write_report([run], tmp_path / "out").read_bytes()

    assert write_report([run], tmp_path / "out").read_bytes() == first
