"""MONAI's networks and bundles as encoders, in Python and in YAML."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from tiny_training import UNET
from voxelopt_models import (
    MINDSSC,
    FeatureEncoder,
    FeatureStack,
    ReleasedUNet,
    WeightsError,
    bundle_network,
    monai_network,
)


def test_importing_the_models_imports_no_monai():
    code = "import sys, voxelopt_models; print('monai' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UNet", {"channels": [4, 8], "strides": [2]}),
        ("SegResNet", {"init_filters": 8}),
        ("SegResNetDS", {"init_filters": 8, "dsdepth": 2}),
        (
            "DynUNet",
            {
                "kernel_size": [3, 3, 3, 3],
                "strides": [1, 2, 2, 2],
                "upsample_kernel_size": [2, 2, 2],
                "filters": [4, 8, 8, 8],
                "deep_supervision": True,
                "deep_supr_num": 2,
            },
        ),
        ("BasicUNetPlusPlus", {"features": [4] * 6, "deep_supervision": True}),
        ("RegUNet", {"num_channel_initial": 4, "depth": 2, "out_activation": "sigmoid"}),
        ("HighResNet", {}),  # ends with normalisation and ReLU
    ],
)
def test_monai_networks_give_maps_before_any_activation(name, arguments):
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 5, **arguments}
    encoder = FeatureEncoder(monai_network(name, arguments))
    for training in (True, False):
        maps = encoder.train(training)(torch.randn(1, 1, 32, 32, 32))
        assert maps.shape == (1, 5, 32, 32, 32)
        # Neither cut off at 0 nor normalised.
        assert maps.min() < 0 < maps.max()
        assert maps.sum(1).std() > 1e-3


def test_swin_unetr_with_padding():
    pytest.importorskip("einops")
    arguments = {
        "in_channels": 1,
        "out_channels": 5,
        "feature_size": 12,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
    }
    network = monai_network("SwinUNETR", arguments)
    maps = FeatureEncoder(network, trainable=False, divisor=32)(torch.randn(1, 1, 40, 30, 32))
    assert maps.shape == (1, 5, 40, 30, 32)
    assert maps.min() < 0 < maps.max()


def test_unknown_monai_networks_have_near_matches():
    with pytest.raises(ValueError, match=r"no network 'unet'; did you mean UNet"):
        monai_network("unet")
    with pytest.raises(ValueError, match=r"did you mean .*SegResNet"):
        monai_network("SegRezNet")
    with pytest.raises(ValueError, match=r"no network 'xyzzyx'$"):
        monai_network("xyzzyx")


def make_bundle(folder, definition):
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    config = {
        "spatial_dims": 3,
        "network_def": definition,
        "handlers": f"$open({str(folder / 'evaluated')!r}, 'w')",
        "broken": "$1 / 0",
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))


def test_a_bundle_gives_its_network_and_nothing_else_of_it_runs(tmp_path):
    arguments = {**UNET, "spatial_dims": "@spatial_dims"}
    make_bundle(tmp_path, {"_target_": "monai.networks.nets.UNet", **arguments})
    with pytest.raises(WeightsError, match=r"there is no weights file .*model\.pt"):
        bundle_network(tmp_path)
    source = monai_network("UNet", UNET)
    torch.save(source.state_dict(), tmp_path / "models" / "model.pt")
    network = bundle_network(tmp_path)
    image = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(network.eval()(image), source.eval()(image))
    assert not (tmp_path / "evaluated").exists()


def opening(file):
    """An item that would make the file, were it called as MONAI does."""
    return {"_target_": "builtins.open", "file": str(file), "mode": "w"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"norm": "$open(FILE, 'w')"}, "network_def::norm is an expression"),
        ({"channels": ["$open(FILE, 'w')", 16]}, "network_def::channels::0 is an expression"),
        ({"norm": "@handlers"}, "handlers is an expression"),
        ({"_requires_": "$open(FILE, 'w')"}, "network_def::_requires_ is an expression"),
        ({"act": opening("FILE")}, "builtins.open is no network of MONAI and no module"),
        ({"act": "@elsewhere"}, "builtins.open is no network of MONAI and no module"),
        (opening("FILE"), "builtins.open is no network of MONAI and no module"),
        ({"_target_": "torch.hub.load"}, "torch.hub.load is no network of MONAI and no module"),
        ({"_target_": "Transchex"}, "monai.networks.nets.transchex.Transchex fetches"),
        ({"_target_": "torch.nn.init.ones_"}, "torch.nn.init.ones_ is no network of MONAI"),
    ],
)
def test_of_a_bundle_no_code_is_run(tmp_path, changes, expected):
    definition = {"_target_": "monai.networks.nets.UNet", **UNET, **changes}
    make_bundle(tmp_path, definition)
    path = tmp_path / "configs" / "inference.json"
    text = path.read_text().replace("FILE", "evaluated")
    config = {**json.loads(text), "elsewhere": opening(tmp_path / "evaluated")}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"network_def of .* cannot be used: {expected}"):
        bundle_network(tmp_path)
    assert not (tmp_path / "evaluated").exists() and not Path("evaluated").exists()


def test_no_network_fetches_its_weights(tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("this asks the internet")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    monkeypatch.setattr("monai.networks.nets.efficientnet._load_state_dict", fetch)
    monkeypatch.setattr("monai.networks.nets.densenet._load_state_dict", fetch)
    with pytest.raises(ValueError, match=r"would fetch its weights from the internet \(pretrained"):
        monai_network("DenseNet121", {"pretrained": True})
    with pytest.raises(ValueError, match="Transchex fetches weights from the internet"):
        monai_network("Transchex")
    arguments = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}
    source = monai_network("DenseNet121", arguments)
    # What MONAI itself fetches unless told otherwise.
    monai_network("EfficientNetBN", {"model_name": "efficientnet-b0"})
    make_bundle(tmp_path, {"_target_": "DenseNet121", **arguments, "pretrained": True})
    torch.save(source.state_dict(), tmp_path / "models" / "model.pt")
    assert type(bundle_network(tmp_path)) is type(source)


def test_a_folder_that_is_no_bundle_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is no MONAI bundle: it has no configs/inference\.json"):
        bundle_network(tmp_path)
    make_bundle(tmp_path, {"_target_": "monai.networks.nets.UNet", "spatial_dims": 3})
    with pytest.raises(ValueError, match=r"network_def of .*inference\.json cannot be used"):
        bundle_network(tmp_path)
    (tmp_path / "configs" / "inference.json").write_text('{"network_def": 3}')
    with pytest.raises(ValueError, match="is no network but a int"):
        bundle_network(tmp_path)
    (tmp_path / "configs" / "inference.json").write_text("{}")
    with pytest.raises(ValueError, match=r"network_def of .* cannot be used"):
        bundle_network(tmp_path)


def test_encoders_are_made_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=nn.Module)
    config = """
    encoder:
      class_path: voxelopt_models.FeatureStack
      init_args:
        encoders:
          - class_path: voxelopt_models.FeatureEncoder
            init_args:
              network:
                class_path: voxelopt_models.monai_network
                init_args:
                  name: UNet
                  arguments:
                    {spatial_dims: 3, in_channels: 1, out_channels: 5, channels: [8, 16],
                     strides: [2]}
              trainable: false
              normalisation: softmax
              scale: 2
          - class_path: voxelopt_models.FeatureEncoder
            init_args: {network: {class_path: voxelopt_models.ReleasedUNet}, divisor: 8}
          - class_path: voxelopt_models.MINDSSC
    """
    stack = parser.instantiate(parser.parse_string(config))["encoder"]
    assert isinstance(stack, FeatureStack)
    softmax, released, mind = stack.encoders
    assert isinstance(softmax, FeatureEncoder) and not softmax.trainable
    assert isinstance(released, FeatureEncoder) and isinstance(released.network, ReleasedUNet)
    assert isinstance(mind, MINDSSC)
    features = softmax(torch.randn(1, 1, 8, 8, 8))
    torch.testing.assert_close(features.sum(1), torch.full((1, 8, 8, 8), 2.0))


@pytest.mark.parametrize(
    "network",
    [
        {"class_path": "voxelopt_models.bundle_network", "init_args": {"folder": "FOLDER"}},
        {
            "class_path": "torch.nn.Conv3d",
            "init_args": {"in_channels": 1, "out_channels": 5, "kernel_size": 1},
        },
    ],
)
def test_any_module_may_be_the_network_of_a_configured_encoder(tmp_path, network):
    make_bundle(tmp_path, {"_target_": "monai.networks.nets.UNet", **UNET})
    torch.save(monai_network("UNet", UNET).state_dict(), tmp_path / "models" / "model.pt")
    text = json.dumps(network).replace("FOLDER", str(tmp_path))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FeatureEncoder, "encoder")
    parsed = parser.parse_string(f"encoder: {{network: {text}, trainable: false}}")
    encoder = parser.instantiate(parsed)["encoder"]
    assert encoder(torch.randn(1, 1, 8, 8, 8)).shape == (1, 5, 8, 8, 8)


def test_arguments_that_a_network_does_not_take():
    with pytest.raises(ValueError, match=r"UNet cannot be made of these arguments: .*out_channels"):
        monai_network("UNet", {key: UNET[key] for key in UNET if key != "out_channels"})
