"""Register two images from file to file: world space in, world space out, one interpolation.

Fixed and moving may differ in shape, spacing, orientation and position. Both are brought to one
grid, the fixed image's own or an isotropic one; the field found there is carried to the fixed
image's grid, and the moving image's own voxels are resampled once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.displacement import resize
from voxelopt_layers.presets import PRESETS
from voxelopt_models import MINDSSC, RawIntensity, RegistrationNet
from voxelopt_train.alignment import initial_alignment
from voxelopt_train.devices import torch_device
from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.grids import Grid, shared_part, working_grid
from voxelopt_train.images import Image, ImageLike, read_image
from voxelopt_train.label_maps import (
    read_label_pair,
    read_mask,
    warp_label_maps,
)
from voxelopt_train.memory_estimate import check_memory
from voxelopt_train.registered import Registration
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    voxels_to_mm,
)

# What is matched, and the settings that measured best with it: a preset, or the layer's defaults.
ENCODERS: dict[str, str | None] = {"raw": "intensity", "mind": None}
_CHANNELS = {"raw": 1, "mind": 12}
_LITTLE = 0.3  # of a field of view, below which two headers hardly speak of the same place


def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    encoder: nn.Module | str = "raw",
    layer: VoxelOptLayer | None = None,
    spacing_mm: float | None = None,
    initial: str = "none",
    window: tuple[float, float] | None = None,
    fixed_labels: ImageLike | None = None,
    moving_labels: ImageLike | None = None,
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
) -> Registration:
    """Register ``moving`` to ``fixed`` with no training.

    Args:
        fixed: a NIfTI file, a nibabel image, or ``(array, affine)`` with the affine in RAS mm.
        moving: the same; may lie on another grid.
        encoder: ``"raw"``, ``"mind"`` (for images of different modalities) or any module from
            ``(B, 1, *spatial)`` to features.
        layer: the layer; if None, with the settings that measured best with these features: the
            preset ``"intensity"`` for ``"raw"``, else the layer's defaults.
        spacing_mm: work on an isotropic grid of this voxel size; None: on the fixed grid.
        initial: ``"none"``, ``"center-of-mass"``, ``"affine"`` (needs SimpleITK) or the file of
            a linear transform, as `read_transform` takes it; maps the fixed world to the moving
            world.
        window: intensities outside these two values are cut off before any encoder sees them, for
            CT in HU; the initial alignment and the warped image keep them.
        fixed_labels: labels on the grid of ``fixed``.
        moving_labels: labels on the grid of ``moving``; resampled along, never used to register.
        fixed_mask: on the grid of ``fixed``, 0 where it says nothing of what is registered, as at
            a resected tumour or beyond an organ of interest; the field is filled in there from
            around. The initial alignment sees the whole images.
        moving_mask: the same on the grid of ``moving``.
        device: where the layer runs.
        progress: called with the name of each stage as it begins.

    Returns:
        A `Registration`.

    Raises:
        InputError: an input cannot be used; the message says which, and why. Or it takes more
            memory than there is; the message says which spacing would fit.
        TypeError: ``layer`` is none.
    """
    report = progress or (lambda stage: None)
    check_window(window)
    device = torch_device(device)
    report("reading the images")
    fixed_image, moving_image = read_image(fixed, "fixed image"), read_image(moving, "moving image")
    matched = cut_off(fixed_image, window), cut_off(moving_image, window)
    check_pair(*matched, window)
    seen = [
        read_mask(mask, f"{role} mask", image)
        for mask, role, image in (
            (fixed_mask, "fixed", fixed_image),
            (moving_mask, "moving", moving_image),
        )
    ]
    label_images = read_label_pair(fixed_labels, moving_labels, fixed_image, moving_image)
    if layer is None:
        layer = VoxelOptLayer(**best_settings(encoder))
    net = RegistrationNet(_encoder(encoder, window), layer)
    if isinstance(encoder, str):  # what other encoders take, nobody knows
        channels = _CHANNELS[encoder]
        check_memory(fixed_image.grid, spacing_mm, layer, channels, device)
    grid = working_grid(fixed_image.grid, spacing_mm)
    net = copy.deepcopy(net).to(device).eval()  # the caller's modules stay as they are
    report("initial alignment")
    alignment = initial_alignment(fixed_image, moving_image, initial)
    before = [] if alignment is None else [alignment]
    _check_overlap(fixed_image, moving_image, alignment)
    background = float(moving_image.data.min())

    report("features")
    images, masks = _on_working_grid(matched, seen, before, grid, device)
    _check_masks(masks)
    start = time.perf_counter()
    u, inverse, entropy = _solve(net, images, masks, report)
    seconds = time.perf_counter() - start

    report("resampling")
    field = _on_grid(DisplacementField(voxels_to_mm(u, grid), grid), fixed_image.grid)
    inverse_field = _on_grid(DisplacementField(voxels_to_mm(inverse, grid), grid), fixed_image.grid)
    transforms: list[Transform] = [field, *before]
    return Registration(
        fixed=fixed_image,
        aligned=resample(moving_image, fixed_image.grid, before, fill=background),
        warped=resample(moving_image, fixed_image.grid, transforms, fill=background),
        field=field,
        inverse_field=inverse_field,
        initial=alignment,
        entropy=resample(Image(entropy[0, 0], grid, "entropy"), fixed_image.grid),
        labels=None if label_images is None else warp_label_maps(*label_images, before, transforms),
        working_grid=grid,
        seconds=seconds,
    )


def _on_working_grid(
    pair: Sequence[Image],
    seen: Sequence[Image],
    before: list[AffineTransform],
    grid: Grid,
    device: torch.device,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Both images ``(1, 1, *shape)`` on ``grid``, and the masks of those not seen all over it."""

    def volume(image: Image) -> Tensor:
        return image.data[None, None].to(device)

    images, masks = [], {}
    sides = zip(("fixed", "moving"), pair, seen, ([], before), strict=True)
    for name, image, where, transforms in sides:
        # Beyond its field of view an image continues: any other value would make an edge there.
        images.append(volume(resample(image, grid, transforms, fill=None, antialias=True)))
        mask = resample(where, grid, transforms, mode="nearest")  # 0 outside the field of view
        if not mask.data.all():
            masks[f"{name}_mask"] = volume(mask)
    return images, masks


def _solve(
    net: RegistrationNet,
    images: list[Tensor],
    masks: dict[str, Tensor],
    report: Callable[[str], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Displacement, inverse (voxels) and entropy on the grid of ``images``, on the CPU."""
    shape, levels = images[0].shape[2:], net.layer.levels
    names = [f"level {n + 1} of {levels}" for n in range(levels)] + ["composing"]
    with torch.no_grad():
        features = net.features(*images)
        report(names[0])
        solution = net.solve_features(
            *features,
            shape,
            **masks,
            velocities=False,
            progress=lambda done: report(names[done]),
        )
    assert solution.inverse is not None
    if not solution.displacement.isfinite().all():
        raise InputError("the registration found no numbers: features are NaN, or costs overflow")
    entropy = resize(solution.entropy[-1], shape)  # an encoder may have a stride
    return solution.displacement.cpu(), solution.inverse.cpu(), entropy.cpu()


def _on_grid(field: DisplacementField, grid: Grid) -> DisplacementField:
    """The field at the voxels of another grid that it covers."""
    if field.grid is grid:
        return field
    components = [
        resample(Image(component, field.grid, "field"), grid).data
        for component in field.displacement_mm[0]
    ]
    return DisplacementField(torch.stack(components)[None], grid)


def best_settings(encoder: nn.Module | str) -> dict[str, Any]:
    """Keywords of the layer that measured best with these features."""
    preset = ENCODERS.get(encoder) if isinstance(encoder, str) else None
    return PRESETS[preset] if preset else {}


def _encoder(encoder: nn.Module | str, window: tuple[float, float] | None) -> nn.Module:
    if isinstance(encoder, nn.Module):
        return encoder
    if encoder == "mind":
        return MINDSSC()
    if encoder == "raw":
        return RawIntensity(window=window)
    known = ", ".join(ENCODERS)
    raise InputError(f"encoder must be one of {known}, or a module as MINDSSC(), got {encoder!r}")


def cut_off(image: Image, window: tuple[float, float] | None) -> Image:
    """The image with its intensities within the window, all of them if there is none."""
    # On the image's own grid: resampled first, what lies far outside would bleed into the window.
    return image if window is None else replace(image, data=image.data.clamp(*window))


def check_window(window: tuple[float, float] | None) -> None:
    """Raise InputError for a window that leaves nothing of any image."""
    if window is None:
        return
    bounds = tuple(window) if isinstance(window, Iterable) else ()
    if len(bounds) != 2 or not all(isinstance(bound, Real) for bound in bounds):
        raise InputError(f"the window must be two numbers, low and high, got {window!r}")
    if not bounds[0] < bounds[1]:
        raise InputError(f"the window must go from low to high, got {bounds[0]:g} {bounds[1]:g}")


def check_pair(fixed: Image, moving: Image, window: tuple[float, float] | None) -> None:
    """Raise InputError for what can be read and yet has nothing to register."""
    for image in (fixed, moving):
        if image.data.min() == image.data.max():
            place = "" if window is None else f" within the window {window[0]:g} {window[1]:g}"
            raise InputError(f"{image.name}: all voxels are equal{place}, nothing can be matched")
    slices = [1 in image.grid.shape for image in (fixed, moving)]
    if slices[0] != slices[1]:
        flat, solid = (fixed, moving) if slices[0] else (moving, fixed)
        raise InputError(f"{flat.name} is a single slice and {solid.name} a volume, expected alike")


def _check_masks(masks: Mapping[str, Tensor]) -> None:
    seen = 1.0
    for mask in masks.values():
        seen = seen * mask
    if isinstance(seen, Tensor) and not seen.any():
        raise InputError(
            "the masks, and the parts of the world that the images show, leave no voxel of the "
            "working grid where both can be matched"
        )


def _check_overlap(fixed: Image, moving: Image, alignment: AffineTransform | None) -> None:
    to_fixed = np.eye(4) if alignment is None else np.linalg.inv(alignment.matrix)
    moved = Grid(moving.grid.shape, to_fixed @ moving.grid.affine)
    shared = shared_part(fixed.grid, moved)
    hint = " (try an initial alignment, as center-of-mass)" if alignment is None else ""
    if shared == 0:
        raise InputError(f"{fixed.name} and {moving.name} do not overlap in world space{hint}")
    if shared < _LITTLE:
        warn_once(
            f"{fixed.name} and {moving.name} share {100 * shared:.0f} % of the smaller field of "
            f"view in world space, so that most of it has nothing to be matched with{hint}"
        )
