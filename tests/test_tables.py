"""Tables of results: what is written is what was measured, and can be read back."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from voxelopt_train.comparison import Comparison
from voxelopt_train.errors import InputError
from voxelopt_train.tables import PairResult, ResultTable

THIRD = 1 / 3


def table() -> ResultTable:
    pairs = [
        PairResult(
            "a|b.nii", "c, d.nii", 0.25, THIRD, 12.5, 0.125, 0.2, 0.001, seconds=0.5,
            dice_per_label={1: 0.1, 12: 0.9},
        ),
        PairResult(
            "e.nii", "f.nii", 0.35, 2 * THIRD, math.inf, 0.375, 0.4, 0.003, seconds=1.5,
            dice_per_label={1: 0.3, 12: math.nan},
        ),
    ]  # fmt: skip
    return ResultTable("learn2reg", pairs, {1: "spleen | left"})


def strict(path: Path):
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def cells(line: str) -> list[str]:
    inner = line.replace(r"\|", "§").strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("§", "|") for cell in inner.split("|")]


def test_summary_holds_mean_std_and_worst_of_the_pairs_that_have_a_value():
    summary = table().summary()
    assert summary["dice"].mean == pytest.approx(0.5)
    assert summary["dice"].std == pytest.approx(1 / 6)
    assert (summary["folds"].mean, summary["folds"].maximum) == (pytest.approx(0.002), 0.003)
    assert (summary["hd95"].mean, summary["hd95"].std, summary["hd95"].pairs) == (12.5, 0, 1)
    assert "tre" not in summary
    organs = table().dice_per_label()
    assert list(organs) == ["spleen | left", "12"]
    assert (organs["spleen | left"].mean, organs["12"].pairs) == (pytest.approx(0.2), 1)


def test_csv_has_a_line_per_pair_in_full_precision_and_empty_cells(tmp_path):
    table().write(tmp_path, "raw")
    with (tmp_path / "raw.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["fixed"], first["moving"]) == ("a|b.nii", "c, d.nii")
    assert float(first["dice"]) == THIRD
    assert (second["hd95"], second["tre"], second["dice_12"]) == ("", "", "")
    assert float(second["dice_spleen | left"]) == 0.3


def test_json_is_strict_and_reads_back(tmp_path):
    table().write(tmp_path / "new" / "folder", "raw")
    path = tmp_path / "new" / "folder" / "raw.json"
    stored = strict(path)
    assert (stored["protocol"], stored["hd95_unit"]) == ("learn2reg", "voxels")
    assert stored["pairs"][1]["hd95"] is None
    assert stored["pairs"][1]["dice_per_label"] == {"1": 0.3, "12": None}
    assert stored["summary"]["folds"]["maximum"] == 0.003
    back = ResultTable.read(path)
    assert back.pairs[0] == replace(table().pairs[0], tre=back.pairs[0].tre)
    assert math.isnan(back.pairs[0].tre) and math.isnan(back.pairs[1].hd95)
    assert (back.summary(), back.label_names) == (table().summary(), table().label_names)
    assert back.markdown() == table().markdown()


def test_markdown_rounds_and_escapes():
    lines = table().markdown().splitlines()
    rows = {cells(line)[0]: cells(line)[1:] for line in lines if line}
    assert rows["protocol learn2reg"] == ["mean", "std", "min", "max", "pairs"]
    assert rows["Dice"] == ["0.500", "0.167", "0.333", "0.667", "2"]
    assert rows["folds (%)"] == ["0.2000", "0.1000", "0.1000", "0.3000", "2"]
    assert rows["HD95 (voxels)"][-1] == "1"
    assert rows["spleen | left"][0] == "0.200"
    assert all(len(cells(line)) == 6 for line in lines if line)


def test_writing_is_all_or_none(tmp_path):
    (tmp_path / "raw.md").mkdir()
    with pytest.raises(InputError, match="there is a folder of this name"):
        table().write(tmp_path, "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.md"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pairs": 3, "label_names": []}'])
def test_another_file_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "other.json"
    with pytest.raises(InputError, match=r"other\.json: there is no such file"):
        ResultTable.read(path)
    path.write_text(content)
    with pytest.raises(InputError, match=r"other\.json is no table of results"):
        ResultTable.read(path)


def test_comparison_has_a_row_per_method_in_every_format(tmp_path):
    better = replace(table(), pairs=[replace(p, dice=0.75, hd95=2.0) for p in table().pairs[::-1]])
    comparison = Comparison({"raw": table(), "MIND | [bold]": better})
    files = comparison.write(tmp_path, "all")
    assert [file.name for file in files] == ["all.csv", "all.json", "all.md"]
    header, _, raw, mind = (tmp_path / "all.md").read_text(encoding="utf-8").splitlines()
    headings = ["", "Dice before", "Dice", "HD95 (voxels)", "SDlogJ", "folds (%)", "s"]
    assert cells(header) == headings
    shown = ["raw", "0.300", "0.500 ± 0.167", "12.50 (1 of 2)", "0.250", "0.2000", "1.00"]
    assert cells(raw) == shown
    assert cells(mind)[:4] == ["MIND | [bold]", "0.300", "0.750 ± 0.000", "2.00"]
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["method"], second["method"]) == ("raw", "MIND | [bold]")
    assert float(first["dice_std"]) == pytest.approx(1 / 6) and first["tre_mean"] == ""
    assert float(second["hd95_mean"]) == 2
    stored = strict(tmp_path / "all.json")
    assert stored["methods"]["raw"]["dice"]["mean"] == pytest.approx(0.5)
    assert (stored["pairs"], stored["protocol"]) == (2, "learn2reg")
    console = Console(width=80, record=True)
    console.print(comparison.rich())
    printed = console.export_text()
    words = [word for heading in headings for word in heading.split()]
    assert all(word in printed for word in [*words, *shown, "MIND | [bold]"])


def test_what_no_method_was_measured_by_is_not_shown_and_one_missing_is_a_dash():
    untimed = replace(table(), pairs=[replace(p, seconds=math.nan) for p in table().pairs])
    lines = Comparison({"a": table(), "b": untimed}).markdown().splitlines()
    assert cells(lines[-1])[-1] == "-"
    assert "s" not in cells(Comparison({"b": untimed}).markdown().splitlines()[0])


def test_results_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="raw was measured by the protocol learn2reg and b by vox"):
        Comparison({"raw": table(), "b": replace(table(), protocol="voxelopt")})
    with pytest.raises(InputError, match="raw and b were measured on different pairs"):
        Comparison({"raw": table(), "b": replace(table(), pairs=table().pairs[:1])})
    with pytest.raises(InputError, match="nothing to compare"):
        Comparison({})
