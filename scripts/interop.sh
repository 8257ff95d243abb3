#!/usr/bin/env bash
# Meets servers and programs that no one here wrote. One line a scenario:
#   ok PEER VERSION: scenario        it agreed
#   FAILED PEER VERSION: scenario    it was met and disagreed: this run fails
#   SKIP PEER: reason                it could not be had: named, not failed
# Peers that Debian lacks are built in a cache outside the source tree, pinned by version (WAYLEAVE_CACHE).
set -uo pipefail
cd "$(dirname "$0")/.."
export WAYLEAVE_CACHE=${WAYLEAVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wayleave}
mkdir -p "$WAYLEAVE_CACHE" build
passed=0 failed=0 skipped=0
[ "$(id -u)" -ne 0 ] || scripts/dependencies.sh interop || echo "SKIP Debian's interop packages: apt-get failed"
for script in tests/interop/*.sh tests/interop/*.py; do
  [ -e "$script" ] || continue
  case $script in *_support.py) continue ;; esac
  runner=bash; [[ $script == *.py ]] && runner=/usr/bin/python3
  log=build/interop-$(basename "$script").log
  started=$SECONDS
  timeout 900 "$runner" "$script" > "$log" 2>&1; status=$?
  grep -E '^(ok|FAILED|SKIP|#) ' "$log"
  passed=$((passed + $(grep -c '^ok ' "$log"))); skipped=$((skipped + $(grep -c '^SKIP ' "$log")))
  failures=$(grep -c '^FAILED ' "$log")
  if [ $status -ne 0 ] && [ "$failures" -eq 0 ]; then echo "FAILED $script: exit status $status"; tail -40 "$log"; failures=1; fi
  [ "$failures" -eq 0 ] || tail -40 "$log"
  failed=$((failed + failures))
  echo "# $(basename "$script") took $((SECONDS - started)) s"
done
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
