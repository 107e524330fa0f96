"""The files of a policy: never half, never mixed, and refused alike by Python and C++ if damaged."""

import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pygrade import _core
from pygrade._util.serialization import ArtifactError
from pygrade.config.policy import PolicyConfig
from pygrade.policy import Correction, FusionPolicy, PolicySpec, file
from pygrade.policy.correction import LEVEL, ItemEffects
from pygrade.policy.mixture import Baseline, Mixture
from tests.corrections import random_correction
from tests.refusals import refuses

TASKS, FEATURES = ("click", "cart", "order"), ("hour", "intent")
VECTOR = Path(__file__).parents[1] / "vectors/policy"


def make_policy(seed: int = 0, **options: object) -> FusionPolicy:
    spec = PolicySpec(TASKS, FEATURES, PolicyConfig(**{"hidden": (4,), **options}))  # type: ignore[arg-type]
    policy = FusionPolicy(spec, seed=seed)
    policy.set_static_weights(torch.tensor([0.2, 0.3, 0.5]), {"feed": torch.tensor([0.1, 0.0, 0.9])})
    return policy


KNOTS = ((0.0, 0.5, 1.0), (0.0, 0.1, 0.3))


def mixture(mixture_weight: float = 0.25, **baseline: object) -> Mixture:
    options = {"name": "expected value", "transform": "identity", "weights": (1.0, 2.0, 3.0), **baseline}
    return Mixture(mixture_weight, Baseline(**options), "worse", "worse than it")  # type: ignore[arg-type]


def correction(**fields: object) -> Correction:
    options = {"tasks": TASKS, "features": FEATURES, "items": ("price",), "indicators": (1,), "parents": (-1, 0, -1)}
    return random_correction(**{"form": "marginal", "amounts": (False, False, True), **options, **fields})


def levels(value: float) -> ItemEffects:
    return ItemEffects(np.array([1, 2], np.uint64), np.full((2, len(TASKS)), value, np.float32))


def make_corrected() -> FusionPolicy:
    """With all that a policy may have."""
    policy = make_policy(5, corrected=True, value_tasks=("order", "cart"), indicators=("intent", "hour"))
    policy.correction = correction()
    challenger = Baseline("corrected", "identity", (1.0, 2.0, 3.0), True, ("order",), (KNOTS,) * 3, corrected=True)
    policy.mixture = replace(
        mixture(corrected=True, logarithm=True),
        challenger=challenger,
        detail="z 3.1",
        reasons=("orders × 1.9",),
        lift=(0.02, 0.01, 0.03),
        weeks=3.5,
        baselines=(challenger,),
    )
    return policy


@pytest.fixture
def policy() -> FusionPolicy:
    policy = make_policy(7, minimum={"order": 0.05}, lower=(0.01, 0.01, 0.02), scenario_exploration={"feed": 0.5})
    policy.mixture = mixture(calibration=(KNOTS,) * 3, value_tasks=("order",), logarithm=True)
    policy.fit_normalization(torch.randn(50, policy.num_inputs, generator=torch.Generator().manual_seed(2)))
    return policy


@pytest.fixture
def folder(policy, tmp_path) -> Path:
    return policy.save(tmp_path / "policy", extra={"note": "x"})


def sealed(text: bytes) -> bytes:
    """The text of policy.json with its hash made right again."""
    place = b'\n  "json_sha256": "'
    at = text.index(place) + len(place)
    blank = text[:at] + b"0" * 64 + text[at + 64 :]
    return blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + 64 :]


def refused(folder: Path, named: str = r"policy\.json") -> None:
    for load in (FusionPolicy.load, lambda path: _core.Policy.load(str(path))):
        with pytest.raises(ValueError, match=named) as error:
            load(folder)
        assert load is not FusionPolicy.load or error.type is ArtifactError


def version_in(folder: Path) -> str:
    version = FusionPolicy.load(folder).version
    assert _core.Policy.load(str(folder)).version == version
    return version


def tensors_of(folder: Path) -> Path:
    (path,) = folder.glob("policy-*.safetensors")
    return path


def test_save_and_load_give_the_same_policy(policy, folder) -> None:
    loaded = FusionPolicy.load(folder)
    assert version_in(folder) == policy.version
    assert loaded.spec == policy.spec and loaded.mixture == policy.mixture
    inputs = torch.randn(6, policy.num_inputs, generator=torch.Generator().manual_seed(3))
    assert torch.equal(loaded.serve(inputs), policy.serve(inputs))
    assert torch.equal(loaded.fallback_weights("feed"), policy.fallback_weights("feed"))
    assert float(loaded.fallback_weights("feed")[2]) == pytest.approx(0.70)  # projected
    assert torch.equal(loaded.fallback_weights("unheard of"), torch.tensor([0.2, 0.3, 0.5]))
    assert json.loads((folder / "policy.json").read_text())["extra"] == {"note": "x"}
    loaded.save(folder.parent / "again", extra={"note": "x"})
    for path in folder.iterdir():
        assert path.read_bytes() == (folder.parent / "again" / path.name).read_bytes()


def test_a_correction_and_a_challenger_are_saved(tmp_path) -> None:
    policy = make_corrected()
    loaded = FusionPolicy.load(policy.save(tmp_path / "one"))
    assert loaded.spec == policy.spec and loaded.mixture == policy.mixture and loaded.correction == policy.correction
    assert loaded.mixture is not None and policy.mixture is not None
    assert loaded.mixture.baselines == policy.mixture.baselines
    assert loaded.num_inputs == 2 + 2 + 6
    assert version_in(tmp_path / "one") == policy.version and loaded.schema_hash() == policy.schema_hash()
    loaded.save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_save_leaves_only_its_own_files(policy, folder) -> None:
    for name in ("policy-0123456789abcdef.safetensors", ".policy.json.partial-x", "policy-notes.safetensors"):
        (folder / name).touch()
    policy.save(folder)  # the same tensors
    make_policy(8).save(folder)
    names = {path.name for path in folder.iterdir()}
    assert len(names) == 3 and {"policy.json", "policy-notes.safetensors"} < names


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_killed_save_leaves_the_old_or_the_new_policy(policy, folder, monkeypatch, writes: int) -> None:
    done = 0
    write = file.write_bytes

    def write_some(path, content):
        nonlocal done
        if done == writes:
            raise KeyboardInterrupt
        done += 1
        write(path, content)

    newer = make_policy(9)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(file, "write_bytes", write_some)
        patch.setattr(file, "_remove_replaced", lambda folder: write_some(folder, b""))
        newer.save(folder)
    assert version_in(folder) == (newer if writes == 2 else policy).version
    policy.save(folder)
    assert version_in(folder) == policy.version and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_save_within_another_breaks_nothing(folder, monkeypatch, moment: int) -> None:
    """A second process saves before, between or after the two writes of the first."""
    first, second = make_policy(1), make_policy(2)
    write, done = file.write_bytes, []

    def second_saves() -> None:
        if len(done) == moment:
            done.append("second")
            second.save(folder)

    def write_and_more(path, content):
        second_saves()
        write(path, content)
        done.append(path.name)
        second_saves()

    monkeypatch.setattr(file, "write_bytes", write_and_more)
    first.save(folder)
    monkeypatch.undo()
    assert version_in(folder) == (second if moment == 2 else first).version


def test_readers_beside_savers_see_whole_policies(folder) -> None:
    policies = [make_policy(seed) for seed in range(3)]
    versions = {policy.version for policy in policies} | {version_in(folder)}
    errors: list[BaseException] = []

    def save(first: int) -> None:
        try:
            for i in range(15):
                policies[(first + i) % 3].save(folder)
        except BaseException as error:
            errors.append(error)

    savers = [threading.Thread(target=save, args=(i,)) for i in range(2)]
    for saver in savers:
        saver.start()
    while any(saver.is_alive() for saver in savers):
        assert FusionPolicy.load(folder).version in versions
        assert _core.Policy.load(str(folder)).version in versions
    assert not errors and version_in(folder) in versions
    policies[0].save(folder)
    assert len(list(folder.iterdir())) == 2


def test_what_changes_what_is_served_changes_the_version() -> None:
    changes: list[dict[str, object]] = [
        {},
        {"total_concentration": 40.0},
        {"concentration_floor": 0.2},
        {"beta": 1e-3},
        {"epsilon": 0.1},
        {"slope": 9.0},
        {"slope": (1.0, 1.0, 9.0)},
        {"transform": "rank"},
        {"upper": 0.8},
        {"scenario_exploration": {"home": 0.1}},
        {"scenario_exploration": {"feed": 0.1}},
        {"scenario_exploration": {"feed": 0.1, "home": 0.1}},
        {"evidence_prior": 3.0, "evidence_feature": "intent"},
        {"evidence_prior": 4.0, "evidence_feature": "intent"},
        {"evidence_prior": 3.0, "evidence_feature": "hour"},
        {"evidence_prior": 3.0, "evidence_feature": "intent", "evidence_scale": "log"},
        {"mixture": mixture()},
        {"mixture": mixture(name="value")},
        {"mixture": mixture(mixture_weight=0.5)},
        {"mixture": mixture(transform="log")},
        {"mixture": mixture(weights=(1.0, 2.0, 4.0))},
        {"mixture": mixture(logarithm=True)},
        {"mixture": mixture(value_tasks=("cart", "order"))},
        {"mixture": mixture(value_tasks=("order", "cart"))},
        {"mixture": mixture(calibration=((KNOTS,) * 3))},
        {"mixture": mixture(calibration=((KNOTS, KNOTS, ((0.0, 0.2, 1.0), (0.0, 0.1, 0.3)))))},
        {"correction": correction()},
        {"correction": correction(seed=1)},
        {"correction": correction(items=("price", *(LEVEL + task for task in TASKS)), item_effects=levels(1.0))},
        {"correction": correction(items=("price", *(LEVEL + task for task in TASKS)), item_effects=levels(2.0))},
        {"correction": correction(form="conditional")},
        {"correction": correction(form="")},
        {"correction": correction(items=("size",))},
        {"correction": correction(indicators=(0,))},
        {"correction": correction(parents=(-1, -1, -1))},
        {"correction": correction(amounts=(False, False, False))},
        {"correction": correction(), "corrected": True},
        {"correction": correction(), "mixture": mixture()},
        {"correction": correction(), "mixture": mixture(corrected=True)},
        {"mixture": replace(mixture(), challenger=mixture().baseline)},
        {"mixture": replace(mixture(), challenger=mixture(weights=(1.0, 2.0, 4.0)).baseline)},
        {"mixture": replace(mixture(), challenger=mixture(calibration=(KNOTS,) * 3).baseline)},
        {"mixture": replace(mixture(), challenger=mixture(logarithm=True).baseline)},
        {"value_tasks": ("order",)},
        {"value_tasks": ("order", "cart")},
        {"indicators": ("hour",)},
        {"indicators": ("intent",)},
        {"trade_offs": True},
        {"trade_offs": True, "values": {"cart": 2.0}},
        {"trade_offs": True, "scenario_values": {"feed": {"cart": 2.0}}},
        {"trade_offs": True, "scenario_values": {"home": {"cart": 2.0}}},
        {"trade_offs": True, "values": {"cart": 2.0}, "scenario_values": {"é": {"order": 0.5}, "A": {}}},
    ]
    first = make_policy()
    versions = set()
    for change in changes:
        policy = make_policy(**{name: value for name, value in change.items() if name not in ("mixture", "correction")})
        state = first.state_dict() | {"bounds": policy.bounds}  # the same network
        if policy.num_inputs == first.num_inputs:
            policy.load_state_dict(state)
        policy.mixture = change.get("mixture")  # type: ignore[assignment]
        policy.correction = change.get("correction")  # type: ignore[assignment]
        assert _core.Policy(*policy.artifact()).version == policy.version
        versions.add(policy.version)
    renamed = make_policy()
    renamed.scenarios = ("home",)
    assert len(versions | {renamed.version}) == len(changes) + 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "longer", "of another save"])
def test_damaged_tensors_are_named(folder, damage: str) -> None:
    path = tensors_of(folder)
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "flipped": content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
            "longer": content + b"x",
            "of another save": make_policy(8).artifact()[1],
        }[damage]
    )
    refused(folder, f"{path.name} has sha256 .*of another save")


@pytest.mark.parametrize("name", ["policy.json", "policy-"])
def test_missing_files_are_named(folder, name: str) -> None:
    next(folder.glob(name + "*")).unlink()
    for load in (FusionPolicy.load, lambda path: _core.Policy.load(str(path))):
        refuses(FileNotFoundError, name, load, folder)


def changed(text: bytes, **changes: object) -> bytes:
    record = json.loads(text)
    for key, value in changes.items():
        tables = (record["schema"], record["served"]["config"], record["served"], record)
        next(table for table in tables if key in table)[key] = value
    if changes.keys() & record["schema"].keys():
        record["served"]["schema_hash"] = file.schema_hash(record["schema"])
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format_version": 2}, "made by a newer pygrade"),
        ({"tasks": [str(i) for i in range(65)]}, "tasks"),
        ({"features": ["hour"]}, "input_mean"),
        ({"hidden": [8, 8]}, r"policy-.*safetensors: tensor \"body.0"),
        ({"beta": "x"}, "beta"),
        ({"minimum": [1]}, "minimum"),
        ({"scenario_exploration": {"feed": 0}}, "feed"),
    ],
    ids=str,
)
def test_json_that_does_not_fit_is_named(folder, change, named: str) -> None:
    text = (folder / "policy.json").read_bytes()
    (folder / "policy.json").write_bytes(sealed(changed(text, **change)))
    refused(folder, named)


def test_a_policy_that_takes_corrected_predictions_needs_a_correction(tmp_path) -> None:
    policy = make_corrected()
    policy.correction = None
    refuses(ArtifactError, "'corrected' is true", policy.save, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[: len(text) // 2], lambda text: text.replace(b"\n", b" ")],
    ids=["truncated", "reformatted"],
)
def test_text_that_is_no_strict_json_is_refused(folder, damage) -> None:
    text = damage((folder / "policy.json").read_bytes())
    (folder / "policy.json").write_bytes(sealed(text) if b'\n  "json_sha256": "' in text else text)
    refused(folder)


def test_a_header_that_lies_is_refused(policy, folder) -> None:
    record = json.loads((folder / "policy.json").read_bytes())
    text, content = file.encode(record, policy.state_dict())
    for old, new in ((b'"F32"', b'"F16"'), (b"[2,3]", b"[3,2]"), (b'{"', b"{ ")):
        damaged = content.replace(old, new, 1)
        digest = hashlib.sha256(damaged).hexdigest()
        (folder / f"policy-{digest[:16]}.safetensors").write_bytes(damaged)
        (folder / "policy.json").write_bytes(sealed(changed(text, tensors_sha256=digest)))
        refused(folder, r"policy-.*\.safetensors")


def test_a_policy_that_could_not_be_read_is_not_saved(policy, folder) -> None:
    before = version_in(folder)
    policy.head.bias.data[0] = float("nan")
    refuses(ArtifactError, r"head\.bias.*NaN", policy.save, folder)
    assert version_in(folder) == before and len(list(folder.iterdir())) == 2


def test_the_policy_of_the_vectors_is_saved_with_the_same_bytes(tmp_path) -> None:
    policy = FusionPolicy.load(VECTOR)
    assert version_in(VECTOR) == policy.version == json.loads((VECTOR / "policy.json").read_bytes())["version"]
    assert policy.correction is not None and policy.mixture is not None
    policy.save(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (VECTOR / path.name).read_bytes()
