"""The method's own importance predictor, trained alone on a frozen autoencoder."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.analysis.decoding import keep_or_fill
from pelap.core.processes import mean_over_processes
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.families.latent_axes import by_channel
from pelap.measure.encoded_batches import Batches
from pelap.method.gates import TopKGate
from pelap.method.importance import ImportancePredictor
from pelap.method.latent_map import Fill, LatentMap, LatentMoments
from pelap.method.system import LatentDiffusion

HIDDEN_CHANNELS = 32
LEARNING_RATE = 0.005


def learn_scores(
    system: LatentDiffusion,
    batches: Batches,
    moments: LatentMoments,
    num_steps: int,
    fill: Fill = "mean",
) -> Tensor:
    """Scores of the channels after training the predictor and a static top-k gate. Ours.

    At each step the gate opens k channels, k uniform from 1 to C; the decoder gets the fill in
    place of the others; the loss is the squared error. An open channel's mask has a slope too:
    towards what would stand in for that channel if it closed. Scores are normalised over the
    channels, or all would rise together until the gate's sigmoid is flat. Every process takes the
    same steps.

    Args:
        system: Frozen model.
        batches: Taken in a new random order each time round.
        moments: Give the fill.
        num_steps: Of Adam, at least 1.
        fill: What stands in for closed channels.

    Returns:
        The gate's running mean of the scores, (C,), float64 on the CPU.
    """
    num_channels, device = len(moments.mean), next(system.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(batches.seed)
        predictor = ImportancePredictor(num_channels, HIDDEN_CHANNELS, 0.0)
    gate = TopKGate(num_channels, adaptive=False)
    nn.ModuleList([predictor, gate]).to(device).train()
    optimizer = torch.optim.Adam(predictor.parameters(), lr=LEARNING_RATE)
    budgets = torch.randint(
        1, num_channels + 1, (num_steps,), generator=generator(batches.seed, "flips")
    )
    for step in track(range(num_steps), "Learning scores"):
        gate.target.fill_(int(budgets[step]))
        epoch, number = divmod(step, len(batches))
        source = generator(batches.seed, "order", 1 + epoch)
        order = torch.randperm(batches.num_pictures, generator=source)
        batch = replace(batches, indices=batches.indices[order]).encode(system, number)
        with torch.enable_grad():
            scores = F.layer_norm(predictor(batch.mean), (num_channels,))  # (B, C)
            mask = by_channel(gate(scores).mask, batch.mean)  # (B, C, 1, …)
            kept = mask[0].flatten().detach().nonzero().flatten().tolist()
            filled = stand_ins(kept, moments, fill).substitute(batch.mean)  # (B, C, h, w)
            decoded = system.decode(filled + mask * (batch.mean - filled))  # (B, 3, H, W)
            loss = F.mse_loss(decoded, batch.images)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    return mean_over_processes(gate.mean_scores.detach()).double().cpu()


def stand_ins(kept: Sequence[int], moments: LatentMoments, fill: Fill) -> LatentMap:
    """For every channel, open ones too, what the other open channels have to say of it.

    Args:
        kept: The open channels.
        moments: Of the latents.
        fill: The rule.
    """
    channels = range(len(moments.mean))
    maps = [keep_or_fill([k for k in kept if k != c], moments, fill) for c in channels]
    weights = torch.stack([maps[c].decode[c] @ maps[c].encode for c in channels])
    offset = torch.stack([maps[c].offset[c] for c in channels])
    return LatentMap(torch.eye(len(weights), dtype=torch.float64), weights, offset)
