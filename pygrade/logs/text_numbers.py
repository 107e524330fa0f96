"""Text that stands for numbers: decimals, percentages, amounts, yes and no."""

import math
import re
from collections.abc import Sequence

_UNKNOWN = {"", "-", "--", "?", "nan", "na", "n/a", "null", "none", "unknown", "missing", "\\n"}
_FLAGS = dict.fromkeys(("y", "yes", "true", "t", "on"), 1.0) | dict.fromkeys(("n", "no", "false", "f", "off"), 0.0)
_SIGN = r"[$€£]|usd|eur|gbp|chf"  # of currencies
_NUMBER = re.compile(rf"(?:{_SIGN})?\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?inf)\s*({_SIGN}|%|)")
_DECIMAL_COMMA = re.compile(r"\D*\d*,(?!\d{3}\D*$)\d+\D*")
_THOUSANDS = re.compile(r"\d,\d{3}\.\d")  # shows that a comma groups thousands
_CODE = re.compile(r"0\d+")  # 007 is not 7
_MOST = 0.6  # of the texts that are numbers, where a column's are


def is_unknown(text: str) -> bool:
    """Return whether the text means that the value is missing."""
    return text.strip().lower() in _UNKNOWN


def read_numbers(texts: Sequence[str]) -> tuple[list[float], list[bool]] | None:
    """The numbers that most of distinct texts stand for, NaN of others, and which others say something else than that
    a value is missing; None if most are no numbers, or one is a code with a leading zero, such as 007.

    All are read in one way: yes and no (1 and 0); numbers, with a decimal comma if some have another number of digits
    behind it than three, with commas between thousands if some show that; percentages, which are their hundredths. A
    sign of a currency may stand before or after a number.

    >>> read_numbers(["Y", "", "n"]), read_numbers(["3.5%"]), read_numbers(["0,25", "1,125"])
    (([1.0, nan, 0.0], [False, False, False]), ([0.035], [False]), ([0.25, 1.125], [False, False]))
    >>> read_numbers(["$1,200.50", "$3"]), read_numbers(["1", "2", "3", "4", "L"])
    (([1200.5, 3.0], [False, False]), ([1.0, 2.0, 3.0, 4.0, nan], [False, False, False, False, True]))
    >>> read_numbers(["1,125"]), read_numbers(["12", "L"]), read_numbers(["7", "007"])
    (None, None, None)
    """
    words = [text.strip().lower() for text in texts]
    filled = [word for word in words if word not in _UNKNOWN]
    if not filled or any(map(_CODE.fullmatch, filled)):
        return None
    numbers: list[float | None] = [_FLAGS.get(word) for word in words]
    if sum(number is not None for number in numbers) < min(2, len(filled)):
        sign = ","  # that stands for a decimal point, or for nothing
        if any(map(_THOUSANDS.search, filled)):
            words = [word.replace(sign, "") for word in words]
        elif any(map(_DECIMAL_COMMA.fullmatch, filled)):
            words = [word.replace(sign, ".") for word in words]
        percent = sum(word.endswith("%") for word in filled) > len(filled) / 2
        numbers = [_number(word, percent) for word in words]
        if sum(number is not None for number in numbers) < _MOST * len(filled):
            return None
    wrong = [number is None and word not in _UNKNOWN for number, word in zip(numbers, words, strict=True)]
    return [math.nan if number is None else number for number in numbers], wrong


def _number(word: str, percent: bool) -> float | None:
    match = _NUMBER.fullmatch(word)
    if match is None or percent != (match[2] == "%"):
        return None
    return float(match[1]) * (0.01 if percent else 1.0)


def parse_number(text: str) -> float:
    """One value as `read_numbers` reads it, with a comma as a decimal one; NaN if it is missing, ValueError if it is no
    number.
    """
    if is_unknown(text):
        return math.nan
    parsed = read_numbers([text.replace(",", ".") if text.count(",") == 1 and "." not in text else text])
    if parsed is None or parsed[1][0]:
        raise ValueError(f"{text!r} is no number")
    return parsed[0][0]
