"""The work of each op, counted, and the share of each limit of the machine that its time is.

Bytes are those of the arguments and results of a call, each read or written once. Operations are those of the shortest
formula: a comparison of a selection is one, a multiply-add two; a log, exponential, square root, division, log-gamma or
digamma is one call of a special function, though ours are polynomials. Densities and losses are in float64.
"""

from .cpu.harness import OURS, Report, Row, Shape

MEMORIES = ("memory", "L2", "copy")
KINDS = ("read", "written", "fp32", "fp64", "special")  # bytes, bytes, operations, operations, calls
TRANSFORMS = {"log": (1, 1), "log1p": (1, 1), "zscore": (5, 0), "zlog": (6, 1)}  # operations, special of a prediction


def work(op: str, shape: Shape) -> dict[str, int] | None:
    """The work of one call by `KINDS`; None if the row is more than one op. Sizes that are not given are 1."""
    size = {letter: value for letter, value in shape.items() if isinstance(value, int)}
    B, G, N, T, C = (size.get(letter, 1) for letter in "BGNTC")
    k, d, beam = min(size.get("k", N), N), size.get("d", 0), size.get("beam", 1)
    form = str(shape.get("f", "zlog" if op.endswith("zlog") else "identity"))
    half = not {"bfloat16", "float16"}.isdisjoint((form, str(shape.get("dtype"))))
    steps, logs = (number * B * N * T for number in TRANSFORMS.get(form, (0, 0)))
    row, draws, lists, samples, alpha = (
        4 * B * T,
        B * G,
        B * G * N,
        B * G * T,
        B * (T + 1),
    )  # alpha: log-gammas of a row
    scores, fuse, gain = (2 if half else 4) * B * N * T, steps + 2 * lists * T, lists + 2 * draws * k * C
    fused, rewards, drawn = scores + 4 * samples, 4 * (B * N * C + k), 8 * samples + 4 * draws
    draw, ranges = 6 * samples + alpha, size.get("bounds", 0)  # a normal variate, two logs and an exponential each
    pairs, search, valued = B * N * (N - 1) // 2, B * beam * k * N, shape.get("objective", "page_value") == "page_value"
    terms = (8 * B * N + 4 * size.get("categories", 32) ** 2 + 4 * k * size.get("curves", 2)) * valued
    counts = {
        "transform_scores": (scores, row * N, steps, 0, logs),
        "fuse_scores": (fused, 4 * lists, fuse, 0, logs),
        "fuse_topk": (fused, 8 * draws * k, fuse + lists, 0, logs),
        "rank": (fused + 13 * N + 4, 8 * k, fuse + 3 * N, 0, logs),  # mask, two boosts and a group of each; a cap
        "topk_gain": (fused + rewards, 4 * draws * C, fuse + gain, 0, logs),
        "dirichlet_sample": (row, drawn, 20 * samples, 2 * samples, draw),
        "dirichlet_log_prob": (row + 4 * samples, 4 * draws, 0, 2 * samples, alpha),
        "dirichlet_log_prob ∇": (row + 4 * samples, row + 4 * draws, 0, 4 * samples, 2 * alpha),
        "dirichlet_entropy": (row, 4 * B, 0, 3 * B * T, 2 * alpha),
        "dirichlet_kl": (2 * row, 4 * B, 0, 4 * B * T, 3 * alpha),
        "group_advantage": (4 * draws * C, 4 * draws, 0, draws * (C + 5), 2 * B),
        "grpo_loss": (2 * row + 4 * samples + 8 * draws, row + 20 * B, 0, 4 * samples + 8 * draws, draws + 4 * alpha),
        "lambda_loss": (8 * B * N + 4 * k, 4 * B * N + 4 * B, 0, 10 * pairs, 3 * pairs),
        "rollout": (
            row + scores + rewards + 4 * ranges * T,
            drawn + 4 * draws * (C + ranges // 2),
            fuse + gain + (20 + 2 * ranges) * samples,
            2 * samples,
            draw + logs,
        ),
        "search_page": (4 * B * N * (1 + d) + terms, 8 * B * k, search * (2 * d + 6), 0, search),
    }
    found = counts.get(op) or counts.get(op.removesuffix(" ∇").removesuffix(" zlog").removesuffix(" group"))
    return found and {"bytes": found[0] + found[1], **dict(zip(KINDS, found, strict=True))}


def add(row: Row, limits: dict[str, float]) -> None:
    """Write a row's work, GB/s and shares: the least time that each limit (in G/s) allows, over the time of the row."""
    row.work = work(row.op, row.shape)
    if row.work is not None:
        nanoseconds, moved = 1e3 * (row.core or row.timings[OURS]).p50, row.work["bytes"]
        amounts = row.work | dict.fromkeys(MEMORIES, moved)
        row.shares = {name: amounts[name] / limit / nanoseconds for name, limit in limits.items()}
        row.gb_per_s = moved / nanoseconds


def table(report: Report) -> str:
    """The rows with counted work as text: bytes, GB/s, and shares of the limits in %."""
    limits = ", ".join(f"{name} {limit:.4g}" for name, limit in report.limits.items())
    head = f"{'op':22}{'shape':44}{'MB':>10}{'GB/s':>9}" + "".join(f"{name + ' %':>10}" for name in report.limits)
    lines = [f"shares of the limits, in G/s: {limits}; more than 100 %: caches", head, "-" * len(head)]
    for row in report.rows:
        if row.work is not None:
            shares = "".join(f"{100 * share:10.1f}" for share in row.shares.values())
            lines.append(f"{row.op:22}{row.label:44}{row.work['bytes'] / 1e6:10.3f}{row.gb_per_s:9.1f}{shares}")
    return "\n".join(lines)
