"""The trade-off page: fronts, words, figures and the page itself."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_tags import Tags
from shown import curves, entries, styled, texts, titles, words_of

from pelap.pages.canvas import drawing
from pelap.pages.tradeoff_figures import FRONT, LOOKS, draw_tradeoff
from pelap.pages.tradeoff_page import tradeoff_table, write_tradeoff
from pelap.pages.tradeoff_points import (
    LATENT_BYTES,
    MACS,
    NOISE_LOSS,
    PARAMETERS,
    PSNR,
    Role,
    TradeoffPoint,
    Value,
    describe_history,
    role_of,
    to_point,
)
from pelap.pages.tradeoff_words import (
    chance_sentence,
    compare_with_chance,
    cost_sentence,
    dominates,
    domination_sentences,
    lead,
    main_metric,
    pareto_front,
)

FD = "FD-ResNet20"
pytestmark = pytest.mark.usefixtures("small_figures")


def make_point(
    label: str, role: Role, fd: float, macs: float = 6e6, time: float = 0.6, width: float = 1.0
) -> TradeoffPoint:
    """`width`: half of each interval."""
    quality = {PSNR: Value(24.0, 23.9, 24.1), FD: Value(fd, fd - width, fd + width)}
    cost = {"time_batch_1": Value(time, time - 0.02, time + 0.02), MACS: Value(macs),
            PARAMETERS: Value(1e5 + macs / 10), LATENT_BYTES: Value(2048)}  # fmt: skip
    return TradeoffPoint(label, role, quality, cost)


def three() -> list[TradeoffPoint]:
    return [
        make_point("whole", "unpruned", 40, macs=12e6, time=1.0),
        make_point("chance", "random", 60),
        make_point("chosen", "pruned", 45),
    ]


numbers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(numbers, st.booleans())
def test_the_front_is_what_nothing_dominates(models: list[tuple[int, int]], higher: bool):
    costs, qualities = [cost for cost, _ in models], [quality for _, quality in models]
    sign = 1 if higher else -1

    def beaten(index: int) -> bool:
        mine = (costs[index], -sign * qualities[index])
        rest = [(c, -sign * q) for c, q in models]
        return any(c <= mine[0] and q <= mine[1] and (c, q) != mine for c, q in rest)

    front = pareto_front(costs, qualities, higher_is_better=higher)
    assert set(front) == {index for index in range(len(models)) if not beaten(index)}
    assert len(set(front)) == len(front)
    assert [costs[index] for index in front] == sorted(costs[index] for index in front)


def test_equals_stand_on_the_front_together_and_lengths_must_fit():
    assert pareto_front([2, 1, 1, 1], [5, 7, 7, 9], higher_is_better=False) == [1, 2, 0]
    assert pareto_front([2, 1, 1, 1], [5, 7, 7, 9], higher_is_better=True) == [3]
    with pytest.raises(ValueError, match="zip"):
        pareto_front([1, 2], [1], higher_is_better=True)


MEASURED = {
    "quality": {FD: {"value": 40.0, "low": 39.0, "high": 41.0}},
    "cost": {
        "times_as_fast": [{"batch_size": 16, "ratio": 2.0, "ratio_min": 1.6, "ratio_max": 2.5}],
        "macs": {"denoiser_step": 5}, "parameters": {"total": 7}, "latent_bytes": 9,
    },
}  # fmt: skip
LATENTS = {"pruned": "2026-01-01", "channels_before": 16, "channels_after": 8,
           "criterion": "elimination", "rotation": "none"}  # fmt: skip
WIDTH = {"pruned": "2026-01-01", "channels_before": 16, "channels_after": 16, "criterion": None,
         "width": {"criterion": "taylor", "macs_before": 200, "macs": 110}}  # fmt: skip
RECOVERED = {"recovered": "2026-01-02", "steps": 2000}
BY_CHANCE = LATENTS | {"criterion": "random"}
THIN_BY_CHANCE = WIDTH | {"width": WIDTH["width"] | {"criterion": "random"}}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("history", "role", "words"),
    [
        ([], "unpruned", "as trained"),
        ([RECOVERED], "unpruned", "recovered 2,000 steps"),
        ([LATENTS], "pruned", "8 of 16 latents, elimination"),
        ([BY_CHANCE, RECOVERED], "random", "8 of 16 latents, random; recovered 2,000 steps"),
        ([THIN_BY_CHANCE], "random", "width random 55 % MACs"),
        ([BY_CHANCE | {"width": WIDTH["width"]}], "pruned",
         "8 of 16 latents, random; width taylor 55 % MACs"),
        ([BY_CHANCE, LATENTS], "pruned",
         "8 of 16 latents, random; 8 of 16 latents, elimination"),
        ([LATENTS | {"rotation": "pca"}], "pruned", "8 of 16 latents, pca rotation"),
    ],
)  # fmt: skip
def test_roles_and_words_from_the_record(history: list[dict], role: str, words: str):
    assert role_of(history) == role
    assert describe_history(history) == words
    point = to_point(MEASURED, "a", [*history, RECOVERED, RECOVERED])
    assert (point.role, point.training_steps) == (role, 2000 * (2 + history.count(RECOVERED)))


def test_a_time_is_the_inverse_of_how_many_times_as_fast():
    point = to_point(MEASURED, "a", [])
    assert point.cost["time_batch_16"] == Value(0.5, 0.4, 0.625)
    assert [point.cost[name].mean for name in (MACS, PARAMETERS, LATENT_BYTES)] == [5, 7, 9]
    assert point.quality[FD] == Value(40, 39, 41)


def test_what_is_said_about_chance():
    whole, chance, chosen = three()
    for fd, outcome, words in ((45, 1, "better than"), (60.5, 0, "not told apart from"),
                               (70, -1, "worse than")):  # fmt: skip
        points = [whole, chance, make_point("chosen", "pruned", fd)]
        (held,) = compare_with_chance(points, FD)
        assert held.outcome == outcome
        assert lead([held], FD) == (
            f"chosen is {words} random removal of the same size in FD-ResNet20."
        )
        assert f"chosen against chance: {fd:.1f} against 60.0" in chance_sentence(held, FD)

    luckier = make_point("luckier", "random", 50)
    (held,) = compare_with_chance([whole, chance, luckier, chosen], FD)
    assert "luckier, the best of 2 random models: 45.0 against 50.0" in chance_sentence(held, FD)

    better_trained = replace(luckier, training_steps=100)
    (held,) = compare_with_chance([whole, chance, better_trained, chosen], FD)
    assert held.random is chance
    (held,) = compare_with_chance([whole, better_trained, chosen], FD)
    assert "not recovered alike (0 and 100 steps)" in chance_sentence(held, FD)


def test_chance_of_another_size_is_no_rival():
    points = [three()[0], make_point("chance", "random", 60, macs=9e6), three()[2]]
    (held,) = compare_with_chance(points, FD)
    assert held.random is None
    assert "chosen has no random model of its size here" in chance_sentence(held, FD)
    assert lead([held], FD) == "No pruned model here has a random one of its size beside it."


def test_several_pruned_models_are_counted():
    points = [*three(), make_point("bad", "pruned", 70), make_point("same", "pruned", 60)]
    held = compare_with_chance(points, FD)
    assert lead(held, FD) == (
        "One of the 3 pruned models is better than random removal of the same size in "
        "FD-ResNet20; 1 did worse."
    )
    assert lead(held[1:], FD).startswith("None of the 2 pruned models is better")
    assert lead([held[0]] * 2, FD).startswith("All 2 pruned models are better")


def test_domination_needs_every_cost_and_the_quality():
    whole, chance, chosen = three()
    assert dominates(chosen, chance, FD)
    assert not dominates(chance, chosen, FD)
    assert not dominates(chosen, whole, FD)  # cheaper, but worse
    assert not dominates(chosen, chosen, FD)
    slower = make_point("slower", "pruned", 45, time=0.7)
    assert dominates(chosen, slower, FD)
    assert not dominates(chosen, make_point("noisy", "pruned", 45, time=0.61), FD)
    assert domination_sentences([whole, chance, chosen, slower], FD) == [
        "chosen dominates chance and slower: it costs no more in any respect, is no worse in "
        "FD-ResNet20, and better in one of these.",
    ]


def test_costs_are_said_relative_to_the_unpruned_model():
    whole, _, chosen = three()
    assert cost_sentence(chosen, whole, FD) == (
        "chosen beside whole: time (1 at a time) 60 %, MACs of a step 50 %, parameters 54 %, bytes "
        "of a latent 100 %; FD-ResNet20 45.0 against 40.0, worse."
    )
    noisy = make_point("noisy", "pruned", 40.5, time=0.97)
    assert "time (1 at a time) not told apart" in cost_sentence(noisy, whole, FD)
    assert cost_sentence(noisy, whole, FD).endswith("40.5 against 40.0, not told apart.")


def test_without_distances_the_psnr_is_the_main_metric():
    points = three()
    assert main_metric(points) == FD
    for point in points:
        point.quality[f"{FD}-to-unpruned"] = point.quality.pop(FD)
    assert main_metric(points) == PSNR
    bare = [replace(p, quality={NOISE_LOSS: Value(0.1), PSNR: Value(24.0)}) for p in points]
    assert main_metric(bare) == PSNR


def test_the_table_marks_the_best_and_relates_to_the_unpruned():
    points = three()
    points[1].quality[NOISE_LOSS] = Value(0.1234)
    points[2] = replace(points[2], description="8 of 16 latents")
    table = tradeoff_table(points, points[0])
    assert table.header[:4] == ["model", "PSNR in dB ↑", "FD-ResNet20 ↓", "noise loss ↓"]
    column = {name: place for place, name in enumerate(table.header)}
    whole, chance, chosen = table.rows
    assert [(row[0].text, row[0].notes) for row in table.rows] == [
        ("whole", ("unpruned",)), ("chance", ("random",)), ("chosen", ("pruned: 8 of 16 latents",))
    ]  # fmt: skip
    assert [row[2].best for row in (whole, chance, chosen)] == [True, False, False]
    assert chosen[2].notes == ("44.0 to 46.0", "× 1.12")
    assert chosen[1].notes == ("23.90 to 24.10", "+0.00 dB")
    assert not any(row[1].best for row in (whole, chance, chosen))
    assert [row[3].text for row in (whole, chance, chosen)] == ["–", "0.1234", "–"]
    assert not any(row[3].best for row in (whole, chance, chosen))
    macs = column["MACs of a step ↓"]
    assert (chosen[macs].text, chosen[macs].notes, chosen[macs].best) == (
        "6.00 M", ("× 0.50",), True
    )  # fmt: skip
    assert whole[macs].notes == ()
    time = column["time, 1 at a time (reference: 1) ↓"]
    assert (whole[time].notes, chosen[time].notes) == ((), ("0.580 to 0.620",))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_panel_for_each_cost_shows_every_model(columns: int):
    points = three()
    figure = styled(lambda: draw_tradeoff(points, FD, columns))
    assert titles(figure) == [
        "time, 1 at a time (reference: 1)", "MACs of a step", "parameters", "bytes of a latent"
    ]  # fmt: skip
    costs = ["time_batch_1", MACS, PARAMETERS, LATENT_BYTES]
    for place, (axes, cost) in enumerate(zip(figure.axes[:4], costs, strict=True)):
        assert texts(axes) == ["whole", "chance", "chosen"]
        assert axes.get_ylabel() == ("FD-ResNet20 ↓" if place % columns == 0 else "")
        marks = [curves(axes, LOOKS[point.role][1]) for point in points]
        assert marks == [[([p.cost[cost].mean], [p.quality[FD].mean])] for p in points]
        upright = [([p.cost[cost].mean] * 2, list(p.quality[FD].ends)) for p in points]
        assert all(bar in curves(axes) for bar in upright)
        assert ([points[0].cost[cost].mean] * 2, [0, 1]) in curves(axes)  # dotted: unpruned


def test_the_front_is_drawn_as_steps_over_the_shade():
    """From the worst end over each model of the front to the right end."""
    points = [*three(), make_point("dear", "pruned", 42, macs=8e6)]
    axes = styled(lambda: draw_tradeoff(points, FD, 2)).axes[1]
    (front,) = [line for line in axes.lines if line.get_color() == FRONT]
    right, worst = axes.get_xlim()[1], axes.get_ylim()[1]
    assert np.column_stack([front.get_xdata(), front.get_ydata()]).tolist() == [
        [6e6, worst], [6e6, 45], [8e6, 45], [8e6, 42], [12e6, 42], [12e6, 40], [right, 40]
    ]  # fmt: skip
    assert len(axes.collections) == 1


def test_the_legend_names_the_roles_that_are_there():
    words = ["unpruned", "random", "pruned", "Pareto front"]
    assert entries(draw_tradeoff(three(), FD)) == words
    in_an_empty_panel = draw_tradeoff(three(), FD, 3).axes[4].get_legend()
    assert in_an_empty_panel is not None
    assert words_of(in_an_empty_panel.get_texts()) == words
    assert entries(draw_tradeoff(three()[:2], FD)) == ["unpruned", "random", "Pareto front"]


def test_figures_survive_odd_models():
    """Equal costs, infinite quality, a missing metric, names with mathematics, one model."""
    points = three()
    points[1].quality[PSNR] = Value(float("inf"))
    del points[2].quality[PSNR]
    points.append(make_point("$x_1$ " * 20, "pruned", 45))
    cut = r"\$x_1\$ \$x_1\$ \$x_1\$ \$x_…"
    for chosen, fd, psnr in (
        (points, ["whole", "chance", "chosen", cut], ["whole", cut]),
        (points[:1], ["whole"], ["whole"]),
        (points[:2], ["whole", "chance"], ["whole"]),
    ):
        for metric, names in ((FD, fd), (PSNR, psnr)):
            figure = styled(lambda c=chosen, m=metric: draw_tradeoff(c, m, columns=2))
            assert [texts(axes) for axes in figure.axes[:4]] == [names] * 4
            assert drawing(lambda c=chosen, m=metric: draw_tradeoff(c, m, columns=2)).png


def test_page_holds_all_it_shows(tmp_path: Path):
    points = [*three(), make_point('<b>"&$x_1$', "pruned", 50, macs=3e6)]
    path = write_tradeoff(points, ["A note about <curves>."], tmp_path / "out")

    page = path.read_text()
    tags = Tags(page)
    assert path == tmp_path / "out" / "tradeoff.html"
    assert not re.search(r"https?:|//", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert not {"script", "b", "curves"} & set(tags.names)
    assert len(tags.addresses) == 4
    assert all(source.startswith("data:image/png;base64,") for source in tags.addresses)
    files = sorted(file.name for file in (tmp_path / "out" / "figures").iterdir())
    assert files == ["tradeoff_FD-ResNet20.png", "tradeoff_psnr_db.png"]
    assert all(len(alt) > 20 for alt in tags.values("alt"))
    for words in (
        "4 models: quality against cost",
        "beside whole.",
        "A note about &lt;curves&gt;.",
        "chosen is better than random removal",
        "&lt;b&gt;&#34;&amp;$x_1$ has no random model",
        "chosen against chance: 45.0 against 60.0",
    ):
        assert words in page, words


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (three()[1:], ["the others are held against chance", "chosen against chance"]),
        (three()[::2], ["chosen beside whole", "No model pruned at random is among them"]),
        (three()[:1], ["whole", "No pruned model here."]),
    ],
)
def test_what_a_missing_model_leaves_unknown_is_said(
    tmp_path: Path, points: list[TradeoffPoint], words: list[str]
):
    page = write_tradeoff(points, [], tmp_path / "out").read_text()
    assert all(text in page for text in words)


def test_a_changed_denoiser_that_was_not_measured_is_never_ranked(tmp_path: Path):
    """Only its untouched autoencoder was measured, which says nothing of what was destroyed."""
    whole, chance, chosen = (
        replace(p, quality={PSNR: p.quality[PSNR]}, denoiser_changed=p.role != "unpruned")
        for p in three()
    )
    points = [whole, chance, chosen]
    assert not any(dominates(one, other, PSNR) for one in points for other in points)
    page = write_tradeoff(points, [], tmp_path / "out").read_text()
    assert not re.search(r"dominates|beaten|in the shade", page)
    assert page.count("samples not measured") >= 4
    assert cost_sentence(chosen, whole, PSNR).endswith(
        "not told apart. That is of its autoencoder: samples not measured."
    )
    figure = draw_tradeoff(points, PSNR)
    assert entries(figure) == ["unpruned", "random", "pruned"]
    assert not [line for axes in figure.axes for line in axes.lines if line.get_color() == FRONT]

    measured = replace(chosen, quality=chosen.quality | {NOISE_LOSS: Value(0.1)})
    assert not measured.is_unknown
    assert not dominates(measured, whole, PSNR)
    assert cost_sentence(measured, whole, PSNR).endswith("says nothing of its changed denoiser.")
    drawn = replace(three()[2], denoiser_changed=True)
    assert dominates(drawn, replace(three()[1], denoiser_changed=True), FD)


def test_distances_of_few_pictures_are_marked_and_not_ranked_by(tmp_path: Path):
    points = three()
    found = MEASURED["quality"][FD] | {"num_pictures": 5000, "num_references": 999}
    few = to_point(MEASURED | {"quality": {FD: found}}, "a", []).quality[FD]
    assert few == Value(40, 39, 41, is_comparable=False)
    points[2].quality[FD] = replace(points[2].quality[FD], is_comparable=False)
    assert main_metric(points) == PSNR
    table = tradeoff_table(points, points[0])
    assert [row[2].text for row in table.rows] == ["40.0", "60.0", "45.0 †"]
    assert not any(row[2].best for row in table.rows)
    assert "not comparable" in table.rows[2][2].notes
    page = write_tradeoff(points, [], tmp_path / "out").read_text()
    assert "† not comparable: a Fréchet distance of fewer than 1,000 pictures." in page
    assert not (tmp_path / "out" / "figures" / "tradeoff_FD-ResNet20.png").exists()
