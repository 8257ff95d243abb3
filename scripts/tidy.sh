#!/usr/bin/env bash
# clang-tidy over every source (or those named), with the release build's commands.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake -S . -B build/tidy -G Ninja -DCMAKE_BUILD_TYPE=Debug -DWAYLEAVE_PCH=OFF -DCMAKE_CXX_COMPILER=clang++-19 > /dev/null
files=("$@")
[ $# -gt 0 ] || mapfile -t files < <(git ls-files 'src/*.cc' | grep -v _test)
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy-19 --quiet -p build/tidy
