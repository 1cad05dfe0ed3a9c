"""All that is measured of a model for an analysis, with as many decodes as its effort says.

                 exact                          normal, fast
metric           every picture                  every picture
leave one out    every picture                  few pictures, or crops of them
search           every candidate                the likeliest candidates, on few or crops
curves           every point                    few points, on few or crops; the best whole
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.analysis.analysis_record import AnalysisSettings
from pelap.analysis.autoencoder_calls import CallCounter
from pelap.analysis.criteria import Evidence, Order
from pelap.analysis.curves import Curves, gather_sets, measure_curves
from pelap.analysis.decoding import DecoderMetric, LeaveOneOut, measure_maps
from pelap.analysis.elimination import eliminate_by_decoding, eliminate_sparingly
from pelap.analysis.learned import learn_scores
from pelap.analysis.picture_parts import AnalysisParts
from pelap.analysis.quadratic import removal_costs
from pelap.analysis.sparse_curves import measure_sparsely
from pelap.analysis.statistics import check_finite, measure_statistics
from pelap.analysis.taylor import TaylorScores
from pelap.analysis.tiers import SPARING, Sparing, crop_size, hold_few, tier_size
from pelap.core.processes import num_processes
from pelap.core.progress import ProgressBar
from pelap.measure.encoded_batches import Batches
from pelap.method.latent_map import LatentMoments, keep_channels
from pelap.method.system import LatentDiffusion

MAX_CLASSES = 100
"""With more, classes are not told apart: each would have few pictures."""
CROPS, MOMENTS, METRIC, LEFT_OUT, LEARNED, SEARCH, CURVES_FEW, CURVES = (
    "size of crops",
    "moments",
    "decoder metric",
    "leave one out",
    "learned predictor",
    "search",
    "curves, all",
    "curves, the best",
)
"""Stages whose calls of the autoencoder are counted apart."""


@dataclass(frozen=True)
class Measuring:
    """A model, its pictures and how much of them is decoded."""

    system: LatentDiffusion
    parts: AnalysisParts
    settings: AnalysisSettings
    counter: CallCounter
    sparing: Sparing | None
    """What is spared; None decodes everything."""
    crop: int | None
    """Pixels of the crops that stand for pictures; None for whole ones."""

    def gather(self) -> Evidence:
        """Everything that rankings need."""
        system, settings = self.system, self.settings
        self.counter.stage = MOMENTS
        statistics = measure_statistics(system, self.parts.whole_pass)
        moments, num_channels = statistics.moments, len(statistics.kl)
        left_out = LeaveOneOut(moments, self._num_rows())
        metric = DecoderMetric(num_channels, settings.num_probes, settings.seed)
        taylor = scores = None
        if system.denoiser is not None:
            taylor = TaylorScores(system, num_channels, settings.num_bands, settings.seed)
        self._pass(metric, taylor, left_out)
        if self.sparing is not None:
            self._leave_out(left_out, self.sparing)
        if settings.predictor_steps:
            self.counter.stage = LEARNED
            scores = learn_scores(
                system, self.parts.whole_pass, moments, settings.predictor_steps, settings.fill
            )
        found_metric, found_left_out = metric.reduce(), left_out.reduce()
        found_taylor = None if taylor is None else taylor.reduce()
        check_finite("decoder", found_metric, found_left_out.totals)
        if found_taylor is not None:
            check_finite("denoiser", found_taylor)
        self.counter.stage = SEARCH
        return Evidence(
            statistics,
            found_metric,
            found_left_out,
            self._search(moments, found_metric, found_left_out),
            [] if taylor is None else taylor.bands,
            found_taylor,
            scores,
        )

    def draw_curves(self, orders: Mapping[str, Order], evidence: Evidence) -> Curves:
        """PSNR by number of kept channels, for every order, at random and rotated."""
        sets = gather_sets(orders, evidence, self.settings)
        if self.sparing is None:
            self.counter.stage = CURVES
            return measure_curves(self.system, self.parts.curve, sets)
        self.counter.stage = CURVES_FEW
        few = self._hold(self.parts.curve, self.sparing.curve)

        def begin_whole() -> None:
            self.counter.stage = CURVES

        return measure_sparsely(self.system, few, self.parts.curve, sets, self.sparing, begin_whole)

    def _num_rows(self) -> int:
        """Classes that are told apart; 1 for none."""
        num_classes = len(self.parts.whole_pass.pictures.class_names)
        return num_classes if 2 <= num_classes <= MAX_CLASSES else 1

    def _pass(
        self, metric: DecoderMetric, taylor: TaylorScores | None, left_out: LeaveOneOut
    ) -> None:
        """Every picture of the pass once; without sparing, each channel left out of it too."""
        batches, counter = self.parts.whole_pass, self.counter
        decodes = 0 if self.sparing is not None else 1 + len(left_out.maps)
        steps = -(-len(batches) // num_processes()) * (1 + decodes)
        for stage in (LEFT_OUT, METRIC) if decodes else (METRIC,):
            counter.stage = stage
        with ProgressBar("Measuring channels", steps) as bar:
            for batch in batches.of_this_process(self.system):
                if decodes:
                    counter.stage = LEFT_OUT
                    left_out.add(self.system, batch, bar.advance)
                    counter.stage = METRIC
                metric.add(self.system, batch)
                if taylor is not None:
                    taylor.add(self.system, batch)
                bar.advance()

    def _leave_out(self, left_out: LeaveOneOut, sparing: Sparing) -> None:
        """Each channel left out of few pictures, or of crops."""
        self.counter.stage = LEFT_OUT
        few = self._hold(self.parts.whole_pass, sparing.left_out)
        held = list(few.of_this_process(self.system))
        with ProgressBar("Leaving channels out", len(held) * (1 + len(left_out.maps))) as bar:
            for batch in held:
                left_out.add(self.system, batch, bar.advance)

    def _search(self, moments: LatentMoments, metric: Tensor, left_out: LeaveOneOut) -> list[int]:
        """Ranking by removing one channel after the other."""
        system, fill = self.system, self.settings.fill
        if self.sparing is None:
            return eliminate_by_decoding(system, self.parts.search, moments, fill)
        few = self._hold(self.parts.search, self.sparing.search)

        def measure(kept: Sequence[int]) -> float:
            return float(measure_maps(system, few, [keep_channels(kept, moments, fill)])[0])

        return eliminate_sparingly(
            left_out.rise()[1 if fill == "linear" else 0],
            measure,
            lambda candidates: removal_costs(metric, moments, fill, candidates),
            self.sparing.tries,
            "Eliminating channels",
        )

    def num_few(self, batches: Batches, most: int) -> float:
        """How many whole pictures are worth those that stand for the batches."""
        share = 1.0 if self.crop is None else (self.crop / self.parts.size) ** 2
        return share * self._count(batches, most)

    def _count(self, batches: Batches, most: int) -> int:
        return tier_size(batches.num_pictures, self.parts.size, self.crop is not None, most)

    def _hold(self, batches: Batches, most: int) -> Batches:
        return hold_few(self.system, batches, self._count(batches, most), self.crop)


def plan_measuring(
    system: LatentDiffusion,
    parts: AnalysisParts,
    settings: AnalysisSettings,
    counter: CallCounter,
) -> Measuring:
    """How this model is measured: what is spared, and whether crops stand for its pictures."""
    if settings.effort == "exact":
        return Measuring(system, parts, settings, counter, None, None)
    sparing = SPARING[settings.effort]
    counter.stage = CROPS
    crop = _find_crop(system, parts, sparing.crop)
    return Measuring(system, parts, settings, counter, sparing, crop)


@torch.no_grad()
def _find_crop(system: LatentDiffusion, parts: AnalysisParts, share: float) -> int | None:
    """Size of the crops; None where they spare little or the autoencoder takes one size only."""
    device = next(system.parameters()).device
    if crop_size(parts.size, 1, share) is None:
        return None
    whole = torch.zeros(1, 3, parts.size, parts.size, device=device)
    side = crop_size(parts.size, parts.size // system.encode_moments(whole).shape[-1], share)
    if side is None:
        return None
    try:
        moments = system.encode_moments(whole[..., :side, :side])
        decoded = system.decode(moments.chunk(2, dim=1)[0])
    except (RuntimeError, ValueError):
        return None
    return side if decoded.shape[-1] == side else None
