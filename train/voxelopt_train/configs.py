"""The YAML files of settings that come with the package, found by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxelopt_train.errors import InputError

_PACKAGE = Path(__file__).parent
# In a wheel the files lie inside the package; in a checkout beside it.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")


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
        InputError: it is neither.
    """
    # A name first: a file that happens to be called as one of ours is meant by `./ct` alone.
    packaged = _packaged(kind)
    if name in packaged:
        return packaged[name]
    if Path(name).is_file():
        return Path(name)
    raise InputError(
        f"--config {name}: expected a YAML file or one of {', '.join(config_names(kind))}"
    )


def find_configs(arguments: Sequence[str], kind: str = "") -> list[str]:
    """The arguments, with the path of the file where ``--config`` or ``-c`` has a name."""
    found = list(arguments)
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            found[i] = f"--config={find_config(argument.removeprefix('--config='), kind)}"
        elif argument in ("--config", "-c") and i + 1 < len(arguments):
            found[i + 1] = str(find_config(arguments[i + 1], kind))
    return found
