"""Prune a diffusers pipeline in a folder (or on the hub) into an ordinary, smaller pipeline.

python examples/prune_folder.py --model MODEL --keep 8 --output small
"""

from pathlib import Path

import tyro

import pelap


def main(
    model: str,
    output: Path,
    keep: int,
    pictures: str = "photos",
    size: int = 32,
    num_pictures: int = 512,
) -> None:
    """Analyse the model on pictures, keep the channels that reconstruct best, write the rest away.

    Args:
        model: A pipeline's folder, a run, or a hub id.
        output: New folder; `DiffusionPipeline.from_pretrained` loads it without pelap.
        keep: Number of latent channels.
        pictures: photos (embedded), a folder with a folder of pictures a class, or a data set.
        size: Height and width of the pictures in pixels.
        num_pictures: At most so many of them.
    """
    opened = pelap.open_model(model)
    chosen = pelap.pictures(pictures, size=size)
    analysis = pelap.analyze(opened, chosen, num_pictures=num_pictures, num_curve=num_pictures)
    print(analysis.describe())
    small = pelap.prune(opened, chosen, keep=keep, analysis=analysis, num_pictures=num_pictures)
    print(small.describe())
    small.save(output)


if __name__ == "__main__":
    tyro.cli(main)
