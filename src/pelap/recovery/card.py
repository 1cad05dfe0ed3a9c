"""The model card of a recovered model: what was trained, and what it brought."""

from typing import Any


def describe_recovery(name: str, record: dict[str, Any], left: str | None) -> str:
    """Markdown, in front of what pruning said.

    Args:
        name: Of the model.
        record: As it goes into the history.
        left: Why the denoiser was not trained, or None.
    """
    trains_denoiser = record["noise_loss"] is not None
    what = [] if record["parts"] == "denoiser" else ["the decoder"]
    what += ["the denoiser"] if trains_denoiser else []
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
        "| | before | after |",
        "|---|---|---|",
        f"| PSNR, dB | {record['psnr_db_before']:.2f} | {record['psnr_db']:.2f} |",
    ]
    if trains_denoiser:
        lines.append(
            f"| noise loss | {record['noise_loss_before']:.4f} | {record['noise_loss']:.4f} |"
        )
    return "\n".join(
        [*lines, "", f"Over {record['num_pictures']:,} test pictures ({record['data']}).", ""]
    )
