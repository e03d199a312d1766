"""Register two images from file to file: world space in, world space out, one interpolation.

Fixed and moving may differ in shape, spacing, orientation and position. Both are brought to one
grid, the fixed image's own or an isotropic one; the field found there is carried to the fixed
image's grid, and the moving image's own voxels are resampled once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.displacement import resize
from voxelopt_layers.presets import PRESETS
from voxelopt_models import MINDSSC, RawIntensity, RegistrationNet
from voxelopt_train.alignment import initial_alignment
from voxelopt_train.devices import torch_device
from voxelopt_train.errors import InputError
from voxelopt_train.grids import Grid, working_grid
from voxelopt_train.images import Image, ImageLike, read_image
from voxelopt_train.label_maps import (
    read_label_pair,
    read_mask,
    warp_label_maps,
)
from voxelopt_train.memory_estimate import check_memory
from voxelopt_train.pair_checks import (
    check_kinds,
    check_masks,
    check_overlap,
    check_pair,
    check_window,
    cut_off,
)
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
    check_kinds(fixed_image, moving_image)
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
    check_overlap(fixed_image, moving_image, alignment)
    background = float(moving_image.data.min())

    report("features")
    images, masks = _on_working_grid(matched, seen, before, grid, device)
    check_masks(masks)
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
