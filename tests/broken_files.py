"""A corpus of broken files: how each is made, the command that is given it, and what that says.

Run as a program, it prints a row for each, with the seconds and the memory that it takes, and
exits with 1 where any does not end in one sentence and exit code 2 within 5 s and 1 GB, or leaves a
file: ``broken_files.py [NAME ...]``.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from scipy.io import savemat

sys.path.append(str(Path(__file__).parent / "cli"))
from command_line import AFFINE, contents, sentence, write_pair
from voxelopt_train import input_files
from voxelopt_train.cli import main as voxelopt
from voxelopt_train.learning import training_cli  # noqa: F401 (here, and not after each fork)
from voxelopt_train.phantom import phantom_pair

GB = 2**30
Write = Callable[[Path], object]

# BAD stands for the file. What else is named is whole, see `command_line.write_pair`.
COMMANDS = {
    "image": "apply BAD -r fixed.nii.gz -o out/a.nii.gz",
    "reference": "apply moving.nii.gz -r BAD -o out/a.nii.gz",
    "grid": "jacobian -r BAD -t shift.tfm -o out/j.nii.gz",
    "fixed": "register BAD moving.nii.gz -o out/",
    "labels": "register fixed.nii.gz moving.nii.gz -o out/ "
    "--fixed-labels BAD --moving-labels moving_labels.nii.gz",
    "mask": "register fixed.nii.gz moving.nii.gz -o out/ --moving-mask BAD",
    "transform": "apply moving.nii.gz -r fixed.nii.gz -t BAD -o out/a.nii.gz",
    "learn2reg": "apply moving.nii.gz -r fixed.nii.gz -t learn2reg:BAD -o out/a.nii.gz",
    "initial": "register fixed.nii.gz moving.nii.gz -o out/ --initial BAD",
    "points": "points BAD -o out/p.csv",
    "pairs": "register --pairs BAD -o out",
    "config": "register fixed.nii.gz moving.nii.gz -o out/ --config BAD",
    "names": "report out -o page.html --label-names BAD",
    "folder": "register fixed.nii.gz BAD -o out",
    "prepare": "prepare BAD -o out --shape 8 8 8 --spacing 8",
    "patterns": "prepare BAD -o out --images img_*.nii.gz --test a,b --shape 8 8 8",
    "data": "predict --config raw --data BAD -o out",
}  # fmt: skip


class Broken(NamedTuple):
    """One broken file: the command that is given it, its name, its maker, what is said of it."""

    command: str
    name: str
    write: Write
    says: str

    def arguments(self) -> list[str]:
        """The command, for a file of that name in the current folder."""
        return [word.replace("BAD", self.name) for word in COMMANDS[self.command].split()]


def nothing(path: Path) -> None:
    """There is no such file."""


def holding(content: bytes | str) -> Write:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


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


def sparse(size: int, start: Write = holding(b"")) -> Write:
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
    """No permission: in earnest, and for a superuser (see `deny`) by pretence."""
    nifti()(path)
    path.chmod(0)


def deny(path: str | Path, mode: int, *, access: Callable[..., bool] = os.access) -> bool:
    """In the place of `os.access`, for a superuser, to whom nothing is locked."""
    return "locked" not in str(path) and access(path, mode)


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
    content = bytearray(MGHImage(np.ones((8, 7, 6), np.float32), AFFINE).to_bytes())
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
    savemat(path, {"AffineTransform_double_3_3": np.zeros((GB // 32, 1))}, do_compression=True)


def h5(write: Callable[[h5py.Group], object]) -> Write:
    def written(path: Path) -> None:
        with h5py.File(path, "w") as file:
            group = file.create_group("TransformGroup/0")
            group["TransformType"] = np.array([FIELD], h5py.string_dtype("ascii"))
            write(group)

    return written


FIELD = "DisplacementFieldTransform_double_3_3"
AFFINE_KIND = "AffineTransform_double_3_3"
ROWS = "1 0 0 0 1 0 0 0 1 0 0 0"


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


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
DAMAGED = "not a NIfTI image, or a damaged one"
CUT = "truncated or damaged"
SINGLE = "expected a single 3-D volume, got shape"

_OF_IMAGES: Mapping[str, tuple[str, Write, str]] = {
    "missing": ("a.nii.gz", nothing, "there is no such file"),
    "a folder": ("a.nii.gz", Path.mkdir, "this is a folder"),
    "empty": ("a.nii.gz", Path.touch, DAMAGED),
    "empty, not compressed": ("a.nii", Path.touch, DAMAGED),
    "text": ("a.nii.gz", holding("no image\n"), DAMAGED),
    "text, not compressed": ("a.nii", holding("no image\n" * 99), DAMAGED),
    "cut in the header": ("a.nii.gz", nifti(cut=slice(200)), DAMAGED),
    "cut in the header, not compressed": ("a.nii", nifti(cut=slice(200)), DAMAGED),
    "cut in the voxels": ("a.nii.gz", nifti(cut=slice(-200)), CUT),
    "cut in the voxels, not compressed": ("a.nii", nifti(cut=slice(-200)), CUT),
    "half of a gzip file": ("a.nii.gz", compressed(lambda b: b[: len(b) // 2]), DAMAGED),
    "gzip without its end, in capitals": ("A.NII.GZ", compressed(lambda b: b[:-8]), CUT),
    "gzip without its end": ("a.nii.gz", compressed(lambda b: b[:-8]), CUT),
    "gzip with another checksum": (
        "a.nii.gz", compressed(lambda b: b[:-8] + bytes(4) + b[-4:]), CUT,
    ),
    "gzip with rubbish behind": ("a.nii.gz", compressed(lambda b: b + b"rubbish"), CUT),
    "gzip with a changed byte": (
        "a.nii.gz", compressed(lambda b: b[:300] + bytes([b[300] ^ 255]) + b[301:]), DAMAGED,
    ),
    "not compressed, by its name it is": (
        "a.nii.gz", lambda path: (nifti()(Path("b.nii")), Path("b.nii").rename(path)), DAMAGED,
    ),
    "compressed, by its name it is not": (
        "a.nii", lambda path: (nifti()(Path("b.nii.gz")), Path("b.nii.gz").rename(path)), DAMAGED,
    ),
    "a name in mixed letters": ("a.Nii", nifti(), "expected a name ending in .nii or .nii.gz"),
    "a link to nowhere": ("a.nii.gz", link("gone.nii.gz"), "there is no such file"),
    "a link to itself": ("a.nii.gz", link("a.nii.gz"), "Too many levels of symbolic links"),
    "a named pipe": ("a.nii.gz", os.mkfifo, "a pipe, a socket or a device"),
    "a socket": ("a.nii.gz", a_socket, "a pipe, a socket or a device"),
    "a device": ("a.nii", link("/dev/zero"), "a pipe, a socket or a device"),
    "no permission": ("locked.nii.gz", locked, "no permission to read this file"),
    "a bomb": ("a.nii.gz", bomb, "of memory"),
    "a bomb in an extension": ("a.nii.gz", extension_bomb, "an extension of it says"),
    "too large": ("a.nii", sparse(64 * GB + 352, nifti(dim=dim(4096, 4096, 1024))), "of memory"),
    "declares too much": ("a.nii.gz", nifti(dim=dim(32767, 32767, 32767)), CUT),
    "declares too much, not compressed": ("a.nii", nifti(dim=dim(32767, 32767, 32767)), CUT),
    "declares too much, NIfTI-2": (
        "a.nii.gz", nifti(kind=Nifti2Image, dim=dim(2**40, 2**40, 2**40)), CUT,
    ),
    "declares too much, MGH": ("a.mgz", mgz, DAMAGED),
    "no axes": ("a.nii.gz", nifti(dim=[0] * 8), "dim[0] is 0, expected 1 to 7"),
    "eight axes": ("a.nii.gz", nifti(dim=[8, 8, 7, 6, 1, 1, 1, 1]), "dim[0] is 8, expected 1 to 7"),
    "negative number of axes": ("a.nii.gz", nifti(dim=[-3, 8, 7, 6, 1, 1, 1, 1]), "dim[0] is -3"),
    "axes in another byte order": ("a.nii.gz", nifti(swapped="dim"), DAMAGED),
    "datatype in another byte order": ("a.nii", nifti(swapped="datatype"), "no datatype 4096"),
    "a negative axis": ("a.nii.gz", nifti(dim=dim(8, -7, 6)), "the shape is (8, -7, 6)"),
    "an axis of 0": ("a.nii.gz", nifti(dim=dim(8, 0, 6)), "the image is empty"),
    "a datatype that there is not": ("a.nii.gz", nifti(datatype=999), "no datatype 999"),
    "datatype 0": ("a.nii.gz", nifti(datatype=0), DAMAGED),
    "datatype bits": ("a.nii.gz", nifti(datatype=1, bitpix=1), DAMAGED),
    "bitpix of another datatype": ("a.nii.gz", nifti(bitpix=8), "bitpix is 8"),
    "voxels beyond the file": ("a.nii", nifti(vox_offset=1e6), CUT),
    "voxels far beyond the file": ("a.nii.gz", nifti(vox_offset=1e30), CUT),
    "voxels before the file": ("a.nii.gz", nifti(vox_offset=-352), "vox_offset is -352"),
    "voxels nowhere": ("a.nii.gz", nifti(vox_offset=np.nan), "vox_offset is nan"),
    "a scale beyond all numbers": ("a.nii.gz", nifti(scl_slope=3e38), "NaN or infinite"),
    "an intercept of NaN": (
        "a.nii.gz", nifti(scl_slope=2, scl_inter=np.nan), DAMAGED,
    ),
    "an extension of negative size": (
        "a.nii",
        nifti(np.full((8, 7, 6), -1, np.float32), flag=1, dim=dim(8, 7, 5), vox_offset=512),
        "an extension of it says that it has -1082130432 bytes",
    ),
    "an extension of size 0": (
        "a.nii.gz", nifti(flag=1, dim=dim(8, 7, 5), vox_offset=512), "it has 0 bytes",
    ),
    "another magic": ("a.nii.gz", nifti(magic=b"abc"), DAMAGED),
    "another size of the header": ("a.nii.gz", nifti(sizeof_hdr=123, magic=b""), DAMAGED),
    "an affine of NaN": ("a.nii.gz", nifti(srow_x=np.nan), "NaN or infinite entries"),
    "an infinite affine": ("a.nii.gz", nifti(srow_y=np.inf), "NaN or infinite entries"),
    "an affine of 0": ("a.nii.gz", nifti(srow_x=0, srow_y=0, srow_z=0), "affine is singular"),
    "a flat affine": ("a.nii.gz", nifti(srow_x=[8, 0, 0, 0], srow_y=[8, 0, 0, 0]), "singular"),
    "a qform of NaN": (
        "a.nii.gz", nifti(sform_code=0, qform_code=1, qoffset_x=np.nan), "NaN or infinite",
    ),
    "a rotation that is none": (
        "a.nii.gz", nifti(sform_code=0, qform_code=1, quatern_b=5), DAMAGED,
    ),
    "voxels of 0 mm": ("a.nii.gz", formless(8, 0, 8), "a voxel size is 0 mm"),
    "voxels of negative size": ("a.nii.gz", formless(8, 8, -8), "a voxel size is -8 mm"),
    "voxels of NaN mm": ("a.nii.gz", formless(np.nan, 8, 8), "NaN or infinite entries"),
    "metres": ("a.nii.gz", nifti(xyzt_units=1), "in meters, expected millimetres"),
    "one axis": ("a.nii.gz", nifti(np.zeros(9, np.float32)), f"{SINGLE} (9,)"),
    "four axes": ("a.nii.gz", nifti(np.zeros((8, 7, 6, 2), np.float32)), f"{SINGLE} (8, 7, 6, 2)"),
    "five axes": ("a.nii.gz", nifti(np.zeros((8, 7, 6, 1, 3), np.float32)), SINGLE),
    "four large axes": ("a.nii", sparse(GB, nifti(dim=dim(512, 512, 512, 2), datatype=2, bitpix=8)), SINGLE),
    "colour": ("a.nii.gz", nifti(np.zeros((8, 7, 6), [(c, "u1") for c in "RGB"])), "colour image"),
    "colour and opacity": (
        "a.nii.gz", nifti(np.zeros((8, 7, 6), [(c, "u1") for c in "RGBA"])), "colour image",
    ),
    "complex": ("a.nii.gz", nifti(np.zeros((8, 7, 6), np.complex64)), "complex numbers"),
    "NaN": ("a.nii.gz", nifti(np.full((8, 7, 6), np.nan, np.float32)), "336 of 336 voxels are NaN"),
    "beyond float32": ("a.nii.gz", nifti(np.full((8, 7, 6), 1e300)), "NaN or infinite"),
    "no header beside": ("a.img", holding(bytes(1344)), "a.hdr: there is no such file"),
    "nothing beside the header": (
        "a.hdr", lambda path: pair(lambda image: image.unlink())(path.with_suffix(".img")),
        "a.img: there is no such file",
    ),
    "Analyze, cut": ("a.img", pair(lambda image: os.truncate(image, 1000)), CUT),
    "Analyze, empty header": ("a.img", pair(nothing, b""), DAMAGED),
    "Analyze, declares too much": (
        "a.img", pair(nothing, analyze_header(dim=dim(32767, 32767, 32767))), CUT,
    ),
    "a surface": ("a.gii", holding("<?xml version='1.0'?><GIFTI/>"), "expected a NIfTI image, got GiftiImage"),
}  # fmt: skip

_LABELS = np.ones((40, 32, 36), np.float32)  # on the shape of the phantoms

_OF_OTHERS: Mapping[str, Mapping[str, tuple[str, Write, str]]] = {
    "reference": {
        "half": ("a.nii.gz", compressed(lambda b: b[: len(b) // 2]), "reference a.nii.gz: not a"),
        "a pipe": ("a.nii.gz", os.mkfifo, "reference a.nii.gz: this is a pipe"),
    },
    "grid": {
        "declares too much": ("a.nii.gz", nifti(dim=dim(32767, 32767, 32767)), CUT),
        "a bomb": ("a.nii.gz", bomb, "of memory"),
        "a negative axis": ("a.nii.gz", nifti(dim=dim(8, -7, 6)), "the shape is (8, -7, 6)"),
        "an axis of 0": ("a.nii.gz", nifti(dim=dim(8, 0, 6)), "the image is empty"),
        "an affine of 0": ("a.nii.gz", nifti(srow_x=0, srow_y=0, srow_z=0), "affine is singular"),
    },
    "fixed": {
        "missing": ("a.nii.gz", nothing, "fixed image a.nii.gz: there is no such file"),
        "a link to itself": ("a.nii.gz", link("a.nii.gz"), "fixed image a.nii.gz: cannot be read"),
    },
    "labels": {
        "fractions": ("a.nii.gz", nifti(_LABELS / 2), "labels must be whole numbers, found 0.5"),
        "negative": ("a.nii.gz", nifti(-_LABELS), "labels must be 0 or above, found -1"),
        "beyond int32": ("a.nii.gz", nifti(_LABELS * 1e20), "labels must lie within"),
        "another grid": ("a.nii.gz", nifti(_LABELS[1:]), "does not lie on the grid of"),
        "half": ("a.nii.gz", compressed(lambda b: b[: len(b) // 2]), "fixed labels a.nii.gz: not"),
    },
    "mask": {
        "a pipe": ("a.nii.gz", os.mkfifo, "moving mask a.nii.gz: this is a pipe"),
        "NaN": ("a.nii.gz", nifti(_LABELS * np.nan), "voxels are NaN or infinite"),
    },
    "transform": {
        "missing": ("a.mat", nothing, "a.mat: there is no such file"),
        "a folder": ("a.tfm", Path.mkdir, "a.tfm: this is a folder"),
        "a link to nowhere": ("a.h5", link("gone.h5"), "a.h5: there is no such file"),
        "a link to itself": ("a.tfm", link("a.tfm"), "Too many levels of symbolic links"),
        "a named pipe": ("a.txt", os.mkfifo, "a pipe, a socket or a device"),
        "empty": ("a.mat", Path.touch, "not an ITK transform file"),
        "text": ("a.mat", holding("no transform\n"), "not an ITK transform file"),
        "cut .mat": ("a.mat", lambda path: (mat(**{AFFINE_KIND: np.eye(12)})(path), os.truncate(path, 200)), "not an ITK"),
        "a .mat of other things": ("a.mat", mat(x=np.eye(4)), "not an ITK transform file"),
        "a .mat that declares too much": ("a.mat", mat_that_declares(2**31 - 1), "not an ITK"),
        "a .mat that declares less than nothing": ("a.mat", mat_that_declares(-5), "not an ITK"),
        "a bomb of MATLAB 5": ("a.mat", mat_bomb, "not an ITK transform file"),
        "an unknown type": ("a.tfm", tfm("BSplineTransform_double_3_3", "1 2 3"), "cannot use BSpl"),
        "of 2-D": ("a.tfm", tfm("AffineTransform_double_2_2", "1 0 0 1 0 0"), "cannot use Affine"),
        "too few parameters": ("a.tfm", tfm(AFFINE_KIND, "1 0 0"), "has 12 finite parameters"),
        "parameters of NaN": ("a.tfm", tfm(AFFINE_KIND, ROWS.replace("1", "nan")), "finite param"),
        "parameters that are words": ("a.txt", tfm(AFFINE_KIND, "one two"), "damaged"),
        "singular": ("a.tfm", tfm(AFFINE_KIND, ROWS.replace("1", "0")), "singular"),
        "no transforms": ("a.tfm", holding("#Insight Transform File V1.0\n"), "expected one tr"),
        "too large a text": (
            "a.tfm", sparse(64 * GB, holding("#Insight Transform File V1.0\n")), "of memory",
        ),
        "HDF5 of other things": ("a.h5", lambda path: h5py.File(path, "w").close(), "no ITK"),
        "cut HDF5": ("a.h5", holding(b"\x89HDF\r\n\x1a\n" + bytes(99)), "or a damaged one"),
        "HDF5 that declares too much": (
            "a.h5",
            h5(lambda g: g.create_dataset("TransformParameters", (2**40,), chunks=(2**20,))),
            "or a damaged one",
        ),
        "HDF5 with a group for numbers": (
            "a.h5", h5(lambda g: g.create_group("TransformParameters")), "or a damaged one",
        ),
        "a bomb of HDF5": (
            "a.h5",
            h5(lambda g: g.create_dataset("TransformParameters", data=np.zeros(GB // 16), compression="gzip")),
            "of memory",
        ),
        "a field without its grid": ("a.tfm", tfm(FIELD, "1 2 3"), "18 finite fixed parameters"),
        "an image": ("moving.nii.gz", nothing, "expected an ITK displacement field"),
        "a field of two components": (
            "a.nii.gz", field((8, 7, 6, 1, 2), intent_code=1007), "expected an ITK displacement",
        ),
        "a field of NaN": (
            "a.nii.gz", field((8, 7, 6, 1, 3), np.nan, intent_code=1007), "NaN or infinite values",
        ),
        "a field, cut": (
            "a.nii.gz", field((8, 7, 6, 1, 3), intent_code=1007, cut=slice(-9)), CUT,
        ),
        "a field that declares too much": (
            "a.nii.gz",
            field((8, 7, 6, 1, 3), intent_code=1007, dim=dim(9999, 9999, 9999, 1, 3)),
            CUT,
        ),
        "intent 1006, four axes": (
            "a.nii.gz", field((8, 7, 6, 2), intent_code=1006), "expected displacements of shape",
        ),
        "control points of NiftyReg": (
            "a.nii.gz",
            field((8, 7, 6, 1, 3), intent_code=1007, intent_name=b"NREG_TRANS", intent_p1=6),
            "reg_transform -def",
        ),
        "coefficients of FNIRT": (
            "a.nii.gz", field((8, 7, 6, 3), intent_code=2007), "FNIRT's coefficients",
        ),
        "FSL's, complex": (
            "a.nii.gz", nifti(np.zeros((8, 7, 6, 3), np.complex64), intent_code=2006), "real num",
        ),
        "FLIRT's, three rows": ("a.mat", holding("1 0 0 0\n0 1 0 0\n0 0 1 0\n"), "4 lines of 4"),
        "FLIRT's, singular": ("a.mat", holding("0 0 0 0\n" * 3 + "0 0 0 1\n"), "singular"),
        "FLIRT's, too large": ("a.mat", sparse(64 * GB, holding("1 0 0 0\n")), "expected 0.3 GB"),
    },
    "learn2reg": {
        "missing": ("a.npz", nothing, "there is no such file"),
        "text": ("a.npz", holding("no array\n"), "expected a .npz file with one array"),
        "a pipe": ("a.npz", os.mkfifo, "a pipe, a socket or a device"),
        "cut": ("a.npz", lambda path: (npz(arr_0=np.zeros((3, 20, 16, 18)))(path), os.truncate(path, 900)), "expected a .npz"),
        "another name": ("a.npz", npz(field=np.zeros((3, 20, 16, 18))), "one array, arr_0"),
        "objects": ("a.npz", npz(arr_0=np.array([{}, []], object)), "one array, arr_0"),
        "another shape": ("a.npz", npz(arr_0=np.zeros((3, 9, 9, 9))), "made for shape (18, 18, 18)"),
        "three axes": ("a.npz", npz(arr_0=np.zeros((20, 16, 18))), "expected shape (3, x/2"),
        "declares too much": ("a.npz", npz_that_declares((3, 10**6, 10**6, 10**6)), "made for"),
        "declares and has nothing": ("a.npz", npz_that_declares((3, 20, 16, 18)), "one array"),
        "a NIfTI of another shape": ("a.nii.gz", field((9, 9, 9, 3)), "made for shape (9, 9, 9)"),
    },
    "initial": {
        "a pipe": ("a.mat", os.mkfifo, "a pipe, a socket or a device"),
        "a link to itself": ("a.mat", link("a.mat"), "Too many levels of symbolic links"),
    },
    "points": {
        "missing": ("a.csv", nothing, "there is no such file"),
        "a folder": ("a.csv", Path.mkdir, "this is a folder"),
        "a pipe": ("a.csv", os.mkfifo, "a pipe, a socket or a device"),
        "a link to itself": ("a.fcsv", link("a.fcsv"), "Too many levels of symbolic links"),
        "empty": ("a.csv", Path.touch, "the file is empty"),
        "bytes": ("a.csv", holding(bytes(range(256))), "this is no text file"),
        "too large": ("a.mrk.json", sparse(1024 * GB), "expected 0.3 GB at most"),
        "no columns": ("a.csv", holding("a,b\n1,2\n"), "no column x"),
        "decimal commas": ("a.csv", holding("x,y,z\n1,5,2,5,3,5\n"), "a decimal point"),
        "NaN": ("a.csv", holding("x,y,z\n1,nan,3\n"), "point 1"),
        "an endless cell": ("a.csv", holding('x,y,z\n"' + "1" * 200000), "this is no text file"),
        "cut JSON": ("a.mrk.json", holding('{"markups": [{"type"'), "no JSON file"),
        "deep JSON": ("a.mrk.json", holding("[" * 100000), "no JSON file"),
        "a number of many digits": ("a.mrk.json", markup(controlPoints=[{"position": [10**400, 0, 0]}]), "point 1"),
        "JSON of other things": ("a.json", holding("[1, 2]"), "expected Slicer's markups"),
        "centimetres": ("a.mrk.json", markup(coordinateUnits="cm"), "coordinates are in cm"),
        "a plane": ("a.mrk.json", markup(type="Plane"), "cannot deform a markup of type Plane"),
        "no frame": ("a.fcsv", holding("1,2,3,4\n"), "no line says the coordinate system"),
        "no points": ("a.fcsv", holding("# CoordinateSystem = LPS\n"), "there are no points"),
    },
    "pairs": {
        "empty": ("a.csv", Path.touch, "no pairs are listed"),
        "a folder": ("a.csv", Path.mkdir, "this is a folder"),
        "a pipe": ("a.csv", os.mkfifo, "a pipe, a socket or a device"),
        "bytes": ("a.csv", holding(bytes(range(256))), "this is no text file"),
        "a zero byte": ("a.csv", holding("fixed,moving\na\0,b\n"), ""),
        "another column": ("a.csv", holding("fixed,movin\na,b\n"), "unknown column movin"),
        "too many cells": ("a.csv", holding("fixed,moving\na,b,c\n"), "unknown column"),
        "half a pair": ("a.csv", holding("fixed,moving\na,\n"), "no moving image is given"),
        "cut JSON": ("a.json", holding('[{"fixed": "a'), "this is no JSON file"),
        "JSON of other things": ("a.json", holding('{"fixed": "a"}'), "expected a list of pairs"),
        "numbers": ("a.json", holding('[{"fixed": 1, "moving": [2]}]'), ""),
        "a link to itself": ("a.json", link("a.json"), "Too many levels of symbolic links"),
    },
    "config": {
        "missing": ("a.yaml", nothing, "expected a YAML file"),
        "a folder": ("a.yaml", Path.mkdir, "expected a YAML file"),
        "a pipe": ("a.yaml", os.mkfifo, "expected a YAML file"),
        "a link to itself": ("a.yaml", link("a.yaml"), "expected a YAML file"),
        "bytes": ("a.yaml", holding(bytes(range(256))), ""),
        "no YAML": ("a.yaml", holding("spacing: [3\n"), ""),
        "tabs": ("a.yaml", holding("layer:\n\tlevels: 3\n"), ""),
        "a list": ("a.yaml", holding("- 3\n"), ""),
        "an unknown setting": ("a.yaml", holding("colour: red\n"), "colour"),
        "a setting of another type": ("a.yaml", holding("spacing: wide\n"), "--spacing: expected"),
        "code": ("a.yaml", holding("spacing: !!python/object/apply:os.getcwd []\n"), ""),
        "a billion laughs": ("a.yaml", holding(LAUGHS), ""),
        "too large": ("a.yaml", sparse(64 * GB), ""),
    },
    "names": {
        "missing": ("a.json", nothing, "there is no such file"),
        "a pipe": ("a.json", os.mkfifo, "a pipe, a socket or a device"),
        "cut": ("a.json", holding('{"1": "liv'), "this is no JSON file"),
        "a list": ("a.json", holding('["liver"]'), "expected the names of labels"),
        "a list of labels": ("a.json", holding('{"labels": {"1": {"a": []}, "x": 2}}'), "expected the names"),
    },
    "folder": {
        "missing": ("scans", nothing, "there is no such file"),
        "empty": ("scans", Path.mkdir, "a folder without NIfTI files"),
        "other files": ("scans", folder(a__txt=Path.touch), "a folder without NIfTI files"),
        "a link to itself": ("scans", link("scans"), "Too many levels of symbolic links"),
    },
    "prepare": {
        "missing": ("data", nothing, "there is no such file or folder"),
        "empty": ("data", Path.mkdir, "no known layout"),
        "a link to itself": ("data", link("data"), ""),
        "a pipe": ("data", os.mkfifo, "a pipe, a socket or a device"),
        "an image": ("moving.nii.gz", nothing, "this is no"),
        "cut JSON": ("data", folder(x_dataset__json=holding("{")), "this is no JSON file"),
        "JSON of other things": ("data", folder(x_dataset__json=holding("[]")), "Learn2Reg"),
        "JSON without images": (
            "data",
            folder(x_dataset__json=holding(json.dumps({"training": [{"image": "a.nii.gz"}, {"image": "b_1.nii.gz"}]}))),
            "there is no file",
        ),
        "JSON with numbers for images": (
            "data", folder(x_dataset__json=holding('{"training": [{"image": 3}]}')), "Learn2Reg",
        ),
        "a pipe for its JSON": ("data", folder(x_dataset__json=os.mkfifo), "a pipe, a socket"),
        "a table of files that are gone": ("a.csv", holding("fixed,moving\na,b\n"), "there is no"),
    },
    "patterns": {
        "links to nowhere": (
            "data", folder(img_a__nii__gz=nifti(), img_b__nii__gz=link("gone")), "there is no file",
        ),
        "pipes": (
            "data", folder(img_a__nii__gz=os.mkfifo, img_b__nii__gz=os.mkfifo), "there is no file",
        ),
        "images that are cut": (
            "data",
            folder(**{f"img_{x}__nii__gz": nifti(cut=slice(-9)) for x in "ab"}),
            CUT,
        ),
        "one value everywhere": (
            "data",
            folder(**{f"img_{x}__nii__gz": nifti(np.ones((8, 7, 6), np.float32)) for x in "ab"}),
            "there is nothing to see",
        ),
    },
    "data": {
        "missing": ("data", nothing, ""),
        "empty": ("data", Path.mkdir, ""),
        "cut manifest": ("data", folder(manifest__json=holding('{"version')), "no JSON file"),
        "another version": ("data", manifest(version=9), "version 9, expected 1"),
        "no shape": ("data", manifest(shape=None), "no manifest that voxelopt prepare wrote"),
        "a subject that is not listed": ("data", manifest(splits={"test": ["x", "y"]}), "not listed"),
        "no images": ("data", manifest(), "there is no such file"),
    },
}  # fmt: skip

CORPUS = {
    f"{command}, {kind}": Broken(command, *broken)
    for command, kinds in {"image": _OF_IMAGES, **_OF_OTHERS}.items()
    for kind, broken in kinds.items()
}
