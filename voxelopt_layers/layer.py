"""`VoxelOptLayer`: from two feature maps to a diffeomorphic displacement, differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from voxelopt_layers import native
from voxelopt_layers.arguments import check_count, check_inputs
from voxelopt_layers.assignment import Assignment
from voxelopt_layers.autograd import without_autocast
from voxelopt_layers.axes import better_order, turned
from voxelopt_layers.bounds import bounded, bounded_gradient
from voxelopt_layers.cost_volume import Dissimilarity, checked_dissimilarity
from voxelopt_layers.displacement import (
    Boundary,
    compose,
    exponentiate,
    invert,
    resize_displacement,
)
from voxelopt_layers.matching import Maps, Matching
from voxelopt_layers.presets import PRESETS
from voxelopt_layers.pyramid import feature_pyramid, pyramid_shapes
from voxelopt_layers.refinement import SQUARINGS
from voxelopt_layers.solution import Level, Solution
from voxelopt_layers.solver import CoordinateDescent, GradientMode


class VoxelOptLayer(nn.Module):
    """Registers two feature maps by unrolled discrete optimisation (Zhang et al., MICCAI 2025).

    At each pyramid level, from coarse to fine, the moving map is warped by the field so far; a
    cost volume is filtered by a Gaussian whose width follows its entropy; coordinate descent finds
    a velocity; its exponential is composed with the field.

    Args:
        levels: number of pyramid levels, each with half the voxels per axis of the next; an axis
            that would get shorter than 4 voxels is not halved.
        search_radius: k, up to 5; a level searches ``{-k, ..., k}^d`` voxels, one volume each.
        theta: one coordinate-descent step each; the coupling of v and u is ``1 / (2 theta)``.
        beta: temperature of the softmax whose entropy is the signal strength, in units of cost.
        alpha: filter width at maximal entropy, over ln 2, in voxels (equation 6).
        sigma_range: map the entropy to these widths instead of equation 6, see `entropy_to_sigma`.
        sigma_smoothing: smooth the widths themselves, by a Gaussian of so many voxels, so that
            message passing ends nowhere abruptly; 0 leaves them as they are.
        probability_floor: least probability in the entropy.
        adaptive: False gives each voxel the filter of the weakest signal.
        cost_filtering: False leaves the cost volume unfiltered, not the few costs of refinements.
        filter_radius: taps of the Gaussian on each side.
        filter_passes: how often each filtering goes through the axes.
        dissimilarity: ``"l1"``, ``"l2"``, ``"cosine"``, ``"ncc"``, ``"lncc"``, ``"mind"``, weights
            of several, or a function, see `cost_volume`.
        coarse_dissimilarity: that of all levels but the last, where it is another one.
        assignment: ``"hard"``, ``"soft"`` or ``"straight_through"``, see `assign`.
        temperature: of the soft assignment, in units of cost.
        ties: what becomes of offsets that share the least energy, see `assign`.
        gradient: ``"unrolled"`` keeps what autograd asks for; ``"checkpointed"`` has the same
            gradients for less memory (far less without kernels) and some recomputation;
            ``"truncated"`` differentiates the last coordinate-descent step of each warp alone,
            and refinements: less time, and of more use where the temperature is low.
        learnable: names among theta, beta, alpha and temperature to be trained, or True for all
            that the settings use.
        integration_steps: squarings of `exponentiate`.
        warps_per_level: how often each level warps the moving map and solves.
        refinements: further warps at the last level, each of which solves for a part of a voxel,
            see `voxelopt_layers.refinement`.
        boundary: beyond the volume, features are 0 (``"zeros"``) or repeat (``"border"``), and so
            is what the filters smooth; displacements are continued with their border always.
        align_corners: which points of two pyramid levels coincide: the centres of their corner
            voxels, or else their outer voxel edges.
        upsampling_scale: factor on the field between levels; None is the exact one.
        cost_dtype: ``"float16"`` or ``"bfloat16"`` keeps cost volumes, the largest tensors, and
            their gradients in half the memory; all arithmetic stays in float32. float16 is the
            finer one, but cuts costs off at 65504; train with a scaled loss, as always in float16.

    Theta, beta and temperature are in units of cost, so the scale of the features matters: a
    standard deviation near 1 is right for the defaults. Where it is less than some three times the
    temperature, soft assignment stays at the centre, and displacement and gradients vanish. Far
    below 0.1, unrolled gradients hold for tiny steps only: train warmer, or truncated.

    Gradients are first-order: the backward pass of the cost volume is written by hand, and neither
    double backward nor the transforms of `torch.func` go through it.

    In float32 the layer runs on kernels (`voxelopt_layers.native`): on CPU compiled where it is
    used, on CUDA in Triton, whose gradients differ by rounding from run to run. Elsewhere it runs
    in PyTorch's own operators; results agree to rounding, which may tip a voxel whose offsets tie.

    Raises:
        ValueError: a keyword is out of its range.
    """

    def __init__(
        self,
        *,
        levels: int = 5,
        search_radius: int = 1,
        theta: Sequence[float] = (150.0, 50.0, 15.0, 5.0, 1.5, 0.5),
        beta: float = 0.1,
        alpha: float = 2.0,
        sigma_range: tuple[float, float] | None = None,
        sigma_smoothing: float = 0.0,
        probability_floor: float = 0.0,
        adaptive: bool = True,
        cost_filtering: bool = True,
        filter_radius: int = 3,
        filter_passes: int = 1,
        dissimilarity: Dissimilarity = "l1",
        coarse_dissimilarity: Dissimilarity | None = None,
        assignment: Assignment = "soft",
        temperature: float = 0.003,
        ties: Literal["mean", "sum"] = "mean",
        gradient: GradientMode = "unrolled",
        learnable: bool | Sequence[str] = False,
        integration_steps: int = 7,
        warps_per_level: int = 2,
        refinements: int = 0,
        boundary: Boundary = "border",
        align_corners: bool = False,
        upsampling_scale: float | None = None,
        cost_dtype: Literal["float16", "bfloat16"] | None = None,
    ) -> None:
        super().__init__()
        for name, count, least in (
            ("levels", levels, 1),
            ("search_radius", search_radius, 1),
            ("warps_per_level", warps_per_level, 1),
            ("refinements", refinements, 0),
            ("integration_steps", integration_steps, 0),
        ):
            check_count(count, name, least)
        if search_radius > 5:
            raise ValueError(f"search_radius must be from 1 to 5 voxels, got {search_radius}")
        if cost_dtype not in (None, "float16", "bfloat16"):
            raise ValueError(
                f"cost_dtype must be 'float16', 'bfloat16' or None, got {cost_dtype!r}"
            )
        self.levels = levels
        self.search_radius = search_radius
        self.dissimilarity: Dissimilarity = checked_dissimilarity(dissimilarity)
        self.coarse_dissimilarity: Dissimilarity = (
            self.dissimilarity
            if coarse_dissimilarity is None
            else checked_dissimilarity(coarse_dissimilarity, "coarse_dissimilarity")
        )
        self.integration_steps = integration_steps
        self.refinements = refinements
        self.warps_per_level = warps_per_level
        self.boundary: Boundary = boundary
        self.align_corners = align_corners
        self.upsampling_scale = upsampling_scale
        self.cost_dtype: torch.dtype | None = (
            None if cost_dtype is None else getattr(torch, cost_dtype)
        )
        native.start()
        self.solver: CoordinateDescent = CoordinateDescent(
            theta=theta,
            beta=beta,
            alpha=alpha,
            temperature=temperature,
            sigma_range=sigma_range,
            sigma_smoothing=sigma_smoothing,
            probability_floor=probability_floor,
            adaptive=adaptive,
            cost_filtering=cost_filtering,
            filter_radius=filter_radius,
            filter_passes=filter_passes,
            assignment=assignment,
            ties=ties,
            gradient=gradient,
            learnable=learnable,
            boundary=boundary,
        )

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> VoxelOptLayer:
        """The settings of a preset; further keywords override single ones.

        ``"paper"`` and ``"released"`` are those of the paper and of its authors' code,
        ``"intensity"`` is our best for images in [0, 1] without features.

        Raises:
            ValueError: no preset has this name.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {name!r}")
        return cls(**{**PRESETS[name], **overrides})

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        *,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        initial_displacement: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Displacement that aligns ``moving`` to ``fixed``; arguments as in `solve`.

        The number of axes decides: ``(B, C, H, W)`` is 2-D, ``(B, C, D, H, W)`` is 3-D. So a single
        volume ``(C, D, H, W)`` without its batch axis would be taken as C images of D channels.

        Returns:
            ``(B, d, *spatial)`` in voxels: ``warped(x) = moving(x + u(x))``.
        """
        return self.solve(
            fixed,
            moving,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            initial_displacement=initial_displacement,
            inverse=False,
            velocities=False,
            progress=progress,
        ).displacement

    def solve(
        self,
        fixed: Tensor,
        moving: Tensor,
        *,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        initial_displacement: Tensor | None = None,
        inverse: bool = True,
        velocities: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> Solution:
        """Register and return all that was found on the way.

        Args:
            fixed: features ``(B, C, *spatial)``, spatial 2-D or 3-D. Beyond +-2^30, or what their
                type holds, they are cut off, infinite ones too; the gradients end at +-2^33. (With
                costs in float16 these overflow, as those who scale losses expect.) NaN is handed
                on: a single one may leave no number in the displacement.
            moving: features of the same shape.
            fixed_mask: ``(B, 1, *spatial)`` in [0, 1]; 0 where the fixed image says nothing: no
                signal at all, as the entropy goes. Patches (``"lncc"``, ``"mind"``) reach 1 and 2
                voxels of their level across its border, to whatever finite features are there.
            moving_mask: the same for the moving image.
            initial_displacement: ``(B, d, *spatial)`` in voxels, to start from; its own inverse is
                that of `invert`.
            inverse: compose the inverse displacement too, from the negated velocities.
            velocities: keep those of all warps, d numbers per voxel each: with many refinements
                that is more than a cost volume.
            progress: called with the number of levels done after each.

        Returns:
            A `Solution`, in float32, or float64 if a feature map is; autocast has no effect.

        Raises:
            TypeError: a feature map is no tensor of floating point, or a mask or displacement none
                of real numbers.
            ValueError: shapes or devices do not fit.
        """
        check_inputs(fixed, moving, fixed_mask, moving_mask, initial_displacement)
        axes = better_order(fixed.shape[2:])
        if axes is not None:
            start = initial_displacement
            return self.solve(
                turned(fixed, axes),
                turned(moving, axes),
                fixed_mask=None if fixed_mask is None else turned(fixed_mask, axes),
                moving_mask=None if moving_mask is None else turned(moving_mask, axes),
                initial_displacement=None if start is None else turned(start, axes, vectors=True),
                inverse=inverse,
                velocities=velocities,
                progress=progress,
            ).turned([axes.index(axis) for axis in range(len(axes))])
        dtype = torch.promote_types(torch.promote_types(fixed.dtype, moving.dtype), torch.float32)
        with without_autocast(fixed.device):
            shapes = pyramid_shapes(fixed.shape[2:], self.levels)
            pyramids = [
                feature_pyramid(
                    # Networks may hand on channels last; all here goes volume by volume.
                    bounded_gradient(bounded(x).to(dtype), self.cost_dtype).contiguous(),
                    None if mask is None else mask.to(dtype),
                    shapes,
                    self.align_corners,
                )
                for x, mask in ((fixed, fixed_mask), (moving, moving_mask))
            ]
            initial = initial_displacement
            if initial is not None:
                initial = bounded_gradient(bounded(initial.to(dtype)), self.cost_dtype)
            u, u_inverse = None, None
            levels: list[Level] = []
            for number, shape in enumerate(shapes):
                u, u_inverse = self._upsample(u, shape), self._upsample(u_inverse, shape)
                start = self._upsample(initial, shape, exact=True)
                (f, f_mask), (m, m_mask) = (pyramid[number] for pyramid in pyramids)
                maps, last = Maps(f, m, f_mask, m_mask), number == len(shapes) - 1
                level, u_inverse = self._solve_level(
                    maps, start, u, u_inverse, last, inverse=inverse, velocities=velocities
                )
                u = level.displacement
                levels.append(level)
                if progress is not None:
                    progress(number + 1)
            assert u is not None
            if initial is not None:
                u = compose(initial, u)
                u_inverse = None if u_inverse is None else compose(u_inverse, invert(initial))
        return Solution(u, u_inverse, tuple(levels))

    def _solve_level(
        self,
        maps: Maps,
        start: Tensor | None,
        u: Tensor | None,
        u_inverse: Tensor | None,
        last: bool,
        *,
        inverse: bool,
        velocities: bool,
    ) -> tuple[Level, Tensor | None]:
        """The warps of one level, from the displacement before it and its inverse."""
        dissimilarity = self.dissimilarity if last else self.coarse_dissimilarity
        matching = Matching(self.search_radius, dissimilarity, self.boundary, self.cost_dtype)
        kept: list[Tensor] = []
        entropy: Tensor | None = None
        sigma: Tensor | None = None
        own: Tensor | None = None
        refined: Tensor | None = None  # the moving map as the first refinement finds it
        for warp in range(self.warps_per_level + (self.refinements if last else 0)):
            displacement = _compose(start, u)
            if warp < self.warps_per_level:
                # Nothing here holds the warped map: it ends before the solver needs its memory.
                cost, again, known = matching.volume(
                    matching.warped(maps, displacement), self.solver
                )
                # The last volume is the first that the backward pass needs: it may stay.
                keep = last and warp == self.warps_per_level - 1
                solved: tuple[Tensor, Tensor] = self.solver(cost, None if keep else again, known)
                del cost
                velocity, entropy = (x.to(maps.fixed.dtype) for x in solved)
                squarings = self.integration_steps
            else:
                assert u is not None and entropy is not None  # there was a whole volume
                sigma = self.solver.sigma(entropy) if sigma is None else sigma
                warped = matching.warped(maps, displacement)
                refined = warped.moving if refined is None else refined
                if own is None or maps.moving_mask is not None:  # which is warped anew
                    stars = matching.own_stars(warped._replace(moving=refined))
                    own = self.solver.own_slope(*stars, sigma)
                velocity = self.solver.refine(matching.star(warped), own, sigma, u)
                squarings = min(self.integration_steps, SQUARINGS)
            if velocities:
                kept.append(velocity)
            u = _compose(u, exponentiate(velocity, squarings))
            if inverse:
                u_inverse = _compose(exponentiate(-velocity, squarings), u_inverse)
        assert u is not None and entropy is not None
        return Level(tuple(kept), u, entropy), u_inverse

    def _upsample(
        self, displacement: Tensor | None, shape: Sequence[int], exact: bool = False
    ) -> Tensor | None:
        if displacement is None:
            return None
        scale = None if exact else self.upsampling_scale
        return resize_displacement(displacement, shape, self.align_corners, scale)

    def extra_repr(self) -> str:
        return (
            f"levels={self.levels}, search_radius={self.search_radius}, "
            f"dissimilarity={self.dissimilarity!r}, "
            f"coarse_dissimilarity={self.coarse_dissimilarity!r}, "
            f"assignment={self.solver.assignment!r}, gradient={self.solver.gradient!r}, "
            f"warps_per_level={self.warps_per_level}, refinements={self.refinements}"
        )


def _compose(outer: Tensor | None, inner: Tensor | None) -> Tensor | None:
    """`compose`, with None as the identity."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return compose(outer, inner)
