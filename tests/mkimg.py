#!/usr/bin/env python3
"""mkimg.py NAME OUT.tar [FILE_IN_IMAGE=PATH ...] [--cmd ARG ...]

Writes an OCI image archive that holds the machine's static busybox under the names of all its programs, and the files named, for
`ctr -n k8s.io images import OUT.tar`. Test images, and the sandbox's, come from here: no registry is asked.
The architecture is the machine's. Standard library only."""
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile

BUSYBOX = "/bin/busybox"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}

arguments = sys.argv[1:]
command = ["/bin/sleep", "1000000"]
if "--cmd" in arguments:
    at = arguments.index("--cmd")
    arguments, command = arguments[:at], arguments[at + 1 :]
if len(arguments) < 2:
    sys.exit(__doc__)
name, out, *files = arguments


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(media, data, **more):
    return {"mediaType": "application/vnd.oci.image." + media, "digest": digest(data), "size": len(data), **more}


def layer():
    """Root file system. Nothing in it depends on the time, so that the same image has the same digest."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:

        def entry(path, kind, data=b"", mode=0o755, **fields):
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.size = kind, mode, len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))

        for folder in ("bin", "etc", "proc", "sys", "dev", "var", "data", "run"):
            entry(folder, tarfile.DIRTYPE)
        entry("tmp", tarfile.DIRTYPE, mode=0o1777)
        entry("etc/passwd", tarfile.REGTYPE, b"root:x:0:0::/:/bin/sh\nworker:x:1000:1000::/:/bin/sh\n", mode=0o644)
        entry("etc/group", tarfile.REGTYPE, b"root:x:0:\nworker:x:1000:\n", mode=0o644)
        with open(BUSYBOX, "rb") as program:
            entry("bin/busybox", tarfile.REGTYPE, program.read())
        for applet in subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split():
            if applet != "busybox":
                entry("bin/" + applet, tarfile.SYMTYPE, linkname="busybox")
        for inside, path in (file.split("=", 1) for file in files):
            with open(path, "rb") as file:
                entry(inside.lstrip("/"), tarfile.REGTYPE, file.read())
    return written.getvalue()


root = layer()
config = json.dumps(
    {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(root)]},
    }
).encode()
manifest = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar", root)],
    }
).encode()
names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.split(":")[-1]}
index = json.dumps(
    {"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", manifest, annotations=names)]}
).encode()
contents = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index)]
contents += [("blobs/sha256/" + digest(blob)[7:], blob) for blob in (root, config, manifest)]
with tarfile.open(out, "w") as tar:
    for path, data in contents:
        info = tarfile.TarInfo(path)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
