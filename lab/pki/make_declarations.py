#!/usr/bin/python3
"""Writes examples/declarations from examples/*.mobileconfig: the same proxies and identities as declarations. make.sh runs it."""

import base64
import json
import plistlib
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def write(folder: Path, name: str, identifier: str, type_: str, payload: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    declaration = {"Type": type_, "Identifier": identifier, "ServerToken": "1", "Payload": payload}
    (folder / f"{name}.json").write_text(json.dumps(declaration, indent=2) + "\n")


def carried(content: bytes, content_type: str) -> dict:
    return {"Reference": {"DataURL": f"data:{content_type};base64,{base64_of(content)}", "ContentType": content_type}}


def pem(der: bytes) -> bytes:
    text = base64_of(der)
    lines = "\n".join(text[i:i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n".encode()


def identity(kind: str, payloads: dict) -> tuple[str, dict]:
    if kind == "pkcs12":
        payload = payloads["com.apple.security.pkcs12"]
        return "com.apple.asset.credential.identity", {"Password": payload["Password"], "Identity": base64_of(payload["PayloadContent"])}
    payload = payloads["com.apple.security.acme"]
    return "com.apple.asset.credential.acme", {key: value for key, value in payload.items() if not key.startswith("Payload")}


def convert(kind: str) -> None:
    profile = plistlib.loads((EXAMPLES / f"{kind}.mobileconfig").read_bytes())
    payloads = {payload["PayloadType"]: payload for payload in profile["PayloadContent"]}
    base, folder = f"com.wayleave.example.{kind}", EXAMPLES / "declarations" / kind
    write(folder, "gateway-ca", f"{base}.gateway-ca", "com.apple.asset.credential.certificate",
          carried(pem(payloads["com.apple.security.root"]["PayloadContent"]), "application/pem"))
    type_, document = identity(kind, payloads)
    write(folder, "identity", f"{base}.identity", type_, carried(json.dumps(document).encode(), "application/json"))
    vpn = payloads["com.apple.vpn.managed"]
    vendor = {key: value for key, value in vpn["VendorConfig"].items() if key != "TrustAnchorPayloadUUIDs"}
    vendor["TrustAnchorAssetReferences"] = [f"{base}.gateway-ca"]
    write(folder, "proxy", f"{base}.proxy", "com.apple.configuration.network.vpn.vpn-plugin",
          {"VisibleName": vpn["UserDefinedName"], "HostName": vendor["GatewayURL"].removeprefix("https://"), "SubType": "com.wayleave.proxy",
           "VendorConfig": vendor, "Authentication": {"Method": "Certificate", "IdentityAssetReference": f"{base}.identity"},
           "Provider": {"Type": "app-proxy"}})
    write(folder, "activation", f"{base}.activation", "com.apple.activation.simple",
          {"StandardConfigurations": [f"{base}.proxy"], "Predicate": "@status(device.operating-system.family) == 'Linux'"})


for example in ("pkcs12", "acme"):
    convert(example)
print("wrote examples/declarations")
