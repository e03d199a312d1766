"""The tools of ``voxelopt benchmark --peers`` and of ``peers``, each in a process of its own.

Each function registers two NIfTI files on one grid from the identity, with the settings that its
entry in `TOOLS` tells, and returns the displacement ``(1, 3, *spatial)`` in voxels of that grid,
pulling back, and the seconds of the registration alone: after imports, and after reading files.

Run as a script, ``peer_tools.py JSON``, it writes what one tool found to an ``.npz`` file. It
imports nothing of this project but for the layer itself: the peak of memory is that of the tool.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from nibabel.nifti1 import Nifti1Image

if TYPE_CHECKING:
    import SimpleITK as sitk

Found = tuple[np.ndarray, float]
_DEMONS = ((4, 50), (2, 50), (1, 25))  # shrink factor and iterations of each resolution
_SYN_ITERATIONS = (100, 70, 50, 20)
_GREEDY = "-m NCC 2x2x2 -n 100x50x10"


def voxelopt_layer(
    fixed: Path,
    moving: Path,
    threads: int,
    features: str,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Found:
    """The layer, on features ``"raw"`` or ``"mind"``; ``settings`` are keywords of it."""
    import torch

    from voxelopt_layers import VoxelOptLayer, native
    from voxelopt_models import MINDSSC, RawIntensity, RegistrationNet

    torch.set_num_threads(threads)
    native.available()  # compiled before the clock runs
    settings = settings or {}
    layer = VoxelOptLayer.from_preset(preset, **settings) if preset else VoxelOptLayer(**settings)
    net = RegistrationNet(RawIntensity() if features == "raw" else MINDSSC(), layer).eval()
    images = [torch.from_numpy(_array(path))[None, None] for path in (fixed, moving)]
    start = time.perf_counter()
    with torch.no_grad():
        u = net(*images)
    return u.numpy(), time.perf_counter() - start


def convex_adam(fixed: Path, moving: Path, threads: int) -> Found:
    """ConvexAdam on MIND, on the CPU; its field is in voxels, components last."""
    import torch

    register = import_module("convexAdam.convex_adam_MIND").convex_adam_pt
    torch.set_num_threads(threads)
    images = _array(fixed), _array(moving)
    start = time.perf_counter()
    field = register(*images, dtype=torch.float32, device=torch.device("cpu"))
    seconds = time.perf_counter() - start
    return np.moveaxis(field, -1, 0)[None].astype(np.float32), seconds


def ants_syn(fixed: Path, moving: Path, threads: int) -> Found:
    """ANTs' SyN without an affine stage; ITK takes the number of threads from the environment."""
    ants = import_module("ants")
    images = ants.image_read(str(fixed)), ants.image_read(str(moving))
    start = time.perf_counter()
    found = ants.registration(
        *images,
        type_of_transform="SyNOnly",
        initial_transform="Identity",
        reg_iterations=_SYN_ITERATIONS,
    )
    seconds = time.perf_counter() - start
    lps_mm = _array(found["fwdtransforms"][0])[:, :, :, 0]  # a field; the identity follows it
    return _from_itk(lps_mm, fixed), seconds


def itk_demons(fixed: Path, moving: Path, threads: int) -> Found:
    """Diffeomorphic demons of ITK from coarse to fine, as in SimpleITK's examples."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    images = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving)]
    start = time.perf_counter()
    field = demons_field(*images)
    seconds = time.perf_counter() - start
    return _from_itk(_sitk_vectors(field), fixed), seconds


def demons_field(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """The displacement in mm on the grid of ``fixed``, each resolution going on from the last."""
    import SimpleITK as sitk

    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetSmoothDisplacementField(True)
    field = None
    for factor, iterations in _DEMONS:
        pair = [_shrunk(image, factor) for image in (fixed, moving)]
        demons.SetNumberOfIterations(iterations)
        # Between resolutions the field is continued at the border: zeros would be an edge there.
        onto = [] if field is None else [_resampled(field, pair[0])]
        field = demons.Execute(*pair, *onto)
    assert field is not None
    return field


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    """Every axis at ``1 / factor`` of its voxels, between the same outer voxel centres."""
    import SimpleITK as sitk

    if factor == 1:
        return image
    spacing, size = image.GetSpacing(), image.GetSize()
    smooth = sitk.SmoothingRecursiveGaussian(image, [factor / 2 * mm for mm in spacing])
    fewer = [max(-(-n // factor), 2) for n in size]
    larger = [mm * (n - 1) / (m - 1) for mm, n, m in zip(spacing, size, fewer, strict=True)]
    grid = sitk.Image(fewer, sitk.sitkFloat32)
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    grid.SetSpacing(larger)
    return _resampled(smooth, grid)


def _resampled(image: sitk.Image, grid: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(grid)
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetUseNearestNeighborExtrapolator(True)
    return resample.Execute(image)


def greedy(fixed: Path, moving: Path, threads: int) -> Found:
    """Greedy in this process; ``-wp 0`` keeps the field from being rounded to 0.1 voxel."""
    import SimpleITK as sitk

    tool = import_module("picsl_greedy").Greedy3D()
    images = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving)]
    start = time.perf_counter()
    tool.execute(
        f"-threads {threads} -i fixed moving {_GREEDY} -wp 0 -o field",
        fixed=images[0],
        moving=images[1],
        field=None,
    )
    seconds = time.perf_counter() - start
    return _from_itk(_sitk_vectors(tool["field"]), fixed), seconds


def _array(path: Path | str) -> np.ndarray:
    stored = np.asanyarray(Nifti1Image.from_filename(path).dataobj)
    return np.ascontiguousarray(stored, np.float32)


def _sitk_vectors(field: sitk.Image) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3)  # SimpleITK's arrays begin with z


def _from_itk(lps_mm: np.ndarray, fixed: Path) -> np.ndarray:
    """ITK's vectors ``(*spatial, 3)`` in LPS mm, on the grid of ``fixed``, as our displacement."""
    affine = Nifti1Image.from_filename(fixed).affine
    assert affine is not None
    ras_to_voxels = np.linalg.inv(affine[:3, :3])
    lps_to_voxels = ras_to_voxels @ np.diag([-1.0, -1.0, 1.0])
    return np.einsum("ij,xyzj->ixyz", lps_to_voxels, lps_mm)[None].astype(np.float32)


class Tool(NamedTuple):
    """A row of the table: what is called, how it is set, and the PyPI package and its module."""

    register: Callable[..., Found]
    settings: str
    package: str = ""
    module: str = ""
    preset: str | None = None  # of the layer


TOOLS = {
    "voxelopt, raw": Tool(
        partial(voxelopt_layer, features="raw"), "raw intensities", preset="intensity"
    ),
    "voxelopt, MIND": Tool(partial(voxelopt_layer, features="mind"), "MIND-SSC"),
    "ConvexAdam": Tool(
        convex_adam, "convex_adam_pt with its defaults (MIND)", "convexadam", "convexAdam"
    ),
    "ANTs SyN": Tool(
        ants_syn,
        f"SyNOnly from the identity, Mattes, {'x'.join(map(str, _SYN_ITERATIONS))} iterations",
        "antspyx",
        "ants",
    ),
    "ITK demons": Tool(
        itk_demons,
        "diffeomorphic, iterations "
        + ", ".join(f"{n} at 1/{factor}" for factor, n in _DEMONS)
        + ", the field smoothed by 1 voxel",
        "SimpleITK",
        "SimpleITK",
    ),
    "greedy": Tool(greedy, _GREEDY, "picsl-greedy", "picsl_greedy"),
}


def _peak_mb() -> float:
    """Most memory this process has held, in MB."""
    import resource

    # Linux hands what the parent held on to getrusage of the child, but not to VmHWM.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def run_tool(spec: dict[str, Any]) -> None:
    """Register with one tool and keep the field, the seconds and the peak of memory."""
    tool = TOOLS[spec["tool"]]
    paths = Path(spec["fixed"]), Path(spec["moving"])
    displacement, seconds = tool.register(*paths, spec["threads"], **spec["options"])
    np.savez(spec["output"], displacement=displacement, seconds=seconds, peak_mb=_peak_mb())


if __name__ == "__main__":
    # The modules of this folder would stand in the way of others of their names.
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    run_tool(json.loads(sys.argv[1]))
