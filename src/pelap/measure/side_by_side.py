"""Draw the same rows with several stock pipelines, from the same noise where that can be."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from pelap.core.errors import ModelError
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.families.family import Inputs
from pelap.measure.features import FeatureExtractor, extract
from pelap.measure.side_by_side_record import Difference, DrawnColumn, SideBySide
from pelap.models.asked import Asked
from pelap.models.drawing import call_pipeline
from pelap.models.loaded import LoadedModel

ORTHONORMAL = 1e-3
"""How far the rows of a rotation may be from orthonormal, so that noise stays noise."""


@dataclass(frozen=True)
class DrawnSettings:
    """How the rows are drawn; None is the pipeline's own default."""

    size: int
    """Of the pictures, in pixels; pipelines that draw one size only draw that."""
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    """Of the noise; a row's generator is a function of it and the row's number."""

    def describe(self) -> str:
        """`20 steps, guidance 4`."""
        steps = "the pipeline's own steps" if self.steps is None else f"{self.steps} steps"
        guidance = "its own" if self.guidance is None else f"{self.guidance:g}"
        return f"{steps}, guidance {guidance}"


@dataclass(frozen=True)
class Drawer:
    """A model that draws, and the way to it from the reference's latents."""

    model: LoadedModel
    encode: Tensor | None = None
    """(K, C), from `find_encode`; None where there is none, and for the reference."""


def compare_drawings(
    drawers: Sequence[Drawer],
    rows: Sequence[Asked],
    settings: DrawnSettings,
    extractor: FeatureExtractor | None,
    device: torch.device,
) -> SideBySide:
    """Draw every row with every model's stock pipeline and compare with the first model's.

    Args:
        drawers: The reference first.
        rows: What is drawn.
        settings: How.
        extractor: For the distances of features.
        device: Where pipelines run; their networks come back to the CPU.

    Raises:
        ModelError: If a pipeline cannot be loaded or called.
    """
    drawn = [_draw(drawer, drawers[0].model, rows, settings, device) for drawer in drawers]
    features = [_features(pictures, extractor) for pictures, _ in drawn]
    columns = []
    for place, (drawer, (pictures, noise)) in enumerate(zip(drawers, drawn, strict=True)):
        name, found, mean = drawer.model.name, (), None
        if place > 0:
            found, mean = _differences(pictures, drawn[0][0], features[place], features[0])
        columns.append(DrawnColumn(name, tuple(pictures), noise, found, mean))
    return SideBySide(
        tuple(row.title for row in rows), tuple(columns),
        None if extractor is None else extractor.name, _between(features[0]), settings.describe(),
    )  # fmt: skip


def carries_noise(encode: Tensor) -> bool:
    """Whether noise stays noise under a matrix (K, C): its rows are orthonormal."""
    products = encode @ encode.T
    return bool((products - torch.eye(len(encode)).to(products)).abs().max() < ORTHONORMAL)


def _draw(
    drawer: Drawer,
    reference: LoadedModel,
    rows: Sequence[Asked],
    settings: DrawnSettings,
    device: torch.device,
) -> tuple[list[np.ndarray], str]:
    """The pictures, and where their first noise came from."""
    model = drawer.model
    pipeline = model.pipeline()
    pipeline.to(device)
    carry, noise = _noise_of(drawer, reference, pipeline)
    pictures = []
    for number in track(range(len(rows)), f"{model.name}: pictures side by side"):
        source = generator(settings.seed, "sampling", number, device)
        request = _request(rows[number], settings, source)
        with carried_noise(pipeline, carry):
            (drawn,) = call_pipeline(pipeline, request)
        finite = np.nan_to_num(np.asarray(drawn, np.float32))
        pictures.append((finite.clip(0, 1) * 255).round().astype(np.uint8))
    pipeline.to("cpu")
    return pictures, noise


def _noise_of(
    drawer: Drawer, reference: LoadedModel, pipeline: DiffusionPipeline
) -> tuple[Tensor | None, str]:
    """The matrix that carries the reference's noise, if it is needed; and that in words."""
    num, before = drawer.model.num_channels, reference.num_channels
    if drawer.model is reference:
        return None, ""
    encode = drawer.encode
    if encode is not None and torch.equal(encode, torch.eye(before).to(encode)):
        return None, ""
    can_carry = hasattr(sys.modules[type(pipeline).__module__], "randn_tensor")
    if encode is not None and can_carry and carries_noise(encode):
        return encode, f"{reference.name}'s, carried to {num} channels by the pruning's record"
    if num == before and encode is None:
        return None, ""
    return None, "its own: none can be carried over to its latents"


@contextmanager
def carried_noise(pipeline: DiffusionPipeline, encode: Tensor | None) -> Iterator[None]:
    """Within it, the first noise that a pipeline draws is that of other latents, carried over.

    Stock pipelines differ in whether they take latents and in how they pack them, but all draw
    them unpacked by the `randn_tensor` of their module.

    Args:
        pipeline: Of diffusers.
        encode: (K, C) with orthonormal rows; None changes nothing.
    """
    if encode is None:
        yield
        return
    module = sys.modules[type(pipeline).__module__]
    draw, was_drawn = module.randn_tensor, False  # type: ignore[attr-defined]

    def carry(shape: Sequence[int], *args: Any, **kwargs: Any) -> Tensor:
        nonlocal was_drawn
        if was_drawn or len(shape) < 3 or shape[1] != encode.shape[0]:
            return draw(shape, *args, **kwargs)
        was_drawn = True
        noise = draw((shape[0], encode.shape[1], *shape[2:]), *args, **kwargs)
        return torch.einsum("kc,bc...->bk...", encode.to(noise), noise)

    with patch.object(module, "randn_tensor", carry):
        yield


def _request(row: Asked, settings: DrawnSettings, source: torch.Generator) -> Inputs:
    asked = {"output_type": "np", "generator": source, "height": settings.size}
    asked |= {"width": settings.size, "num_inference_steps": settings.steps}
    asked["guidance_scale"] = settings.guidance
    return asked | dict(row.arguments)


def _features(pictures: Sequence[np.ndarray], extractor: FeatureExtractor | None) -> Tensor | None:
    """(N, D), float64."""
    if extractor is None:
        return None
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return extract(extractor, images, torch.device("cpu")).double()


def _differences(
    pictures: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    features: Tensor | None,
    theirs: Tensor | None,
) -> tuple[tuple[Difference, ...], Difference]:
    """Of every row, and of all."""
    if pictures[0].shape != wanted[0].shape:
        raise ModelError(
            f"The models draw pictures of {pictures[0].shape[0]} and {wanted[0].shape[0]} pixels: "
            "compare models of one size."
        )
    pairs = zip(pictures, wanted, strict=True)
    errors = [float(np.square(a.astype(float) - b).mean()) for a, b in pairs]
    away: list[float | None] = [None] * len(errors)
    mean = None
    if features is not None and theirs is not None:
        distances = (features - theirs).norm(dim=1)
        away, mean = list(distances.tolist()), float(distances.mean())
    rows = tuple(Difference(_psnr(e), d) for e, d in zip(errors, away, strict=True))
    return rows, Difference(_psnr(float(np.mean(errors))), mean)


def _psnr(error: float) -> float | None:
    """In dB, of a mean squared error of bytes; None for none."""
    return float(10 * np.log10(255**2 / error)) if error else None


def _between(features: Tensor | None) -> float | None:
    """Mean distance of different rows."""
    if features is None or len(features) < 2:
        return None
    return float(torch.nn.functional.pdist(features).mean())
