"""How broken files are made: each maker, or what it returns, writes one to a path."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.nifti1 import Nifti1Image
from scipy.io import savemat

from command_line import AFFINE

GB = 2**30
AFFINE_KIND = "AffineTransform_double_3_3"
FIELD = "DisplacementFieldTransform_double_3_3"
Write = Callable[[Path], object]


def nothing(path: Path) -> None:
    """There is no such file."""


def holding(content: bytes | str) -> Write:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def cut(whole: Write, size: int) -> Write:
    return lambda path: (whole(path), os.truncate(path, size))


def stored(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)


def nifti(
    array: np.ndarray | None = None,
    kind: type[Nifti1Image] = Nifti1Image,
    cut: slice = slice(None),
    flag: int = 0,
    swapped: str = "",
    **fields: Any,
) -> Write:
    """An image with fields of its header as given.

    Args:
        array: its voxels.
        kind: NIfTI-1 or -2.
        cut: the part that is written, before it is compressed.
        flag: 1 where extensions are said to follow the header.
        swapped: a field in the other byte order than all others.
        fields: of the header, as bytes or numbers.
    """
    voxels = np.arange(336, dtype=np.float32).reshape(8, 7, 6) if array is None else array

    def write(path: Path) -> None:
        content = bytearray(kind(voxels, AFFINE).to_bytes())
        header = np.ndarray((), kind.header_class.template_dtype, content)
        for name, value in fields.items():
            header[name] = value
        if swapped:
            header[swapped] = header[swapped].byteswap()
        content[kind.header_class.sizeof_hdr] = flag
        stored(path, bytes(content[cut]))

    return write


def formless(*spacing: float) -> Write:
    """Without sform and qform, so that voxel sizes count."""
    return nifti(sform_code=0, qform_code=0, pixdim=[1, *spacing, 1, 1, 1, 1])


def like_labels(factor: int) -> Write:
    """Labels on the grid of the moving image, times ``factor``."""

    def write(path: Path) -> None:
        labels = Nifti1Image.from_filename("moving_labels.nii.gz")
        Nifti1Image(np.asarray(labels.dataobj) * factor, labels.affine).to_filename(path)

    return write


def dim(*sizes: int) -> list[int]:
    return [len(sizes), *sizes, *[1] * (7 - len(sizes))]


def field(shape: tuple[int, ...], value: float = 0, **header: Any) -> Write:
    return nifti(np.full(shape, value, np.float32), **header)


def compressed(change: Callable[[bytes], bytes]) -> Write:
    """A compressed image whose bytes are changed."""

    def write(path: Path) -> None:
        nifti()(path)
        path.write_bytes(change(path.read_bytes()))

    return write


@cache
def _zeros() -> bytes:
    return gzip.compress(bytes(GB // 16))


def bomb(path: Path) -> None:
    """A header that declares 4 GB, and as much behind it, in 4 MB."""
    nifti(dim=dim(1024, 1024, 1024))(path)
    with path.open("ab") as file:
        file.writelines([_zeros()] * 64)


def extension_bomb(path: Path) -> None:
    """An extension that has 2 GB, in 2 MB."""
    extension = struct.pack("<4sii", b"\1\0\0\0", 2**31 - 16, 6)
    nifti(cut=slice(348), vox_offset=2.0**31)(path)
    path.write_bytes(path.read_bytes() + gzip.compress(extension) + _zeros() * 40)


def sparse(size: int, start: Write = Path.touch) -> Write:
    """A file that says of itself that it is so long, on a disk that holds next to nothing of it."""

    def write(path: Path) -> None:
        start(path)
        os.truncate(path, size)

    return write


def link(target: str) -> Write:
    return lambda path: path.symlink_to(target)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def locked(path: Path) -> None:
    """No permission: in earnest, and for a superuser (see `broken_files.deny`) by pretence."""
    nifti()(path)
    path.chmod(0)


def pair(image: Write, header: bytes | None = None) -> Write:
    """An Analyze image and its header; ``image`` changes the former."""

    def write(path: Path) -> None:
        AnalyzeImage(np.ones((8, 7, 6), np.float32), AFFINE).to_filename(path)
        if header is not None:
            path.with_suffix(".hdr").write_bytes(header)
        image(path)

    return write


def analyze_header(**fields: Any) -> bytes:
    header = AnalyzeImage(np.ones((8, 7, 6), np.float32), AFFINE).header
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock


def mgz(path: Path) -> None:
    voxels: Any = np.ones((8, 7, 6), np.float32)
    content = bytearray(MGHImage(voxels, AFFINE).to_bytes())
    content[4:16] = struct.pack(">3i", 30000, 30000, 30000)
    stored(path, bytes(content))


def tfm(kind: str, parameters: str, fixed: str = "0 0 0") -> Write:
    head = "#Insight Transform File V1.0\n#Transform 0\n"
    return holding(f"{head}Transform: {kind}\nParameters: {parameters}\nFixedParameters: {fixed}\n")


def mat(**arrays: Any) -> Write:
    return lambda path: savemat(path, arrays, format="4")


def mat_that_declares(rows: int) -> Write:
    """A matrix of so many rows, of which there are none."""
    return holding(struct.pack("<5i", 0, rows, 1, 0, 2) + b"x\0")


def mat_bomb(path: Path) -> None:
    """MATLAB 5: compressed."""
    savemat(path, {"AffineTransform_double_3_3": np.zeros((GB // 512, 1))}, do_compression=True)


def h5(write: Callable[[h5py.Group], object]) -> Write:
    def written(path: Path) -> None:
        with h5py.File(path, "w") as file:
            group = file.create_group("TransformGroup/0")
            group["TransformType"] = np.array([FIELD], h5py.string_dtype("ascii"))
            write(group)

    return written


def parameters_of(group: h5py.Group, count: int) -> h5py.Dataset:
    """So many are declared, and none is there."""
    more = {"chunks": (2**20,), "compression": "gzip"}
    return group.create_dataset("TransformParameters", (count,), np.float64, **more)


def h5_bomb(group: h5py.Group) -> None:
    """2 GB in 2 MB."""
    parameters, chunk = parameters_of(group, 2**28), zlib.compress(bytes(2**23))
    for start in range(0, 2**28, 2**20):
        parameters.id.write_direct_chunk((start,), chunk)


def npz(**arrays: Any) -> Write:
    return lambda path: np.savez(path, **arrays)


def npz_that_declares(shape: tuple[int, ...]) -> Write:
    def write(path: Path) -> None:
        np.savez(path, np.zeros(3))
        start = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            start, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", start.getvalue())

    return write


def markup(**changes: Any) -> Write:
    point = {"position": [1, 2, 3]}
    listed = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [point]}
    return holding(json.dumps({"markups": [listed | changes]}))


def folder(**files: Write) -> Write:
    """A folder of images; in their names ``__`` stands for a point."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, make in files.items():
            make(path / name.replace("__", "."))

    return write


def manifest(**changes: Any) -> Write:
    """A prepared folder of two subjects, of which there are no files."""
    subjects = [{"name": name, "image": f"images/{name}.nii.gz"} for name in "ab"]
    splits = {"train": [], "validation": [], "test": ["a", "b"]}
    content = {"version": 1, "spacing_mm": 2, "shape": [8, 7, 6], "window": None, "labels": []}
    content |= {"splits": splits, "subjects": subjects} | changes
    return folder(manifest__json=holding(json.dumps(content)))
