#!/usr/bin/env bash
# Side-by-side benchmarks; writes the tables and the drawing into docs/. BENCH_ROUNDS and BENCH_SECONDS shorten or lengthen it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/dependencies.sh build lab bench
scripts/build.sh release all wayleave-bench-load wayleave-bench-handshakes
mkdir -p build/bench
/usr/bin/python3 bench/run.py build/release/bin/wayleave-bench-load --rounds "${BENCH_ROUNDS:-3}" --seconds "${BENCH_SECONDS:-3}" \
  --markdown build/bench/data-plane.md --svg build/bench/data-plane.svg
/usr/bin/python3 bench/handshakes.py build/release/bin/wayleave-bench-handshakes --seconds "${BENCH_SECONDS:-3}" | tee build/bench/handshakes.md
echo "tables: build/bench/*.md; the drawing: build/bench/data-plane.svg"
