"""Ranges that many constructors check, each in one line with the config key."""

from segtrain.errors import ConfigError


def check_share(key: str, value: float) -> None:
    """Raises ConfigError where `value` is no share of values to drop, in [0, 1)."""
    if not 0 <= value < 1:
        raise ConfigError(f"{key}={value}: must lie in [0, 1)")


def check_positive(key: str, value: float) -> None:
    """Raises ConfigError where `value` is not above 0."""
    if not value > 0:
        raise ConfigError(f"{key}={value}: must be positive")
