"""What the denoisers of a comparison predict, beside that of the model they were pruned from."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError
from pelap.measure.denoiser_fidelity import NUM_PICTURES, DenoiserFidelity, compare_denoisers
from pelap.measure.encoded_batches import Batches
from pelap.models.conditions import NONE, find_conditions
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import load_splits
from pelap.training.recovery.student import find_encode


def encode_between(model: LoadedModel, reference: LoadedModel) -> torch.Tensor | None:
    """The matrix (K, C) from the reference's latents; None if it was not pruned from it."""
    try:
        return find_encode(model, reference)
    except ConfigError:
        return None


def measure_denoisers(
    models: Sequence[LoadedModel], config: RunConfig
) -> dict[str, DenoiserFidelity]:
    """Those that were pruned from the first, by name, told the captions or classes of pictures.

    Raises:
        ModelError: If the first's pipeline cannot be called.
        DataError: If the pictures cannot be read.
    """
    reference, *others = models
    pairs = [(model, encode_between(model, reference)) for model in others]
    pairs = [(model, encode) for model, encode in pairs if encode is not None]
    if not pairs:
        return {}
    splits = load_splits(reference, config, needs_train=False)
    indices = torch.arange(min(NUM_PICTURES, len(splits.test)))
    told, conditions = find_conditions(
        reference, splits, config.data.size, train=NONE, test=indices
    )
    of_test = conditions[1] if conditions else None
    batches = Batches(splits.test, indices, 32, config.evaluation.seed, of_test)
    found: dict[str, DenoiserFidelity] = {}
    for model, encode in pairs:
        assert encode is not None
        same_told = replace(model, condition=told.condition)
        fidelity = compare_denoisers(told, same_told, encode, batches)
        if fidelity is not None:
            found[model.name] = fidelity
    return found
