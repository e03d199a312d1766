"""Lightning's commands, and the tables made with them, on tiny phantoms."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from command_line import contents, names, strict_json
from recipes import QUIET, write_recipes
from voxelopt_layers.presets import PRESETS
from voxelopt_train.configs import find_config
from voxelopt_train.learning.comparison import ablations


@pytest.fixture(autouse=True)
def _recipes(folder):
    write_recipes()


def test_from_masks_to_a_tested_registration(run):
    """Segmentation, then registration from its weights, then test, predict and one table."""
    code, _, err = run("fit", "--config", "masks.yaml", "--data", "tiny.yaml", "-o", "seg", *QUIET)
    assert code == 0, err
    assert {"config.yaml", "checkpoints"} <= names("seg")
    weights = ["--model.init_args.encoder.init_args.weights", "seg/checkpoints/last.ckpt"]
    pairs = ["--config", "pairs.yaml", "--config", "tiny.yaml", "-o", "reg", *QUIET]
    assert run("fit", *pairs, *weights)[0] == 0
    step = torch.load("reg/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step == 2  # the two ordered pairs of two patients
    assert run("fit", *pairs, *weights, "--ckpt_path", "last", "--trainer.max_epochs", "2")[0] == 0
    assert torch.load("reg/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert names("reg/checkpoints") == {"last.ckpt"}
    kept = contents(Path("reg"))
    for arguments in (pairs, ["--config", "mind", *pairs[2:]]):
        code, _, err = run("fit", *arguments)
        assert code == 2 and "reg holds a training already" in err
    assert contents(Path("reg")) == kept
    code, _, err = run("test", *pairs, "--ckpt_path", "seg/checkpoints/last.ckpt")
    assert code == 2 and "this checkpoint is of another network" in err.splitlines()[-1]

    assert run("predict", *pairs, *weights, "--ckpt_path", "last")[0] == 0
    assert len(names("reg/warps")) == 2
    Path("mind").mkdir()  # of other results: the recipe is meant
    code, out, err = run("compare", "mind", "reg", "--data", "tiny.yaml", "-o", "table")
    assert code == 0, err
    with Path("table/comparison.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["mind", "reg"]
    for name, row in rows.items():
        single = strict_json(f"table/{name}/test.json")["summary"]
        assert float(row["dice_mean"]) == single["dice"]["mean"] > 0
        assert name in out
    assert rows["mind"]["dice_before_mean"] == rows["reg"]["dice_before_mean"]
    assert rows["mind"]["dice_mean"] != rows["reg"]["dice_mean"]


def test_a_comparison_takes_nothing_from_the_data_that_a_row_was_trained_on(run):
    other = ["--data.init_args.seed", "7", "--data.init_args.predict_split", "train"]
    config = ["--config", "pairs.yaml", "--config", "tiny.yaml", *QUIET]
    assert run("fit", *config, *other, "-o", "run")[0] == 0
    assert "seed: 7" in Path("run/config.yaml").read_text()
    code, _, err = run("compare", "mind", "run", "--data", "tiny.yaml", "-o", "table")
    assert code == 0, err
    mind, trained = (strict_json(f"table/{row}/test.json") for row in ("mind", "run"))
    assert mind["summary"]["dice_before"] == trained["summary"]["dice_before"]


def test_a_prediction_leaves_what_it_would_make_again_and_nothing_else(run):
    predict = ["predict", "--config", "mind", "--config", "tiny.yaml", "-o", "out", *QUIET]
    assert run(*predict)[0] == 0
    kept = contents(Path("out"))
    assert len(names("out/warps")) == 2
    assert run(*predict, "--data.init_args.batch_size", "2")[0] == 0
    assert contents(Path("out")) == kept
    for option in ("--data.init_args.seed=7", "--model.init_args.layer.init_args.levels=2"):
        code, _, err = run(*predict, option)
        assert code == 2 and "out/warps holds fields that were made with other settings" in err
    assert contents(Path("out")) == kept
    shutil.rmtree("out/warps")
    assert run(*predict, option)[0] == 0 and len(names("out/warps")) == 2


def test_ablation_changes_one_thing_at_a_time(run):
    code, out, err = run("ablate", "mind", "--data", "tiny.yaml", "-o", "a", "--iterations", "[2]")
    assert code == 0, err
    with Path("a/comparison.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["as it is", "mind features", "raw features", *ablations([2])]
    field = "sd_log_jacobian_mean"
    same = {name for name, row in rows.items() if row[field] == rows["as it is"][field]}
    assert same == {"as it is", "mind features"}
    assert "neither" in out


def test_a_training_stands_on_its_own_and_is_ablated_as_it_is(run):
    """Its folder is all that tables and a longer training need, whatever it learned."""
    options = ["--config", "pairs.yaml", "--config", "tiny.yaml", "-o", "runs/lr0.01", *QUIET]
    learned = ["--model.init_args.layer.init_args.learnable", "[alpha, beta, theta]"]
    learned += ["--model.init_args.encoder.init_args.normalisation", "channel"]
    rate = ["--model.init_args.learning_rate", "0.01"]
    assert run("fit", "--config", "masks.yaml", *options[2:4], "-o", "seg", *QUIET)[0] == 0
    start = ["--model.init_args.encoder.init_args.weights", "seg/checkpoints/last.ckpt"]
    # No epoch is validated, and no TensorBoard keeps the settings.
    rarely = ["--trainer.check_val_every_n_epoch", "5", "--trainer.logger", "CSVLogger"]
    rarely += ["--trainer.logger.save_dir", "elsewhere"]
    code, _, err = run("fit", *options, *learned, *rate, *start, *rarely)
    assert code == 0, err
    shutil.rmtree("seg")
    more = ["--ckpt_path", "last", "--trainer.max_epochs", "2"]
    rate[1] = "0.02"
    assert run("fit", *options, *learned, *rate, *start, *more)[0] == 0
    last = torch.load("runs/lr0.01/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 4 and last["optimizer_states"][0]["param_groups"][0]["lr"] == 0.02

    settings = ["--config", "runs/lr0.01/config.yaml", "-o", "moved", *QUIET]
    code, _, err = run("test", *settings)  # never what it was before the training
    assert code == 2 and "this network is to be trained: give what it has learned" in err
    assert run("test", *settings, "--ckpt_path", "runs/lr0.01/checkpoints/last.ckpt")[0] == 0
    assert Path("moved/test.md").is_file()

    data = ["--data", "tiny.yaml"]
    assert run("compare", "runs/lr0.01", *data, "-o", "table")[0] == 0
    trained = strict_json("table/lr0.01/test.json")
    assert trained["label_names"]["6"] == "liver"
    code, _, err = run("ablate", "runs/lr0.01", *data, "-o", "a", "--iterations", "[2]")
    assert code == 0, err
    methods = strict_json("a/comparison.json")["methods"]
    assert list(methods) == ["as it is", "mind features", "raw features", *ablations([2])]
    same = strict_json("a/as_it_is/test.json")["summary"]["sd_log_jacobian"]["mean"]
    assert same == pytest.approx(trained["summary"]["sd_log_jacobian"]["mean"], rel=1e-4)
    regularity = [row["sd_log_jacobian"]["mean"] for row in methods.values()]
    assert len(set(regularity)) == len(regularity)


def test_a_prepared_folder_is_data_as_it_is(run):
    Path("pairs.csv").write_text(
        "fixed,moving,fixed_labels,moving_labels,split\n"
        "fixed.nii.gz,moving.nii.gz,fixed_labels.nii.gz,moving_labels.nii.gz,test\n"
    )
    shape = ["--spacing", "12", "--shape", "20", "16", "20"]
    assert run("prepare", "pairs.csv", "-o", "prepared", *shape)[0] == 0
    code, _, err = run("compare", "raw", "mind", "--data", "prepared", "-o", "table")
    assert code == 0, err
    assert strict_json("table/raw/test.json")["summary"]["dice"]["mean"] > 0
    code, _, err = run("test", "--config", "raw", "--data", "prepared", "-o", "alone", *QUIET)
    assert code == 0, err
    for name in ("raw", "alone"):
        (pair,) = strict_json(f"{'table/' if name == 'raw' else ''}{name}/test.json")["pairs"]
        assert (pair["fixed"], pair["moving"]) == ("fixed", "moving")


def test_ablations_cover_the_papers_second_table():
    rows = ablations(range(1, 10))
    assert rows["6 iterations"]["theta"] != rows["9 iterations"]["theta"]
    for n in range(1, 10):
        theta = rows[f"{n} iterations"]["theta"]
        assert len(theta) == n and theta[-1] == pytest.approx(0.5)
        assert theta == sorted(theta, reverse=True)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("fit", "the following arguments are required: --data, --model"),
        ("fit --config mind", "the following arguments are required: --data"),
        ("fit --config nosuch", "--config nosuch: expected a YAML file or one of"),
        ("fit --config mind --config tiny.yaml -o x", "there is nothing to train"),
        (
            "test --config mind --config tiny.yaml --ckpt_path last -o x",
            "there is no x/checkpoints/la",
        ),
        ("test --config wrong.yaml --config tiny.yaml", "MINDSSC: Option 'widht' is not accepted"),
        ("test --config mind --config tiny.yaml --modell 3", "unrecognized arguments: --modell"),
        (
            "test --config mind --config tiny.yaml --model.init_args.protocol mine",
            "--model.protocol: expected one of 'voxelopt', 'learn2reg', got mine",
        ),
        (
            "test --config mind --config tiny.yaml --model.init_args.layer.init_args.levels 0",
            "levels must be a whole number of at least 1",
        ),
        (
            "test --config segmentation_features --config tiny.yaml",
            "there is no weights file runs/segmentation/checkpoints/last.ckpt",
        ),
        (
            "validate --config mind --config tiny.yaml --data.init_args.subjects [2,0,2]",
            "this dataset has no pairs in its validation split",
        ),
        ("test --config mind --config abdomen_ct", "voxelopt prepare makes it"),
        ("test --config mind --config tiny.yaml --ckpt_path no.ckpt", "no.ckpt"),
        ("compare mind --data nosuch", "--data nosuch: there is no such file or folder; expected"),
        (
            "test --config mind --config tiny.yaml --data.init_args.spacing -1",
            "--data.init_args.spacing: PhantomDataModule has no such setting, --data.help voxelopt",
        ),
        ("compare mind nosuch --data tiny.yaml", "--config nosuch: expected"),
        ("predict --config masks.yaml --data phantom", "a segmentation network registers nothing"),
        ("compare mind masks.yaml --data tiny.yaml", "masks.yaml registers nothing"),
        ("predict --config masks.yaml --data tiny.yaml", "a segmentation network registers noth"),
        (
            "compare mind segmentation_features --data tiny.yaml",
            "there is no weights file runs/segmentation/checkpoints/last.ckpt",
        ),
        ("compare mind . --data tiny.yaml", ". is no finished training: there is no config.yaml"),
        ("compare mind mind --data tiny.yaml", "each row of a comparison must be another"),
        ("ablate", "the following arguments are required: row, --data"),
        ("prepare nowhere -o out", "nowhere"),
    ],
)
def test_bad_command(run, command, expected):
    code, _, err = run(*command.split())
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("voxelopt: error: ") and expected in last
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there(run):
    command = "test --config mind --config tiny.yaml --trainer.accelerator cuda -o x"
    code, _, err = run(*command.split())
    assert code == 2 and err.splitlines()[-1].startswith("voxelopt: error: ") and "CUDA" in err


def test_the_recipe_for_intensities_has_the_settings_of_the_preset():
    recipe = yaml.safe_load(find_config("intensity", "training").read_text())
    settings = recipe["model"]["init_args"]["layer"]["init_args"]
    expected = PRESETS["intensity"]
    assert settings == {**expected, "theta": list(expected["theta"])}
