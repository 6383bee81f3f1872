package provider

import (
	"net/http"
	"net/netip"
	"strings"
)

// clientAddress is the address a request comes from. Forwarded addresses count only as far as
// trusted proxies vouch for them: the last hop that none of them is.
func (p *Provider) clientAddress(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	address := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && p.trusted(address); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		address = next.Unmap().WithZone("")
	}
	return address
}

func (p *Provider) trusted(a netip.Addr) bool {
	for _, network := range p.config.TrustedProxies {
		if network.Contains(a) {
			return true
		}
	}
	return false
}
