module wayleave/bench/ecp

go 1.25.0

require github.com/googleapis/enterprise-certificate-proxy v0.3.25
