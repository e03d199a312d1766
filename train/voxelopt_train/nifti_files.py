"""What the bytes of a NIfTI file, or of an Analyze one, say before nibabel believes them.

nibabel takes memory for what a header declares, follows the sizes of its extensions wherever they
lead, and corrects voxel sizes that cannot be. Here a header is read alone, and refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Header
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from voxelopt_train.errors import InputError
from voxelopt_train.input_files import DEFLATE_RATIO, check_file, size_text
from voxelopt_train.nifti_names import is_nifti

_KINDS = (Nifti2Header, Nifti1Header, AnalyzeHeader)
_LONGEST = max(kind.sizeof_hdr for kind in _KINDS)
_ORDERS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
_EXTENSIONS = 2**26  # bytes, far above what any program keeps in them


def check_nifti(path: str | Path, name: str) -> None:
    """Raise InputError where a header contradicts itself or its file; other formats are let pass.

    Raises:
        InputError: see there.
        OSError, EOFError, zlib.error: the file is no gzip file, or a damaged one.
    """
    try:
        files = (Nifti1Image if is_nifti(path) else Nifti1Pair).filespec_to_file_map(path)
    except ImageFileError:
        return
    header_file = str(files.get("header", files["image"]).filename)
    data_file = str(files["image"].filename)
    for file in {header_file, data_file} - {str(path)}:
        check_file(file, f"{name}: {file}")
    header = _raw_header(header_file)
    if header is None:
        return
    shape, dtype = _declared(header, name)
    offset = _offset(header, name)
    _check_size(data_file, offset, shape, dtype, name)
    _check_spacing(header, shape, name)
    if isinstance(header, Nifti1Header):
        end = offset if header.is_single and offset else None
        _check_extensions(header_file, header, end, name)


def _raw_header(file: str) -> AnalyzeHeader | None:
    """As it is in the file; None where it is none of a kind that is known here."""
    with ImageOpener(file) as opened:
        block = opened.read(_LONGEST)
    for kind in _KINDS:
        if kind.may_contain_header(block):
            return kind(block[: kind.sizeof_hdr], check=False)  # its byte order is that of dim[0]
    return None


def _declared(header: AnalyzeHeader, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the voxels."""
    rank, *sizes = header["dim"].tolist()
    if not 1 <= rank <= 7:
        raise _damaged(name, "dim[0], the number of axes, is not within 1 to 7")
    shape = tuple(sizes[:rank])
    if min(shape) < 0:
        raise _damaged(name, f"the shape is {shape}")
    code, bits = int(header["datatype"]), int(header["bitpix"])
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise _damaged(name, f"there is no datatype {code}") from error
    if bits not in (0, 8 * dtype.itemsize):
        raise _damaged(name, f"datatype {code} is {dtype}, bitpix is {bits}")
    return shape, dtype


def _offset(header: AnalyzeHeader, name: str) -> int:
    """Where the voxels begin."""
    offset = float(header["vox_offset"])
    if not 0 <= offset < math.inf:
        raise _damaged(name, f"vox_offset is {offset:g}")
    return int(offset)


def _check_size(file: str, offset: int, shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    """The voxels have to be within the file, or within what it can inflate to."""
    size, suffix = Path(file).stat().st_size, Path(file).suffix.lower()
    if suffix not in (".nii", ".img", ".gz"):  # of other compressions no limit is known
        return
    end = offset + math.prod(shape) * dtype.itemsize
    if end > size * (DEFLATE_RATIO if suffix == ".gz" else 1):
        raise InputError(
            f"{name}: the file is truncated or damaged: its header declares {size_text(end)}, for "
            f"shape {shape} of {dtype}, and the file has {size_text(size)}"
        )


def _check_spacing(header: AnalyzeHeader, shape: tuple[int, ...], name: str) -> None:
    """Voxel sizes cannot be 0 where they count; below it, nibabel takes them without the sign."""
    if isinstance(header, Nifti1Header) and int(header["sform_code"]) > 0:
        return
    for n, mm in zip(shape[:3], header["pixdim"][1:4].tolist(), strict=False):
        if n > 1 and mm == 0:
            raise InputError(f"{name}: a voxel size is 0 mm, expected one above 0")


def _check_extensions(file: str, header: Nifti1Header, end: int | None, name: str) -> None:
    """Each says its own size; they lie between the header and ``end``, or the end of the file."""
    most = _EXTENSIONS if end is None else min(end, _EXTENSIONS)
    with ImageOpener(file) as opened:
        opened.seek(header.sizeof_hdr)
        flag, at = opened.read(4), header.sizeof_hdr + 4
        while flag[:1] not in (b"", b"\0") and (end is None or end - at >= 16):
            said = opened.read(8)
            if end is None and not said:
                return
            size = int.from_bytes(said[:4], _ORDERS[header.endianness], signed=True)
            at += size
            if size < 8 or at > most:
                raise _damaged(name, f"an extension of it says that it has {size} bytes")
            opened.seek(at)


def _damaged(name: str, what: str) -> InputError:
    return InputError(f"{name}: not a NIfTI image, or a damaged one: {what}")
