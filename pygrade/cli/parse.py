"""From the words of a command line to the options of a command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pygrade.cli.config_file import Setting, Table, Word, build, near, read_options, read_table, reads_own_table
from pygrade.cli.option_list import Option, is_mapping, options_class, options_of, table_of, typed

_USUAL = "pygrade.toml"  # the usual name of the file


def parse(command: str, arguments: Sequence[str]) -> Any:
    """The options of a command: those of the command line, else those of --config, else the defaults.

    ``ValueError`` for a word that is no option, a value of another type, and a required option that is absent.
    """
    options, own = options_of(command), reads_own_table(command)
    stated = _read_words(command, options if own else [*options, Option("config", Path, None)], arguments)
    file = stated.get("config") if own else stated.pop("config", None)
    if file and own:  # the command reads its table itself, but for what is required
        table, required = read_table(Path(file.value), command), [option.name for option in options if option.required]
        where = f"config {file.value}: [{command}] "
        stated = {name: Setting(value, where) for name, value in table.items() if name in required} | stated
    elif file:
        stated = read_options(Path(file.value), command) | stated
    needed = [option for option in options if option.needed and option.unless not in stated]
    if absent := [option for option in needed if option.name not in stated]:
        wanted = [", ".join(f"{option.flag} {option.kind}" for option in absent)]
        wanted += [f"or --{name}" for name in dict.fromkeys(option.unless for option in absent) if name]
        here = not file and Path(_USUAL).is_file()
        hint = f"; {_USUAL} is here: it is read if it is named, --config {_USUAL}" if here else ""
        raise ValueError(f"{command} needs {', '.join(wanted)} (see pygrade {typed(command)} --help){hint}")
    return build(options_class(command), stated)


def _read_words(command: str, options: Sequence[Option], arguments: Sequence[str]) -> dict[str, Setting]:
    """The options that words give, by name."""
    on = {word: option for option in options for word in (option.flag, option.alias) if word}
    off = {option.negative: option for option in options if option.negative}
    first = next((option for option in options if option.positional), None)
    words_of: dict[str, Any] = {}  # of flags, whether they are on
    current = first  # takes the words that come; after the options only if it is not stated
    for word in arguments:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if not word.startswith("--"):
            if current is None or (words_of.get(current.name) and not _is_list(current.hint)):
                current = None if first is None or first.name in words_of else first
            if current is None:
                raise ValueError(f"{command} has no option {word}; see pygrade {typed(command)} --help-all")
            words_of[current.name] = [*words_of.get(current.name, ()), word]
        elif flag in on and on[flag].hint is not bool:
            current = on[flag]
            if current.name == "config" and "config" in words_of:
                raise ValueError("config is given twice; expected one file")
            words_of[current.name] = [value] if equals else []
        elif (flag in on or flag in off) and not equals:
            words_of[(on.get(flag) or off[flag]).name] = flag in on
            current = None
        else:
            group, _, name = flag.removeprefix("--").rpartition(".")
            in_file = any(option.file_only and option.flag == flag for option in table_of(command))
            wanted = f"a file takes it: [{command}.{group}] {name}" if in_file else near(flag, [*on, *off])
            wanted = "a flag has no value" if flag in on or flag in off else wanted
            raise ValueError(f"{command} has no option {word}; {wanted or f'see pygrade {typed(command)} --help-all'}")
    stated: dict[str, Setting] = {}
    for option in options:
        if (words := words_of.get(option.name)) is not None:
            if words == [] and not _is_list(option.hint):
                raise ValueError(f"{option.flag} needs one value (see pygrade {typed(command)} --help)")
            made = words if isinstance(words, bool) else from_words(words, option.hint)
            stated[option.name] = Setting(made, f"--{option.group}{'.' * bool(option.group)}")
    return stated


def _is_list(hint: Any) -> bool:
    return any(is_mapping(part) or get_origin(part) is tuple for part in (hint, *get_args(hint)))


def from_words(words: Sequence[str], hint: Any) -> Any:
    """The words of an option as a file would have them, in lists and tables; what they are is read later.

    >>> from_words(["app.click=2,web.click=1"], dict[str, dict[str, float]])
    {'app': {'click': '2'}, 'web': {'click': '1'}}
    """
    for kind in (hint,) if get_origin(hint) in (tuple, dict) else (hint, *get_args(hint)):
        if is_mapping(kind):
            return _pairs(words, get_args(kind)[1])
        if get_origin(kind) is tuple and (len(words) != 1 or kind is hint):
            return _entries(words, get_args(kind)[0])
    return Word(words[0]) if words else []


def _entries(words: Sequence[str], part: Any) -> list[Any]:
    """The words as entries of a tuple, which may be tuples."""
    if get_origin(part) is not tuple:
        return list(map(Word, words))
    size, inner = len(get_args(part)), get_args(part)[0]
    return [_entries(words[at : at + size], inner) for at in range(0, len(words), size)]


def _pairs(words: Sequence[str], kind: Any) -> Table:
    """``click=1,buy=2`` of numbers, ``name=text`` of text, ``app.click=2`` of tables."""
    result: Table = {}
    for entry in words if kind is str else [entry for word in words for entry in word.split(",") if entry]:
        key, equals, value = entry.partition("=")
        table = result
        if is_mapping(kind):
            outer, dot, key = key.partition(".")
            equals, table = equals and dot, result.setdefault(outer, {})
        if not equals or not key:
            wanted = "KEY.KEY=NUMBER" if is_mapping(kind) else "KEY=TEXT" if kind is str else "KEY=NUMBER"
            raise ValueError(f"{entry!r} is not {wanted}")
        table[key] = Word(value)
    return result
