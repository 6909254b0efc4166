"""Reading and writing video: probe, time line, decode, encode, frame archives, contact sheets."""
