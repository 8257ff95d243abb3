#!/usr/bin/env bash
# Builds build/wayleave_VERSION_ARCH.deb from the release programs, with dpkg-deb. Run by `make deb`.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^project(wayleave VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
arch=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -d "$root"/usr/bin "$root"/usr/sbin "$root"/etc/wayleave/grants.d "$root"/lib/systemd/system "$root"/usr/lib/sysusers.d \
  "$root"/usr/lib/tmpfiles.d "$root"/usr/share/doc/wayleave "$root"/usr/share/bash-completion/completions \
  "$root"/usr/share/zsh/vendor-completions "$root"/usr/share/fish/vendor_completions.d "$root"/usr/share/man/man{1,8} "$root"/DEBIAN
install -m 755 build/bin/wayleave "$root/usr/bin/"
install -m 755 build/bin/wayleave-{identityd,managementd,proxyd} "$root/usr/sbin/"
if [ -e build/release/lib/libwayleave-pkcs11.so ]; then
  install -d "$root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/pkcs11"
  install -m 644 build/release/lib/libwayleave-pkcs11.so "$root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/pkcs11/"
fi
strip --strip-unneeded "$root"/usr/bin/* "$root"/usr/sbin/*
install -m 644 packaging/grants.d/*.toml "$root/etc/wayleave/grants.d/"
install -m 644 packaging/systemd/*.service "$root/lib/systemd/system/"
install -m 644 packaging/sysusers.d/*.conf "$root/usr/lib/sysusers.d/"
install -m 644 packaging/tmpfiles.d/*.conf "$root/usr/lib/tmpfiles.d/"
install -m 644 README.md CHANGELOG.md docs/*.md "$root/usr/share/doc/wayleave/"
cat > "$root/usr/share/doc/wayleave/copyright" <<COPYRIGHT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Wayleave

Files: *
Copyright: the Wayleave authors
License: Apache-2.0
 On Debian systems the full text of the Apache License, Version 2.0, is in /usr/share/common-licenses/Apache-2.0.
COPYRIGHT
mv "$root/usr/share/doc/wayleave/CHANGELOG.md" "$root/usr/share/doc/wayleave/changelog"
gzip -9n "$root/usr/share/doc/wayleave/changelog"
cp -r examples "$root/usr/share/doc/wayleave/"
build/bin/wayleave completion bash > "$root/usr/share/bash-completion/completions/wayleave"
build/bin/wayleave completion zsh > "$root/usr/share/zsh/vendor-completions/_wayleave"
build/bin/wayleave completion fish > "$root/usr/share/fish/vendor_completions.d/wayleave.fish"
build/bin/wayleave __manual > "$root/usr/share/man/man1/wayleave.1"
install -m 644 packaging/man/*.8 "$root/usr/share/man/man8/"
gzip -9n "$root"/usr/share/man/man?/*
(cd "$root" && find etc -type f -printf '/%p\n') > "$root/DEBIAN/conffiles"

# The libraries that the programs really need, by package and version.
mkdir -p build/deb/debian && touch build/deb/debian/control
depends=$(cd build/deb && dpkg-shlibdeps -O "$root"/usr/bin/* "$root"/usr/sbin/* 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
cat > "$root/DEBIAN/control" <<CONTROL
Package: wayleave
Version: $version
Architecture: $arch
Maintainer: Wayleave maintainers <maintainers@wayleave.invalid>
Section: net
Priority: optional
Depends: $depends
Recommends: tpm2-tools
Description: device-identity proxy and broker
 Carries a managed device's flows to the organisation's gateway over mutual
 TLS and proves the device with the identity that device management delivered.
 Keys stay in a broker without a network, which verifies which program asks.
CONTROL
cat > "$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  getent group tss >/dev/null || groupadd --system tss
  systemd-sysusers wayleave.conf || true
  systemd-tmpfiles --create wayleave.conf || true
  if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
fi
POSTINST
cat > "$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl stop wayleave-proxyd wayleave-managementd wayleave-identityd || true; fi
PRERM
cat > "$root/DEBIAN/postrm" <<'POSTRM'
#!/bin/sh
set -e
# Purging removes every identity this machine holds.
if [ "$1" = purge ]; then rm -rf /var/lib/wayleave /etc/wayleave; fi
POSTRM
chmod 755 "$root"/DEBIAN/post* "$root"/DEBIAN/prerm
dpkg-deb --root-owner-group --build "$root" "build/wayleave_${version}_${arch}.deb"
