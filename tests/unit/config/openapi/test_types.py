"""Classes for schemas: what they decode, and what they write."""

from __future__ import annotations

import datetime
import decimal
import typing
import uuid
from typing import Any, Literal

import attrs
import pytest

from goplugins.errors import ReplyTypeError
from goplugins.transports.json_codec import codec_for
from tests.unit.config.openapi.helpers import binds, body, module, parameter, schemas, spec


def type_of(schema: dict[str, Any], minor: int = 0, **others: Any) -> tuple[Any, Any, list[str]]:
    """The type of a property with this schema, its module, and what could not be expressed."""
    holder = {"type": "object", "required": ["x"], "properties": {"x": schema}}
    made, warnings = schemas({"Holder": holder, **others}, minor=minor)
    return typing.get_type_hints(made.Holder)["x"], made, warnings


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, str),
        ({"type": "integer", "format": "int64"}, int),
        ({"type": "number"}, float),
        ({"type": "boolean"}, bool),
        ({"type": "string", "format": "date-time"}, datetime.datetime),
        ({"type": "string", "format": "date"}, datetime.date),
        ({"type": "string", "format": "uuid"}, uuid.UUID),
        ({"type": "string", "format": "decimal"}, decimal.Decimal),
        ({"type": "string", "format": "byte"}, bytes),
        ({"type": "string", "format": "binary"}, str),
        ({"type": "string", "format": "email"}, str),
        ({"type": "string", "enum": ["a", "b"]}, Literal["a", "b"]),
        ({"type": "integer", "enum": [1, 2]}, Literal[1, 2]),
        ({"enum": ["a", None]}, Literal["a"] | None),
        ({"type": "number", "enum": [0.5, 1.5]}, float),
        ({"type": "array", "items": {"type": "string"}}, list[str]),
        ({"type": "array"}, list[Any]),
        ({"type": "object"}, dict[str, Any]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, dict[str, int]),
        ({"type": "object", "additionalProperties": True}, dict[str, Any]),
        ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}}, dict[str, int]),
        ({}, Any),
        ({"description": "anything"}, Any),
        ({"type": "string", "nullable": True}, str | None),
        ({"allOf": [{"type": "string", "format": "uuid"}], "nullable": True}, uuid.UUID | None),
        ({"allOf": [{"description": "x"}, {"type": "string"}, {"enum": ["a"]}]}, Literal["a"]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, str | int),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "uuid"}]}, str),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, float),
        ({"oneOf": [{"enum": ["a"]}, {"enum": ["b"]}]}, Literal["a", "b"]),
        (
            {
                "oneOf": [
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "array", "items": {"type": "integer"}},
                ]
            },
            list[str | int],
        ),
        ({"anyOf": [{"type": "string"}, {}]}, Any),
        ({"type": "string", "anyOf": [{"minLength": 1}, {"pattern": "x"}]}, str),
    ],
)
@pytest.mark.parametrize("minor", [0, 1])
def test_the_type_of_a_schema(schema: dict[str, Any], kind: Any, minor: int) -> None:
    found, _, warnings = type_of(schema, minor)
    assert (found, warnings) == (kind, [])
    codec_for(Any, found)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": ["string", "null"]}, str | None),
        ({"type": ["string", "integer"]}, str | int),
        ({"type": ["array", "null"], "items": {"type": "string"}}, list[str] | None),
        ({"type": ["object", "null"], "additionalProperties": {"type": "string"}}, dict[str, str] | None),
        ({"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}, datetime.date | None),
        ({"const": "a"}, Literal["a"]),
        ({"type": "string", "contentEncoding": "base64"}, bytes),
        ({"type": "null"}, type(None)),
        (True, Any),
    ],
)
def test_the_type_of_a_schema_of_3_1(schema: Any, kind: Any) -> None:
    assert type_of(schema, 1)[::2] == (kind, [])


def test_an_enumeration_of_a_component_has_a_name_and_so_has_a_long_one() -> None:
    long = [f"value-{number}" for number in range(20)]
    found, made, _ = type_of(
        {"type": "array", "items": {"$ref": "#/components/schemas/pet-status"}},
        **{
            "pet-status": {"type": "string", "enum": ["sold", "+1"]},
            "Other": {"type": "object", "properties": {"long": {"type": "string", "enum": long}}},
        },
    )
    assert found == list[Literal["sold", "+1"]]
    assert made.PetStatus == Literal["sold", "+1"]
    assert typing.get_args(made.OtherLong) == tuple(long)


NODE = {
    "type": "object",
    "description": "A node. Of a tree.",
    "required": ["id", "class"],
    "properties": {
        "id": {"type": "integer"},
        "class": {"type": "string"},
        "@type": {"type": "string"},
        "+1": {"type": "integer"},
        "list": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}},
        "Node": {"$ref": "#/components/schemas/Node"},
        "_links": {"type": "object", "properties": {"self": {"type": "string", "format": "uri"}}},
        "created-at": {"type": "string", "format": "date-time"},
        "created_at": {"type": "string"},
        "datetime": {"type": "string", "format": "date"},
        "type": {"type": "string", "nullable": True},
    },
}


def test_names_that_are_no_identifiers_or_hide_types_are_renamed_and_a_class_can_contain_itself() -> None:
    made, warnings = schemas({"Node": NODE})
    names = [field.name for field in attrs.fields(made.Node)]
    assert names == [
        "id",
        "class_",
        "type",
        "n1",
        "list_",
        "Node_",
        "links_",
        "created_at",
        "created_at_2",
        "datetime_",
        "type_2",
    ]
    data = {
        "id": 1,
        "class": "a",
        "@type": "t",
        "+1": 2,
        "list": [{"id": 2, "class": "b"}],
        "Node": {"id": 3, "class": "c"},
        "_links": {"self": "/1"},
        "created-at": "2026-01-31T12:00:00Z",
        "created_at": "x",
        "datetime": "2026-01-31",
        "type": None,
    }
    value = codec_for(Any, made.Node).decode(data)
    assert value.class_ == "a"
    assert value.list_[0].id == 2
    assert value.created_at == datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    assert value.datetime_ == datetime.date(2026, 1, 31)
    assert made.Node.__doc__ == "A node."
    assert warnings == []


def test_all_of_is_merged_and_a_single_part_is_that_part() -> None:
    made, warnings = schemas(
        {
            "Base": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}},
            "Named": {
                "allOf": [
                    {"$ref": "#/components/schemas/Base"},
                    {
                        "required": ["name"],
                        "properties": {
                            "name": {"type": "string"},
                            "base": {"allOf": [{"$ref": "#/components/schemas/Base"}], "nullable": True},
                        },
                    },
                ]
            },
        }
    )
    assert typing.get_type_hints(made.Named) == {"id": int, "name": str, "base": made.Base | None}
    assert codec_for(Any, made.Named).decode({"id": 1, "name": "a"}) == made.Named(id=1, name="a")
    assert warnings == []


CAT = {
    "type": "object",
    "required": ["kind", "lives"],
    "properties": {"kind": {"type": "string"}, "lives": {"type": "integer"}},
}
DOG = {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}, "lives": {"type": "integer"}}}
REFS = [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}]


@pytest.mark.parametrize("mapping", [None, {"cat": "#/components/schemas/Cat", "Dog": "Dog"}])
def test_a_discriminator_becomes_a_literal_of_each_class(mapping: Any) -> None:
    discriminator = {"propertyName": "kind", **({"mapping": mapping} if mapping else {})}
    kind, made, warnings = type_of({"oneOf": REFS, "discriminator": discriminator}, Cat=CAT, Dog=DOG)
    assert kind == made.Cat | made.Dog
    cat = "cat" if mapping else "Cat"
    assert typing.get_type_hints(made.Cat)["kind"] == Literal[cat]  # type: ignore[valid-type]
    assert codec_for(Any, kind).decode({"kind": "Dog", "lives": 1}) == made.Dog(kind="Dog", lives=1)
    assert warnings == []


def test_classes_that_json_cannot_distinguish_are_a_table_and_a_warning() -> None:
    kind, _, warnings = type_of({"oneOf": REFS}, Cat=DOG, Dog=DOG)
    assert kind == dict[str, Any]
    assert warnings == [
        "class Holder, field x: Cat, Dog can't be distinguished, and are taken as dict[str, typing.Any]"
    ]


def test_classes_with_fields_of_their_own_stay_a_union_with_other_kinds() -> None:
    bird = {"type": "object", "required": ["wings"], "properties": {"wings": {"type": "integer"}}}
    kind, made, warnings = type_of(
        {
            "anyOf": [
                *REFS[:1],
                {"$ref": "#/components/schemas/Bird"},
                {"type": "string"},
                {"type": "array", "items": REFS[0]},
            ]
        },
        Cat=CAT,
        Bird=bird,
    )
    assert kind == made.Cat | made.Bird | str | list[made.Cat]
    codec = codec_for(Any, kind)
    assert codec.decode({"wings": 2}) == made.Bird(wings=2)
    assert codec.decode([{"kind": "c", "lives": 9}]) == [made.Cat(kind="c", lives=9)]
    with pytest.raises(ReplyTypeError):
        codec.decode(1)
    assert warnings == []


def test_alternatives_beside_properties_are_optional_and_reported() -> None:
    schema = {
        "type": "object",
        "required": ["id"],
        "properties": {"id": {"type": "integer"}},
        "oneOf": [
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
        ],
    }
    made, warnings = schemas({"Item": schema})
    assert typing.get_type_hints(made.Item) == {"id": int, "a": str | int, "b": str | None}
    assert len(warnings) == 1
    assert "has alternatives" in warnings[0]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"$ref": "#/components/schemas/Loop"}},
        {"oneOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/components/schemas/Loop"}}]},
        {"allOf": [{"$ref": "#/components/schemas/Loop"}]},
    ],
)
def test_a_schema_that_contains_itself_without_an_object_is_any_value_and_a_warning(schema: Any) -> None:
    made, warnings = schemas({"Loop": schema})
    assert "typing.Any" in binds(made)["get_loop"][1]
    assert any("contains itself" in each for each in warnings)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["Any", "None", "list", "datetime"], {"Any", "None_", "List", "Datetime"}),
        (["a.b.Pod", "a-b-pod", "3d"], {"ABPod", "ABPod_2", "N3d"}),
    ],
)
def test_names_of_classes_are_identifiers_and_unique(names: list[str], classes: set[str]) -> None:
    made, _ = schemas({name: {"type": "object", "properties": {"x": {"type": "string"}}} for name in names})
    assert classes <= set(vars(made))


TEXTS = ['Says "hi"', '"""', "back\\slash\\", "two\nlines\x1b[31m", "\U0001f600 it's", "", "x" * 300]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_can_be_a_description_a_title_and_a_value(text: str) -> None:
    item = {"type": "object", "description": text, "properties": {"x": {"type": "string", "enum": [text, "other"]}}}
    values = spec({"/a": {"get": {"summary": text, "responses": {"200": replies(**{"application/json": item})}}}})
    values["info"] = {"title": text, "version": text}
    made, _ = module(values)
    assert typing.get_type_hints(made.GetAReply)["x"] == Literal[text, "other"] | None  # type: ignore[valid-type]
    assert "\x1b" not in made.__doc__


def test_further_properties_beside_known_ones_are_reported() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}}
    assert schemas({"Item": schema})[1] == ["components.schemas.Item: further properties are left out of class Item"]
    assert schemas({"Item": {**schema, "additionalProperties": False}})[1] == []


# --- requests and replies ------------------------------------------------------------------------------------------


def one(
    node: dict[str, Any], method: str = "post", path: str = "/items", **options: Any
) -> tuple[Any, tuple[str, str], list[str]]:
    """The module of one operation, its types, and what could not be expressed."""
    components = {
        "schemas": {
            "Item": {
                "type": "object",
                "required": ["id", "name"],
                "properties": {
                    "id": {"type": "integer", "readOnly": True},
                    "name": {"type": "string"},
                    "secret": {"type": "string", "writeOnly": True},
                    "note": {"type": "string"},
                },
            },
            "Plain": {"type": "object", "properties": {"a": {"type": "string"}}},
        }
    }
    node = {"operationId": "op", "summary": "Makes it.", **node}
    made, warnings = module(spec({path: {method: node}}, components=components), **options)
    return made, binds(made)["op"], warnings


def replies(**content: Any) -> dict[str, Any]:
    return {"description": "ok", "content": {name: {"schema": schema} for name, schema in content.items()}}


ITEM = {"$ref": "#/components/schemas/Item"}
PLAIN = {"$ref": "#/components/schemas/Plain"}


def test_a_request_class_has_the_fields_of_path_query_and_body_and_leaves_out_what_is_not_given() -> None:
    node = {
        "parameters": [parameter("id", "path"), parameter("dry-run", schema={"type": "boolean"})],
        "requestBody": body(ITEM),
        "responses": {"201": replies(**{"application/json": ITEM})},
    }
    made, types, _ = one(node, path="/items/{id}")
    assert types == ("OpRequest", "Item")
    assert typing.get_type_hints(made.OpRequest) == {
        "id": str,
        "name": str,
        "dry_run": bool | None,
        "secret": str | None,
        "note": str | None,
    }
    # The parameter stays, since the template of the query names it; None is left out there.
    assert codec_for(made.OpRequest).encode(made.OpRequest(id="1", name="a")) == b'{"id":"1","name":"a","dry_run":null}'
    assert made.OpRequest.__doc__ == "Makes it."


def test_a_body_alone_is_the_request() -> None:
    made, types, _ = one({"requestBody": body(PLAIN), "responses": {"204": {"description": "done"}}})
    assert types == ("Plain", "None")
    assert codec_for(made.Plain).encode(made.Plain()) == b"{}"


def test_fields_that_the_service_sets_are_optional_in_requests_only() -> None:
    made, types, _ = one(
        {
            "requestBody": body({"type": "array", "items": ITEM}),
            "responses": {"200": replies(**{"application/json": ITEM})},
        }
    )
    assert types == ("list[Item]", "Item")
    assert codec_for(list[made.Item]).encode([made.Item(name="a")]) == b'[{"name":"a"}]'


@pytest.mark.parametrize(
    ("responses", "kind"),
    [
        ({"200": replies(**{"application/json": ITEM})}, "Item"),
        (
            {"200": replies(**{"application/json": ITEM}), "202": replies(**{"application/json": {"type": "string"}})},
            "Item | str",
        ),
        ({"200": replies(**{"application/json": ITEM}), "204": {"description": "none"}}, "Item | None"),
        ({"2XX": replies(**{"application/json": ITEM}), "default": replies(**{"application/json": PLAIN})}, "Item"),
        ({"default": replies(**{"application/hal+json": ITEM})}, "Item"),
        ({"200": replies(**{"text/plain": {"type": "string"}})}, "str"),
        ({"200": replies(**{"image/png": {"type": "string", "format": "binary"}})}, "bytes"),
        ({"200": replies(**{"text/csv": {}, "application/json": ITEM})}, "Item"),
        ({"200": {"description": "nothing"}}, "None"),
    ],
)
def test_the_type_of_replies_is_that_of_all_that_are_no_errors(responses: Any, kind: str) -> None:
    _, types, warnings = one({"responses": responses})
    assert (types[1], warnings) == (kind, [])


def test_replies_without_a_success_and_streams_are_reported() -> None:
    assert one({"responses": {"400": {"description": "no"}}})[1:] == (
        ("OpRequest", "typing.Any"),
        ["op: has no reply that is no error: its type is typing.Any"],
    )
    _, types, warnings = one({"responses": {"200": replies(**{"text/event-stream": {}})}})
    assert types[1] == "str"
    assert "are a stream" in warnings[0]


def test_an_expected_404_makes_the_reply_optional() -> None:
    responses = {"200": replies(**{"application/json": ITEM}), "404": {"description": "absent"}}
    assert one({"responses": responses}, "get", expect_404=True)[1][1] == "Item | None"
    assert one({"responses": responses}, "get")[1][1] == "Item"


@pytest.mark.parametrize(
    ("media_type", "schema", "given", "request_type"),
    [
        ("application/octet-stream", {"type": "string", "format": "binary"}, [], "bytes"),
        ("text/csv", {"type": "string"}, [], "str"),
        ("application/xml", PLAIN, [], "str"),
        ("application/octet-stream", {}, [parameter("q")], "OpRequest"),
        ("application/json", {}, [], "typing.Any"),
        ("application/json", {"type": "object"}, [], "dict[str, typing.Any]"),
        ("application/json", {"type": "object"}, [parameter("q")], "dict[str, typing.Any]"),
        ("application/json", {"type": "string"}, [], "str"),
    ],
)
def test_the_type_of_other_requests(media_type: str, schema: Any, given: Any, request_type: str) -> None:
    made, types, _ = one({"requestBody": body(schema, media_type), "parameters": given, "responses": {"204": {}}})
    assert types[0] == request_type
    if request_type == "OpRequest":
        assert typing.get_type_hints(made.OpRequest) == {"q": str | None, "content": bytes}


def test_files_of_a_form_are_files_or_bytes() -> None:
    import goplugins

    schema = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "string", "format": "binary"},
            "more": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "caption": {"type": "string"},
        },
    }
    made, _, _ = one({"requestBody": body(schema, "multipart/form-data"), "responses": {"204": {}}})
    [cls] = [each for each in vars(made).values() if isinstance(each, type) and each.__module__ == made.__name__]
    hints = typing.get_type_hints(cls)
    assert hints["image"] == goplugins.File | bytes
    assert hints["more"] == list[goplugins.File | bytes] | None
