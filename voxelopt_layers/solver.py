"""Coordinate descent on one cost volume: the unrolled optimiser of one pyramid level (equation 2).

    sum_x C(x, v(x)) + 1 / (2 theta) ||v - u||^2 + lambda r(u)

is minimised in turn over the discrete ``v`` (pointwise) and the smooth ``u`` (message passing),
while theta falls and ties the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from voxelopt_layers import native
from voxelopt_layers.arguments import check_choice
from voxelopt_layers.assignment import ASSIGNMENTS, TIES, Assignment, assign
from voxelopt_layers.bounds import bounded_gradient
from voxelopt_layers.displacement import BOUNDARIES, Boundary
from voxelopt_layers.entropy import cost_entropy, entropy_to_sigma
from voxelopt_layers.fused import FusedEntropy, Remade, as_tensor
from voxelopt_layers.fused_descent import Descent, FusedDescent
from voxelopt_layers.message_passing import (
    adaptive_gaussian,
    filter_with_weights,
    gaussian_weights,
)
from voxelopt_layers.refinement import elastic_velocity, own_slope, subvoxel_step

GradientMode = Literal["unrolled", "checkpointed", "truncated"]
GRADIENTS: tuple[str, ...] = get_args(GradientMode)
_WIDEST = 100
_checkpoint: Any = torch.utils.checkpoint  # whose functions have no types
LEARNABLE = ("theta", "beta", "alpha", "temperature")


class CoordinateDescent(nn.Module):
    """Velocity and entropy of one cost volume. The keywords are those of `VoxelOptLayer`.

    Parameters named in ``learnable`` live as logarithms in ``log_parameters``, so that any
    gradient step leaves them positive; `value` returns them, learnable or not.
    """

    def __init__(
        self,
        *,
        theta: Sequence[float],
        beta: float,
        alpha: float,
        temperature: float,
        sigma_range: tuple[float, float] | None,
        sigma_smoothing: float,
        probability_floor: float,
        adaptive: bool,
        cost_filtering: bool,
        filter_radius: int,
        filter_passes: int,
        assignment: Assignment,
        ties: Literal["mean", "sum"],
        gradient: GradientMode,
        learnable: bool | Sequence[str],
        boundary: Boundary,
    ) -> None:
        super().__init__()
        # As it stands in a YAML file, where one number is easily written.
        if not isinstance(theta, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"theta must be a sequence, one value per iteration, got {theta}")
        self.constants: dict[str, Any] = {
            "theta": tuple(float(t) for t in theta),
            "beta": float(beta),
            "alpha": float(alpha),
            "temperature": float(temperature),
        }
        self.sigma_range = sigma_range
        self.sigma_smoothing = sigma_smoothing
        self.probability_floor = probability_floor
        self.adaptive = adaptive
        self.cost_filtering = cost_filtering
        self.filter_radius = filter_radius
        self.filter_passes = filter_passes
        self.assignment: Assignment = assignment
        self.ties: Literal["mean", "sum"] = ties
        self.gradient: GradientMode = gradient
        self.boundary: Boundary = boundary
        self._check()
        self.log_parameters: nn.ParameterDict = nn.ParameterDict()
        for name in self._learnable_names(learnable):
            initial = torch.tensor(self.constants.pop(name), dtype=torch.float32)
            self.log_parameters[name] = nn.Parameter(initial.log())

    def _check(self) -> None:
        positive = (*self.constants["theta"], *(self.constants[n] for n in LEARNABLE[1:]))
        if not self.constants["theta"] or not all(p > 0 for p in positive):
            raise ValueError("theta (at least one), beta, alpha and temperature must be above 0")
        choices = {
            "assignment": ASSIGNMENTS,
            "ties": TIES,
            "gradient": GRADIENTS,
            "boundary": BOUNDARIES,
        }
        for name, allowed in choices.items():
            check_choice(getattr(self, name), name, allowed)
        low, high = self.sigma_range or (0.0, 0.0)
        if not 0 <= low <= high:
            raise ValueError("sigma_range must go from low to high, at least 0")
        if not 0 <= self.probability_floor < 1:
            raise ValueError(f"probability_floor must lie in [0, 1), got {self.probability_floor}")
        if not 0 <= self.sigma_smoothing <= _WIDEST:
            raise ValueError(
                f"sigma_smoothing must be from 0 to {_WIDEST} voxels, got {self.sigma_smoothing}"
            )
        for name in ("filter_radius", "filter_passes"):
            number = getattr(self, name)
            if not isinstance(number, int) or not 1 <= number <= _WIDEST:
                raise ValueError(
                    f"{name} must be a whole number from 1 to {_WIDEST}, got {number!r}"
                )

    def _learnable_names(self, learnable: bool | Sequence[str]) -> Sequence[str]:
        """The parameters to learn: those asked for, or (True) all that the settings use."""
        unused: set[str] = set()
        if self.assignment == "hard":  # no gradient passes an argmin
            unused |= {"temperature", "theta"}
        if not self.adaptive:
            unused |= {"beta"}
        if self.sigma_range is not None:
            unused |= {"alpha"}
        if math.inf in self.constants["theta"]:
            unused |= {"theta"}
        if isinstance(learnable, bool):
            return [name for name in LEARNABLE if learnable and name not in unused]
        learnable = [learnable] if isinstance(learnable, str) else list(dict.fromkeys(learnable))
        for name in learnable:
            if name not in LEARNABLE or name in unused:
                raise ValueError(
                    f"{name!r} cannot be learned with these settings; choose among "
                    f"{[n for n in LEARNABLE if n not in unused]}"
                )
        return learnable

    def value(self, name: str) -> Any:
        """Value of theta, beta, alpha or temperature: a tensor with gradient if learned."""
        if name in self.log_parameters:
            return self.log_parameters[name].exp()
        return self.constants[name]

    def sigma(self, entropy: Tensor) -> Tensor:
        """Width of the filters, in voxels, where a cost volume has this entropy."""
        alpha = self.value("alpha")
        if not self.adaptive:  # every voxel gets the width of the weakest signal
            widest = alpha * math.log(2) if self.sigma_range is None else self.sigma_range[1]
            return torch.ones_like(entropy) * widest
        sigma = bounded_gradient(entropy_to_sigma(entropy, alpha, self.sigma_range))
        if not self.sigma_smoothing:
            return sigma
        width = torch.full_like(sigma, self.sigma_smoothing)
        return adaptive_gaussian(sigma, width, radius=math.ceil(3 * self.sigma_smoothing))

    def _stage(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """Run one stage; in mode ``checkpointed`` keep its inputs alone and recompute the rest."""
        if self.gradient == "checkpointed" and torch.is_grad_enabled():
            options = {"use_reentrant": False, "preserve_rng_state": False}
            return _checkpoint.checkpoint(function, *args, **options)
        return function(*args)

    def _smooth(self, image: Tensor, weights: list[Tensor], out: Tensor | None = None) -> Tensor:
        return filter_with_weights(image, weights, self.filter_passes, self.boundary, out)

    def _iterate(
        self, cost: Tensor, u: Tensor | None, coupling: Tensor | float, weights: list[Tensor]
    ) -> Tensor:
        """One v-step and one u-step."""
        temperature = self.value("temperature")
        v = assign(cost, u, coupling, self.assignment, temperature, self.ties)
        return self._smooth(v, weights)

    def _fused(
        self, cost: Tensor, remake: Callable[[], Tensor] | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`forward` on kernels."""
        remade = None
        again = self.gradient == "checkpointed" and cost.requires_grad
        if again and remake is not None and not torch.compiler.is_compiling():
            remade = Remade(remake, cost.device, shared=self.adaptive)
        if known is None:
            beta = as_tensor(self.value("beta"), cost)
            entropy, cost = FusedEntropy.apply(cost, beta, self.probability_floor, remade)
        else:
            entropy = known
        sigma = self.sigma(entropy)
        theta = self.value("theta")
        if not isinstance(theta, Tensor):
            theta = sigma.new_tensor(theta)
        how = Descent(
            kind=native.assignment_kind(self.assignment, self.ties),
            soft_gradient=self.assignment != "hard",
            truncated=self.gradient == "truncated",
            cost_filtering=self.cost_filtering,
            radius=self.filter_radius,
            passes=self.filter_passes,
            border=self.boundary == "border",
        )
        temperature = as_tensor(self.value("temperature"), cost)
        u = FusedDescent.apply(cost, sigma, 1 / (2 * theta), temperature, how, remade)
        return u, entropy

    def refine(self, cost: Tensor, own: Tensor, sigma: Tensor, displacement: Tensor) -> Tensor:
        """Velocity of one refinement, see `refinement`.

        Args:
            cost: of a star of offsets.
            own: from `own_slope`.
            sigma: of the last whole cost volume.
            displacement: so far.
        """
        smooth = self._filter_of_width(sigma)
        step = self._stage(subvoxel_step, cost, own, smooth)
        return step.to(displacement.dtype) + elastic_velocity(displacement)

    def own_slope(self, fixed: Tensor, moving: Tensor, sigma: Tensor) -> Tensor:
        """What refinements take off, from stars of costs of each map with itself."""
        return self._stage(own_slope, fixed, moving, self._filter_of_width(sigma))

    def _filter_of_width(self, sigma: Tensor) -> Callable[[Tensor], Tensor]:
        def smooth(image: Tensor) -> Tensor:
            passes, boundary = self.filter_passes, self.boundary
            return adaptive_gaussian(image, sigma, self.filter_radius, passes, boundary)

        return smooth

    def forward(
        self,
        cost: Tensor,
        remake: Callable[[], Tensor] | None = None,
        entropy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Solve one level.

        Args:
            cost: cost volume ``(B, K, *spatial)``; overwritten when no gradient is needed.
            remake: makes ``cost`` once more; in mode ``checkpointed`` the kernels call it in the
                backward pass rather than keep ``cost``, which they overwrite.
            entropy: of ``cost``, if it is known already.

        Returns:
            Velocity ``(B, d, *spatial)`` in voxels, and entropy ``(B, 1, *spatial)`` in nats.
        """
        if native.suits(cost=cost):
            return self._fused(cost, remake, entropy)
        entropy = self._stage(cost_entropy, cost, self.value("beta"), self.probability_floor)
        weights = gaussian_weights(self.sigma(entropy), self.filter_radius)
        if self.cost_filtering:
            needs_grad = torch.is_grad_enabled() and cost.requires_grad
            cost = self._stage(self._smooth, cost, weights, None if needs_grad else cost)
        couplings = [1 / (2 * theta) for theta in self.value("theta")]
        u: Tensor | None = None
        for coupling in couplings[:-1]:
            if self.gradient == "truncated":
                with torch.no_grad():
                    u = self._iterate(cost, u, coupling, weights)
            else:
                u = self._stage(self._iterate, cost, u, coupling, weights)
        return self._stage(self._iterate, cost, u, couplings[-1], weights), entropy
