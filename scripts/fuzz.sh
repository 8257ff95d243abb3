#!/usr/bin/env bash
# scripts/fuzz.sh SECONDS [FUZZER…]  — builds the fuzzers with clang and runs each for SECONDS on its corpus. New inputs stay in
# build/fuzz/corpus; a crash is kept in build/fuzz/crashes and fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1; shift
scripts/build.sh fuzz fuzzers
IFS=';' read -ra all <<< "$(< build/fuzz/fuzzers.txt)"
[ $# -gt 0 ] && all=("$@")
mkdir -p build/fuzz/crashes
status=0
for fuzzer in "${all[@]}"; do
  corpus=build/fuzz/corpus/$fuzzer
  mkdir -p "$corpus"
  seeds=()
  [ -d "tests/fuzz/$fuzzer" ] && seeds=("tests/fuzz/$fuzzer")
  if build/fuzz/bin/"$fuzzer" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 \
      -artifact_prefix=build/fuzz/crashes/ "$corpus" "${seeds[@]}" > "build/fuzz/$fuzzer.log" 2>&1; then
    printf '%-28s %s executions, no crash\n' "$fuzzer" "$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$fuzzer.log")"
  else
    printf '%-28s CRASHED\n' "$fuzzer"; tail -30 "build/fuzz/$fuzzer.log"; status=1
  fi
done
exit $status
