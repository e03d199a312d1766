"""Files that would run code when read carelessly: they are refused, and nothing of them runs."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from command_line import QUICK, contents, sentence
from recipes import write_recipes
from voxelopt_train.images import write_nifti

MARK = "executed"
TEST = ["--config", "raw", "--config", "tiny.yaml", "-o", "run"]
READ = "cannot be read as a checkpoint of tensors (torch.load, weights_only=True)"


class Evil:
    """Leaves a file in the current folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (MARK, "w")


def training(**more: Any) -> dict[str, Any]:
    """What Lightning expects of a checkpoint."""
    version = lightning.__version__
    return {"state_dict": {}, "pytorch-lightning_version": version, "epoch": 0, **more}


def write_pickle(path: str) -> None:
    Path(path).write_bytes(pickle.dumps(Evil()))


def write_npz(path: str) -> None:
    np.savez(path, np.array([Evil()], dtype=object))


CHECKPOINTS: dict[str, Callable[[str], None]] = {
    "in the place of a tensor": lambda path: torch.save({"state_dict": {"a": Evil()}}, path),
    "beside all that belongs there": lambda path: torch.save(training(callbacks=Evil()), path),
    "of the former format": lambda path: torch.save(
        training(callbacks=Evil()), path, _use_new_zipfile_serialization=False
    ),
    "a pickle": write_pickle,
}


@pytest.fixture(autouse=True)
def _recipes(folder: Path) -> None:
    write_recipes()


def last_line(err: str) -> str:
    return sentence(err.splitlines(keepends=True)[-1])


def test_the_files_are_programs():
    """For readers that take no care: else the other tests here could not fail."""
    for kind, write in CHECKPOINTS.items():
        write("evil.ckpt")
        if kind == "a pickle":
            pickle.loads(Path("evil.ckpt").read_bytes())
        else:
            torch.load("evil.ckpt", weights_only=False)
        Path(MARK).unlink()
    write_npz("evil.npz")
    assert np.load("evil.npz", allow_pickle=True)["arr_0"].shape == (1,)
    Path(MARK).unlink()


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_that_is_a_program(run, folder, kind):
    CHECKPOINTS[kind]("evil.ckpt")
    before = contents(folder)
    code, _, err = run("test", *TEST, "--ckpt_path", "evil.ckpt")
    assert code == 2 and last_line(err) == f"evil.ckpt {READ}"
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["fit", "validate", "predict", "compare", "ablate", "weights"])
def test_no_command_runs_a_checkpoint(run, folder, command):
    file = "run/checkpoints/last.ckpt"
    Path(file).parent.mkdir(parents=True)
    CHECKPOINTS["beside all that belongs there"](file)
    Path("run/config.yaml").write_text(Path("pairs.yaml").read_text())
    before = contents(folder)
    with_data = ["--config", "pairs.yaml", "--config", "tiny.yaml", "-o"]
    arguments = {
        "compare": ["compare", "run", "--data", "tiny.yaml"],
        "ablate": ["ablate", "run", "--data", "tiny.yaml"],
        "weights": ["fit", *with_data, "new", "--model.init_args.encoder.init_args.weights", file],
    }.get(command, [command, *with_data, "run", "--ckpt_path", "last"])
    code, _, err = run(*arguments)
    assert code == 2 and last_line(err).endswith(f"{file} {READ}")
    after = contents(folder)
    assert MARK not in after and all(after[path] == content for path, content in before.items())


def test_a_checkpoint_does_not_say_what_network_is_made(run):
    """Lightning takes the class, and its arguments, from what it finds there."""
    of_another = {"_class_path": "voxelopt_train.learning.SegmentationModule", "learning_rate": 1}
    torch.save(training(hyper_parameters=of_another), "last.ckpt")
    code, out, _ = run("test", *TEST, "--ckpt_path", "last.ckpt")
    assert code == 0 and "wrote run/test.csv" in out
    torch.save({"state_dict": {}}, "weights.ckpt")
    code, _, err = run("test", *TEST, "--ckpt_path", "weights.ckpt")
    assert code == 2 and last_line(err).startswith("weights.ckpt is no checkpoint of a training")


def test_a_checkpoint_is_no_address(run):
    code, _, err = run("test", *TEST, "--ckpt_path", "http://localhost:9/last.ckpt")
    assert code == 2 and "a checkpoint is a file on this machine, not an address" in err
    code, _, err = run("test", *TEST, "--weights_only", "false")
    assert code == 2 and "unrecognized arguments: --weights_only" in err


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_features_that_are_a_program(run, folder, pair, kind):
    """Object arrays, which NumPy pickles; as ``.npy`` and as an archive of that name."""
    Path("pairs.csv").write_text("fixed,moving\nfixed.nii.gz,moving.nii.gz\n")
    shape = ["--spacing", "12", "--shape", "20", "16", "20"]
    assert run("prepare", "pairs.csv", "-o", "prepared", *shape)[0] == 0
    Path("maps").mkdir()
    for name in ("fixed", "moving"):
        if kind == "npy":
            np.save(f"maps/{name}.npy", np.array([Evil()], dtype=object))
        else:
            write_npz("maps/a.npz")
            Path("maps/a.npz").rename(f"maps/{name}.npy")
    data = ["--data", "prepared", "--data.init_args.features", "maps"]
    code, _, err = run("test", "--config", "raw", *data, "-o", "run")
    assert code == 2 and last_line(err).startswith("maps/fixed.npy: ")
    assert not Path(MARK).exists()


@pytest.mark.parametrize("name", ["evil.npz", "evil.h5", "evil.mat", "evil.tfm", "evil.nii.gz"])
def test_a_transform_that_is_a_program(refused, pair, name):
    transform = name
    if name == "evil.npz":
        write_npz(name)
        transform = f"learn2reg:{name}"
    else:
        write_pickle(name)
    write_nifti(Path("moving.nii.gz"), pair.fixed.data, pair.fixed.grid.affine)
    apply = ["apply", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", "out/a.nii.gz"]
    assert name in refused(*apply, "-t", transform)
    for file in ([name, "moving.nii.gz"], ["fixed.nii.gz", name]):
        assert name in refused("register", *file, "-o", "out/", *QUICK)


def test_an_archive_is_not_unpacked(run, folder, pair):
    """Its members are read by name."""
    write_nifti(Path("moving.nii.gz"), pair.fixed.data, pair.fixed.grid.affine)
    np.savez("evil.npz", np.zeros((3, *(n // 2 for n in pair.fixed.grid.shape)), np.float16))
    with zipfile.ZipFile("evil.npz", "a") as file:
        file.writestr("../escaped.npy", b"")
    apply = ["apply", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", "out/a.nii.gz"]
    assert run(*apply, "-t", "learn2reg:evil.npz")[0] == 0
    assert not list(folder.parent.rglob("escaped.npy"))


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:builtins.open [executed, w]",
        "$open('executed', 'w')",
        "${oc.create:executed}",
        "{class_path: builtins.open, init_args: {file: executed, mode: w}}",
        "{class_path: subprocess.Popen, init_args: {args: [touch, executed]}}",
    ],
)
def test_of_settings_nothing_is_evaluated(run, folder, value):
    """They name classes of the kind that is asked for, and values."""
    Path("register.yaml").write_text(f"initial: {value}\n")
    Path("layer.yaml").write_text(f"layer: {{dissimilarity: {yaml_value(value)}}}\n")
    Path("model.yaml").write_text(
        "model:\n  class_path: voxelopt_train.learning.RegistrationModule\n"
        f"  init_args: {{encoder: {yaml_value(value)}}}\n"
    )
    before = contents(folder)
    for name in ("register", "layer"):
        images = ["fixed.nii.gz", "moving.nii.gz", "-o", "out/"]
        code, _, err = run("register", *images, "--config", f"{name}.yaml")
        assert code == 2 and sentence(err)
    for command in (
        ["test", "--config", "model.yaml", "--config", "tiny.yaml", "-o", "run"],
        ["compare", "model.yaml", "--data", "tiny.yaml", "-o", "run"],
    ):
        code, _, err = run(*command)
        assert code == 2 and last_line(err)
    assert contents(folder) == before


def yaml_value(text: str) -> str:
    """As a value within braces."""
    return text if text.startswith(("{", "!!")) else f'"{text}"'


def test_no_setting_starts_a_program(run, folder):
    """Neither where any function is taken, nor within values of any kind."""
    program = "{class_path: subprocess.Popen, init_args: {args: [touch, executed]}}"
    before = contents(folder)
    network = "--model.init_args.encoder.init_args.network.init_args.arguments.act"
    for option, value in (("--data.init_args.augmentation", "os.system"), (network, program)):
        settings = ["--config", "pairs.yaml", "--config", "tiny.yaml", f"{option}={value}"]
        code, _, err = run("fit", *settings, "-o", "run")
        assert code == 2 and last_line(err)
    assert contents(folder) == before
