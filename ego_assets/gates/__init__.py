"""One module per artifact: its gates, their thresholds with source, and the functions that judge."""
