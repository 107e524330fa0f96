"""Parser of the words of a command line into the options of a command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pygrade.cli.config_file import Setting, Table, Word, build, near, read_options, read_table, reads_itself
from pygrade.cli.option_list import Option, has_field, is_mapping, options_class, options_of, spoken

_USUAL = "pygrade.toml"  # the usual name of the file


def parse(command: str, arguments: Sequence[str]) -> Any:
    """The options of a command: those of the command line, else those of --config, else the defaults.

    ``ValueError`` for a word that is no option, a value of another type, and a required option that is absent.
    """
    options = options_of(command)
    config = None if reads_itself(command) else Option("config", Path, None, "")
    words_of = _words_of(command, [*options, *([config] if config else [])], arguments)
    path = words_of.pop("config")[0] if config and "config" in words_of else None
    hints = {option.name: option.hint for option in options}
    stated = {
        name: Setting(words if isinstance(words, bool) else from_words(words, hints[name]), f"--{_group_of(name)}")
        for name, words in words_of.items()
    }
    if path is not None:
        stated = read_options(Path(path), command) | stated
    elif "config" in stated:  # the command reads its table itself, but for what is required
        file = Path(stated["config"].value)
        table, required = read_table(file, command), {option.name for option in options if option.required}
        stated = {n: Setting(v, f"config {file}: [{command}] ") for n, v in table.items() if n in required} | stated
    needed = [option for option in options if option.needed and option.unless not in stated]
    if absent := [option for option in needed if option.name not in stated]:
        wanted = ", ".join(f"{option.flag} {option.kind}" for option in absent)
        wanted += "".join(f", or --{name}" for name in dict.fromkeys(o.unless for o in absent if o.unless))
        here = path is None and "config" not in stated and Path(_USUAL).is_file()
        hint = f"; {_USUAL} is here: it is read if it is named, --config {_USUAL}" if here else ""
        raise ValueError(f"{command} wants {wanted} (see pygrade {spoken(command)} --help){hint}")
    return build(options_class(command), stated)


def _group_of(name: str) -> str:
    return name[: name.rfind(".") + 1]


def _words_of(command: str, options: Sequence[Option], arguments: Sequence[str]) -> dict[str, Any]:
    """Name → words of each option that is given; of flags, whether they are on."""
    names = {word: option for option in options for word in (option.flag, option.alias) if word}
    off = {option.negative: option for option in options if option.negative}
    first = next((option for option in options if option.positional), None)
    stated: dict[str, Any] = {}
    current = first  # takes the words that come; after the options only if it is not given
    for word in arguments:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if not word.startswith("--"):
            if current is None or (len(stated.get(current.name, ())) == 1 and not _is_list(current.hint)):
                current = first if first is not None and first.name not in stated else None
            if current is None:
                raise ValueError(f"{command} has no option {word}; see pygrade {spoken(command)} --help-all")
            stated.setdefault(current.name, []).append(word)
        elif flag in names and names[flag].hint is not bool:
            current = names[flag]
            if current.name == "config" and "config" in stated:
                raise ValueError("config is given twice; want one file")
            stated[current.name] = [value] if equals else []
        elif (flag in names or flag in off) and not equals:
            stated[(names.get(flag) or off[flag]).name] = flag in names
            current = None
        else:
            group, _, name = flag.lstrip("-").rpartition(".")
            in_file = (
                has_field(options_class(command), f"{group}.{name}") and f"a file takes it: [{command}.{group}] {name}"
            )
            wanted = in_file or near(flag, [*names, *off]) or f"see pygrade {spoken(command)} --help-all"
            raise ValueError(f"{command} has no option {word}; {wanted}")
    for option in options:
        if stated.get(option.name) == [] and not _is_list(option.hint):
            raise ValueError(f"{option.flag} wants one value (see pygrade {spoken(command)} --help)")
    return stated


def _is_list(hint: Any) -> bool:
    return any(is_mapping(kind) or get_origin(kind) is tuple for kind in (hint, *get_args(hint)))


def from_words(words: Sequence[str], hint: Any) -> Any:
    """The words of an option as a file would have them, in lists and tables; what they are is read later.

    >>> from_words(["app.click=2,web.click=1"], dict[str, dict[str, float]])
    {'app': {'click': '2'}, 'web': {'click': '1'}}
    """
    kinds = (hint, *get_args(hint)) if get_origin(hint) not in (tuple, dict) else (hint,)
    for kind in kinds:
        if is_mapping(kind):
            return _pairs(words, get_args(kind)[1])
        if get_origin(kind) is tuple and (len(words) != 1 or kind is hint):
            return _entries(words, get_args(kind)[0])
    return Word(words[0]) if words else []


def _entries(words: Sequence[str], kind: Any) -> list[Any]:
    """The words as entries of a tuple, which may be tuples."""
    if get_origin(kind) is not tuple:
        return list(map(Word, words))
    size, inner = len(get_args(kind)), get_args(kind)[0]
    return [_entries(words[at : at + size], inner) for at in range(0, len(words), size)]


def _pairs(words: Sequence[str], kind: Any) -> Table:
    """``click=1,buy=2`` of numbers, ``name=text`` of text, ``app.click=2`` of tables."""
    result: Table = {}
    for pair in words if kind is str else [pair for word in words for pair in word.split(",") if pair]:
        key, equals, value = pair.partition("=")
        table = result
        if is_mapping(kind):
            outer, dot, key = key.partition(".")
            equals, table = equals and dot, result.setdefault(outer, {})
        if not equals or not key:
            wanted = "KEY.KEY=NUMBER" if is_mapping(kind) else "KEY=TEXT" if kind is str else "KEY=NUMBER"
            raise ValueError(f"{pair!r} is not {wanted}")
        table[key] = Word(value)
    return result
