"""How many examples a property is tried on: few in the gate, many at night.

`pytest --hypothesis-profile=nightly` tries the number that stands at the property. What fails at
night is kept by name in the property's own test, so that the gate knows it from then on.
"""

from typing import Any

from hypothesis import HealthCheck, settings

GATE, NIGHTLY = "gate", "nightly"
_USUAL, _SHARE, _LEAST = 100, 6, 15


def register_profiles() -> None:
    """Make both known to hypothesis; the gate's is taken unless the command line names another."""
    for name, count in ((GATE, _USUAL // _SHARE), (NIGHTLY, _USUAL)):
        settings.register_profile(
            name,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            max_examples=count,
        )
    settings.load_profile(GATE)


def examples(count: int, **more: Any) -> settings:
    """Return the settings of a property that so many examples show at night.

    No deadline: how long an example takes is the machine's affair.
    """
    if settings.get_current_profile_name() != NIGHTLY:
        count = min(count, max(_LEAST, count // _SHARE))
    return settings(max_examples=count, **more)
