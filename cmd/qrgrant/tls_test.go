package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"html"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// writeCertificate writes a certificate for 127.0.0.1 with the serial number, and its key.
func writeCertificate(t *testing.T, dir string, serial int64) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	return pool
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serial is the serial number of the certificate that the server shows.
func serial(t *testing.T, address string) int64 {
	t.Helper()
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	connection, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	return connection.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// A server with a certificate speaks TLS and takes over a renewed one; requests that are held
// meanwhile are not dropped.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pool := writeCertificate(t, dir, 1)
	write(t, filepath.Join(dir, "x.yaml"), nil)
	p := launch(t, dir, nil, "serve", "--addr", "127.0.0.1:0", "--db", "x.db", "--config", "x.yaml", "--tls-cert", "tls.crt", "--tls-key", "tls.key")
	issuer, err := p.await(`serves (https://\S+) on`)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	if _, err := oidc.NewProvider(oidc.ClientContext(t.Context(), client), issuer); err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(issuer, "https://")
	if n := serial(t, address); n != 1 {
		t.Errorf("certificate %d", n)
	}
	writeCertificate(t, dir, 2)
	if _, err := p.await(`the certificate was taken over`); err != nil {
		t.Fatal(err)
	}
	if n := serial(t, address); n != 2 {
		t.Errorf("certificate %d", n)
	}
	// The connection from before goes on.
	resp, err := client.Get(issuer + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	write(t, filepath.Join(dir, "tls.crt"), []byte("nonsense"))
	if _, err := p.await(`the certificate was not taken over`); err != nil {
		t.Fatal(err)
	}
	if n := serial(t, address); n != 2 {
		t.Errorf("certificate %d", n)
	}
}

// The admin socket belongs to the user who runs the server.
func TestAdminSocketMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x.yaml"), nil)
	p := launch(t, dir, nil, "serve", "--addr", "127.0.0.1:0", "--db", "x.db", "--config", "x.yaml", "--admin-socket", "a.sock")
	if _, err := p.await(`serves (\S+) on`); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "a.sock"))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A server behind a TLS proxy, under a path of its host, describes itself as the proxy's
// visitors see it, whatever Host and forwarded headers say.
func TestBehindProxyUnderPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x.yaml"), []byte("users:\n  - login: alice\n    password_env: ALICE_PASSWORD\n"))
	var backend *url.URL
	proxy := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend)
		r.SetXForwarded()
		r.Out.Header.Set("X-Forwarded-Host", "elsewhere.example")
	}})
	t.Cleanup(proxy.Close)
	issuer := proxy.URL + "/id/login"
	p := launch(t, dir, []string{"ALICE_PASSWORD=a house by the sea"}, "serve", "--addr", "127.0.0.1:0", "--db", "x.db", "--config", "x.yaml", "--issuer", issuer, "--trusted-proxy", "127.0.0.0/8")
	address, err := p.await(`serves \S+ on (\S+)`)
	if err != nil {
		t.Fatal(err)
	}
	backend = &url.URL{Scheme: "http", Host: address}
	provider, err := oidc.NewProvider(oidc.ClientContext(t.Context(), proxy.Client()), issuer)
	if err != nil {
		t.Fatal(err)
	}
	var found map[string]any
	if err := provider.Claims(&found); err != nil {
		t.Fatal(err)
	}
	for name, value := range found {
		if at, ok := value.(string); ok && strings.HasSuffix(name, "_endpoint") && !strings.HasPrefix(at, issuer+"/") {
			t.Errorf("%s is %s", name, at)
		}
	}
	resp, err := proxy.Client().Get(found["jwks_uri"].(string))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	resp, err = proxy.Client().Get(issuer + "/device")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	for _, c := range resp.Cookies() {
		if !c.Secure || !strings.HasPrefix(c.Name, "__Host-") {
			t.Errorf("cookie %v", c)
		}
	}
	signInBehindProxy(t, proxy, issuer)
}

// signInBehindProxy signs in with the form of the page, which the browser sends with the origin
// that it sees; the server sees another host, and takes the form from no other origin.
func signInBehindProxy(t *testing.T, proxy *httptest.Server, issuer string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := *proxy.Client()
	browser.Jar = jar
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	answer := func(method, address, origin, body string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if method == http.MethodPost {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", origin)
		}
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		page, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(page)
	}
	_, page := answer(http.MethodGet, issuer+"/device", "", "")
	form := url.Values{"login": {"alice"}, "password": {"a house by the sea"}}
	for _, name := range []string{"csrf", "next"} {
		found := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(page)
		if found == nil {
			t.Fatalf("no %s on the page: %s", name, page)
		}
		form.Set(name, html.UnescapeString(found[1]))
	}
	if !strings.Contains(page, `action="/id/login/login"`) || !strings.HasPrefix(form.Get("next"), "/id/login/device") {
		t.Errorf("the form leads elsewhere, next %q: %s", form.Get("next"), page)
	}
	backend := strings.Replace(proxy.URL, "https://", "http://", 1)
	for _, origin := range []string{"https://elsewhere.example", backend, "null"} {
		if resp, body := answer(http.MethodPost, issuer+"/login", origin, form.Encode()); resp.StatusCode != http.StatusForbidden {
			t.Errorf("from %s: %d %s", origin, resp.StatusCode, body)
		}
	}
	resp, body := answer(http.MethodPost, issuer+"/login", proxy.URL, form.Encode())
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != form.Get("next") {
		t.Fatalf("the sign-in: %d %q %s", resp.StatusCode, resp.Header.Get("Location"), body)
	}
	if resp, page := answer(http.MethodGet, proxy.URL+form.Get("next"), "", ""); resp.StatusCode != http.StatusOK || strings.Contains(page, `name="password"`) || !strings.Contains(page, `action="/id/login/logout"`) {
		t.Errorf("nobody is signed in: %d %s", resp.StatusCode, page)
	}
}
