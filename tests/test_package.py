"""What is installed, and who imports whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "voxelopt_layers": ROOT / "voxelopt_layers",
    "voxelopt_models": ROOT / "models" / "voxelopt_models",
    "voxelopt_train": ROOT / "train" / "voxelopt_train",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel):
    names = ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    sources = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*.[pch]*")
        if path.suffix in (".py", ".cpp", ".hpp")
    }
    assert any(source.endswith(".cpp") for source in sources)
    assert sources <= set(names)
    report = PACKAGES["voxelopt_train"] / "html_report" / "assets"
    assets = {f"voxelopt_train/html_report/assets/{path.name}" for path in report.iterdir()}
    assert len(assets) == 10 and assets <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    configs = {f"voxelopt_train/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    assert configs and configs <= set(names)


def test_the_installed_wheel_works_and_finds_its_configs(wheel, tmp_path):
    target = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        target,
        wheel,
    ]
    subprocess.run(pip, check=True)
    code = (
        "import voxelopt_layers, voxelopt_models, voxelopt_train.configs as c; "
        "print(voxelopt_layers.__file__, c.find_config('ct'), *c.config_names())"
    )
    # -I leaves out the checkout; the wheel comes before an editable install of it.
    run = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {code}"]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    layers, config, *names = out.split()
    assert Path(layers).is_relative_to(target)
    assert Path(config).is_relative_to(target)
    assert names == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def test_importing_the_layer_imports_torch_alone():
    code = (
        "import sys, torch; before = set(sys.modules); import voxelopt_layers; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    third_party = set(out.stdout.split()) - set(sys.stdlib_module_names)
    # (torch.library brings sympy, and that mpmath, in PyTorch before 2.7.)
    assert third_party <= {"voxelopt_layers", "torch", "sympy", "mpmath"}


def test_imports_point_downwards_only():
    allowed = {
        "voxelopt_layers": set(),
        "voxelopt_models": {"voxelopt_layers"},
        "voxelopt_train": {"voxelopt_layers", "voxelopt_models"},
    }
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            imported = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                if isinstance(node, ast.ImportFrom):
                    imported.add((node.module or "").split(".")[0])
            assert imported & set(PACKAGES) <= {package} | allowed[package], path
