"""What each command of the command line does, once its options are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.presets import PRESETS
from voxelopt_train.errors import InputError
from voxelopt_train.files import all_or_none, check_kept, check_writable
from voxelopt_train.images import Image, ImageLike, read_image, write_nifti
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.outputs import output_paths, save, split_prefix
from voxelopt_train.phantom import CT_WINDOW, ORGANS, phantom_pair
from voxelopt_train.provenance import INPUTS, method_settings
from voxelopt_train.registration import best_settings, register
from voxelopt_train.report import make_report, summary_table
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import read_transform

_SOFT_TISSUE = (-160.0, 240.0)  # HU that the demo's picture shows


def run_register(options: Namespace) -> None:
    """``voxelopt register``: two files in, warped image, transforms and report out."""
    window = None if options.window is None else (options.window[0], options.window[1])
    _register_and_save(
        options,
        options.fixed,
        options.moving,
        labels=(options.fixed_labels, options.moving_labels),
        spacing_mm=options.spacing,
        initial=options.initial,
        window=window,
        protocol=options.protocol,
        extra={name: getattr(options, name) for name in ("inverse", "entropy", "jacobian")},
    )


def run_demo(options: Namespace) -> None:
    """``voxelopt demo``: the same on a pair of phantoms, whose files are kept to play with."""
    pair = phantom_pair(options.seed)
    names = ("fixed", "moving", "fixed_labels", "moving_labels")
    images = {name: getattr(pair, name) for name in names}
    sources = {name: (image.data.numpy(), image.grid.affine) for name, image in images.items()}
    _register_and_save(
        options,
        sources["fixed"],
        sources["moving"],
        labels=(sources["fixed_labels"], sources["moving_labels"]),
        window=CT_WINDOW,
        shown=_SOFT_TISSUE,
        extra={"inverse": True, "entropy": True, "jacobian": True},
        beside=images,
        label_names=ORGANS,
    )


def run_apply(options: Namespace) -> None:
    """``voxelopt apply``: one image through a list of transforms onto a reference grid."""
    output = Path(options.output)
    if not output.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"--output {output}: expected a name ending in .nii or .nii.gz")
    check_writable(output.parent)
    check_kept((options.image, options.reference, *(options.transform or [])), [output])
    image = read_image(options.image, "image", labels=options.labels)
    reference = read_image(options.reference, "reference")
    transforms = [read_transform(spec) for spec in options.transform or []]
    mode = "nearest" if options.labels else "linear"
    fill = 0.0 if options.labels else float(image.data.min())
    warped = resample(image, reference.grid, transforms, mode, fill)
    with all_or_none(output.parent) as temporary:
        write_nifti(temporary / output.name, warped.data, warped.grid.affine)
    print("wrote", output)


def _register_and_save(
    options: Namespace,
    fixed: ImageLike,
    moving: ImageLike,
    labels: tuple[ImageLike | None, ImageLike | None],
    extra: dict[str, bool],
    spacing_mm: float | None = None,
    initial: str = "none",
    window: tuple[float, float] | None = None,
    shown: tuple[float, float] | None = None,
    protocol: Protocol = "voxelopt",
    beside: Mapping[str, Image] | None = None,
    label_names: Mapping[int, str] | None = None,
) -> None:
    layer, device = _layer(options), torch_device(options.device)
    check_writable(split_prefix(options.output)[0])
    check_kept((fixed, moving, *labels, initial), output_paths(options.output))
    with progress_bar(stages=7 + layer.levels) as stage:
        result = register(
            fixed,
            moving,
            encoder=options.features,
            layer=layer,
            spacing_mm=spacing_mm,
            initial=initial,
            window=window,
            fixed_labels=labels[0],
            moving_labels=labels[1],
            device=device,
            progress=stage,
        )
        stage("evaluating")
        report = make_report(result, protocol)
        stage("writing")
        details: dict[str, Any] = {
            "settings": method_settings(options, spacing_mm, initial, window, shown or window)
        }
        if label_names:
            details["label_names"] = label_names
        written = save(
            result,
            options.output,
            report,
            window=shown or window,
            beside=beside,
            inputs=dict(zip(INPUTS, (fixed, moving, *labels), strict=True)),
            details=details,
            **extra,
        )
    Console().print(summary_table(report))
    print("wrote", *written, sep="\n  ")


def _layer(options: Namespace) -> VoxelOptLayer:
    """The preset with single settings changed, each of them checked against its type."""
    preset = PRESETS[options.preset] if options.preset else best_settings(options.features)
    return VoxelOptLayer(**checked_settings({**preset, **options.layer}, "layer"))


def checked_settings(settings: Mapping[str, Any], option: str) -> Namespace:
    """All keywords of the layer, each as its type asks.

    Raises:
        ArgumentError: a value is of another type; its key is named as one of ``option``.
        InputError: a value is out of its range.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VoxelOptLayer, option)
    parsed = parser.parse_object({option: dict(settings)})[option]
    try:
        VoxelOptLayer(**parsed)
    except ValueError as error:
        raise InputError(f"--{option}: {error}") from error
    return parsed


def torch_device(name: str) -> torch.device:
    """The device of this name, or InputError where this machine has none."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: no such device here, cpu always works") from error
    return device


@contextmanager
def progress_bar(stages: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal's standard error; yields what is to be called as each stage begins."""
    columns = (
        SpinnerColumn(),
        BarColumn(30),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=stages)

        def stage(name: str) -> None:
            bar.update(task, description=name, advance=1)

        yield stage
