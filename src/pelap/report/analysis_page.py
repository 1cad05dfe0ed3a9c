"""One self-contained page about an analysis."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

import pelap
from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import Recommendation
from pelap.config.run_folder import write_whole
from pelap.report import analysis_figures as figures
from pelap.report import analysis_heat_maps as heat_maps
from pelap.report.canvas import drawing
from pelap.report.numbers import significant
from pelap.report.run_page import Card, render
from pelap.report.run_table import Table


def write_analysis(analysis: Analysis, recommendation: Recommendation | None, output: Path) -> Path:
    """Write output/analysis.html (self-contained) and output/figures/*.png.

    Everything is drawn before the first file is written.

    Args:
        analysis: From `analyze`.
        recommendation: What to keep, shown first; None where none was asked for.
        output: Folder, made if need be.

    Returns:
        Path of the page.
    """
    cards = draw_cards(analysis, recommendation)
    channels = "channel" if analysis.num_channels == 1 else "channels"
    page = render(
        "analysis.html.j2",
        title=f"{analysis.name}: {analysis.num_channels} latent {channels}",
        analysis=analysis,
        recommendation=recommendation,
        command=prune_command(recommendation),
        rotation=rotation_hint(analysis, recommendation),
        channels=channel_table(analysis, recommendation),
        criteria=criteria_table(analysis, recommendation),
        cards=cards,
        pelap_version=pelap.__version__,
    )
    folder = output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for card in cards:
        write_whole(folder / f"{card.name}.png", card.image.png)
    write_whole(output / "analysis.html", page.encode())
    return output / "analysis.html"


def prune_command(recommendation: Recommendation | None) -> str:
    """What to type to get the recommended model."""
    if recommendation is None:
        return "pelap prune MODEL --max-psnr-drop 0.3 --analysis DIR --output OUT"
    kept = ",".join(map(str, recommendation.channels))
    comma = "," if recommendation.num_kept == 1 else ""
    return f"pelap prune MODEL --keep {kept}{comma} --analysis DIR --output OUT"


def rotation_hint(analysis: Analysis, recommendation: Recommendation | None) -> str | None:
    """Whether a change of basis would cost less than the recommended channels."""
    if recommendation is None:
        return None
    count = recommendation.num_kept
    found = {one.kind: dict(zip(one.num_kept, one.psnr_db, strict=True)) for one in
             analysis.rotations}  # fmt: skip
    psnr_db = {kind: curve[count] for kind, curve in found.items() if count in curve}
    kind = max(psnr_db, key=lambda name: psnr_db[name], default=None)
    if kind is None or psnr_db[kind] <= recommendation.psnr_db:
        return None
    drop = analysis.psnr_db - psnr_db[kind]
    return (
        f"As many directions of a rotated basis lose {drop:.2f} dB: --keep {count} --rotate {kind}."
    )


def draw_cards(analysis: Analysis, recommendation: Recommendation | None) -> list[Card]:
    """Every figure for which the analysis holds something."""
    cards = [_curves_card(analysis, recommendation), *_channel_cards(analysis)]
    if len(analysis.agreement.names) > 1 and analysis.num_channels > 1:
        cards.append(_card(
            "agreement", "Do the criteria agree?",
            "Each number compares two orders of the channels. 1: the same order; 0: unrelated; "
            "−1: reversed; –: one of the two holds all channels to be equal.",
            f"Heat map of Kendall's τ between {', '.join(analysis.agreement.names)}.",
            lambda: heat_maps.draw_agreement(analysis),
        ))  # fmt: skip
    if analysis.timestep_bands and analysis.channels[0].taylor:
        cards.append(_card(
            "taylor", "What the denoiser uses",
            "How strongly the denoiser's loss pulls on each channel, beside the mean channel of "
            "the same timesteps. Purple: less, orange: more. Top: little noise; bottom: much.",
            f"Heat map of {analysis.num_channels} channels and "
            f"{len(analysis.timestep_bands)} bands of timesteps.",
            lambda: heat_maps.draw_taylor(analysis),
        ))  # fmt: skip
    shown, known = len(heat_maps.class_rows(analysis)), len(analysis.class_names)
    if shown:
        limit = f" Shown are {shown} of {known} classes." if shown < known else ""
        cards.append(_card(
            "classes", "By class",
            "Where rows differ within a column, that channel matters to some classes more than to "
            f"others.{limit}",
            f"Heat map of the PSNR lost without each of {analysis.num_channels} channels, for "
            f"{shown} classes.",
            lambda: heat_maps.draw_classes(analysis),
        ))  # fmt: skip
    return cards


def _curves_card(analysis: Analysis, recommendation: Recommendation | None) -> Card:
    count = _compared_at(analysis, recommendation)
    best = max(analysis.criteria, key=lambda one: one.at(count).psnr_db)
    return _card(
        "curves", "Channels kept against quality",
        f"On {analysis.num_curve:,} pictures, with {analysis.fill} fill for the removed channels. "
        "Higher is better above, lower is better below. The band spans the random draws: a "
        "criterion inside it does no better than a lucky draw. Rotations keep directions instead "
        "of channels. Where lines coincide, the thinner lies on the wider.",
        f"PSNR against the number of kept channels. With {count} of {analysis.num_channels}: "
        f"{best.name} {best.at(count).psnr_db:.2f} dB, random "
        f"{_random_at(analysis, count):.2f} dB; with all {analysis.psnr_db:.2f} dB.",
        lambda: figures.draw_curves(analysis, recommendation),
    )  # fmt: skip


def _channel_cards(analysis: Analysis) -> list[Card]:
    order = figures.importance_order(analysis)
    tau = _tau(analysis, "variance", "leave_one_out")
    agrees = "" if tau is None else (
        f" The variance beside it agrees with this order by a Kendall's τ of {_signed(tau)} "
        "(1: the same order, 0: unrelated)."
    )  # fmt: skip
    r2 = [one.r2 for one in analysis.channels]
    return [
        _card("channels", "What each channel is worth",
              "Each channel left out alone, most costly first. Where the two dots lie apart, the "
              f"other channels know what this one says.{agrees}",
              f"PSNR lost without each channel, most for {order[0]} "
              f"({_signed(analysis.channels[order[0]].leave_one_out_db)} dB), least for "
              f"{order[-1]} ({_signed(analysis.channels[order[-1]].leave_one_out_db)} dB).",
              lambda: figures.draw_channels(analysis)),
        _card("spectrum", "Redundancy",
              "Left: a steep fall means that few directions hold most of what varies. Right: near "
              "1, the other channels predict this one.",
              f"Eigenvalues of the covariance as shares; R² from {_signed(min(r2))} to "
              f"{_signed(max(r2))}.",
              lambda: figures.draw_spectrum(analysis)),
        _card("matrices", "What the decoder responds to",
              "Left: how much errors in two channels raise the decoded error together; a dark "
              "diagonal cell is a channel in which errors show. Right: which channels vary "
              "together.",
              f"Two heat maps, {analysis.num_channels} × {analysis.num_channels}.",
              lambda: heat_maps.draw_matrices(analysis)),
    ]  # fmt: skip


def _card(name: str, title: str, caption: str, alt: str, draw: Callable[[], Figure]) -> Card:
    return Card(name, title, caption, alt, drawing(draw))


def channel_table(analysis: Analysis, recommendation: Recommendation | None) -> Table:
    """One row a channel, most costly first."""
    header = ["channel", "PSNR lost, dB", "… predicted instead", "R²", "std", "KL, nats",
              "decoder sensitivity", "active"]  # fmt: skip
    if recommendation is not None:
        header.insert(1, "kept")
    rows = []
    for index in figures.importance_order(analysis):
        one = analysis.channels[index]
        row = [
            str(one.channel), _signed(one.leave_one_out_db), _signed(one.leave_one_out_linear_db),
            _signed(one.r2), significant(one.std), significant(one.kl),
            f"{one.decoder_sensitivity:.2g}",
            "yes" if one.active else "no",
        ]  # fmt: skip
        if recommendation is not None:
            row.insert(1, "yes" if one.channel in recommendation.channels else "no")
        rows.append(row)
    return Table(header, rows)


def criteria_table(analysis: Analysis, recommendation: Recommendation | None) -> Table:
    """What each criterion is, its order and what that loses; least first, beside random choices."""
    count = _compared_at(analysis, recommendation)
    found = [
        (analysis.psnr_db - one.at(count).psnr_db, one.name, " ".join(map(str, one.ranking)),
         one.description)
        for one in analysis.criteria
    ]  # fmt: skip
    random = analysis.psnr_db - _random_at(analysis, count)
    num_draws = len(analysis.random.psnr_db[0])
    found.append((random, "random", "–", f"Channels at random: mean of {num_draws} draws."))
    found.sort(key=lambda row: row[0])
    rows = [[name, _signed(loss), order, text] for loss, name, order, text in found]
    header = ["criterion", f"dB lost with {count} kept", "channels, best first", "what it is"]
    return Table(header, rows)


def _compared_at(analysis: Analysis, recommendation: Recommendation | None) -> int:
    """The recommended number of channels, or else about half of them."""
    if recommendation is not None:
        return recommendation.num_kept
    counts = analysis.random.num_kept
    return min(counts, key=lambda count: abs(2 * count - analysis.num_channels))


def _random_at(analysis: Analysis, count: int) -> float:
    return analysis.random.mean_db[analysis.random.num_kept.index(count)]


def _tau(analysis: Analysis, one: str, other: str) -> float | None:
    names = analysis.agreement.names
    if one not in names or other not in names:
        return None
    return analysis.agreement.tau[names.index(one)][names.index(other)]


def _signed(value: float) -> str:
    """Two decimals, with a real minus and no zero below zero."""
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
