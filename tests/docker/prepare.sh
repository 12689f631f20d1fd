#!/usr/bin/env bash
# Makes this machine able to run tests/docker: a Docker engine, a base image and a folder of wheels, all without an image
# registry. Needs root on Debian. Each step that fails says why and ends the script with 1; the tests are then skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
BASE=edgeserve-base
TORCH=${TORCH:-2.13.0}

give_up() { echo "tests/docker will be SKIPPED: $1" >&2; exit 1; }

[ "$(id -u)" = 0 ] || give_up "only root can start a Docker engine"
if ! command -v dockerd >/dev/null || ! command -v docker-compose >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io docker-compose iptables debootstrap >/dev/null 2>&1 \
        || give_up "docker.io, docker-compose, iptables and debootstrap could not be installed"
fi

if ! docker info >/dev/null 2>&1; then
    log=$(mktemp)
    nohup dockerd >"$log" 2>&1 </dev/null &
    for _ in $(seq 60); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
    docker info >/dev/null 2>&1 || give_up "dockerd did not come up: $(tail -n 1 "$log")"
fi

if ! docker image inspect "$BASE" >/dev/null 2>&1; then
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip bookworm "$root" >/dev/null 2>&1 \
        || give_up "debootstrap could not make a base"
    # As in Docker's own Debian images: packages are installed without waiting for the disk.
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
    tar -C "$root" -c . | docker import - "$BASE" >/dev/null || give_up "docker import failed"
    rm -rf "$root"
fi

# By name, and not as ".[gateway,worker,otel]": nothing need be built, beside an installation that may build the same just now.
read_requirements='
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["gateway"], *extras["worker"], *extras["otel"], sep="\n")
'
mkdir -p wheels
"$PYTHON" -c "$read_requirements" >wheels/requirements.txt \
    && "$PYTHON" -m pip download -q -d wheels "torch==$TORCH" setuptools wheel -r wheels/requirements.txt 2>/dev/null \
    || give_up "the wheels could not be collected"
echo "tests/docker can run"
