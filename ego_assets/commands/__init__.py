"""The commands of ``ego-assets``, one module per subject."""
