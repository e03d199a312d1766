"""Checkpoints: where the weights are found, what is refused, and that of the released U-Net."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voxelopt_models import (
    FeatureEncoder,
    RegistrationNet,
    ReleasedUNet,
    WeightsError,
    load_weights,
)


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 3, 1))


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.network.", "net.module."])
@pytest.mark.parametrize("container", [None, "state_dict", "net", "model", "network"])
def test_weights_are_found_where_they_are(tmp_path, prefix, container):
    source, target = small_network(), small_network()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    if prefix:
        state["loss.weight"] = torch.ones(3)
    content = state if container is None else {"epoch": 3, container: state, "optimizer": {}}
    torch.save(content, tmp_path / "weights.pt")
    load_weights(target, tmp_path / "weights.pt")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_a_lightning_checkpoint_starts_an_encoder(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = RegistrationNet(FeatureEncoder(small_network()))

    module = Module()
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    encoder = FeatureEncoder(small_network(), weights=tmp_path / "last.ckpt", trainable=False)
    expected = module.net.encoder.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in encoder.state_dict().items())


def bad_states() -> dict[str, tuple[dict, str]]:
    good = small_network().state_dict()
    lacking = {k: v for k, v in good.items() if not k.startswith("1.")}
    other = {**good, "0.weight": torch.zeros(4, 2, 3, 3, 3)}
    return {
        "lacking": (
            lacking,
            r"lacks 5 of the network's 9 keys: 1\.weight, 1\.bias, 1\.running_mean and 2 more",
        ),
        "foreign": ({"a": torch.zeros(1)}, r"lacks 9 of the network's 9 keys: 0\.weight"),
        "other": (other, r"0\.weight is \(4, 2, 3, 3, 3\) instead of \(4, 1, 3, 3, 3\)"),
        "more": ({**good, "3.weight": torch.zeros(1)}, r"keys that the network has not: 3\.weight"),
        "empty": ({"net": {"epoch": 3}}, "holds no weights"),
        "unnamed": ({0: torch.zeros(1)}, "holds no weights"),
    }


@pytest.mark.parametrize("case", bad_states())
def test_weights_that_do_not_fit_are_named_and_change_nothing(tmp_path, case):
    content, message = bad_states()[case]
    torch.save(content, tmp_path / "bad.pt")
    network = small_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"bad\.pt .*{message}"):
        load_weights(network, tmp_path / "bad.pt")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_what_is_no_checkpoint_is_refused(tmp_path):
    network = small_network()
    with pytest.raises(WeightsError, match=r"there is no weights file .*missing\.pt"):
        load_weights(network, tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save(network, tmp_path / "pickled.pt")  # needs code: weights_only refuses it
    for name in ("text.pt", "pickled.pt"):
        with pytest.raises(WeightsError, match=f"{name} cannot be read as a checkpoint"):
            load_weights(network, tmp_path / name)


def released_checkpoint() -> dict[str, torch.Tensor]:
    """Keys and shapes from what is known of the file, not from our network."""
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, i: int, o: int) -> None:
        state[f"{name}.conv1.weight"] = torch.randn(o, i, 3, 3, 3) / (27 * i) ** 0.5
        state[f"{name}.conv1.bias"] = torch.randn(o)
        state[f"{name}.bn1.weight"] = torch.rand(o) + 0.5
        state[f"{name}.bn1.bias"] = torch.randn(o)
        state[f"{name}.bn1.running_mean"] = 100 * torch.randn(o)
        state[f"{name}.bn1.running_var"] = 100 * torch.rand(o)
        state[f"{name}.bn1.num_batches_tracked"] = torch.tensor(7)

    for name, i, middle, o in (
        ("down_tr64", 1, 32, 64),
        ("down_tr128", 64, 64, 128),
        ("down_tr256", 128, 128, 256),
        ("down_tr512", 256, 256, 512),
        ("up_tr256", 512 + 256, 256, 256),
        ("up_tr128", 256 + 128, 128, 128),
        ("up_tr64", 128 + 64, 64, 64),
    ):
        convolution(f"module.backbone.{name}.ops.0", i, middle)
        convolution(f"module.backbone.{name}.ops.1", middle, o)
    for name, n in (("up_tr256", 512), ("up_tr128", 256), ("up_tr64", 128)):
        state[f"module.backbone.{name}.up_conv.weight"] = torch.randn(n, n, 2, 2, 2) / n**0.5
        state[f"module.backbone.{name}.up_conv.bias"] = torch.randn(n)
    state["module.precls_conv.0.weight"] = torch.rand(64) + 0.5
    state["module.precls_conv.0.bias"] = torch.randn(64)
    state["module.precls_conv.2.weight"] = torch.randn(8, 64, 1, 1, 1)
    state["module.precls_conv.2.bias"] = torch.randn(8)
    return state


def test_the_released_unet_loads_its_checkpoint_and_uses_all_of_it(tmp_path):
    state = released_checkpoint()
    torch.save({"net": state, "epoch": 1}, tmp_path / "unet.pth")
    network = ReleasedUNet()
    load_weights(network, tmp_path / "unet.pth")

    def assert_state_is_the_files() -> None:
        assert {f"module.{key}" for key in network.state_dict()} == set(state)
        assert all(torch.equal(v, state[f"module.{k}"]) for k, v in network.state_dict().items())

    assert_state_is_the_files()
    image = torch.rand(1, 1, 16, 16, 24)
    maps = network(image)
    assert maps.shape == (1, 8, 16, 16, 24)
    maps.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # Batch norm takes the mean away, and with it the bias before it.
        assert name.endswith("conv1.bias") or parameter.grad.norm() > 1e-6, name
    # In evaluation too, statistics are those of the input; those of the file stand still.
    torch.testing.assert_close(network.eval()(image), maps)
    assert_state_is_the_files()
