"""Text that stands for numbers: decimals, percentages, amounts, yes and no."""

import math
import re
from collections.abc import Callable, Sequence

from pygrade.logs.arrays import evenly_spaced

_UNKNOWN = {"", "-", "--", "?", "nan", "na", "n/a", "n.a.", "#n/a", "null", "(null)", "none", "nil", "\\n", "missing"}
_UNKNOWN |= {"unknown", "undefined", "unbekannt", "k.a.", "k. a.", "keine angabe", "inconnu"}
_YES = ("y", "yes", "true", "t", "on", "ja", "j", "wahr", "oui", "vrai", "sí", "si", "sì", "sim")
_NO = ("n", "no", "false", "f", "off", "nein", "falsch", "non", "faux", "não", "nao", "nee")
_FLAGS = dict.fromkeys(_YES, 1.0) | dict.fromkeys(_NO, 0.0)
_MONEY = re.compile(r"^([$€£¥]|usd|eur|gbp)\s*|\s*([$€£¥]|usd|eur|gbp)$")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?")
_COMMA = re.compile(r"[+-]?(\d*,\d+|\d+)(e[+-]?\d+)?")
_THOUSANDS = {",": re.compile(r"[+-]?\d{1,3}(,\d{3})*(\.\d*)?"), ".": re.compile(r"[+-]?\d{1,3}(\.\d{3})*(,\d*)?")}
_GROUPED = {",": re.compile(r"\d,\d{3}[.,]"), ".": re.compile(r"\d\.\d{3}[.,]")}  # shows that the sign groups thousands
_SAMPLE, _MOST = 1000, 0.6  # texts of which so many are numbers, where a column's are


def is_unknown(text: str) -> bool:
    """Does the text say that the value is missing?"""
    return text.strip().lower() in _UNKNOWN


def read_numbers(texts: Sequence[str]) -> tuple[list[float], list[bool]] | None:
    """The numbers that most of distinct texts stand for, NaN of others, and which others say something else than that
    a value is missing; None if most are no numbers.

    All are read in one way, which fits most of them: yes and no (1 and 0); numbers with a decimal point; with a decimal
    comma, if some have another number of digits behind it than three; with signs between thousands, if some show which
    sign that is. Percentages are their hundredths. A sign of one currency may stand before or after a number.

    >>> read_numbers(["Y", "", "n"]), read_numbers(["3.5%"]), read_numbers(["0,25", "1,125"])
    (([1.0, nan, 0.0], [False, False, False]), ([0.035], [False]), ([0.25, 1.125], [False, False]))
    >>> read_numbers(["$1,200.50", "$3"]), read_numbers(["1", "2", "3", "4", "L"])
    (([1200.5, 3.0], [False, False]), ([1.0, 2.0, 3.0, 4.0, nan], [False, False, False, False, True]))
    >>> read_numbers(["1,125"]), read_numbers(["12", "L"])
    (None, None)
    """
    words = [text.strip().lower() for text in texts]
    known = [word for word in words if word not in _UNKNOWN]
    if not known:
        return None
    if (numbers := _plain(words)) is not None:
        return numbers, [False] * len(words)
    some = [known[place] for place in evenly_spaced(len(known), _SAMPLE)]
    count, read = max(((sum(_reads(read, some)), read) for read in _ways(some)), key=lambda pair: pair[0])
    if count < (2 if read == _FLAGS.get else _MOST * len(some)) and count < len(some):
        return None
    found = [math.nan if word in _UNKNOWN else read(word) for word in words]
    return [math.nan if number is None else number for number in found], [number is None for number in found]


def _plain(words: Sequence[str]) -> list[float] | None:
    """The numbers, if all are written as Python does: the usual case, and fast."""
    try:
        return None if any("_" in word for word in words) else [float("nan" if w in _UNKNOWN else w) for w in words]
    except ValueError:
        return None


def parse_numbers(texts: Sequence[str]) -> list[float] | None:
    """The numbers that all of the texts stand for, as `read_numbers` reads them; None if some are none.

    >>> parse_numbers(["12", "L"]), parse_numbers(["12", "n/a"])
    (None, [12.0, nan])
    """
    found = read_numbers(texts)
    return None if found is None or any(found[1]) else found[0]


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


_Read = Callable[[str], float | None]


def _reads(read: _Read, words: Sequence[str]) -> list[bool]:
    return [read(word) is not None for word in words]


def _ways(words: Sequence[str]) -> list[_Read]:
    """The ways to read these words, of which the first that fits most of them is taken."""
    signs = {found.group().strip() for word in words if (found := _MONEY.search(word))}
    money = len(signs) == 1
    bare = [_MONEY.sub("", word) if money else word for word in words]
    plain = [word.removesuffix("%").strip() for word in bare]
    forms: list[tuple[re.Pattern[str], str, str]] = [(_POINT, "", "")]
    if any(len(word.partition(",")[2]) != 3 for word in plain if _DECIMAL_COMMA.fullmatch(word)):
        forms.append((_COMMA, "", ","))
    for sign, decimal in ((",", "."), (".", ",")):
        if any(_GROUPED[sign].search(word) for word in plain):
            forms.append((_THOUSANDS[sign], sign, decimal))
    ways: list[_Read] = [_FLAGS.get]
    for form, grouping, decimal in forms:
        for percent in (False, True):
            ways.append(_reader(form, grouping, decimal, percent, money))
    return ways


def _reader(form: re.Pattern[str], grouping: str, decimal: str, percent: bool, money: bool) -> _Read:
    def read(word: str) -> float | None:
        word = _MONEY.sub("", word) if money else word
        if percent != word.endswith("%"):
            return None
        word = word.removesuffix("%").strip()
        if not form.fullmatch(word):
            return None
        word = word.replace(grouping, "") if grouping else word
        number = float(word.replace(decimal, ".") if decimal else word)
        return number * 0.01 if percent else number

    return read
