"""The OpenAPI document at `/openapi.json`: routes as they are, types as they are, examples that were tried.

quart-schema walks the routes; it does not follow a msgspec type into the types that it holds, so the schemas are put
together here.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import attrs
import msgspec
from quart_schema import QuartSchema
from quart_schema.openapi import HttpSecurityScheme, Info, OpenAPIProvider
from quart_trio import QuartTrio
from werkzeug.routing import Rule

from cloud import documents, wire
from cloud.dashboard import PAGES
from cloud.guard import OPEN_PATHS, scopes_for
from cloud.keys import Scope
from cloud.problems import CONTENT_TYPE
from cloud.queries import CONTENT_TYPES, LIMIT, LIMIT_MAX

_REF = "#/components/schemas/{name}"
_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_MOMENT: dict[str, Any] = {
    "type": "string",
    "description": "seconds since 1970, or ISO 8601 (UTC where it names no zone)",
    "examples": ["2026-01-28T10:44:05Z", "1769596240.2"],
}
_TIME_AND_WHOSE = {"since": _MOMENT, "until": _MOMENT, "edge_device_id": _TEXT, "model_name": _TEXT}
_BUCKET = {"type": "integer", "description": "seconds; a multiple of 3600, or of 60 for the last 48 hours"}
_LIMIT = {"type": "integer", "minimum": 1, "default": LIMIT, "description": f"at most {LIMIT_MAX} but for exports"}

EXAMPLE_PREDICTION: dict[str, Any] = {
    "seq": 17,
    "image_id": "frame_001",
    "timestamp": 1769596240.2,
    "model_version": "v1.0",
    "model_name": "yolov8-defect",
    "inference_time_ms": 45.2,
    "detections": [{"class": "defect", "confidence": 0.95, "bbox": [100, 100, 200, 200]}],
    "defect_detected": True,
    "confidence_scores": [0.95],
}
EXAMPLE_BATCH: dict[str, Any] = {
    "edge_device_id": "factory-camera-01",
    "stream_id": "01JD0000000000000000000000",
    "sent_at": 1769596245.1,
    "pending": 120,
    "predictions": [EXAMPLE_PREDICTION],
    "losses": [{"from_seq": 3, "to_seq": 9, "reason": "evicted"}],
}
EXAMPLE_ANSWER: dict[str, Any] = {
    "accepted": 1,
    "duplicates": 0,
    "conflicts": 0,
    "rejected": [],
    "delivery": "exactly-once",
}


@attrs.frozen
class Operation:
    """What the routes themselves don't tell of one of them."""

    summary: str
    answer: Any = None
    """The type of the JSON that it answers; None: text."""
    parameters: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    problems: tuple[int, ...] = ()
    example: Any = None


OPERATIONS = {
    "/log": Operation(
        "Store a batch of predictions. The answer comes after the commit; one bad record never refuses its neighbours.",
        wire.Answer,
        problems=(400, 408, 413, 415, 422, 429, 503),
        example=EXAMPLE_ANSWER,
    ),
    "/health": Operation("The process lives.", documents.State, example={"status": "ok"}),
    "/ready": Operation("The ledger answers.", documents.State, problems=(503,), example={"status": "ready"}),
    "/": Operation("The endpoints; for a browser the fleet's page.", documents.Index),
    "/stats": Operation(
        "Totals, by device and by model, also of a stretch of time.", documents.Stats, _TIME_AND_WHOSE, (400, 503)
    ),
    "/series": Operation(
        "The same over time; the last day where no bounds are given.",
        documents.Series,
        _TIME_AND_WHOSE | {"bucket_s": _BUCKET},
        (400, 503),
    ),
    "/predictions": Operation(
        "Predictions, newest first; all of them as JSON lines or CSV by Accept or format.",
        documents.Page,
        {
            **_TIME_AND_WHOSE,
            "model_version": _TEXT,
            "defect_detected": {"type": "boolean"},
            "class": _TEXT,
            "limit": _LIMIT,
            "cursor": {"type": "string", "description": "the next_cursor of an earlier answer"},
            "format": {"enum": [*CONTENT_TYPES]},
        },
        (400, 503),
    ),
    "/devices": Operation("Every device that ever sent something.", documents.Devices, problems=(503,)),
    "/devices/<path:device_id>/audit": Operation(
        "Accepted against stored, number by number.", documents.Audit, problems=(404, 503)
    ),
    "/devices/<path:device_id>/conflicts": Operation(
        "Numbers that came again with another payload, beside what is stored, by stream and number.",
        documents.Conflicts,
        {
            "limit": {**_LIMIT, "description": f"at most {LIMIT_MAX}"},
            "cursor": {"type": "string", "description": "the next_cursor of an earlier answer"},
        },
        (400, 404, 503),
    ),
    "/metrics": Operation("Counters, gauges and histograms for Prometheus."),
    "/openapi.json": Operation("This document."),
    "/docs": Operation("This document, for people."),
}


class Provider(OpenAPIProvider):
    """quart-schema's walk over the routes, with our types."""

    def generate_rules(self) -> Iterator[Rule]:
        """Every route but those of pages, which are for people alone."""
        yield from (rule for rule in super().generate_rules() if not rule.endpoint.startswith(f"{PAGES}."))

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """The operations of one route, and the schemas that they refer to."""
        paths, _ = super().build_paths(rule)
        operation = OPERATIONS[rule.rule]
        types = [documents.Problem, *([documents.Batch] if rule.rule == "/log" else [])]
        types += [operation.answer] if operation.answer is not None else []
        _, components = msgspec.json.schema_components(types, ref_template=_REF)
        asked = [{"name": name, "in": "query", "schema": schema} for name, schema in operation.parameters.items()]
        for item in next(iter(paths.values())).values():
            item.update(_described(rule.rule, operation), parameters=item["parameters"] + asked)
        return paths, components


def _described(path: str, operation: Operation) -> dict[str, Any]:
    ok: dict[str, Any] = {"description": operation.summary}
    if operation.answer is not None:
        body: dict[str, Any] = {"schema": _ref(operation.answer)}
        if operation.example is not None:
            body["example"] = operation.example
        ok["content"] = {"application/json": body}
    if path == "/predictions":
        ok["content"] |= {CONTENT_TYPES[form].partition(";")[0]: {"schema": _TEXT} for form in ("jsonl", "csv")}
    keyed = path not in OPEN_PATHS
    statuses = sorted({*operation.problems, *((401, 403) if keyed else ())})
    problem = {CONTENT_TYPE: {"schema": _ref(documents.Problem)}}
    described = {
        "summary": operation.summary,
        "responses": {"200": ok} | {str(status): _problem(status, problem) for status in statuses},
        "security": _security(path) if keyed else [],
    }
    if path == "/log":
        body = {"schema": _ref(documents.Batch), "example": EXAMPLE_BATCH}
        described["requestBody"] = {"required": True, "content": {"application/json": body}}
    return described


def _problem(status: int, content: dict[str, Any]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": "What went wrong, and what to do about it.", "content": content}
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return response


def _security(path: str) -> list[dict[str, list[str]]]:
    # Without keys the service is open to its own machine: {} says so.
    browser: list[dict[str, list[str]]] = [{"browser": []}] if Scope.READ in scopes_for(path) else []
    return [{"key": []}, *browser, {}]


def _ref(kind: Any) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}


def openapi_document(app: QuartTrio) -> dict[str, Any]:
    """The document of every route that `app` has now."""
    extension = QuartSchema(
        app,
        openapi_path=None,
        info=Info(
            title="Holdfast cloud",
            version=version("holdfast"),
            description="Takes batches of predictions from edge devices, and can name every number it has not seen.",
        ),
        security_schemes={
            # A key made by `python -m cloud keys add`; for a browser as the password of any user.
            "key": HttpSecurityScheme(scheme="bearer"),
            "browser": HttpSecurityScheme(scheme="basic"),
        },
        openapi_provider_class=Provider,
    )
    document = extension.openapi_provider.schema()
    return {**document, "paths": dict(sorted(document["paths"].items()))}
