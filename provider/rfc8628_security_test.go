package provider_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// §5.1: user-code tries are limited: five per person in ten minutes, whatever comes after them.
// With 20^8 codes (see the tests of package qr) five tries are worth 2^-32.
func TestD21UserCodeTriesAreLimited(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "tv", nil)
	p := newPhone(t, s)
	for range 5 {
		wantRefusal(t, p.scanCode("BCDF-GHJK"), http.StatusNotFound, "unknown_code")
	}
	reply := p.scanCode(c.userCode())
	wantRefusal(t, reply, http.StatusTooManyRequests, "rate_limited")
	if got := reply.Header.Get("Retry-After"); got != "600" {
		t.Errorf("Retry-After = %q", got)
	}
	if q := c.record(); q.State != storage.QRPending {
		t.Errorf("the sixth try claimed: %s", q.State)
	}
}

// §5.2: the device_code has 256 bits, and no secret is at rest: not the device_code, the user
// code, the confirm_handle, the verifier or any token.
func TestD22OnlyHashesAreStored(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "provider.db")
	secrets := map[string]string{}
	t.Run("logins in every state", func(t *testing.T) {
		s := providertest.NewServer(t, providertest.Options{Store: openBolt(t, file)})
		p := newPhone(t, s)
		secrets["phone token"] = p.token
		for _, client := range []string{"cli", "tv"} {
			for _, until := range []string{"pending", "scanned", "approved", "redeemed"} {
				c := openQR(t, s, client, url.Values{"scope": {"openid offline_access"}})
				name := client + " " + until + " "
				raw, err := base64.RawURLEncoding.DecodeString(c.deviceCode())
				if err != nil || len(raw)-len(c.id) != 32 {
					t.Fatalf("device_code of %d bytes, %v", len(raw), err)
				}
				secrets[name+"device_code"], secrets[name+"raw device_code"] = c.deviceCode(), string(raw[len(c.id):])
				secrets[name+"user_code"], secrets[name+"shown user_code"] = strings.ReplaceAll(c.userCode(), "-", ""), c.userCode()
				if c.verifier != "" {
					secrets[name+"verifier"] = c.verifier
				}
				if until == "pending" {
					c.poll(t.Context())
					continue
				}
				scan, code := c.claim(p)
				handle, err := base64.RawURLEncoding.DecodeString(scan.Text("confirm_handle"))
				if err != nil || len(handle) != 48 {
					t.Fatalf("confirm_handle of %d bytes, %v", len(handle), err)
				}
				secrets[name+"confirm_handle"], secrets[name+"raw confirm_handle"] = scan.Text("confirm_handle"), string(handle[16:])
				if until == "scanned" {
					continue
				}
				if reply := p.decide(scan, "approve", code); reply.Status != http.StatusOK {
					t.Fatalf("approval: %s", reply.Body)
				}
				if until == "approved" {
					continue
				}
				reply := c.poll(t.Context())
				for _, token := range []string{"access_token", "refresh_token", "id_token"} {
					if secrets[name+token] = reply.Text(token); reply.Text(token) == "" {
						t.Errorf("%s: no %s", client, token)
					}
				}
			}
		}
	})
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, []byte(providertest.AliceSubject)) {
		t.Fatal("the file holds none of what was stored")
	}
	for name, secret := range secrets {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("the file holds the %s", name)
		}
	}
}

// contextOf is the context of a scan answer.
func contextOf(t *testing.T, scan *providertest.Reply) map[string]any {
	t.Helper()
	seen, ok := scan.JSON()["context"].(map[string]any)
	if !ok {
		t.Fatalf("no context: %d %s", scan.Status, scan.Body)
	}
	return seen
}

// §5.3: what the consumption device says about itself is shown as untrusted, cleaned, and
// never as a fact.
func TestD23DeviceTextIsUntrusted(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	c := openQR(t, s, "tv", url.Values{
		"device_name": {"Your bank\u202e\r\n<b>"}, "binding_message": {"Pay\x1b 5"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	})
	c.verifier = verifier
	seen := contextOf(t, newPhone(t, s).scanCode(c.userCode()))
	want := map[string]any{"description": "A program", "name_untrusted": "Your bank <b>", "known": "unknown"}
	if diff := cmp.Diff(want, seen["device"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("Pay 5", seen["binding_message"]); diff != "" {
		t.Error(diff)
	}
	// Nothing that would say where the other device is, until it is looked up.
	if network := seen["network"].(map[string]any); network["distance"] != "unknown" {
		t.Errorf("network %v", network)
	}
}

// §5.4: the person is told that another device is signed in, which one, and is made to compare
// with its screen: by the user code, or by a check code that exists only there.
func TestD24PersonIsToldAndConfirmsPossession(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newPhone(t, s)
	tv := openQR(t, s, "tv", nil)
	scan, _ := tv.claim(p)
	seen := contextOf(t, scan)
	if got := seen["consequence"]; got != "Another device will be signed in to Living Room TV as you." {
		t.Errorf("consequence: %v", got)
	}
	if seen["user_code"] != tv.userCode() || scan.JSON()["check_code_required"] != false {
		t.Errorf("no code to compare: %s", scan.Body)
	}
	cli := openQR(t, s, "cli", nil)
	scan, code := cli.claim(p)
	if strings.Contains(scan.Body, cli.userCode()) || contextOf(t, scan)["check_code"] != nil || scan.JSON()["check_code_required"] != true {
		t.Errorf("the phone was told a code: %s", scan.Body)
	}
	wantRefusal(t, p.decide(scan, "approve", ""), http.StatusBadRequest, "invalid_request")
	if reply := p.decide(scan, "approve", code); reply.Status != http.StatusOK {
		t.Errorf("with the code of the screen: %d %s", reply.Status, reply.Body)
	}
	// Where policy asks to type the user code, it is not shown on the phone.
	kiosk := openQR(t, s, "kiosk", nil)
	scan, _ = kiosk.claim(p)
	if strings.Contains(scan.Body, kiosk.userCode()) || scan.JSON()["user_code_required"] != true {
		t.Errorf("kiosk: %s", scan.Body)
	}
	wantRefusal(t, p.decide(scan, "approve", ""), http.StatusBadRequest, "invalid_request")
	body := decision(scan, "approve", "")
	body["user_code"] = strings.ToLower(kiosk.userCode())
	if reply := p.post(t.Context(), "/qr/decision", body); reply.Status != http.StatusOK {
		t.Errorf("with the user code: %d %s", reply.Status, reply.Body)
	}
}

// §5.4: codes live shortly: four minutes (ten for RFC 8628), a frame ten seconds. A photograph
// of the screen is worth 20 s.
func TestD25LifetimesAreShort(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		age    time.Duration
		status int
		code   string
	}{
		{19 * time.Second, http.StatusOK, ""},
		{20 * time.Second, http.StatusConflict, "stale_frame"},
		{179 * time.Second, http.StatusConflict, "stale_frame"},
		{180 * time.Second, http.StatusGone, "gone"},
	} {
		t.Run(row.age.String(), func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c, p := openQR(t, s, "cli", nil), newPhone(t, s)
			s.Clock.Advance(row.age)
			reply := p.scan(payload(c.opened), "scanner")
			if reply.Status != row.status || reply.Text("error") != row.code {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
		})
	}
}

// §5.5: once scanned, the QR code leaves the screen, a second phone gets no context, and the
// consumption device learns whose account it is signed in to.
func TestD26SpyingIsReduced(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c, p := openQR(t, s, "cli", url.Values{"qr_image": {"svg"}}), newPhone(t, s)
	scan := p.scan(payload(c.opened), "scanner")
	reply := c.poll(t.Context())
	if reply.Text("qr_status") != "scanned" || reply.JSON()["qr"] != nil {
		t.Errorf("after the scan: %s", reply.Body)
	}
	spy := newPhoneOf(t, s, "mallory").scan(payload(c.opened), "scanner")
	wantRefusal(t, spy, http.StatusConflict, "already_claimed")
	if len(spy.JSON()) != 3 {
		t.Errorf("the second phone was told: %s", spy.Body)
	}
	p.decide(scan, "approve", reply.Text("check_code"))
	tokens := c.poll(t.Context())
	if info := s.Bearer(t.Context(), "/userinfo", tokens.Text("access_token")); info.Text("name") != "Alice Arden" {
		t.Errorf("userinfo: %s", info.Body)
	}
}

// §5.6: anybody can use a public client's id, so its name is shown as not verified.
func TestD27ClientNameIsNotVerified(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	seen := contextOf(t, newPhone(t, s).scanCode(openQR(t, s, "tv", nil).userCode()))
	if diff := cmp.Diff(map[string]any{"id": "tv", "name": "Living Room TV", "verified": "none"}, seen["client"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]any{"client_unverified", "entry_typed"}, seen["warnings"]); diff != "" {
		t.Error(diff)
	}
}

// A client with a secret has proved who it is: its name carries no warning, on the phone and on
// the page.
func TestD27ClientWithASecretIsVerified(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	seen := contextOf(t, newPhone(t, s).scanCode(openQR(t, s, "kiosk", nil).userCode()))
	if diff := cmp.Diff(map[string]any{"id": "kiosk", "name": "Kiosk", "verified": "attested"}, seen["client"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]any{"entry_typed"}, seen["warnings"]); diff != "" {
		t.Error(diff)
	}
	browser := s.Browser()
	s.SignIn(t.Context(), browser, s.Get(t.Context(), browser, "/device"))
	for client, warned := range map[string]bool{"kiosk": false, "tv": true} {
		form := s.Get(t.Context(), browser, "/device")
		card := s.Post(t.Context(), browser, "/device", url.Values{
			"csrf": {form.Hidden("csrf")}, "step": {"claim"}, "user_code": {openQR(t, s, client, nil).userCode()},
		})
		if strings.Contains(card.Body, "Nobody has verified") != warned || strings.Contains(card.Body, "name not verified") != warned || !strings.Contains(card.Body, `id="approve"`) {
			t.Errorf("the card of %s, want a warning: %t: %s", client, warned, card.Body)
		}
	}
}

// §6.1: case and separators of a typed user code do not matter, at both places that take one.
func TestD29UserCodeEntryOverHTTP(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.QRLimits.Scans = 100 }})
	p := newPhone(t, s)
	for _, typed := range []func(string) string{
		strings.ToLower,
		func(code string) string { return strings.ReplaceAll(code, "-", "") },
		func(code string) string { return " " + strings.Join(strings.Split(code, ""), " ") + "\t" },
		func(code string) string { return strings.ReplaceAll(code, "-", "–") },
		func(code string) string { return strings.ReplaceAll(code, "-", "_._") },
	} {
		c := openQR(t, s, "tv", nil)
		if reply := p.scanCode(typed(c.userCode())); reply.Status != http.StatusOK {
			t.Errorf("%q: %d %s", typed(c.userCode()), reply.Status, reply.Body)
		}
	}
	c := openQR(t, s, "tv", nil)
	claimCard(t, s, s.Browser(), c) // types it in lower case
	for _, typed := range []string{"", "BCDF-GHJ", c.userCode() + "B", strings.Repeat("-", 64) + c.userCode()} {
		if reply := p.scanCode(typed); reply.Status == http.StatusOK {
			t.Errorf("%q was taken", typed)
		}
	}
}

// §6.2: the approval needs no browser: two JSON calls with a token, without cookies.
func TestD30ApprovalWithoutBrowser(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c, p := openQR(t, s, "tv", nil), newPhone(t, s)
	// A cookie is no credential here, and none is set.
	p.header = http.Header{"Cookie": {"qrgrant=x; __Host-qrgrant=x"}, "Origin": {"https://evil.example"}}
	scan := p.scan(c.opened.Text("verification_uri_complete"), "link")
	decided := p.decide(scan, "approve", "")
	if decided.Status != http.StatusOK || len(scan.Header.Values("Set-Cookie"))+len(decided.Header.Values("Set-Cookie")) != 0 {
		t.Errorf("scan %d %s, decision %d %s", scan.Status, scan.Body, decided.Status, decided.Body)
	}
	if reply := c.poll(t.Context()); reply.Status != http.StatusOK {
		t.Errorf("redemption: %d %s", reply.Status, reply.Body)
	}
	p.token = ""
	wantRefusal(t, p.scan(payload(openQR(t, s, "cli", nil).opened), "scanner"), http.StatusUnauthorized, "invalid_token")
}
