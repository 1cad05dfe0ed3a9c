"""The model card of a pruned model: what was removed, how, and what it cost."""

from typing import Any

from pelap.pruning.plan import PrunePlan

FILLS = {
    "zero": "Removed channels are zero in front of the decoder",
    "mean": "Removed channels are replaced by their mean in front of the decoder",
    "linear": "Removed channels are predicted from the kept ones by least squares in front of the "
    "decoder",
}
ROTATIONS = {
    "pca": "The latents were first turned onto the eigenvectors of their covariance.",
    "decoder": "The latents were first turned so that the kept directions span what the decoder "
    "responds to most (leading eigenvectors of M^½ Σ M^½).",
}


def describe_pruning(
    name: str, plan: PrunePlan, record: dict[str, Any], history: list[dict[str, Any]]
) -> str:
    """Markdown, for people who have never heard of pelap."""
    kept = plan.latent_map.num_kept
    lines = [
        f"# {name} with {kept} of {plan.num_channels} latent channels",
        "",
        "Latent channels were removed from the autoencoder and, where there is one, from the "
        f"denoiser by pelap {record['pelap']}. The folder loads like any other: "
        "`DiffusionPipeline.from_pretrained(FOLDER)`.",
        "",
        *_what(plan, record),
        "",
        *_costs(record),
        *_history(history),
    ]
    return "\n".join(lines)


def _what(plan: PrunePlan, record: dict[str, Any]) -> list[str]:
    chosen = "as given" if plan.criterion == "given" else f"chosen by {plan.criterion}"
    if plan.rotation != "none":
        what = f"- Kept: the first {len(plan.channels)} directions of a new basis."
        return [what, f"- {ROTATIONS[plan.rotation]}", f"- {FILLS[plan.fill]}; folded into it."]
    return [
        f"- Kept channels: {', '.join(map(str, plan.channels))} ({chosen}).",
        f"- Removed channels: {', '.join(map(str, plan.removed)) or 'none'}.",
        f"- {FILLS[plan.fill]}; folded into its first layers.",
    ]


def _costs(record: dict[str, Any]) -> list[str]:
    if "psnr_db" not in record:
        return ["What this costs in quality was not measured: no pictures were given.", ""]
    return [
        "| | before | after |",
        "|---|---|---|",
        f"| latent channels | {record['channels_before']} | {record['channels_after']} |",
        f"| PSNR, dB | {record['psnr_db_before']:.2f} | {record['psnr_db']:.2f} |",
        f"| parameters | {record['parameters_before']:,} | {record['parameters']:,} |",
        "",
        f"PSNR over {record['num_pictures']:,} pictures ({record['data']}).",
        "",
    ]


def _history(history: list[dict[str, Any]]) -> list[str]:
    if not history:
        return []
    lines = ["Before that:", ""]
    for entry in history:
        lines.append(
            f"- {entry.get('pruned', '')}: {entry['channels_before']} → {entry['channels_after']} "
            f"channels, criterion {entry['criterion']}, fill {entry['fill']}, rotation "
            f"{entry['rotation']}."
            if "channels_before" in entry
            else f"- {entry.get('recovered', '')}: recovered for {entry.get('steps')} steps."
        )
    return [*lines, ""]
