"""Broken images: the name of each, its maker, and what the sentence says of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nibabel.nifti2 import Nifti2Image

from broken_makers import (
    GB,
    Write,
    a_socket,
    analyze_header,
    bomb,
    compressed,
    dim,
    extension_bomb,
    formless,
    holding,
    link,
    locked,
    mgz,
    nifti,
    nothing,
    pair,
    sparse,
)

DAMAGED = "not a NIfTI image, or a damaged one"
CUT = "truncated or damaged"
AXES = "dim[0], the number of axes, is not within 1 to 7"
SINGLE = "expected a single 3-D volume, got shape"

IMAGES: Mapping[str, tuple[str, Write, str]] = {
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
    "no axes": ("a.nii.gz", nifti(dim=[0] * 8), AXES),
    "eight axes": ("a.nii.gz", nifti(dim=[8, 8, 7, 6, 1, 1, 1, 1]), AXES),
    "negative number of axes": ("a.nii.gz", nifti(dim=[-3, 8, 7, 6, 1, 1, 1, 1]), AXES),
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
    "a scale beyond all numbers": ("a.nii.gz", nifti(scl_slope=3e38), "float32 cannot hold"),
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
    "voxels of NaN mm": ("a.nii.gz", formless(np.nan, 8, 8), "NaN or infinite entries"),
    "metres": ("a.nii.gz", nifti(xyzt_units=1), "in meters, expected millimetres"),
    "one axis": ("a.nii.gz", nifti(np.zeros(9, np.float32)), f"{SINGLE} (9,)"),
    "four axes": ("a.nii.gz", nifti(np.zeros((8, 7, 6, 2), np.float32)), f"{SINGLE} (8, 7, 6, 2)"),
    "five axes": ("a.nii.gz", nifti(np.zeros((8, 7, 6, 1, 3), np.float32)), SINGLE),
    "four large axes": (
        "a.nii", sparse(GB, nifti(dim=dim(512, 512, 512, 2), datatype=2, bitpix=8)), SINGLE,
    ),
    "colour": ("a.nii.gz", nifti(np.zeros((8, 7, 6), [(c, "u1") for c in "RGB"])), "colour image"),
    "colour and opacity": (
        "a.nii.gz", nifti(np.zeros((8, 7, 6), [(c, "u1") for c in "RGBA"])), "colour image",
    ),
    "complex": ("a.nii.gz", nifti(np.zeros((8, 7, 6), np.complex64)), "complex numbers"),
    "NaN": ("a.nii.gz", nifti(np.full((8, 7, 6), np.nan, np.float32)), "replace them, as by 0, "),
    "beyond float32": ("a.nii.gz", nifti(np.full((8, 7, 6), 1e300)), "which float32 cannot hold"),
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
    "a surface": ("a.gii", holding("<?xml version='1.0'?><GIFTI/>"), "got GiftiImage"),
}  # fmt: skip
