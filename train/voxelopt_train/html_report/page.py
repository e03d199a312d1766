"""The page: numbers, volumes, viewer and style in one HTML file that asks for no other file.

Everything that comes from files of the user goes through `_json` or `html.escape`. The page's own
policy lets its browser run the scripts below alone, and reach no network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex
from matplotlib.image import imread, imsave

import voxelopt_layers
from voxelopt_train.errors import InputError
from voxelopt_train.files import atomic_output, plain
from voxelopt_train.html_report.results import Results
from voxelopt_train.html_report.volumes import FIRST, FOLD, LAST, embedded_volumes
from voxelopt_train.picture_panels import DIFFERENCE, LABEL_COLORS, LENGTH_COLORS

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = (
    "niivue.umd.js", "volumes.js", "lines.js", "viewer.js", "tables.js", "readout.js", "report.js",
)  # fmt: skip
# Twelve cases of 128 voxels along each axis make some 60 MB; more cases get fewer voxels each.
_VOXELS, _CASES, _MOST, _FEWEST = 128, 12, 192, 48
_COLORS: dict[str, Colormap] = {
    "entropy": colormaps["magma"],
    "jacobian": DIFFERENCE,
    "difference": DIFFERENCE,
    "displacement": LENGTH_COLORS,
}


def most_voxels(cases: int) -> int:
    """Voxels along each axis that a page of so many cases has room for."""
    return int(np.clip(_VOXELS * (_CASES / cases) ** (1 / 3), _FEWEST, _MOST))


def write_page(
    path: Path,
    cases: Sequence[Results],
    given: Mapping[str, str | None] | None = None,
    label_names: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
    failed: Sequence[str] = (),
) -> int:
    """Write the page of one registration, or of a cohort.

    Args:
        path: the HTML file; it appears only once it is complete.
        cases: the registrations, with names of their own.
        given: files that take the place of the inputs that the report names.
        label_names: names of labels; those of the report count where there are none.
        progress: called with the name of each case as it begins.
        failed: a sentence on each case that has no results to show.

    Returns:
        The size of the page in bytes.

    Raises:
        InputError: a result cannot be read, or the page cannot be written; nothing is left behind.
    """
    with atomic_output(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(
                _page(cases, given or {}, label_names or {}, progress or (lambda _: None), failed)
            )
        return temporary.stat().st_size


def _page(
    cases: Sequence[Results],
    given: Mapping[str, str | None],
    label_names: Mapping[str, str],
    progress: Callable[[str], None],
    failed: Sequence[str],
) -> Iterator[str]:
    """The parts of the file, one case after the other, as they all need not fit into memory."""
    scripts = [_asset(name) for name in _SCRIPTS]
    style = _asset("report.css")
    title = cases[0].name if len(cases) == 1 else f"{len(cases)} registrations"
    if failed:
        title += f", {len(failed)} failed"
    values = {
        "title": html.escape(title),
        "failed": "".join(f'<p class="notice">{html.escape(text)}</p>\n' for text in failed),
        "version": voxelopt_layers.__version__,
        "licence": html.escape(_asset("niivue.LICENSE")),
        "policy": _policy(scripts, style),
        "style": style,
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    before, after = (Template(t).substitute(values) for t in _asset("report.html").split("$data"))
    yield before
    entries = []
    for n, case in enumerate(cases):
        progress(case.name)
        volumes = embedded_volumes(case, given, most_voxels(len(cases)))
        for name, data in (volumes.data if volumes else {}).items():
            yield f'<script type="application/octet-stream" id="case{n}-{name}">{data}</script>\n'
        picture = case.path("Report.png")
        if picture is not None:
            yield f'<script type="image/jpeg" id="case{n}-picture">{_jpeg(picture)}</script>\n'
        entries.append(
            {
                "name": case.name,
                "report": _shown(case.report),
                "labels": {**_names(case.report.get("label_names")), **label_names},
                "volumes": volumes.as_dict() if volumes else None,
                "picture": picture is not None,
                "notes": case.notes,
            }
        )
    everything = {
        "version": voxelopt_layers.__version__,
        "cases": entries,
        "labelColors": LABEL_COLORS,
        "colors": {name: _stops(colors) for name, colors in _COLORS.items()},
        "bytes": {"first": FIRST, "last": LAST, "fold": FOLD},
    }
    yield f'<script type="application/json" id="report">{_json(everything)}</script>\n'
    yield after


def _shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with the names of the inputs, not where on the user's disk they lie."""
    inputs = report.get("inputs")
    files = inputs.items() if isinstance(inputs, dict) else ()
    names = {key: Path(str(file)).name for key, file in files if file}
    return {**report, "inputs": names}


def _names(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _policy(scripts: Sequence[str], style: str) -> str:
    """A content security policy: these scripts and this style, pictures in the page, no network."""

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {' '.join(map(hashed, scripts))}; "
        f"style-src {hashed(style)}; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """JSON that no text inside can end the script element of."""
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return plain(value)


def _jpeg(path: Path) -> str:
    """A picture in base64, at a quarter of what it takes as PNG."""
    try:
        pixels = imread(path)[..., :3]
    except (OSError, SyntaxError, ValueError, IndexError) as error:
        raise InputError(f"{path}: not a picture that can be read") from error
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(pixels), format="jpg", pil_kwargs={"quality": 85})
    return base64.b64encode(file.getvalue()).decode()


def _stops(colors: Colormap) -> list[str]:
    return [to_hex(colors(share)) for share in np.linspace(0, 1, 17)]


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
