#!/usr/bin/env bash
# Programs that know nothing of Wayleave, through the PKCS#11 module. The scenarios are tests/integration/scenarios_pkcs11.py;
# here they run against the release build, and each line names the program's version.
set -uo pipefail
cd "$(dirname "$0")/../.."
programs="wayleave wayleave-identityd wayleave-managementd wayleave-proxyd"
if [ -z "${WAYLEAVE_BIN:-}" ]; then
  # shellcheck disable=SC2086
  scripts/build.sh release $programs wayleave_pkcs11_module || { echo "FAILED pkcs11: the programs do not build"; exit 1; }
fi

package_version() { dpkg-query -W -f='${Version}' "$1" 2>/dev/null || echo "?"; }
peer_of() {  # the first word of a scenario -> "PEER VERSION"
  case $1 in
    curl) echo "curl $(package_version curl), engine pkcs11 $(package_version libengine-pkcs11-openssl)" ;;
    openssl) echo "openssl $(package_version openssl), engine pkcs11 $(package_version libengine-pkcs11-openssl)" ;;
    gnutls) echo "gnutls-cli $(package_version gnutls-bin)" ;;
    p11tool) echo "p11tool $(package_version gnutls-bin)" ;;
    pkcs11) echo "pkcs11-tool $(package_version opensc)" ;;
    ssh) echo "ssh $(package_version openssh-client)" ;;
    nss) echo "nss $(package_version libnss3-tools)" ;;
    *) echo "$1 ?" ;;
  esac
}

/usr/bin/python3 tests/integration/run.py scenarios_pkcs11 2>&1 | {
  seen=0
  while IFS= read -r line; do
    if [[ $line =~ ^(ok|FAILED|skipped)\ +pkcs11:\ (([a-z0-9]+).*)\ \([0-9.]+\ s\)(.*)$ ]]; then
      verdict=${BASH_REMATCH[1]} scenario=${BASH_REMATCH[2]} peer=$(peer_of "${BASH_REMATCH[3]}") detail=${BASH_REMATCH[4]#: }
      seen=$((seen + 1))
      case $verdict in
        ok) echo "ok $peer: $scenario" ;;
        FAILED) echo "FAILED $peer: $scenario: $detail" ;;
        skipped) echo "SKIP $peer: $detail" ;;
      esac
    else
      echo "  $line"  # indented, so that only our own lines count
    fi
  done
  [ "$seen" -gt 0 ] || { echo "FAILED pkcs11: no scenario ran"; exit 1; }
}
