"""Training and evaluation of registration networks with Lightning."""

from voxelopt_train.data.datamodule import PairDataModule, PhantomDataModule
from voxelopt_train.learning.losses import RegistrationLoss
from voxelopt_train.learning.registration_module import RegistrationModule
from voxelopt_train.learning.segmentation_module import SegmentationModule

__all__ = [
    "PairDataModule",
    "PhantomDataModule",
    "RegistrationLoss",
    "RegistrationModule",
    "SegmentationModule",
]
