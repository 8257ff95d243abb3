#!/usr/bin/env bash
# Makes the lab's fixed certificates and the PKCS#12 example profile. Run it by hand, rarely: the results are committed so
# that examples/pkcs12.mobileconfig is a file that works as it stands. Nothing here protects anything: the keys are public.
#
#   server-ca.crt            trust anchor that the profile delivers; signs the lab's servers
#   server.crt, server.key   gateway.lab and issuer.lab
#   device-ca.crt            what the lab's gateway trusts client certificates from
#   ../../examples/pkcs12.mobileconfig
# The keys of both CAs are thrown away.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
days=9000

authority() { # name, common name
  openssl ecparam -name secp384r1 -genkey -noout -out "$1.key"
  openssl req -x509 -new -key "$1.key" -sha384 -days $days -subj "/O=Wayleave Lab/CN=$2" -out "$1.crt" -utf8 \
    -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign
}
leaf() { # name, authority, curve, subject, extension lines
  openssl ecparam -name "$3" -genkey -noout -out "$1.key"
  openssl req -new -key "$1.key" -utf8 -subj "$4" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -sha384 -days $days -out "$1.crt" \
    -extfile <(printf '%s\n' "basicConstraints=critical,CA:false" "keyUsage=critical,digitalSignature" "$5") 2>/dev/null
}

authority server-ca "Wayleave Lab Server CA"
authority device-ca "Wayleave Lab Device CA"
leaf server server-ca prime256v1 "/O=Wayleave Lab/CN=gateway.lab" \
  $'extendedKeyUsage=serverAuth\nsubjectAltName=DNS:gateway.lab,DNS:issuer.lab'
leaf device device-ca secp384r1 "/O=Wayleave Lab/CN=lab-device-1" \
  $'extendedKeyUsage=clientAuth\nsubjectAltName=URI:urn:wayleave:lab-device-1'
openssl pkcs12 -export -inkey device.key -in device.crt -certfile device-ca.crt -name "Wayleave lab device" \
  -passout pass:wayleave-lab -out device.p12

cp server-ca.crt server.crt server.key device-ca.crt "$here/"
python3 - "$work" > "$here/../../examples/pkcs12.mobileconfig" <<'PY'
import base64, subprocess, sys, textwrap
work = sys.argv[1]
def data(raw): return "\n".join("\t\t\t" + line for line in textwrap.wrap(base64.b64encode(raw).decode(), 68))
root = subprocess.run(["openssl", "x509", "-in", f"{work}/server-ca.crt", "-outform", "DER"], check=True, capture_output=True).stdout
p12 = open(f"{work}/device.p12", "rb").read()
print(f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- What an administrator deploys when the identity is a PKCS#12 file. The lab's identity: public, protects nothing. -->
<plist version="1.0">
<dict>
	<key>PayloadType</key>
	<string>Configuration</string>
	<key>PayloadVersion</key>
	<integer>1</integer>
	<key>PayloadIdentifier</key>
	<string>com.wayleave.example.pkcs12</string>
	<key>PayloadUUID</key>
	<string>3F1C9F64-0C57-4D2E-9E0B-6A1D5B7C2E10</string>
	<key>PayloadDisplayName</key>
	<string>Wayleave example: PKCS#12 identity</string>
	<key>PayloadOrganization</key>
	<string>Wayleave Lab</string>
	<key>PayloadContent</key>
	<array>
		<dict>
			<key>PayloadType</key>
			<string>com.apple.security.root</string>
			<key>PayloadVersion</key>
			<integer>1</integer>
			<key>PayloadIdentifier</key>
			<string>com.wayleave.example.pkcs12.server-ca</string>
			<key>PayloadUUID</key>
			<string>8E0C2B0B-3C55-4B36-8D0A-2A5B8D0A7F11</string>
			<key>PayloadDisplayName</key>
			<string>Gateway trust anchor</string>
			<key>PayloadContent</key>
			<data>
{data(root)}
			</data>
		</dict>
		<dict>
			<key>PayloadType</key>
			<string>com.apple.security.pkcs12</string>
			<key>PayloadVersion</key>
			<integer>1</integer>
			<key>PayloadIdentifier</key>
			<string>com.wayleave.example.pkcs12.identity</string>
			<key>PayloadUUID</key>
			<string>B6A8E6B0-6B7D-4A53-9C7E-55B2F2B6C612</string>
			<key>PayloadDisplayName</key>
			<string>Device identity</string>
			<key>Password</key>
			<string>wayleave-lab</string>
			<key>PayloadContent</key>
			<data>
{data(p12)}
			</data>
		</dict>
		<dict>
			<key>PayloadType</key>
			<string>com.apple.vpn.managed</string>
			<key>PayloadVersion</key>
			<integer>1</integer>
			<key>PayloadIdentifier</key>
			<string>com.wayleave.example.pkcs12.proxy</string>
			<key>PayloadUUID</key>
			<string>5D0E8D1C-58E5-4F5E-8A58-0F3C1D9B7A13</string>
			<key>PayloadDisplayName</key>
			<string>Transparent proxy</string>
			<key>UserDefinedName</key>
			<string>Lab gateway</string>
			<key>VPNType</key>
			<string>TransparentProxy</string>
			<key>VPNSubType</key>
			<string>com.wayleave.proxy</string>
			<key>TransparentProxy</key>
			<dict>
				<key>AuthenticationMethod</key>
				<string>Certificate</string>
				<key>PayloadCertificateUUID</key>
				<string>B6A8E6B0-6B7D-4A53-9C7E-55B2F2B6C612</string>
				<key>ProviderType</key>
				<string>app-proxy</string>
			</dict>
			<key>VendorConfig</key>
			<dict>
				<key>GatewayURL</key>
				<string>https://gateway.lab:3129</string>
				<key>TrustAnchorPayloadUUIDs</key>
				<array>
					<string>8E0C2B0B-3C55-4B36-8D0A-2A5B8D0A7F11</string>
				</array>
				<key>IncludedNetworkRules</key>
				<array>
					<dict>
						<key>MatchProtocol</key>
						<string>tcp</string>
						<key>MatchRemoteNetwork</key>
						<string>10.88.0.0</string>
						<key>MatchRemotePrefix</key>
						<integer>16</integer>
					</dict>
					<dict>
						<key>MatchProtocol</key>
						<string>tcp</string>
						<key>MatchRemoteNetwork</key>
						<string>fd88::</string>
						<key>MatchRemotePrefix</key>
						<integer>16</integer>
					</dict>
				</array>
				<key>FailurePolicy</key>
				<string>block</string>
			</dict>
		</dict>
	</array>
</dict>
</plist>""")
PY
echo "wrote lab/pki and examples/pkcs12.mobileconfig"
"$here/make_declarations.py"
