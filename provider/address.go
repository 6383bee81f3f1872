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
	forwarded := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	if forwarded == "" {
		return address
	}
	hops := strings.Split(forwarded, ",")
	for i := len(hops) - 1; i >= 0 && p.trusted(address); i-- {
		next, ok := readHop(strings.TrimSpace(hops[i]))
		if !ok {
			// Everybody behind this proxy now shares its limits.
			if p.unreadableHop.CompareAndSwap(false, true) {
				p.config.Logger.WarnContext(r.Context(), "a trusted proxy sends an X-Forwarded-For that cannot be read", "proxy", address)
			}
			break
		}
		address = next
	}
	return address
}

// readHop reads an address as proxies write it: bare, in brackets, or with a port.
func readHop(text string) (netip.Addr, bool) {
	hop, err := netip.ParseAddr(text)
	if err != nil {
		var withPort netip.AddrPort
		if withPort, err = netip.ParseAddrPort(text); err == nil {
			hop = withPort.Addr()
		}
	}
	if inner, ok := strings.CutPrefix(text, "["); ok && err != nil {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			hop, err = netip.ParseAddr(inner)
		}
	}
	return hop.Unmap().WithZone(""), err == nil
}

func (p *Provider) trusted(a netip.Addr) bool {
	for _, network := range p.config.TrustedProxies {
		if network.Contains(a) {
			return true
		}
	}
	return false
}
