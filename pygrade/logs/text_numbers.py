"""Text that stands for numbers: decimals, percentages, yes and no."""

import math
import re
from collections.abc import Sequence

_UNKNOWN = {"", "nan", "na", "n/a", "null"}
_FLAGS = {"y": 1.0, "yes": 1.0, "true": 1.0, "n": 0.0, "no": 0.0, "false": 0.0}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


def is_unknown(text: str) -> bool:
    """Does the text say that the value is missing?"""
    return text.strip().lower() in _UNKNOWN


def parse_numbers(texts: Sequence[str]) -> list[float] | None:
    """The numbers that all of the texts stand for, NaN where one is blank; None if they are no numbers.

    They are yes and no (1 and 0), percentages (their hundredths), or decimals with a point, or with a comma if some
    have another number of digits behind it than three.

    >>> parse_numbers(["Y", "", "n"]), parse_numbers(["3.5%"]), parse_numbers(["0,25", "1,125"])
    ([1.0, nan, 0.0], [0.035], [0.25, 1.125])
    >>> parse_numbers(["1,125"]), parse_numbers(["12", "L"])
    (None, None)
    """
    words = [text.strip().lower() for text in texts]
    known = [word for word in words if word not in _UNKNOWN]
    if not known:
        return None
    if all(word in _FLAGS for word in known):
        return [_FLAGS.get(word, math.nan) for word in words]
    scale = 1.0
    if all(word.endswith("%") for word in known):
        known, scale = [word[:-1].strip() for word in known], 0.01
    with_comma = [word for word in known if "," in word]
    if with_comma:
        decimal = all(_DECIMAL_COMMA.fullmatch(word) for word in with_comma) and not any("." in word for word in known)
        if not decimal or all(len(word.partition(",")[2]) == 3 for word in with_comma):
            return None
        known = [word.replace(",", ".") for word in known]
    try:
        numbers = iter([float(word) for word in known])
    except ValueError:
        return None
    return [math.nan if word in _UNKNOWN else next(numbers) * scale for word in words]


def parse_number(text: str) -> float:
    """One value as `parse_numbers` reads it, with a comma before three digits as a decimal one; ValueError if it is no
    number.
    """
    found = parse_numbers([text.replace(",", ".")]) if _DECIMAL_COMMA.fullmatch(text.strip(" %")) else None
    found = found or parse_numbers([text])
    if found is not None:
        return found[0]
    if is_unknown(text):
        return math.nan
    raise ValueError(f"{text!r} is no number")
