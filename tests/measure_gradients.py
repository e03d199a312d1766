"""How far a gradient through the layer can be trusted: a Markdown table, in a minute of two cores.

    python tests/measure_gradients.py

Pairs of synthetic patients, 9 mm, the soft Dice of their organs as loss, a small convolutional
encoder with random weights. For each temperature and gradient mode, the weights take a step of a
hundredth of their norm against the gradient; by how much the loss should fall for a loss that is
linear along the step, and by how much it does.
"""

from __future__ import annotations

import itertools

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from voxelopt_layers import VoxelOptLayer, warp
from voxelopt_train.learning import PhantomDataModule
from voxelopt_train.learning.losses import organ_maps
from voxelopt_train.phantom import ORGANS

PAIRS = 12
STEP = 0.01
TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3)


def encoder() -> nn.Sequential:
    """Features of standard deviation 1."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8), nn.LeakyReLU(0.1),
        nn.Conv3d(8, 8, 3, padding=1), nn.InstanceNorm3d(8),
    )  # fmt: skip


def pairs() -> list[tuple[Tensor, ...]]:
    """Images and organs of both patients."""
    data = PhantomDataModule(subjects=(4, 1, 1), shape=(40, 32, 32), spacing_mm=9.0)
    data.setup()
    found = []
    for batch in itertools.islice(data.train_dataloader(), PAIRS):
        organs = [organ_maps(batch[f"{x}_labels"], list(ORGANS)) for x in ("fixed", "moving")]
        found.append((batch["fixed"], batch["moving"], *organs))
    return found


def falls(layer: VoxelOptLayer, pair: tuple[Tensor, ...]) -> tuple[float, float]:
    """Of the loss: predicted by the gradient, and found, as parts of the loss."""
    net, dice = encoder(), DiceLoss(include_background=True)

    def loss() -> Tensor:
        fixed, moving, fixed_organs, moving_organs = pair
        return dice(warp(moving_organs, layer(net(fixed), net(moving))), fixed_organs)

    before = loss()
    gradient = torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(before, list(net.parameters()))]
    )
    before = before.detach()
    with torch.no_grad():
        weights = parameters_to_vector(net.parameters())
        step = STEP * weights.norm()
        vector_to_parameters(weights - step * gradient / gradient.norm(), net.parameters())
        after = loss()
    return float(step * gradient.norm() / before), float(1 - after / before)


def main() -> None:
    print("| temperature | gradient | fall predicted (%) | fall found (%) | pairs that fall |")
    print("|---|---|---|---|---|")
    data = pairs()
    for temperature, gradient in itertools.product(TEMPERATURES, ("unrolled", "truncated")):
        layer = VoxelOptLayer(alpha=1.5, temperature=temperature, gradient=gradient)
        predicted, found = zip(*(falls(layer, pair) for pair in data), strict=True)
        print(
            f"| {temperature:g} | {gradient} | {100 * sum(predicted) / PAIRS:.2f} "
            f"| {100 * sum(found) / PAIRS:.2f} | {sum(f > 0 for f in found)} of {PAIRS} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
