"""Drives a server with the Python client: core verbs, patches, watches, strict
deserialisation, the dynamic client. The only argument names a namespace to work in."""

import json
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

NAMESPACE = sys.argv[1]
config.load_kube_config()
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()


def config_map(name, data, **meta):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, **meta), data=data)


def refused(code, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == code, (code, error.status, error.body)
        return error
    raise AssertionError(f"{call.__name__} was not refused")


def verbs():
    made = core.create_namespaced_config_map(NAMESPACE, config_map("one", {"a": "b"}))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo, made.metadata
    assert "already exists" in refused(409, core.create_namespaced_config_map, NAMESPACE, config_map("one", {})).body
    assert core.read_namespaced_config_map("one", NAMESPACE).data == {"a": "b"}
    made.data = {"a": "c"}
    replaced = core.replace_namespaced_config_map("one", NAMESPACE, made)
    assert replaced.data == {"a": "c"}
    # The old version is stale now.
    refused(409, core.replace_namespaced_config_map, "one", NAMESPACE, made)
    listed = core.list_namespaced_config_map(NAMESPACE, field_selector="metadata.name=one")
    assert [item.metadata.name for item in listed.items] == ["one"]
    assert listed.metadata.resource_version
    # Lists are never null: the client refuses those.
    assert core.list_namespaced_pod(NAMESPACE).items == []
    dry = core.create_namespaced_config_map(NAMESPACE, config_map("dry", {}), dry_run="All")
    assert dry.metadata.uid
    refused(404, core.read_namespaced_config_map, "dry", NAMESPACE)
    # Some versions of the client give an object, some a dictionary.
    status = client.ApiClient().sanitize_for_serialization(core.delete_namespaced_config_map("one", NAMESPACE))
    assert status["status"] == "Success" and status["details"]["name"] == "one", status
    refused(404, core.delete_namespaced_config_map, "one", NAMESPACE)


def patches():
    core.create_namespaced_config_map(NAMESPACE, config_map("patched", {"a": "b"}))
    name = ("patched", NAMESPACE)
    strategic = core.patch_namespaced_config_map(*name, {"data": {"c": "d"}})
    assert strategic.data == {"a": "b", "c": "d"}, strategic.data
    operations = [{"op": "replace", "path": "/data/a", "value": "z"}]
    assert core.patch_namespaced_config_map(*name, operations).data["a"] == "z"
    merged = core.patch_namespaced_config_map(*name, {"data": {"c": None}}, _content_type="application/merge-patch+json")
    assert merged.data == {"a": "z"}, merged.data
    applied = core.patch_namespaced_config_map(
        *name,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"e": "f"}},
        field_manager="python",
        _content_type="application/apply-patch+yaml",
    )
    assert applied.data == {"a": "z", "e": "f"}
    managers = {(entry.manager, entry.operation) for entry in applied.metadata.managed_fields}
    assert ("python", "Apply") in managers, managers


def pages():
    for number in range(5):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{number}", {}, labels={"paged": "yes"}))
    seen, token, versions = [], None, set()
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, limit=2, _continue=token)
        seen += [item.metadata.name for item in page.items]
        versions.add(page.metadata.resource_version)
        token = page.metadata._continue
        if not token:
            break
    assert [name for name in seen if name.startswith("page-")] == [f"page-{number}" for number in range(5)], seen
    assert len(versions) == 1, versions
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="paged=yes")
    assert core.list_namespaced_config_map(NAMESPACE, label_selector="paged=yes").items == []


def watches():
    start = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    seen = []

    def follow():
        stream = watch.Watch()
        options = {"resource_version": start, "timeout_seconds": 60, "field_selector": "metadata.name=watched"}
        for event in stream.stream(core.list_namespaced_config_map, NAMESPACE, **options):
            seen.append((event["type"], event["object"].data))
            if event["type"] == "DELETED":
                stream.stop()

    follower = threading.Thread(target=follow)
    follower.start()
    core.create_namespaced_config_map(NAMESPACE, config_map("watched", {"n": "1"}))
    core.patch_namespaced_config_map("watched", NAMESPACE, {"data": {"n": "2"}})
    core.delete_namespaced_config_map("watched", NAMESPACE)
    follower.join(60)
    assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "DELETED"], seen
    assert seen[2][1] == {"n": "2"}
    # A version that never was is refused or ends the watch with an error event.
    try:
        for event in watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, resource_version="1",
                                          timeout_seconds=2):
            assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), event
    except ApiException as error:
        assert error.status == 410, error


def workloads():
    spec = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "c", "image": "nginx"}]}}},
    }
    made = apps.create_namespaced_deployment(NAMESPACE, spec)
    assert made.spec.strategy.rolling_update.max_surge == "25%" and made.spec.revision_history_limit == 10
    scale = apps.read_namespaced_deployment_scale("web", NAMESPACE)
    assert scale.spec.replicas == 1
    # Without a version the write is unconditional: the controller writes status at the same time.
    scale.spec.replicas, scale.metadata.resource_version = 0, None
    assert not apps.replace_namespaced_deployment_scale("web", NAMESPACE, scale).spec.replicas
    deadline = time.time() + 60
    while apps.read_namespaced_deployment_status("web", NAMESPACE).status.observed_generation != 2:
        assert time.time() < deadline, "the deployment is not observed"
        time.sleep(0.2)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
           "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never",
                                                           "containers": [{"name": "c", "image": "x"}]}}}}
    assert batch.create_namespaced_job(NAMESPACE, job).spec.completion_mode == "NonIndexed"
    invalid = refused(422, batch.patch_namespaced_job, "job", NAMESPACE, {"spec": {"completions": 7}})
    assert "field is immutable" in invalid.body, invalid.body
    deleted = apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
    assert deleted is not None


def events():
    """The other group shows an event that has no eventTime with null there, which typed clients refuse to
    take: against upstream they do the same, so the bytes are looked at."""
    about = client.V1ObjectReference(kind="ConfigMap", name="patched", namespace=NAMESPACE)
    core.create_namespaced_event(NAMESPACE, client.CoreV1Event(
        metadata=client.V1ObjectMeta(name="old"), involved_object=about, reason="Old", message="text", type="Normal"))
    api = client.EventsV1Api()
    old = json.loads(api.read_namespaced_event("old", NAMESPACE, _preload_content=False).data)
    assert old["note"] == "text" and old["regarding"]["name"] == "patched" and old["eventTime"] is None, old
    body = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "new"}, "reason": "New",
            "action": "Do", "type": "Normal", "note": "text", "eventTime": "2026-01-02T03:04:05.678901Z",
            "reportingController": "example.com/test", "reportingInstance": "one",
            "regarding": {"kind": "ConfigMap", "name": "patched", "namespace": NAMESPACE}}
    made = api.create_namespaced_event(NAMESPACE, body)
    assert made.event_time.microsecond == 678901, made.event_time


def leases():
    api = client.CoordinationV1Api()
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "lead"},
            "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-01-02T03:04:05.000001Z"}}
    lease = api.create_namespaced_lease(NAMESPACE, body)
    assert lease.spec.renew_time.microsecond == 1, lease.spec.renew_time


def dynamic_client():
    api = dynamic.DynamicClient(client.ApiClient())
    maps = api.resources.get(api_version="v1", kind="ConfigMap")
    maps.create(body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dynamic"}, "data": {"a": "b"}},
                namespace=NAMESPACE)
    assert maps.get(name="dynamic", namespace=NAMESPACE).data.a == "b"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dynamic"}, "data": {"a": "c"}}
    applied = maps.server_side_apply(body=body, namespace=NAMESPACE, field_manager="dynamic", force_conflicts=True)
    assert applied.data.a == "c"
    for item in maps.get(namespace=NAMESPACE).items:
        assert item.kind == "ConfigMap" and item.apiVersion == "v1"


def custom_resources():
    group = "python.example.com"
    extensions, custom = client.ApiextensionsV1Api(), client.CustomObjectsApi()
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {
        "type": "integer", "default": 3, "minimum": 1}}}}}
    extensions.create_custom_resource_definition({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                 "versions": [{"name": "v1", "served": True, "storage": True,
                               "schema": {"openAPIV3Schema": schema}}]}})
    try:
        place = (group, "v1", NAMESPACE, "widgets")
        body = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {}}
        deadline = time.time() + 60
        while True:
            try:
                made = custom.create_namespaced_custom_object(*place, body)
                break
            except ApiException as error:
                assert error.status == 404 and time.time() < deadline, error
                time.sleep(0.2)
        assert made["spec"]["size"] == 3, made
        refused(422, custom.patch_namespaced_custom_object, *place, "w", {"spec": {"size": 0}})
        assert custom.list_namespaced_custom_object(*place)["items"][0]["kind"] == "Widget"
        custom.delete_namespaced_custom_object(*place, "w")
    finally:
        extensions.delete_custom_resource_definition(f"widgets.{group}")


def reviews():
    authorization, authentication = client.AuthorizationV1Api(), client.AuthenticationV1Api()
    attributes = {"verb": "get", "resource": "pods", "namespace": NAMESPACE}
    own = authorization.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}})
    assert own.status.allowed
    other = authorization.create_subject_access_review({"spec": {"user": "nobody", "resourceAttributes": attributes}})
    assert not other.status.allowed
    request = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    token = core.create_namespaced_service_account_token("default", NAMESPACE, request)
    review = authentication.create_token_review({"spec": {"token": token.status.token}})
    assert review.status.authenticated, review
    assert review.status.user.username == f"system:serviceaccount:{NAMESPACE}:default", review.status.user


for step in (verbs, patches, pages, watches, workloads, events, leases, dynamic_client, custom_resources, reviews):
    try:
        step()
    except Exception as error:
        raise RuntimeError(f"{step.__name__}: {error!r}") from error
