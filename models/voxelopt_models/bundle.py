"""The network of a MONAI bundle folder, with its weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from pydoc import locate
from typing import Any

from torch import nn

from voxelopt_models.monai_networks import ALWAYS_FETCHES, FETCHED
from voxelopt_models.weights import load_weights

_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")


def bundle_network(folder: str | Path) -> nn.Module:
    """The network of a MONAI bundle, as one of abdominal organs, with the weights it came with.

    Made from ``network_def`` of ``configs/inference.json`` (or ``.yaml``) and loaded with
    ``models/model.pt``. A bundle is data here: ``network_def`` and what it refers to may name
    modules of MONAI and PyTorch, and their arguments. MONAI would call whatever is named, and
    evaluate expressions (``$...``); where ``network_def`` needs that, it is refused.

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
        _keep_to_modules(parser, "network_def")
        network = parser.get_parsed_content("network_def")
    except Exception as error:  # the configuration may raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"network_def of {path} cannot be used: {reason}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network_def of {path} is no network but a {type(network).__name__}")
    load_weights(network, folder / "models" / "model.pt")
    return network


def _keep_to_modules(parser: Any, name: str) -> None:
    """Raise ValueError where an item of a configuration, or what it refers to, is more than data.

    Pretrained weights, of which the bundle's own take the place, are not asked for.
    """
    from monai.bundle.config_item import ConfigComponent, ConfigExpression
    from monai.bundle.reference_resolver import ReferenceResolver

    parser.parse()
    fetched: list[str] = []
    names = [name]
    for item_name in names:  # which grows meanwhile
        item: Any = parser.ref_resolver.get_item(item_name)
        if isinstance(item, ConfigExpression):
            raise ValueError(f"{item_name} is an expression, which is not evaluated")
        if isinstance(item, ConfigComponent):
            accepted = inspect.signature(_module(item.resolve_module_name())).parameters
            fetched += [f"{item_name}::{key}" for key in FETCHED if key in accepted]
        if item is not None:
            references = ReferenceResolver.find_refs_in_config(item.get_config(), item_name)
            names += [reference for reference in references if reference not in names]
    for key in fetched:
        parser[key] = FETCHED[key.rpartition("::")[2]]


def _module(name: Any) -> type[nn.Module]:
    """A class of modules by its full name; ValueError where it is another thing."""
    known = isinstance(name, str) and name.startswith(("monai.networks.", "torch.nn."))
    module = locate(name) if known else None
    if not (inspect.isclass(module) and issubclass(module, nn.Module)):
        raise ValueError(f"{name} is no network of MONAI and no module of torch.nn")
    if module.__name__ == ALWAYS_FETCHES:
        raise ValueError(f"{name} fetches weights from the internet whatever it is told")
    return module
