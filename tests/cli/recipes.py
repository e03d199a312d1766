"""Settings of trainings that take a second."""

from __future__ import annotations

from pathlib import Path

import yaml

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
DATA = {
    "data": {
        "class_path": "voxelopt_train.learning.PhantomDataModule",
        "init_args": {"subjects": [2, 2, 2], "shape": [24, 20, 24], "spacing_mm": 16.0},
    }
}
NETWORK = {
    "class_path": "voxelopt_models.monai_network",
    "init_args": {
        "name": "UNet",
        "arguments": {
            "spatial_dims": 3, "in_channels": 1, "out_channels": 14,
            "channels": [4, 8], "strides": [2],
        },
    },
}  # fmt: skip


def write_recipes() -> None:
    """Files of settings in the current folder: data, and a network to train on masks and pairs."""

    def write(name: str, **settings: object) -> None:
        Path(f"{name}.yaml").write_text(yaml.safe_dump(settings))

    encoder = {
        "class_path": "voxelopt_models.FeatureEncoder",
        "init_args": {"network": NETWORK, "divisor": 2, "normalisation": "softmax"},
    }
    write("tiny", **DATA)
    module = "voxelopt_train.learning.{}Module"
    mind = {"class_path": "voxelopt_models.MINDSSC", "init_args": {"widht": 3}}
    registration = module.format("Registration")
    write("wrong", model={"class_path": registration, "init_args": {"encoder": mind}})
    for name, kind in (("masks", "Segmentation"), ("pairs", "Registration")):
        model = {"class_path": module.format(kind), "init_args": {"encoder": dict(encoder)}}
        if name == "pairs":
            model["init_args"]["layer"] = {
                "class_path": "voxelopt_layers.VoxelOptLayer",
                "init_args": {"levels": 2, "temperature": 0.03},
            }
        write(name, model=model, trainer={"max_epochs": 1, "log_every_n_steps": 1})
