"""Profiles: which backend does which task, with which settings.

A profile is a YAML file; the ones beside this module are known by name. Models are loaded when the first
backend of a task is asked for, once per process.
"""

from resources.profiles.building import PROTOCOLS, build_backend, build_ladder
from resources.profiles.licences import require_permitted
from resources.profiles.profile import BackendConfig, Profile
from resources.profiles.reading import demands_commercial_use, load_profile, profile_file, profile_names
from resources.profiles.status import BackendStatus, backend_report
from resources.profiles.usage import ProfileModel, gpu_tasks, needed_models, profile_models, used_tasks

__all__ = [
    "PROTOCOLS",
    "BackendConfig",
    "BackendStatus",
    "Profile",
    "ProfileModel",
    "backend_report",
    "build_backend",
    "build_ladder",
    "demands_commercial_use",
    "gpu_tasks",
    "load_profile",
    "needed_models",
    "profile_file",
    "profile_models",
    "profile_names",
    "require_permitted",
    "used_tasks",
]
