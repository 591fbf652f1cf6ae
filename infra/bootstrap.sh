#!/bin/sh
# Make .venv and install into it, for `make install` (EXTRAS=local,dev: what of pyproject.toml). Every failure ends in one sentence that says what mends it.
set -eu

VENV=.venv
NEEDED_KB=1572864 # of disk

fail() {
    printf 'make install: %s\n' "$1" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON does not run, or is older than 3.11; name another, or leave it out."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer is on PATH; install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13), or name it: make install PYTHON=/path/to/python3."
}

require_space() {
    free=$(df -Pk . | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$NEEDED_KB" ] || fail "$((free / 1024)) MB are free here and $((NEEDED_KB / 1024)) MB are needed; free some space, or clone to another disk."
}

make_venv() {
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && is_new_enough "$VENV/bin/python"; then
        return
    fi
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module; install it (Debian, Ubuntu: apt install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')), or name another Python: make install PYTHON=/path/to/python3."
    "$python" -m venv --clear "$VENV" || fail "$python could not make $VENV (see above); remove $VENV and try again."
}

# A pip before 24.2 trusts a list of its own and not the system's store, on which a company's own authority may be.
trust_system_store() {
    [ -z "${PIP_CERT:-}" ] || return 0
    "$VENV/bin/python" -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) >= (24, 2))' || return 0
    "$VENV/bin/python" -m pip config get global.cert >/dev/null 2>&1 && return 0
    for store in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
        if [ -r "$store" ]; then
            export PIP_CERT="$store"
            return 0
        fi
    done
}

install_packages() {
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./sdk -e ".[${EXTRAS:-local,dev}]" ||
        fail "pip could not install the packages (see above); check the network (proxies are taken from HTTPS_PROXY) and run it again."
}

require_space
make_venv
trust_system_store
printf 'Installing Python packages into %s (100 MB to download, half a minute on a fast line); Kafka (45 MB) follows at the first start.\n' "$VENV"
install_packages
"$VENV/bin/python" -m gateway.broadcast.native
"$VENV/bin/python" -m gateway.edge.native
