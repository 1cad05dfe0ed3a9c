"""The method's own importance predictor, trained alone on a frozen autoencoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.analysis.batches import Batches, track
from pelap.latent import ImportancePredictor, TopKGate
from pelap.latent.latent_map import Fill, LatentMoments, keep_channels
from pelap.processes import mean_over_processes
from pelap.seeding import generator
from pelap.system import LatentDiffusion

HIDDEN_CHANNELS = 32
LEARNING_RATE = 0.02


def learn_scores(
    system: LatentDiffusion,
    batches: Batches,
    moments: LatentMoments,
    num_steps: int,
    fill: Fill = "mean",
) -> Tensor:
    """Scores of the channels after training the predictor and a static top-k gate. Ours.

    At each step the gate opens k channels, k uniform from 1 to C; the decoder gets the fill in
    place of the others; the loss is the squared error. Every process takes the same steps.

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
    for step in track(range(num_steps), num_steps, "Learning scores"):
        gate.target.fill_(int(budgets[step]))
        batch = _shuffled(batches, step // len(batches)).encode(system, step % len(batches))
        with torch.enable_grad():
            mask = gate(predictor(batch.mean)).mask[:, :, None, None]  # (B, C, 1, 1)
            kept = mask[0].flatten().detach().nonzero().flatten().tolist()
            filled = keep_channels(kept, moments, fill).substitute(batch.mean)  # (B, C, h, w)
            decoded = system.decode(filled + mask * (batch.mean - filled))  # (B, 3, H, W)
            loss = F.mse_loss(decoded, batch.images)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    return mean_over_processes(gate.mean_scores.detach()).double().cpu()


def _shuffled(batches: Batches, epoch: int) -> Batches:
    source = generator(batches.seed, "order", 1 + epoch)
    order = torch.randperm(batches.num_pictures, generator=source)
    return Batches(batches.pictures, batches.indices[order], batches.batch_size, batches.seed)
