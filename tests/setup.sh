#!/usr/bin/env bash
# `setup.sh [bench]` installs what the tests (or the bench as well) run beside the project's own programs, where it is missing: real MQTT clients and broker, kubectl, Python.
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
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The packaged broker starts by itself where a service manager runs; the tests start their own.
command -v cargo-nextest >/dev/null 2>&1 || cargo install --locked --quiet cargo-nextest
