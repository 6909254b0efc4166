"""Types and protocols that everything else stands on. Imports nothing else of the project."""
