"""Check a result against the schema that `result_schema` states: types, required fields, choices."""

import json
from typing import Any

from modeling_apex.statistics.result_schema import SCHEMAS

KINDS = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def list_violations(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """Every place where a value is not what its schema says."""
    kinds = schema.get("type", list(KINDS))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(KINDS[kind](value) for kind in kinds):
        return [f"{where}: {value!r:.60} is no {' or '.join(kinds)}"]
    found = [f"{where}: {value!r} is none of {schema['enum']}"] if value not in schema.get("enum", [value]) else []
    if isinstance(value, dict):
        found += [f"{where}: no {name}" for name in schema.get("required", ()) if name not in value]
        for name, member in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            found += list_violations(member, inner, f"{where}.{name}")
    if isinstance(value, list):
        for number, member in enumerate(value):
            found += list_violations(member, schema.get("items", {}), f"{where}[{number}]")
    return found


def check_result(result: dict[str, Any]) -> None:
    """Fail with every violation of the schema of a result's own kind."""
    stored = json.loads(json.dumps(result, allow_nan=False))
    violations = list_violations(stored, SCHEMAS[result["result"]])
    assert not violations, "\n".join(violations[:20])
