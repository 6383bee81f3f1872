package provider_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// pipeListener is a listener in memory. Inside a synctest bubble a goroutine that waits on a
// socket keeps the fake clock from moving; one that waits on a pipe does not.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept returns the server's end of the next connection.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; connections stay.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the address that the issuer names.
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// dial is a DialContext: every address leads to this listener.
func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- loopbackConn{server}:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// loopbackConn is a pipe whose other end has the address of a real peer: limits count by it.
type loopbackConn struct{ net.Conn }

func (loopbackConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}
}

// slowNetwork is a transport whose requests and answers each take half of roundTrip.
type slowNetwork struct {
	http.RoundTripper
	roundTrip time.Duration
}

func (n slowNetwork) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(n.roundTrip / 2)
	resp, err := n.RoundTripper.RoundTrip(req)
	time.Sleep(n.roundTrip - n.roundTrip/2)
	return resp, err
}

// lossyNetwork is a transport that loses the next answer lose is true for and keeps its body.
type lossyNetwork struct {
	http.RoundTripper
	lose func(req *http.Request, resp *http.Response) bool
	lost []byte
}

func (n *lossyNetwork) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.RoundTripper.RoundTrip(req)
	if err != nil || n.lost != nil || !n.lose(req, resp) {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	if n.lost, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	return nil, errors.New("the connection was reset")
}
