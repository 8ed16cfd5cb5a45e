#!/usr/bin/env python3
"""Checks everything under docker/ that no program here runs: manifests against their schemas, files against one another.

usage: tests/deploy/manifests.py PROGRAM
"""

import ast
import copy
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = "1.34"
wrong = []


def check(holds, message):
    if not holds:
        wrong.append(message)


def load(path):
    return [document for document in yaml.safe_load_all((DOCKER / path).read_text()) if document]


def refusal(document):
    """What the schema of the document's kind says against it."""
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error).splitlines()[0] or "refused"
    return None


class KServe:
    """The models of KServe's own package: JSON names and types of each kind."""

    models = pathlib.Path(importlib.util.find_spec("kserve").origin).parent / "models"

    def fields(self, kind):
        file = self.models / (re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower() + ".py")
        classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
        maps = {t.id: ast.literal_eval(node.value) for node in classes[0].body if isinstance(node, ast.Assign) for t in node.targets
                if t.id in ("openapi_types", "attribute_map")}
        return {maps["attribute_map"][name]: kind for name, kind in maps["openapi_types"].items()}

    def refusals(self, kind, value, path):
        fields = self.fields(kind)
        plain = {"int": int, "str": str, "bool": bool}
        for name, inner in value.items():
            if name not in fields:
                yield f"{path}.{name}: unknown"
            elif fields[name] in plain:
                if not isinstance(inner, plain[fields[name]]):
                    yield f"{path}.{name}: not of type {fields[name]}"
            elif fields[name].startswith("V1beta1"):
                yield from self.refusals(fields[name], inner, f"{path}.{name}")


def inference_service(document):
    """Its own fields by KServe's models, those of a pod by the schema of Kubernetes."""
    found = list(KServe().refusals("V1beta1InferenceService", document, "inferenceservice"))
    predictor = document["spec"]["predictor"]
    own = KServe().fields("V1beta1PredictorSpec")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}}
    ours = {"minReplicas", "maxReplicas", "timeout", "canaryTrafficPercent", "containerConcurrency"}
    pod["spec"] = {name: value for name, value in predictor.items() if name in own and name not in ours}
    refused = refusal(pod)
    return found + ([refused] if refused else [])


def schemas():
    kustomization = load("kubernetes/kustomization.yaml")[0]
    for name in kustomization["resources"]:
        for document in load(f"kubernetes/{name}"):
            check(refusal(document) is None, f"{name}: {refusal(document)}")
    service = load("kubernetes/inferenceservice.yaml")[0]
    for refused in inference_service(service):
        check(False, f"inferenceservice.yaml: {refused}")
    for generated in kustomization["configMapGenerator"]:
        for file in generated["files"]:
            check((DOCKER / "kubernetes" / file).is_file(), f"kustomization.yaml: no {file}")
    # The schemas do refuse: a name with a slip, and a number that is none.
    broken = copy.deepcopy(load("kubernetes/deployment.yaml")[0])
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    check(refusal(broken) is not None, "the schema of Kubernetes lets `readinesProbe` pass")
    for name, value in [("minReplica", 2), ("minReplicas", "two"), ("containers", [{"image": 1}])]:
        broken = copy.deepcopy(service)
        broken["spec"]["predictor"][name] = value
        check(inference_service(broken), f"KServe's models let {name} = {value} pass")


def agreement(program):
    """What one file says of another, or of the program."""
    deployment = load("kubernetes/deployment.yaml")[0]
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    config = DOCKER / "kubernetes/steerling.toml"
    shown = subprocess.run([program, "config", "--config", str(config)], capture_output=True, text=True, check=True).stdout
    value = lambda key: re.search(rf"^{key} = (\S+)", shown, re.M).group(1)
    drain = float(value("drain_seconds"))
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    check(pod["terminationGracePeriodSeconds"] > before + drain, "the pod's grace is not longer than preStop and drain")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    check(ports["admin"] == int(value("admin_port")), "the admin port of the pod is not that of its configuration")
    check(pod["enableServiceLinks"] is False, "service links would set STEERLING_PORT")
    check(container["image"] == load("kubernetes/kustomization.yaml")[0]["images"][0]["name"], "the image has another name")
    selector = deployment["spec"]["selector"]["matchLabels"].items()
    for name in ("service", "disruption"):
        spec = load(f"kubernetes/{name}.yaml")[0]["spec"]["selector"]
        check(spec.get("matchLabels", spec).items() == selector, f"{name}.yaml selects other pods")
    for document in [deployment, load("kubernetes/inferenceservice.yaml")[0]]:
        spec = document["spec"].get("template", {}).get("spec") or document["spec"]["predictor"]
        mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
        check(mounts["weights"]["readOnly"], "the weights can be written")
        check(spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"], "the root can be written")

    compose = load("compose.yaml")[0]
    servers = re.findall(r"\$\{STEERLING_\w+-(steerling-\d):8080\}", (DOCKER / "haproxy.cfg").read_text())
    replicas = [name for name in compose["services"] if name.startswith("steerling")]
    check(servers == replicas, f"haproxy.cfg has {servers}, compose.yaml {replicas}")
    targets = load("prometheus.yaml")[0]["scrape_configs"][0]["static_configs"][0]["targets"]
    admin = compose["services"][replicas[0]]["environment"]["STEERLING_ADMIN_PORT"]
    check(targets == [f"{name}:{admin}" for name in replicas], f"prometheus.yaml has {targets}")
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                check((DOCKER / source).exists(), f"compose.yaml, {name}: no {source}")


def metrics():
    source = "\n".join(path.read_text() for path in (ROOT / "crates/steerling-server/src/metrics").glob("*.rs"))
    known = set(re.findall(r'"((?:steerling|process)_[a-z_]+)"', source))
    dashboard = json.loads((DOCKER / "grafana/steerling.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [rule["expr"] for group in load("alerts.yaml")[0]["groups"] for rule in group["rules"]]
    used = {name for text in expressions for name in re.findall(r"\b(?:steerling|process)_[a-z_]+", text)}
    for name in used:
        check(re.sub("_bucket$", "", name) in known, f"no series is called {name}")
    check(len(used) > 10, f"only {used} are watched")
    ids = [panel["id"] for panel in dashboard["panels"]]
    check(len(ids) == len(set(ids)), "two panels have one id")


if __name__ == "__main__":
    schemas()
    agreement(sys.argv[1])
    metrics()
    if wrong:
        sys.exit("\n".join(["FAILED", *wrong]))
    print("manifests, compose file, dashboard and alerts are well-formed and agree")
