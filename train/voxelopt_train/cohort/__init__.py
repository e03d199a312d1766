"""Cohorts: many pairs registered by one call, in several processes, resumable."""

from voxelopt_train.cohort.cases import Case, atlas_cases, read_cases
from voxelopt_train.cohort.registration import register_cohort
from voxelopt_train.cohort.results import CaseResult, CohortResults

__all__ = ["Case", "CaseResult", "CohortResults", "atlas_cases", "read_cases", "register_cohort"]
