"""What each command of the command line does, once its options are read."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from voxelopt_layers import VoxelOptLayer
from voxelopt_layers.presets import PRESETS
from voxelopt_train.devices import torch_device
from voxelopt_train.errors import InputError, warn_once
from voxelopt_train.files import all_or_none, check_kept, check_writable
from voxelopt_train.images import Image, ImageLike, read_grid, read_image, write_nifti
from voxelopt_train.label_maps import refuse_intensities
from voxelopt_train.label_metrics import Protocol
from voxelopt_train.label_resampling import SIGMA_VOXELS, resample_labels, vanished
from voxelopt_train.nifti_names import check_nifti_name
from voxelopt_train.outputs import check_fixed, check_output, output_paths, save
from voxelopt_train.phantom import CT_WINDOW, ORGANS, phantom_pair
from voxelopt_train.points import read_landmarks
from voxelopt_train.progress import progress_bar
from voxelopt_train.provenance import INPUTS, method_settings
from voxelopt_train.registration import best_settings, register
from voxelopt_train.report import make_report, summary_table
from voxelopt_train.resampling import resample
from voxelopt_train.transforms import read_transform, transform_file

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
        points=(options.fixed_points, options.moving_points),
        masks=(options.fixed_mask, options.moving_mask),
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
    check_nifti_name(output, f"--output {output}")
    check_writable(output.parent)
    images = (options.image, options.reference, options.moving)
    check_kept((*images, *map(transform_file, options.transform or [])), [output])
    how = _interpolation(options)
    image = read_image(options.image, "image", labels=options.labels)
    if options.labels:
        refuse_intensities(image)
    reference = read_image(options.reference, "reference")
    if 1 in image.grid.shape and 1 not in reference.grid.shape:
        warn_once(
            f"{image.name} is a single slice and {reference.name} a volume: most of the result is "
            "empty"
        )
    moving = read_grid(options.moving, "moving image") if options.moving else image.grid
    transforms = [read_transform(spec, reference.grid, moving) for spec in options.transform or []]
    if how == "gaussian":
        with progress_bar(stages=len(image.data.unique())) as stage:
            sigma = SIGMA_VOXELS if options.sigma is None else options.sigma
            warped = resample_labels(image, reference.grid, transforms, sigma, stage)
    else:
        fill = 0.0 if options.labels else float(image.data.min())
        warped = resample(image, reference.grid, transforms, how, fill)
    with all_or_none(output.parent) as temporary:
        write_nifti(temporary / output.name, warped.data, warped.grid.affine)
    if options.labels and (gone := vanished(image, warped)):
        print("note: labels that lie outside the result, or are too thin for it:", *gone)
    print("wrote", output)


def _interpolation(options: Namespace) -> Literal["linear", "nearest", "gaussian"]:
    """What was asked for, or what suits the image; InputError where the options disagree."""
    how = options.interpolation or ("nearest" if options.labels else "linear")
    if options.labels and how == "linear":
        raise InputError("--interpolation linear would mix --labels, expected nearest or gaussian")
    if not options.labels and how == "gaussian":
        raise InputError("--interpolation gaussian is for --labels, expected linear or nearest")
    if options.sigma is not None and how != "gaussian":
        raise InputError(f"--sigma is for --interpolation gaussian, not for {how}")
    return how


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
    points: tuple[str | None, str | None] = (None, None),
    masks: tuple[str | None, str | None] = (None, None),
    beside: Mapping[str, Image] | None = None,
    label_names: Mapping[int, str] | None = None,
) -> None:
    layer, device = VoxelOptLayer(**layer_settings(options)), torch_device(options.device)
    check_output(options.output)
    inputs = (fixed, moving, *labels, *points, *masks, transform_file(initial))
    check_kept(inputs, output_paths(options.output))
    check_fixed(fixed)
    landmarks = read_landmarks(*points, fixed, moving)
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
            fixed_mask=masks[0],
            moving_mask=masks[1],
            device=device,
            progress=stage,
        )
        stage("evaluating")
        report = make_report(result, protocol, landmarks)
        stage("writing")
        details: dict[str, Any] = {
            "settings": method_settings(
                features=options.features,
                preset=options.preset,
                layer=options.layer,
                spacing_mm=spacing_mm,
                initial=initial,
                window=window,
                shown=shown or window,
                device=options.device,
            )
        }
        if label_names:
            details["label_names"] = label_names
        written = save(
            result,
            options.output,
            report,
            window=shown or window,
            beside=beside,
            inputs={
                **dict(zip(INPUTS, (fixed, moving, *labels), strict=True)),
                **dict(zip(("fixed_mask", "moving_mask"), masks, strict=True)),
                **dict(zip(("fixed_points", "moving_points"), points, strict=True)),
            },
            details=details,
            **extra,
        )
    Console().print(summary_table(report))
    print("wrote", *written, sep="\n  ")


def layer_settings(options: Namespace) -> Namespace:
    """The preset with single settings changed, each of them checked against its type."""
    preset = PRESETS[options.preset] if options.preset else best_settings(options.features)
    return checked_settings({**preset, **options.layer}, "layer")


def checked_settings(settings: Mapping[str, Any], option: str) -> Namespace:
    """All keywords of the layer, each as its type asks.

    Raises:
        ArgumentError: a value is of another type; its key is named as one of ``option``.
        InputError: there is no such key, or a value is out of its range.
    """
    keys = list(signature(VoxelOptLayer).parameters)
    for key in settings:
        if key not in keys:
            raise InputError(f"--{option}: the layer has no {key}, it has {', '.join(keys)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VoxelOptLayer, option)
    parsed = parser.parse_object({option: dict(settings)})[option]
    try:
        VoxelOptLayer(**parsed)
    except ValueError as error:
        raise InputError(f"--{option}: {error}") from error
    return parsed
