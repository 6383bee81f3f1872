package fetch

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// peers counts the connections to each peer.
type peers struct {
	mu    sync.Mutex
	count map[netip.Prefix]int
}

// dial returns a DialContext that ends in ErrBusy where a peer has enough connections.
func (p *peers) dial(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		peer, ok := peerOf(conn.RemoteAddr())
		if !ok || !p.enter(peer) {
			_ = conn.Close()
			return nil, ErrBusy
		}
		return &connection{Conn: conn, leave: sync.OnceFunc(func() { p.leave(peer) })}, nil
	}
}

// peerOf is who is behind an address: in IPv6 everybody has a /64 at least.
func peerOf(address net.Addr) (netip.Prefix, bool) {
	peer, err := netip.ParseAddrPort(address.String())
	if err != nil {
		return netip.Prefix{}, false
	}
	ip := peer.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, err := ip.Prefix(bits)
	return prefix, err == nil
}

func (p *peers) enter(peer netip.Prefix) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count[peer] >= atPeer {
		return false
	}
	if p.count == nil {
		p.count = make(map[netip.Prefix]int)
	}
	p.count[peer]++
	return true
}

func (p *peers) leave(peer netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count[peer]--; p.count[peer] == 0 {
		delete(p.count, peer)
	}
}

// connection tells when it is closed.
type connection struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *connection) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
