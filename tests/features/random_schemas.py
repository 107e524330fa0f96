"""Random schemas over the log of `events.make_log`: features of every kind, key, window and outcome."""

import numpy as np

from pygrade.features import Feature, FeatureSchema, SchemaError

KEYS = {
    ("user", "context"): [
        (),
        ("user_id",),
        ("scenario",),
        ("user.level",),
        ("user.age",),
        ("user.city", "scenario"),
        ("user_id", "scenario"),
    ],
    ("item",): [
        ("item_id",),
        ("item.author",),
        ("item.brand",),
        ("item.price",),
        ("item.tags",),
        ("item.tags", "item_id"),
    ],
    ("cross",): [
        ("user_id", "item.author"),
        ("item.brand", "user_id"),
        ("user.level", "item_id"),
        ("scenario", "item.tags"),
        ("user_id", "user.city", "item.brand"),
    ],
}
COLUMNS = {
    "context": ["time:hour_sin", "time:hour_cos", "time:weekend", "c_battery", "c_device", "scenario", "user_id"],
    "user": ["user_id", "level", "age", "city", "scenario"],
    "item": ["item_id", "author", "brand", "price", "tags", "uploaded"],
}
OUTCOMES = ["", "y_click", "y_order", "m_play", "log1p(m_play)"]
HOURS = [0.0, 0.0, 1.0, 2.5, 24.0, 1e-5]


def random_feature(rng, name):
    """A feature that a log of `make_log` has; None if the draw contradicts itself."""

    def pick(values):
        return values[rng.integers(len(values))]

    kind = pick(["dense", *["categorical"] * 2, "list", "sequence", *["count"] * 2, *["rate"] * 2, "recency"])
    given = {"smoothing": pick([20.0, 0.0, 1.5]), "transform": pick(["none", "log1p", "age"])}
    if kind in ("count", "rate", "recency"):
        entities = pick(list(KEYS))
        given |= {"key": pick(KEYS[entities]), "source": pick(OUTCOMES), "window_hours": pick(HOURS)}
        if kind == "recency":
            given["window_hours"] = 0.0
    elif kind == "sequence":
        entities = ("user",)
        given |= {"source": pick(OUTCOMES[:3]), "length": int(rng.integers(1, 9))}
    elif kind == "list":
        entities = ("item",)
        given |= {"source": "tags", "length": int(rng.integers(1, 4))}
    else:
        entities = (pick(list(COLUMNS)),)
        given["source"] = pick(COLUMNS[entities[0]])
        given |= {"min_count": pick([1, 2, 50]), "max_size": pick([2, 1_000_000])} if kind == "categorical" else {}
    try:
        return Feature(name, pick(entities), kind, **given)
    except SchemaError:
        return None


def random_schema(log, seed):
    """A schema of up to 40 features of all kinds."""
    rng = np.random.default_rng(seed)
    features = []
    while len(features) < rng.integers(1, 40):
        feature = random_feature(rng, f"f{len(features)}")
        try:
            if feature is not None:
                FeatureSchema.of([*features, feature], log)
                features.append(feature)
        except SchemaError:
            continue
    several = [
        Feature("text", "item", "vector", "text", length=4),
        Feature("taste", "user", "vector", "taste", length=3),
        Feature("words", "item", "list", "words", length=int(rng.integers(1, 4))),
    ]
    features += [feature for feature in several if rng.random() < 0.5]
    features = [features[place] for place in rng.permutation(len(features))]
    return FeatureSchema.of(features, log, float(rng.integers(-12, 13)))
