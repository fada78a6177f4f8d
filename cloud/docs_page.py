"""The OpenAPI document as one plain page: no script, nothing from another host."""

import base64
import hashlib
import json
from typing import Any

import jinja2

_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
section { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); margin-top: 1.5rem; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0; }
"""
CSP = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_jinja = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_jinja.filters["pretty"] = lambda value: json.dumps(value, indent=1)
_jinja.filters["type_name"] = lambda schema: schema.get("$ref", "").rpartition("/")[2]
_PAGE = _jinja.from_string(
    """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ info.title }}</title>
<style>{{ css | safe }}</style></head>
<body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} For programs: <a href="/openapi.json">openapi.json</a>.</p>
<ul>
{% for path, methods in paths.items() %}{% for method, op in methods.items() %}
<li><a href="#{{ op.operationId }}"><code>{{ method | upper }} {{ path }}</code></a> {{ op.summary }}</li>
{% endfor %}{% endfor %}
</ul>
{% for path, methods in paths.items() %}{% for method, op in methods.items() %}
<section id="{{ op.operationId }}">
<h2><code>{{ method | upper }} {{ path }}</code></h2>
<p>{{ op.summary }}{% if not op.security %} Needs no key.{% endif %}</p>
{% if op.parameters %}
<table><tr><th>parameter</th><th>takes</th></tr>
{% for p in op.parameters %}
<tr><td><code>{{ p.name }}</code></td>
<td>{{ p.schema.description or p.schema.type or p.schema.enum | join(", ") }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if op.requestBody %}
<pre>{{ op.requestBody.content["application/json"].example | pretty }}</pre>
{% endif %}
<table><tr><th>answer</th><th></th></tr>
{% for status, response in op.responses.items() %}
<tr><td>{{ status }}</td><td>
{% for kind, body in (response.content or {}).items() %}
{% set name = body.schema | type_name %}
<code>{{ kind }}</code>{% if name %} <a href="#{{ name }}">{{ name }}</a>{% endif %}
{% if body.example %}<pre>{{ body.example | pretty }}</pre>{% endif %}
{% endfor %}
</td></tr>
{% endfor %}
</table>
</section>
{% endfor %}{% endfor %}
<h2>Types</h2>
{% for name, schema in components.schemas.items() %}
<section id="{{ name }}"><h3>{{ name }}</h3>
<p>{{ schema.description }}</p>
<pre>{{ (schema.properties or schema) | pretty }}</pre></section>
{% endfor %}
</body></html>
"""
)


def docs_page(document: dict[str, Any]) -> str:
    """The page of that document."""
    return _PAGE.render(css=_CSS, **document)
