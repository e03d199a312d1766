"""The site shows the picture that the README shows."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DEMO = Path(__file__).parents[1] / ".github" / "demo.png"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add it to the pictures of the pages."""
    files.append(File.generated(config, "pictures/demo.png", abs_src_path=str(DEMO)))
    return files
