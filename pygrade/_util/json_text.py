"""JSON of figures, as git keeps it."""

import json
from typing import Any

WIDTH = 200


def json_text(value: Any, indent: int = 0) -> str:
    """JSON that people compare: a line for each list and object that fits in `WIDTH` columns or holds no other."""
    line = json.dumps(value, ensure_ascii=False)
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if indent + len(line) <= WIDTH or not any(isinstance(item, dict | list) for item in items):
        return line
    texts = [json_text(item, indent + 1) for item in items]
    if isinstance(value, dict):
        texts = [f"{json.dumps(key, ensure_ascii=False)}: {text}" for key, text in zip(value, texts, strict=True)]
    first, last = "{}" if isinstance(value, dict) else "[]"
    space = "\n" + " " * (indent + 1)
    return first + space + ("," + space).join(texts) + space[:-1] + last
