"""Read what `pelap analyze` wrote: which channels matter, and how few would do. It is plain JSON.

pelap analyze MODEL --data.source photos --output analysis
python examples/read_analysis.py --path analysis/analysis.json --max-psnr-drop 0.5
"""

import json
from pathlib import Path

import tyro


def main(path: Path, max_psnr_drop: float = 0.5) -> None:
    """Print the channels, the best curve beside chance, and the fewest channels within a limit.

    Args:
        path: An analysis.json.
        max_psnr_drop: Largest fall of the reconstruction's PSNR in dB.
    """
    analysis = json.loads(path.read_text())
    print(f"{analysis['name']}: {analysis['num_channels']} channels, {analysis['psnr_db']:.2f} dB")
    for channel in sorted(analysis["channels"], key=lambda one: -one["leave_one_out_db"]):
        print(
            f"channel {channel['channel']:2}  std {channel['std']:6.3f}  "
            f"its mean in its place costs {channel['leave_one_out_db']:6.2f} dB, "
            f"a prediction from the others {channel['leave_one_out_linear_db']:6.2f} dB"
        )

    by_chance = dict(
        zip(analysis["random"]["num_kept"], analysis["random"]["mean_db"], strict=True)
    )
    within = None
    for num_kept in sorted(by_chance, reverse=True):
        points = {
            criterion["name"]: point
            for criterion in analysis["criteria"]
            for point in criterion["curve"]
            if point["num_kept"] == num_kept
        }
        name, best = max(points.items(), key=lambda item: item[1]["psnr_db"])
        print(
            f"keep {num_kept:2}  {best['psnr_db']:6.2f} dB by {name}, "
            f"{by_chance[num_kept]:6.2f} dB by chance"
        )
        if analysis["psnr_db"] - best["psnr_db"] <= max_psnr_drop:
            within = best["channels"]
    print(f"within {max_psnr_drop:g} dB: --keep {','.join(map(str, sorted(within or [])))}")


if __name__ == "__main__":
    tyro.cli(main)
