package provider_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// volatile is the form of every value that differs from run to run; the golden files hold its
// name in angle brackets in its place.
func volatile(issuer string) map[string]*regexp.Regexp {
	host := regexp.QuoteMeta(issuer)
	return map[string]*regexp.Regexp{
		"device_code":               regexp.MustCompile(`^[A-Za-z0-9_-]{64}$`),
		"confirm_handle":            regexp.MustCompile(`^[A-Za-z0-9_-]{64}$`),
		"user_code":                 regexp.MustCompile(`^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`),
		"verification_uri_complete": regexp.MustCompile(`^` + host + `/device\?user_code=[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`),
		"payload":                   regexp.MustCompile(`^` + host + `/Q#1[A-Z2-7]{44}$`),
		"image":                     regexp.MustCompile(`^data:image/(svg\+xml|png);base64,[A-Za-z0-9+/]+=*$`),
		"context_digest":            regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`),
		"check_code":                regexp.MustCompile(`^[1-9][0-9]$`),
		"sid":                       regexp.MustCompile(`^[0-9a-f]{32}$`),
		"access_token":              regexp.MustCompile(`^[A-Za-z0-9_.-]{32,}$`),
		"refresh_token":             regexp.MustCompile(`^[A-Za-z0-9_.-]{32,}$`),
		"id_token":                  regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`),
	}
}

// steady replaces what differs from run to run, where it has the right form.
func steady(v any, name, issuer string) any {
	switch v := v.(type) {
	case map[string]any:
		for member, value := range v {
			v[member] = steady(value, member, issuer)
		}
	case []any:
		for i, value := range v {
			v[i] = steady(value, name, issuer)
		}
	case string:
		if form := volatile(issuer)[name]; form != nil && form.MatchString(v) {
			return "<" + name + ">"
		}
		return strings.ReplaceAll(v, issuer, "<issuer>")
	}
	return v
}

// wantGolden compares an answer with its file in testdata/wire, status and media type first.
func wantGolden(t *testing.T, file string, reply *providertest.Reply) {
	t.Helper()
	issuer := "https://no.issuer"
	if i := strings.Index(reply.Body, `"https://127.0.0.1:`); i >= 0 {
		issuer = regexp.MustCompile(`https://127\.0\.0\.1:[0-9]+`).FindString(reply.Body[i:])
	}
	var encoded strings.Builder
	e := json.NewEncoder(&encoded)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(map[string]any{
		"status": reply.Status, "content_type": reply.Header.Get("Content-Type"), "cache_control": reply.Header.Get("Cache-Control"),
		"body": steady(reply.JSON(), "", issuer),
	})
	if err != nil {
		t.Fatal(err)
	}
	got := encoded.String()
	want, err := os.ReadFile(filepath.Join("testdata", "wire", file+".json"))
	if err != nil {
		t.Errorf("%v; the answer is\n%s", err, got)
		return
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", file, diff)
	}
}

// TestWireOfTheQRGrant is every answer of one login of the QR grant, as it goes over the wire.
func TestWireOfTheQRGrant(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", url.Values{
		"scope": {"openid profile email offline_access"}, "qr_image": {"svg"}, "nonce": {"n-0S6_WzA2Mj"},
		"device_name": {"Build server"}, "binding_message": {"Deploy 42"},
	})
	p := newPhone(t, s)
	wantGolden(t, "qr_opened", c.opened)
	s.Clock.Advance(3 * time.Second)
	pending := c.poll(t.Context())
	wantGolden(t, "qr_pending", pending)
	if payload(pending) != payload(c.opened) {
		t.Error("the frame changed before its time")
	}
	scan := p.scan(payload(c.opened), "scanner")
	wantGolden(t, "qr_scan", scan)
	s.Clock.Advance(5 * time.Second)
	scanned := c.poll(t.Context())
	wantGolden(t, "qr_scanned", scanned)
	s.Clock.Advance(3 * time.Second)
	wantGolden(t, "qr_slow_down", c.poll(t.Context()))
	wantGolden(t, "qr_mismatch", p.decide(scan, "approve", wrongCode(scanned.Text("check_code"))))
	wantGolden(t, "qr_approved", p.decide(scan, "approve", scanned.Text("check_code")))
	wantGolden(t, "qr_tokens", c.poll(t.Context()))
	wantGolden(t, "qr_used", c.poll(t.Context()))
	wantGolden(t, "qr_already_redeemed", c.cancel(t.Context()))
}

// TestWireOfTheDeviceGrant is the same for a client of RFC 8628, with what else can come.
func TestWireOfTheDeviceGrant(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c, p := openQR(t, s, "tv", nil), newPhone(t, s)
	wantGolden(t, "device_opened", c.opened)
	wantGolden(t, "device_pending", c.poll(t.Context()))
	scan := p.scanCode(c.userCode())
	wantGolden(t, "device_scan", scan)
	wantGolden(t, "device_denied", p.decide(scan, "deny", ""))
	wantGolden(t, "device_access_denied", c.poll(t.Context()))
	wantGolden(t, "device_cancelled", c.cancel(t.Context()))
	wantGolden(t, "problem_unknown_code", p.scanCode(c.userCode()))
	_, tokens := signInReply(t, s, "tv")
	wantGolden(t, "device_tokens", tokens)
	wantGolden(t, "error_invalid_client", s.Post(t.Context(), s.Client(), "/device_authorization", url.Values{}))
	p.token = "x"
	wantGolden(t, "problem_invalid_token", p.scanCode(c.userCode()))
}

// signInReply is signIn with the answer as it came.
func signInReply(t *testing.T, s *providertest.Server, clientID string) (*consumption, *providertest.Reply) {
	t.Helper()
	c := openQR(t, s, clientID, nil)
	c.approve(newPhone(t, s))
	reply := c.poll(t.Context())
	mustAnswer(t, reply, http.StatusOK)
	return c, reply
}

// TestStepUpAnswer: max_age asks for a fresh sign-in before the claim, and a fresh one is taken.
func TestStepUpAnswer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newPhone(t, s)
	s.Clock.Advance(5 * time.Minute)
	c := openQR(t, s, "cli", url.Values{"max_age": {"60"}})
	before := c.record()
	reply := p.scan(payload(c.opened), "scanner")
	wantGolden(t, "problem_step_up", reply)
	if got := reply.Header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_user_authentication", max_age="60"` {
		t.Errorf("WWW-Authenticate = %q", got)
	}
	wantUnchanged(t, before, c.record())
	mustAnswer(t, newPhone(t, s).scan(payload(c.opened), "scanner"), http.StatusOK)
}

// TestHintAnswer: another account is refused before the claim; a hint that resolves to nobody
// gets the same answers and can never be claimed.
func TestHintAnswer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	alice, bob := newPhone(t, s), newPhoneOf(t, s, "bob")
	for hint, want := range map[string][]int{"alice": {403, 200}, "bob": {200, 403}, "nobody": {403, 403}} {
		c := openQR(t, s, "cli", url.Values{"login_hint": {hint}})
		for i, p := range []*phone{bob, alice} {
			if c.record().Claim != nil {
				continue
			}
			reply := p.scan(payload(c.opened), "scanner")
			if reply.Status != want[i] {
				t.Errorf("%s, phone %d: %d %s", hint, i, reply.Status, reply.Body)
			}
			if reply.Status == http.StatusForbidden {
				wantGolden(t, "problem_wrong_account", reply)
			}
		}
	}
}
