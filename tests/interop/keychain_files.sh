#!/usr/bin/env bash
# Keychain files that our writers make, opened by readers that no one here wrote; and, when the public samples are there,
# our reader against theirs on real files. Peers, pinned, in the cache outside the source tree:
#   keychainbreaker (crates.io)   decrypts: passwords, private keys, certificates; both MAC variants
#   plaso (PyPI)                  the grammar of the file: tables, columns, values
#   openssl, sqlite3              Debian's, for an exported identity and for keychain-2.db
# Prints `ok PEER: scenario`, `FAILED PEER: scenario`, `SKIP PEER: reason`.
set -uo pipefail
cd "$(dirname "$0")/../.."
keychainbreaker_version=0.3.1
plaso_version=20260720

cache=${WAYLEAVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wayleave}
mkdir -p "$cache"
bin=${WAYLEAVE_BIN:-}
if [ -z "$bin" ]; then
  scripts/build.sh release wayleave wayleave-keychain-fixtures || { echo "FAILED keychain_files: the programs do not build"; exit 1; }
  bin=build/release/bin
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/wayleave-keychain-fixtures" "$work" || { echo "FAILED keychain_files: the fixtures cannot be written"; exit 1; }
samples=${WAYLEAVE_SAMPLES:-../shared/samples}/keychains
python=/usr/bin/python3
status=0
check() { $python tests/interop/keychain_files_support.py "$@" || status=1; }

# --- keychainbreaker ---
breaker=$cache/keychainbreaker-$keychainbreaker_version/bin/keychainbreaker
if [ ! -x "$breaker" ]; then
  if ! command -v cargo > /dev/null; then
    echo "SKIP keychainbreaker: no cargo"
  elif ! timeout 600 cargo install --quiet --locked keychainbreaker-cli --version "$keychainbreaker_version" \
      --root "$cache/keychainbreaker-$keychainbreaker_version" > "$work/cargo.log" 2>&1; then
    echo "SKIP keychainbreaker: $(grep -m1 -i error "$work/cargo.log" || echo 'it does not build') (needs Rust 1.88)"
  fi
fi
if [ -x "$breaker" ]; then
  for name in System.keychain login.keychain-db; do
    # The fixture's password protects nothing; this peer takes it on its command line only.
    "$breaker" dump -p fixture -f "$work/$name" -o "$work/$name.json" > "$work/breaker.log" 2>&1 || cat "$work/breaker.log"
    check breaker "keychainbreaker $keychainbreaker_version" "$work" "$name"
  done
  sample=$samples/keychainbreaker-test.keychain-db
  if [ -f "$sample" ]; then
    "$breaker" dump -p keychainbreaker-test -f "$sample" -o "$work/sample.json" > "$work/breaker.log" 2>&1 || cat "$work/breaker.log"
    printf 'keychainbreaker-test' > "$work/password"
    check breaker-sample "keychainbreaker $keychainbreaker_version" "$bin/wayleave" "$sample" "$work"
  else
    echo "SKIP keychainbreaker: the public sample keychains are not here"
  fi
fi

# --- plaso: its keychain parser is pure Python; the native modules that it imports elsewhere are not built ---
venv=$cache/plaso-$plaso_version
if [ ! -e "$venv/ready" ]; then
  rm -rf "$venv"
  if ! { $python -m venv "$venv" && timeout 600 "$venv/bin/pip" install -q dtfabric dfdatetime &&
         timeout 600 "$venv/bin/pip" install -q --no-deps acstore "plaso==$plaso_version" && touch "$venv/ready"; } > "$work/pip.log" 2>&1; then
    echo "SKIP plaso: $(tail -1 "$work/pip.log")"
  fi
fi
if [ -e "$venv/ready" ]; then
  for file in "$work/System.keychain" "$work/login.keychain-db" "$samples"/*.keychain*; do
    [ -f "$file" ] || continue
    "$venv/bin/python" tests/interop/keychain_plaso_support.py "$file" > "$work/plaso.json" 2> "$work/plaso.log" || cat "$work/plaso.log"
    check plaso "plaso $plaso_version" "$bin/wayleave" "$file" "$work/plaso.json"
  done
fi

# --- openssl: what --export-p12 writes ---
check openssl "openssl $(openssl version | cut -d' ' -f2)" "$bin/wayleave" "$work"

# --- sqlite3 ---
if command -v sqlite3 > /dev/null; then
  check sqlite "sqlite3 $(sqlite3 --version | cut -d' ' -f1)" "$bin/wayleave" "$work"
else
  echo "SKIP sqlite3: not installed"
fi
exit $status
