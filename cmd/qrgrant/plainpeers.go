package main

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
)

// plainPeers lets plain HTTP come from this machine and from the TLS proxies only. Whoever finds
// a way round the proxy would send passwords and tokens through the network in the clear, and
// never notice.
type plainPeers struct {
	next    http.Handler
	trusted []netip.Prefix
	logger  *slog.Logger
	// said keeps a scanner from filling the log.
	said sync.Once
}

// ServeHTTP implements http.Handler.
func (p *plainPeers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.lets(r.RemoteAddr) {
		p.next.ServeHTTP(w, r)
		return
	}
	p.said.Do(func() {
		p.logger.Warn("a peer came with plain HTTP that is no trusted proxy and was refused; this is said once", "peer", r.RemoteAddr)
	})
	http.Error(w, "This server speaks plain HTTP to its TLS proxy only. Use its https address.", http.StatusForbidden)
}

func (p *plainPeers) lets(remote string) bool {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	ip := peer.Addr().Unmap().WithZone("")
	return ip.IsLoopback() || slices.ContainsFunc(p.trusted, func(network netip.Prefix) bool { return network.Contains(ip) })
}
