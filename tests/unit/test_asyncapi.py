"""docs/asyncapi.json and docs/protocol.md say what the gateway's models say, no more, no less."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from pydantic import BaseModel

from gateway.protocol import CLIENT_MESSAGES, SERVER_MESSAGES, ErrorCode
from models.canonical import Snapshot, Status, Tick, decode_message

DOCS = Path(__file__).parents[2] / "docs"
DATA = {"incr": "Tick", "snapshot": "Snapshot", "status": "Status"}
"""What `data` of a server message is; the models leave that to `models.canonical`."""

MODELS: dict[str, type[BaseModel]] = {**CLIENT_MESSAGES, **SERVER_MESSAGES}
Schema = dict[str, Any]


def document() -> Any:
    """Return the AsyncAPI document."""
    return json.loads((DOCS / "asyncapi.json").read_text(encoding="utf-8"))


def bare(schema: Any) -> Any:
    """Leave out what is written for people."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: part for name, part in schema.items() if not is_text(name, part)}
    return {name: bare(part) for name, part in kept.items()}


def is_text(name: str, part: object) -> bool:
    """Tell a description from a field of that name."""
    return name in ("title", "description") and isinstance(part, str)


def wire_schema(model: type[BaseModel]) -> Schema:
    """Return a message's schema as the document has it.

    `op` is always there. Clients must say nothing else; gateways may come to say more.
    """
    schema: Schema = bare(model.model_json_schema())
    op = schema["properties"]["op"]["const"]
    schema["properties"]["op"] = {"type": "string", "const": op}
    schema["required"] = ["op", *schema.get("required", [])]
    if op in SERVER_MESSAGES:
        del schema["additionalProperties"]
    if op in DATA:
        schema["properties"]["data"] = {"$ref": f"#/components/schemas/{DATA[op]}"}
    return schema


def canonical_schemas() -> dict[str, Schema]:
    """Return the schemas of what `data` holds, where decimals are JSON numbers."""
    _, found = msgspec.json.schema_components(
        [Tick, Snapshot, Status], ref_template="#/components/schemas/{name}"
    )
    return {name: _draft_07(bare(schema)) for name, schema in found.items()}


def _draft_07(schema: Any) -> Any:
    """Return a schema in AsyncAPI's own dialect."""
    if isinstance(schema, list):
        return [_draft_07(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        return {"type": "number"}
    schema = {name: _draft_07(part) for name, part in schema.items()}
    if "prefixItems" in schema:
        schema["items"] = schema.pop("prefixItems")
    return schema


def examples() -> list[Any]:
    """Return (op, example) of every example."""
    messages = document()["components"]["messages"]
    return [
        pytest.param(op, example["payload"], id=f"{op}: {example['name']}")
        for op, message in messages.items()
        for example in message["examples"]
    ]


def refs(part: Any) -> list[str]:
    """Return every reference."""
    if isinstance(part, list):
        return [ref for item in part for ref in refs(item)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if "$ref" in part else []
    return own + [ref for item in part.values() for ref in refs(item)]


def test_document_has_every_message_and_no_other() -> None:
    """Both ways: each op is a message of the one channel, and some operation has it."""
    found = document()
    assert set(found["components"]["messages"]) == set(MODELS)
    assert set(found["channels"]["ws"]["messages"]) == set(MODELS)
    said = refs(list(found["operations"].values()))
    assert {ref.rpartition("/")[2] for ref in said} == {*MODELS, "ws"}
    for op, operation in found["operations"].items():
        assert operation["action"] == ("receive" if op in CLIENT_MESSAGES else "send")


def test_document_refers_to_nothing_that_is_not_there() -> None:
    """Every reference leads somewhere within the document."""
    found = document()
    for ref in refs(found):
        target = found
        for step in ref.removeprefix("#/").split("/"):
            target = target[step]


@pytest.mark.parametrize("op", MODELS)
def test_document_has_the_fields_of_the_model(op: str) -> None:
    """Names, types, bounds, choices, defaults, and what is required."""
    assert bare(document()["components"]["schemas"][op]) == wire_schema(MODELS[op])


@pytest.mark.parametrize("name", canonical_schemas())
def test_document_has_the_canonical_messages(name: str) -> None:
    """The same for what is within `data`."""
    assert bare(document()["components"]["schemas"][name]) == canonical_schemas()[name]


def test_document_has_no_other_schemas() -> None:
    """What has gone from the models goes from the document."""
    assert set(document()["components"]["schemas"]) == {*MODELS, *canonical_schemas()}


@pytest.mark.parametrize("op", MODELS)
def test_document_has_an_example_of_every_message(op: str) -> None:
    """People copy examples."""
    assert document()["components"]["messages"][op]["examples"]


@pytest.mark.parametrize(("op", "example"), examples())
def test_example_is_a_message(op: str, example: Schema) -> None:
    """Each is what its model takes, down to the canonical message in it."""
    assert example["op"] == op
    MODELS[op].model_validate_json(json.dumps(example))
    if op in DATA:
        message = decode_message(json.dumps(example["data"]))
        assert type(message).__name__ == DATA[op]


def test_protocol_page_lists_every_message_and_error_code() -> None:
    """The prose has the same names, both ways."""
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    assert listed(page, "What you send", "op") == set(CLIENT_MESSAGES)
    assert listed(page, "What you get", "op") == set(SERVER_MESSAGES)
    assert listed(page, "Error codes", "code") == set(get_args(ErrorCode))
    fields = listed(page, "What you send", "field")
    assert fields == set(CLIENT_MESSAGES["subscribe"].model_fields) - {"op"}


def listed(page: str, heading: str, column: str) -> set[str]:
    """Return the names in the first column of a section's table with this head."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = section.partition(f"| {column} |")[2].partition("\n\n")[0].splitlines()
    return {name for row in rows[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
