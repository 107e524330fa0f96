"""The short and the full help, and the list of options that both are made of."""

import importlib
import re
import resource
import subprocess
import sys
from typing import get_type_hints

import pytest

from pygrade.cli.help import MAX_LINES, full_help, short_help
from pygrade.cli.option_list import COMMANDS, fields_of, groups_of, options_class, options_of, spoken


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_an_option(command):
    kind, options = options_class(command), options_of(command)
    names = [option.name for option in options]
    assert len(set(names)) == len(names)
    groups = {prefix: group for prefix, group, _ in groups_of(kind)}
    for prefix, group in {"": kind, **groups}.items():
        for entry, _ in fields_of(group):
            name = ".".join(filter(None, (prefix, entry.name)))
            assert (name in groups) != (name in names), name
    assert set(getattr(kind, "ESSENTIAL", ())) <= set(names)


def test_defaults_of_nested_options_are_those_of_the_command():
    steps = {option.name: option.default for option in options_of("online")}
    assert steps["online.step.steps"] == 25 and steps["online.step.batch_size"] == 256


def test_every_command_has_a_module():
    for command in COMMANDS:
        module = importlib.import_module(f"pygrade.cli.commands.{command.replace('-', '_')}")
        assert get_type_hints(module.run)["options"] is options_class(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_short_help_fits_a_screen_and_has_the_required_options_first(command):
    lines = short_help(command, 80).splitlines()
    assert len(lines) <= MAX_LINES == 40 and max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: pygrade {spoken(command)}")
    found = options_of(command)
    text = "\n".join(lines)
    assert "--json" in text and "--traceback" in text and "--config FILE" in text and "--help-all" in text
    required = [option for option in found if option.needed]
    shown = re.findall(r"^  (--\S+|[A-Z|]+(?=[ …\n]))", text, re.MULTILINE)
    assert set(shown[: len(required)]) == {o.kind.split()[0] if o.positional else o.flag for o in required}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_full_help_has_every_option_with_its_text(command):
    text = full_help(command, 100)
    words = " ".join(text.split())
    for option in options_of(command):
        if not option.positional:
            assert option.flag in text or option.negative.replace("no-", "[no-]", 1) in text
        if option.name not in ("json", "quiet", "traceback"):
            assert " ".join(option.text.split()) in words, option.name
    assert max(map(len, text.splitlines())) <= 100


def test_every_option_says_what_it_is():
    lacking = {f"{command} {option.flag}" for command in COMMANDS for option in options_of(command) if not option.text}
    assert not {name for name in lacking if "--world." not in name}  # constants of the simulation are named well


def test_a_flag_that_is_on_reads_like_one():
    text = short_help("train", 80)
    assert "--[no-]resume" in text and "--no-resume  " not in text and "default: on" in text
    assert "--[no-]explore" not in short_help("rank", 80)


def test_help_imports_neither_torch_nor_the_command():
    for option in ("--help", "--help-all"):
        code = (
            f"import sys; from pygrade.cli.main import main; code = main(['pipeline', '{option}'])\n"
            "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 0 and run.stdout.startswith("usage: pygrade pipeline"), run.stderr


def test_help_takes_a_quarter_of_a_second_at_most():
    def seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        before = seconds()
        subprocess.run([sys.executable, "-m", "pygrade", "pipeline", "--help"], capture_output=True, check=True)
        times.append(seconds() - before)
    assert min(times) <= 0.25, times


def test_the_number_of_requests_has_one_name():
    counts = [option.name for command in COMMANDS for option in options_of(command) if option.kind == "INT"]
    assert "requests" in counts and "num_requests" not in counts
