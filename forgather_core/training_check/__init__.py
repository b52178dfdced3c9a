"""`test`: a few steps of training that tell whether a model works."""

from ..training.loop import Step
from .guard import step_guard
from .run import check_trial, run_trial_of

__all__ = ["Step", "check_trial", "run_trial_of", "step_guard"]
