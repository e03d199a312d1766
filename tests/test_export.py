"""`torch.export`: programs that give the field of the layer, saved, loaded, here and elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram

from kernels import needs_kernels
from textures import texture
from voxelopt_layers import (
    VoxelOptLayer,
    assignment,
    channelwise_cost,
    message_passing,
    native,
)
from voxelopt_models import MINDSSC, RegistrationNet, monai_network

SMALL = {"levels": 2, "warps_per_level": 1, "theta": (50.0, 5.0), "integration_steps": 2}
SHAPES = [(12, 10, 14), (20, 18)]
pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.9", reason="the graphs of older PyTorch do not hold the layer"
)


def images(shape: tuple[int, ...], channels: int = 1, batch: int = 1) -> tuple[Tensor, Tensor]:
    return texture(shape, channels, batch), texture(shape, channels, batch)


def operators(program: ExportedProgram) -> set[str]:
    return {
        str(node.target)
        for module in program.graph_module.modules()
        for node in getattr(getattr(module, "graph", None), "nodes", ())
    }


def saved_and_loaded(net: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> ExportedProgram:
    torch.export.save(torch.export.export(net.eval(), inputs), path)
    return torch.export.load(path)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "layer",
    [
        VoxelOptLayer(**SMALL),
        VoxelOptLayer(**SMALL, assignment="hard", learnable=True, gradient="checkpointed"),
        VoxelOptLayer.from_preset("intensity", levels=2, refinements=1, theta=(50.0, 5.0)),
        VoxelOptLayer.from_preset("released", levels=2, integration_steps=2),
    ],
    ids=["soft", "hard", "intensity", "released"],
)
def test_a_program_gives_the_field_of_the_layer(layer, shape, tmp_path):
    program = saved_and_loaded(layer, images(shape, 2), tmp_path / "layer.pt2")
    others = images(shape, 2)
    u = program.module()(*others)
    assert u.abs().max() > 0.1
    torch.testing.assert_close(u, layer(*others), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("encoder", ["MIND", "UNet"])
def test_a_network_with_its_encoder(encoder, shape, tmp_path):
    d = len(shape)
    unet = {
        "spatial_dims": d, "in_channels": 1, "out_channels": 4, "channels": (4, 8), "strides": (2,)
    }  # fmt: skip
    normalise = (nn.InstanceNorm2d if d == 2 else nn.InstanceNorm3d)(4)
    learned = nn.Sequential(monai_network("UNet", unet), normalise)
    net = RegistrationNet(MINDSSC() if encoder == "MIND" else learned, VoxelOptLayer(**SMALL))
    program = saved_and_loaded(net, images(shape), tmp_path / "net.pt2")
    others = images(shape)
    u = program.module()(*others)
    torch.testing.assert_close(u, net(*others), atol=1e-4, rtol=1e-4)
    assert not u.requires_grad  # a program is for inference, whatever is learned in its network


def test_the_batch_may_vary_and_the_grid_may_not():
    layer = VoxelOptLayer(**SMALL)
    pair = images((12, 10, 14), 2, batch=2)
    batch = {0: Dim("batch", min=1, max=16)}
    program = torch.export.export(layer, pair, dynamic_shapes=(batch, batch))
    others = images((12, 10, 14), 2, batch=3)
    torch.testing.assert_close(program.module()(*others), layer(*others), atol=1e-4, rtol=1e-4)
    with pytest.raises(AssertionError, match=r"size\(\)\[2\] == 12"):
        program.module()(*images((14, 10, 14), 2))
    depth = {2: Dim("depth", min=8, max=64)}
    with pytest.raises(UserError, match="depth"):
        torch.export.export(layer, pair, dynamic_shapes=(depth, depth))


# In a process that knows nothing of this package (-I leaves out PYTHONPATH).
ELSEWHERE = """
import sys, torch
program, tensors = sys.argv[1:]
fixed, moving, expected = torch.load(tensors)
u = torch.export.load(program).module()(fixed, moving)
torch.testing.assert_close(u, expected, atol=1e-4, rtol=1e-4)
assert not any(name.startswith("voxelopt") for name in sys.modules)
"""


def run_elsewhere(program: Path, tensors: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-W", "ignore", "-c", ELSEWHERE, str(program), str(tensors)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_kernels_a_program_needs_torch_alone(tmp_path):
    layer, pair = VoxelOptLayer(**SMALL), images((20, 18), 2)
    with native.set_aside():
        program = saved_and_loaded(layer, pair, tmp_path / "portable.pt2")
    assert not any("voxelopt" in name for name in operators(program))
    torch.save((*pair, layer(*pair)), tmp_path / "tensors.pt")
    done = run_elsewhere(tmp_path / "portable.pt2", tmp_path / "tensors.pt")
    assert done.returncode == 0, done.stderr


def test_without_kernels_the_graph_does_not_grow_with_the_volume(monkeypatch):
    layer, counts = VoxelOptLayer(**{**SMALL, "levels": 1}), []
    with native.set_aside():
        for _ in range(2):
            program = torch.export.export(layer, images((9, 10)))
            modules = program.graph_module.modules()
            graphs = [m.graph for m in modules if isinstance(m, torch.fx.GraphModule)]
            counts.append(sum(len(graph.nodes) for graph in graphs))
            # As large volumes are: in many blocks.
            monkeypatch.setattr(channelwise_cost, "_BLOCK", 20)
            for module in (assignment, message_passing):
                monkeypatch.setattr(module, "_BLOCK", {"cpu": 20})
    assert counts[0] == counts[1]


@needs_kernels
def test_with_kernels_a_program_wants_this_package_and_a_compiler(tmp_path, monkeypatch):
    layer, pair = VoxelOptLayer(**SMALL), images((20, 18), 2)
    program = saved_and_loaded(layer, pair, tmp_path / "fast.pt2")
    assert any("voxelopt" in name for name in operators(program))
    torch.save((*pair, layer(*pair)), tmp_path / "tensors.pt")
    done = run_elsewhere(tmp_path / "fast.pt2", tmp_path / "tensors.pt")
    assert done.returncode != 0
    assert "voxelopt" in done.stderr
    for build in native.LIBRARIES.values():
        monkeypatch.setattr(build, "library", lambda: None)
    with pytest.raises(RuntimeError, match=r"cannot be compiled here.*set_aside\(\)"):
        program.module()(*pair)


def test_onnx_runtime_gives_the_field_of_the_layer():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    layer = VoxelOptLayer(**{**SMALL, "levels": 1}, assignment="hard").eval()
    pair = images((9, 10), 2)
    with native.set_aside():
        program = torch.onnx.export(layer, pair, dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    others = images((9, 10), 2)
    given = {i.name: x.numpy() for i, x in zip(session.get_inputs(), others, strict=True)}
    u = torch.from_numpy(session.run(None, given)[0])
    assert u.abs().max() > 0.1
    torch.testing.assert_close(u, layer(*others), atol=1e-4, rtol=1e-4)
