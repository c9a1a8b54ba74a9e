"""deploy/helm/nextclick: what an engineer who looks after a cluster would ask of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from console.door.gate import OPEN
from nextclick.commands import tree
from service.http.app import create_app
from service.process.settings import FILE, SECRETS, Settings, load_settings, variable
from tests.deploy.chart import (
    CHART,
    CUSTOM,
    ROOT,
    SETS,
    Object,
    labels_of,
    objects_of,
    of_kind,
    one,
    parsed,
    pods,
    problems,
    render,
    selects,
    values_of,
)
from training.loop.cron import Cron
from training.loop.retrain import RetrainConfig, load_config

SETTINGS = {variable(field) for field in Settings.model_fields}
SECRET_SETTINGS = {variable(field) + end for field in SECRETS for end in ("", FILE)}
SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
VALUES: Object = yaml.safe_load((CHART / "values.yaml").read_text())
OLDEST = re.findall(r">=([\d.]+)", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"])[0]
COMPONENT = "app.kubernetes.io/component"
EVERY_SET = pytest.mark.parametrize("name", SETS)


@EVERY_SET
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    objects = objects_of(name)
    assert len(objects) > 10
    told = {f"{each['kind']} {each['metadata']['name']}": problems(each, version) for each in known(objects)}
    assert {label: found for label, found in told.items() if found} == {}


def known(objects: list[Object]) -> list[Object]:
    return [each for each in objects if each["kind"] not in CUSTOM]


def test_a_field_that_kubernetes_does_not_know_would_be_noticed() -> None:
    deployment = one(objects_of("trial"), "Deployment", "service")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    (told,) = problems(deployment, OLDEST)
    assert "livenessProb" in told


def test_all_can_be_switched_on_and_off() -> None:
    kinds = {name: {each["kind"] for each in objects_of(name)} for name in SETS}
    assert kinds["everything"] >= CUSTOM | {"Ingress", "HorizontalPodAutoscaler", "StatefulSet"}
    assert "StatefulSet" not in kinds["production"]
    assert not kinds["trial"] & (CUSTOM | {"Ingress", "HorizontalPodAutoscaler"})
    nothing = {
        **values_of("trial"),
        "networkPolicy": {"enabled": False},
        "trainer": {"enabled": False},
    }
    assert not {"NetworkPolicy", "CronJob", "Job"} & {each["kind"] for each in parsed(render(nothing))}


@EVERY_SET
def test_helm_has_nothing_to_say(name: str) -> None:
    from helm_python import lint

    report = lint(CHART, values_of(name), strict=True)
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


@EVERY_SET
def test_names_are_told_apart(name: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects_of(name)]
    assert len(set(names)) == len(names)
    assert all(each["metadata"]["namespace"] == "shops" for each in objects_of(name))


def test_a_long_release_has_names_that_kubernetes_takes() -> None:
    for each in parsed(render(values_of("everything"), release="a" * 53)):
        assert len(each["metadata"]["name"]) <= 52, "what a CronJob may be called"


@EVERY_SET
def test_nobody_may_more_than_it_must(name: str) -> None:
    for maker, pod in pods(objects_of(name)):
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), maker
        assert spec["automountServiceAccountToken"] is False, maker
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["fsGroup"] == (999 if "redis" in maker else 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
        assert "initContainers" not in spec
        assert all("hostPath" not in volume for volume in spec["volumes"])
    for account in of_kind(objects_of(name), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_the_users_are_those_of_the_images() -> None:
    for image in ("service.Dockerfile", "training.Dockerfile"):
        assert "USER 10001:10001" in (ROOT / "docker" / image).read_text()


@EVERY_SET
def test_nothing_asks_for_a_volume_that_many_nodes_write(name: str) -> None:
    modes = [mode for found in everywhere(objects_of(name), "accessModes") for mode in found]
    assert set(modes) <= {"ReadWriteOnce"}
    assert modes


def everywhere(value: Any, key: str) -> Iterator[Any]:
    """Whatever stands under a key, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from everywhere(each, key)


@EVERY_SET
def test_volumes_and_mounts_belong_together(name: str) -> None:
    objects = objects_of(name)
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    given = {values_of(name).get("secrets", {}).get("existingSecret")}
    for maker, pod in pods(objects):
        spec = pod["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        claimed = {each["metadata"]["name"] for each in claims_of(objects, maker)}
        (container,) = spec["containers"]
        mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert volumes.keys() | claimed == mounted.keys(), maker
        for label, volume in volumes.items():
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in there
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "secret" in volume:
                assert mounted[label]["readOnly"] is True
                secret = volume["secret"]["secretName"]
                assert ("Secret", secret) in there or secret in given
        assert ("ServiceAccount", spec["serviceAccountName"]) in there


def claims_of(objects: list[Object], maker: str) -> list[Object]:
    for each in of_kind(objects, "StatefulSet"):
        if each["metadata"]["name"] == maker:
            claims: list[Object] = each["spec"]["volumeClaimTemplates"]
            return claims
    return []


@EVERY_SET
def test_selectors_find_their_pods_and_no_others(name: str) -> None:
    objects = objects_of(name)
    templates = dict(pods(objects))
    for each in of_kind(objects, "Deployment", "StatefulSet"):
        own = each["spec"]["selector"]["matchLabels"]
        found = [maker for maker, pod in templates.items() if selects(own, pod)]
        assert found == [each["metadata"]["name"]]
        for constraint in each["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"] == own
    for each in of_kind(objects, "Service"):
        (pod,) = (pod for pod in templates.values() if selects(each["spec"]["selector"], pod))
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
    for each in of_kind(objects, "PodDisruptionBudget"):
        assert selects(each["spec"]["selector"]["matchLabels"], templates["shop-nextclick-service"])


@EVERY_SET
def test_what_points_at_something_points_at_what_is_there(name: str) -> None:
    objects = objects_of(name)
    ports = {
        (each["metadata"]["name"], port[by])
        for each in of_kind(objects, "Service")
        for port in each["spec"]["ports"]
        for by in ("name", "port")
    }
    for each in of_kind(objects, "Ingress"):
        for path in each["spec"]["rules"][0]["http"]["paths"]:
            backend = path["backend"]["service"]
            assert (backend["name"], backend["port"]["name"]) in ports
    for each in of_kind(objects, "HTTPRoute"):
        for backend in each["spec"]["rules"][0]["backendRefs"]:
            assert (backend["name"], backend["port"]) in ports
    for each in of_kind(objects, "HorizontalPodAutoscaler"):
        target = one(objects, each["spec"]["scaleTargetRef"]["kind"], "service")
        assert target["metadata"]["name"] == each["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in target["spec"], "two would set it"
        assert target["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    for monitor in of_kind(objects, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        services = of_kind(objects, "Service")
        (found,) = (each for each in services if wanted.items() <= each["metadata"]["labels"].items())
        assert (found["metadata"]["name"], monitor["spec"]["endpoints"][0]["port"]) in ports
    if name != "production":
        host = {entry["name"]: entry.get("value") for entry in env_of(objects, "service")}["REDIS_HOST"]
        assert (host, 6379) in ports


def env_of(objects: list[Object], component: str) -> list[Object]:
    (container,) = next(
        pod["spec"]["containers"] for _, pod in pods(objects) if labels_of(pod)[COMPONENT] == component
    )
    env: list[Object] = container["env"]
    return env


def test_what_custom_objects_hold() -> None:
    """Their schemas are not at hand: what is in them was looked up, and stays as it is."""
    objects = objects_of("everything")
    (route,) = of_kind(objects, "HTTPRoute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"].keys() == {"parentRefs", "hostnames", "rules"}
    (rule,) = route["spec"]["rules"]
    assert rule.keys() == {"matches", "timeouts", "backendRefs"}
    (monitor,) = of_kind(objects, "ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"namespaceSelector", "selector", "endpoints"}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_gateway_lets_through_what_pages_may_call_and_nothing_else() -> None:
    (route,) = of_kind(objects_of("everything"), "HTTPRoute")
    matches = [match["path"] for match in route["spec"]["rules"][0]["matches"]]

    def through(path: str) -> bool:
        return any(
            path == each["value"] if each["type"] == "Exact" else re.fullmatch(each["value"], path)
            for each in matches
        )

    for path in ("/recommend", "/trending", "/nextclick.js", "/sessions/a/click", "/items/i1/similar"):
        assert through(path), path
    for path in ("/", "/admin/hidden", "/models", "/metrics", "/docs", "/clicks", "/sessions/a", "/items/i1"):
        assert not through(path), path
    assert not through("/health/ready")
    assert not through("/items")


@EVERY_SET
def test_probes_ask_what_there_is(name: str) -> None:
    paths = paths_of_the_service()
    for maker, pod in pods(objects_of(name)):
        (container,) = pod["spec"]["containers"]
        probes = {kind: container.get(kind) for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
        if {"CronJob", "Job"} & {
            each["kind"] for each in objects_of(name) if each["metadata"]["name"] == maker
        }:
            assert not any(probes.values())
            continue
        for probe in probes.values():
            assert probe is not None, maker
            if "httpGet" in probe:
                assert probe["httpGet"]["path"] in (OPEN if maker.endswith("console") else paths)
                assert probe["httpGet"]["port"] in {port["name"] for port in container["ports"]}


@cache
def paths_of_the_service() -> set[str]:
    return set(create_app(Settings(redis_url="redis://nobody-asks")).openapi()["paths"])


def test_a_redis_that_is_away_makes_no_pod_unready_and_restarts_none() -> None:
    for name, start in (("production", "ready"), ("everything", "live")):
        (container,) = one(objects_of(name), "Deployment", "service")["spec"]["template"]["spec"][
            "containers"
        ]
        assert container["startupProbe"]["httpGet"]["path"] == f"/health/{start}"
        assert container["readinessProbe"]["httpGet"]["path"] == "/health/live"
        assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
        assert (
            container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 1800
        )


@EVERY_SET
def test_a_pod_is_not_killed_before_its_requests_are_done(name: str) -> None:
    """NEXTCLICK_SHUTDOWN_TIMEOUT_SECONDS in docs/operations.md: 15 s longer than that."""
    spec = one(objects_of(name), "Deployment", "service")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    goes_on = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert goes_on >= 15
    assert (
        spec["terminationGracePeriodSeconds"] == goes_on + int(env["NEXTCLICK_SHUTDOWN_TIMEOUT_SECONDS"]) + 15
    )


@EVERY_SET
def test_every_variable_is_a_setting(name: str) -> None:
    objects = objects_of(name)
    (settings,) = (
        each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"].endswith("settings")
    )
    named = set(settings.get("data") or {})
    for _, pod in pods(objects):
        (container,) = pod["spec"]["containers"]
        named |= {
            entry["name"] for entry in container.get("env", []) if entry["name"].startswith("NEXTCLICK_")
        }
    assert named <= SETTINGS
    assert not named & {variable(field) for field in SECRETS}, "these come by files"


@EVERY_SET
@pytest.mark.parametrize("component", ["service", "trainer"])
def test_the_program_starts_with_what_its_pod_is_given(
    name: str, component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = objects_of(name)
    given = dict(one(objects, "ConfigMap", "settings").get("data") or {})
    given |= {entry["name"]: entry["value"] for entry in env_of(objects, component)}
    secrets = values_of(name).get("secrets", {}).get("create", {})
    for label, value in given.items():
        if label.endswith("_FILE") and label.startswith("NEXTCLICK_") and label != "NEXTCLICK_CATALOGUE_FILE":
            entry = Path(value).name
            default = (
                "redis://redis.example" if entry == "redis-url" else "a-key-of-32-characters-000000" + entry
            )
            (tmp_path / entry).write_text(secrets.get(entry, default))
            given[label] = str(tmp_path / entry)
    for label in given:
        monkeypatch.setenv(label, given[label])
    settings = load_settings()
    assert str(settings.artifacts_dir) == "/app/artifacts"
    assert (settings.artifacts_url is None) == (name == "trial")
    assert (settings.redis_url is not None) == (name == "production")
    if component == "service":
        assert (settings.port, settings.metrics_port) == (8000, 9464)
        assert bool(settings.server_api_key) == (name != "trial")
    else:
        assert settings.every_key == [], "the trainer holds no key of the service"
    if name == "everything":
        assert settings.max_body_bytes == 4194304
        assert settings.quality_share == 0.00001
        assert settings.redis_prefix == "shop:"


def test_every_setting_can_be_set() -> None:
    """By its name under `settings`, in a Secret, or by a value of the chart."""
    taken = set(SCHEMA["properties"]["settings"]["properties"])
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    own = set(re.findall(r"^ *- name: (NEXTCLICK_[A-Z_]+)$", templates, re.MULTILINE))
    of_the_private_redis = {"NEXTCLICK_REDIS_MAX_BYTES"}
    of_the_pod = {"NEXTCLICK_METRICS_DIR"}  # in its memory
    assert not taken & own
    assert not taken & SECRET_SETTINGS
    assert taken | own | SECRET_SETTINGS | of_the_private_redis | of_the_pod == SETTINGS


@EVERY_SET
def test_nothing_secret_is_anywhere_but_in_secrets(name: str) -> None:
    values = values_of(name)
    secrets = [text for text in values.get("secrets", {}).get("create", {}).values() if text]
    secrets += [each for each in (values.get("redis", {}).get("password"),) if each]
    assert bool(secrets) == (name == "everything")
    rendered = render(values)
    open_text = "\n".join(
        [rendered["NOTES.txt"], *(json.dumps(each) for each in parsed(rendered) if each["kind"] != "Secret")]
    )
    for secret in secrets:
        for line in secret.splitlines():
            assert line not in open_text
        assert base64.b64encode(secret.encode()).decode() not in open_text
    held = {key: value for each in of_kind(parsed(rendered), "Secret") for key, value in each["data"].items()}
    assert {base64.b64decode(value).decode() for value in held.values()} >= set(secrets)


def test_a_password_that_nobody_thought_of_fits_into_a_url() -> None:
    made = [
        one(parsed(render(values_of("trial"))), "Secret", "redis")["data"]["redis-password"] for _ in "12"
    ]
    assert made[0] != made[1]
    assert re.fullmatch(r"[A-Za-z0-9]{43}", base64.b64decode(made[0]).decode())


def test_redis_runs_as_that_of_compose() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]
    (container,) = one(objects_of("everything"), "StatefulSet", "redis")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["command"] == [part.replace("$$", "$") for part in compose["command"]]
    assert container["image"].endswith("/" + compose["image"])
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env["APPENDFSYNC"] == "always", "NEXTCLICK_DURABILITY=strict"
    assert {"gb": "Gi"}[env["MAXMEMORY"][-2:]] == container["resources"]["limits"]["memory"][-2:]
    assert 2 * int(env["MAXMEMORY"][:-2]) <= int(container["resources"]["limits"]["memory"][:-2])


@EVERY_SET
def test_who_may_reach_whom(name: str) -> None:
    objects = objects_of(name)
    policies = of_kind(objects, "NetworkPolicy")
    for maker, pod in pods(objects):
        (policy,) = (each for each in policies if selects(each["spec"]["podSelector"]["matchLabels"], pod))
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"], maker
        ports = {port["name"] for port in pod["spec"]["containers"][0].get("ports", [])}
        for rule in policy["spec"]["ingress"]:
            assert rule["from"], "an empty one lets everybody in"
            assert {port["port"] for port in rule["ports"]} <= ports
    by_name = {each["metadata"]["name"].removeprefix("shop-nextclick-"): each["spec"] for each in policies}
    assert by_name["trainer"]["ingress"] == []
    (metrics,) = (rule for rule in by_name["service"]["ingress"] if {"port": "metrics"} in rule["ports"])
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in metrics[
        "from"
    ]
    assert all("podSelector" in peer for peer in metrics["from"][1:])
    if "redis" in by_name:
        (rule,) = by_name["redis"]["ingress"]
        allowed = [peer["podSelector"]["matchLabels"][COMPONENT] for peer in rule["from"]]
        assert allowed == ["service", "trainer"]
        assert by_name["redis"]["egress"] == []


@EVERY_SET
def test_the_trainer_runs_commands_that_there_are(name: str) -> None:
    program = typer.main.get_command(tree(complete=True))
    assert isinstance(program, TyperGroup)
    script = (ROOT / "docker" / "trainer.sh").read_text()
    called = []
    for _, pod in pods(objects_of(name)):
        (container,) = pod["spec"]["containers"]
        if "args" in container:
            command, *options = container["args"]
            called.append(command)
            if command == "first":
                assert re.search(r"^  first\)", script, re.MULTILINE)
            else:
                program.commands[command].make_context(command, options)
    expected = {"trial": ["run", "first"], "production": ["run"], "everything": ["console", "run", "collect"]}
    assert sorted(called) == sorted(expected[name])


@EVERY_SET
def test_a_run_meets_no_other_and_ends(name: str, tmp_path: Path) -> None:
    objects = objects_of(name)
    for each in of_kind(objects, "CronJob"):
        spec = each["spec"]
        assert Cron.parse(spec["schedule"], spec["timeZone"]).expression == spec["schedule"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["startingDeadlineSeconds"] > 100, "or late ones may be given up after a hundred misses"
        job = spec["jobTemplate"]["spec"]
        assert job["activeDeadlineSeconds"] > 0
        pod = job["template"]["spec"]
        assert pod["restartPolicy"] == "Never", "as podFailurePolicy demands"
        assert pod["terminationGracePeriodSeconds"] >= 40
        ignored, failed = job["podFailurePolicy"]["rules"]
        assert ignored["action"] == "Ignore"
        assert failed["onExitCodes"] == {
            "containerName": pod["containers"][0]["name"],
            "operator": "In",
            "values": [1, 2],
        }
    file = tmp_path / "retrain.toml"
    file.write_text(one(objects, "ConfigMap", "config")["data"]["retrain.toml"])
    assert load_config(file).train.model == (
        "sasrec" if name == "everything" else RetrainConfig().train.model
    )


def test_a_trainer_that_keeps_nothing_has_the_nodes_disk() -> None:
    values = {**values_of("production"), "trainer": {"scratch": {"keep": False}}}
    objects = parsed(render(values))
    assert of_kind(objects, "PersistentVolumeClaim") == []
    pod = one(objects, "CronJob", "trainer")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (artifacts,) = (volume for volume in pod["volumes"] if volume["name"] == "artifacts")
    assert artifacts == {"name": "artifacts", "emptyDir": {"sizeLimit": "20Gi"}}


def test_without_an_object_store_all_are_where_the_volume_is() -> None:
    objects = parsed(render({**values_of("everything"), **without_store()}))
    service = one(objects, "Deployment", "service")
    assert service["spec"]["replicas"] == 1
    assert service["spec"]["strategy"] == {"type": "Recreate"}
    sharing = [
        (maker, pod["spec"])
        for maker, pod in pods(objects)
        if "shop-nextclick-artifacts" in everywhere(pod["spec"]["volumes"], "claimName")
    ]
    assert len(sharing) == 5
    for maker, spec in sharing:
        if maker != "shop-nextclick-service":
            (near,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert near["topologyKey"] == "kubernetes.io/hostname"
            assert near["labelSelector"] == service["spec"]["selector"]


def without_store() -> Object:
    return {"artifacts": {}, "service": {}}


def test_what_cannot_be_made_again_outlives_the_release() -> None:
    claims = [each for name in SETS for each in of_kind(objects_of(name), "PersistentVolumeClaim")]
    ends = [claim["metadata"]["name"].removeprefix("shop-nextclick-") for claim in claims]
    assert ends == ["artifacts", "trainer", "trainer"]
    for claim in claims:
        assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    redis = one(objects_of("trial"), "StatefulSet", "redis")["spec"]
    assert redis["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_kubernetes_sets_no_variable_of_ours() -> None:
    """NEXTCLICK_PORT=tcp://10.0.0.1:8000, for a release of that name: the service would refuse to start."""
    objects = parsed(render(values_of("everything"), release="nextclick"))
    assert "nextclick-service" in {each["metadata"]["name"] for each in of_kind(objects, "Service")}
    for _, pod in pods(objects):
        assert pod["spec"]["enableServiceLinks"] is False


def test_what_changes_makes_new_pods() -> None:
    def marks(values: Object) -> Any:
        return one(parsed(render(values)), "Deployment", "service")["spec"]["template"]["metadata"][
            "annotations"
        ]

    before = marks(values_of("everything"))
    assert marks(values_of("everything")) == before
    other = {**values_of("everything"), "settings": {"NEXTCLICK_LOG_LEVEL": "debug"}}
    assert marks(other)["checksum/config"] != before["checksum/config"]
    secrets = {"create": {"server-api-key": "another-key-of-32-characters-0000", "admin-api-key": "y" * 32}}
    assert (
        marks({**values_of("everything"), "secrets": secrets})["checksum/secrets"]
        != before["checksum/secrets"]
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"servce": {}}, "servce"),
        ({"service": {"replica": 2}}, "replica"),
        ({"service": {"replicas": "2"}}, "replicas"),
        ({"service": {"pod": {"nodeSelectors": {}}}}, "nodeSelectors"),
        ({"settings": {"NEXTCLICK_SESSION_TTL": 60}}, "NEXTCLICK_SESSION_TTL"),
        ({"settings": {"NEXTCLICK_API_KEY": "secret"}}, "NEXTCLICK_API_KEY"),
        ({"settings": {"NEXTCLICK_DURABILITY": "strickt"}}, "NEXTCLICK_DURABILITY"),
        ({"settings": {"NEXTCLICK_SHARDS": 0}}, "NEXTCLICK_SHARDS"),
        ({"secrets": {"create": {"admin-key": "x"}}}, "admin-key"),
        ({"secrets": {"entries": ["redis_url"]}}, "entries"),
        ({"artifacts": {"url": "/mnt/shared"}}, "url"),
        ({"artifacts": {"env": {"NEXTCLICK_PORT": "1"}}}, "NEXTCLICK_PORT"),
        ({"redis": {"password": "a@b"}}, "password"),
        ({"image": {"service": {"digest": "latest"}}}, "digest"),
        ({"trainer": {"schedule": "every night"}}, "schedule"),
        ({"networkPolicy": {"callers": [{}]}}, "callers"),
        ({"httpRoute": {"enabled": True}}, "httpRoute"),
        ({"listen": "127.0.0.1"}, "listen"),
    ],
)
def test_a_typo_is_refused(values: Object, told: str) -> None:
    from helm_python import HelmValuesError

    with pytest.raises(HelmValuesError, match=re.escape(told)):
        render(values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"redis": {"enabled": False}}, "no Redis"),
        ({"secrets": {"create": {"redis-url": "redis://elsewhere"}}}, "two Redis"),
        ({"service": {"replicas": 2}}, "object store"),
        ({"service": {"autoscaling": {"enabled": True}}}, "object store"),
        ({"ingress": {"enabled": True}}, "server-api-key"),
        ({"console": {"enabled": True}}, "admin-api-key"),
        (
            {
                "artifacts": {"url": "s3://models"},
                "service": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}},
            },
            "minReplicas",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(values: Object, told: str) -> None:
    from helm_python import HelmRenderError

    with pytest.raises(HelmRenderError, match=told):
        render(values)


def test_the_schema_has_no_hole() -> None:
    """Each object that names its fields takes no others, and values.yaml shows all that there are."""
    open_objects = [each for each in schemas(SCHEMA) if "properties" in each and "type" in each]
    assert len(open_objects) > 20
    assert all(each["additionalProperties"] is False for each in open_objects)
    assert paths_of_values(VALUES) == paths_of_schema(SCHEMA)


def schemas(value: Any) -> Iterator[Object]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from schemas(each)


FREE = {"settings", "global"}  # the settings are explained in docs/operations.md; the other is Helm's own
KUBERNETES = {"requests", "limits", "affinity"}  # what is in these is explained there


def paths_of_schema(schema: Object, path: str = "") -> set[str]:
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    fields = (
        schema.get("properties", {}) if path not in FREE and path.rpartition(".")[2] not in KUBERNETES else {}
    )
    within = (paths_of_schema(each, f"{path}.{name}".lstrip(".")) for name, each in fields.items())
    return set().union({path} if path and path != "global" else set(), *within)


def paths_of_values(values: Any, path: str = "") -> set[str]:
    free = path in FREE or path.rpartition(".")[2] in KUBERNETES
    fields = values if isinstance(values, dict) and not free else {}
    within = (paths_of_values(each, f"{path}.{name}".lstrip(".")) for name, each in fields.items())
    return set().union({path} if path else set(), *within)


@pytest.mark.parametrize("page", ["scaling.md", "decisions/0030-kubernetes.md"])
def test_the_pages_name_what_there_is(page: str) -> None:
    file = ROOT / "docs" / page
    text = file.read_text()
    assert set(re.findall(r"NEXTCLICK_[A-Z_]+[A-Z]", text)) <= SETTINGS
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        there = file.parent / path if path else file
        assert there.exists(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target
    for value in re.findall(
        r"`((?:service|trainer|console|artifacts|secrets|networkPolicy|redis)\.[\w.]+?)(?:=\w+)?`", text
    ):
        assert value in paths_of_values(VALUES) | {"trainer.resources.limits"}, value
