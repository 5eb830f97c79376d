"""
The tests of single modules, with a folder for each room of the package.
"""

from hypothesis import HealthCheck, settings

# Other processes may have the machine while the first examples are made.
settings.register_profile(
    "portlisten", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("portlisten")
