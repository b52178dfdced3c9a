"""`test`: a few steps of training that tell whether a model works."""

from ..training.loop import Step
from .guard import step_guard
from .run import check_test_options, run_training_check

__all__ = ["Step", "check_test_options", "run_training_check", "step_guard"]
