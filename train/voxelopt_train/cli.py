"""The command line: ``voxelopt register | apply | demo``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace

import voxelopt_layers
from voxelopt_layers.presets import PRESETS
from voxelopt_train.commands import run_apply, run_demo, run_register
from voxelopt_train.configs import config_names, find_config
from voxelopt_train.errors import InputError
from voxelopt_train.registration import ENCODERS

_INTERRUPTED = 128 + 2  # what shells and make expect of a process that SIGINT ended
_NO_MEMORY = "not enough memory for this grid; a coarser one takes less (--spacing MM)"
# In the place of the Python types that jsonargparse names.
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "KEY VALUE",
    "tuple": "a list",
    "Sequence": "a list",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, 2 for anything that is wrong with the input."""
    parser, commands = build_parser()
    try:
        options = parser.parse_args(_find_configs(sys.argv[1:] if argv is None else argv))
        commands[options.command](options[options.command])
    except (InputError, OSError) as error:
        message = " ".join(str(error).split())
    except ArgumentError as error:
        message = _in_terms_of_options(error)
    except (torch.OutOfMemoryError, MemoryError):
        message = _NO_MEMORY
    except RuntimeError as error:  # what the CPU allocator raises has no class of its own
        if "allocate memory" not in str(error):
            raise
        message = _NO_MEMORY
    except KeyboardInterrupt:
        print("voxelopt: interrupted, nothing was written", file=sys.stderr)
        return _INTERRUPTED
    else:
        return 0
    print(f"voxelopt: error: {message}", file=sys.stderr)
    return 2


def _find_configs(argv: Sequence[str]) -> list[str]:
    """The arguments, with the path of the file where ``--config`` has a name."""
    found = list(argv)
    for i, argument in enumerate(argv):
        if argument.startswith("--config="):
            found[i] = f"--config={find_config(argument.removeprefix('--config='))}"
        elif argument == "--config" and i + 1 < len(argv):
            found[i + 1] = str(find_config(argv[i + 1]))
    return found


def _in_terms_of_options(error: ArgumentError) -> str:
    """What jsonargparse says, in one line, of options and values where it has keys and types."""
    message = " ".join(str(error).split())
    if message.startswith("the following arguments are required"):
        return re.sub(r"\b(register|apply|demo)\.", "", message)
    wrong = re.match(r'Parser key "([\w.]+)".*(?:Got|Given) value: (.*)', message)
    if wrong is None:
        return message
    option, value = wrong.groups()
    choices = re.search(r"Expected a typing\.Literal\[(.*?)\]", message)
    kind = re.search(rf"Expected an? <class '(?:\w+\.)*({'|'.join(_KINDS)})'>", message)
    if choices:
        return f"--{option}: expected one of {choices[1]}, got {value}"
    if kind:
        return f"--{option}: expected {_KINDS[kind[1]]}, got {value}"
    return f"--{option} cannot be {value}"


def build_parser() -> tuple[ArgumentParser, dict[str, Callable[[Namespace], None]]]:
    """The parser, and the function that each of its commands runs."""
    parser = ArgumentParser(
        prog="voxelopt", description="Deformable image registration.", exit_on_error=False,
        version=voxelopt_layers.__version__,
    )  # fmt: skip
    commands = parser.add_subcommands(dest="command", required=True)
    for name, make in (
        ("register", _register_parser),
        ("apply", _apply_parser),
        ("demo", _demo_parser),
    ):
        subparser, summary = make()
        commands.add_subcommand(name, subparser, help=summary)
    return parser, {"register": run_register, "apply": run_apply, "demo": run_demo}


def _register_parser() -> tuple[ArgumentParser, str]:
    summary = "Register two NIfTI files, with no training."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add("fixed", type=str, help="the image that stays (.nii, .nii.gz)")
    add("moving", type=str, help="the image that is warped onto it; any grid")
    add(
        "-o",
        "--output",
        type=str,
        required=True,
        metavar="PREFIX",
        help="folder (out/, or any that exists) or start of the file names (out/pair1_); an "
        "earlier registration there is replaced",
    )
    add(
        "--initial",
        type=str,
        default="none",
        metavar="HOW",
        help="initial alignment: none, center-of-mass, affine (needs SimpleITK), or an ITK file "
        "(.mat, .tfm, .txt)",
    )
    add(
        "--spacing",
        type=float,
        metavar="MM",
        help="work on an isotropic grid of this voxel size, not on the fixed image's own",
    )
    add(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="cut intensities off here first (CT: -800 500)",
    )
    add("--fixed-labels", type=str, metavar="FILE", help="label map on the fixed grid")
    add("--moving-labels", type=str, metavar="FILE", help="label map on the moving grid")
    add(
        "--protocol",
        choices=["voxelopt", "learn2reg"],
        default="voxelopt",
        help="how labels and regularity are evaluated",
    )
    add("--inverse", action="store_true", help="write 1InverseWarp.nii.gz too")
    add(
        "--config",
        action="config",
        metavar="NAME",
        help=f"options from a YAML file, or one of {', '.join(config_names())}",
    )
    add("--entropy", action="store_true", help="write Entropy.nii.gz too")
    add("--jacobian", action="store_true", help="write Jacobian.nii.gz too")
    _add_method(parser)
    return parser, summary


def _apply_parser() -> tuple[ArgumentParser, str]:
    summary = "Warp an image or a label map onto a reference grid through a list of transforms."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add("image", type=str, help="the image or label map to warp")
    add(
        "-r",
        "--reference",
        type=str,
        required=True,
        metavar="FILE",
        help="image with the grid of the result",
    )
    add(
        "-t",
        "--transform",
        type=str,
        action="append",
        metavar="FILE",
        help="1Warp.nii.gz, 0GenericAffine.mat, ... in the order of antsApplyTransforms: points of "
        "the reference go through the first one first; [FILE,1] inverts a linear one; repeat",
    )
    add(
        "-o", "--output", type=str, required=True, metavar="FILE", help="the result (.nii, .nii.gz)"
    )
    add("--labels", action="store_true", help="nearest neighbour, whole numbers")
    return parser, summary


def _demo_parser() -> tuple[ArgumentParser, str]:
    summary = "Register two synthetic abdominal CT of different patients; needs no file."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    parser.add_argument("-o", "--output", type=str, default="voxelopt_demo/", metavar="PREFIX")
    parser.add_argument("--seed", type=int, default=0, help="which two patients")
    _add_method(parser)
    return parser, summary


def _add_method(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--features", choices=list(ENCODERS), default="mind", help="what is matched")
    add(
        "--preset",
        choices=sorted(PRESETS),
        help="settings of the paper or of its authors' code; without it, the layer's own defaults",
    )
    add(
        "--layer",
        type=dict[str, Any],
        default={},
        metavar="KEY VALUE",
        help="single settings: --layer.KEY VALUE for any keyword of VoxelOptLayer",
    )
    add("--device", type=str, default=_default_device(), help="cpu, cuda, cuda:1, ...")


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
