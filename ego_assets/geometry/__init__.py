"""Where the camera was and how far away things are, from pictures alone."""
