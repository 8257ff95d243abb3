#!/usr/bin/env bash
# Side by side with real peers; the tables and the drawing go to build/bench.
#   scripts/bench.sh             everything, about 10 minutes after the build
#   scripts/bench.sh --quick     that it runs: one short round, nothing is asserted about speed
#   scripts/bench.sh --publish   writes what build/bench holds into docs/benchmarks.md and docs/benchmarks/
# BENCH_ROUNDS and BENCH_SECONDS change the length of a measurement.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-}
out=build/bench
bin=build/release/bin
publish() {
  /usr/bin/python3 bench/report.py $out/data-plane.json --handshakes $out/handshakes.md --publish docs/benchmarks.md --svg docs/benchmarks/data-plane.svg
}
case $mode in
  "" | --quick) ;;
  --publish) publish; exit ;;
  *) echo "usage: scripts/bench.sh [--quick|--publish]" >&2; exit 2 ;;
esac

scripts/dependencies.sh build lab bench
scripts/build.sh release wayleave wayleave-identityd wayleave-managementd wayleave-proxyd wayleave_pkcs11_module wayleave-bench-load \
  wayleave-bench-gateway wayleave-bench-handshakes
mkdir -p $out
if [ "$mode" = --quick ]; then
  rm -f $out/quick.json
  # The limit is a guard against a run that hangs. Nothing here depends on how long anything takes.
  timeout 600 /usr/bin/python3 bench/run.py $bin --rounds 1 --seconds 0.5 --columns "down 1,up 1,new flows,exchange 1" \
    --candidates "haproxy,haproxy h2,wayleave h1,wayleave h2" --complete --store $out/quick.json
  /usr/bin/python3 bench/report.py $out/quick.json
  exit
fi
rm -f $out/data-plane.json
measure() { /usr/bin/python3 bench/run.py $bin --rounds "${BENCH_ROUNDS:-3}" --seconds "${BENCH_SECONDS:-1.2}" "$@"; }
measure
measure --transparent
measure --gateway haproxy --rounds 1 --columns "down 1,up 1,new flows,exchange 1,exchange 32"
/usr/bin/python3 bench/slow_key.py $bin
/usr/bin/python3 bench/handshakes.py $bin/wayleave-bench-handshakes --seconds "${BENCH_SECONDS:-1.2}" > $out/handshakes.md
/usr/bin/python3 bench/report.py $out/data-plane.json --handshakes $out/handshakes.md --markdown $out/benchmarks.md --svg $out/data-plane.svg
cat $out/benchmarks.md
echo "tables: $out/benchmarks.md, drawing: $out/data-plane.svg"
