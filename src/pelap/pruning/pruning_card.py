"""The model card of a pruned model: what was removed, how, and what it cost."""

from collections.abc import Sequence

from pelap.core.json_values import JsonObject
from pelap.pruning.latents.latent_plan import PrunePlan
from pelap.pruning.pruning_record import PruningRecord, TokensRecord, WidthRecord

FILLS = {
    "zero": "Removed channels are zero in front of the decoder",
    "mean": "Removed channels are replaced by their mean in front of the decoder",
    "linear": "Removed channels are predicted from the kept ones by least squares in front of the "
    "decoder and of the denoiser",
}
ROTATIONS = {
    "pca": "The latents were first turned onto the eigenvectors of their covariance.",
    "decoder": "The latents were first turned so that the kept directions span what the decoder "
    "responds to most (leading eigenvectors of M^½ Σ M^½).",
}


def describe_pruning(
    name: str, plan: PrunePlan | None, record: PruningRecord, history: Sequence[JsonObject]
) -> str:
    """Markdown, for people who have never heard of pelap."""
    width = record.get("width")
    removed = [] if plan is None else [
        "Latent channels were removed from the autoencoder and, where there is one, from the "
        "denoiser"
    ]  # fmt: skip
    if width is not None:
        removed.append("The denoiser was made narrower")
    if "tokens" in record:
        removed.append("The denoiser's patches were made larger")
    lines = [
        f"# {name} {_title(record)}",
        "",
        f"{'. '.join(removed)} by pelap {record['pelap']}. The folder loads like any other: "
        "`DiffusionPipeline.from_pretrained(FOLDER)`.",
        "",
        *([] if plan is None else _what(plan, record)),
        *([_tokens(record["tokens"])] if "tokens" in record else []),
        *([] if width is None else _width(width)),
        "",
        *_costs(plan, record),
        *_history(history),
    ]
    return "\n".join(lines)


def _title(record: PruningRecord) -> str:
    found, width = [], record.get("width")
    others = width is not None or "tokens" in record
    if record["channels_before"] != record["channels_after"] or not others:
        found.append(
            f"with {record['channels_after']} of {record['channels_before']} latent channels"
        )
    if "tokens" in record:
        before, after = record["tokens"]["patch_sizes"]
        found.append(f"with 1 of {(after // before) ** 2} tokens")
    if width is not None:
        found.append(f"with {width['macs'] / width['macs_before']:.0%} of the denoiser's MACs")
    return " and ".join(found)


def _tokens(tokens: TokensRecord) -> str:
    before, after = tokens["patch_sizes"]
    return (
        f"- Patches of {before}×{before} latents → {after}×{after}; a denoising step: "
        f"{tokens['macs_before']:,} → {tokens['macs']:,} multiply-accumulates."
    )


def _width(width: WidthRecord) -> list[str]:
    lines = [
        f"- A denoising step: {width['macs_before']:,} → {width['macs']:,} multiply-accumulates; "
        f"units chosen by {width['criterion']}."
    ]
    lines += [
        f"- Config: {name} {before} → {after}." for name, (before, after) in width["config"].items()
    ]
    return lines + [
        f"- Its {name} differs by {share:.1%} of its size."
        for name, share in width["differences"].items()
    ]


def _what(plan: PrunePlan, record: PruningRecord) -> list[str]:
    chosen = "as given" if plan.criterion == "given" else f"chosen by {plan.criterion}"
    if plan.rotation != "none":
        what = f"- Kept: the first {len(plan.channels)} directions of a new basis."
        return [what, f"- {ROTATIONS[plan.rotation]}", f"- {FILLS[plan.fill]}; folded into it."]
    return [
        f"- Kept channels: {', '.join(map(str, plan.channels))} ({chosen}).",
        f"- Removed channels: {', '.join(map(str, plan.removed)) or 'none'}.",
        f"- {FILLS[plan.fill]}; folded into its first layers.",
    ]


def _costs(plan: PrunePlan | None, record: PruningRecord) -> list[str]:
    rows = []
    if (
        "psnr_db_before" in record
        and "psnr_db" in record
        and "num_pictures" in record
        and "data" in record
    ):
        rows.append(f"| PSNR, dB | {record['psnr_db_before']:.2f} | {record['psnr_db']:.2f} |")
        note = f"PSNR over {record['num_pictures']:,} pictures ({record['data']})."
    elif plan is not None:
        note = "What this costs in quality was not measured: no pictures were given."
    elif "denoiser" in record:
        note = f"Predictions over {record['denoiser']['num_pictures']:,} pictures."
    else:
        note = "What this costs in samples was not measured; train it with `pelap recover`."
    if "parameters" in record and "parameters_before" in record:
        rows.append(f"| parameters | {record['parameters_before']:,} | {record['parameters']:,} |")
    if "denoiser" in record:
        rows += _denoiser(record["denoiser"])
    channels = f"| latent channels | {record['channels_before']} | {record['channels_after']} |"
    return ["| | before | after |", "|---|---|---|", channels, *rows, "", note, ""]


def _denoiser(found: JsonObject) -> list[str]:
    rows = [f"| prediction differs by | 0 % | {found['relative_error']:.1%} |"]
    if found["followed"] is not None:
        rows.append(f"| follows what it is told | 1 | {found['followed']:.2f} |")
    return rows


def _history(history: Sequence[JsonObject]) -> list[str]:
    if not history:
        return []
    lines = ["Before that:", ""]
    return [*lines, *(f"- {describe_entry(entry)}" for entry in history), ""]


def describe_entry(entry: JsonObject) -> str:
    """One pruning or recovery of a history, in a sentence."""
    if "channels_before" not in entry:
        return f"{entry.get('recovered', '')}: recovered for {entry.get('steps')} steps."
    counts = f"{entry['channels_before']} → {entry['channels_after']} channels"
    what = f"{entry.get('pruned', '')}: {counts}"
    if entry["criterion"] is not None:
        what += (
            f", criterion {entry['criterion']}, fill {entry['fill']}, rotation {entry['rotation']}"
        )
    if "tokens" in entry:
        before, after = entry["tokens"]["patch_sizes"]
        what += f"; patches of {before} → {after}"
    if "width" in entry:
        share = entry["width"]["macs"] / entry["width"]["macs_before"]
        what += f"; denoiser at {share:.0%} of its MACs, criterion {entry['width']['criterion']}"
    return f"{what}."
