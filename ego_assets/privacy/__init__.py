"""De-identification: which frames to examine, tracks, redaction, and the report on what was found.

Nothing here chooses a model or opens a file by itself: detectors and paths are handed in.
"""
