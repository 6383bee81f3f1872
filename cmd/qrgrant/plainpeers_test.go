package main_test

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
)

// Plain HTTP is for this machine and for the trusted proxies; whoever else comes is told so, and
// the log once.
func TestPlainHTTPIsForTheProxy(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	served := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	handler := qrgrant.PlainPeers(served, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, slog.New(slog.NewTextHandler(&log, nil)))
	for peer, want := range map[string]int{
		"127.0.0.1:1": http.StatusNoContent, "127.9.9.9:1": http.StatusNoContent, "[::1]:1": http.StatusNoContent,
		"[::ffff:127.0.0.1]:1": http.StatusNoContent, "10.1.2.3:1": http.StatusNoContent, "[::ffff:10.1.2.3]:1": http.StatusNoContent,
		"10.2.0.1:1": http.StatusForbidden, "192.0.2.7:1": http.StatusForbidden, "[2001:db8::1]:1": http.StatusForbidden,
		"[fe80::1%eth0]:1": http.StatusForbidden, "nonsense": http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodGet, "/token", nil)
		// What a peer says of itself counts for nothing.
		r.RemoteAddr, r.Header = peer, http.Header{"X-Forwarded-For": {"127.0.0.1"}}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d", peer, w.Code)
		}
		if want == http.StatusForbidden && w.Body.String() != "This server speaks plain HTTP to its TLS proxy only. Use its https address.\n" {
			t.Errorf("%s: %q", peer, w.Body)
		}
	}
	if n := strings.Count(log.String(), "was refused"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &log)
	}
}

// A server behind a proxy refuses whoever comes to it directly.
func TestServeRefusesPlainPeers(t *testing.T) {
	t.Parallel()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	own := ""
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.To4() != nil && !network.IP.IsLoopback() {
			own = network.IP.String()
		}
	}
	if own == "" {
		t.Skip("this machine has no address but loopback")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x.yaml"), nil)
	for trusted, want := range map[string]int{"127.0.0.2/32": http.StatusForbidden, own + "/32": http.StatusOK} {
		p := launch(t, dir, nil, "serve", "--addr", "0.0.0.0:0", "--issuer", "https://id.example", "--db", "x.db", "--config", "x.yaml", "--trusted-proxy", trusted)
		address, err := p.await(`serves \S+ on \S+:(\d+)`)
		if err != nil {
			t.Fatal(err)
		}
		for host, want := range map[string]int{own: want, "127.0.0.1": http.StatusOK} {
			resp, err := http.Get("http://" + net.JoinHostPort(host, address) + "/healthz")
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != want {
				t.Errorf("%s, trusted %s: %d", host, trusted, resp.StatusCode)
			}
			_ = resp.Body.Close()
		}
		if err := p.signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _, err := p.exit(); err != nil {
			t.Fatal(err)
		}
	}
}
