"""The YAML files of settings that come with the package, found by name."""

from __future__ import annotations

from pathlib import Path

from voxelopt_train.errors import InputError

_PACKAGE = Path(__file__).parent
# In a wheel the files lie inside the package; in a checkout beside it.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")


def config_names() -> list[str]:
    """Names of the settings that come with the package, as ``ct``."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.yaml")})


def find_config(name: str) -> Path:
    """Path of a YAML file, given as a path or as one of `config_names`.

    Raises:
        InputError: it is neither.
    """
    # A name first: a file that happens to be called as one of ours is meant by `./ct` alone.
    if name in config_names():
        return next(path for folder in _FOLDERS for path in folder.glob(f"{name}.yaml"))
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"--config {name}: expected a YAML file or one of {', '.join(config_names())}")
