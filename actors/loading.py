"""Read the settings from flags, environment and `holdfast.toml`, and tell all that is wrong at once.

A flag beats the environment, the environment beats TOML, TOML beats the default.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from actors.settings import API_KEY_CHARS_MAX, FIELDS, KEY, Settings, SettingsError, default_buffer_path
from actors.values import ADDRESS, Kind

TYPO_RATIO = 0.8
"""How alike two names must be before one is taken for a typo of the other (`difflib`'s ratio)."""
# Read by the cloud or by other commands, so never a typo of ours.
_OTHERS = (
    "CLOUD_DATABASE_URL", "CLOUD_DATABASE_URL_FILE", "CLOUD_API_KEYS", "CLOUD_API_KEYS_FILE", "CLOUD_RETENTION_DAYS",
)  # fmt: skip


@attrs.frozen
class _Given:
    value: object
    origin: str


@attrs.frozen
class Row:
    """One line of the effective settings, fit to be shown: `value` holds no secret."""

    name: str
    value: str
    origin: str
    unit: str
    help: str


def describe(settings: Settings) -> tuple[Row, ...]:
    """Every setting by its environment name, with its value as a person may see it and where it came from."""
    return tuple(
        Row(
            name=name.upper(),
            value=about.show(getattr(settings, name)),
            origin=settings.origins.get(name, "default"),
            unit=about.unit,
            help=about.help,
        )
        for name, about in FIELDS.items()
    )


def load_settings(
    environ: Mapping[str, str], toml_path: Path | None = None, flags: Mapping[str, object] | None = None
) -> Settings:
    """The settings of this start; flags are keyed by field name, and None there means not given.

    Raises `SettingsError` with all that is wrong at once: values, TOML that does not parse, keys that don't exist, a
    key file that can't be read, a key given twice.
    """
    problems: list[str] = []
    given = _from_toml(toml_path, problems) | _from_environment(environ) | _from_flags(flags or {}, problems)
    read: dict[str, object] = {}
    for name, about in FIELDS.items():
        if name not in given:
            continue
        try:
            read[name] = about.kind.read(given[name].value)
        except ValueError:
            problems.append(about.complaint(name, given[name].origin, given[name].value))
    problems += _secret_problems(read, "cloud_logging_api_key", KEY, "CLOUD_LOGGING_API_KEY (or API_KEY)")
    problems += _secret_problems(read, "alert_webhook_url", ADDRESS)
    problems += _tls_problems(read)
    if "buffer_db_path" not in given:
        try:
            read["buffer_db_path"] = default_buffer_path(environ)
        except SettingsError as exc:
            problems += exc.problems
    if problems:
        raise SettingsError(problems)
    origins = {name: found.origin for name, found in given.items()}
    return Settings(**read, origins=origins, warnings=_likely_typos(environ))  # type: ignore[arg-type]


def _tls_problems(read: Mapping[str, Any]) -> list[str]:
    """What keeps the certificate files from being used, so that it shows at the start and not at the first POST."""
    files = [read.get(f"cloud_tls_{name}_file") for name in ("ca", "cert", "key")]
    if not any(files):
        return []
    from actors.ports.tls import Tls, TlsUnusable  # noqa: PLC0415 - most have none, and `status` is quicker without

    tls = Tls(*files)
    if tls.key_file and not tls.cert_file:
        return ["CLOUD_TLS_KEY_FILE is set without CLOUD_TLS_CERT_FILE: give the certificate that the key belongs to"]
    try:
        tls.context()
    except TlsUnusable as exc:
        return [str(exc)]
    return []


def _secret_problems(read: Mapping[str, object], name: str, kind: Kind[str], said: str = "") -> list[str]:
    """What is wrong with a secret that may be given as it is, or in a file; `said` is how its own name is told."""
    path = read.get(f"{name}_file")
    if not isinstance(path, Path):
        return []
    if read.get(name):
        return [f"{said or name.upper()} and {name.upper()}_FILE are both set: give one of the two"]
    where = f"{name.upper()}_FILE: {str(path)!r}"
    try:
        with path.open(encoding="ascii") as file:
            kind.read(file.read(2 * API_KEY_CHARS_MAX))
    except OSError as exc:
        return [f"{where} can't be read: {exc.strerror}"]
    except ValueError:
        return [f"{where} holds no usable key or address; it takes {kind.takes}"]
    return []


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> dict[str, _Given]:
    problems += [f"--{name.replace('_', '-')}: no such setting" for name in flags if name not in FIELDS]
    return {
        name: _Given(value, f"flag --{name.replace('_', '-')}")
        for name, value in flags.items()
        if value is not None and name in FIELDS
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """What the environment says; an empty variable counts as not set, as compose files produce them."""
    given = {}
    for name, about in FIELDS.items():
        for variable in (name.upper(), about.alias):
            if variable and environ.get(variable, "").strip() and name not in given:
                given[name] = _Given(environ[variable], f"environment {variable}" if about.alias else "environment")
    return given


def _from_toml(path: Path | None, problems: list[str]) -> dict[str, _Given]:
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        problems.append(f"{path}: can't be read: {exc.strerror}")
        return {}
    except ValueError as exc:  # TOML's own error and bytes that are no UTF-8
        problems.append(f"{path}: is not valid TOML: {exc}")
        return {}
    aliases = {about.alias.lower(): name for name, about in FIELDS.items() if about.alias}
    known = {name: name for name in FIELDS} | aliases
    for stranger in sorted(table.keys() - known.keys()):
        close = difflib.get_close_matches(stranger.lower(), known, n=1, cutoff=0.6)
        problems.append(f"{stranger} ({path}): no such setting" + (f"; did you mean {close[0]}?" if close else ""))
    return {known[key]: _Given(value, str(path)) for key, value in table.items() if key in known}


def _likely_typos(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A warning for each variable that reads like one of ours: the same first word, nearly the same name."""
    known = [name.upper() for name in FIELDS]
    prefixes = tuple({f"{name.split('_')[0]}_" for name in known if "_" in name})
    strangers = [n for n in environ if n.startswith(prefixes) and n not in known and n not in _OTHERS]
    close = {name: difflib.get_close_matches(name, known, n=1, cutoff=TYPO_RATIO) for name in sorted(strangers)}
    return tuple(f"{name} is not a setting of ours; did you mean {like[0]}?" for name, like in close.items() if like)
