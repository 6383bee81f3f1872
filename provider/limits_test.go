package provider_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// The limits of protocol §9.

// limits runs a server with those limits, behind a proxy whose X-Forwarded-For counts.
func limits(t *testing.T, l qr.Limits) *providertest.Server {
	t.Helper()
	return providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		longTokens(c)
		c.QRLimits = l
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}})
}

// openFrom opens a session from a network address.
func openFrom(t *testing.T, s *providertest.Server, clientID, address string) *consumption {
	t.Helper()
	client, err := s.Store.Client(t.Context(), clientID)
	if err != nil {
		t.Fatal(err)
	}
	c := &consumption{t: t, s: s, client: client}
	c.opened = c.post(t.Context(), "/device_authorization", url.Values{"scope": {"openid"}}, http.Header{"X-Forwarded-For": {address}})
	return c
}

// wantLimited checks the 429 of a form endpoint or of a phone endpoint.
func wantLimited(t *testing.T, reply *providertest.Reply, code string, retryAfter time.Duration) {
	t.Helper()
	wantRefusal(t, reply, http.StatusTooManyRequests, code)
	if want, got := strconv.Itoa(int(retryAfter/time.Second)), reply.Header.Get("Retry-After"); got != want {
		t.Errorf("Retry-After = %q, want %q", got, want)
	}
}

func TestOpensPerMinute(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{OpensPerMinute: 3})
	for _, address := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.255"} {
		mustAnswer(t, openFrom(t, s, "tv", address).opened, http.StatusOK)
		s.Clock.Advance(time.Second)
	}
	wantLimited(t, openFrom(t, s, "tv", "192.0.2.9").opened, "temporarily_unavailable", 57*time.Second)
	// Another client of the same network is the same network; another network is not.
	wantLimited(t, openFrom(t, s, "kiosk", "192.0.2.9").opened, "temporarily_unavailable", 57*time.Second)
	mustAnswer(t, openFrom(t, s, "tv", "192.0.3.1").opened, http.StatusOK)
	s.Clock.Advance(56 * time.Second)
	wantLimited(t, openFrom(t, s, "tv", "192.0.2.9").opened, "temporarily_unavailable", time.Second)
	s.Clock.Advance(time.Second)
	mustAnswer(t, openFrom(t, s, "tv", "192.0.2.9").opened, http.StatusOK)
	wantLimited(t, openFrom(t, s, "tv", "192.0.2.9").opened, "temporarily_unavailable", time.Second)
}

// An IPv6 network is a /56.
func TestOpensPerNetworkOfIPv6(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{OpensPerMinute: 1})
	mustAnswer(t, openFrom(t, s, "tv", "2001:db8:0:ff00::1").opened, http.StatusOK)
	wantLimited(t, openFrom(t, s, "tv", "2001:db8:0:ffff:1::9").opened, "temporarily_unavailable", time.Minute)
	mustAnswer(t, openFrom(t, s, "tv", "2001:db8:0:fe00::1").opened, http.StatusOK)
}

// A refused opening neither counts nor holds a place.
func TestRefusedOpeningCountsNothing(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{OpensPerMinute: 1, OpenSessions: 1})
	for range 3 {
		wantRefusal(t, tryOpenQR(t, s, "tv", url.Values{"scope": {"admin"}}).opened, http.StatusBadRequest, "invalid_scope")
	}
	openQR(t, s, "tv", nil)
}

// Every end frees the place of an open session.
func TestOpenSessions(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, s *providertest.Server, c *consumption){
		"a cancellation": func(t *testing.T, _ *providertest.Server, c *consumption) {
			t.Helper()
			mustAnswer(t, c.cancel(t.Context()), http.StatusOK)
		},
		"a denial": func(t *testing.T, s *providertest.Server, c *consumption) {
			t.Helper()
			p := newPhone(t, s)
			mustAnswer(t, p.decide(p.scanCode(c.userCode()), "deny", ""), http.StatusOK)
		},
		"a redemption": func(t *testing.T, s *providertest.Server, c *consumption) {
			t.Helper()
			c.approve(newPhone(t, s))
			mustAnswer(t, c.poll(t.Context()), http.StatusOK)
		},
		"a poll that learns of the expiry": func(t *testing.T, s *providertest.Server, c *consumption) {
			t.Helper()
			s.Clock.Advance(540 * time.Second)
			wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "expired_token")
		},
		"the fifth wrong verifier": func(t *testing.T, _ *providertest.Server, c *consumption) {
			t.Helper()
			for range 5 {
				form := mergeForm(c.tokenForm(), url.Values{"code_verifier": {"unexpected"}})
				wantRefusal(t, c.post(t.Context(), "/token", form, nil), http.StatusBadRequest, "invalid_grant")
			}
		},
		"the last wrong code": func(t *testing.T, s *providertest.Server, c *consumption) {
			t.Helper()
			p := newPhone(t, s)
			body := decision(p.scanCode(c.userCode()), "approve", "")
			body["user_code"] = "BCDF-GHJK"
			wantRefusal(t, p.post(t.Context(), "/qr/decision", body), http.StatusUnprocessableEntity, "check_code_mismatch")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := limits(t, qr.Limits{OpenSessions: 2})
			first, _ := openQR(t, s, "kiosk", nil), openQR(t, s, "tv", nil)
			for range 2 {
				wantLimited(t, tryOpenQR(t, s, "tv", nil).opened, "temporarily_unavailable", 600*time.Second)
			}
			end(t, s, first)
			openQR(t, s, "tv", nil)
			if reply := tryOpenQR(t, s, "tv", nil).opened; reply.Status != http.StatusTooManyRequests {
				t.Errorf("a third: %d %s", reply.Status, reply.Body)
			}
		})
	}
	t.Run("expiry alone", func(t *testing.T) {
		t.Parallel()
		s := limits(t, qr.Limits{OpenSessions: 2})
		openQR(t, s, "cli", nil)
		openQR(t, s, "tv", nil)
		s.Clock.Advance(200 * time.Second)
		wantLimited(t, tryOpenQR(t, s, "tv", nil).opened, "temporarily_unavailable", 40*time.Second)
		s.Clock.Advance(40 * time.Second)
		openQR(t, s, "tv", nil)
	})
}

func TestOpenSessionsDefault(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{})
	for range 300 {
		openQR(t, s, "tv", nil)
	}
	wantLimited(t, tryOpenQR(t, s, "tv", nil).opened, "temporarily_unavailable", 600*time.Second)
	mustAnswer(t, openFrom(t, s, "tv", "192.0.2.1").opened, http.StatusOK)
}

// Ten scans per person in ten minutes, whatever they lead to.
func TestScansPerPerson(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{})
	c := openQR(t, s, "cli", nil)
	alice, second, bob := newPhone(t, s), newPhone(t, s), newPhoneOf(t, s, "bob")
	for i := range 10 {
		p := alice
		if i%2 == 1 {
			p = second // the same person on another phone
		}
		wantRefusal(t, p.scan("garbage", "scanner"), http.StatusNotFound, "not_found")
		s.Clock.Advance(time.Second)
	}
	before := c.record()
	fresh := payload(c.poll(t.Context()))
	wantLimited(t, alice.scan(fresh, "scanner"), "rate_limited", 590*time.Second)
	wantLimited(t, second.scanCode(c.userCode()), "rate_limited", 590*time.Second)
	wantUnchanged(t, before, c.record())
	mustAnswer(t, bob.scan(fresh, "scanner"), http.StatusOK)
	s.Clock.Advance(590*time.Second - time.Millisecond)
	c = openQR(t, s, "cli", nil)
	wantLimited(t, alice.scan(payload(c.opened), "scanner"), "rate_limited", time.Second)
	s.Clock.Advance(time.Millisecond)
	mustAnswer(t, alice.scan(payload(c.opened), "scanner"), http.StatusOK)
}

// A decision is no scan: who may not scan any more can still decide what was claimed.
func TestScanLimitDoesNotBlockDecisions(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{Scans: 1})
	c, p := openQR(t, s, "cli", nil), newPhone(t, s)
	scan, code := c.claim(p)
	wantLimited(t, p.scan(payload(c.opened), "scanner"), "rate_limited", 600*time.Second)
	mustAnswer(t, p.decide(scan, "approve", code), http.StatusOK)
}

// wrongUserCode is well-formed and nobody's.
const wrongUserCode = "BCDF-GHJK"

// Five failed user codes per person, twenty per network; a success gives its try back.
func TestUserCodeTries(t *testing.T) {
	t.Parallel()
	t.Run("per person, a success costs nothing", func(t *testing.T) {
		t.Parallel()
		s := limits(t, qr.Limits{Scans: 100})
		p := newPhone(t, s)
		for range 4 {
			wantRefusal(t, p.scanCode(wrongUserCode), http.StatusNotFound, "unknown_code")
		}
		for range 3 {
			mustAnswer(t, p.scanCode(openQR(t, s, "tv", nil).userCode()), http.StatusOK)
		}
		wantRefusal(t, p.scanCode(wrongUserCode), http.StatusNotFound, "unknown_code")
		c := openQR(t, s, "tv", nil)
		s.Clock.Advance(time.Minute)
		wantLimited(t, p.scanCode(c.userCode()), "rate_limited", 9*time.Minute)
		// A link is a user code; a frame is not.
		wantLimited(t, p.scan(c.opened.Text("verification_uri_complete"), "link"), "rate_limited", 9*time.Minute)
		mustAnswer(t, p.scan(payload(openQR(t, s, "cli", nil).opened), "scanner"), http.StatusOK)
		s.Clock.Advance(9 * time.Minute)
		mustAnswer(t, p.scanCode(openQR(t, s, "tv", nil).userCode()), http.StatusOK)
	})
	t.Run("a malformed code is no try", func(t *testing.T) {
		t.Parallel()
		s := limits(t, qr.Limits{})
		p := newPhone(t, s)
		for range 6 {
			wantRefusal(t, p.scanCode("BCDF"), http.StatusNotFound, "unknown_code")
		}
		mustAnswer(t, p.scanCode(openQR(t, s, "tv", nil).userCode()), http.StatusOK)
	})
	t.Run("per network, over many persons", func(t *testing.T) {
		t.Parallel()
		s := limits(t, qr.Limits{})
		from := func(login, address string) *phone {
			p := newPhoneOf(t, s, login)
			p.header = http.Header{"X-Forwarded-For": {address}}
			return p
		}
		for i := range 4 {
			p := from("person-"+strconv.Itoa(i), "198.51.100."+strconv.Itoa(i))
			for range 5 {
				wantRefusal(t, p.scanCode(wrongUserCode), http.StatusNotFound, "unknown_code")
			}
		}
		c := openQR(t, s, "tv", nil)
		fifth := from("person-5", "198.51.100.77")
		wantLimited(t, fifth.scanCode(c.userCode()), "rate_limited", 10*time.Minute)
		// The refusal did not cost the person a try, and another network is not meant.
		fifth.header = http.Header{"X-Forwarded-For": {"203.0.113.1"}}
		for range 4 {
			wantRefusal(t, fifth.scanCode(wrongUserCode), http.StatusNotFound, "unknown_code")
		}
		mustAnswer(t, fifth.scanCode(c.userCode()), http.StatusOK)
	})
}

// Three tries for a code that the app's camera read, one for a link or a typed code; then the
// session is over, for the phone and for the consumption device.
func TestCheckCodeTries(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		client, entry string
		want          []any
	}{
		{"cli", "scanner", []any{2.0, 1.0, 0.0}},
		{"cli", "link", []any{0.0}},
		{"cli", "typed", []any{0.0}},
		{"cli", "user_code", []any{0.0}},
		{"kiosk", "user_code", []any{0.0}},
		{"kiosk", "link", []any{0.0}},
	} {
		t.Run(row.client+" by "+row.entry, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c, p := openQR(t, s, row.client, nil), newPhone(t, s)
			var scan *providertest.Reply
			if row.entry == "user_code" {
				scan = p.scanCode(c.userCode())
			} else {
				scan = p.scan(payload(c.opened)+c.opened.Text("verification_uri_complete"), row.entry)
			}
			mustAnswer(t, scan, http.StatusOK)
			code := c.poll(t.Context()).Text("check_code")
			body := decision(scan, "approve", "")
			if row.client == "kiosk" {
				body["user_code"] = wrongUserCode
			} else {
				body["check_code"] = wrongCode(code)
			}
			var left []any
			for range row.want {
				reply := p.post(t.Context(), "/qr/decision", body)
				wantRefusal(t, reply, http.StatusUnprocessableEntity, "check_code_mismatch")
				left = append(left, reply.JSON()["tries_left"])
			}
			if diff := cmp.Diff(row.want, left); diff != "" {
				t.Error(diff)
			}
			body["check_code"], body["user_code"] = code, c.userCode()
			wantRefusal(t, p.post(t.Context(), "/qr/decision", body), http.StatusGone, "gone")
			wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
			if q := c.record(); q.State != storage.QRAborted {
				t.Errorf("state = %s", q.State)
			}
		})
	}
}

// reportAt claims and reports a session of the client as that person.
func reportAt(t *testing.T, s *providertest.Server, clientID string, p *phone) {
	t.Helper()
	c := openQR(t, s, clientID, nil)
	scan, _ := c.claim(p)
	mustAnswer(t, p.decide(scan, "report", ""), http.StatusOK)
}

// One report keeps an asker away from the reporter only, two from everybody, for five minutes.
func TestReportCoolDown(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{Scans: 100})
	alice, bob, carol := newPhone(t, s), newPhoneOf(t, s, "bob"), newPhoneOf(t, s, "carol")
	reportAt(t, s, "cli", alice)
	c := openQR(t, s, "cli", nil) // nobody else is kept from opening
	before := c.record()
	reply := alice.scan(payload(c.opened), "scanner")
	wantLimited(t, reply, "reported", 5*time.Minute)
	wantUnchanged(t, before, c.record())
	mustAnswer(t, bob.scan(payload(c.opened), "scanner"), http.StatusOK)
	// Another client, and the same from another address, is another asker.
	mustAnswer(t, alice.scanCode(openQR(t, s, "tv", nil).userCode()), http.StatusOK)
	// The same person again makes no second reporter.
	s.Clock.Advance(5 * time.Minute)
	reportAt(t, s, "cli", alice)
	openQR(t, s, "cli", nil)

	s.Clock.Advance(time.Minute)
	reportAt(t, s, "cli", bob)
	wantLimited(t, tryOpenQR(t, s, "cli", nil).opened, "temporarily_unavailable", 5*time.Minute)
	openQR(t, s, "tv", nil)
	s.Clock.Advance(4*time.Minute - time.Second)
	wantLimited(t, tryOpenQR(t, s, "cli", nil).opened, "temporarily_unavailable", 61*time.Second)
	s.Clock.Advance(time.Second) // the first report is over, so one is left
	c = openQR(t, s, "cli", nil)
	wantLimited(t, bob.scan(payload(c.opened), "scanner"), "reported", time.Minute)
	mustAnswer(t, carol.scan(payload(c.opened), "scanner"), http.StatusOK)
	s.Clock.Advance(time.Minute)
	mustAnswer(t, bob.scan(payload(openQR(t, s, "cli", nil).opened), "scanner"), http.StatusOK)
}

// The address is part of the asker: a report at one café does not keep a client away elsewhere.
func TestReportNamesOneAddress(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{})
	alice := newPhone(t, s)
	bad := openFrom(t, s, "tv", "192.0.2.1")
	mustAnswer(t, alice.decide(alice.scanCode(bad.userCode()), "report", ""), http.StatusOK)
	again, elsewhere := openFrom(t, s, "tv", "192.0.2.1"), openFrom(t, s, "tv", "192.0.2.2")
	wantLimited(t, alice.scanCode(again.userCode()), "reported", 5*time.Minute)
	mustAnswer(t, alice.scanCode(elsewhere.userCode()), http.StatusOK)
}

// A report takes back what the asker got from the reporter, and from nobody else.
func TestReportRevokesWhatTheReporterGave(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{Scans: 100})
	alice, bob := newPhone(t, s), newPhoneOf(t, s, "bob")
	token := func(p *phone, client string) string {
		c := openQR(t, s, client, nil)
		c.approve(p)
		return c.poll(t.Context()).Text("access_token")
	}
	reported, othersToken, otherClient := token(alice, "cli"), token(bob, "cli"), token(alice, "tv")
	reportAt(t, s, "cli", alice)
	var got []int
	for _, access := range []string{reported, othersToken, otherClient} {
		got = append(got, s.Bearer(t.Context(), "/userinfo", access).Status)
	}
	if diff := cmp.Diff([]int{401, 200, 200}, got); diff != "" {
		t.Error(diff)
	}
	// The phone's own sign-in lives on.
	mustAnswer(t, alice.scanCode(openQR(t, s, "tv", nil).userCode()), http.StatusOK)
}

// The asker is the client at its address: what the same client got elsewhere is another's.
func TestReportRevokesAtOneAddress(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{Scans: 100})
	alice := newPhone(t, s)
	token := func(address string) string {
		c := openFrom(t, s, "tv", address)
		c.approve(alice)
		return c.poll(t.Context()).Text("access_token")
	}
	here, again, elsewhere := token("192.0.2.1"), token("192.0.2.1"), token("192.0.2.2")
	bad := openFrom(t, s, "tv", "192.0.2.1")
	mustAnswer(t, alice.decide(alice.scanCode(bad.userCode()), "report", ""), http.StatusOK)
	var got []bool
	for _, access := range []string{here, again, elsewhere} {
		got = append(got, active(t, s, access))
	}
	if diff := cmp.Diff([]bool{false, false, true}, got); diff != "" {
		t.Error(diff)
	}
}

// However fast a poller is, it is only ever slowed down.
func TestPollsAreOnlySlowedDown(t *testing.T) {
	t.Parallel()
	s := limits(t, qr.Limits{OpensPerMinute: 1, OpenSessions: 1, HeldPolls: 1})
	c := openQR(t, s, "cli", nil)
	seen := map[string]int{}
	for range 200 {
		reply := c.poll(t.Context())
		if reply.Status != http.StatusBadRequest || reply.Header.Get("Retry-After") != "" {
			t.Fatalf("%d %s", reply.Status, reply.Body)
		}
		seen[reply.Text("error")]++
		s.Clock.Advance(50 * time.Millisecond)
	}
	if len(seen) != 2 || seen["slow_down"] < 100 || seen["authorization_pending"] == 0 {
		t.Errorf("answers: %v", seen)
	}
	if q := c.record(); q.State != storage.QRPending || q.Interval != time.Minute {
		t.Errorf("%s, interval %s", q.State, q.Interval)
	}
	// It can still finish.
	c.approve(newPhone(t, s))
	mustAnswer(t, c.poll(t.Context()), http.StatusOK)
}
