"""What holds for every test: no property is wrong because the machine was busy."""

from hypothesis import HealthCheck, settings

settings.register_profile("netd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("netd")
