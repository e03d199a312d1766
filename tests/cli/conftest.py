"""A folder with two images, and commands run in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_line import (
    Run,
    contents,
    sentence,
    write_pair,
)
from peer_sets import stand_in
from reports import ALL, REGISTER, change_report, small_picture
from voxelopt_train import outputs
from voxelopt_train.cli import main
from voxelopt_train.phantom import Pair, phantom_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return phantom_pair(0, shape=(40, 32, 36), spacing_mm=8.0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair) -> Path:
    """The current folder, with a pair of images and label maps."""
    monkeypatch.chdir(tmp_path)
    write_pair(pair)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture takes longer than all the rest."""
    monkeypatch.setattr(
        outputs, "registration_picture", lambda path, *_, **__: path.write_bytes(b"")
    )


@pytest.fixture
def refused(run: Run, folder: Path) -> Callable[..., str]:
    """Run a command that has to be refused, with nothing written; returns its sentence."""

    def refused(*arguments: str, expected_code: int = 2) -> str:
        before = contents(folder)
        code, out, err = run(*arguments)
        assert code == expected_code and out == ""
        assert contents(folder) == before
        return sentence(err)

    return refused


@pytest.fixture(scope="module")
def registered(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a pair of images, and in `out` their registration with all that there is."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(outputs, "registration_picture", small_picture)
        write_pair(pair)
        assert main([*REGISTER, *ALL, "-o", "out/"]) == 0
    yield folder


@pytest.fixture
def out(registered: Path, folder: Path) -> Path:
    """A copy of the registration in the current folder, its inputs beside it."""
    shutil.copytree(registered / "out", folder / "out")
    report = json.loads((folder / "out/Report.json").read_text())
    paths = {name: str(folder / Path(path).name) for name, path in report["inputs"].items()}
    change_report(folder / "out", inputs=paths)
    return folder / "out"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict:
    """What `voxelopt peers` compares here."""
    return stand_in(monkeypatch, folder)
