"""diffusers' AutoencoderDC: deep compression, with shortcuts around the latent layers."""

import torch

from pelap.families.family import AutoencoderFamily
from pelap.families.ports import AutoencoderPorts, Config, Port, State, Updates


def fold_shortcuts(state: State, config: Config) -> Updates:
    """Write the shortcuts, which have no parameters, into the convolutions beside them.

    Means of groups of features are added to the encoder's output, repeated latents to what leaves
    the decoder's first layer. See `AutoencoderPorts.fold_shortcuts`.
    """
    if config["encoder_out_shortcut"]:
        _add_groups(state, "encoder.conv_out.weight", mean=True)
    if config["decoder_in_shortcut"]:
        _add_groups(state, "decoder.conv_in.weight", mean=False)
    return {"encoder_out_shortcut": False, "decoder_in_shortcut": False}


def _add_groups(state: State, name: str, *, mean: bool) -> None:
    """Add the mean over groups of inputs, or the repetition over groups of outputs."""
    added = state[name].to(torch.float64, copy=True)
    outputs, inputs, height, width = added.shape
    group = inputs // outputs if mean else outputs // inputs
    for index in range(inputs if mean else outputs):
        row, column = (index // group, index) if mean else (index, index // group)
        added[row, column, height // 2, width // 2] += 1 / group if mean else 1.0
    state[name] = added.to(state[name].dtype)


DC = AutoencoderPorts(
    encoder=(Port("encoder.conv_out"),), decoder="decoder.conv_in", fold_shortcuts=fold_shortcuts
)
FAMILIES = (AutoencoderFamily("AutoencoderDC", DC),)
