"""Turns committed layers into what consumers receive: clip folders, archives, the manifest and the SDK."""
