"""`verify`: checks that a causal language model keeps its promises, one file for each check."""

from ..definitions.check import OLD_NAMES, Check, DoesNotApply, Measured, check, expect
from ..deprecated import keep_old_names, moved_module
from .choose import choose, requested_checks, requested_scope
from .own_checks import CHECKS
from .run import verify, verify_settings
from .shared.model_under_test import ModelUnderTest
from .try_check import EXPECTED, FAILED, PASSED, SKIPPED, try_check

__all__ = [
    "CHECKS",
    "EXPECTED",
    "FAILED",
    "PASSED",
    "SKIPPED",
    "Check",
    "DoesNotApply",
    "Measured",
    "ModelUnderTest",
    "check",
    "choose",
    "expect",
    "requested_checks",
    "requested_scope",
    "try_check",
    "verify",
    "verify_settings",
]

keep_old_names(__name__, {"Subject": "ModelUnderTest", "asked_for": "requested_checks", "must": "expect"})
moved_module(f"{__name__}.check", check.__module__, OLD_NAMES)
moved_module(
    f"{__name__}.subject",
    ModelUnderTest.__module__,
    {"Subject": "ModelUnderTest", "strengthen": "randomize_weights"},
)
