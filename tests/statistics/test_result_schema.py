"""The schema of result files: it says what they open with, and tells a wrong file from a right one."""

import json

import pytest

from modeling_apex import __version__
from modeling_apex.statistics.result_schema import SCHEMAS, build_opening

from result_schemas import list_violations


def test_every_result_opens_with_its_kind_versions_and_hashes() -> None:
    for result, schema in SCHEMAS.items():
        opening = build_opening(result, model="m", model_sha256="a" * 64, input_sha256=None)
        assert set(opening) <= set(schema["required"])
        assert opening["code_version"] == __version__
        assert opening["schema_version"] == 2
        assert json.loads(json.dumps(schema)) == schema


def test_a_wrong_result_is_told_from_a_right_one() -> None:
    right = {**build_opening("anchors"), "gains": [], "per_system": {}, "left_out": {"s": 3}}
    assert list_violations(right, SCHEMAS["anchors"]) == []
    assert list_violations({**right, "left_out": {"s": "3"}}, SCHEMAS["anchors"]) == [
        "$.left_out.s: '3' is no integer"
    ]
    assert list_violations(build_opening("anchors"), SCHEMAS["anchors"])[0] == "$: no gains"


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"`result` is 'scores'\. Choose one of"):
        build_opening("scores")
