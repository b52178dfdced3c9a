"""Strict JSON; see `forgather_core.strict_json`."""

from ..strict_json import DEPTH, LIMIT, check_depth, parse_object

__all__ = ["DEPTH", "LIMIT", "check_depth", "parse_object"]
