#!/usr/bin/env bash
# `setup.sh [bench]` installs what the tests (or the bench as well) run beside the project's own programs, where it is missing: real MQTT clients and broker, kubectl, Python, a container runtime.
set -euo pipefail

missing=()
need() { # program package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing+=("$2")
}
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need kubectl kubernetes-client
need python3 python3
need cc build-essential
need ip iproute2
need systemd-analyze systemd
# Containers: each test runs a containerd of its own.
need containerd containerd
need runc runc
need nft nftables
need iptables iptables
[ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
# Static: it is all that there is in a test's image.
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || missing+=(busybox-static)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
# The load of the API's figures.
[ "${1:-}" != bench ] || need wrk wrk
[ -e "/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1" ] || missing+=(libfaketime)

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then as_root=(); elif command -v sudo >/dev/null 2>&1; then as_root=(sudo); else
        echo "error: missing: ${missing[*]}" >&2
        echo "hint: install these packages, or run as root or with sudo available" >&2
        exit 1
    fi
    "${as_root[@]}" apt-get update -qq
    # A packaged broker or runtime starts by itself where a service manager runs; the tests start their own.
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then policy=; else
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    [ -z "$policy" ] || "${as_root[@]}" rm -f "$policy"
    trap - EXIT
fi

command -v cargo-nextest >/dev/null 2>&1 || cargo install --locked --quiet cargo-nextest

# Clients that nobody here wrote, beside the build: the kubectl that the distribution has, and the Python client.
clients="${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/clients"
mkdir -p "$clients"
clients="$(cd "$clients" && pwd)"
if [ ! -x "$clients/kubectl" ]; then
    unpacked="$(mktemp -d)"
    trap 'rm -rf "$unpacked"' EXIT
    chmod 755 "$unpacked"
    (cd "$unpacked" && apt-get download -qq kubernetes-client 2>/dev/null && dpkg-deb -x kubernetes-client_*.deb .)
    install -m 755 "$unpacked/usr/bin/kubectl" "$clients/kubectl"
fi
if ! "$clients/python/bin/python" -c 'import kubernetes' 2>/dev/null; then
    python3 -m venv "$clients/python"
    "$clients/python/bin/pip" install --quiet --disable-pip-version-check 'kubernetes>=31'
fi
