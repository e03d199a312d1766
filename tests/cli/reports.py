"""What the tests of `voxelopt report` share: its page taken apart without a browser."""

from __future__ import annotations

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from command_line import LABELS, QUICK

REGISTER = ["register", "fixed.nii.gz", "moving.nii.gz", *QUICK]
ALL = [*LABELS, "--entropy", "--jacobian", "--initial", "center-of-mass"]


class Page(HTMLParser):
    """The elements of a page, as a browser would read them.

    Attributes:
        elements: tag and attributes of each.
        scripts: the text of each script element, by its id; those without one by their number.
        text: all text outside of scripts and styles.
        title: the text of the title.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = self.title = ""
        self._open: tuple[str, str] = ("", "")
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs).get("id") or str(len(self.scripts)))

    def handle_data(self, data: str) -> None:
        tag, name = self._open
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag != "style":
            self.text += data
            self.title += data if tag == "title" else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", "")

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["report"])

    def layer(self, name: str, case: int = 0) -> np.ndarray:
        """A volume of the page, in the order of the page's axes; vectors have a last axis of 3."""
        volumes = self.data["cases"][case]["volumes"]
        meaning = volumes["layers"][name]
        packed = base64.b64decode(self.scripts[f"case{case}-{name}"])
        values = np.frombuffer(gzip.decompress(packed), meaning["type"])
        shape = [*meaning["shape"], 3] if "shape" in meaning else volumes["shape"]
        return values.reshape(shape, order="F")


def small_picture(path: Path, *_: object, **__: object) -> None:
    imsave(path, np.random.default_rng(0).random((20, 40, 3)))


def change_report(out: Path, **changes: object) -> None:
    path = out / "Report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
