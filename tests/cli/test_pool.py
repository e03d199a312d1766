"""The folds of a cross-validation, pooled into one table."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import contents, sentence, strict_json
from voxelopt_train.comparison import Comparison
from voxelopt_train.tables import PairResult, ResultTable

ORGANS = {1: "liver", 2: "spleen"}


def fold(folder: str, *pairs: str, dice: float = 0.5, **changes) -> dict[str, ResultTable]:
    """What `voxelopt compare raw "k = 2"` writes for pairs named by two letters."""
    rows = [
        PairResult(pair[0], pair[1], 0.25, dice + i / 8, dice_per_label={1: dice, 2: 0.125})
        for i, pair in enumerate(pairs)
    ]
    raw = replace(ResultTable("voxelopt", rows, ORGANS), **changes)
    better = replace(raw, pairs=[replace(row, dice=row.dice + 0.25) for row in rows])
    tables = {"raw": raw, "k = 2": better}
    raw.write(Path(folder, "raw"), "test")
    better.write(Path(folder, "k_=_2"), "test")
    Comparison(tables).write(Path(folder), "comparison")
    return tables


def test_the_mean_is_over_all_pairs_not_over_folds(run):
    folds = [fold("1", "ab", "ba", "ac"), fold("2", "de", dice=0.25)]
    code, out, err = run("pool", "1", "2", "-o", "all")
    assert code == 0, err
    assert "4 pairs of 2 tables" in out and "k = 2" in out
    stored = strict_json("all/comparison.json")
    assert (list(stored["methods"]), stored["pairs"]) == (["raw", "k = 2"], 4)
    # 1/2, 5/8, 3/4 and 1/4
    assert stored["methods"]["raw"]["dice"]["mean"] == 0.53125
    assert stored["methods"]["k = 2"]["dice"]["mean"] == 0.78125
    pooled = ResultTable.read(Path("all/k_=_2/test.json"))
    assert [pair.fixed + pair.moving for pair in pooled.pairs] == ["ab", "ba", "ac", "de"]
    assert [pair.dice for pair in pooled.pairs] == [
        pair.dice for tables in folds for pair in tables["k = 2"].pairs
    ]
    assert pooled.dice_per_label()["liver"].mean == pytest.approx((3 * 0.5 + 0.25) / 4)
    with Path("all/comparison.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["raw", "k = 2"]


def test_one_fold_alone_stays_what_it_was(run):
    fold("1", "ab", "ba")
    assert run("pool", "1", "-o", "all")[0] == 0
    assert contents(Path("all")) == contents(Path("1"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("1 1", "raw: the pair of a and b is in 2 of the tables: expected other pairs in each"),
        ("1 learn2reg", "raw: the tables differ in protocol or labels: they cannot be pooled"),
        ("1 organs", "raw: the tables differ in protocol or labels: they cannot be pooled"),
        ("1 fewer", "1 has the rows raw, k = 2 and fewer raw: expected the same"),
        ("1 nosuch", "nosuch/comparison.json: there is no such file"),
        ("1 half", "k = 2: half/k_=_2/test.json: there is no such file"),
        ("1 other", "other/comparison.json is no table that voxelopt compare wrote"),
        ("listed", "1: listed/1/test.json: there is no such file"),
        ("outside", "outside/comparison.json is no table that voxelopt compare wrote"),
        ("1 -o 1", "-o 1: this would replace the tables of a fold"),
    ],
)
def test_what_cannot_be_pooled_is_refused_and_nothing_is_written(run, arguments, message):
    first = fold("1", "ab")
    fold("learn2reg", "cd", protocol="learn2reg")
    fold("organs", "cd", label_names={1: "spleen"})
    fold("half", "cd")
    Path("half/k_=_2/test.json").unlink()
    Path("fewer").mkdir()
    Comparison({"raw": first["raw"]}).write(Path("fewer"), "comparison")
    for name, content in (
        ("other", [1]),
        ("listed", {"methods": [1]}),
        ("outside", {"methods": {"..": {}}}),
    ):
        Path(name).mkdir()
        Path(name, "comparison.json").write_text(json.dumps(content))
    kept = contents(Path())
    code, _, err = run("pool", *arguments.split(), *(() if "-o" in arguments else ("-o", "all")))
    assert (code, sentence(err).startswith(message)) == (2, True), err
    assert contents(Path()) == kept
