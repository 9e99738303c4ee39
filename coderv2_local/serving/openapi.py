"""The OpenAPI description, made from the same tables that requests are checked by."""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coderv2_local import __version__
from coderv2_local.serving.fields import json_schema
from coderv2_local.serving.json_answer import JsonAnswer
from coderv2_local.serving.routes import ENDPOINTS, Endpoint

ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
STATUSES = ("400", "401", "403", "404", "405", "408", "413", "500", "503")


def description() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "coder serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {endpoint.answer: {}}
    if endpoint.streams:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method.lower()}{re.sub('[^a-z0-9]+', '_', endpoint.path)}",
        "responses": {
            "200": {"description": "the answer", "content": content},
            **{status: {"description": "an error", "content": error} for status in STATUSES},
        },
    }
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if endpoint.fields is not None:
        schema = json_schema(endpoint.fields)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


async def openapi(request: Request) -> Response:
    """This description."""
    return JsonAnswer(description())
