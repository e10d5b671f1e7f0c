"""Drives a server with Helm: the library of its own Go code, called by its C
interface. Each way of applying (patches made of three states, server-side apply)
installs, upgrades, fails, rolls back and uninstalls a chart that this script
writes. The first argument names a namespace to work in; BUSYBOX names the image,
HELM the library."""

import base64
import ctypes
import gzip
import json
import os
import pathlib
import sys
import tempfile

from kubernetes import client, config
from kubernetes.client.rest import ApiException

NAMESPACE = sys.argv[1]
config.load_kube_config()
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: sails.charts.example.com}
spec:
  group: charts.example.com
  scope: Namespaced
  names: {kind: Sail, plural: sails}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {area: {type: integer}}}}}}
"""
TEMPLATES = {
    "settings.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data:
  namespace: {{ (lookup "v1" "Namespace" "" .Release.Namespace).metadata.uid | quote }}
  server: {{ .Capabilities.KubeVersion.Version | quote }}
  apps: {{ .Capabilities.APIVersions.Has "apps/v1/Deployment" | quote }}
  color: {{ .Values.color | quote }}
{{- if .Values.old }}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-old}
{{- end }}
""",
    "sail.yaml": """
apiVersion: charts.example.com/v1
kind: Sail
metadata: {name: {{ .Release.Name }}}
spec: {area: {{ .Values.area }}}
""",
    "web.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}-web}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {{ .Values.image }}
        command: [sh, -c, "mkdir /www; echo {{ .Values.color }} > /www/index.html; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}-web}
spec:
  selector: {app: {{ .Release.Name }}}
  ports: [{port: {{ .Values.port }}, targetPort: 8080}]
""",
    "hook.yaml": """
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-before
  annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: "before-hook-creation"}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: {{ .Values.image }}, command: ["true"]}]
""",
    "tests/answers.yaml": """
apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-answers
  annotations: {helm.sh/hook: test, helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: {{ .Values.image }}
    command: [sh, -c, "until wget -qO- http://{{ .Release.Name }}-web:{{ .Values.port }} | grep {{ .Values.color }}; do sleep 1; done"]
""",
}
VALUES = {"image": os.environ["BUSYBOX"], "color": "red", "old": True, "area": 3, "replicas": 1, "port": 80}


class Helm:
    """The calls that Helm's commands make; each answers the release, or raises."""

    def __init__(self, namespace):
        self.library = ctypes.CDLL(os.environ["HELM"])
        self.library.helm_sdkpy_last_error.restype = ctypes.c_char_p
        self.handle = ctypes.c_ulonglong()
        self.check(self.library.helm_sdkpy_config_create(
            namespace.encode(), None, None, b"{}", ctypes.byref(self.handle)))

    def check(self, code):
        if code != 0:
            raise RuntimeError(self.library.helm_sdkpy_last_error().decode())

    def call(self, name, *arguments):
        answer = ctypes.c_char_p()
        arguments = [word.encode() if isinstance(word, str) else ctypes.c_int(word) for word in arguments]
        function = getattr(self.library, f"helm_sdkpy_{name}")
        self.check(function(self.handle, *arguments, ctypes.byref(answer)))
        text = answer.value.decode() if answer.value else ""
        return json.loads(text) if text else None

    def release(self, verb, name, chart, values, **options):
        options = {"wait": True, "timeout_seconds": 120, "disable_openapi_validation": False, **options}
        return self.call(verb, name, str(chart), json.dumps(values), "", json.dumps(options))


def write_chart(folder):
    (folder / "crds").mkdir(parents=True)
    (folder / "templates/tests").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("{apiVersion: v2, name: ship, version: 0.1.0, appVersion: '1'}")
    (folder / "values.yaml").write_text(json.dumps(VALUES))
    (folder / "crds/sail.yaml").write_text(CRD)
    for name, text in TEMPLATES.items():
        (folder / "templates" / name).write_text(text)
    return folder


def refused(words, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except RuntimeError as error:
        assert words in str(error), error
        return
    raise AssertionError(f"{words!r} was not said")


def names(listed):
    return sorted(item.metadata.name for item in listed.items)


def releases(name):
    secrets = core.list_namespaced_secret(NAMESPACE, label_selector=f"owner=helm,name={name}").items
    assert all(secret.type == "helm.sh/release.v1" for secret in secrets)
    return {int(secret.metadata.labels["version"]): secret for secret in secrets}


def drive(helm, chart, name, apply):
    state = lambda: {version: secret.metadata.labels["status"] for version, secret in releases(name).items()}
    settings = lambda: core.read_namespaced_config_map(f"{name}-settings", NAMESPACE)
    web = lambda: apps.read_namespaced_deployment(f"{name}-web", NAMESPACE)
    helm.release("install", name, chart, {}, server_side_apply=apply)
    assert state() == {1: "deployed"}, state()
    data = settings().data
    assert data["apps"] == "true" and data["server"].startswith("v1.37."), data
    assert data["namespace"] == core.read_namespace(NAMESPACE).metadata.uid, data
    assert web().status.ready_replicas == 1, "waiting ends when the pods are ready"
    manager = settings().metadata.managed_fields[0]
    assert manager.operation == ("Apply" if apply == "true" else "Update"), manager
    sail = lambda: custom.get_namespaced_custom_object("charts.example.com", "v1", NAMESPACE, "sails", name)
    assert sail()["spec"] == {"area": 3} and sail()["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    helm.call("test", name)
    # The release is kept as the client wrote it.
    kept = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(releases(name)[1].data["release"]))))
    assert kept["name"] == name and kept["version"] == 1, kept

    # What others set stays, what the chart no longer names goes, and what it names is brought back.
    core.patch_namespaced_config_map(f"{name}-settings", NAMESPACE, {"data": {"foreign": "x"}})
    values = {"color": "blue", "old": False, "area": 4, "replicas": 2}
    helm.release("upgrade", name, chart, values, server_side_apply=apply)
    assert state() == {1: "superseded", 2: "deployed"}, state()
    assert (settings().data["color"], settings().data["foreign"]) == ("blue", "x"), settings().data
    assert web().status.ready_replicas == 2 and sail()["spec"] == {"area": 4}
    assert f"{name}-old" not in names(core.list_namespaced_config_map(NAMESPACE))
    helm.call("test", name)
    assert helm.call("get_values", name, 0)["area"] == 4

    # A refusal shows the server's words, and what was changed before it is rolled back. (The
    # library's own call to roll back cannot wait, and Helm will not go without; an upgrade's can.)
    worse = {**values, "color": "green", "area": 5, "replicas": 1, "port": 70000, "old": True}
    refused("spec.ports[0].port: Invalid value: 70000", helm.release, "upgrade", name, chart, worse,
            server_side_apply=apply, rollback_on_failure=True)
    assert state() == {1: "superseded", 2: "superseded", 3: "failed", 4: "deployed"}, state()
    assert (settings().data["color"], settings().data["foreign"]) == ("blue", "x"), settings().data
    assert sail()["spec"] == {"area": 4} and web().status.ready_replicas == 2
    assert f"{name}-old" not in names(core.list_namespaced_config_map(NAMESPACE))
    assert [entry["version"] for entry in helm.call("history", name)] == [1, 2, 3, 4]
    listed = {entry["name"]: entry for entry in helm.call("list", 1)}
    assert name in listed, listed
    helm.call("status", name)

    helm.call("uninstall", name, 1, 120)
    assert releases(name) == {}
    left = names(core.list_namespaced_config_map(NAMESPACE)) + names(apps.list_namespaced_deployment(NAMESPACE))
    assert not [one for one in left if one.startswith(name)], left
    try:
        sail()
        raise AssertionError("the custom object is still there")
    except ApiException as error:
        assert error.status == 404, error
    # A second uninstall has nothing to find.
    refused("not found", helm.call, "uninstall", name, 1, 10)


with tempfile.TemporaryDirectory() as folder:
    helm, chart = Helm(NAMESPACE), write_chart(pathlib.Path(folder) / "ship")
    drive(helm, chart, "patched", "false")
    drive(helm, chart, "applied", "true")
    # What the chart misspells is said by the server.
    (chart / "templates/typo.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: typo}, dota: {}}")
    refused(f"({NAMESPACE}/typo; v1, Kind=ConfigMap): .dota: field not declared in schema", helm.release, "install",
            "misapplied", chart, {}, server_side_apply="true")
print("ok")
