"""One module per artifact: its gates, their thresholds with their source, and the functions that judge them."""
