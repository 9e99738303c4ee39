"""JSON Schema → GBNF: a grammar whose every text is JSON that follows the schema.

The grammar may be narrower than the schema (properties come in the schema's order, and none that it does not name), not
wider (but for 29 February in any year): a part of the schema that cannot be held to is refused by name. The converter
of llama-cpp-python is not used: it lets line breaks into strings, breaks on quotes in enum values, and leaves out what
it does not know.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from coderv2_local.sampling.gbnf import MAX_LENGTH, MAX_REPETITIONS, check_grammar
from quant.errors import InputError

MAX_DEPTH = 64  # schemas inside schemas

_FIXED = {
    "ws": r'| " " | "\n" [ \t]{0,20}',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" (hex-low hex hex hex | [dD] [0-7] hex hex))',
    "hex": "[0-9a-fA-F]",
    "hex-low": "[0-9a-cefA-CEF]",
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,17})',
    "number": 'integer ("." [0-9]{1,17})? ([eE] [+-]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "array": '"[" ws (value (ws "," ws value)*)? ws "]"',
    "object": '"{" ws (member (ws "," ws member)*)? ws "}"',
    "member": 'string ws ":" ws value',
    "value": "object | array | string | number | boolean | null",
    "day": '[0-9]{4} "-" (month-31 "-" ("3" [01] | d29) | month-30 "-" ("30" | d29) | "02-" d29)',
    "month-31": '"0" [13578] | "1" [02]',
    "month-30": '"0" [469] | "11"',
    "d29": '"0" [1-9] | [12] [0-9]',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? zone',
    "zone": '"Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
}
_FORMATS = {
    "date": r'"\"" day "\""',
    "time": r'"\"" clock "\""',
    "date-time": r'"\"" day "T" clock "\""',
    "uuid": r'"\"" hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12} "\""',
}
_NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"}
_NOTES |= {"$id", "$defs", "definitions"}
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "format"},
    "integer": set[str](),
    "number": set[str](),
    "boolean": set[str](),
    "null": set[str](),
}


def grammar_of(schema: str) -> str:
    """The grammar, in GBNF, of a JSON Schema.

    Understood: ``type`` (one or several), ``properties``, ``required``, ``additionalProperties``, ``items``,
    ``minItems``, ``maxItems``, ``minLength``, ``maxLength``, ``format`` (date, time, date-time, uuid), ``enum``,
    ``const``, ``anyOf``, ``oneOf`` (as ``anyOf``), ``$ref`` inside the schema.

    Raises:
        InputError: no JSON, no schema, or a part that is not understood; the message names it and where it is.
    """
    if len(schema) > MAX_LENGTH:
        raise InputError(f"the JSON schema has {len(schema)} characters: at most {MAX_LENGTH} are read")
    try:
        whole = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the JSON schema is no JSON: {error}") from None
    converter = _Converter(whole)
    # chat answers begin with a space that belongs to them
    lines = [
        f'root ::= " "? {converter.reference("#", "#", 0)}',
        *converter.lines,
        *(f"{name} ::= {body}" for name, body in _FIXED.items()),
    ]
    grammar = "\n".join(lines)
    try:
        check_grammar(grammar)
    except InputError as error:
        raise InputError(f"the JSON schema cannot be turned into a grammar: {error}") from None
    return grammar


class _Converter:
    """Rules that were made so far. Methods return what stands for a schema inside another rule."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole
        self.lines: list[str] = []
        self.references: dict[str, str] = {}  # pointer → its rule
        self.count = 0

    def new_rule(self, body: str) -> str:
        name = f"r{self.count}"
        self.count += 1
        self.lines.append(f"{name} ::= {body}")
        return name

    def rule(self, schema: Any, where: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise InputError(f"the JSON schema is nested deeper than {MAX_DEPTH}: {where:.80}")
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise _unsupported(where, f"{schema!r:.40} is no schema that anything follows")
        for key in ("$ref", "enum", "const", "anyOf", "oneOf"):
            if key in schema:
                # beside an enum the type says nothing new, or something that is checked value by value
                _only(schema, {key, "type"} if key in ("enum", "const") else {key}, where)
                return self.special(schema, key, where, depth)
        types = schema["type"] if "type" in schema else _types_of(schema, where)
        types = [types] if isinstance(types, str) else types
        if not isinstance(types, list) or not types or any(t not in _KEYWORDS for t in types):
            raise _unsupported(where, f"type {schema.get('type')!r:.40}")
        _only(schema, {"type"}.union(*(_KEYWORDS[t] for t in types)), where)
        makers = {"object": self.object, "array": self.array, "string": self.string}
        parts = [makers[t](schema, where, depth) if t in makers else t for t in types]
        return parts[0] if len(parts) == 1 else self.new_rule(" | ".join(parts))

    def special(self, schema: Mapping[str, Any], key: str, where: str, depth: int) -> str:
        if key == "$ref":
            return self.reference(schema["$ref"], where, depth)
        if key == "const":
            return self.new_rule(_values([schema["const"]], schema.get("type"), where))
        if not isinstance(schema[key], list) or not schema[key]:
            raise _unsupported(where, f"{key} {schema[key]!r:.40}")
        if key == "enum":
            return self.new_rule(_values(schema["enum"], schema.get("type"), where))
        parts = [self.rule(part, f"{where}/{key}/{i}", depth + 1) for i, part in enumerate(schema[key])]
        return self.new_rule(" | ".join(parts))

    def reference(self, pointer: Any, where: str, depth: int) -> str:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise _unsupported(where, f"$ref {pointer!r:.80}: only places in the schema itself (#/…)")
        if pointer not in self.references:
            target = self.whole
            for part in pointer.split("/")[1:]:
                name = unquote(part).replace("~1", "/").replace("~0", "~")
                if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                    target = target[int(name)]
                elif isinstance(target, dict) and name in target:
                    target = target[name]
                else:
                    raise _unsupported(where, f"$ref {pointer!r:.80}: there is no such place")
            name = self.references[pointer] = f"ref{len(self.references)}"
            self.lines.append(f"{name} ::= {self.rule(target, pointer, depth + 1)}")
        return self.references[pointer]

    def object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        others = schema.get("additionalProperties", True)
        if not isinstance(properties, dict) or not all(isinstance(name, str) for name in _list(required)):
            raise _unsupported(where, "properties or required of another kind")
        if others is not False:
            properties = {**properties, **{name: others for name in required if name not in properties}}
        elif unknown := [name for name in required if name not in properties]:
            raise _unsupported(where, f"{unknown[0]!r:.40} is required and not allowed")
        if not properties:
            if others in (True, False):
                return "object" if others else self.new_rule('"{" ws "}"')
            value = self.rule(others, f"{where}/additionalProperties", depth + 1)
            member = self.new_rule(f'string ws ":" ws {value}')
            return self.new_rule(f'"{{" ws ({member} (ws "," ws {member})*)? ws "}}"')
        members = []
        for name, value in properties.items():
            rule = self.rule(value, f"{where}/properties/{name}", depth + 1)
            members.append((self.new_rule(f'{_literal(name)} ws ":" ws {rule}'), name in required))
        return self.new_rule(f'"{{" ws {self.members(members)} ws "}}"')

    def members(self, members: Sequence[tuple[str, bool]]) -> str:
        """The members in order, those that are not required left out at will; commas only between two."""
        first = next((i for i, (_, required) in enumerate(members) if required), len(members))
        tail = ""
        ways = [] if first < len(members) else [""]
        for i in range(len(members) - 1, -1, -1):
            rule, required = members[i]
            if i <= first:  # it can be the one that comes first
                tail = self.new_rule(tail) if tail else ""
                ways.append(f"{rule} {tail}")
            tail = f'ws "," ws {rule} {tail}' if required else f'(ws "," ws {rule})? {tail}'
        return f"({' | '.join(reversed(ways))})"

    def array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        low, high = _bounds(schema, "minItems", "maxItems", where)
        items = schema.get("items", True)
        if high == 0:
            return self.new_rule('"[" ws "]"')
        item = self.rule(items, f"{where}/items", depth + 1)
        more = f'(ws "," ws {item}){{{max(low - 1, 0)},{"" if high is None else high - 1}}}'
        return self.new_rule(f'"[" ws {f"{item} {more}" if low else f"({item} {more})?"} ws "]"')

    def string(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        form = schema.get("format")
        if form is not None:
            if form not in _FORMATS or "minLength" in schema or "maxLength" in schema:
                raise _unsupported(where, f"format {form!r:.40}" + (" with a length" if form in _FORMATS else ""))
            return self.new_rule(_FORMATS[form])
        low, high = _bounds(schema, "minLength", "maxLength", where)
        if not low and high is None:
            return "string"
        return self.new_rule(rf'"\"" char{{{low},{"" if high is None else high}}} "\""')


def _types_of(schema: Mapping[str, Any], where: str) -> list[str]:
    """The type that keywords without one speak of. They would allow any other type too: narrower will do."""
    for kind, keywords in _KEYWORDS.items():
        if keywords & set(schema):
            return [kind]
    _only(schema, set(), where)
    return ["object", "array", "string", "number", "boolean", "null"]


def _only(schema: Mapping[str, Any], known: set[str], where: str) -> None:
    """Refuse keywords that are not among `known`."""
    for key in schema:
        if key not in known and key not in _NOTES:
            raise _unsupported(where, f"{key!r:.40}")


def _values(values: Sequence[Any], types: Any, where: str) -> str:
    """The alternatives of an enum; with a type, those of that type."""
    wanted = [types] if isinstance(types, str) else types
    kept = [v for v in values if wanted is None or any(_is_a(v, t) for t in _list(wanted))]
    if not kept:
        raise _unsupported(where, "none of its values has the type that it asks for")
    return " | ".join(_literal(v) for v in kept)


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return bool(kind == "boolean")
    classes: dict[Any, Any] = {"object": dict, "array": list, "string": str, "number": (int, float), "null": type(None)}
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, classes.get(kind, ()))


def _literal(value: Any) -> str:
    """A JSON value as a literal of the grammar."""
    text = json.dumps(value, ensure_ascii=any("\ud800" <= c <= "\udfff" for c in str(value)))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bounds(schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for key, value in ((low, least), (high, most)):
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_REPETITIONS):
            raise _unsupported(where, f"{key} {value!r:.40}: it must be from 0 to {MAX_REPETITIONS}")
    if most is not None and least > most:
        raise _unsupported(where, f"{low} {least} and {high} {most} cannot be")
    return least, most


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


def _unsupported(where: str, what: str) -> InputError:
    return InputError(
        f"the JSON schema at {where:.80}: {what} is not supported",
        hint="answers cannot be held to this part: leave it out, or give a grammar",
    )
