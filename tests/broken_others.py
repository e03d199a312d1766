"""Broken files of all other kinds, by the command that is given them, as `broken_images`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from broken_images import CUT
from broken_makers import (
    AFFINE_KIND,
    FIELD,
    GB,
    Write,
    compressed,
    cut,
    dim,
    field,
    folder,
    h5,
    h5_bomb,
    holding,
    like_labels,
    link,
    manifest,
    markup,
    mat,
    mat_bomb,
    mat_that_declares,
    nifti,
    nothing,
    npz,
    npz_that_declares,
    parameters_of,
    sparse,
    tfm,
)

ROWS = "1 0 0 0 1 0 0 0 1 0 0 0"
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
_LABELS = np.ones((40, 32, 36), np.float32)  # on the shape of the phantoms

OTHERS: Mapping[str, Mapping[str, tuple[str, Write, str]]] = {
    "reference": {
        "half": ("a.nii.gz", compressed(lambda b: b[: len(b) // 2]), "reference a.nii.gz: not a"),
        "a pipe": ("a.nii.gz", os.mkfifo, "reference a.nii.gz: this is a pipe"),
    },
    "grid": {
        "declares too much": ("a.nii.gz", nifti(dim=dim(32767, 32767, 32767)), CUT),
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
        "negative": ("a.nii.gz", like_labels(-1), "labels must be 0 or above, found -"),
        "beyond int32": ("a.nii.gz", nifti(_LABELS * 1e20), "labels must lie within"),
        "another grid": ("a.nii.gz", nifti(_LABELS[1:]), "does not lie on the grid of"),
        "half": ("a.nii.gz", compressed(lambda b: b[: len(b) // 2]), "moving labels a.nii.gz: not"),
    },
    "mask": {
        "0 everywhere": ("a.nii.gz", like_labels(0), "the mask is 0 everywhere"),
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
        "cut .mat": ("a.mat", cut(mat(**{AFFINE_KIND: np.eye(12)}), 200), "not an ITK"),
        "a .mat of other things": ("a.mat", mat(x=np.eye(4)), "not an ITK transform file"),
        "a .mat that declares too much": ("a.mat", mat_that_declares(2**31 - 1), "not an ITK"),
        "a .mat that declares less than nothing": ("a.mat", mat_that_declares(-5), "not an ITK"),
        "a bomb of MATLAB 5": ("a.mat", mat_bomb, "not an ITK transform file"),
        "an unknown type": ("a.tfm", tfm("BSplineTransform_double_3_3", "1 2 3"), "cannot use B"),
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
            h5(lambda group: parameters_of(group, 2**40)),
            "or a damaged one",
        ),
        "HDF5 with a group for numbers": (
            "a.h5", h5(lambda g: g.create_group("TransformParameters")), "or a damaged one",
        ),
        "a bomb of HDF5": (
            "a.h5",
            h5(h5_bomb),
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
        "cut": ("a.npz", cut(npz(arr_0=np.zeros((3, 20, 16, 18))), 900), "expected a .npz"),
        "another name": ("a.npz", npz(field=np.zeros((3, 20, 16, 18))), "one array, arr_0"),
        "objects": ("a.npz", npz(arr_0=np.array([{}, []], object)), "one array, arr_0"),
        "another shape": ("a.npz", npz(arr_0=np.zeros((3, 9, 9, 9))), "made for shape (18, 18"),
        "three axes": ("a.npz", npz(arr_0=np.zeros((20, 16, 18))), "expected shape (3, x/2"),
        "declares too much": ("a.npz", npz_that_declares((3, 10**6, 10**6, 10**6)), "made for"),
        "declares and has nothing": ("a.npz", npz_that_declares((3, 20, 16, 18)), "one array"),
        "a NIfTI of another shape": ("a.nii.gz", field((9, 9, 9, 3)), "made for shape (9, 9, 9)"),
    },
    "initial": {
        "a pipe": ("a.mat", os.mkfifo, "a pipe, a socket or a device"),
        "a link to itself": ("a.mat", link("a.mat"), "there is no such file"),
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
        "a number of many digits": (
            "a.mrk.json", markup(controlPoints=[{"position": [10**400, 0, 0]}]), "point 1",
        ),
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
        "a zero byte": ("a.csv", holding("fixed,moving\na\0,b\n"), "the fixed has a zero byte"),
        "another column": ("a.csv", holding("fixed,movin\na,b\n"), "unknown column movin"),
        "too many cells": ("a.csv", holding("fixed,moving\na,b,c\n"), "unknown column"),
        "half a pair": ("a.csv", holding("fixed,moving\na,\n"), "no moving image is given"),
        "cut JSON": ("a.json", holding('[{"fixed": "a'), "this is no JSON file"),
        "JSON of other things": ("a.json", holding('{"fixed": "a"}'), "expected a list of pairs"),
        "a link to itself": ("a.json", link("a.json"), "Too many levels of symbolic links"),
    },
    "config": {
        "missing": ("a.yaml", nothing, "expected a YAML file"),
        "a folder": ("a.yaml", Path.mkdir, "expected a YAML file"),
        "a pipe": ("a.yaml", os.mkfifo, "expected a YAML file"),
        "a link to itself": ("a.yaml", link("a.yaml"), "expected a YAML file"),
        "bytes": ("a.yaml", holding(bytes(range(256))), "this is no text file"),
        "no YAML": ("a.yaml", holding("spacing: [3\n"), "no YAML file that can be read, see line"),
        "no date": ("a.yaml", holding("spacing: 2026-13-01\n"), "can be read, month must be in"),
        "tabs": ("a.yaml", holding("layer:\n\tlevels: 3\n"), "see line 2"),
        "long": ("a.yaml", holding("a:\n" + "- 1\n" * 100000), "it holds more than 100000 values"),
        "a list": ("a.yaml", holding("- 3\n"), "expected settings, as spacing: 3, got a list"),
        "deep": ("a.yaml", holding("[" * 1500), "no YAML file that can be read"),
        "itself": ("a.yaml", holding("layer: &a [*a]"), "it holds more than 100000 values"),
        "an unknown setting": ("a.yaml", holding("colour: red\n"), "colour"),
        "a setting of another type": ("a.yaml", holding("spacing: wide\n"), "--spacing: expected"),
        "code": ("a.yaml", holding("spacing: !!python/object/apply:os.getcwd []\n"), "no YAML"),
        "a billion laughs": ("a.yaml", holding(LAUGHS), "it holds more than 100000 values"),
        "too large": ("a.yaml", sparse(64 * GB), "expected 0.3 GB at most"),
    },
    "names": {
        "missing": ("a.json", nothing, "there is no such file"),
        "a pipe": ("a.json", os.mkfifo, "a pipe, a socket or a device"),
        "cut": ("a.json", holding('{"1": "liv'), "this is no JSON file"),
        "a list": ("a.json", holding('["liver"]'), "expected the names of labels"),
        "numbers and names": ("a.json", holding('{"labels": {"1": [], "x": 2}}'), "the names of"),
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
        "a link to itself": ("data", link("data"), "there is no such file or folder"),
        "a pipe": ("data", os.mkfifo, "no known layout"),
        "an image": ("moving.nii.gz", nothing, "this is no"),
        "cut JSON": ("data", folder(x_dataset__json=holding("{")), "this is no JSON file"),
        "JSON of other things": ("data", folder(x_dataset__json=holding("[]")), "Learn2Reg"),
        "JSON without images": (
            "data",
            folder(x_dataset__json=holding('{"training": [{"image": "a"}, {"image": "b_1"}]}')),
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
        "missing": ("data", nothing, "data: no such file; voxelopt prepare makes it"),
        "empty": ("data", Path.mkdir, "data/manifest.json: no such file; voxelopt prepare"),
        "cut manifest": ("data", folder(manifest__json=holding('{"version')), "no JSON file"),
        "another version": ("data", manifest(version=9), "version 9, expected 1"),
        "no shape": ("data", manifest(shape=None), "no manifest that voxelopt prepare wrote"),
        "a subject that is none": ("data", manifest(splits={"test": ["x", "y"]}), "not listed"),
        "no images": ("data", manifest(), "there is no such file"),
    },
}  # fmt: skip
