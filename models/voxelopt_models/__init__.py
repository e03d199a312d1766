"""Feature encoders, and networks made of an encoder and a `VoxelOptLayer`."""

from voxelopt_models.intensity import RawIntensity
from voxelopt_models.mind import MINDSSC, mind_ssc
from voxelopt_models.network import RegistrationNet

__all__ = ["MINDSSC", "RawIntensity", "RegistrationNet", "mind_ssc"]
