"""Commands write to their output folder alone, and ask nobody on the network; workers too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cohorts
import watched
from cohorts import pairs, write_table
from command_line import QUICK, contents, names
from recipes import write_recipes
from voxelopt_train.cohort import registration
from voxelopt_train.transforms import AffineTransform, write_affine

CACHES = {
    "voxelopt-layers",
    "matplotlib",
    "fontconfig",
}  # of HOME/.cache; named in the documentation
REGISTER = ["register", "--spacing", "24", *QUICK]
IMAGES = ["in/fixed.nii.gz", "in/moving.nii.gz"]
SMALL = ["--config", "in/pairs.yaml", "--config", "in/tiny.yaml"]
FIELD = ["-r", IMAGES[0], "-t", "out/one/1Warp.nii.gz"]
COMMANDS = [
    [*REGISTER, *IMAGES, "-o", "out/one/", "--inverse", "--jacobian", "--entropy"],
    [*REGISTER, "--pairs", "in/pairs.csv", "-o", "out/cohort"],
    ["apply", IMAGES[1], *FIELD, "-o", "out/apply/a.nii.gz"],
    ["jacobian", *FIELD, "-o", "out/jacobian/j.nii.gz"],
    ["points", "in/points.csv", *FIELD[2:], "-o", "out/points/p.mrk.json"],
    ["convert", *FIELD[2:], "--to", "itk", "-o", "out/convert/c.h5"],
    ["report", "out/cohort", "-o", "out/report/r.html"],
    [
        "prepare",
        "in/prepare.csv",
        "-o",
        "out/prepared",
        "--spacing",
        "12",
        "--shape",
        "9",
        "9",
        "9",
    ],
    ["fit", *SMALL, "-o", "out/fit"],
    ["predict", *SMALL, "--ckpt_path", "out/fit/checkpoints/last.ckpt", "-o", "out/predict"],
]


@pytest.fixture
def inputs(folder: Path) -> Path:
    """All that the commands read, in a folder of its own."""
    write_table("pairs.csv", pairs("a"))
    write_table("prepare.csv", [{"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}])
    Path("points.csv").write_text("x,y,z\n0,0,0\n")
    write_recipes()
    files = list(folder.iterdir())
    inputs = folder / "in"
    inputs.mkdir()
    for file in files:
        file.rename(inputs / file.name)
    return inputs


def test_nothing_is_written_elsewhere_and_nobody_is_asked(inputs, folder, tmp_path_factory):
    hook = tmp_path_factory.mktemp("hook")
    shutil.copy(watched.__file__, hook / "sitecustomize.py")
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir()
    temporary.mkdir()
    kernels = Path.home() / ".cache" / "voxelopt-layers"
    if kernels.is_dir():  # they take some seconds to compile
        shutil.copytree(kernels, home / ".cache" / "voxelopt-layers")
    before = contents(inputs)
    elsewhere = {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"}
    elsewhere.add("TORCHINDUCTOR_CACHE_DIR")  # PyTorch sets it itself
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    ended = subprocess.run(
        [sys.executable, watched.__file__, json.dumps(COMMANDS)],
        capture_output=True,
        text=True,
        env={
            **kept,
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "WATCHED": str(hook / "report"),
            "WATCHED_INSIDE": str(folder),
            "PYTHONPATH": os.pathsep.join([str(hook), *sys.path]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    assert ended.returncode == 0, ended.stderr
    assert (hook / "report").read_text() == ""
    assert contents(inputs) == before
    # PyTorch makes this folder as it is imported, whether or not anything is compiled.
    assert all(n.startswith("torchinductor_") and not d for n, d in contents(temporary).items())
    assert names(folder) == {"in", "out", "home", "tmp"}
    assert names(home) <= {".cache", ".config"} and names(home / ".cache") <= CACHES
    if (home / ".config").exists():
        assert names(home / ".config") == {"matplotlib"}
    assert names("out") == {Path(c[c.index("-o") + 1]).parts[1] for c in COMMANDS}


def test_the_watch_sees_what_it_is_for(folder, tmp_path_factory):
    """Else the test above could not fail."""
    hook = tmp_path_factory.mktemp("hook")
    shutil.copy(watched.__file__, hook / "sitecustomize.py")
    program = (
        "import socket, pathlib\n"
        f"pathlib.Path({str(hook / 'elsewhere')!r}).touch()\n"
        "pathlib.Path('inside').touch()\n"
        "try: socket.create_connection(('localhost', 9))\n"
        "except PermissionError: pass\n"
    )
    watch = {"WATCHED": str(hook / "report"), "WATCHED_INSIDE": str(folder)}
    environment = {**os.environ, **watch, "PYTHONPATH": str(hook), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    file, network = (hook / "report").read_text().splitlines()
    assert file == f"file: {hook / 'elsewhere'}"
    assert network.startswith("network: socket.getaddrinfo")


@pytest.mark.parametrize("output", ["apply", "register", "convert", "cohort"])
@pytest.mark.usefixtures("no_picture")
def test_a_link_in_the_place_of_a_result_is_replaced(run, inputs, folder, monkeypatch, output):
    """What it leads to stays as it is."""
    name = {"apply": "a.nii.gz", "convert": "c.h5", "cohort": "results.csv"}
    target = Path("out") / name.get(output, "Warped.nii.gz")
    Path("precious").write_text("mine")
    Path("out").mkdir()
    target.symlink_to(folder / "precious")
    monkeypatch.setattr(registration, "in_workers", cohorts.in_this_process)
    write_affine("move.mat", AffineTransform(np.eye(4)))
    arguments = {
        "apply": ["apply", IMAGES[1], "-r", IMAGES[0], "-t", "move.mat", "-o", str(target)],
        "register": [*REGISTER, *IMAGES, "-o", "out/"],
        "convert": ["convert", "-t", "move.mat", "--to", "itk", "-o", str(target)],
        "cohort": [*REGISTER, "--pairs", "in/pairs.csv", "-o", "out"],
    }
    assert run(*arguments[output])[0] == 0
    assert Path("precious").read_text() == "mine"
    assert target.is_file() and not target.is_symlink()


def test_a_subject_cannot_be_called_after_another_place(run, inputs):
    """Fields of `predict` are called after the subjects of a manifest."""
    prepare = ["prepare", "in/prepare.csv", "-o", "prepared", "--spacing", "12"]
    assert run(*prepare, "--shape", "20", "16", "20")[0] == 0
    path = Path("prepared/manifest.json")
    whole = path.read_text()
    for name in ("../../fixed", "/fixed", "a/fixed"):
        path.write_text(whole.replace('"fixed"', json.dumps(name)))
        before = contents(Path())
        code, _, err = run("predict", "--config", "raw", "--data", "prepared", "-o", "run")
        assert code == 2 and f"subject {name}: expected a name without /" in err.splitlines()[-1]
        assert contents(Path()) == before
