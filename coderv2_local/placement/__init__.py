"""Where a model's parts go on a machine, why, and how fast it will be."""
