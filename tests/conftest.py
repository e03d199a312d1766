"""Shared fixtures: seeded tensors and a smooth random velocity."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from voxelopt_layers import native
from voxelopt_layers.displacement import resize

# Tests run in as many processes as there are cores, each of which is to keep to its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start
    torch.set_num_threads(1)

# What starts in the background of a script ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():  # before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"

# Properties are tried on the same few examples in every run; `--hypothesis-profile thorough` tries
# many, which differ from run to run.
_unhurried = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", max_examples=10, derandomize=True, database=None, **_unhurried)
settings.register_profile("thorough", max_examples=500, print_blob=True, **_unhurried)
settings.load_profile("quick")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def smooth_velocity():
    """Return a function that makes a smooth velocity ``(1, d, *shape)`` of given strength."""

    def make(shape: tuple[int, ...], strength: float = 1.5) -> Tensor:
        coarse = torch.randn(1, len(shape), *[max(3, n // 6) for n in shape], dtype=torch.float64)
        return strength * resize(coarse, shape)

    return make


@pytest.fixture
def triton_kernels(monkeypatch, request):
    """The kernels in Triton, in place of those in C++, by Triton's interpreter."""
    pytest.importorskip("triton")
    if torch.cuda.is_available() or not native.available():
        pytest.skip("the interpreter is for machines without a GPU, but with a C++ compiler")
    if torch.__version__ < "2.8":
        pytest.skip("PyTorch before 2.8 lets nobody put kernels in the place of others")
    from voxelopt_layers import gpu
    from voxelopt_layers.gpu import assignment, matching, message_passing, warping
    from voxelopt_layers.native.operators import on_gpu

    # The interpreter takes its time by the program, not by the voxel.
    for module in (matching, message_passing, assignment):
        shape = module.tile_shape
        monkeypatch.setattr(
            module, "tile_shape", lambda n, _=0, shape=shape: {**shape(n), "BLOCK": 2048}
        )
    monkeypatch.setattr(warping, "_BLOCK", 2048)
    library = torch.library.Library("voxelopt", "IMPL", "CPU")
    for name in gpu.__all__:
        library.impl(name, on_gpu(name))  # as they are called there
    request.addfinalizer(library._destroy)


@pytest.fixture(params=["C++", "Triton"])
def kernels(request):
    """Both kinds of kernels on CPU."""
    if request.param == "Triton":
        request.getfixturevalue("triton_kernels")
    elif not native.available():
        pytest.skip("no C++ compiler here")
