#!/usr/bin/env bash
# The whole test suite. Every part reports one line; the last line sums up. Exit status 0 only if nothing failed.
#
#   unit tests      under ASan+UBSan (all libraries) and TSan (those with threads)
#   fuzzers         each for a few seconds on top of its corpus (skipped by name when clang cannot be had)
#   integration     real kernel, real Squid and curl, in namespaces: release programs and ASan programs
#
# WAYLEAVE_FUZZ_SECONDS (default 3) per fuzzer.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=0 skipped=0
started=$SECONDS

note() { printf '%-9s %s\n' "$1" "$2"; }
pass() { passed=$((passed + 1)); note "ok" "$1"; }
fail() { failed=$((failed + 1)); note "FAILED" "$1"; }
skip() { skipped=$((skipped + 1)); note "skipped" "$1"; }

step() { # name, command…: output to a log, shown when it fails
  local name=$1 log from=$SECONDS; shift
  log=build/check-$(tr 'A-Z' 'a-z' <<< "$name" | tr -cs 'a-z0-9\n' -).log
  if "$@" > "$log" 2>&1; then pass "$name ($((SECONDS - from)) s)"; else fail "$name: tail of $log"; tail -60 "$log"; fi
}

unit_tests() { # build folder, ctest's arguments…
  local folder=$1 status; shift
  ctest --test-dir "$folder" --output-on-failure --no-tests=error "$@"; status=$?
  # What a test says when it skips itself, which ctest counts as passed.
  awk -v build="${folder#build/}" '/: Skipped$/ { getline reason } /^\[  SKIPPED \] .* ms\)$/ { print "skipped   " build ": " $4 ": " reason }' \
    "$folder/Testing/Temporary/LastTest.log" >> build/check-skipped.log
  return $status
}

mkdir -p build
: > build/check-skipped.log
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
export LSAN_OPTIONS=suppressions=$PWD/scripts/lsan.supp:print_suppressions=0

# With clang-19 one sanitized build serves the tests, the programs and the fuzzers.
[ "$(id -u)" -ne 0 ] || scripts/dependencies.sh fuzz || echo "clang-19 cannot be had: g++ builds for ASan, without fuzzers"
if scripts/build.sh asan; then
  step "unit tests under ASan and UBSan" unit_tests build/asan -j 2
else
  fail "the ASan build"
fi

# What a sanitizer stands in the way of: fork in a threaded program (g++ 12's ASan allocator deadlocks in the child), the
# seccomp allow-list (it would have to follow the sanitizers' runtime), memory that is counted.
plain() { # library, filter of its tests
  GTEST_FILTER=$2 unit_tests build/release -R "^$1\$"
}
plain_tests() {
  local failures=0
  plain pkcs11 '*' || failures=1
  plain sandbox '*' || failures=1
  plain broker 'Hardening.*:WitnessPoolTest.*' || failures=1
  plain tunnel '*OwnsLess*' || failures=1
  return $failures
}
if scripts/build.sh release wayleave_pkcs11_test wayleave_sandbox_test wayleave_broker_test wayleave_tunnel_test; then
  step "unit tests, plain build: pkcs11 sandbox broker tunnel" plain_tests
else
  fail "the plain build of the unit tests"
fi

# Where threads meet: the data plane, the local API, the TPM's owner thread, the PKCS#11 module, the metrics.
threaded=(tls tunnel proxy localapi broker keys pkcs11 observe)
targets=(); pattern=
for library in "${threaded[@]}"; do
  if [ -n "$(find "src/$library" -name '*_test.cc' -print -quit 2>/dev/null)" ]; then
    targets+=("wayleave_${library}_test"); pattern+="${pattern:+|}^$library\$"
  fi
done
if scripts/build.sh tsan "${targets[@]}"; then
  # The races for the caller's identity are run ten thousand times above; TSan would take minutes for them.
  export GTEST_FILTER='-*NeverWins*'
  step "unit tests under TSan: ${threaded[*]}" unit_tests build/tsan -R "$pattern"
  unset GTEST_FILTER
else
  fail "the TSan build"
fi

if [ -f build/asan/fuzzers.txt ]; then
  step "fuzzers, ${WAYLEAVE_FUZZ_SECONDS:-3} s each" scripts/fuzz.sh "${WAYLEAVE_FUZZ_SECONDS:-3}"
else
  skip "fuzzers: clang-19 is not installed"
fi

step "integration, release programs" /usr/bin/python3 tests/integration/run.py
step "integration, ASan and UBSan programs" env WAYLEAVE_BIN="$PWD/build/asan/bin" /usr/bin/python3 tests/integration/run.py --sanitized
grep -h '^skipped' build/check-skipped.log build/check-integration*.log 2>/dev/null | sort -u

# That the benchmarks run, nothing about speed.
if scripts/dependencies.sh build lab bench > /dev/null 2>&1; then
  step "benchmarks, short form" scripts/bench.sh --quick
else
  skip "benchmarks, short form: packages of the bench group are missing"
fi

printf 'took %d s\n' $((SECONDS - started))
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
