"""Datasets of pairs: layouts, preparation, manifest, Lightning data modules.

Nothing is imported here, so that ``voxelopt prepare`` starts without Lightning and MONAI.
"""
