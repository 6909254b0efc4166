"""Scores clips and summarises a collection for the people who curate it."""
