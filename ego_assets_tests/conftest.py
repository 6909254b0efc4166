"""Settings of the whole suite."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Timing never decides a test: machines that run the suite are shared and slow at times.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Nothing that runs in a test asks a model hub, whatever a library would like to.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
