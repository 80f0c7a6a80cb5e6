"""How exact is exact: one table for all tests, which others may use too."""

from convkan.testing import HALF_DTYPES, TOLERANCES, assert_agree, relative_error

__all__ = ["HALF_DTYPES", "TOLERANCES", "assert_agree", "relative_error"]
