"""The contract in the metadata: read, or refused with the reason."""

import json
from typing import Any

from onnx import ModelProto, StringStringEntryProto

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model.contract import CONTRACT_KEY, parse_contract
from support import lookup, raised


def parse_text(text: str, key: str = CONTRACT_KEY) -> Any:
    return parse_contract(ModelProto(metadata_props=[StringStringEntryProto(key=key, value=text)]), "m.onnx")


def parse(contract: object) -> Any:
    return parse_text(json.dumps(contract))


VALID = lookup.lookup_contract()


def test_refused() -> None:
    for field, value, message in (
        ("schema_version", 2, "contract has schema version 2; this robustcheck reads up to 1"),
        ("schema_version", 0, "contract does not match schema 1 (schema_version: Input should be 1)"),
        ("schema_version", True, "contract does not match schema 1 (schema_version: true is not a version)"),
        ("schema_version", 1.0, "contract does not match schema 1 (schema_version: 1.0 is not a version)"),
        ("precision", "int4", "precision: Input should be 'fp32', 'fp16', 'int8-dynamic' or 'int8-qdq'"),
        ("colour", "red", "colour: Extra inputs are not permitted"),
        ("tensors", {}, 'there is no entry "representation"'),
        ("source", VALID["source"] | {"random_weights": "no"}, "source.random_weights"),
    ):
        caught = raised(CannotAssessError, "", parse, VALID | {field: value})
        assert caught.message.startswith("m.onnx: ")
        assert message in caught.message
        assert caught.hint


def test_what_is_no_contract() -> None:
    assert parse_text("someone", "author") is None
    for text, message in {"{": "is not JSON", "[]": "is a JSON list", "{}": "schema_version: Field required"}.items():
        raised(CannotAssessError, f"contract .*{message}", parse_text, text)


def test_two_contracts() -> None:
    entry = StringStringEntryProto(key=CONTRACT_KEY, value=json.dumps(VALID))
    raised(CannotAssessError, "number of contracts is 2", parse_contract, ModelProto(metadata_props=[entry] * 2), "m")
