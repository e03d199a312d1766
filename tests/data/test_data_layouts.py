"""Which subjects and pairs are found in a folder, a challenge's JSON or a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset_folders import touch
from voxelopt_train.data.layouts import Layout, find_cohort
from voxelopt_train.data.subjects import SPLITS, Cohort, paper_splits, select
from voxelopt_train.errors import InputError

BTCV = [*range(1, 11), *range(21, 41)]


def authors(folder: Path) -> None:
    for n in range(1, 31):
        touch(folder, [f"img/img{n:04}.nii.gz", f"label/label{n:04}.nii.gz"])


def btcv(folder: Path) -> None:
    for n in BTCV:
        root = "RawData/Training"
        touch(folder, [f"{root}/img/img{n:04}.nii.gz", f"{root}/label/label{n:04}.nii.gz"])


def learn2reg(folder: Path, task: str = "AbdomenCTCT", **more: object) -> None:
    entries = [
        {f"{kind}": f"./{kind}sTr/{task}_{n:04}_0000.nii.gz" for kind in ("image", "label")}
        for n in range(1, 31)
    ]
    touch(folder, [path for entry in entries for path in entry.values()])
    content = {"name": task, "pairings": "unpaired", "training": entries, **more}
    (folder / f"{task}_dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("make", [authors, btcv, learn2reg])
def test_the_papers_pairs_in_every_layout(tmp_path, make):
    make(tmp_path)
    cohort = find_cohort(tmp_path)
    assert {split: len(cohort.pairs[split]) for split in SPLITS} == {
        "train": 380,
        "validation": 6,
        "test": 42,
    }
    tested = cohort.names("test")
    numbers = range(34, 41) if make is btcv else range(24, 31)
    assert tested == [f"{n:04}" for n in numbers]
    assert cohort.pairs["test"][:2] == [(tested[0], tested[1]), (tested[0], tested[2])]
    for name, subject in cohort.subjects.items():
        assert subject.labels is not None
        assert name in subject.image.name and name in subject.labels.name
    layouts: dict[Callable[..., None], Layout]
    layouts = {authors: "voxelopt", btcv: "btcv", learn2reg: "learn2reg"}
    assert find_cohort(tmp_path, layouts[make]) == cohort


def test_part_of_the_papers_subjects_keeps_their_numbers(tmp_path):
    touch(tmp_path, [f"img/img{n:04}.nii.gz" for n in (20, 22, 23, 28, 30)])
    cohort = find_cohort(tmp_path)
    assert [len(cohort.pairs[split]) for split in SPLITS] == [0, 2, 2]
    assert list(cohort.subjects) == ["0022", "0023", "0028", "0030"]
    assert cohort.subjects["0022"].labels is None
    assert paper_splits(["1", "99"]) == {}


def test_learn2reg_pairs_of_the_other_tasks(tmp_path):
    image = "./imagesTr/LungCT_{:04}_000{}.nii.gz".format
    pairs = [{"fixed": image(n, 0), "moving": image(n, 1)} for n in (1, 2, 3)]
    entries = [{"image": image(n, t)} for n in (1, 2, 3) for t in (0, 1)]
    entries[1]["label"] = "./labelsTr/LungCT_0001_0001.nii.gz"
    entries[1]["keypoints"] = "./keypointsTr/LungCT_0001_0001.nii.gz"
    content = {"name": "LungCT", "pairings": "paired", "training": entries}
    content |= {"training_paired_images": pairs, "registration_val": pairs[2:]}
    (tmp_path / "LungCT_dataset.json").write_text(json.dumps(content))
    files = [e["image"] for e in entries] + [entries[1]["label"]]
    touch(tmp_path, [*files, "keypointsTr/LungCT_0001_0001.csv"])
    cohort = find_cohort(tmp_path / "LungCT_dataset.json")
    assert cohort.pairs == {
        "train": [("0001_0000", "0001_0001"), ("0002_0000", "0002_0001")],
        "validation": [("0003_0000", "0003_0001")],
    }
    keypoints = cohort.subjects["0001_0001"].keypoints
    assert keypoints is not None and keypoints.name == "LungCT_0001_0001.csv"
    assert cohort.subjects["0001_0001"].labels == tmp_path / entries[1]["label"]
    unpaired = {**content, "pairings": "unpaired"}
    (tmp_path / "LungCT_dataset.json").write_text(json.dumps(unpaired))
    assert len(find_cohort(tmp_path).pairs["train"]) == 4 * 3


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_table_of_pairs(tmp_path, suffix):
    touch(tmp_path, ["a/ct.nii.gz", "b/ct.nii.gz", "c/ct.nii.gz", "seg_a.nii.gz", "points_a.csv"])
    rows = [
        {"fixed": "../a/ct.nii.gz", "moving": "../b/ct.nii.gz", "split": "validation"},
        {"fixed": "../a/ct.nii.gz", "moving": "../c/ct.nii.gz", "split": ""},
    ]
    rows[1] |= {"fixed_labels": "../seg_a.nii.gz", "fixed_keypoints": "../points_a.csv"}
    table = tmp_path / "lists" / f"pairs.{suffix}"
    table.parent.mkdir()
    if suffix == "json":
        table.write_text(json.dumps(rows))
    else:
        lines = [",".join(rows[1])] + [",".join(row.get(k, "") for k in rows[1]) for row in rows]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")  # as spreadsheets write it
    cohort = find_cohort(table)
    assert cohort.pairs == {
        "train": [],
        "validation": [("a_ct", "b_ct")],
        "test": [("a_ct", "c_ct")],
    }
    assert cohort.subjects["a_ct"].image == tmp_path / "a" / "ct.nii.gz"
    assert cohort.subjects["a_ct"].labels == tmp_path / "seg_a.nii.gz"
    assert cohort.subjects["a_ct"].keypoints == tmp_path / "points_a.csv"
    assert cohort.subjects["c_ct"].labels is None


def files(folder: Path, **splits: Any) -> Cohort:
    return find_cohort(folder, images="./image_*.nii.gz", labels="label_*.nii.gz", **splits)


def test_patterns_and_splits_by_number_and_name(tmp_path):
    names = ["01", "02", "03", "10", "31", "32", "atlas"]
    touch(tmp_path, [f"{kind}_{name}.nii.gz" for kind in ("image", "label") for name in names])
    cohort = files(tmp_path, train="1-10, atlas", validation="31,32", test="32, 31")
    assert cohort.names("train") == ["01", "02", "03", "10", "atlas"]
    assert cohort.pairs["validation"] == [("31", "32"), ("32", "31")]
    assert cohort.pairs["test"] == [("32", "31"), ("31", "32")]
    assert list(files(tmp_path, test="01,02").subjects) == ["01", "02"]
    assert select("", names) == []
    assert select("02-31,2", names) == ["02", "03", "10", "31"]


def test_a_split_given_replaces_that_of_the_dataset(tmp_path):
    authors(tmp_path)
    cohort = find_cohort(tmp_path, train="1-3", validation="")
    assert [len(cohort.pairs[split]) for split in SPLITS] == [6, 0, 42]


def test_what_cannot_be_found_is_said(tmp_path):
    touch(tmp_path, ["image_01.nii.gz", "image_02.nii.gz", "image_x.nii.gz", "label_01.nii.gz"])
    with pytest.raises(InputError, match="no known layout: expected img/img0001"):
        find_cohort(tmp_path)
    with pytest.raises(InputError, match="there is no such file or folder"):
        find_cohort(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"subject 02: there is no file .*label_02.nii.gz"):
        files(tmp_path, test="1-2")
    with pytest.raises(InputError, match=r"not known for this data: .*there are 01, 02, x"):
        find_cohort(tmp_path, images="image_*.nii.gz")
    with pytest.raises(InputError, match="7-9: no such subject; there are 01, 02, x"):
        files(tmp_path, test="7-9")
    with pytest.raises(InputError, match="train 1: a pair takes two subjects"):
        files(tmp_path, train="1")
    with pytest.raises(InputError, match="must not be in test too: 01, 02"):
        files(tmp_path, train="1-2", test="1,2")
    with pytest.raises(InputError, match="no file fits scan_"):
        find_cohort(tmp_path, images="scan_*.nii.gz")
    for pattern in ("image.nii.gz", "*/image_*.nii.gz", "/image_*.nii.gz"):
        with pytest.raises(InputError, match=r"expected a pattern below .* with one \*"):
            find_cohort(tmp_path, images=pattern)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fixed,moving,fixed_label\na.nii,b.nii,c.nii\n", "pair 1: unknown column fixed_label"),
        ("fixed,moving\na.nii,\n", "pair 1: no moving image is given"),
        ("fixed,moving,split\na.nii,b.nii,val\n", "split val, expected one of train"),
        (
            "fixed,moving,fixed_labels\na.nii,b.nii,x.nii\na.nii,b.nii,y.nii\n",
            "pair 2: other labels of a.nii than before",
        ),
        ("fixed,moving\na.nii,b.nii\n", "there is no file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, sentence):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        find_cohort(tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (["x.nii", "x.nii.gz"], r"x.nii and .*x.nii.gz would both be subject x: rename one"),
        (["a/b_c.nii", "a_b/c.nii", "b_c.nii"], "would both be subject a_b_c: rename one"),
    ],
)
def test_a_table_whose_files_come_to_one_name(tmp_path, images, sentence):
    touch(tmp_path, images)
    pairs = [{"fixed": images[0], "moving": image} for image in images[1:]]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    with pytest.raises(InputError, match=sentence):
        find_cohort(tmp_path / "pairs.json")


def test_learn2reg_images_that_come_to_one_name(tmp_path):
    image = "images{}/Lung_{:04}_0000.nii.gz".format  # listed with ./ as training images
    pair = {"fixed": image("Tr", 1), "moving": image("Tr", 2)}
    learn2reg(tmp_path, "Lung", registration_val=[pair])
    cohort = find_cohort(tmp_path)
    assert cohort.pairs["validation"] == [("0001", "0002")] and len(cohort.subjects) == 30
    assert all(subject.labels is not None for subject in cohort.subjects.values())
    learn2reg(tmp_path, "Lung", registration_val=[pair | {"fixed": image("Ts", 1)}])
    with pytest.raises(InputError, match=r"imagesTr/.* and imagesTs/.* would both be subject 0001"):
        find_cohort(tmp_path)


def test_json_of_another_kind(tmp_path):
    path = tmp_path / "some.json"
    for text, sentence in (("{", "no JSON file"), ("{}", "Learn2Reg"), ("[1]", "list of pairs")):
        path.write_text(text)
        with pytest.raises(InputError, match=sentence):
            find_cohort(path)
