"""The contract of a log beside what a table has: one message instead of an error a column."""

from pygrade.logs.column_map import REQUIRED, ColumnMap
from pygrade.logs.column_names import SHORT
from pygrade.logs.problems import TableProblems
from pygrade.logs.table import Table

_WHAT = {
    "request_id": "id that the rows of one page share",
    "user_id": "who asked (no such column? user=<request's column>: each request its own user)",
    "item_id": "the candidate",
    "position": "slot on the page, empty where the candidate was not shown",
    "timestamp": "when: a date, or seconds or milliseconds since 1970",
    "scored_at": "when the predictions were made, to check that it was before the page",
    "scenario": "text of the request, such as the kind of page",
    "value": "price of the item",
    "production_score": "what production ranked every candidate by, the higher the better",
    "category": "kind of the item: what stands above an item may satiate or help by it",
    "embedding": "vector of the item, a list of decimals; for likeness of items of a page",
    "shown": "1 if the row was shown, if every row has a slot",
}
_FEEDBACK = "what followed, a column per task: 0 or 1 or an amount, empty where not shown"
_PREDICTION = "the model's prediction, a column per task, for every candidate"
_FEATURES = "numbers or text of the request that the policy may look at"
_ITEMS = "numbers or text of the candidate, such as its brand or margin"
_EXPLORATION = (
    "exploration",
    "none, shuffle or dirichlet (or a flag: shuffled): how the page was made",
)


# What a table is that has events, feedback (y_) or predictions (p_) alone, and what to do with it.
_HALVES = {
    "": "Events alone (who, what, when) do not tell what users saw and passed over: if a kind of them is the showing, "
    "pygrade doctor FILES --events makes a schema of them for pygrade pipeline, and doctor --day0 starts without a log",
    "y_": "Without predictions there is nothing to weigh: add those of your model, for every candidate, or have one "
    "trained by pygrade pipeline, whose schema pygrade doctor FILES --events makes",
    "p_": "Predictions without feedback teach nothing yet: join what followed, or start with pygrade doctor --day0",
}


class LogContractError(TableProblems):
    """A table lacks what a log must have; `rows` is the contract beside what the table has, `summary` one line, and
    `problems` are what else is wrong or odd.
    """

    def __init__(self, summary: str, problems: list[str], rows: list[tuple[str, str, str, str]], where: str) -> None:
        super().__init__(summary, problems)
        self.rows, self.where = rows, where

    def __str__(self) -> str:
        return "\n".join([self.summary, text_of(self.rows, self.where), *(f"- {text}" for text in self.problems)])


def contract_rows(table: Table, mapping: ColumnMap) -> list[tuple[str, str, str, str]]:
    """Rows of: role as the map names it, required (yes or no), what it is, the table's column or that it is missing.

    After the contract come the columns that are left out, and why.
    """
    short = {role: name for name, role in SHORT.items()}

    def found(role: str) -> str:
        if role not in mapping.roles:
            return "missing" if role in REQUIRED else "none"
        return f"{mapping.roles[role]} ({mapping.why[role]})"

    rows = [
        (short.get(role, role), "yes" if role in REQUIRED else "no", what, found(role))
        for role, what in _WHAT.items()
        if role in REQUIRED
    ]
    tasks = dict.fromkeys(role[2:] for role in mapping.roles if role[:2] in ("p_", "y_"))
    if not tasks:
        rows += [("<task>", "yes", _FEEDBACK, "missing"), ("p_<task>", "yes", _PREDICTION, "missing")]
    for number, task in enumerate(tasks):
        for role, name, what in ((f"y_{task}", task, _FEEDBACK), (f"p_{task}", f"p_{task}", _PREDICTION)):
            column = found(role) if role in mapping.roles else "missing"
            rows.append((name, "yes", "" if number else what, column))
    rows += [
        (short.get(role, role), "no", what, found(role))
        for role, what in _WHAT.items()
        if role not in REQUIRED and (role not in ("shown", "scored_at") or role in mapping.roles)
    ]
    for prefix, text in (("x_", _FEATURES), ("i_", _ITEMS)):
        named = [role for role in mapping.roles if role.startswith(prefix)] or [f"{prefix}<name>"]
        rows += [(role, "no", "" if i else text, found(role)) for i, role in enumerate(named)]
    rows.append((_EXPLORATION[0], "no", _EXPLORATION[1], found(_EXPLORATION[0])))
    known = {SHORT.get(row[0], row[0]) for row in rows} | {f"y_{task}" for task in tasks}
    rows += [(role, "no", "", found(role)) for role in mapping.roles if role not in known]
    return rows + [("left out", "", why, column) for column, why in mapping.left_out.items()]


def text_of(rows: list[tuple[str, str, str, str]], where: str) -> str:
    """The rows as aligned text."""
    table = [("column", "required", "what it is", where), *rows]
    widths = [max(len(row[place]) for row in table) for place in (0, 1)]
    last = max(len(row[3]) for row in table)
    return "\n".join(
        f"{name:<{widths[0]}}  {required:<{widths[1]}}  {column:<{last}}  {what}".rstrip()
        for name, required, what, column in table
    )


def missing_roles(mapping: ColumnMap) -> list[str]:
    """The required roles without a column, as the map names them."""
    short = {role: name for name, role in SHORT.items()}
    missing = [short.get(role, role) for role in REQUIRED if role not in mapping.roles]
    tasks = dict.fromkeys(role[2:] for role in mapping.roles if role[:2] in ("p_", "y_"))
    for task in tasks:
        missing += [f"p_{task}"] if f"p_{task}" not in mapping.roles else []
        missing += [task] if f"y_{task}" not in mapping.roles else []
    return missing + ([] if tasks else ["<task>", "p_<task>"])


def check(table: Table, mapping: ColumnMap, problems: list[str]) -> None:
    """LogContractError, with the other problems, unless every required role has a column."""
    missing = missing_roles(mapping)
    if missing:
        example = ", ".join(f"{role}=COLUMN" for role in missing)
        text = f"{table.where}: no column is known for {', '.join(missing)}; say which by {example}"
        prefixes = {role[:2] for role in mapping.roles} | mapping.alone
        if (half := "".join(sorted(prefixes & {"p_", "y_"}))) in _HALVES:
            text += f". {_HALVES[half]}"
        elif "slot" in missing:  # no dead end where nobody logged them
            text += f" (no slots were logged? slot=none{'' if 'shown' in mapping.roles else ', shown=COLUMN'})"
        raise LogContractError(text, [*mapping.odd, *problems], contract_rows(table, mapping), table.where)
