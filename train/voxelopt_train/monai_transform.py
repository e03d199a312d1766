"""Registration as one of MONAI's dictionary transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, cast

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.lazy.functional import apply_pending_transforms
from monai.transforms.transform import MapTransform
from monai.utils.misc import ImageMetaKey, ensure_tuple_rep
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor, nn

from voxelopt_layers import VoxelOptLayer
from voxelopt_train.carried import Channels, carry_channels, register_channels
from voxelopt_train.errors import InputError
from voxelopt_train.transforms import to_ddf

Mode = Literal["bilinear", "nearest"]


class VoxelOptRegistrationd(MapTransform):
    """Register one image of a dictionary to another, and carry images and labels along.

    Comes after ``LoadImaged`` and ``EnsureChannelFirstd``: images are ``(C, x, y, z)``, with the
    affines of their MetaTensors (the identity, if there is none), in RAS mm; shapes, spacings and
    orientations may differ. What is matched is the first channel of each; all channels are warped.

    Each of ``keys`` becomes a MetaTensor on the fixed image's grid, resampled once from its own
    voxels: float32, or as it was for ``"nearest"``. Beyond the image it is the least value of the
    channel, or 0 for ``"nearest"``. It has the fixed image's metadata, but its own file name, and
    the fixed image's past: ``Compose.inverse`` and ``Invertd`` bring it to where the fixed image
    came from. Only images of the world of the moving one may be warped: it, its labels and others.

    The transform is not random: ``CacheDataset`` keeps its results.

    Args:
        keys: what is warped.
        fixed_key: the image that stays; it is not changed.
        moving_key: the image that is matched to it, as it was before; often one of ``keys``.
        mode: ``"bilinear"``, or ``"nearest"`` for labels; one for all keys or one for each.
        displacement_key: if given, the displacement is put there: ``(3, x, y, z)`` on the fixed
            grid and in its voxels, with the initial alignment. It is a DDF of MONAI:
            ``monai.networks.blocks.Warp`` takes it, with the moving image on the fixed grid.
        encoder: see `voxelopt_train.register`, as the arguments below.
        layer: the layer.
        spacing_mm: work on an isotropic grid of this voxel size; None: on the fixed grid.
        initial: ``"none"``, ``"center-of-mass"``, ``"affine"`` or a file.
        window: intensities beyond these two values are not matched.
        device: where the layer runs.
        allow_missing_keys: pass over those of ``keys`` that are not there. The fixed and the
            moving image must be.

    Raises:
        InputError: an argument is none of its choices; or, when called, an image cannot be used.
        KeyError: when called, a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fixed_key: Hashable = "fixed",
        moving_key: Hashable = "moving",
        mode: Mode | Sequence[Mode] = "bilinear",
        displacement_key: Hashable | None = None,
        *,
        encoder: nn.Module | str = "raw",
        layer: VoxelOptLayer | None = None,
        spacing_mm: float | None = None,
        initial: str = "none",
        window: tuple[float, float] | None = None,
        device: str | torch.device = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fixed_key = fixed_key
        self.moving_key = moving_key
        self.mode: tuple[str, ...] = ensure_tuple_rep(mode, len(self.keys))
        for one in self.mode:
            if one not in ("bilinear", "nearest"):
                raise InputError(f"mode must be bilinear or nearest, got {one}")
        if fixed_key in self.keys:
            raise InputError(f"the fixed image stays as it is: {fixed_key} cannot be in keys")
        if displacement_key in (*self.keys, fixed_key, moving_key):
            raise InputError(f"displacement_key {displacement_key} is the key of an image already")
        self.displacement_key = displacement_key
        self.options: dict[str, Any] = {
            "encoder": encoder,
            "layer": layer,
            "spacing_mm": spacing_mm,
            "initial": initial,
            "window": window,
            "device": device,
        }

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The dictionary with each of ``keys`` on the fixed image's grid."""
        for key in (self.fixed_key, self.moving_key):
            if key not in data:
                raise KeyError(f"{type(self).__name__} needs the key {key!r}, which is missing")
        wanted = (*self.keys, self.fixed_key, self.moving_key)
        # In a lazy Compose, those that are no keys of this transform have not been resampled yet.
        d = cast(dict[Any, Any], apply_pending_transforms(dict(data), wanted))
        fixed = _meta_tensor(d[self.fixed_key])
        result = register_channels(
            _channels(fixed), _channels(_meta_tensor(d[self.moving_key])), **self.options
        )
        for key, mode in self.key_iterator(d, self.mode):
            image = _meta_tensor(d[key])
            how = "nearest" if mode == "nearest" else "linear"
            warped = carry_channels(_channels(image), str(key), result, how)
            d[key] = _on_grid_of(fixed, warped, image)
        if self.displacement_key is not None:
            ddf = to_ddf(result.transforms, result.fixed.grid)[0]
            d[self.displacement_key] = _on_grid_of(fixed, ddf)
        return d


def _meta_tensor(image: Any) -> MetaTensor:
    return cast(MetaTensor, convert_to_tensor(image, track_meta=True))


def _channels(image: MetaTensor) -> Channels:
    return image.as_tensor(), image.affine.cpu().numpy()


def _on_grid_of(fixed: MetaTensor, data: Tensor, source: MetaTensor | None = None) -> MetaTensor:
    """``data`` with the metadata and the past of ``fixed``, and the file name of ``source``."""
    meta, past = deepcopy(fixed.meta), deepcopy(fixed.applied_operations)
    name = None if source is None else source.meta.get(ImageMetaKey.FILENAME_OR_OBJ)
    meta.pop(ImageMetaKey.FILENAME_OR_OBJ, None)
    if name is not None:
        meta[ImageMetaKey.FILENAME_OR_OBJ] = name
    return MetaTensor(data, meta=meta, applied_operations=past)
