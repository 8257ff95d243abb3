#!/usr/bin/env bash
# Side by side with real peers; the tables and the drawing go to build/bench.
#   scripts/bench.sh             everything, build included in under 15 minutes on two cores
#   scripts/bench.sh --quick     that it runs: one short round, nothing is asserted about speed
#   scripts/bench.sh --publish   writes what build/bench holds into docs/benchmarks.md and docs/benchmarks/
# BENCH_ROUNDS, BENCH_SECONDS and BENCH_SOAK_FLOWS make it longer. What is published was measured with 3, 1.2 and 1000000.
# BENCH_PEERS=1 also builds the peers that Debian lacks (ghostunnel, Google's ECP), once, outside the source tree; it takes Go 1.25.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-}
out=build/bench
bin=build/release/bin
publish() {
  /usr/bin/python3 bench/report.py $out/data-plane.json --handshakes $out/handshakes.md --broker $out/broker.json --publish docs/benchmarks.md \
    --svg docs/benchmarks/data-plane.svg
}
case $mode in
  "" | --quick) ;;
  --publish) publish; exit ;;
  *) echo "usage: scripts/bench.sh [--quick|--publish]" >&2; exit 2 ;;
esac

scripts/dependencies.sh build lab bench
scripts/build.sh release wayleave wayleave-identityd wayleave-managementd wayleave-proxyd wayleave-bench-load \
  wayleave-bench-gateway wayleave-bench-handshakes wayleave-bench-broker wayleave_pkcs11_module
mkdir -p $out
if [ "$mode" = --quick ]; then
  rm -f $out/quick.json
  # The limit is a guard against a run that hangs. Nothing here depends on how long anything takes.
  timeout 600 /usr/bin/python3 bench/run.py $bin --rounds 1 --seconds 0.5 --columns "down 1,up 1,new flows,exchange 1" \
    --candidates "haproxy,haproxy h2,wayleave h1,wayleave h2" --complete --store $out/quick.json
  /usr/bin/python3 bench/report.py $out/quick.json
  exit
fi
rm -f $out/data-plane.json $out/broker.json
seconds=${BENCH_SECONDS:-0.5}
measure() { /usr/bin/python3 bench/run.py $bin --rounds "${BENCH_ROUNDS:-2}" --seconds "$seconds" "$@"; }
measure
measure --transparent
measure --gateway haproxy --rounds 1 --columns "down 1,up 1,new flows,exchange 1,exchange 32"
measure --soak --soak-flows "${BENCH_SOAK_FLOWS:-200000}"
/usr/bin/python3 bench/slow_key.py $bin --seconds 3
/usr/bin/python3 bench/handshakes.py $bin/wayleave-bench-handshakes --seconds "$seconds" > $out/handshakes.md
/usr/bin/python3 bench/broker.py $bin/wayleave-bench-broker $bin/wayleave-identityd --seconds "$seconds" --json $out/broker.json > $out/broker.md
/usr/bin/python3 bench/report.py $out/data-plane.json --handshakes $out/handshakes.md --markdown $out/benchmarks.md --svg $out/data-plane.svg
cat $out/benchmarks.md $out/broker.md
echo "took $SECONDS s; tables: $out/benchmarks.md and $out/broker.md, drawing: $out/data-plane.svg"
