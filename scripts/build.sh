#!/usr/bin/env bash
# scripts/build.sh release|asan|tsan [TARGET…]  — configures once, then builds quietly with progress.
# WAYLEAVE_UNITY=OFF compiles every source by itself: slower from scratch (572 s instead of 238 on two cores), faster after a change.
# asan: with clang-19 when it is installed (then the fuzzers are built from the same objects), else with g++.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=$1; shift
case $kind in
  release) options=(-DCMAKE_BUILD_TYPE=Release -DWAYLEAVE_BENCH=ON) ;;
  asan) options=(-DCMAKE_BUILD_TYPE=RelWithDebInfo -DWAYLEAVE_SANITIZE=address)
        [ -z "$(command -v clang++-19)" ] || options+=(-DCMAKE_CXX_COMPILER=clang++-19 -DWAYLEAVE_FUZZ=ON) ;;
  tsan) options=(-DCMAKE_BUILD_TYPE=RelWithDebInfo -DWAYLEAVE_SANITIZE=thread) ;;
  *) echo "usage: $0 release|asan|tsan [TARGET…]" >&2; exit 2 ;;
esac
options+=(-DWAYLEAVE_UNITY="${WAYLEAVE_UNITY:-ON}")
mkdir -p build
log=build/$kind.log
if ! cmake -S . -B "build/$kind" -G Ninja "${options[@]}" > "$log" 2>&1; then
  tail -40 "$log" >&2
  exit 1
fi
started=$SECONDS
if [ -t 1 ]; then
  ninja -C "build/$kind" "$@" || exit 1
else
  ninja -C "build/$kind" "$@" > "$log" 2>&1 || { grep -E 'FAILED|error' -A 12 "$log" | head -80 >&2; exit 1; }
fi
[ "$kind" != release ] || ln -sfn release/bin build/bin
echo "built $kind in $((SECONDS - started)) s"
