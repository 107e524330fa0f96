"""The contract of a log beside what a table has: one message instead of an error a column."""

import shlex

from pygrade.logs.column_map import ColumnMap
from pygrade.logs.map_proposal import propose_map
from pygrade.logs.problems import TableProblems
from pygrade.logs.roles import REQUIRED, ROLES, SHORT, short_name
from pygrade.logs.table import Table

_FEEDBACK = "what followed, a column per task: 0 or 1 or an amount, empty where not shown"
_PREDICTION = "the model's prediction, a column per task, for every candidate"
_FEATURES = "numbers or text of the request that the policy may look at"
_ITEMS = "numbers or text of the candidate, such as its brand or margin"

# What a table is that has events, feedback (y_) or predictions (p_) alone, and what to do with it.
_HALVES = {
    "": "Events alone (who, what, when) do not tell what users saw and passed over: if a kind of them is the showing, "
    "pygrade doctor FILES --events makes a schema of them for pipeline; doctor --cold-start starts without a log",
    "y_": "Without predictions there is nothing to weigh: add those of your model, for every candidate, or have one "
    "trained by pygrade pipeline, whose schema pygrade doctor FILES --events makes",
    "p_": "Predictions without feedback teach nothing yet: join what followed, or start by pygrade doctor --cold-start",
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


def contract_rows(mapping: ColumnMap) -> list[tuple[str, str, str, str]]:
    """Rows of: role as the map names it, required (yes or no), what it is, the table's column or that it is missing.

    After the contract come the columns that are left out, and why.
    """

    def row(name: str, role: str, text: str = "", required: bool = False) -> tuple[str, str, str, str]:
        column = "missing" if required else "none"
        if role in mapping.roles:
            column = f"{mapping.roles[role]} ({mapping.why[role]})"
        return name, "yes" if required else "no", text, column

    rows = [row(short_name(role), role, ROLES[role].text, True) for role in REQUIRED]
    tasks = mapping.tasks_alone
    for number, task in enumerate(tasks or ["<task>"]):
        for name, role, text in ((task, f"y_{task}", _FEEDBACK), (f"p_{task}", f"p_{task}", _PREDICTION)):
            rows.append(row(name, role, "" if number else text, True))
    rows += [row(short_name(role), role, spec.text) for role, spec in ROLES.items() if spec.text and not spec.required]
    for prefix, text in (("x_", _FEATURES), ("i_", _ITEMS)):
        named = [role for role in mapping.roles if role.startswith(prefix)] or [f"{prefix}<name>"]
        rows += [row(role, role, "" if number else text) for number, role in enumerate(named)]
    listed = {SHORT.get(name, name) for name, *_ in rows} | {f"y_{task}" for task in tasks}
    rows += [row(role, role) for role in mapping.roles if role not in listed]
    return rows + [("left out", "", why, column) for column, why in mapping.left_out.items()]


def text_of(rows: list[tuple[str, str, str, str]], where: str) -> str:
    """The rows as aligned text."""
    table = [("column", "required", "what it is", where), *rows]
    widths = [max(len(row[cell]) for row in table) for cell in (0, 1)]
    last = max(len(row[3]) for row in table)
    return "\n".join(
        f"{name:<{widths[0]}}  {required:<{widths[1]}}  {column:<{last}}  {what}".rstrip()
        for name, required, what, column in table
    )


def missing_roles(mapping: ColumnMap) -> list[str]:
    """The required roles without a column, as the map names them."""
    wanted = {role: short_name(role) for role in REQUIRED}
    for task in mapping.tasks_alone or ["<task>"]:
        wanted |= {f"y_{task}": task, f"p_{task}": f"p_{task}"}
    return [name for role, name in wanted.items() if role not in mapping.roles]


def check(table: Table, mapping: ColumnMap, problems: list[str]) -> None:
    """LogContractError, with the other problems, unless every required role has a column."""
    if missing := missing_roles(mapping):
        example = ",".join(f"{role}=COLUMN" for role in missing)
        text = f"{table.where}: no column is known for {', '.join(missing)}; say which by --map {example}"
        proposed = propose_map(table, mapping)
        events = proposed.keys() - {short_name(role) for role in ROLES}
        prefixes = {role[:2] for role in mapping.roles} | mapping.alone
        if not events and (half := "".join(sorted(prefixes & {"p_", "y_"}))) in _HALVES:
            text += f". {_HALVES[half]}"
        elif "slot" in missing and "slot" not in proposed:  # no dead end where nobody logged them
            text += f" (no slots were logged? slot=none{'' if 'shown' in mapping.roles else ', shown=COLUMN'})"
        if proposed:
            text += f". Is it --map {shlex.quote(','.join(f'{role}={column}' for role, column in proposed.items()))}?"
        raise LogContractError(text, [*mapping.odd, *problems], contract_rows(mapping), table.where)
