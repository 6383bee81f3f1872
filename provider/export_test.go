package provider

import "net/netip"

// PublicAddress is publicAddress, for its test.
func PublicAddress(ip netip.Addr) bool { return publicAddress(ip) }
