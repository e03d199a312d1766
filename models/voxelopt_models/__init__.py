"""Feature encoders, and networks made of an encoder and a `VoxelOptLayer`."""

from voxelopt_models.bundle import bundle_network
from voxelopt_models.encoder import EncoderError, FeatureEncoder, FeatureStack
from voxelopt_models.intensity import RawIntensity
from voxelopt_models.mind import MINDSSC, mind_ssc
from voxelopt_models.monai_networks import monai_network
from voxelopt_models.network import RegistrationNet
from voxelopt_models.released_unet import ReleasedUNet
from voxelopt_models.weights import WeightsError, load_weights

__all__ = [
    "MINDSSC",
    "EncoderError",
    "FeatureEncoder",
    "FeatureStack",
    "RawIntensity",
    "RegistrationNet",
    "ReleasedUNet",
    "WeightsError",
    "bundle_network",
    "load_weights",
    "mind_ssc",
    "monai_network",
]
