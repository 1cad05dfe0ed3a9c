"""Synthetic analyses whose numbers belong together: what decoding costs follows from M and Cov."""

import numpy as np

from pelap.analysis.analysis_record import (
    Agreement,
    Analysis,
    ChannelAnalysis,
    CriterionResult,
    CurvePoint,
    MomentsResult,
    RandomCurve,
    RotationCurve,
)

SIGNAL_DB = 26.0
FLOOR = 10 ** (-SIGNAL_DB / 10) * 4
"""Squared error a value with all channels, images in [-1, 1]."""
NAMES = ("variance", "kl", "leave_one_out", "leave_one_out_linear", "decoder_sensitivity",
         "conditional", "elimination", "redundancy", "taylor", "learned", "expected")  # fmt: skip


def make_analysis(
    num_channels: int,
    *,
    taylor: bool = True,
    classes: tuple[str, ...] = ("cat", "dog", "ship"),
    rotations: bool = True,
    name: str = "model",
    seed: int = 0,
) -> Analysis:
    """Random moments and metric; every curve is the quadratic cost of what is left out."""
    random = np.random.default_rng(seed)
    shape = (num_channels, num_channels)
    mixing = random.normal(size=shape) * np.geomspace(1, 0.05, num_channels)
    covariance = mixing @ mixing.T + 0.01 * np.eye(num_channels)
    jacobian = random.normal(size=shape) * np.geomspace(0.1, 0.004, num_channels)[::-1]
    metric = jacobian @ jacobian.T
    counts = sorted({round(c) for c in np.linspace(1, num_channels, min(num_channels, 16))})

    def psnr_db(kept: list[int]) -> float:
        return _psnr_db(covariance, metric, kept)

    def curve(ranking: list[int]) -> list[CurvePoint]:
        return [CurvePoint(k, ranking[:k], psnr_db(ranking[:k])) for k in counts]

    loss = np.diag(metric) * np.diag(covariance)
    strengths = {n: loss * random.lognormal(0, 0.2 * i, num_channels) for i, n in enumerate(NAMES)}
    strengths["variance"] = np.diag(covariance)
    if not taylor:
        del strengths["taylor"]
    draws = [[psnr_db(random.permutation(num_channels)[:k].tolist()) for _ in range(5)]
             for k in counts]  # fmt: skip
    whole = psnr_db(list(range(num_channels)))
    return Analysis(
        name=name, num_channels=num_channels, num_pictures=2000, num_search=64, num_curve=512,
        psnr_db=whole, pass_psnr_db=whole, fill="linear",
        timestep_bands=[[0, 249], [250, 499], [500, 749], [750, 999]] if taylor else [],
        channels=_channels(covariance, metric, random, taylor, len(classes)),
        moments=MomentsResult([0.0] * num_channels, covariance.tolist(), [0.01] * num_channels),
        eigenvalues=np.linalg.eigvalsh(covariance)[::-1].tolist(),
        decoder_metric=metric.tolist(),
        criteria=[
            CriterionResult(n, f"The order by {n}.", (ranking := np.argsort(-v).tolist()),
                            v.tolist(), curve(ranking))
            for n, v in strengths.items()
        ],
        random=RandomCurve(counts, draws, [float(np.mean(drawn)) for drawn in draws]),
        rotations=[
            RotationCurve(kind, counts, [whole - 6 * (1 - k / num_channels) ** 3 * factor
                                         for k in counts])
            for kind, factor in (("pca", 1.0), ("decoder", 0.5)) if rotations
        ],
        agreement=Agreement(list(strengths), _taus(list(strengths.values()))),
        class_names=list(classes), seed=7, notes=["A note about <curves>."],
    )  # fmt: skip


def _psnr_db(covariance: np.ndarray, metric: np.ndarray, kept: list[int]) -> float:
    """With removed channels predicted linearly from the kept."""
    inside = covariance[np.ix_(kept, kept)]
    left = covariance - covariance[:, kept] @ np.linalg.solve(inside, covariance[kept])
    error = FLOOR + max(0.0, float(np.trace(metric @ left)))
    return float(10 * np.log10(4 / error))


def _channels(
    covariance: np.ndarray,
    metric: np.ndarray,
    random: np.random.Generator,
    taylor: bool,
    num_classes: int,
) -> list[ChannelAnalysis]:
    found = []
    unexplained = 1 / np.diag(np.linalg.inv(covariance))
    for c, variance in enumerate(np.diag(covariance).tolist()):
        sensitivity = float(metric[c, c])
        fall, linear = (
            float(10 * np.log10(1 + sensitivity * size / FLOOR))
            for size in (variance, unexplained[c])
        )
        by_class: list[float | None] = [fall * float(random.uniform(0.7, 1.3)) - 0.01
                                        for _ in range(num_classes)]  # fmt: skip
        found.append(ChannelAnalysis(
            c, 0.0, variance**0.5, variance, 100 * variance, variance > 0.01,
            float(1 - unexplained[c] / variance), fall, linear, sensitivity,
            sensitivity * variance, random.lognormal(-4, 0.5, 4).tolist() if taylor else None,
            None, by_class or None,
        ))  # fmt: skip
    return found


def _taus(strengths: list[np.ndarray]) -> list[list[float | None]]:
    return [[_tau(one, other) for other in strengths] for one in strengths]


def _tau(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 2:
        return None
    pairs = np.triu_indices(len(one), 1)
    signs = np.sign(np.subtract.outer(one, one)) * np.sign(np.subtract.outer(other, other))
    return float(signs[pairs].mean())
