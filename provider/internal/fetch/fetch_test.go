package fetch_test

import (
	"net/netip"
	"testing"

	"github.com/qrgrant/qrgrant/provider/internal/fetch"
)

func TestPublicAddress(t *testing.T) {
	t.Parallel()
	for address, public := range map[string]bool{
		"9.9.9.9": true, "2620:fe::fe": true,
		"127.0.0.1": false, "::1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "255.255.255.255": false, "224.0.0.1": false, "fe80::1": false, "fd00::1": false, "ff02::1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false,
	} {
		if got := fetch.Public(netip.MustParseAddr(address)); got != public {
			t.Errorf("%s: %v", address, got)
		}
	}
}
