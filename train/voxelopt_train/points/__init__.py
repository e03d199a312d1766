"""Points in world space: their files, the way they go through transforms, and how far they miss."""

from voxelopt_train.points.files import read_points, write_points
from voxelopt_train.points.landmarks import LandmarkPair, landmark_pair, read_landmarks
from voxelopt_train.points.point_set import PointSet, map_positions

__all__ = [
    "LandmarkPair",
    "PointSet",
    "landmark_pair",
    "map_positions",
    "read_landmarks",
    "read_points",
    "write_points",
]
