"""The library of kernels: compiled once, kept whole, done without where it cannot be had."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kernels import needs_kernels
from voxelopt_layers.native import build, libraries


@pytest.mark.parametrize("how", ["none", "broken"])
def test_without_a_compiler_the_layer_runs_in_pytorch(how, tmp_path):
    (tmp_path / "bin").mkdir()
    if how == "broken":
        compiler = tmp_path / "bin" / "c++"
        compiler.write_text("#!/bin/sh\nexit 1\n")
        compiler.chmod(0o755)
    code = (
        "import torch; from voxelopt_layers import VoxelOptLayer, native; "
        "f = torch.rand(1, 2, 9, 9); print(native.available(), VoxelOptLayer()(f, f).shape)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "CXX"}
    environment |= {"PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path)}
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.startswith("False torch.Size([1, 2, 9, 9])")
    assert not out.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A library, compiled here and now."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        assert build.load() is not None
    (library,) = (cache / "voxelopt-layers").iterdir()
    return library.read_bytes()


@pytest.fixture
def cache(whole, tmp_path, monkeypatch) -> Path:
    """An empty cache, and in the compiler's place that library, which takes no time."""

    def compile_kernels(_compiler, target, _kept):
        target.write_bytes(whole)
        with (tmp_path / "compiled").open("a") as file:
            print(target, file=file)

    monkeypatch.setattr(build, "compile_kernels", compile_kernels)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "voxelopt-layers"


def compiled(tmp_path: Path) -> int:
    """How often."""
    return len((tmp_path / "compiled").read_text().splitlines())


@needs_kernels
def test_the_library_is_compiled_once_and_kept(cache, tmp_path):
    for _ in range(3):
        assert build.load() is not None
    assert len(list(cache.iterdir())) == compiled(tmp_path) == 1


@needs_kernels
@pytest.mark.parametrize("size", [0, 100, 4096, 50_000])
def test_a_damaged_library_is_compiled_again(size, cache, whole, tmp_path):
    assert build.load() is not None
    (library,) = cache.iterdir()
    library.unlink()  # not cut off while it is loaded
    library.write_bytes(whole[:size])
    assert build.load() is not None
    assert library.read_bytes() == whole and compiled(tmp_path) == 2


@needs_kernels
def test_the_next_compiler_is_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false --and 'more'")
    assert build.compilers()[0] == ["false", "--and", "more"]
    assert build.load() is not None


@needs_kernels
def test_without_a_home_folder_the_library_is_not_kept(cache, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("no home folder")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(build.Path, "home", no_home)
    assert build.load() is not None
    assert not cache.exists() and compiled(tmp_path) == 1


def test_the_first_use_may_come_from_many_threads(monkeypatch):
    monkeypatch.setattr(build, "load", lambda _: "the library")
    for _ in range(50):
        one_build = build.Build()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _, b=one_build: b.library(), range(8)))
        assert found == ["the library"] * 8


@needs_kernels
def test_a_cache_that_others_write_to_is_not_used(cache, tmp_path):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    assert build.load() is not None
    assert not list(cache.iterdir()) and compiled(tmp_path) == 1


def test_a_failure_to_compile_is_logged(monkeypatch, caplog):
    def fail(_):
        raise OSError("no such header")

    monkeypatch.setattr(build, "load", fail)
    with caplog.at_level(logging.INFO, "voxelopt_layers"):
        assert build.Build().library() is None
    assert "no such header" in caplog.text


def test_memory_of_another_device_is_left_alone(monkeypatch):
    """A GPU's needs neither huge pages nor the library that asks for them."""
    monkeypatch.setattr(libraries, "LIBRARIES", {})
    elsewhere = torch.empty(3, device="meta")
    assert libraries.fresh(elsewhere) is elsewhere
