"""The options of each command of the command line."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from typing import Any

import torch
from jsonargparse import ArgumentParser

import voxelopt_layers
from voxelopt_layers.presets import PRESETS
from voxelopt_train.benchmark.command import benchmark_parser
from voxelopt_train.benchmark.peers_command import peers_parser
from voxelopt_train.cohort.command import add_cohort_options
from voxelopt_train.configs import config_names
from voxelopt_train.convert_command import convert_parser
from voxelopt_train.data.command import prepare_parser
from voxelopt_train.html_report.command import report_parser
from voxelopt_train.jacobian import jacobian_parser
from voxelopt_train.label_resampling import SIGMA_VOXELS
from voxelopt_train.points.command import points_parser
from voxelopt_train.pool_command import pool_parser
from voxelopt_train.registration import ENCODERS

LIGHTNING_COMMANDS = {
    "fit": "Train a network on pairs of images.",
    "validate": "Evaluate a network on the validation pairs.",
    "test": "Register and evaluate the test pairs; tables as CSV, JSON and Markdown.",
    "predict": "Write the displacement field of each test pair.",
}


def build_parser() -> ArgumentParser:
    """The parser of all commands but Lightning's, which parse their own options."""
    epilog = "\n".join(f"  {name:<9} {text}" for name, text in LIGHTNING_COMMANDS.items())
    parser = ArgumentParser(
        prog="voxelopt", description="Deformable image registration.", exit_on_error=False,
        version=voxelopt_layers.__version__, epilog=f"Lightning's commands:\n{epilog}",
        formatter_class=RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subcommands(dest="command", required=True)
    for name, make in (
        ("register", _register_parser),
        ("apply", _apply_parser),
        ("convert", convert_parser),
        ("demo", _demo_parser),
        ("points", points_parser),
        ("jacobian", jacobian_parser),
        ("report", report_parser),
        ("prepare", prepare_parser),
        ("compare", _compare_parser),
        ("ablate", _ablate_parser),
        ("pool", pool_parser),
        ("benchmark", benchmark_parser),
        ("peers", peers_parser),
    ):
        subparser, summary = make()
        commands.add_subcommand(name, subparser, help=summary)
    return parser


def _register_parser() -> tuple[ArgumentParser, str]:
    summary = "Register two NIfTI files, or many pairs of them, with no training."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    add = parser.add_argument
    add("fixed", type=str, nargs="?", help="the image that stays (.nii, .nii.gz)")
    add(
        "moving",
        type=str,
        nargs="?",
        help="the image that is warped onto it; any grid; a folder: each NIfTI file in it",
    )
    add(
        "-o",
        "--output",
        type=str,
        required=True,
        metavar="PREFIX",
        help="folder (out/, or any that exists) or start of the file names (out/pair1_); an "
        "earlier registration there is replaced; of many pairs, the folder of their folders",
    )
    add_cohort_options(parser)
    add(
        "--initial",
        type=str,
        default="none",
        metavar="HOW",
        help="initial alignment: none, center-of-mass, affine (needs SimpleITK), or a linear "
        "transform of ITK (.mat, .tfm, .txt) or FLIRT (.mat)",
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
    add(
        "--moving-labels",
        type=str,
        metavar="FILE",
        help="label map on the moving grid; of a folder, the folder with files of the same names",
    )
    add(
        "--fixed-mask",
        type=str,
        metavar="FILE",
        help="on the fixed grid, 0 where nothing is to be matched (resected, implanted, cut off)",
    )
    add("--moving-mask", type=str, metavar="FILE", help="the same on the moving grid")
    add(
        "--fixed-points",
        type=str,
        metavar="FILE",
        help="landmarks of the fixed image, as of voxelopt points (CSV: LPS), to report the TRE",
    )
    add("--moving-points", type=str, metavar="FILE", help="the same of the moving image")
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
    add(
        "--jacobian",
        action="store_true",
        help="write Jacobian.nii.gz and LogJacobian.nii.gz too, of the deformable part",
    )
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
        "the reference go through the first one first; [FILE,1] is the inverse; files of ITK, "
        "NiftyReg, FSL, or learn2reg:FILE; repeat",
    )
    add(
        "-m",
        "--moving",
        type=str,
        metavar="FILE",
        help="the moving image of the registration, where the image to warp lies on another grid "
        "(FSL, Learn2Reg)",
    )
    add(
        "-o", "--output", type=str, required=True, metavar="FILE", help="the result (.nii, .nii.gz)"
    )
    add("--labels", action="store_true", help="the image holds labels: whole numbers stay so")
    add(
        "--interpolation",
        choices=["linear", "nearest", "gaussian"],
        help="default: linear, nearest for labels; gaussian gives labels smooth boundaries: each "
        "is blurred by itself, and the largest wins",
    )
    add(
        "--sigma",
        type=float,
        metavar="VOXELS",
        help="of gaussian, in voxels of the label map: the larger, the smoother, and the more of "
        f"what is thin goes (default {SIGMA_VOXELS}: a label map on its own grid stays as it is; "
        "MultiLabel of ANTs has 1, GenericLabel 0)",
    )
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
    add(
        "--features",
        choices=list(ENCODERS),
        default="raw",
        help="what is matched: patches of the intensities, or MIND-SSC where modalities differ",
    )
    add(
        "--preset",
        choices=sorted(PRESETS),
        help="settings of the layer; without it, those that measured best with the features",
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


def _compare_parser() -> tuple[ArgumentParser, str]:
    summary = "Test several methods on the same pairs; one table with a row for each."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    parser.add_argument(
        "rows",
        type=str,
        nargs="+",
        help=f"folders of trainings, YAML files, or {', '.join(config_names('training'))}",
    )
    _add_table_options(parser)
    return parser, summary


def _ablate_parser() -> tuple[ArgumentParser, str]:
    summary = "Change one choice of the method at a time; one table with a row for each."
    parser = ArgumentParser(description=summary, exit_on_error=False)
    parser.add_argument("row", type=str, help="the method: as the rows of voxelopt compare")
    parser.add_argument(
        "--iterations",
        type=list[int],
        default=list(range(1, 10)),
        help="numbers of coordinate-descent steps to try",
    )
    _add_table_options(parser)
    return parser, summary


def _add_table_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=str, default="comparison", metavar="FOLDER", help="of the tables"
    )
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        metavar="FILE",
        help="data of all rows: a prepared folder, a YAML file, phantom or abdomen_ct",
    )
