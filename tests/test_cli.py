"""The command line: what it writes, and that bad input gives one sentence, code 2 and no files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from nibabel.nifti1 import Nifti1Image

import voxelopt_layers
from voxelopt_layers import VoxelOptLayer
from voxelopt_train import InputError, commands, outputs
from voxelopt_train.cli import main
from voxelopt_train.phantom import Pair, phantom_pair
from voxelopt_train.transforms import AffineTransform, write_affine

AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
ALWAYS = {"Warped.nii.gz", "1Warp.nii.gz", "Report.png", "Report.json"}
EXTRAS = {"1InverseWarp.nii.gz", "Entropy.nii.gz", "Jacobian.nii.gz"}
LABELS = ["--fixed-labels", "fixed_labels.nii.gz", "--moving-labels", "moving_labels.nii.gz"]
# Commands that are about other things than speed and quality of the registration.
QUICK = ["--features", "raw", "--layer.levels", "2"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return phantom_pair(0, shape=(40, 32, 36), spacing_mm=8.0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair) -> Path:
    """The current folder, with a pair of images and label maps."""
    monkeypatch.chdir(tmp_path)
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        image = getattr(pair, name)
        Nifti1Image(image.data.numpy(), image.grid.affine).to_filename(f"{name}.nii.gz")
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
    monkeypatch.setattr(outputs, "registration_picture", lambda path, *_: path.write_bytes(b""))


@pytest.fixture
def refused(run: Run, folder: Path) -> Callable[..., str]:
    """Run a command that must fail as section 6 says; returns its sentence."""

    def refused(*arguments: str) -> str:
        before = contents(folder)
        code, out, err = run(*arguments)
        assert code == 2 and out == ""
        assert contents(folder) == before
        return sentence(err)

    return refused


def sentence(err: str) -> str:
    start = "voxelopt: error: "
    assert err.startswith(start) and err.endswith("\n") and err.count("\n") == 1, err
    return err[len(start) : -1]


def contents(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below, hidden ones too, with what the files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def names(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def volume(path: str | Path) -> np.ndarray:
    return np.asarray(Nifti1Image.from_filename(path).dataobj)


def strict_json(path: str | Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


# What is written


def test_register_writes_the_named_files_and_ends_with_a_table(run):
    code, out, err = run("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *LABELS)
    assert (code, err) == (0, "")
    assert names("out") == ALWAYS | {"WarpedLabels.nii.gz"}
    for word in ("Dice", "HD95 (mm)", "SDlogJ", "folds", "before", "registered", *names("out")):
        assert word in out
    assert volume("out/Warped.nii.gz").shape == (40, 32, 36)
    assert volume("out/1Warp.nii.gz").shape == (40, 32, 36, 1, 3)
    assert volume("out/WarpedLabels.nii.gz").dtype == np.int32
    picture = imread("out/Report.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 300 and picture[..., :3].std() > 0.1
    report = strict_json("out/Report.json")
    dice = {stage: value["mean_dice"] for stage, value in report["labels"].items()}
    assert set(dice) == {"before", "registered"}
    assert dice["registered"] > dice["before"] + 0.1
    assert f"{dice['registered']:.3f}" in out
    assert report["folds"] == 0 and report["working_grid"]["shape"] == [40, 32, 36]


def test_extra_files_on_request(run, no_picture):
    arguments = ["register", "fixed.nii.gz", "moving.nii.gz", "--initial", "center-of-mass"]
    flags = ["--inverse", "--entropy", "--jacobian"]
    code, _, _ = run(*arguments, *flags, "-o", "out/", "--window", "-200", "300")
    assert code == 0
    assert names("out") == ALWAYS | EXTRAS | {"0GenericAffine.mat"}
    assert volume("out/Entropy.nii.gz").min() >= 0
    jacobian = volume("out/Jacobian.nii.gz")
    assert jacobian.shape == (40, 32, 36) and abs(jacobian.mean() - 1) < 0.2
    forward, backward = volume("out/1Warp.nii.gz"), volume("out/1InverseWarp.nii.gz")
    assert np.abs(forward).mean() > 1
    assert np.linalg.norm((forward + backward).mean((0, 1, 2))) < np.abs(forward).mean()


def test_output_is_a_folder_or_the_start_of_names(run, no_picture):
    Path("there").mkdir()
    for prefix, where, start in (
        ("new/deep/pair1_", "new/deep", "pair1_"), ("there", "there", ""), ("a_", ".", "a_"),
    ):  # fmt: skip
        before = names(where) if Path(where).exists() else set()
        code, _, _ = run("register", "fixed.nii.gz", "moving.nii.gz", "-o", prefix, *QUICK)
        assert code == 0
        assert names(where) - before == {start + name for name in ALWAYS}


def test_results_replace_older_ones_and_leave_other_files_alone(run, no_picture):
    Path("out").mkdir()
    Path("out/Warped.nii.gz").write_text("old")
    Path("out/notes.txt").write_text("mine")
    assert run("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", *QUICK)[0] == 0
    assert volume("out/Warped.nii.gz").shape == (40, 32, 36)
    assert Path("out/notes.txt").read_text() == "mine"


def test_working_spacing_and_protocol(run, no_picture):
    code, out, _ = run(
        "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", "--spacing", "16", *QUICK,
        *LABELS, "--protocol", "learn2reg",
    )  # fmt: skip
    assert code == 0 and "HD95 (voxels)" in out
    report = strict_json("out/Report.json")
    assert report["working_grid"] == {"shape": [20, 16, 18], "spacing_mm": [16.0, 16.0, 16.0]}
    assert volume("out/Warped.nii.gz").shape == (40, 32, 36)


def test_a_label_of_one_image_alone_leaves_the_report_strict_json(run, no_picture):
    """Learn2Reg gives it no HD95: NaN, for which JSON has no word."""
    labels = volume("moving_labels.nii.gz").copy()
    labels[0, 0, 0] = 99
    Nifti1Image(labels, Nifti1Image.from_filename("fixed.nii.gz").affine).to_filename(
        "moving_labels.nii.gz"
    )
    code, _, _ = run(
        "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", "--protocol", "learn2reg",
        *LABELS,
    )  # fmt: skip
    assert code == 0
    assert strict_json("out/Report.json")["labels"]["before"]["hd95"]["99"] is None


def test_apply_through_the_written_transforms_gives_warped(run, no_picture):
    shifted = AffineTransform(np.eye(4))
    shifted.matrix[:3, 3] = [12, -7, 5]
    write_affine("initial.tfm", shifted)
    moving = ["register", "fixed.nii.gz", "moving.nii.gz", "--initial", "initial.tfm"]
    assert run(*moving, "--inverse", *LABELS, "-o", "out/p_", *QUICK)[0] == 0
    transforms = ["-t", "out/p_1Warp.nii.gz", "-t", "out/p_0GenericAffine.mat"]
    code, out, err = run(
        "apply", "moving.nii.gz", "-r", "fixed.nii.gz", *transforms, "-o", "new/image.nii.gz"
    )
    assert (code, err) == (0, "") and "new/image.nii.gz" in out
    assert names("new") == {"image.nii.gz"}
    difference = np.abs(volume("new/image.nii.gz") - volume("out/p_Warped.nii.gz"))
    assert (difference < 0.5).mean() > 0.9995
    labels = ["apply", "moving_labels.nii.gz", "--labels", "-r", "fixed.nii.gz", *transforms]
    assert run(*labels, "-o", "labels.nii")[0] == 0
    same = volume("labels.nii") == volume("out/p_WarpedLabels.nii.gz")
    assert same.mean() > 0.9995 and volume("labels.nii").dtype == np.int32

    back = ["-t", "[out/p_0GenericAffine.mat,1]", "-t", "out/p_1InverseWarp.nii.gz"]
    fixed = ["apply", "fixed.nii.gz", "-r", "moving.nii.gz"]
    assert run(*fixed, "-o", "unmoved.nii.gz")[0] == 0
    assert run(*fixed, *back, "-o", "back.nii.gz")[0] == 0
    target = volume("moving.nii.gz")
    after, before = (np.abs(volume(f"{n}.nii.gz") - target).mean() for n in ("back", "unmoved"))
    assert after < 0.8 * before


def test_demo_writes_its_phantoms_too(run, monkeypatch, no_picture, pair):
    seeds = []
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: seeds.append(seed) or pair)
    code, out, err = run("demo", "--seed", "4", *QUICK)
    assert (code, err) == (0, "") and "Dice" in out and seeds == [4]
    phantoms = {f"{n}.nii.gz" for n in ("fixed", "moving", "fixed_labels", "moving_labels")}
    assert names("voxelopt_demo") == ALWAYS | EXTRAS | {"WarpedLabels.nii.gz"} | phantoms
    np.testing.assert_array_equal(volume("voxelopt_demo/fixed.nii.gz"), pair.fixed.data)


# Settings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], VoxelOptLayer()),
        (["--preset", "paper"], VoxelOptLayer.from_preset("paper")),
        (
            ["--preset", "released", "--layer.levels", "3", "--layer.theta", "[9, 2.5]"],
            VoxelOptLayer.from_preset("released", levels=3, theta=(9, 2.5)),
        ),
        (
            ["--layer.adaptive", "false", "--layer.dissimilarity=l2", "--layer.boundary=zeros"],
            VoxelOptLayer(adaptive=False, dissimilarity="l2", boundary="zeros"),
        ),
    ],
)
def test_preset_and_single_settings_reach_the_layer(monkeypatch, refused, arguments, expected):
    given: dict = {}

    def stop(*_, **options):
        given.update(options)
        raise InputError("far enough")

    monkeypatch.setattr(commands, "register", stop)
    command = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", "--features", "raw"]
    assert refused(*command, "--window", "-800", "500", *arguments) == "far enough"

    def settings(module: torch.nn.Module) -> dict:
        kept = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "solver"}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}

    layer = given["layer"]
    assert settings(layer) == settings(expected)
    assert settings(layer.solver) == settings(expected.solver)
    assert given["encoder"] == "raw" and given["window"] == (-800, 500)


@pytest.mark.parametrize("command", [[], ["register"], ["apply"], ["demo"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: voxelopt" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert voxelopt_layers.__version__ in capsys.readouterr().out


# Bad input


def write_bad_file(kind: str) -> str:
    array = np.random.default_rng(0).normal(size=(8, 7, 6)).astype(np.float32)
    affine, name = AFFINE, f"{kind.replace(' ', '_')}.nii.gz"
    if kind == "folder":
        Path(name).mkdir()
    elif kind == "truncated":
        whole = Path("fixed.nii.gz").read_bytes()
        Path(name).write_bytes(whole[: len(whole) // 2])
    elif kind == "truncated, not compressed":
        name = "truncated.nii"
        Nifti1Image(array, affine).to_filename(name)
        Path(name).write_bytes(Path(name).read_bytes()[:-200])
    elif kind == "text":
        Path(name).write_text("no image\n")
    elif kind == "empty":
        Path(name).touch()
    elif kind != "missing":
        if kind == "4-D":
            array = np.stack([array, array], axis=-1)
        elif kind == "colour":
            array = np.zeros(array.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        elif kind == "singular":
            affine = np.diag([8.0, 0.0, 8.0, 1.0])
        else:
            array[3, 3, 3] = float(kind)
        image = Nifti1Image(array, None)
        image.set_sform(affine, code=1)
        image.to_filename(name)
    return name


BAD_FILES = {
    "missing": "there is no such file",
    "folder": "this is a folder",
    "truncated": "truncated or damaged",
    "truncated, not compressed": "truncated or damaged",
    "text": "not a NIfTI image, or a damaged one",
    "empty": "not a NIfTI image, or a damaged one",
    "4-D": "expected a single 3-D volume, got shape (8, 7, 6, 2)",
    "colour": "this is a colour image",
    "nan": "NaN or infinite",
    "inf": "NaN or infinite",
    "singular": "the affine is singular",
}
ROLES = {
    "fixed": ["register", "BAD", "moving.nii.gz", "-o", "out/"],
    "moving": ["register", "fixed.nii.gz", "BAD", "-o", "out/new/a_"],
    "labels": [
        "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/",
        "--fixed-labels", "BAD", "--moving-labels", "moving_labels.nii.gz",
    ],
    "image": ["apply", "BAD", "-r", "fixed.nii.gz", "-o", "out/a.nii.gz"],
    "reference": ["apply", "moving.nii.gz", "-r", "BAD", "-o", "out/a.nii.gz"],
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file(refused, kind, role):
    name = write_bad_file(kind)
    message = refused(*[name if a == "BAD" else a for a in ROLES[role]])
    assert name in message and BAD_FILES[kind] in message


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("missing.mat", "missing.mat"),
        ("missing.nii.gz", "no such file"),
        ("text.mat", "not an ITK transform file"),
        ("text.tfm", "not an ITK transform file"),
        ("moving.nii.gz", "expected an ITK displacement field"),
        ("[moving.nii.gz,1]", "a displacement field cannot be inverted here"),
    ],
)
def test_bad_transform(refused, transform, expected):
    for name in ("text.mat", "text.tfm"):
        Path(name).write_text("no transform\n")
    apply = ["apply", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", "out/a.nii.gz"]
    assert expected in refused(*apply, "-t", transform)
    register = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/"]
    assert transform in refused(*register, "--initial", transform)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", "register,apply,demo"),
        ("registr a b -o out/", "invalid choice: 'registr'"),
        ("register", "arguments are required: fixed, moving, output"),
        ("apply moving.nii.gz", "arguments are required: reference, output"),
        ("demo -o", "-o/--output: expected one argument"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --smooth 3", "--smooth"),
        ("register fixed.nii.gz moving.nii.gz third.nii.gz -o out/", "third.nii.gz"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing two", "--spacing: expected a num"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing 0", "above 0 mm"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing -2", "above 0 mm"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --spacing 1e-9", "makes 2e+34 voxels"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --window 5", "--window: expected 2"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --window 5 x", "--window: expected a num"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --window 5 -5", "from low to high, got 5 -5"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --features sift", "invalid choice: 'sift'"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --protocol mine", "invalid choice: 'mine'"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --initial centre", "center-of-mass, affine"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --fixed-labels a.nii", "both the fixed and"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --device warp9", "--device warp9"),
        ("register fixed.nii.gz moving.nii.gz -o out/ --device meta", "--device meta"),
        ("demo --device cuda:99", "--device cuda:99"),
        ("demo --seed one", "--seed: expected a whole number, got one"),
        ("demo --preset best", "invalid choice: 'best' (choose from"),
        ("demo --layer.speed 3", "does not accept option 'speed'"),
        ("demo --layer.levels", "expected one argument"),
        ("demo --layer.levels few", "--layer.levels: expected a whole number, got few"),
        ("demo --layer.levels 2.5", "--layer.levels: expected a whole number, got 2.5"),
        ("demo --layer.levels 0", "levels, search_radius and warps_per_level must be at least 1"),
        ("demo --layer.alpha nan", "--layer.alpha: expected a number, got nan"),
        ("demo --layer.theta 5", "--layer.theta: expected a list, got 5"),
        ("demo --layer.ties odd", "--layer.ties: expected one of 'mean', 'sum', got odd"),
        ("demo --layer.dissimilarity far", "--layer.dissimilarity: expected one of 'l1', "),
        ("demo --layer.sigma_range [1,2,3]", "--layer.sigma_range cannot be [1, 2, 3]"),
        ("apply moving.nii.gz -r fixed.nii.gz -o out/a.mha", "name ending in .nii or .nii.gz"),
        ("apply moving.nii.gz -r fixed.nii.gz -o out/", "name ending in .nii or .nii.gz"),
        ("apply moving.nii.gz --labels -r fixed.nii.gz -o out/a.nii", "must be whole numbers"),
    ],
)
def test_bad_command(refused, monkeypatch, pair, command, expected):
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    assert expected in refused(*command.split())


def test_images_that_do_not_overlap(refused, pair):
    affine = pair.moving.grid.affine.copy()
    affine[2, 3] += 400
    Nifti1Image(pair.moving.data.numpy(), affine).to_filename("far.nii.gz")
    message = refused("register", "fixed.nii.gz", "far.nii.gz", "-o", "out/")
    assert "fixed.nii.gz and far.nii.gz do not overlap in world space" in message


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_labels_on_another_grid(refused, pair, which):
    affine = pair.fixed.grid.affine @ np.diag([1.0, 1.0, 1.5, 1.0])
    labels = getattr(pair, f"{which}_labels").data.numpy()
    Nifti1Image(labels, affine).to_filename(f"{which}_labels.nii.gz")
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *LABELS)
    assert f"{which}_labels.nii.gz does not lie on the grid of {which}.nii.gz" in message


# Outputs that cannot be written


def every_command(output: str) -> Iterator[list[str]]:
    yield ["register", "fixed.nii.gz", "moving.nii.gz", "-o", f"{output}/", *QUICK]
    yield ["demo", "-o", f"{output}/", *QUICK]
    yield ["apply", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", f"{output}/a.nii.gz"]


def test_output_folder_with_a_file_in_the_way(refused, monkeypatch, pair):
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    Path("file").write_text("mine")
    for output in ("file", "file/below"):
        for command in every_command(output):
            message = refused(*command)
            assert f"output folder {output} cannot be made: file is a file" in message


def test_output_folder_without_permission(refused, monkeypatch, pair):
    """Access is denied to a superuser by pretence only, to others in earnest."""
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    Path("locked").mkdir(mode=0o555)
    if os.access("locked", os.W_OK):
        granted = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: "locked" not in str(path) and granted(path, mode)
        )
    for output in ("locked", "locked/below"):
        for command in every_command(output):
            assert "no permission" in refused(*command)


def test_output_name_that_is_too_long(refused, no_picture):
    Path("there").mkdir()
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", f"there/{'a' * 300}_")
    assert "name too long" in message


def test_a_folder_in_the_place_of_a_file_keeps_all_older_results(refused, no_picture):
    Path("out/Warped.nii.gz").mkdir(parents=True)
    for name in ("1Warp.nii.gz", "Report.json"):
        Path("out", name).write_text("old")
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *QUICK)
    assert "out/Warped.nii.gz cannot be written: there is a folder of this name" in message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (KeyboardInterrupt(), "interrupted, nothing was written"),
    ],
)
@pytest.mark.parametrize("command", ["register", "demo"])
@pytest.mark.parametrize("older", [False, True])
def test_failure_while_writing(refused, monkeypatch, pair, command, error, expected, older):
    monkeypatch.setattr(commands, "phantom_pair", lambda seed: pair)
    if older:
        Path("out").mkdir()
        for name in ("Warped.nii.gz", "fixed.nii.gz"):
            Path("out", name).write_text("old")

    def fail(*_):
        raise error

    # Warped.nii.gz and the demo's phantoms are complete by then.
    monkeypatch.setattr(outputs, "write_displacement_field", fail)
    files = ["fixed.nii.gz", "moving.nii.gz"] if command == "register" else []
    assert expected in refused(command, *files, "-o", "out/", *QUICK)


@pytest.mark.parametrize("command", ["register", "apply"])
def test_interruption_while_working(refused, monkeypatch, command):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, {"register": "register", "apply": "resample"}[command], interrupt)
    arguments = next(c for c in every_command("out") if c[0] == command)
    assert refused(*arguments) == "interrupted, nothing was written"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_says_what_to_do(refused, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "register", fail)
    message = refused("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/")
    assert "not enough memory" in message and "--spacing" in message


def test_a_bug_is_not_hidden_as_bad_input(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(commands, "register", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/"])


def test_as_a_program(folder):
    """A process of its own: exit codes, and nothing but the sentence on standard error."""

    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        start = "import sys; from voxelopt_train.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", start, *arguments], capture_output=True, text=True, check=False
        )

    register = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out/", *QUICK]
    done = program(*register)
    assert (done.returncode, done.stderr) == (0, "")
    assert names("out") == ALWAYS
    Path("out/Report.json").unlink()
    Path("out/Report.json").mkdir()  # found only in the end, after the progress bar
    before = contents(folder)
    failed = program(*register)
    assert failed.returncode == 2 and failed.stdout == ""
    assert "Report.json" in sentence(failed.stderr)
    assert contents(folder) == before
