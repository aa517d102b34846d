"""OpenAPI 3.1 of the server: what it takes and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from .limits import MIB, Limits

if TYPE_CHECKING:
    from ..structures import Json

Schema: TypeAlias = "Mapping[str, Json]"


def openapi(limits: Limits, formats: tuple[str, ...]) -> Schema:
    """The document; descriptions name the limits of requests."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlx_rcnn serve", "version": "1"},
        "paths": {
            "/predict": {"post": _predict(limits, formats)},
            "/model": {"get": _get("Classes, colours, formats and limits.", {"type": "object"})},
            "/health": {"get": _get("Whether the server is well.", _health())},
            "/setup": {"post": _label_studio("Label Studio: the version of the model.")},
            "/webhook": {"post": _label_studio("Label Studio: an event; nothing is done.")},
        },
        "components": {
            "schemas": {
                "Found": _found(),
                "Detection": _detection(),
                "Error": _object({"error": {"type": "string"}}),
            }
        },
    }


def _predict(limits: Limits, formats: tuple[str, ...]) -> Schema:
    size = f"at most {limits.max_bytes / MIB:g} MB and {limits.max_pixels / 1e6:g} megapixels"
    image: Schema = {"type": "string", "format": "binary", "description": f"an image file, {size}"}
    form: Schema = _object({"image": image})
    errors = {
        "400": "a query, form or JSON that cannot be read",
        "403": "a Host or Origin that is not this server",
        "408": f"the body was not there after {limits.body_seconds:g} s",
        "413": "too many bytes or pixels",
        "415": "no image",
        "422": "a damaged image, or a path or URL in place of one",
        "500": "the model failed",
        "503": "busy: try again after Retry-After seconds",
    }
    file: Schema = {"description": "with another format: the file"}
    return {
        "summary": "Detections in one image.",
        "description": "JSON bodies are Label Studio's: tasks and label_config.",
        "parameters": [
            _query("threshold", {"type": "number", "minimum": 0, "maximum": 1}, "least score"),
            _query("top_k", {"type": "integer", "minimum": 1}, "most detections"),
            _query("format", {"enum": list(formats), "default": formats[0]}, "of the answer"),
            _query("name", {"type": "string"}, "of the image, for files; default: the form's"),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": image},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "200": {
                "description": "what was found",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Found"}},
                    "application/octet-stream": {"schema": file},
                },
            },
            **{status: _error(why) for status, why in errors.items()},
        },
    }


def _found() -> Schema:
    side: Schema = {"type": "integer", "minimum": 1}
    image: Schema = _object({"name": {"type": "string"}, "width": side, "height": side})
    rows: Schema = {"type": "array", "items": {"$ref": "#/components/schemas/Detection"}}
    return _object({"model": {"type": "string"}, "image": image, "detections": rows})


def _detection() -> Schema:
    number: Schema = {"type": "number"}
    point: Schema = _list(number, 3, "x, y in pixels of the image, and 0 where there is none")
    counts: Schema = {"type": "string", "description": "COCO's compressed run lengths"}
    mask: Schema = _object(
        {"size": _list({"type": "integer"}, 2, "height, width"), "counts": counts}
    )
    required: Schema = {
        "label": {"type": "integer", "minimum": 1, "description": "1..C-1; 0 is the background"},
        "name": {"type": "string", "description": "of the class"},
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "to 1e-8"},
        "box": _list(number, 4, "x1, y1, x2, y2 in pixels of the image, to 1e-4"),
    }
    optional: Schema = {
        "mask": mask,
        "keypoints": {"type": "array", "items": point},
        "keypoints_scores": {"type": "array", "items": number},
    }
    schema: Schema = _object(required)
    return {**schema, "properties": {**required, **optional}}


def _health() -> Schema:
    count: Schema = {"type": "integer", "minimum": 0}
    text: Schema = {"type": "string"}
    names: Schema = {"status": {"enum": ["UP", "DOWN"]}, "model": text, "model_class": text}
    return _object({**names, "requests": count, "answered": count})


def _label_studio(summary: str) -> Schema:
    body: Schema = {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    return {**_get(summary, {"type": "object"}), "requestBody": body}


def _get(summary: str, schema: Schema) -> Schema:
    answer: Schema = {"description": "JSON", "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "responses": {"200": answer}}


def _error(why: str) -> Schema:
    schema: Schema = {"$ref": "#/components/schemas/Error"}
    return {"description": why, "content": {"application/json": {"schema": schema}}}


def _query(name: str, schema: Schema, what: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": what}


def _object(properties: Schema) -> Schema:
    fixed: Schema = {"additionalProperties": False, "required": list(properties)}
    return {"type": "object", "properties": properties, **fixed}


def _list(items: Schema, count: int, what: str) -> Schema:
    size: Schema = {"minItems": count, "maxItems": count}
    return {"type": "array", "items": items, **size, "description": what}
