"""A model's name → a backend that answers."""

from coderv2_local.backend import Backend, LocalBackend
from coderv2_local.load_options import LoadOptions
from coderv2_local.models import Model


def open_model(model: Model, options: LoadOptions, *, exact_routing: bool = True) -> Backend:
    """Load a file, or reach a server.

    Raises:
        CoderError: what loading or reaching it raises.
    """
    assert model.path
    return LocalBackend(model.path, options, exact_routing=exact_routing, name=model.name)
