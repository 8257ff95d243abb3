//go:build tools

// Pins ghostunnel, a peer of the benchmark, and what it is made of: go.sum holds every hash. Nothing of it is in any program of ours.
package peer

import _ "github.com/ghostunnel/ghostunnel"
