"""The lab's issuer: an ACME server with device-attest-01 and an attestation CA. It exists for the lab and the tests, keeps
everything in memory, and is no product CA."""
