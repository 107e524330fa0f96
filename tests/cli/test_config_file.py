"""Options from a file: every command's, checked by name and type; the command line wins."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from pygrade.cli import main as cli
from pygrade.cli.config_file import Setting, build, read_options, read_table, reads_own_table
from pygrade.cli.option_list import COMMANDS, options_class, options_of
from pygrade.cli.parse import from_words, parse
from pygrade.cli.run_directory import to_table, write_options

GOOD = """
[defaults]
seed = 3
quiet = true

[train]
data = "logs:here"
out = "runs/mine"
values = {click = 1, buy = 20}
checkpoint-every = 7

[train.policy]
hidden = [8, 4]
trade_offs = true
minimum = {click = 0.1}
scenario-values = {app = {click = 2}}

[train.stage2]
steps = 6
advantage_clip = "none"

[test-plan]
effect = 0.02

[test_read]
counts = [5, 6]
"""


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "pygrade.toml"
        path.write_text(text)
        return path

    return write


def test_options_come_from_the_file_and_the_command_line_wins(config):
    path = config(GOOD)
    options = parse("train", ["--config", str(path), "--stage2.steps", "9", "--no-quiet"])
    assert (options.data, options.out) == (f"logs:{path.parent / 'here'}", path.parent / "runs/mine")
    assert (options.seed, options.checkpoint_every) == (3, 7)
    assert options.values == {"click": 1.0, "buy": 20.0} and options.value_tasks == ()
    assert options.policy.hidden == (8, 4) and options.policy.minimum == {"click": 0.1}
    assert options.policy.scenario_values == {"app": {"click": 2.0}}
    assert options.stage2.steps == 9 and options.stage2.advantage_clip is None and options.quiet is False
    assert parse("train", [f"--config={path}", "--seed", "5", "--values", "click=2"]).seed == 5


def test_defaults_reach_the_commands_that_have_the_option(config):
    path = config(GOOD)
    demo, check = (read_options(path, name) for name in ("demo", "test-read"))
    assert {name: given.value for name, given in demo.items()} == {"seed": 3, "quiet": True}
    assert {name: given.value for name, given in check.items()} == {"quiet": True, "counts": [5, 6]}
    assert parse("test-read", ["--config", str(path)]).counts == (5, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nseed = 1", "[trian] is not a command; did you mean train"),
        ("[train]\nsede = 1", "[train] sede is not an option; did you mean seed"),
        ("[train.reward]\nprior-wieght = 1", "[train.reward] prior-wieght is not an option; did you mean prior_weight"),
        ("[evaluate]\nseed = 1", "[evaluate] seed is not an option"),
        ("[defaults]\nnothing-like-it = 1", "[defaults] nothing-like-it is not an option; see --help-all"),
        ("[train]\nreward = 3", "[train] reward is not an option"),
        ("[train.stage3]\nsteps = 1", "[train] stage3 is not an option; did you mean stage"),
        ("seed = 1", "seed is 1; expected a table [seed]"),
        ("train = 1", "train is 1; expected a table [train]"),
        ("[train]\nseed = 1.5", "[train] seed is 1.5; expected a whole number"),
        ("[train]\nseed = true", "[train] seed is True; expected a whole number"),
        ("[train]\nresume = 1", "[train] resume is 1; expected true or false"),
        ("[train]\nengine = 'slow'", "[train] engine is 'slow'; expected one of auto, fused, torch"),
        ("[train.policy]\nhidden = [8, 'x']", "[train.policy] hidden[1] is 'x'; expected a whole number"),
        ("[train.policy]\nminimum = {click = 'x'}", "[train.policy] minimum.click is 'x'; expected a number"),
        ("[train.policy]\nslope = 'x'", "[train.policy] slope is 'x'; expected a number or a list"),
        ("[train.stage2]\nclip = -1.0", "[train.stage2] clip is -1.0"),
        ("[train]\nseed = ", "pygrade.toml: "),
        ("[simulate]\nweights = [1, 2]", ""),
    ],
)
def test_what_is_wrong_in_the_file_is_named(capsys, config, text, message):
    path = config(text)
    assert cli.main(["train", "--data", "logs:nowhere", "--out", "x", "--config", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"config {path}: " in printed if message else "nowhere" in printed
    assert message in printed


def test_a_list_of_another_length_is_refused(config):
    with pytest.raises(ValueError, match=r"\[simulate\] weights has 2 entries"):
        parse("simulate", ["--config", str(config("[simulate]\nweights = [1, 2]"))])


def test_the_usual_file_is_not_read_unless_it_is_named(capsys, config, tmp_path, monkeypatch):
    config("[train]\ndata = 'logs:nowhere'\nout = 'x'")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train"]) == 2
    assert "--config pygrade.toml" in capsys.readouterr().err
    assert cli.main(["train", "--config", "pygrade.toml"]) == 2
    assert "nowhere" in capsys.readouterr().err


def made(command, **table):
    """The options of values as a file has them."""
    return build(options_class(command), {name: Setting(value, "") for name, value in table.items()})


@pytest.mark.parametrize("command", COMMANDS)
def test_stored_options_give_the_same_run_again(command, tmp_path):
    """Also none where it is not the default, and options that the command line spells in another way."""
    place = str(tmp_path / "x")
    required = {"data": f"logs:{place}", "out": place, "policy": place, "run": place, "arms": [f"a={place}"]}
    required |= {"files": [place], "exposures": place, "feedback": [place], "values": {"click": 1.0}}
    needed = {option.name for option in options_of(command) if option.needed or isinstance(option.default, Path)}
    options = made(command, **{name: required[name] for name in needed})
    write_options(options, command, tmp_path)
    assert tomllib.loads((tmp_path / "options.toml").read_text())
    again = parse(command, ["--config", str(tmp_path / "options.toml")])
    if reads_own_table(command):  # reads the file itself
        options = dataclasses.replace(options, config=tmp_path / "options.toml")
    assert again == options


def test_paths_of_a_file_are_relative_to_its_folder(tmp_path, monkeypatch):
    """Wherever the command runs, and if the folder is moved; those of the command line are of where it runs."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    options = parse("train", ["--data", "logs:here/logs", "--out", "here/run", "--prior", "s3://shop/policy"])
    write_options(options, "train", Path("here/run"))
    table = tomllib.loads(Path("here/run/options.toml").read_text())["train"]
    assert (table["data"], table["out"], table["prior"]) == ("logs:../logs", ".", "s3://shop/policy")
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    again = parse("train", ["--config", "run/options.toml", "--correction.prior", "mine"])
    assert (again.data, again.out, again.correction.prior) == ("logs:logs", Path("run"), "mine")
    served = tmp_path / "serve.toml"
    served.write_text('[serve]\nrun = "a"\nexposures = "pages"\ntoken_file = "t"\n[serve.runs.b]\nrun = "c"')
    table = read_table(served, "serve")
    assert (table["run"], table["exposures"], table["token_file"]) == (
        str(tmp_path / "a"),
        "pages",
        str(tmp_path / "t"),
    )
    assert table["runs"] == {"b": {"run": str(tmp_path / "c")}}


def test_none_is_stored_if_it_is_not_the_default():
    options = made("train", data="x", out="y", **{"stage2.advantage_clip": "none"})
    table = to_table(options)
    assert options.stage2.advantage_clip is None and table["stage2"]["advantage_clip"] == "none"
    assert "clip_high" not in table["stage2"] and "task_values" not in table["reward"]


def test_files_may_follow_the_options():
    first, last = (parse("doctor", words) for words in (["a.csv", "--quiet"], ["--quiet", "a.csv"]))
    assert first == last and [str(path) for path in last.files] == ["a.csv"]
    judged = parse("evaluate", ["--data", "logs:x", "--policy", "p", "a", "b"])
    assert (judged.policy, judged.runs) == (Path("p"), (Path("a"), Path("b")))  # a value that is there takes no more


def test_pairs_of_the_command_line():
    assert from_words(["a=1,b=2", "c=3"], dict[str, float]) == {"a": "1", "b": "2", "c": "3"}
    assert from_words(["a=x,y", "b=z"], dict[str, str]) == {"a": "x,y", "b": "z"}
    assert from_words(["app.click=2", "app.buy=3,web.click=1"], dict[str, dict[str, float]]) == {
        "app": {"click": "2", "buy": "3"},
        "web": {"click": "1"},
    }
    for words, kind in ((["a"], float), (["=1"], float), (["app=2"], dict[str, float])):
        with pytest.raises(ValueError, match="is not KEY"):
            from_words(words, dict[str, kind])


def test_values_of_a_data_set_keep_those_that_are_not_given(config):
    words = ["--data", "kuairand:x", "--out", "y"]
    default = parse("pipeline", words).kuairand.task_values
    given = parse("pipeline", [*words, "--kuairand.task-values", "click=7"]).kuairand.task_values
    assert given == {**default, "click": 7.0} != default
    path = config("[pipeline.kuairand]\ntask-values = {click = 7}")
    assert parse("pipeline", [*words, "--config", str(path)]).kuairand.task_values == given


def test_the_service_reads_its_table_itself(config):
    """It has more than the command line can say, such as arms; what is required may stand there, too."""
    from pygrade.cli.commands import serve

    path = config('[serve]\nrun = "runs/shop"\nport = 9000\narms = [{name = "main", share = 1.0}]\n[train]\nseed = 4')
    options = parse("serve", ["--config", str(path), "--threads", "2"])
    assert (options.run, options.config, options.threads) == (path.parent / "runs/shop", path, 2)
    table = serve.table_of(options)
    assert (table["port"], table["threads"], table["arms"][0]["name"]) == (9000, 2, "main") and "run" not in table
    assert read_options(path, "train")["seed"].value == 4
