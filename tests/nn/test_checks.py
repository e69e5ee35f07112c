"""Ranges of config values."""

import math
import re

import pytest

from segtrain.errors import ConfigError
from segtrain.nn.checks import check_positive, check_share


@pytest.mark.parametrize(
    ("check", "taken", "refused", "rule"),
    [
        (check_share, [0, 0.5, 0.999], [-0.1, 1, 1.5, math.nan], "must lie in [0, 1)"),
        (check_positive, [1, 512, 0.01], [0, -1, math.nan], "must be positive"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key(check, taken, refused, rule):
    for value in taken:
        check("model.some.key", value)
    for value in refused:
        with pytest.raises(ConfigError, match=f"^{re.escape(f'model.some.key={value}: {rule}')}$"):
            check("model.some.key", value)
