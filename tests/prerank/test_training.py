"""The towers learn a planted taste, correct the sampling, follow the seed and use bounded memory."""

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.prerank import PrerankConfig
from pygrade.features.values import KeySums
from pygrade.prerank import Catalog, ItemIndex, Popularity, Prerank, evaluate, fit
from pygrade.prerank.batches import positives, shuffled
from pygrade.prerank.towers import Inputs, TwoTower
from pygrade.prerank.training import _loss
from pygrade.reference.tolerances import assert_close
from pygrade.workers.group import Group
from tests.prerank.world import World, vectors_of
from tests.refusals import refuses

WEIGHTS = (1.0, 2.0)
SMALL = PrerankConfig(width=16, hidden=32, batch_size=128, epochs=4, refit=False, recall_at=20)


def parameters(towers: TwoTower) -> bytes:
    return b"".join(value.numpy().tobytes() for value in towers.state_dict().values())


def retrieval(world, fitted, train, n=20, seed=77):
    prerank = Prerank.build(fitted, Catalog.from_batches(train))
    return evaluate(prerank, world.batches(600, seed), Popularity.fit(train, WEIGHTS), n)


@pytest.fixture(scope="module")
def learned():
    world = World()
    train = world.batches(6000, seed=1)
    return world, train, fit(train, WEIGHTS, replace(SMALL, epochs=6), world.batches(400, seed=2))


def test_learns_planted_taste_far_beyond_popularity(learned):
    world, train, fitted = learned
    result = retrieval(world, fitted, train)
    known = np.argsort(-world.taste, axis=1)[:, :20]
    best = np.mean(
        [
            world.item_id[known[user]].tolist().count(item)
            for batch in world.batches(600, 77)()
            for user, item in zip(batch.user_id, batch.item_id[::4], strict=True)
        ]
    )  # of who knows every factor
    assert result.recall.value > 0.75 * best
    assert result.difference.low > 0.2
    assert result.unknown == 0.0 and result.requests == result.positives == 600


def test_stops_at_the_best_pass_and_keeps_its_parameters():
    world = World(users=60, items=80)
    train, later = world.batches(400, seed=1), world.batches(300, seed=2)
    config = replace(SMALL, epochs=30, patience=2, learning_rate=0.03)
    fitted = fit(train, WEIGHTS, config, later)
    recalls = fitted.validation_recall
    assert len(recalls) == fitted.best_epoch + 2 < 30
    assert recalls[fitted.best_epoch - 1] == max(recalls) and len(fitted.losses) == len(recalls)
    shorter = fit(train, WEIGHTS, replace(config, epochs=fitted.best_epoch), None)
    assert parameters(shorter.towers) == parameters(fitted.towers)


def test_refit_learns_from_the_validation_batches_too():
    world = World(users=60, items=80)
    train, later = world.batches(200, seed=1), world.batches(200, seed=2)
    fitted = fit(train, WEIGHTS, replace(SMALL, epochs=2, refit=True), later)

    def both():
        yield from train()
        yield from later()

    again = fit(both, WEIGHTS, replace(SMALL, epochs=fitted.best_epoch))
    assert parameters(again.towers) == parameters(fitted.towers)


def test_same_arguments_same_towers_and_the_global_generator_is_left_alone():
    world = World(users=60, items=80)
    train = world.batches(300, seed=1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = fit(train, WEIGHTS, replace(SMALL, epochs=2))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert parameters(fit(train, WEIGHTS, replace(SMALL, epochs=2)).towers) == parameters(first.towers)
    assert parameters(fit(train, WEIGHTS, replace(SMALL, epochs=2, seed=1)).towers) != parameters(first.towers)


def test_items_without_a_positive_are_placed_by_their_features(learned):
    world, train, fitted = learned
    catalog = Catalog.from_batches(train)
    moved = Catalog(catalog.item_id + 1_000_000, catalog.dense, catalog.ids)  # the same items under new ids
    prerank = Prerank.build(fitted, moved)
    batch = next(world.batches(64, seed=9)())
    found = prerank.candidates(batch, 20) - 1_000_000
    rank = np.argsort(np.argsort(-world.taste, axis=1), axis=1)[batch.user_id]  # of every item, by the truth
    columns = np.searchsorted(world.item_id, found)
    mean_rank = np.take_along_axis(rank, columns, 1).mean()
    assert mean_rank < 0.35 * len(world.item_id)  # by chance: one half


@pytest.mark.parametrize("max_items", [100, 2])
def test_the_loss_is_its_formula(max_items):
    """Against float64 loops. Copies of the positive are no negatives; items without an own row share its draws."""
    weights = np.asarray(WEIGHTS, np.float32)
    world = World(users=20, items=5)  # few items: many copies in a batch
    train = world.batches(64, seed=3, size=64)
    pairs = positives(next(train()), weights)
    pairs = replace(pairs, weight=np.linspace(0.5, 2.0, len(pairs), dtype=np.float32))
    torch.manual_seed(0)
    config = replace(SMALL, id_dropout=0.0, max_items=max_items)
    inputs = Inputs.fit(train, weights, config)
    towers = TwoTower(config, inputs).eval()
    loss = _loss(towers, pairs, torch.zeros(6, dtype=torch.float64), np.random.default_rng(0), Group()).detach()
    with torch.no_grad():
        users = towers.user(*towers.user_inputs(pairs)).double()
        items = towers.item(*towers.item_inputs(pairs.item_id, pairs.item_dense, pairs.item_ids)).double()
    different = set(pairs.item_id.tolist())
    assert inputs.others == max(0, len(different) - max_items) and len(different) < len(pairs) / 4
    share = {item: float((pairs.item_id == item).mean()) for item in different}
    rare = different - set(inputs.item_id.tolist())
    share |= {item: sum(share[other] for other in rare) / len(rare) for item in rare}
    total = 0.0
    for r in range(len(pairs)):
        logits = {
            c: float(users[r] @ items[c]) - np.log((len(pairs) - 1) * share[int(pairs.item_id[c])])
            for c in range(len(pairs))
            if pairs.item_id[c] != pairs.item_id[r]
        }
        logits[r] = float(users[r] @ items[r])
        top = max(logits.values())
        normalizer = top + np.log(sum(np.exp(value - top) for value in logits.values()))
        total += float(pairs.weight[r]) * (normalizer - logits[r])
    assert_close(loss, torch.tensor(total / float(pairs.weight.sum()), dtype=torch.float64))


def test_the_correction_recovers_the_true_odds_of_a_popular_item():
    """Users without taste, 40 items, one liked in half of all requests: exp(s) must give its share of the catalog."""
    world = World(users=50, items=40, popularity=0.0)
    world.taste[:] = 0.0
    world.taste[:, 7] = np.log(39.0)
    train = world.batches(4000, seed=4)
    config = replace(SMALL, batch_size=64, epochs=6, dropout=0.0, id_dropout=0.0, weight_decay=0.0)
    towers = fit(train, WEIGHTS, config).towers
    catalog = Catalog.from_batches(train)
    users = vectors_of(towers, next(world.batches(64, seed=5)()))
    chance = torch.softmax(torch.from_numpy(users @ towers.item_vectors(catalog).T), 1)[:, 7]
    assert 0.4 < float(chance.mean()) < 0.6  # uncorrected in-batch negatives would make it 1 of 40


def test_task_weights_say_what_is_a_positive():
    world = World(users=40, items=60)

    def swapped():
        for batch in world.batches(500, seed=1)():
            feedback = np.zeros_like(batch.feedback)
            feedback[:, 1] = 1.0 - batch.feedback[:, 0]
            feedback[3::4, 0] = np.nan  # not observed
            hidden = np.where(np.arange(len(batch.position)) % 4 == 2, -1, batch.position).astype(np.int32)
            yield replace(batch, feedback=feedback, position=hidden)

    batch = next(swapped())
    pairs = positives(batch, np.array([1.0, 0.5], np.float32))
    assert len(pairs) == 2 * 64 and set(pairs.weight.tolist()) == {0.5}
    assert pairs.item_id.tolist() == batch.item_id.reshape(-1, 4)[:, [1, 3]].reshape(-1).tolist()
    assert np.array_equal(pairs.request_dense, np.repeat(batch.request_dense, 2, axis=0))
    fit(swapped, (0.0, 1.0), replace(SMALL, epochs=1))
    refuses(ValueError, "hold no positive", lambda: fit(swapped, (1.0, 0.0), replace(SMALL, epochs=1)))


def test_the_stream_is_shuffled_within_its_buffer_and_loses_nothing():
    world = World()
    train = world.batches(2000, seed=1)
    order = np.concatenate([positives(b, np.ones(2, np.float32)).request_dense[:, 0] for b in train()])
    place = {value: i for i, value in enumerate(order.tolist())}
    parts = list(shuffled(train, np.ones(2, np.float32), 100, 500, np.random.default_rng(0)))
    assert [len(part) for part in parts[:-1]] == [100] * (len(parts) - 1)
    drawn = np.array([place[value] for part in parts for value in part.request_dense[:, 0].tolist()])
    assert sorted(drawn.tolist()) == list(range(2000))
    assert np.abs(np.diff(drawn[:200])).mean() > 50  # mixed
    assert drawn[:100].max() < 600  # from the buffer alone


@pytest.mark.release
def test_memory_does_not_grow_with_rows():
    world = World(users=200, items=300)
    config = replace(SMALL, epochs=1, batch_size=64, shuffle=256)
    peaks = []
    fit(world.batches(200, seed=1), WEIGHTS, config)  # what is made once
    for requests in (2500, 10_000):
        tracemalloc.start()
        fitted = fit(world.batches(requests, seed=1), WEIGHTS, config)
        evaluate(
            Prerank.build(fitted, Catalog.from_batches(world.batches(requests, seed=1))),
            world.batches(requests, seed=2),
            Popularity.fit(world.batches(requests, seed=1), WEIGHTS),
            max_requests=200,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_requests_have_the_same_vectors_alone_and_in_a_batch(learned):
    world, _, fitted = learned
    batch = next(world.batches(64, seed=8)())
    together = vectors_of(fitted.towers, batch)
    names = ("user_id", "request_dense", "request_ids", "sequences")
    for r in range(64):
        alone = replace(batch, **{name: getattr(batch, name)[r : r + 1] for name in names})
        assert vectors_of(fitted.towers, alone).tobytes() == together[r : r + 1].tobytes()


def test_unknown_features_ids_and_constants_do_no_harm():
    world = World(users=40, items=60)

    def holes():
        for batch in world.batches(300, seed=1)():
            dense = batch.request_dense.copy()
            dense[:, 0] = np.nan
            dense[::3, 1] = np.nan
            dense[:, 2] = 1e6
            yield replace(batch, request_dense=dense)

    fitted = fit(holes, WEIGHTS, replace(SMALL, epochs=1))
    batch = next(holes())
    odd = replace(batch, request_ids=np.full_like(batch.request_ids, 10**9), request_dense=batch.request_dense * 1e3)
    assert np.isfinite(vectors_of(fitted.towers, odd)).all()
    gone = vectors_of(fitted.towers, replace(batch, request_ids=np.zeros_like(batch.request_ids)))
    beyond = vectors_of(fitted.towers, replace(batch, request_ids=np.full_like(batch.request_ids, 99)))
    assert gone.tobytes() == beyond.tobytes()
    index = ItemIndex.build(world.item_id[:3], fitted.towers.item_vectors(Catalog.from_batches(holes))[:3])
    assert index.search(vectors_of(fitted.towers, batch), 3)[0].min() >= 0


def bad(**changes):
    world = World(users=20, items=30)

    def factory():
        for batch in world.batches(100, seed=1)():
            yield replace(batch, **{name: change(getattr(batch, name)) for name, change in changes.items()})

    return factory


@pytest.mark.parametrize(
    ("changes", "weights", "message"),
    [
        ({}, (1.0,), r"feedback has shape \(256, 2\); expected \[n, 1\]"),
        ({}, (1.0, -1.0), r"task_weights is \(1.0, -1.0\); expected numbers >= 0"),
        ({"request_dense": lambda a: a * np.float32(np.inf)}, WEIGHTS, "request_dense is infinite in column 0"),
        ({"item_dense": lambda a: a + np.float32(np.inf)}, WEIGHTS, "item_dense is infinite in column 0"),
        (
            {"item_ids": lambda a: a + (1 << 40)},
            WEIGHTS,
            r"item_ids reaches .* in column 0; expected vocabulary indices",
        ),
    ],
)
def test_errors_name_the_argument(changes, weights, message):
    refuses(ValueError, message, lambda: fit(bad(**changes), weights, replace(SMALL, epochs=1)))


def test_wrong_shapes_and_settings_are_named(learned):
    world, _, fitted = learned
    batch = next(world.batches(64, seed=8)())
    with pytest.raises(ValueError, match=r"sequences has shape \(64, 3\)"):
        vectors_of(fitted.towers, replace(batch, sequences=batch.sequences[:, :3]))
    with pytest.raises(ValueError, match=r"item_dense has shape .* expected \(2, 6\)"):
        fitted.towers.item_vectors(Catalog(np.arange(2), np.zeros((2, 5), np.float32), np.zeros((2, 1), np.int64)))
    with pytest.raises(ValueError, match="validation batches hold no positive"):
        fit(world.batches(100, 1), WEIGHTS, SMALL, lambda: iter(()))
    for name, value in (("width", 1), ("temperature", 0.0), ("dropout", 1.0), ("patience", 0)):
        refuses(ValueError, f"{name} is {value!r}", replace, SMALL, **{name: value})


def test_only_the_most_frequent_items_have_embeddings_of_their_own():
    world = World(users=40, items=60)
    train = world.batches(500, seed=1)
    popular = Popularity.fit(train, (1.0, 0.0))
    towers = fit(train, WEIGHTS, replace(SMALL, epochs=1, max_items=10)).towers
    assert towers.inputs.item_id.tolist() == sorted(popular.item_id[:10].tolist())
    assert towers.item_table.num_embeddings == 11
    assert np.isfinite(towers.item_vectors(Catalog.from_batches(train))).all()
    refuses(ValueError, "max_items is 0", replace, SMALL, max_items=0)


def test_a_batch_of_one_and_a_batch_of_one_item_do_no_harm():
    world = World(users=20, items=30)

    def few():
        for batch in world.batches(129, seed=1)():  # 128 positives and one
            yield replace(batch, item_id=np.full_like(batch.item_id, 5))

    fitted = fit(few, WEIGHTS, replace(SMALL, epochs=2))
    assert np.isfinite(fitted.losses).all()
    assert all(bool(value.isfinite().all()) for value in fitted.towers.state_dict().values())


def test_sums_by_key():
    rng = np.random.default_rng(0)
    counts, ids, weights = KeySums(), rng.integers(0, 3000, 20_000), rng.integers(1, 5, 20_000)
    for start in range(0, 20_000, 500):
        counts.add(ids[start : start + 500], weights[start : start + 500])
    found, sums = pickle.loads(pickle.dumps(counts)).result()
    want = np.bincount(ids, weights)
    assert found.tolist() == np.flatnonzero(want).tolist() and sums.tolist() == want[want > 0].tolist()
