"""What a Python program does with the Kubernetes API: typed calls, watches that outlive their connection and their server, the dynamic client with
server-side apply and a kind of its own, and a lease to lead by. Asks on standard output for what the test does to the server."""

import datetime
import sys
import threading
import time

import urllib3
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client import ApiException
from kubernetes.client.api_client import ApiClient
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

KUBECONFIG, SERVER = sys.argv[1], sys.argv[2]


def connect(server=SERVER):
    out = client.Configuration()
    config.load_kube_config(KUBECONFIG, client_configuration=out)
    if server:
        out.host = server
    return ApiClient(out)


def ask(what):
    print(what, flush=True)
    assert sys.stdin.readline() == "go\n"


def expect(code, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as refusal:
        assert refusal.status == code, refusal
        return refusal
    raise AssertionError(f"expected {code}")


def patiently(call):
    """Calls until the connection holds: between, the server was away."""
    for _ in range(400):
        try:
            return call()
        except (urllib3.exceptions.HTTPError, OSError):
            time.sleep(0.05)
    raise AssertionError("the server did not come back")


def typed(api):
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    made = core.create_namespaced_config_map("default", {"metadata": {"name": "py", "labels": {"a": "b"}}, "data": {"k": "v"}})
    assert made.metadata.uid and isinstance(made.metadata.creation_timestamp, datetime.datetime)
    assert expect(409, core.create_namespaced_config_map, "default", {"metadata": {"name": "py"}}).reason
    made.data["k"] = "w"
    assert core.replace_namespaced_config_map("py", "default", made).data == {"k": "w"}
    expect(409, core.replace_namespaced_config_map, "py", "default", made)
    assert core.patch_namespaced_config_map("py", "default", {"data": {"k": None, "n": "1"}}).data == {"n": "1"}
    listed = core.list_namespaced_config_map("default", label_selector="a=b", limit=1)
    assert [o.metadata.name for o in listed.items] == ["py"]
    core.create_namespaced_secret("default", {"metadata": {"name": "py"}, "stringData": {"p": "s"}, "type": "Opaque"})
    assert core.read_namespaced_secret("py", "default").data == {"p": "cw=="}
    expect(422, core.create_namespaced_service, "default", {"metadata": {"name": "py"}, "spec": {"ports": [{"port": 0}]}})
    labels = {"app": "py"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    apps.create_namespaced_deployment("default", {"metadata": {"name": "py"}, "spec": spec})
    assert apps.patch_namespaced_deployment_scale("py", "default", {"spec": {"replicas": 4}}).spec.replicas == 4
    more = {"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "i"}]}}}}
    names = [c.name for c in apps.patch_namespaced_deployment("py", "default", more).spec.template.spec.containers]
    assert names == ["d", "c"], names
    utils.create_from_dict(api, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "from-dict"}})
    core.delete_namespaced_config_map("from-dict", "default")
    apps.delete_namespaced_deployment("py", "default", propagation_policy="Foreground")
    for name in ["py"]:
        core.delete_namespaced_config_map(name, "default")
        core.delete_namespaced_secret(name, "default")
    expect(404, core.read_namespaced_config_map, "py", "default")
    assert client.VersionApi(api).get_code().major == "1"
    groups = {g.name for g in client.ApisApi(api).get_api_versions().groups}
    assert {"apps", "apiextensions.k8s.io"} <= groups


def watching(api):
    """Every change is seen once, over a cut connection and another process of the server."""
    core = client.CoreV1Api(api)
    seen, started = [], threading.Event()
    version = core.list_namespaced_config_map("default").metadata.resource_version

    def look():
        nonlocal version
        while True:
            try:
                started.set()
                stream = watch.Watch().stream(
                    core.list_namespaced_config_map,
                    "default",
                    label_selector="py=watch",
                    resource_version=version,
                    allow_watch_bookmarks=True,
                    timeout_seconds=20,
                )
                for event in stream:
                    version = event["object"].metadata.resource_version
                    seen.append((event["type"], event["object"].metadata.name, (event["object"].data or {}).get("n")))
                    if event["type"] == "DELETED":
                        return
            except (urllib3.exceptions.HTTPError, OSError):
                time.sleep(0.05)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    started.wait()
    core.create_namespaced_config_map("default", {"metadata": {"name": "w", "labels": {"py": "watch"}}, "data": {"n": "0"}})
    for n in range(1, 9):
        if n == 3:
            ask("cut")
        if n == 6:
            ask("restart")
        patiently(lambda n=n: core.patch_namespaced_config_map("w", "default", {"data": {"n": str(n)}}))
    patiently(lambda: core.delete_namespaced_config_map("w", "default"))
    thread.join(30)
    assert not thread.is_alive(), seen
    # A patch whose answer was lost is sent again and changes nothing: nobody is told of it twice.
    expected = [("ADDED", "w", "0")] + [("MODIFIED", "w", str(n)) for n in range(1, 9)] + [("DELETED", "w", "8")]
    assert seen == expected, seen
    # A version from the future, and one that is none.
    stream = watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version="x", timeout_seconds=1)
    expect(500, lambda: list(stream))


def dynamically(api):
    found = dynamic.DynamicClient(api)
    definitions = found.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 9}, "color": {"type": "string", "default": "red"}}},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}
    names = {"plural": "pythons", "singular": "python", "kind": "Python"}
    definition = {"metadata": {"name": "pythons.py.io"}, "spec": {"group": "py.io", "scope": "Namespaced", "names": names, "versions": [version]}}
    definitions.create(body={"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", **definition})
    kind = None
    for _ in range(200):
        try:
            kind = found.resources.get(api_version="py.io/v1", kind="Python")
            break
        except dynamic.exceptions.ResourceNotFoundError:
            time.sleep(0.05)
    assert kind is not None
    body = {"apiVersion": "py.io/v1", "kind": "Python", "metadata": {"name": "p", "namespace": "default"}, "spec": {"size": 3}}
    applied = kind.server_side_apply(body=body, field_manager="one")
    assert (applied.spec.size, applied.spec.color) == (3, "red")
    body["spec"]["size"] = 4
    refused = expect(409, kind.server_side_apply, body=body, field_manager="two")
    assert "one" in str(refused.body)
    assert kind.server_side_apply(body=body, field_manager="two", force_conflicts=True).spec.size == 4
    body["spec"]["size"] = 40
    expect(422, kind.server_side_apply, body=body, field_manager="two")
    status = kind.status.patch(name="p", namespace="default", body={"status": {"ready": True}}, content_type="application/merge-patch+json")
    assert status.status.ready and status.metadata.generation == 2
    events = kind.watch(namespace="default", timeout=2)
    first = next(iter(events))
    assert (first["type"], first["object"].metadata.name) == ("ADDED", "p")
    kind.delete(name="p", namespace="default")
    definitions.delete(name="pythons.py.io")


def leading(api):
    """A lease is held by one, and goes to the next when it is not renewed."""
    leases = client.CoordinationV1Api(api)
    now = datetime.datetime.now(datetime.timezone.utc)
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 1, "acquireTime": now, "renewTime": now, "leaseTransitions": 0}
    one = leases.create_namespaced_lease("default", client.V1Lease(metadata={"name": "lead"}, spec=client.V1LeaseSpec(
        holder_identity="one", lease_duration_seconds=1, acquire_time=now, renew_time=now, lease_transitions=0)))
    assert one.spec.renew_time == spec["renewTime"], (one.spec.renew_time, now)
    stale = leases.read_namespaced_lease("lead", "default")
    one.spec.renew_time = now + datetime.timedelta(microseconds=1)
    one = leases.replace_namespaced_lease("lead", "default", one)
    stale.spec.holder_identity = "two"
    expect(409, leases.replace_namespaced_lease, "lead", "default", stale)
    one.spec.holder_identity, one.spec.lease_transitions = "two", 1
    assert leases.replace_namespaced_lease("lead", "default", one).spec.holder_identity == "two"
    leases.delete_namespaced_lease("lead", "default")
    # The client's own election, which keeps its record in an annotation.
    led = threading.Event()
    config.load_kube_config(KUBECONFIG)
    lock = ConfigMapLock("py-lead", "default", "one")
    election = electionconfig.Config(lock, lease_duration=5, renew_deadline=4, retry_period=1.2, onstarted_leading=led.set, onstopped_leading=None)
    threading.Thread(target=leaderelection.LeaderElection(election).run, daemon=True).start()
    assert led.wait(20)
    record = client.CoreV1Api(api).read_namespaced_config_map("py-lead", "default").metadata.annotations
    assert "one" in record["control-plane.alpha.kubernetes.io/leader"]


connection = connect()
typed(connection)
dynamically(connection)
leading(connect(None))
watching(connection)
print("done", flush=True)
