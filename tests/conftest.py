"""A busy machine makes no test fail: hypothesis judges answers here, not how long they take."""

from hypothesis import HealthCheck, settings

settings.register_profile("jettison", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jettison")
