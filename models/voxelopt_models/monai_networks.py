"""MONAI's networks by name, without their last activation."""

from __future__ import annotations

import difflib
import inspect
from types import ModuleType
from typing import Any

from torch import nn

# What constructors call the activation behind the last convolution, and the value for none.
_LAST_ACTIVATION = {
    "last_act": None,
    "out_activation": None,
    "output_act": None,
    "use_sigmoid": False,
}
ALWAYS_FETCHES = "Transchex"  # the weights of a language model
# Arguments by which networks fetch weights from the internet, and their values for none.
FETCHED: dict[str, Any] = {"pretrained": False, "pretrained_url": None}


def monai_network(name: str, arguments: dict[str, Any] | None = None) -> nn.Module:
    """A network of `monai.networks.nets`, its last activation left off: pre-softmax maps.

    Its weights are random: nothing is fetched, see `load_weights`.

    Args:
        name: the class, as ``"UNet"``, ``"SegResNet"``, ``"SwinUNETR"`` or ``"DynUNet"``.
        arguments: keywords of its constructor.

    Raises:
        ValueError: MONAI has no network of this name, which ones have names like it; or it does not
            take these arguments, or would fetch its weights.
    """
    # On the first use alone: importing MONAI takes seconds.
    from monai.networks import nets

    cls = getattr(nets, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise ValueError(f"MONAI has no network {name!r}{_near(name, nets)}")
    if name == ALWAYS_FETCHES:
        raise ValueError(f"MONAI's {name} fetches weights from the internet whatever it is told")
    for key in FETCHED:
        if arguments and arguments.get(key):
            raise ValueError(
                f"MONAI's {name} would fetch its weights from the internet ({key}): give an "
                "encoder the file, as its weights"
            )
    accepted = inspect.signature(cls).parameters
    left_out = {**_LAST_ACTIVATION, **FETCHED}
    without = {key: value for key, value in left_out.items() if key in accepted}
    try:
        network = cls(**{**(arguments or {}), **without})
    except TypeError as error:
        raise ValueError(
            f"MONAI's {name} cannot be made of these arguments: {error} (arguments in a YAML file "
            "take the place of all in the files before it)"
        ) from error
    _remove_last_activation(network)
    return network


def _near(name: str, nets: ModuleType) -> str:
    classes = [c for c in vars(nets).values() if inspect.isclass(c) and issubclass(c, nn.Module)]
    names = {c.__name__.lower(): c.__name__ for c in classes}
    near = [names[match] for match in difflib.get_close_matches(name.lower(), names)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _remove_last_activation(network: nn.Module) -> None:
    """Of a chain of modules, as HighResNet is, that ends with normalisation and activation."""
    from monai.networks.blocks.acti_norm import ADN

    last = network
    while not isinstance(last, ADN):
        children = list(last.children())
        # What several children are called in is known of a Sequential alone.
        if not children or (len(children) > 1 and not isinstance(last, nn.Sequential)):
            return
        last = children[-1]
    if hasattr(last, "A"):
        last.A = nn.Identity()
