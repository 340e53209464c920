from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast an example is drawn or run depends on what else the machine does, and says nothing about the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
