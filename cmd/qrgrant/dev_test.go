package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/dpop"
)

// A phone is where the private networks are; containers and tunnels are not.
func TestChooseAddresses(t *testing.T) {
	t.Parallel()
	const up, broadcast = net.FlagUp, net.FlagBroadcast
	got := qrgrant.ChooseAddresses(
		qrgrant.Interface{Name: "lo", Flags: up | net.FlagLoopback, Addresses: []string{"127.0.0.1/8", "10.0.0.1/8"}},
		qrgrant.Interface{Name: "docker0", Flags: up | broadcast, Addresses: []string{"172.17.0.1/16"}},
		qrgrant.Interface{Name: "tun0", Flags: up | net.FlagPointToPoint, Addresses: []string{"10.8.0.2/24"}},
		qrgrant.Interface{Name: "eth1", Flags: broadcast, Addresses: []string{"192.168.9.9/24"}},
		qrgrant.Interface{Name: "eth0", Flags: up | broadcast, Addresses: []string{"fe80::1/64", "fd00::2/64", "198.51.100.7/24", "192.168.1.20/24"}},
		qrgrant.Interface{Name: "wlan0", Flags: up | broadcast, Addresses: []string{"2001:db8::1/64", "10.1.2.3/8"}},
	)
	want := []netip.Addr{netip.MustParseAddr("192.168.1.20"), netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::2")}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if none := qrgrant.ChooseAddresses(qrgrant.Interface{Name: "eth0", Flags: up, Addresses: []string{"198.51.100.7/24"}}); len(none) != 0 {
		t.Errorf("%v", none)
	}
}

// dev is a running `qrgrant dev` and what it has said.
type dev struct {
	*process
	page, key, issuer, web, phone, password string
}

func startDev(t *testing.T, args ...string) *dev {
	t.Helper()
	d := &dev{process: launch(t, t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}, append([]string{"dev", "--addr", "127.0.0.1:0"}, args...)...)}
	for field, pattern := range map[*string]string{
		&d.page: `Open (\S+)/#`, &d.key: `Open \S+/#(\S+)`, &d.issuer: `serves (\S+) until`, &d.web: `web app +(\S+),`, &d.phone: `phone app +(\S+),`,
		&d.password: `alice, password (\S+)`,
	} {
		found, err := d.await(pattern)
		if err != nil {
			t.Fatal(err)
		}
		*field = found
	}
	return d
}

// eavesdropper keeps the secrets in the requests and answers of two devices.
type eavesdropper struct {
	mu     sync.Mutex
	values map[string][]string
}

// secrets are the members that must not be told. What a header proves is taken from it.
func secrets() []string {
	return []string{
		"password", "access_token", "refresh_token", "id_token", "device_code", "code_verifier", "code_challenge", "confirm_handle",
		"context_digest", "code", "state", "nonce", "client_secret",
	}
}

// RoundTrip implements http.RoundTripper.
func (v *eavesdropper) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		v.note(req.Header.Get("Content-Type"), body)
	}
	v.note("application/x-www-form-urlencoded", []byte(req.URL.RawQuery))
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	v.note(res.Header.Get("Content-Type"), body)
	if to, err := res.Location(); err == nil {
		v.note("application/x-www-form-urlencoded", []byte(to.RawQuery))
	}
	for _, cookie := range res.Cookies() {
		v.add("cookie", cookie.Value)
	}
	return res, nil
}

func (v *eavesdropper) note(kind string, body []byte) {
	form, _ := url.ParseQuery(string(body))
	var document map[string]any
	_ = json.Unmarshal(body, &document)
	for _, name := range secrets() {
		if strings.HasPrefix(kind, "application/x-www-form-urlencoded") {
			v.add(name, form.Get(name))
		} else if text, ok := document[name].(string); ok {
			// The outcome of a decision is no secret; the state of a request has the same name.
			if name != "state" {
				v.add(name, text)
			}
		}
	}
}

func (v *eavesdropper) add(name, value string) {
	if value == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[name] = append(v.values[name], value)
}

// TestDevTellsNoSecret plays a whole sign-in against dev, with the secrets of both devices kept,
// and looks for each in everything that the page is told.
func TestDevTellsNoSecret(t *testing.T) {
	t.Parallel()
	d := startDev(t)
	ear := &eavesdropper{values: map[string][]string{}}
	client := &http.Client{Transport: ear, Timeout: 40 * time.Second}
	pc := &player.ConsumptionDevice{Issuer: d.issuer, ClientID: "cli", Grant: player.GrantQR, Scopes: []string{"openid", "profile"}, Image: "svg", HTTP: client}
	attempt, err := pc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	phone := &player.Approver{Issuer: d.issuer, ClientID: "phone", RedirectURI: "http://127.0.0.1/callback", Login: "alice", Password: d.password, HTTP: client}
	codes, ended := make(chan string, 8), make(chan error, 1)
	go func() {
		_, err := attempt.Await(t.Context(), func(u player.Update) {
			if u.CheckCode != "" {
				codes <- u.CheckCode
			}
		})
		ended <- err
	}()
	if err := phone.SignIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	ref, err := player.ReadReference(d.issuer, attempt.Payload)
	if err != nil {
		t.Fatal(err)
	}
	claim, err := phone.Scan(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := phone.Decide(t.Context(), claim, player.Verdict{Decision: "approve", CheckCode: <-codes}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	// The exchanges of the two devices are told in the order in which they end.
	told := d.exchanges(t, func(text string) bool {
		for _, want := range []string{`"steps":[1,2,3,4]`, `"steps":[5,9,10]`, `"steps":[6,7,8]`, `"steps":[11,12]`, `"steps":[13]`} {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return true
	})
	for _, name := range []string{"password", "access_token", "id_token", "device_code", "code_verifier", "confirm_handle", "code", "cookie", "state"} {
		if len(ear.values[name]) == 0 {
			t.Errorf("no %s was heard: the test looks for nothing", name)
		}
	}
	output, _ := d.out.look()
	for name, values := range ear.values {
		for _, value := range values {
			if strings.Contains(told, value) || strings.Contains(told, url.QueryEscape(value)) {
				t.Errorf("%s is told: %s", name, value)
			}
			if name != "password" && strings.Contains(output, value) {
				t.Errorf("%s is printed", name)
			}
		}
	}
}

// The phone application of dev gets no token without a key; each of its tokens is bound to one.
func TestDevPhoneHoldsAKey(t *testing.T) {
	t.Parallel()
	d := startDev(t)
	phone := &player.Approver{Issuer: d.issuer, ClientID: "mobile", RedirectURI: d.phone + "/", Login: "alice", Password: d.password, HTTP: &http.Client{}}
	if err := phone.SignIn(t.Context()); !player.RefusedWith(err, dpop.CodeInvalidProof) {
		t.Errorf("without a key: %v", err)
	}
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	phone.Key = key
	if err := phone.SignIn(t.Context()); err != nil || phone.TokenType() != dpop.Scheme {
		t.Errorf("with a key: %q, %v", phone.TokenType(), err)
	}
}

// exchanges reads what the page is told until it is enough.
func (d *dev) exchanges(t *testing.T, enough func(text string) bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.page+"/exchanges?since=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var told strings.Builder
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		told.WriteString(lines.Text() + "\n")
		if enough(told.String()) {
			return told.String()
		}
	}
	t.Fatalf("%v after:\n%s", lines.Err(), told.String())
	return ""
}

// TestDevLANCertificate compares the certificate that is served with the fingerprint that is
// printed, for every address of the run.
func TestDevLANCertificate(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--lan=127.0.0.1")
	printed, err := d.await(`SHA-256 +((?:[0-9A-F]{2}:){15}[0-9A-F]{2}\n +(?:[0-9A-F]{2}:){15}[0-9A-F]{2})\n`)
	if err != nil {
		t.Fatal(err)
	}
	printed = regexp.MustCompile(`\n +`).ReplaceAllString(printed, ":")
	for _, address := range []string{d.issuer, d.web, d.phone, d.page} {
		host := strings.TrimPrefix(address, "https://")
		conn, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		leaf := conn.ConnectionState().PeerCertificates[0]
		_ = conn.Close()
		if got := strings.ReplaceAll(strings.ToUpper(fmt.Sprintf("% x", sha256.Sum256(leaf.Raw))), " ", ":"); got != printed {
			t.Errorf("%s has %s, printed is %s", address, got, printed)
		}
		for _, name := range []string{"127.0.0.1", "localhost"} {
			if err := leaf.VerifyHostname(name); err != nil {
				t.Errorf("%s: %v", address, err)
			}
		}
		if leaf.IsCA || time.Until(leaf.NotAfter) > 8*24*time.Hour {
			t.Errorf("%s: CA %v, until %s", address, leaf.IsCA, leaf.NotAfter)
		}
		// Nobody speaks plain HTTP there.
		if res, err := http.Get("http://" + host + "/"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode != http.StatusBadRequest {
				t.Errorf("%s answers %s over plain HTTP", host, res.Status)
			}
		}
	}
}
