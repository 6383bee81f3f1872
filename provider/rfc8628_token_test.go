package provider_test

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// §3.4: what a token request must hold. Client authentication is in D02.
func TestD11TokenRequest(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tv, cli := openQR(t, s, "tv", nil), openQR(t, s, "cli", nil)
	kiosk := openQR(t, s, "kiosk", nil)
	for _, row := range []struct {
		name   string
		c      *consumption
		change url.Values
		status int
		code   string
	}{
		{"a complete request of the device grant", tv, nil, 400, "authorization_pending"},
		{"a complete request of the QR grant", cli, nil, 400, "authorization_pending"},
		{"a complete request of a confidential client", kiosk, nil, 400, "authorization_pending"},
		{"no grant_type", tv, url.Values{"grant_type": {""}}, 400, "invalid_request"},
		{"an unknown grant_type", tv, url.Values{"grant_type": {"urn:example:other"}}, 400, "unsupported_grant_type"},
		{"no device_code", tv, url.Values{"device_code": {""}}, 400, "invalid_request"},
		{"a grant the client is not registered for", tv, url.Values{"grant_type": {"client_credentials"}}, 400, "unauthorized_client"},
		{"a client without the grant", tv, url.Values{"client_id": {"phone"}}, 400, "unauthorized_client"},
		{"the other grant_type of the device code", cli, url.Values{"grant_type": {qr.DeviceGrantType}}, 400, "invalid_grant"},
		{"the QR grant_type for a device code of RFC 8628", kiosk, url.Values{"grant_type": {qr.GrantType}}, 400, "invalid_grant"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, row.c.post(t.Context(), "/token", mergeForm(row.c.tokenForm(), row.change), nil), row.status, row.code)
		})
	}
	t.Cleanup(func() {
		for _, c := range []*consumption{tv, cli, kiosk} {
			if q := c.record(); q.Version != 1 || q.BindingFailures != 0 {
				t.Errorf("%s: version %d, %d binding failures", q.ClientID, q.Version, q.BindingFailures)
			}
		}
	})
}

// §3.5: before the person decides the answer is authorization_pending, and nothing more for a
// client of RFC 8628.
func TestD12AuthorizationPending(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "tv", nil)
	for _, step := range []func(){func() {}, func() { newPhone(t, s).scanCode(c.userCode()) }} {
		step()
		before := c.record()
		reply := c.poll(t.Context())
		wantRefusal(t, reply, http.StatusBadRequest, "authorization_pending")
		if members := reply.JSON(); len(members) != 2 || members["error_description"] == nil {
			t.Errorf("members beyond RFC 8628: %s", reply.Body)
		}
		wantUnchanged(t, before, c.record())
		s.Clock.Advance(5 * time.Second)
	}
}

// pollEvery polls n times with the pause in front of each poll and returns the errors.
func pollEvery(t *testing.T, c *consumption, n int, pause time.Duration) []string {
	t.Helper()
	var codes []string
	for range n {
		c.s.Clock.Advance(pause)
		codes = append(codes, c.poll(t.Context()).Text("error"))
	}
	return codes
}

// §3.5: slow_down adds five seconds to this and all later requests, whichever server answers
// them: the raised interval is on disk.
func TestD13SlowDownIsForGood(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"tv", "cli"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "provider.db")
			var c *consumption
			t.Run("the interval is raised", func(t *testing.T) {
				s := providertest.NewServer(t, providertest.Options{Store: openBolt(t, file)})
				c = openQR(t, s, client, nil)
				got := pollEvery(t, c, 4, 3*time.Second)
				// 3 s: first poll. 6 s: early, 10 s from now on. 9 s: early again, 15 s. 12 s: 20 s.
				if diff := cmp.Diff([]string{"authorization_pending", "slow_down", "slow_down", "slow_down"}, got); diff != "" {
					t.Error(diff)
				}
				if q := c.record(); q.Interval != 20*time.Second {
					t.Errorf("interval = %s", q.Interval)
				}
			})
			t.Run("and still is after a restart", func(t *testing.T) {
				s := providertest.NewServer(t, providertest.Options{Store: openBolt(t, file)})
				s.Clock.Advance(12 * time.Second)
				c.t, c.s = t, s
				// The time of the last poll is not on disk, so the first poll is on time.
				got := pollEvery(t, c, 3, 15*time.Second)
				if diff := cmp.Diff([]string{"authorization_pending", "slow_down", "authorization_pending"}, got); diff != "" {
					t.Error(diff)
				}
				if q := c.record(); q.Interval != 25*time.Second {
					t.Errorf("interval = %s", q.Interval)
				}
			})
		})
	}
}

// openBolt opens a database file until the test ends.
func openBolt(t *testing.T, file string) storage.Store {
	t.Helper()
	store, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// The interval is capped at 60 s, and at the cap nothing is written any more.
func TestD13IntervalIsCapped(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "tv", nil)
	c.poll(t.Context())
	for i, code := range pollEvery(t, c, 11, 3*time.Second) {
		if code != "slow_down" {
			t.Fatalf("poll %d: %s", i, code)
		}
	}
	before := c.record()
	if before.Interval != time.Minute {
		t.Fatalf("interval = %s", before.Interval)
	}
	if diff := cmp.Diff([]string{"slow_down", "slow_down"}, pollEvery(t, c, 2, 3*time.Second)); diff != "" {
		t.Error(diff)
	}
	wantUnchanged(t, before, c.record())
}

// §3.5: a poller that keeps the interval but for ten percent is never slowed down, and neither
// is one that sends every poll twice.
func TestD14SteadyPoller(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "tv", nil)
	for i := range 60 {
		jitter := time.Duration(i%11-5) * 100 * time.Millisecond // -0.5 s … +0.5 s
		s.Clock.Advance(5*time.Second + jitter)
		for range 1 + i%2 {
			if code := c.poll(t.Context()).Text("error"); code != "authorization_pending" {
				t.Fatalf("poll %d: %s", i, code)
			}
		}
	}
	if q := c.record(); q.Interval != 5*time.Second || q.Version != 1 {
		t.Errorf("interval %s, version %d", q.Interval, q.Version)
	}
}

// §3.5: a denial, a report and a cancellation are access_denied, again and again.
func TestD15AccessDenied(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, end := range []string{"deny", "report", "cancel"} {
		c := openQR(t, s, "tv", nil)
		if end == "cancel" {
			c.cancel(t.Context())
		} else {
			p := newPhoneOf(t, s, "person-"+end)
			scan, _ := c.claim(p)
			p.decide(scan, end, "")
		}
		for range 3 {
			wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
		}
	}
}

// §3.5: past the end it is expired_token, even for a poll that would be early or pending, and
// it stays that.
func TestD16ExpiredToken(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, client string
		claimed      bool
		pending      time.Duration
	}{
		{"a code nobody claimed", "tv", false, 540 * time.Second},
		{"a QR code nobody claimed", "cli", false, 180 * time.Second},
		{"a claim nobody decided", "tv", true, 120 * time.Second},
		{"a QR claim nobody decided", "cli", true, 120 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: longTokens})
			c := openQR(t, s, row.client, nil)
			if row.claimed {
				c.claim(newPhone(t, s))
			}
			s.Clock.Advance(row.pending - time.Second)
			wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "authorization_pending")
			before := c.record()
			s.Clock.Advance(time.Second)
			for range 3 { // the second and third would be slow_down
				wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "expired_token")
			}
			s.Clock.Advance(12 * time.Hour)
			wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "expired_token")
			wantUnchanged(t, before, c.record())
		})
	}
}

// §3.5: whoever holds no valid code learns nothing about the code: the answers are equal byte
// for byte.
func TestD17InvalidGrantBodiesAreEqual(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{{
		ID: "cli2", GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid", "profile"}, QR: storage.QRPolicy{Enabled: true},
	}}})
	live, other := openQR(t, s, "cli", nil), openQR(t, s, "cli2", nil)
	used, _ := signIn(t, s, "cli", nil)
	malformed := []string{"x", strings.Repeat("A", 63), strings.Repeat("A", 65), live.deviceCode() + "A", live.deviceCode()[:63] + "*", live.id.String(), live.userCode(), payload(live.opened)}
	flipped := []byte(live.deviceCode())
	flipped[40] ^= 1
	requests := map[string]url.Values{
		"an unknown code":                    {"device_code": {strings.Repeat("A", 64)}},
		"a known reference, another secret":  {"device_code": {string(flipped)}},
		"another client's code":              {"device_code": {other.deviceCode()}, "code_verifier": {other.verifier}},
		"a used code":                        mergeForm(used.tokenForm()),
		"a wrong verifier":                   {"code_verifier": {strings.Repeat("v", 43)}},
		"no verifier":                        {"code_verifier": {""}},
		"the grant_type of the other grant":  {"grant_type": {qr.DeviceGrantType}},
		"an unknown code and no verifier":    {"device_code": {strings.Repeat("A", 64)}, "code_verifier": {""}},
		"a code that is no base64url at all": {"device_code": {"§§"}},
	}
	for i, code := range malformed {
		requests["malformed "+strconv.Itoa(i)] = url.Values{"device_code": {code}}
	}
	want := ""
	for name, change := range requests {
		reply := live.post(t.Context(), "/token", mergeForm(live.tokenForm(), change), nil)
		wantRefusal(t, reply, http.StatusBadRequest, "invalid_grant")
		if want == "" {
			want = reply.Body
		}
		if reply.Body != want {
			t.Errorf("%s: %s, want %s", name, reply.Body, want)
		}
	}
	wantRefusal(t, other.poll(t.Context()), http.StatusBadRequest, "authorization_pending")
}

// §3.5: a code works once. A second redemption ends the whole family, unless it is the
// lost-answer case of our protocol §3.
func TestD19CodeIsSingleUse(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, client string
		after        time.Duration
		change       url.Values
		revoked      bool
	}{
		{"unbound, at once", "tv", 0, nil, true},
		{"unbound, later", "tv", time.Minute, nil, true},
		{"bound with the right verifier within 10 s: a lost answer", "cli", 9 * time.Second, nil, false},
		{"bound with the right verifier after 10 s", "cli", 10 * time.Second, nil, true},
		{"bound with a wrong verifier", "cli", time.Second, url.Values{"code_verifier": {strings.Repeat("v", 43)}}, true},
		{"bound without a verifier", "cli", time.Second, url.Values{"code_verifier": {""}}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c, tokens := signIn(t, s, row.client, url.Values{"scope": {"openid profile offline_access"}})
			s.Clock.Advance(row.after)
			for range 2 {
				wantRefusal(t, c.post(t.Context(), "/token", mergeForm(c.tokenForm(), row.change), nil), http.StatusBadRequest, "invalid_grant")
			}
			wantUserinfo := http.StatusOK
			if row.revoked {
				wantUserinfo = http.StatusUnauthorized
			}
			if got := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken).Status; got != wantUserinfo {
				t.Errorf("userinfo: %d, want %d", got, wantUserinfo)
			}
			refreshed := c.post(t.Context(), "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}}, nil)
			if (refreshed.Status == http.StatusOK) == row.revoked {
				t.Errorf("refresh: %d %s", refreshed.Status, refreshed.Body)
			}
		})
	}
	t.Run("another client's replay touches nothing", func(t *testing.T) {
		t.Parallel()
		s := providertest.NewServer(t, providertest.Options{})
		c, tokens := signIn(t, s, "tv", nil)
		wantRefusal(t, openQR(t, s, "kiosk", nil).post(t.Context(), "/token", c.tokenForm(), nil), http.StatusBadRequest, "invalid_grant")
		if got := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken).Status; got != http.StatusOK {
			t.Errorf("userinfo: %d", got)
		}
	})
}

// A user code or session that has expired is refused at the approval, not only at redemption.
func TestD31ExpiryIsRefusedAtApproval(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"tv", "cli"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { longTokens(c); c.QRLimits.Scans = 100 }})
			unclaimed, claimed := openQR(t, s, client, nil), openQR(t, s, client, nil)
			p := newPhone(t, s)
			scan, code := claimed.claim(p)
			s.Clock.Advance(121 * time.Second)
			wantRefusal(t, p.decide(scan, "approve", code), http.StatusGone, "gone")
			wantRefusal(t, p.decide(scan, "deny", ""), http.StatusGone, "gone")
			s.Clock.Advance(10 * time.Minute)
			for _, c := range []*consumption{unclaimed, claimed} {
				before := c.record()
				wantRefusal(t, p.scanCode(c.userCode()), http.StatusNotFound, "unknown_code")
				if frame := payload(c.opened); frame != "" {
					wantRefusal(t, p.scan(frame, "scanner"), http.StatusGone, "gone")
				}
				wantUnchanged(t, before, c.record())
				wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "expired_token")
			}
		})
	}
}
