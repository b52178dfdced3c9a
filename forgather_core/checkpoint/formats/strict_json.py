"""Strict JSON; see `forgather_core.filesystem.strict_json`."""

from ...filesystem.strict_json import DEPTH, LIMIT, check_depth, parse_object

__all__ = ["DEPTH", "LIMIT", "check_depth", "parse_object"]
