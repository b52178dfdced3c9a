"""The training check behind `model test`: a few training steps that show whether a model trains."""

from ..training.loop import Step
from .guard import step_guard
from .run import check_test_options, run_training_check

__all__ = ["Step", "check_test_options", "run_training_check", "step_guard"]
