"""From file to file: reading, registering, evaluating, writing."""

from voxelopt_train.cohort import register_cohort
from voxelopt_train.errors import InputError
from voxelopt_train.registered import Registration
from voxelopt_train.registration import register

__all__ = ["InputError", "Registration", "register", "register_cohort"]
