"""How well a model does on held-out code: documents → holes → answers → measures."""
