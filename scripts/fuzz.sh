#!/usr/bin/env bash
# scripts/fuzz.sh SECONDS [FUZZER…]  — builds the fuzzers with clang-19 and runs each for SECONDS on its corpus, two at a time. New
# inputs stay in build/fuzz/corpus; a crash is kept in build/fuzz/crashes and fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1; shift
[ -n "$(command -v clang++-19)" ] || { echo "the fuzzers need clang-19: scripts/dependencies.sh fuzz" >&2; exit 1; }
scripts/build.sh asan fuzzers
IFS=';' read -ra all <<< "$(< build/asan/fuzzers.txt)"
[ $# -gt 0 ] && all=("$@")
mkdir -p build/fuzz/crashes
export seconds

fuzz() {
  local fuzzer=$1 corpus=build/fuzz/corpus/$1 seeds=()
  mkdir -p "$corpus"
  [ -d "tests/fuzz/$fuzzer" ] && seeds=("tests/fuzz/$fuzzer")
  if build/asan/bin/"$fuzzer" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 \
      -artifact_prefix=build/fuzz/crashes/ "$corpus" "${seeds[@]}" > "build/fuzz/$fuzzer.log" 2>&1; then
    printf '%-28s %s executions, no crash\n' "$fuzzer" "$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$fuzzer.log")"
  else
    printf '%-28s CRASHED\n' "$fuzzer"; tail -30 "build/fuzz/$fuzzer.log"; return 1
  fi
}
export -f fuzz
printf '%s\0' "${all[@]}" | xargs -0 -P 2 -I{} bash -c 'fuzz {}'
