"""The model card of a recovered model: what was trained, and what it brought."""

from pelap.training.recovery.recovery_record import RecoveryRecord

NO_LONGER_TOLD = "the denoiser is trained without its text or class, and will no longer follow them"
"""What --unconditional means for a denoiser that is trained."""


def describe_recovery(name: str, record: RecoveryRecord, left: str | None) -> str:
    """Markdown, in front of what pruning said.

    Args:
        name: Of the model.
        record: As it goes into the history.
        left: Why the denoiser was not trained, or None.
    """
    before, after = record["noise_loss_before"], record["noise_loss"]
    what = [] if record["parts"] == "denoiser" else ["the decoder"]
    what += ["the denoiser"] if after is not None else []
    part = (
        "The layers that carry the latent channels in" if record["parts"] == "pruned" else "All of"
    )
    taught = (
        f"to match pictures, and to answer as {record['teacher']} does"
        if record["teacher"]
        else "to match pictures"
    )
    lines = [
        f"# {name}, recovered",
        "",
        f"{part} {' and '.join(what)} {'were' if record['parts'] == 'pruned' else 'was'} trained "
        f"{taught}, for {record['steps']:,} steps of {record['batch_size']} pictures, by pelap "
        f"{record['pelap']}. The encoder is as it was.",
        "",
        *([f"The denoiser is as it was: {left}.", ""] if left else []),
        *([f"With `--unconditional` {NO_LONGER_TOLD}.", ""] if is_untold(record) else []),
        *(
            [f"Of the pictures the denoiser was told their {record['conditions']}.", ""]
            if after is not None and record["conditions"]
            else []
        ),
        "| | before | after |",
        "|---|---|---|",
        f"| PSNR, dB | {record['psnr_db_before']:.2f} | {record['psnr_db']:.2f} |",
    ]
    if before is not None and after is not None:
        lines.append(f"| noise loss | {before:.4f} | {after:.4f} |")
    lines += [f"| {name} | {one} | {other} |" for name, one, other in fidelity_rows(record)]
    return "\n".join(
        [*lines, "", f"Over {record['num_pictures']:,} test pictures ({record['data']}).", ""]
    )


def fidelity_rows(record: RecoveryRecord) -> list[tuple[str, str, str]]:
    """Of the denoiser beside its teacher: a name, before and after; none without a teacher."""
    before, after = record["denoiser_before"], record["denoiser"]
    if before is None or after is None:
        return []
    rows = [
        (
            "prediction differs",
            f"{before['relative_error']:.1%}",
            f"{after['relative_error']:.1%} of the original's size",
        )
    ]
    if after["followed"] is not None:
        followed = f"{before['followed']:.2f}", f"{after['followed']:.2f} of the original"
        rows.append(("follows what it is told", *followed))
    return rows


def is_untold(record: RecoveryRecord) -> bool:
    """Whether a denoiser that takes text or classes was trained without them."""
    return record["unconditional"] and record["noise_loss"] is not None
