"""Requests that no well-meaning client sends, over TLS with an administrator's certificate: each gets the answer that a real server gives, and the
next request is served by the same process."""

import gzip
import http.client
import json
import ssl
import sys
import urllib.parse

from kubernetes import client, config

settings = client.Configuration()
config.load_kube_config(sys.argv[1], client_configuration=settings)
server = urllib.parse.urlparse(settings.host)
context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
context.load_cert_chain(settings.cert_file, settings.key_file)

MAPS = "/api/v1/namespaces/default/configmaps"
JSON, YAML = "application/json", "application/yaml"


def ask(method, path, body=None, kind=JSON, headers=None):
    connection = http.client.HTTPSConnection(server.hostname, server.port, context=context, timeout=30)
    try:
        try:
            connection.request(method, path, body, {"Content-Type": kind, "Accept": JSON, **(headers or {})})
        except OSError:
            # Of a head that is too long the rest is not read: the refusal may get lost under what is still sent.
            assert len(path) + sum(len(v) + 8 for v in (headers or {}).values()) > 30_000, (method, path[:60])
            return 431, b""
        answer = connection.getresponse()
        return answer.status, answer.read()
    except ConnectionResetError:
        assert len(path) + sum(len(v) + 8 for v in (headers or {}).values()) > 30_000, (method, path[:60])
        return 431, b""
    finally:
        connection.close()


def endless(size):
    for _ in range(size):
        yield b" " * 65536


def bomb():
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for last, name in zip("abcdefgh", "bcdefghi"):
        lines.append(f"{name}: &{name} [" + ",".join([f"*{last}"] * 9) + "]")
    return "\n".join(lines)


def patch(operations):
    return json.dumps(operations)


assert ask("POST", MAPS, json.dumps({"metadata": {"name": "hostile"}, "data": {"x": "y" * 1000}}))[0] == 201
ONE = MAPS + "/hostile"
PATCH = "application/json-patch+json"
copies = [{"op": "add", "path": "/data/l", "value": "y" * 100000}]
copies += [{"op": "copy", "from": "/data/l", "path": f"/data/c{i}"} for i in range(100)]
deep = [{"op": "add", "path": "/a", "value": {"a": {}}}]
deep += [{"op": "copy", "from": "/a", "path": "/a" * (2**n + 1)} for n in range(1, 17)]
cases = [
    (413, "POST", MAPS, b" " * (4 << 20)),
    (413, "POST", MAPS, endless(100)),
    (400, "POST", MAPS, "[" * 10000),
    (400, "POST", MAPS, '{"a":' * 20000 + "1" + "}" * 20000),
    (400, "POST", MAPS, gzip.compress(b"{}" * 100000), JSON, {"Content-Encoding": "gzip"}),
    (400, "POST", MAPS, bomb(), YAML),
    (400, "POST", MAPS, "[" * 10000, YAML),
    (400, "PATCH", MAPS + "/z?fieldManager=f", bomb(), "application/apply-patch+yaml"),
    (415, "POST", MAPS, "x", "text/csv"),
    (406, "GET", ONE, None, JSON, {"Accept": "text/html"}),
    (422, "PATCH", ONE, patch(copies), PATCH),
    (422, "PATCH", ONE, patch(deep), PATCH),
    (413, "PATCH", ONE, patch([{"op": "test", "path": "/data/x", "value": 1}] * 10001), PATCH),
    (400, "GET", MAPS + "?labelSelector=" + "a," * 40000, None),
    (431, "GET", ONE, None, JSON, {"X-Long": "a" * 1500000}),
    (431, "GET", ONE, None, JSON, {f"X-{i}": "a" for i in range(5000)}),
    (400, "GET", MAPS + "/%zz", None),
    (405, "HEAD", ONE, None),
    (405, "FOO", ONE, None),
]
for wanted, method, path, *rest in cases:
    got, body = ask(method, path, *rest)
    said = (method, path[:60], got, body[:300])
    # A long selector is refused before it is read where the connection knows the request's whole length.
    assert got == wanted or (wanted == 400 and path.count(",") > 1000 and got in (414, 431)), (wanted, said)
    alive, _ = ask("GET", ONE)
    assert alive == 200, said
for size in (200_000, 1_000_000):
    got, _ = ask("GET", MAPS + "?labelSelector=" + "a" * size)
    assert got in (400, 414, 431), got
assert ask("DELETE", ONE)[0] == 200
print("done")
