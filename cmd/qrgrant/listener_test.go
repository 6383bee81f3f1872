package main_test

import (
	"net"
	"strings"
	"testing"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
)

// 0.0.0.0 must not open IPv6 behind the operator's back; no host at all opens both.
func TestListenerFamilies(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]struct{ four, six bool }{
		"0.0.0.0:0":   {true, false},
		"127.0.0.1:0": {true, false},
		"[::1]:0":     {false, true},
		"[::]:0":      {true, true},
		":0":          {true, true},
	} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			if probe, err := net.Listen("tcp6", "[::1]:0"); err != nil {
				t.Skip("this machine has no IPv6")
			} else if err := probe.Close(); err != nil {
				t.Fatal(err)
			}
			listener, err := qrgrant.Listen(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			_, port, _ := net.SplitHostPort(listener.Addr().String())
			if got := answers(t, "127.0.0.1", port); got != want.four {
				t.Errorf("IPv4 answers: %t", got)
			}
			if got := answers(t, "::1", port); got != want.six {
				t.Errorf("IPv6 answers: %t", got)
			}
		})
	}
}

func answers(t *testing.T, host, port string) bool {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		if !strings.Contains(err.Error(), "refused") {
			t.Error(err)
		}
		return false
	}
	return conn.Close() == nil
}
