"""The Helm chart, rendered by Helm itself, and Kubernetes' own schemas to hold its objects to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

if TYPE_CHECKING:
    from helm_python import Chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "nextclick"
SETS = ("trial", "production", "everything")
# Of which Kubernetes itself knows nothing.
CUSTOM = {"HTTPRoute", "ServiceMonitor"}

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast

Object = dict[str, Any]


@cache
def values_of(name: str) -> Object:
    """One of the value sets that come with the chart."""
    values: Object = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return values


def render(values: Object, release: str = "shop") -> dict[str, str]:
    """What Helm makes of the templates, by their file names. Raises `HelmError`."""
    rendered = _chart().render(values=values, name=release, namespace="shops")
    return {Path(name).name: text for name, text in rendered.items()}


@cache
def _chart() -> Chart:
    from helm_python import Chart  # half a second, which collecting the tests should not take

    return Chart.load(CHART)


def parsed(rendered: dict[str, str]) -> list[Object]:
    """All objects in it."""
    manifests = [text for name, text in rendered.items() if name.endswith(".yaml")]
    return [each for text in manifests for each in yaml.load_all(text, LOADER) if each]


@cache
def _objects_of(name: str) -> str:
    return json.dumps(parsed(render(values_of(name))))


def objects_of(name: str) -> list[Object]:
    """The objects of a value set: a copy for each caller."""
    objects: list[Object] = json.loads(_objects_of(name))
    return objects


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of a kind whose name ends so."""
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"].endswith(f"-{name}"))
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod's template, by the name of the object that makes it."""
    for each in objects:
        spec = each.get("spec", {})
        for holder in (spec, spec.get("jobTemplate", {}).get("spec", {})):
            if "template" in holder:
                yield each["metadata"]["name"], holder["template"]


def labels_of(pod: Object) -> dict[str, str]:
    labels: dict[str, str] = pod["metadata"]["labels"]
    return labels


def selects(selector: dict[str, str], pod: Object) -> bool:
    return selector.items() <= labels_of(pod).items()


@cache
def _directory(version: str) -> Path:
    return Path(str(files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"))


@cache
def _definitions(version: str) -> Any:
    definitions = json.loads((_directory(version) / "_definitions.json").read_text())
    return Resource.from_contents(definitions) @ Registry()


@cache
def _validator(version: str, kind: str, api_version: str) -> Draft202012Validator:
    group, _, number = api_version.rpartition("/")
    name = "-".join(filter(None, [kind.lower(), group.partition(".")[0], number]))
    schema = json.loads((_directory(version) / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(version))


def problems(each: Object, version: str) -> list[str]:
    """What Kubernetes of a version would say of an object; fields that it does not know are a problem, too.

    By the schemas of kubernetes-validate, whose own function reads a megabyte of them for each object.
    """
    found = _validator(version, each["kind"], each["apiVersion"]).iter_errors(each)
    return [f"{error.json_path}: {error.message}" for error in found]
