"""Numbers as people read them. Every function takes what JSON can hold, None and NaN included."""

import math
from collections.abc import Sequence

ABSENT = "–"


def significant(value: float | None, digits: int = 3) -> str:
    """So many significant digits, without exponents: 0.0236, 22.6, 2,127,499."""
    if value is None or math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return "<0.0001" if value > 0 else ">−0.0001"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def signed(value: float, form: str = ".2f") -> str:
    """With a real minus, and no zero below zero: −0.31, 0.00."""
    text = f"{value:{form}}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def loss(value: float | None) -> str:
    """Four decimals, as the paper prints the noise loss; two digits below 0.001."""
    if value is None or not math.isfinite(value) or abs(value) < 1e-3:
        return significant(value, 2)
    return f"{value:.4f}"


def mask(value: float | None) -> str:
    """A mask or a mean of masks: 1, 0.953, 0.0040."""
    if value == 1:
        return "1"
    return significant(value, 3 if value is not None and value >= 0.1 else 2)


def squared_error(value: float | None) -> str:
    """Squared error summed over a picture: 24.67, 1,700."""
    return significant(value, 4 if value is not None and value < 1000 else 3)


def decibel(value: float | None) -> str:
    """Peak signal-to-noise ratio with one decimal."""
    if value is None or not math.isfinite(value):
        return significant(value)
    return f"{value:.1f} dB"


def quantity(value: float) -> str:
    """A large number in three digits: 2,048, 850 k, 12.3 M, 1.05 G."""
    scaled, unit = _unit(value)
    return f"{significant(scaled)} {unit}" if unit else f"{value:,.4g}"


def tick(value: float) -> str:
    """A number on an axis, without zeros at its end: 0.6, 2,400, 750 k, 12 M."""
    scaled, unit = _unit(value)
    return f"{scaled:,.4g} {unit}".strip().replace("-", "−")


def _unit(value: float) -> tuple[float, str]:
    for least, size, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return value / size, unit
    return value, ""


def times(ratio: float) -> str:
    """A ratio in words: `70 times`, `2.4 times`."""
    return f"{significant(ratio, 2)} times"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def percent(share: float) -> str:
    """A share of 1 as a percentage, one decimal below 10 %."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 9.95 else f"{value:.1f} %"


def per_channel(values: list[float]) -> str:
    """Masks of each channel, up to eight of them."""
    shown = " · ".join(mask(value) for value in values[:8])
    return shown if len(values) <= 8 else f"{shown} · …"
