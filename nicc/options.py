"""What a user chooses when encoding. Imports nothing heavy."""

from __future__ import annotations

EFFORT_STEPS = (0, 100, 500, 2000)
"""Steps of iterative encoding by effort."""
ROUNDINGS = ("sigmoid", "atanh", "three-class")
"""Ways of relaxed rounding, see `nicc.encoder.iterative`."""
DEVICES = ("auto", "cpu", "cuda")


def bytes_of(text: str) -> int:
    """Bytes of a size such as 20000, 20kB or 20KiB. Raises `ValueError`."""
    number = text.strip().lower()
    units = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1}
    unit = next((u for u in units if number.endswith(u)), "")
    value = float(number.removesuffix(unit)) * units.get(unit, 1)
    if not 1 <= value < 1 << 40:
        raise ValueError(text)
    return int(value)
