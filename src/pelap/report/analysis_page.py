"""One self-contained page about an analysis."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

import pelap
from pelap.analysis.recommend import Recommendation
from pelap.analysis.results import Analysis
from pelap.report import analysis_figures as figures
from pelap.report.canvas import drawing
from pelap.report.page import Card, render
from pelap.report.table import Table
from pelap.run_folder import write_whole


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
    page = render(
        "analysis.html.j2",
        title=f"{analysis.name}: {analysis.num_channels} latent channels",
        analysis=analysis,
        recommendation=recommendation,
        command=prune_command(recommendation),
        rotation=rotation_hint(analysis, recommendation),
        channels=channel_table(analysis),
        criteria=criteria_table(analysis),
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
    cards = [
        _card("curves", "Channels kept against quality",
              f"On {analysis.num_curve:,} pictures that chose nothing, with {analysis.fill} fill. "
              "The band spans the random draws. Rotations keep directions instead of channels.",
              lambda: figures.draw_curves(analysis, recommendation)),
        _card("channels", "What each channel is worth",
              "Left alone out, most costly first. Where the two dots lie apart, the other channels "
              "know what this one says. Variance is no measure of it.",
              lambda: figures.draw_channels(analysis)),
        _card("spectrum", "Redundancy",
              "A steep fall of the eigenvalues, or R² near 1, means that fewer channels could hold "
              "the same.",
              lambda: figures.draw_spectrum(analysis)),
        _card("matrices", "What the decoder responds to",
              "Left: how errors in two channels raise the decoded error together. Right: which "
              "channels vary together.",
              lambda: figures.draw_matrices(analysis)),
    ]  # fmt: skip
    if len(analysis.agreement.names) > 1 and analysis.num_channels > 1:
        cards.append(_card(
            "agreement", "Do the criteria agree?",
            "1: the same order of channels; 0: unrelated; −1: reversed.",
            lambda: figures.draw_agreement(analysis),
        ))  # fmt: skip
    if analysis.timestep_bands:
        cards.append(_card(
            "taylor", "What the denoiser uses",
            "First-order effect of each channel on the denoiser's loss, as a share of its band.",
            lambda: figures.draw_taylor(analysis),
        ))  # fmt: skip
    if analysis.channels[0].leave_one_out_db_by_class:
        cards.append(_card(
            "classes", "By class", "A channel can matter to few classes only.",
            lambda: figures.draw_classes(analysis),
        ))  # fmt: skip
    return cards


def _card(name: str, title: str, caption: str, draw: Callable[[], Figure]) -> Card:
    return Card(name, title, caption, f"{title}. {caption}", drawing(draw))


def channel_table(analysis: Analysis) -> Table:
    """One row a channel, most costly first."""
    header = ["channel", "PSNR lost, dB", "… predicted from others", "R²", "std", "KL, nats",
              "decoder sensitivity", "active"]  # fmt: skip
    rows = []
    for index in figures.importance_order(analysis):
        one = analysis.channels[index]
        rows.append([
            str(one.channel), f"{one.leave_one_out_db:.2f}", f"{one.leave_one_out_linear_db:.2f}",
            f"{one.r2:.2f}", f"{one.std:.3g}", f"{one.kl:.3g}", f"{one.decoder_sensitivity:.3g}",
            "yes" if one.active else "no",
        ])  # fmt: skip
    return Table(header, rows)


def criteria_table(analysis: Analysis) -> Table:
    """What each criterion is, and its order."""
    rows = [
        [one.name, one.description, " ".join(map(str, one.ranking))] for one in analysis.criteria
    ]
    return Table(["criterion", "what it is", "channels, best first"], rows)
