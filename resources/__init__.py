"""Everything outside the process: metadata database, artifact store, vault of originals, models."""
