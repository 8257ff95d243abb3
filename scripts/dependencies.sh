#!/usr/bin/env bash
# Installs what the project needs, Debian packages only. With nothing missing it needs no root and does nothing.
#   scripts/dependencies.sh [GROUP…]      groups: build lab interop bench (default: build lab)
set -euo pipefail

build=(g++ cmake ninja-build make pkg-config git ca-certificates mold
  libboost1.81-dev libssl-dev libexpat1-dev libnghttp2-dev libcurl4-openssl-dev nlohmann-json3-dev libtss2-dev libsqlite3-dev
  libnftables-dev libmnl-dev libcli11-dev libspdlog-dev libfmt-dev libtomlplusplus-dev prometheus-cpp-dev
  libgtest-dev libgmock-dev libseccomp-dev libcap-dev libp11-kit-dev)
lab=(python3 python3-cryptography python3-cbor2 python3-h2 openssl curl iproute2 nftables procps util-linux squid-openssl nginx-light
  swtpm swtpm-tools tpm2-tools scep zsh fish mandoc)
fuzz=(clang-19 libclang-rt-19-dev llvm-19)
interop=(golang-go pebble scep nghttp2-proxy apache2 haproxy sqlite3 python3-venv gnutls-bin opensc libnss3-tools p11-kit libengine-pkcs11-openssl openssh-client openssh-server)
bench=(libbenchmark-dev softhsm2 p11-kit libengine-pkcs11-openssl opensc haproxy libnginx-mod-stream stunnel4 nghttp2-proxy redsocks python3)

groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(build lab)
wanted=()
for group in "${groups[@]}"; do
  case $group in
    build) wanted+=("${build[@]}") ;;
    lab) wanted+=("${lab[@]}") ;;
    fuzz) wanted+=("${fuzz[@]}") ;;
    interop) wanted+=("${interop[@]}") ;;
    bench) wanted+=("${bench[@]}") ;;
    *) echo "unknown group: $group" >&2; exit 2 ;;
  esac
done

missing=()
mapfile -t wanted < <(printf '%s\n' "${wanted[@]}" | sort -u)  # groups share some
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "These Debian packages are missing: ${missing[*]}" >&2
  echo "Install them as root:  apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Packages such as nginx or squid must not start a service of their own on the developer's machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
log=$(mktemp)
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } > "$log" 2>&1; then
  tail -30 "$log" >&2
  echo "apt-get failed; its whole output is in $log" >&2
  exit 1
fi
rm -f "$log"
