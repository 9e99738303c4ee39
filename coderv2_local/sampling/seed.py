"""Seeds of the draw."""

import secrets


def new_seed() -> int:
    """A seed that differs each time, as sampling options take it."""
    return secrets.randbits(32)
