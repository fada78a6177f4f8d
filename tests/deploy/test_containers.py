"""Dockerfiles, compose and Kubernetes: valid by their own tools' word, and hardened as the documents promise.

No container engine is needed, and none is tried: what an image's build would install is installed from the same files.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from actors.settings import FIELDS
from tests.places import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
COMPOSE = DEPLOY / "compose.yaml"
CLOUDS_SETTINGS = {"CLOUD_DATABASE_URL_FILE", "CLOUD_API_KEYS", "CLOUD_API_KEYS_FILE", "CLOUD_RETENTION_DAYS"}
SETTINGS = {name.upper() for name in FIELDS} | CLOUDS_SETTINGS
OTHERS = {
    "PATH",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD_FILE",
    "XDG_STATE_HOME",
}


def last_stage(dockerfile: Path) -> str:
    """The stage that becomes the image, its continued lines joined."""
    return re.sub(r"\\\n\s*", "", dockerfile.read_text()).rpartition("\nFROM ")[2]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.stem)
def dockerfile(request) -> Path:
    path: Path = request.param
    return path


# --- images


def test_there_are_two_images():
    assert [path.stem for path in DOCKERFILES] == ["cloud", "device"]


def test_hadolint_has_no_complaint(dockerfile):
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), dockerfile], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_is_slim_tagged_and_not_root(dockerfile):
    bases = re.findall(r"^FROM (\S+)", dockerfile.read_text(), re.MULTILINE)
    assert set(bases) == {"python:3.12-slim-bookworm"}
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last_stage(dockerfile), re.MULTILINE)
    assert "torch" not in last_stage(dockerfile)


def test_signals_reach_the_process_and_the_health_is_asked_without_a_shell(dockerfile):
    for word in ("ENTRYPOINT", "CMD"):
        assert re.search(rf"^{word} \[", last_stage(dockerfile), re.MULTILINE), word
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (.*)$", last_stage(dockerfile), re.MULTILINE)
    assert check.startswith('["python", "-c", ')
    assert re.search(r"http://127\.0\.0\.1:800[01]/(health|ready)", check)


def test_what_the_image_copies_is_all_that_its_commands_need(dockerfile, tmp_path):
    """The wheel that the build would make, unpacked where nothing else of the checkout is, runs the image's command."""
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile.read_text(), re.MULTILINE):
        for source in sources.split():
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / "src" / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tmp_path / "src").mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / "src" / source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, tmp_path / "src"], check=True, timeout=120)
    (wheel,) = tmp_path.glob("holdfast-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (entry,) = re.findall(r'^ENTRYPOINT \["python", "-m", "(\w+)"\]$', last_stage(dockerfile), re.MULTILINE)
    start = "import runpy, sys; sys.path.insert(0, '.'); sys.argv[1:] = ['--help']"
    script = f"{start}; runpy.run_module('{entry}', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path / "site", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert (tmp_path / "site/actors/assets/page/index.html").is_file()
    assert (tmp_path / "site/actors/assets/surface-defects.onnx").is_file()
    for part in ("static/page.css", "static/page.js", "templates/fleet.html"):
        assert (tmp_path / "site/cloud/dashboard" / part).is_file()


# --- compose


def compose(text: str) -> Any:
    options = compose_spec.PyOptions()
    options.apply_merge = True
    loaded = options.from_yaml(text)
    loaded.validate()
    return loaded.to_dict()


def test_compose_keeps_its_schema_and_names_only_what_it_defines():
    services = compose(COMPOSE.read_text())["services"]
    assert set(services) == {"cloud", "device", "cloud-postgres", "postgres"}
    assert {name for name, service in services.items() if not service.get("profiles")} == {"cloud", "device"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("stop_grace_period: 20s", "stop_grace_perod: 20s"),
        ("condition: service_healthy", "condition: helthy"),
        ("networks: [uplink]", "networks: [nowhere]"),
        ("secrets: [api-key]", "secrets: [other]"),
    ],
)
def test_a_slip_in_compose_would_be_found(right, wrong):
    assert right in COMPOSE.read_text()
    with pytest.raises(ValueError):
        compose(COMPOSE.read_text().replace(right, wrong))


def test_our_services_are_hardened_keep_their_data_and_are_seen_on_loopback_only():
    services = compose(COMPOSE.read_text())["services"]
    for name in ("cloud", "device", "cloud-postgres"):
        service = services[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        dockerfile = service["build"]["dockerfile"]
        assert (ROOT / dockerfile).is_file()
    text = COMPOSE.read_text()
    assert all(address.startswith("127.0.0.1:") for address in re.findall(r'ports: \["(.*)"\]', text))
    assert {"edge-buffer", "cloud-data", "postgres-data"} == set(compose(text)["volumes"])


# --- Kubernetes


def manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def find(kind: str, name: str) -> Any:
    (found,) = (one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


@pytest.mark.parametrize("document", manifests(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_takes_every_manifest(document):
    kubernetes_validate.validate(document, "1.31", strict=True)


def test_kubernetes_would_not_take_a_slip():
    document = find("StatefulSet", "holdfast-device")
    document["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize(("kind", "name"), [("StatefulSet", "holdfast-device"), ("Deployment", "holdfast-cloud")])
def test_pods_are_not_root_and_can_not_write_where_they_run(kind, name):
    pod = find(kind, name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        ports = {port["name"] for port in container["ports"]}
        probes = [container[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")]
        assert [probe["path"] for probe in probes] == ["/health", "/ready"]
        assert {probe["port"] for probe in probes} <= ports
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        claims = {claim["metadata"]["name"] for claim in find(kind, name)["spec"].get("volumeClaimTemplates", [])}
        assert mounts == {volume["name"] for volume in pod["volumes"]} | claims


def test_the_device_keeps_a_volume_of_1_gib_that_outlives_it_and_stops_before_it_is_killed():
    device, settings = find("StatefulSet", "holdfast-device")["spec"], find("ConfigMap", "holdfast-device")["data"]
    (claim,) = device["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert device["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert int(settings["BUFFER_MAX_SIZE_MB"]) < 1024
    grace_s = device["template"]["spec"]["terminationGracePeriodSeconds"]
    assert float(settings["SHUTDOWN_GRACE_SECONDS"]) < grace_s


def test_the_cloud_has_two_replicas_of_which_one_stays():
    assert find("Deployment", "holdfast-cloud")["spec"]["replicas"] == 2
    assert find("PodDisruptionBudget", "holdfast-cloud")["spec"]["minAvailable"] == 1


def test_secrets_are_named_and_never_written_down():
    assert not [one for one in manifests() if one["kind"] == "Secret"]
    env = [variable for one in manifests() for variable in environment(one)]
    assert not [one["name"] for one in env if "API_KEY" in one["name"] and not one["name"].endswith("_FILE")]
    assert not [one for one in env if "secretKeyRef" in one.get("valueFrom", {})], "others may read an environment"
    (url,) = (one["value"] for one in env if one["name"] == "CLOUD_DATABASE_URL_FILE")
    pod = find("Deployment", "holdfast-cloud")["spec"]["template"]["spec"]
    (mount,) = (one for one in pod["containers"][0]["volumeMounts"] if url.startswith(one["mountPath"] + "/"))
    (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
    assert (volume["secret"]["secretName"], url.rpartition("/")[2]) == ("holdfast-database", "url")


def test_no_secret_of_the_composition_is_in_an_environment():
    services = compose(COMPOSE.read_text())["services"]
    given = {name: str(value) for one in services.values() for name, value in one.get("environment", {}).items()}
    secret = {name for name in given if re.search("PASSWORD|API_KEY|DATABASE_URL", name)}
    assert not [name for name in secret if not name.endswith("_FILE")]
    assert services["cloud-postgres"]["environment"]["CLOUD_DATABASE_URL_FILE"] == "/run/secrets/database-url"
    assert "database-url" in services["cloud-postgres"]["secrets"]


def environment(document: dict[str, Any]) -> list[dict[str, Any]]:
    pod = document["spec"].get("template", {}).get("spec", {}) if "spec" in document else {}
    return [variable for container in pod.get("containers", []) for variable in container.get("env", [])]


def test_every_setting_that_is_given_exists():
    given = set(find("ConfigMap", "holdfast-device")["data"])
    given |= {variable["name"] for one in manifests() for variable in environment(one)}
    for service in compose(COMPOSE.read_text())["services"].values():
        given |= set(service.get("environment", {}))
    for path in DOCKERFILES:
        given |= set(re.findall(r"\b([A-Z][A-Z_]+)=", re.search(r"^ENV .*$", last_stage(path), re.MULTILINE)[0]))  # type: ignore[index]
    assert "EDGE_DEVICE_ID" in given
    assert given - SETTINGS - OTHERS == set()
