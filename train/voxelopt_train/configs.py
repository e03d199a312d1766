"""The YAML files of settings that come with the package, found by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from voxelopt_train.errors import InputError
from voxelopt_train.input_files import read_text

_PACKAGE = Path(__file__).parent
# In a wheel the files lie inside the package; in a checkout beside it.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")
_MOST_VALUES = 100000


def _packaged(kind: str) -> dict[str, Path]:
    return {path.stem: path for folder in _FOLDERS for path in (folder / kind).glob("*.yaml")}


def config_names(kind: str = "") -> list[str]:
    """Names of the settings that come with the package, as ``ct``.

    Args:
        kind: ``""`` for ``voxelopt register``, ``"training"`` for Lightning's commands.
    """
    return sorted(_packaged(kind))


def find_config(name: str, kind: str = "") -> Path:
    """Path of a YAML file, given as a path or as one of `config_names`.

    Raises:
        InputError: it is neither, or not a file of settings.
    """
    # A name first: a file that happens to be called as one of ours is meant by `./ct` alone.
    packaged = _packaged(kind)
    if name in packaged:
        return packaged[name]
    if Path(name).is_file():
        if not read_settings(Path(name), f"--config {name}"):
            raise InputError(f"--config {name}: there are no settings in this file")
        return Path(name)
    raise InputError(
        f"--config {name}: expected a YAML file or one of {', '.join(config_names(kind))}"
    )


def read_settings(path: Path, name: str) -> dict[str, Any]:
    """The settings in a YAML file; ``name`` is what messages call it.

    Raises:
        InputError: it cannot be read, is no YAML, holds something else, or its references, which
            stand for all that they refer to, make more of it than anyone has written.
    """
    text = read_text(path, name)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None and _values(root, {}) > _MOST_VALUES:
            raise InputError(
                f"{name}: it holds more than {_MOST_VALUES} values, references counted"
            )
        content = None if root is None else loader.construct_document(root)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = "" if place is None else f", see line {place.line + 1}"
        raise InputError(f"{name}: this is no YAML file that can be read{where}") from error
    except ValueError as error:  # of a number or a date that YAML takes for one, and Python not
        raise InputError(f"{name}: this is no YAML file that can be read, {error}") from error
    except RecursionError as error:
        raise InputError(f"{name}: this is no YAML file that can be read, too deep") from error
    if not isinstance(content, dict | None):
        kind = type(content).__name__
        raise InputError(f"{name}: expected settings, as spacing: 3, got a {kind}")
    return content or {}


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values there are at and below a node, each as often as it is referred to."""
    if id(node) not in known:
        known[id(node)] = math.inf  # what refers to itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        below = (part for item in parts for part in (item if isinstance(item, tuple) else [item]))
        known[id(node)] = 1 + sum(_values(part, known) for part in below)
    return known[id(node)]


def find_configs(arguments: Sequence[str], kind: str = "") -> list[str]:
    """The command and its arguments, with the path of the file where ``--config`` has a name.

    The files come first, in their order: an option wins over them wherever it stands.
    """
    files: list[str] = []
    others: list[str] = []
    left = iter(arguments[1:])
    for argument in left:
        if argument.startswith("--config="):
            files.append(f"--config={find_config(argument.removeprefix('--config='), kind)}")
        elif argument in ("--config", "-c") and (name := next(left, None)) is not None:
            files.append(f"--config={find_config(name, kind)}")
        else:
            others.append(argument)
    return [*arguments[:1], *files, *others]
