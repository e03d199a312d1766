"""``voxelopt benchmark --peers``: its table, tools that fail or are not there, and bad input."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from command_line import AFFINE, LABELS, strict_json
from voxelopt_train.benchmark import command, peer_pairs, peers
from voxelopt_train.benchmark.peer_tools import TOOLS
from voxelopt_train.phantom import CT_WINDOW

PAIR = ["--pair", "fixed.nii.gz", "moving.nii.gz"]
PEERS = ["benchmark", "--peers"]
BESIDE = "a_tool_of_the_test"
# What stands in for the tools: it moves nothing, and keeps what it was given.
SCRIPT = """
import json, os, sys
import numpy as np
from nibabel.nifti1 import Nifti1Image
spec = json.loads(sys.argv[1])
fixed = np.asarray(Nifti1Image.from_filename(spec["fixed"]).dataobj)
names = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "TMPDIR")
seen = {"range": [float(fixed.min()), float(fixed.max())], **{n: os.environ[n] for n in names}}
open(KEPT, "w").write(json.dumps({**spec, **seen}))
u = np.zeros((1, 3, *fixed.shape), np.float32)
"""
FOUND = "np.savez(spec['output'], displacement=u, seconds=1.5, peak_mb=200.0)"


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """Let a single tool be there, a script that ends with the given line; returns what it saw."""

    def make(end: str):
        script = tmp_path / "tool.py"
        script.write_text(f"KEPT = {str(tmp_path / 'kept.json')!r}\n{SCRIPT}{end}\n")
        monkeypatch.setattr(peers, "peer_tools", SimpleNamespace(__file__=str(script)))
        monkeypatch.setattr(peers, "TOOLS", {BESIDE: next(iter(TOOLS.values()))})
        return lambda: strict_json(tmp_path / "kept.json")

    return make


def flat(text: str) -> str:
    return " ".join(text.split())


def test_without_other_tools(run, monkeypatch):
    monkeypatch.setattr(peers, "_found", lambda module: False)
    code, out, err = run(*PEERS, *PAIR, *LABELS, "--window", "-800", "500", "-o", "results.json")
    assert code == 0 and err == ""
    for text in ("Dice", "HD95 (mm)", "SDlogJ", "folds (%)", "memory, MB", "40 x 32 x 36"):
        assert text in flat(out)
    assert (
        "not installed: ConvexAdam, ANTs SyN, ITK demons, greedy; "
        "pip install convexadam antspyx SimpleITK picsl-greedy" in flat(out)
    )
    results = strict_json("results.json")
    assert results["sizes"] == {}
    rows = results["peers"]["rows"]
    assert list(rows) == ["before", "voxelopt, raw", "voxelopt, MIND"]
    assert rows["before"]["dice"] == pytest.approx(0.338, abs=5e-4)
    assert "seconds" not in rows["before"]
    for name in ("voxelopt, raw", "voxelopt, MIND"):
        assert rows[name]["dice"] > rows["before"]["dice"] + 0.1
        assert 0 < rows[name]["folds"] + rows[name]["sd_log_jacobian"] < 0.2
        assert rows[name]["seconds"] > 0 and rows[name]["peak_mb"] > 50
        assert len(rows[name]["dice_per_label"]) == 13
        assert f"{rows[name]['dice']:.3f}" in out


def test_the_pair_made_here_and_what_a_tool_is_given(run, tool, pair, monkeypatch):
    monkeypatch.setattr(peer_pairs, "phantom_pair", lambda seed: pair)
    monkeypatch.setattr(peers.torch, "get_num_threads", lambda: 3)
    seen = tool(FOUND)
    code, out, _ = run(*PEERS, "--preset", "paper")
    assert code == 0 and "phantom 1 and phantom 0" in flat(out)
    given = seen()
    assert given["threads"] == 3 and given["options"] == {"preset": "paper", "settings": {}}
    assert given["OMP_NUM_THREADS"] == given["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "3"
    assert pair.fixed.data.min() < CT_WINDOW[0] == given["range"][0]
    assert not peers.Path(given["TMPDIR"]).exists()
    before, after = (line.split()[-6:] for line in out.splitlines() if "0.338" in line)
    assert before == ["0.338", "21.56", "-", "-", "-", "-"]
    assert after == ["0.338", "21.56", "0.000", "0.0000", "1.50", "200"]


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("print('at work'); raise RuntimeError('no [memory] left')", "RuntimeError: no [memory]"),
        ("os._exit(3)", "it was killed, maybe for want of memory"),
        ("pass", "it was killed, maybe for want of memory"),
        (f"u[0, 1, 2, 3, 4] = np.nan; {FOUND}", "its displacement has NaN or infinite values"),
        ("import time; time.sleep(60)", "it took longer than 0.05 minutes"),
    ],
)
def test_a_tool_that_fails_leaves_the_rest(run, tool, monkeypatch, end, sentence):
    tool(end)
    monkeypatch.setattr(peers, "_LIMIT_S", 3)
    code, out, _ = run(*PEERS, *PAIR, *LABELS, "-o", "results.json")
    assert code == 0
    assert f"{BESIDE} failed: {sentence}" in flat(out)
    rows = strict_json("results.json")["peers"]["rows"]
    assert rows[BESIDE]["failed"].startswith(sentence) and rows["before"]["dice"] > 0


def test_sizes_are_measured_too_where_they_are_given(run, tool, monkeypatch):
    tool(FOUND)
    monkeypatch.setattr(command, "_WHOLE", {"kernels": "the layer"})
    monkeypatch.setattr(command, "_in_process", of_a_size)
    code, out, _ = run(*PEERS, "--sizes", "6x6x6", "-o", "results.json", *PAIR, *LABELS)
    assert code == 0
    assert out.index("6x6x6: one pair") < out.index("fixed.nii.gz and moving.nii.gz")
    results = strict_json("results.json")
    assert list(results["sizes"]) == ["6x6x6"] and BESIDE in results["peers"]["rows"]


def of_a_size(spec: dict) -> dict:
    if spec["what"] == "stages":
        return {"copy_gb_per_s": 1.0, "stages": []}
    return {"seconds": 1.0, "peak_mb": 1.0, "mean_voxels": 1.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PAIR, "--pair is for --peers, which is not given"),
        (["--window", "0", "1"], "--window is for --peers, which is not given"),
        (["--peers", *LABELS], "--fixed-labels needs --pair FIXED MOVING"),
        (["--peers", *PAIR], "give --fixed-labels, --moving-labels"),
        (["--peers", *PAIR, *LABELS[:2]], "both the fixed and the moving ones are needed"),
        (["--peers", *PAIR, *LABELS[:3], "none.nii"], "none.nii: there is no such file"),
        (["--peers", *PAIR[:2], "none.nii", *LABELS], "none.nii: there is no such file"),
        (["--peers", *PAIR[:2]], "--pair: expected 2 arguments"),
        (["--peers", *PAIR[:2], "far.nii", *LABELS], "far.nii does not lie on the grid of fixed"),
        (["--peers", *PAIR, *LABELS[:3], "far.nii"], "far.nii does not lie on the grid of moving"),
        (["--peers", "--pair", "skew.nii", "skew.nii", *LABELS], "not at right angles"),
        (["--peers", *PAIR, *LABELS, "--window", "5", "-5"], "from low to high, got 5 -5"),
        (["--peers", *PAIR, *LABELS, "--window", "6000", "8000"], "all voxels are equal within"),
        (["--peers", *PAIR, *LABELS, "-o", "fixed.nii.gz/a.json"], "fixed.nii.gz is a file"),
        (["--peers", *PAIR, *LABELS, "-o", "fixed.nii.gz"], "would be overwritten by a result"),
    ],
)
def test_bad_input(refused, options, expected):
    array = np.ones((40, 32, 36), np.int16)
    array[0] = 0
    far, skew = AFFINE.copy(), AFFINE.copy()
    far[0, 3], skew[0, 1] = 100.0, 2.0
    for name, affine in (("far", far), ("skew", skew)):
        image = Nifti1Image(array, None)
        image.set_sform(affine, code=1)
        image.to_filename(f"{name}.nii")
    assert expected in refused("benchmark", *options)


def test_the_peers_are_looked_for_by_the_modules_they_are_imported_by(pair, monkeypatch):
    asked = []
    assert peers._found("numpy") and not peers._found("a_module_that_nobody_has")
    monkeypatch.setattr(peers, "_found", asked.append)
    monkeypatch.setattr(peers, "_in_process", lambda *_: "not run")
    absent = peers.compare_tools(pair, None, lambda name: None)["not_installed"]
    assert asked == ["convexAdam", "ants", "SimpleITK", "picsl_greedy"]
    assert list(absent.values()) == ["convexadam", "antspyx", "SimpleITK", "picsl-greedy"]
