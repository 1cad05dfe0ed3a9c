"""The page about an analysis: what its sections hold."""

from pathlib import Path

from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import Recommendation
from pelap.pages import analysis_figures as figures
from pelap.pages.numbers import signed, significant
from pelap.pages.page import (
    Card,
    Items,
    Part,
    Section,
    Table,
    Text,
    draw_card,
    text_table,
    write_page,
)


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
    found = recommendation
    first, *others = draw_cards(analysis, found)
    of_channels = (
        f"Over {analysis.num_pictures:,} pictures, most costly first. PSNR lost: with the "
        "channel's mean in its place, then with what the other channels predict. Decoder "
        "sensitivity: what a small error costs in the decoded picture. Active: the encoder's mean "
        "varies between pictures."
    )
    of_criteria = (
        "Each criterion orders the channels. What its first channels lose is measured on the "
        f"{analysis.num_curve:,} pictures of the curves; those below the row random did worse than "
        "chance there."
    )
    counts = (
        f"{analysis.num_pictures:,} pictures were measured, {analysis.num_search:,} of them for "
        f"the greedy search; the curves are from {analysis.num_curve:,} pictures. Seed "
        f"{analysis.seed}."
    )
    notes = [*analysis.notes, counts]
    if analysis.cost is not None:
        notes.append(f"Effort {analysis.effort}: {analysis.cost.say()}")
    channels = "channel" if analysis.num_channels == 1 else "channels"
    return write_page(
        output / "analysis.html",
        "analysis",
        f"{analysis.name}: {analysis.num_channels} latent {channels}",
        _head(analysis, found),
        [
            Section("How few channels are enough?", [first]),
            Section("Channels", [channel_table(analysis, found), Text(of_channels, "note")]),
            Section("Criteria", [criteria_table(analysis, found), Text(of_criteria, "note")]),
            Section("Figures", others),
            Section("Notes", [Items(notes), *_cost_table(analysis)]),
        ],
    )


def _cost_table(analysis: Analysis) -> list[Part]:
    """Calls of the autoencoder a picture by stage, where they were counted."""
    cost = analysis.cost
    if cost is None:
        return []
    rows = [
        [stage.stage, *(f"{calls / cost.num_pictures:.1f}" for calls in
                        (stage.encodes, stage.decodes, stage.backward))]
        for stage in cost.stages
    ]  # fmt: skip
    return [text_table(["Calls a picture", "encodes", "decodes", "backward"], rows)]


def _head(analysis: Analysis, recommendation: Recommendation | None) -> list[Part]:
    """What to keep and what that costs, then the command that does it."""
    command = [
        Text(prune_command(recommendation), "command"),
        Text("MODEL is what was analysed, DIR the folder of this page.", "note"),
    ]
    whole = f"{analysis.psnr_db:.2f} dB with all"
    if recommendation is None:
        ask = f"{whole} channels. Ask for a recommendation with --keep or --max-psnr-drop."
        return [Text(ask, "lead"), *command]
    cost = (
        f"{recommendation.psnr_db:.2f} dB with them, {whole}; random channels, as many, lose "
        f"{recommendation.random_drop_db:.2f} dB."
    )
    notes = [cost, rotation_hint(analysis, recommendation)]
    return [
        Text(recommendation.reason, "lead"),
        Items(recommendation.channels, chips="Channels to keep"),
        *(Text(note, "note") for note in notes if note),
        *command,
    ]


def prune_command(recommendation: Recommendation | None) -> str:
    """What to type to get the recommended model."""
    chosen = "--max-psnr-drop 0.3"
    if recommendation is not None:
        comma = "," if recommendation.num_kept == 1 else ""
        chosen = f"--keep {','.join(map(str, recommendation.channels))}{comma}"
    return f"pelap prune MODEL {chosen} --analysis DIR --output OUT"


def rotation_hint(analysis: Analysis, recommendation: Recommendation | None) -> str | None:
    """Whether a change of basis would cost less than the recommended channels."""
    if recommendation is None:
        return None
    count = recommendation.num_kept
    psnr_db = {
        curve.kind: curve.psnr_db[curve.num_kept.index(count)]
        for curve in analysis.rotations
        if count in curve.num_kept
    }
    kind = max(psnr_db, key=lambda name: psnr_db[name], default=None)
    if kind is None or psnr_db[kind] <= recommendation.psnr_db:
        return None
    drop = analysis.psnr_db - psnr_db[kind]
    return (
        f"As many directions of a rotated basis lose {drop:.2f} dB: --keep {count} --rotate {kind}."
    )


def draw_cards(analysis: Analysis, recommendation: Recommendation | None) -> list[Card]:
    """Every figure for which the analysis holds something."""
    count = _compared_at(analysis, recommendation)
    best = max(analysis.criteria, key=lambda criterion: criterion.at(count).psnr_db)
    curves = draw_card(
        "curves",
        "Channels kept against quality",
        f"On {analysis.num_curve:,} pictures, with {analysis.fill} fill for the removed channels. "
        "Higher is better above, lower is better below. The band spans the random draws: a "
        "criterion inside it does no better than a lucky draw. Rotations keep directions instead "
        "of channels. Where lines coincide, the thinner lies on the wider.",
        f"PSNR against the number of kept channels. With {count} of {analysis.num_channels}: "
        f"{best.name} {best.at(count).psnr_db:.2f} dB, random "
        f"{_random_at(analysis, count):.2f} dB; with all {analysis.psnr_db:.2f} dB.",
        lambda: figures.draw_curves(analysis, recommendation),
    )
    return [curves, *_channel_cards(analysis), *_other_cards(analysis)]


def _channel_cards(analysis: Analysis) -> list[Card]:
    order = figures.importance_order(analysis)
    most, least = (
        f"{channel} ({signed(analysis.channels[channel].leave_one_out_db)} dB)"
        for channel in (order[0], order[-1])
    )
    r2 = [channel.r2 for channel in analysis.channels]
    return [
        draw_card(
            "channels",
            "What each channel is worth",
            "Each channel left out alone, most costly first. Where the two dots lie apart, the "
            f"other channels know what this one says.{_variance_sentence(analysis)}",
            f"PSNR lost without each channel, most for {most}, least for {least}.",
            lambda: figures.draw_channels(analysis),
        ),
        draw_card(
            "spectrum",
            "Redundancy",
            "Left: a steep fall means that few directions hold most of what varies. Right: near "
            "1, the other channels predict this one.",
            f"Eigenvalues of the covariance as shares; R² from {signed(min(r2))} to "
            f"{signed(max(r2))}.",
            lambda: figures.draw_spectrum(analysis),
        ),
        draw_card(
            "matrices",
            "What the decoder responds to",
            "Left: how much errors in two channels raise the decoded error together; a dark "
            "diagonal cell is a channel in which errors show. Right: which channels vary together.",
            f"Two heat maps, {analysis.num_channels} × {analysis.num_channels}.",
            lambda: figures.draw_matrices(analysis),
        ),
    ]


def _variance_sentence(analysis: Analysis) -> str:
    """How far the variance, which is cheap, orders the channels as leaving them out does."""
    names = analysis.agreement.names
    if not {"variance", "leave_one_out"} <= set(names):
        return ""
    tau = analysis.agreement.tau[names.index("variance")][names.index("leave_one_out")]
    if tau is None:
        return ""
    return (
        f" The variance beside it agrees with this order by a Kendall's τ of {signed(tau)} "
        "(1: the same order, 0: unrelated)."
    )


def _other_cards(analysis: Analysis) -> list[Card]:
    """What not every analysis holds: several criteria, a denoiser, classes."""
    cards, num_channels = [], analysis.num_channels
    if len(analysis.agreement.names) > 1 and num_channels > 1:
        agreement = draw_card(
            "agreement",
            "Do the criteria agree?",
            "Each number compares two orders of the channels. 1: the same order; 0: unrelated; "
            "−1: reversed; –: one of the two holds all channels to be equal.",
            f"Heat map of Kendall's τ between {', '.join(analysis.agreement.names)}.",
            lambda: figures.draw_agreement(analysis),
        )
        cards.append(agreement)
    if analysis.timestep_bands and analysis.channels[0].taylor:
        taylor = draw_card(
            "taylor",
            "What the denoiser uses",
            "How strongly the denoiser's loss pulls on each channel, beside the mean channel of "
            "the same timesteps. Purple: less, orange: more. Top: little noise; bottom: much.",
            f"Heat map of {num_channels} channels and {len(analysis.timestep_bands)} bands of "
            "timesteps.",
            lambda: figures.draw_taylor(analysis),
        )
        cards.append(taylor)
    shown, known = len(figures.class_rows(analysis)), len(analysis.class_names)
    if shown:
        limit = f" Shown are {shown} of {known} classes." if shown < known else ""
        classes = draw_card(
            "classes",
            "By class",
            "Where rows differ within a column, that channel matters to some classes more than to "
            f"others.{limit}",
            f"Heat map of the PSNR lost without each of {num_channels} channels, for {shown} "
            "classes.",
            lambda: figures.draw_classes(analysis),
        )
        cards.append(classes)
    return cards


def channel_table(analysis: Analysis, recommendation: Recommendation | None) -> Table:
    """One row a channel, most costly first."""
    header = ["channel", "kept", "PSNR lost, dB", "… predicted instead", "R²", "std", "KL, nats",
              "decoder sensitivity", "active"]  # fmt: skip
    kept = set() if recommendation is None else {*recommendation.channels}
    rows = [
        [
            str(channel.channel),
            "yes" if channel.channel in kept else "no",
            signed(channel.leave_one_out_db),
            signed(channel.leave_one_out_linear_db),
            signed(channel.r2),
            significant(channel.std),
            significant(channel.kl),
            f"{channel.decoder_sensitivity:.2g}",
            "yes" if channel.active else "no",
        ]
        for channel in (analysis.channels[index] for index in figures.importance_order(analysis))
    ]
    if recommendation is None:
        for row in (header, *rows):
            del row[1]
    return text_table(header, rows, "compact")


def criteria_table(analysis: Analysis, recommendation: Recommendation | None) -> Table:
    """What each criterion is, its order and what that loses; least first, beside random choices."""
    count = _compared_at(analysis, recommendation)
    num_draws = len(analysis.random.psnr_db[0])
    by_chance = f"Channels at random: mean of {num_draws} draws."
    curves = [(_random_at(analysis, count), "random", "–", by_chance)]
    for criterion in analysis.criteria:
        ranking = " ".join(map(str, criterion.ranking))
        curves.append((criterion.at(count).psnr_db, criterion.name, ranking, criterion.description))
    rows = [
        [name, signed(analysis.psnr_db - psnr_db), ranking, text]
        for psnr_db, name, ranking, text in sorted(curves, key=lambda row: -row[0])
    ]
    header = ["criterion", f"dB lost with {count} kept", "channels, best first", "what it is"]
    return text_table(header, rows, "compact wide")


def _compared_at(analysis: Analysis, recommendation: Recommendation | None) -> int:
    """The recommended number of channels, or else about half of them."""
    if recommendation is not None:
        return recommendation.num_kept
    counts = analysis.random.num_kept
    return min(counts, key=lambda count: abs(2 * count - analysis.num_channels))


def _random_at(analysis: Analysis, count: int) -> float:
    return analysis.random.mean_db[analysis.random.num_kept.index(count)]
