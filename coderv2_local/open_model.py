"""A model's name → a backend that answers."""

from coderv2_local.backend import Backend
from coderv2_local.home import home
from coderv2_local.installed import note_use
from coderv2_local.models import Model
from coderv2_local.placement.load_wishes import NO_WISHES, LoadWishes


def open_model(model: Model, wishes: LoadWishes = NO_WISHES, *, exact_routing: bool = True) -> Backend:
    """Load a file, placed on this machine as it suits both, or reach a server.

    A server has decided how its model is loaded, and `wishes` and `exact_routing`, which settings may have made, are
    none of its business. What a user typed for this one load is to be refused before (`cli.options`).

    Raises:
        CoderError: what loading or reaching it raises.
    """
    if model.path is None:
        from coderv2_local import remote

        server = model.server or {}
        address = model.address + (f"#{server['model']}" if "model" in server and "#" not in model.address else "")
        return remote.open(address, server.get("key_variable"))
    from coderv2_local.local_backend import LocalBackend  # brings llama.cpp, which a server does not need
    from coderv2_local.states.prefix_states import PrefixStates

    states = PrefixStates(home() / "states")
    backend = LocalBackend(model.path, wishes, exact_routing=exact_routing, name=model.name, states=states)
    note_use(model.path)
    return backend
