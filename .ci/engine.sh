#!/usr/bin/env bash
# Make a container engine answer, on Debian as root: install docker.io where dockerd is missing, and start it.
# Prints the process id of the daemon that it started, so that the caller can stop it.
set -euo pipefail

if ! command -v dockerd >/dev/null; then
    echo "Installing docker.io" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends docker.io iptables >&2
fi
# Its own session and its output in a file: it outlives this script, and nobody waits for its end on a pipe.
log=$(mktemp -t dockerd.XXXXXX.log)
setsid dockerd --pidfile "$log.pid" >"$log" 2>&1 </dev/null &
daemon=$!
for _ in {1..60}; do
    if docker info >/dev/null 2>&1; then
        echo "$daemon"
        exit
    fi
    sleep 1
done
echo "error: dockerd does not answer after 60 s; the end of $log:" >&2
tail -n 20 "$log" >&2
kill "$daemon" 2>/dev/null || true
exit 1
