"""Measures blur, exposure and frame completeness of an original. Numbers only, never pictures."""
