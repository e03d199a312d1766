"""The network of a MONAI bundle folder, with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from voxelopt_models.weights import load_weights

_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")


def bundle_network(folder: str | Path) -> nn.Module:
    """The network of a MONAI bundle, as one of abdominal organs, with the weights it came with.

    Made from ``network_def`` of ``configs/inference.json`` (or ``.yaml``) and loaded with
    ``models/model.pt``. Of the configuration, ``network_def`` and what it refers to is run, which
    is code of the bundle's authors; nothing else.

    Args:
        folder: the bundle, with ``configs`` and ``models`` inside.

    Raises:
        ValueError: the folder is no bundle, or its network cannot be made.
        WeightsError: the weights are missing or do not fit.
    """
    from monai.bundle.config_parser import ConfigParser

    folder = Path(folder)
    path = next((p for p in (folder / "configs" / n for n in _CONFIGS) if p.is_file()), None)
    if path is None:
        raise ValueError(f"{folder} is no MONAI bundle: it has no configs/{_CONFIGS[0]} or .yaml")
    try:
        parser: Any = ConfigParser()  # whose types are unknown in part
        parser.read_config(path)
        network = parser.get_parsed_content("network_def")
    except Exception as error:  # the configuration may raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"network_def of {path} cannot be used: {reason}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network_def of {path} is no network but a {type(network).__name__}")
    load_weights(network, folder / "models" / "model.pt")
    return network
