"""Model backends: one file per task, and the registry of the weights they load."""
