"""ITK's transform files: text (``.tfm``, ``.txt``), HDF5 (``.h5``), MATLAB v4 (``.mat``).

All hold a list of transforms, each by its type's name, parameters and fixed parameters. A list
that starts with a composite is one map, whose last part moves a point first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from scipy.io import loadmat, savemat
from scipy.io.matlab import matfile_version

from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output
from voxelopt_train.input_files import DEFLATE_RATIO, check_file, check_fits

SUFFIXES = (".mat", ".tfm", ".txt", ".h5")
_HEADER = "#Insight Transform File V1.0"
_COMPOSITE = "CompositeTransform_double_3_3"
_WORDS = 8  # times the size of a text, which its numbers take one by one


class Entry(NamedTuple):
    """One transform as ITK writes it down, in LPS mm."""

    kind: str  # as "AffineTransform_double_3_3"
    parameters: np.ndarray
    fixed: np.ndarray


def read_entries(path: Path) -> list[Entry]:
    """The transforms of a file, of which the last moves a point first.

    Raises:
        InputError: the file is missing or damaged, of another kind, or holds several transforms
            that are no composite.
    """
    check_file(path, f"transform {path}")
    try:
        with path.open("rb") as file:
            start = file.read(len(_HEADER))
    except OSError as error:
        raise InputError(f"transform {path}: cannot be read, {error.strerror}") from error
    if start == _HEADER.encode():
        entries = _read_text(path)
    elif start.startswith(b"\x89HDF"):
        entries = _read_hdf5(path)
    else:
        entries = _read_mat(path)
    if entries and entries[0].kind.startswith("CompositeTransform") and len(entries[0][1]) == 0:
        return entries[1:]
    if len(entries) != 1:
        raise InputError(f"transform {path}: expected one transform, found {len(entries)}")
    return entries


def write_entries(path: Path, entries: Sequence[Entry]) -> None:
    """Write one transform, or a composite of several where the format has such.

    Raises:
        InputError: the file cannot be written, its suffix is none of `SUFFIXES`, or it is a
            ``.mat`` file for other than one transform.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path} cannot be written: expected a name ending in {', '.join(SUFFIXES)}"
        )
    if path.suffix == ".mat" and len(entries) != 1:
        raise InputError(f"{path} cannot be written: a .mat file holds one transform, try .h5")
    if len(entries) != 1:
        entries = [Entry(_COMPOSITE, np.empty(0), np.empty(0)), *entries]
    write = {".mat": _write_mat, ".h5": _write_hdf5}.get(path.suffix, _write_text)
    with atomic_output(path) as temporary:
        write(temporary, entries)


def _read_text(path: Path) -> list[Entry]:
    entries = []
    check_fits(_WORDS * path.stat().st_size, f"transform {path}", "its text")
    text = path.read_text("utf-8", "replace")
    for block in re.split(r"^Transform:", text, flags=re.MULTILINE)[1:]:
        kind, _, rest = block.partition("\n")
        numbers = dict(re.findall(r"^(\w+):(.*)$", rest, flags=re.MULTILINE))
        try:
            values = [
                np.array(numbers.get(key, "").split(), dtype=np.float64)
                for key in ("Parameters", "FixedParameters")
            ]
        except ValueError as error:
            raise InputError(f"transform {path}: damaged, {error}") from error
        entries.append(Entry(kind.strip(), *values))
    return entries


def _write_text(path: Path, entries: Sequence[Entry]) -> None:
    lines = [_HEADER]
    for number, entry in enumerate(entries):
        lines += [f"#Transform {number}", f"Transform: {entry.kind}"]
        if entry.kind != _COMPOSITE:
            for key, values in (("Parameters", entry.parameters), ("FixedParameters", entry.fixed)):
                lines.append(f"{key}: {' '.join(map(repr, values.tolist()))}")
    path.write_text("\n".join(lines) + "\n")


def _read_hdf5(path: Path) -> list[Entry]:
    try:
        with h5py.File(path) as file:
            groups: Any = file["TransformGroup"]
            return [_hdf5_entry(groups[key], path) for key in sorted(groups, key=int)]
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"transform {path}: an HDF5 file, but no ITK transform, or a damaged one"
        ) from error


def _hdf5_entry(group: Any, path: Path) -> Entry:
    def values(key: str) -> np.ndarray:
        # Until version 5 ITK left the s out.
        data = group.get(f"Transform{key}", group.get(f"Tranform{key}"))
        if data is None:
            return np.empty(0)
        if data.nbytes > DEFLATE_RATIO * data.id.get_storage_size():  # HDF5 would fill up the rest
            raise ValueError
        check_fits(2 * data.nbytes, f"transform {path}", f"{data.size} parameters")
        return np.asarray(data, dtype=np.float64)

    kind = group["TransformType"].asstr()[0]
    return Entry(kind, values("Parameters"), values("FixedParameters"))


def _write_hdf5(path: Path, entries: Sequence[Entry]) -> None:
    whole = io.BytesIO()  # on a disk that fills up HDF5 ends the process
    with h5py.File(whole, "w") as file:
        for number, entry in enumerate(entries):
            group = file.create_group(f"TransformGroup/{number}")
            group["TransformType"] = np.array([entry.kind], dtype=h5py.string_dtype("ascii"))
            if entry.kind != _COMPOSITE:
                group["TransformFixedParameters"] = entry.fixed
                group.create_dataset(
                    "TransformParameters", data=entry.parameters, compression="gzip", shuffle=True
                )
    path.write_bytes(whole.getbuffer())


def _read_mat(path: Path) -> list[Entry]:
    try:
        if matfile_version(str(path), appendmat=False)[0] != 0:  # others are compressed
            raise ValueError
        arrays = loadmat(str(path), appendmat=False)
        fixed = arrays["fixed"].ravel().astype(np.float64)
        (kind,) = (key for key in arrays if key != "fixed" and not key.startswith("__"))
        return [Entry(kind, arrays[kind].ravel().astype(np.float64), fixed)]
    except Exception as error:  # on files of another kind loadmat raises almost anything
        raise InputError(
            f"transform {path}: not an ITK transform file ({', '.join(SUFFIXES)}), or a damaged one"
        ) from error


def _write_mat(path: Path, entries: Sequence[Entry]) -> None:
    (entry,) = entries
    arrays = {entry.kind: entry.parameters[:, None], "fixed": entry.fixed[:, None]}
    savemat(path, arrays, format="4")
