"""Runs commands in a pod with the Python client, over WebSockets. The only
argument names a namespace to work in; BUSYBOX names the image."""

import os
import sys

from kubernetes import client, config, watch
from kubernetes.stream import stream

NAMESPACE = sys.argv[1]
config.load_kube_config()
core = client.CoreV1Api()

container = client.V1Container(name="c", image=os.environ["BUSYBOX"], image_pull_policy="IfNotPresent",
                               command=["sh", "-c", "trap exit TERM; while :; do sleep 0.2; done"])
core.create_namespaced_pod(NAMESPACE, client.V1Pod(
    metadata=client.V1ObjectMeta(name="runs"),
    spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=1)))
follow = watch.Watch()
for event in follow.stream(core.list_namespaced_pod, NAMESPACE, field_selector="metadata.name=runs",
                           timeout_seconds=120):
    if event["object"].status.phase == "Running":
        follow.stop()
pod = ("runs", NAMESPACE)

def execute(command, **options):
    arguments = {"stdin": False, "stdout": True, "stderr": True, "tty": False, **options}
    return stream(core.connect_get_namespaced_pod_exec, *pod, command=["sh", "-c", command], **arguments)

assert execute("echo out; echo err >&2").split() in (["out", "err"], ["err", "out"])
failing = execute("echo last; exit 7", _preload_content=False)
failing.run_forever(timeout=60)
assert failing.read_stdout() == "last\n" and failing.returncode == 7, failing.returncode
talking = execute("while read line; do echo got $line; done", stdin=True, _preload_content=False)
for word in ("one", "two"):
    talking.write_stdin(f"{word}\n")
    assert talking.readline_stdout(timeout=60) == f"got {word}", word
talking.close()
terminal = execute("test -t 0 && stty size", tty=True, stdin=True, _preload_content=False)
terminal.run_forever(timeout=60)
assert terminal.returncode == 0, terminal.read_all()
core.delete_namespaced_pod(*pod)
