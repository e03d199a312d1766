"""Load a checkpoint into a network, wherever in the file the network's weights are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

# Under these keys checkpoints keep the weights beside other things, as the optimiser's state.
_CONTAINERS = ("state_dict", "net", "network", "model", "network_weights")


class WeightsError(ValueError):
    """A file whose weights cannot be used, said in one sentence."""


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load weights from a file into a network, all of them or none.

    The file may hold a state dict, a dict with one under ``"state_dict"``, ``"net"``,
    ``"network"``, ``"model"`` or ``"network_weights"``, or the checkpoint of a larger module, such
    as a Lightning module or `torch.nn.DataParallel`, that holds the network under a prefix: the
    prefix under which the most of the network's keys are found. It is read with
    ``weights_only=True``, which runs no code of the file.

    Args:
        network: changed in place.
        path: file written by `torch.save`.

    Raises:
        WeightsError: the file is missing, is no checkpoint, or does not fit the network; which
            keys it lacks. The network is then as it was.
    """
    own: dict[str, Tensor] = network.state_dict()
    state = read_state(path)
    prefix = _find_prefix(own, state)
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if missing := [key for key in own if key not in state]:
        raise WeightsError(
            f"{path} lacks {len(missing)} of the network's {len(own)} keys: {_some(missing)}"
        )
    if unknown := [key for key in state if key not in own]:
        raise WeightsError(f"{path} has keys that the network has not: {_some(unknown)}")
    if misfits := [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if state[key].shape != own[key].shape
    ]:
        raise WeightsError(f"{path} has weights of another shape: {_some(misfits)}")
    network.load_state_dict(state)


def read_checkpoint(path: str | Path) -> Any:
    """What a file of `torch.save` holds, on the CPU; no code of the file is run.

    Raises:
        WeightsError: the file is missing or damaged, or holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise WeightsError(f"there is no weights file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is no pickle may raise anything
        raise WeightsError(
            f"{path} cannot be read as a checkpoint of tensors (torch.load, weights_only=True)"
        ) from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The dict of tensors in a file, without the containers around it.

    Raises:
        WeightsError: as of `read_checkpoint`, or there is no such dict.
    """
    content = read_checkpoint(path)
    while isinstance(content, dict):
        entries = cast(dict[object, object], content)
        inner = [entries[key] for key in _CONTAINERS if isinstance(entries.get(key), dict)]
        if not inner:
            state = {
                key: value
                for key, value in entries.items()
                if isinstance(key, str) and isinstance(value, Tensor)
            }
            if state:
                return state
            break
        content = inner[0]
    raise WeightsError(f"{path} holds no weights: expected a dict of tensors")


def _find_prefix(own: Iterable[str], state: Iterable[str]) -> str:
    """What stands before the network's keys in the file."""
    own = set(own)
    hits: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for n in range(len(parts)):
            if ".".join(parts[n:]) in own:
                hits[key.removesuffix(".".join(parts[n:]))] += 1
    return max(hits, key=lambda prefix: (hits[prefix], -len(prefix)), default="")


def _some(names: Iterable[str]) -> str:
    """Up to three of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
