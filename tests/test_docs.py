"""The site: it builds without a warning, fetches nothing, and its code runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from documents import blocks, write_images
from voxelopt_train.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "pages").glob("*.md"))
PICTURES = ROOT / "docs" / "pages" / "pictures"
_LARGEST = 150_000  # bytes


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """All but fragments, which are marked as `py`."""
    if "import torchio" in page.read_text():
        pytest.importorskip("torchio")
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page.read_text(), "python"):
        exec(block, names)


def test_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    commands = [line for page in PAGES for block in blocks(page.read_text(), "bash")
                for line in block.splitlines()]  # fmt: skip
    assert commands
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err


def test_numbers_of_the_readme_are_those_of_the_documentation():
    """Rows of the README's table of tools stand in "What was measured" as they are."""
    measured = (ROOT / "docs" / "pages" / "measured.md").read_text().splitlines()
    rows = [
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("|") and re.search(r"0\.\d", line)
    ]
    assert len(rows) >= 6
    assert [row for row in rows if row not in measured] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    config = str(ROOT / "docs" / "mkdocs.yml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_public_name_is_in_the_reference(site):
    import voxelopt_layers
    import voxelopt_models
    import voxelopt_train

    for package, page in (
        (voxelopt_layers, "layers"),
        (voxelopt_models, "models"),
        (voxelopt_train, "train"),
    ):
        html = (site / "reference" / f"{page}.html").read_text()
        for name in package.__all__:
            assert re.search(rf'id="{package.__name__}[\w.]*\.{name}"', html), name
    assert 'id="voxelopt_layers.VoxelOptLayer.solve"' in html_of(site, "layers")


def html_of(site: Path, page: str) -> str:
    return (site / "reference" / f"{page}.html").read_text()


def test_reading_it_fetches_nothing(site):
    fetched = r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//|<link[^>]*href="(?:https?:)?//'
    for page in site.rglob("*.html"):
        assert not re.search(fetched, page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet
    assert (site / "pictures" / "demo.png").read_bytes() == (
        ROOT / ".github" / "demo.png"
    ).read_bytes()


def test_the_pictures_are_those_that_are_drawn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import pictures  # pyright: ignore[reportMissingImports]

    assert sorted(pictures.PICTURES) == sorted(path.stem for path in PICTURES.glob("*.png"))
    for path in PICTURES.glob("*.png"):
        assert path.stat().st_size < _LARGEST
    pictures.main(["cost"], tmp_path)
    sizes = [Image.open(folder / "cost.png").size for folder in (tmp_path, PICTURES)]
    assert sizes[0] == sizes[1]
