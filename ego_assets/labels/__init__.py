"""What hands do, which regions belong together, what happens when, and in which words."""
