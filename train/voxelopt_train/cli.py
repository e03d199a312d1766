"""The command line: ``voxelopt COMMAND``, its errors in one sentence and its exit codes."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError, Namespace, set_parsing_settings

from voxelopt_models import EncoderError, WeightsError
from voxelopt_train.benchmark.command import run_benchmark
from voxelopt_train.benchmark.peers_command import run_peers
from voxelopt_train.cohort.command import run_registrations
from voxelopt_train.commands import run_apply, run_demo
from voxelopt_train.configs import find_configs
from voxelopt_train.convert_command import run_convert
from voxelopt_train.data.command import run_prepare
from voxelopt_train.errors import input_warnings_to, sentence
from voxelopt_train.html_report.command import run_report
from voxelopt_train.jacobian import run_jacobian
from voxelopt_train.parsers import LIGHTNING_COMMANDS, build_parser
from voxelopt_train.points.command import run_points
from voxelopt_train.pool_command import run_pool
from voxelopt_train.stopping import Stop, stopped_by_signals

_COMMANDS = {
    "register": run_registrations,
    "apply": run_apply,
    "convert": run_convert,
    "points": run_points,
    "jacobian": run_jacobian,
    "demo": run_demo,
    "report": run_report,
    "prepare": run_prepare,
    "pool": run_pool,
    "benchmark": run_benchmark,
    "peers": run_peers,
}
_NOTHING_WRITTEN = "nothing was written"
# What jsonargparse calls by its key where it is required; all else that is has no option.
_REQUIRED = {
    "output": "-o/--output",
    "reference": "-r/--reference",
    "transform": "-t/--transform",
    "data": "--data",
    "model": "--model",
}
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
    # Settings name classes only where one is expected, and none that run other programs.
    set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
    with stopped_by_signals() as stop, input_warnings_to(_warn):
        return _main(list(sys.argv[1:] if argv is None else argv), stop)


def _warn(warning: str) -> None:
    print(f"voxelopt: warning: {warning}", file=sys.stderr)


def _main(arguments: list[str], stop: Stop) -> int:
    try:
        if arguments[:1] and arguments[0] in LIGHTNING_COMMANDS:
            from voxelopt_train.learning.training_cli import run_training

            run_training(arguments)
        else:
            options = build_parser().parse_args(find_configs(arguments))
            _run(options.command, options[options.command])
    except ArgumentError as error:
        message = _in_terms_of_options(str(error))
    except (EncoderError, WeightsError) as error:
        message = " ".join(str(error).split())
    except Exception as error:
        message = sentence(error)
        if message is None:
            raise
    except KeyboardInterrupt as interrupt:
        print(f"voxelopt: {stop}, {str(interrupt) or _NOTHING_WRITTEN}", file=sys.stderr)
        return stop.exit_code
    else:
        return 0
    print(f"voxelopt: error: {message}", file=sys.stderr)
    return 2


def _in_terms_of_options(message: str) -> str:
    """What jsonargparse says, in one line, of options and values where it has keys and types."""
    message = " ".join(message.split())
    if message.startswith("argument command: invalid choice"):
        wrong, _, choices = message.partition(" (choose from ")
        names = [*LIGHTNING_COMMANDS, choices.replace("'", "").rstrip(")")]
        return f"{wrong}, choose from {', '.join(names)}"
    if message.startswith("the following arguments are required"):
        # (Before the dot is the command.)
        return re.sub(r"\b[a-z]+\.(\w+)", lambda key: _REQUIRED.get(key[1], key[1]), message)
    unknown = re.match(
        r'Parser key "([\w.]+)".*Problem with given class_path \'([\w.]+)\': '
        r"Option '([\w.]+)' is not accepted.*NestedArg\(",
        message,
    )
    if unknown:
        option, path, name = unknown.groups()
        return (
            f"--{option}.init_args.{name}: {path.rpartition('.')[2]} has no such setting, "
            f"--{option}.help {path} lists those that it has"
        )
    # Of a class within a class, the innermost has the problem.
    nested = re.match(
        r'Parser key "([\w.]+)".*Problem with given class_path \'(.+?)\': '
        r"(.*?)(?: - Expected an? <class 'NoneType'>| Given value type)",
        message,
    )
    if nested and "NestedArg" not in message:
        option, path, problem = nested.groups()
        return f"--{option}: {path}: {_in_terms_of_options(problem).removeprefix('--')}"
    wrong = re.match(r'Parser key "([\w.]+)".*(?:Got|Given) value: (.*)', message)
    if wrong is None:
        return message
    option, value = wrong.groups()
    inner = re.match(r"NestedArg\(key='(.*?)', val='?(.*?)'?\)", value)
    if inner:
        option, value = f"{option}.{inner[1]}", inner[2]
    choices = re.search(r"Expected a typing\.Literal\[(.*?)\]", message)
    kind = re.search(rf"Expected an? <class '(?:\w+\.)*({'|'.join(_KINDS)})'>", message)
    if choices:
        return f"--{option}: expected one of {choices[1]}, got {value}"
    if kind:
        return f"--{option}: expected {_KINDS[kind[1]]}, got {value}"
    return f"--{option} cannot be {value}"


def _run(command: str, options: Namespace) -> None:
    """Run one of our commands; what imports Lightning, which takes seconds, only when it is due."""
    if command in ("compare", "ablate"):
        from voxelopt_train.learning.comparison import run_ablate, run_compare

        {"compare": run_compare, "ablate": run_ablate}[command](options)
    else:
        _COMMANDS[command](options)
