"""What a pruning did, in lines for a terminal."""

from pelap.pruning.latents.latent_plan import PrunePlan
from pelap.pruning.pruning_record import PruningCosts, TokensRecord, WidthRecord


def describe_latents(plan: PrunePlan, costs: PruningCosts) -> list[str]:
    """Which channels stay, who chose them, and what the decoder loses."""
    lines = [f"{'latent channels':24} {plan.num_channels} → {plan.latent_map.num_kept}"]
    if plan.rotation == "none":
        lines.append(f"{'kept':24} {' '.join(map(str, plan.channels))}")
        lines.append(f"{'removed':24} {' '.join(map(str, plan.removed)) or 'none'}")
    lines.append(f"{'chosen by':24} {plan.criterion}, fill {plan.fill}")
    if plan.psnr_db is not None and plan.psnr_db_before is not None:
        lines.append(
            f"{'PSNR in the analysis':24} {plan.psnr_db_before:.2f} → {plan.psnr_db:.2f} dB"
        )
    if "psnr_db" in costs and "psnr_db_before" in costs and "num_pictures" in costs:
        lines.append(
            f"{'PSNR':24} {costs['psnr_db_before']:.2f} → {costs['psnr_db']:.2f} dB, "
            f"{costs['num_pictures']:,} pictures"
        )
    return lines


def describe_tokens(tokens: TokensRecord) -> list[str]:
    """How large patches are, and how far the denoiser's first answer is off."""
    before, after = tokens["patch_sizes"]
    lines = [
        f"{'patches':24} {before}×{before} → {after}×{after}, 1 of {(after // before) ** 2} tokens",
        f"{'MACs of a step':24} {tokens['macs_before']:,} → {tokens['macs']:,} "
        f"({tokens['macs'] / tokens['macs_before']:.2f})",
        f"{'within a patch':24} {tokens['carried']:,} features carry differences",
    ]
    if tokens["error"] is not None:
        lines.append(f"{'last layer fitted':24} error of the prediction {tokens['error']:.1%}")
    return lines


def describe_width(width: WidthRecord) -> list[str]:
    """What of the denoiser got smaller, and who chose it."""
    lines = [
        f"{'MACs of a step':24} {width['macs_before']:,} → {width['macs']:,} "
        f"({width['macs'] / width['macs_before']:.2f})"
    ]
    lines += [
        f"{name.replace('_', ' '):24} {before} → {after}"
        for name, (before, after) in width["config"].items()
    ]
    lines += _describe_choice(width)
    lines += _describe_time(width)
    lines.append(f"{'units chosen by':24} {width['criterion']}")
    lines += [
        f"{name + ' differs':24} {share:.1%} of its size"
        for name, share in width["differences"].items()
    ]
    return lines


def _describe_choice(width: WidthRecord) -> list[str]:
    """Which shapes there were for the target."""
    lines = []
    if "nearest" in width:
        shares = " and ".join(
            f"{shape['macs'] / width['macs_before']:.3f} ({', '.join(map(str, shape['widths']))})"
            for shape in width["nearest"]
            if shape is not None
        )
        lines.append(f"{'nearest shapes':24} {shares} of the MACs: none meets the target")
    candidates = width.get("candidates", [])
    if len(candidates) > 1:
        what = "kept scores"
        if candidates[0]["error"] is not None:
            first, last = candidates[0]["error"], candidates[-1]["error"]
            what = f"error of the prediction, {first:.1%} to {last:.1%}"
        lines.append(f"{'shape chosen by':24} {what}, of {len(candidates)} shapes")
    if width.get("below_target"):
        lines.append(
            f"{'cheaper than asked for':24} and better than the shapes nearest to the target"
        )
    return lines


def _describe_time(width: WidthRecord) -> list[str]:
    """What the MACs are in time here, and which widths lose less to padding."""
    if "time" not in width:
        return []
    time = width["time"]
    lines = [f"{'time of a step, here':24} {time['share']:.2f} of before, one picture in turn"]
    if time["is_less"]:
        return lines
    nearest = time["nearest"]
    said = "no shape near it does better"
    if nearest is not None:
        widths = ",".join(map(str, nearest["widths"]))
        said = (
            f"--denoiser-widths {widths} takes {nearest['share']:.2f} for "
            f"{nearest['macs'] / width['macs_before']:.2f} of the MACs"
        )
    return [*lines, f"{'not all becomes time':24} kernels pad widths, or a step waits: {said}"]
