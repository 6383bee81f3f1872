package provider_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// racing is how many requests race in the tests of this file.
const racing = 64

// atOnce sends n requests at once and returns their answers by number.
func atOnce(n int, send func(i int) *providertest.Reply) []*providertest.Reply {
	answers := make([]*providertest.Reply, n)
	start := make(chan struct{})
	var racers sync.WaitGroup
	for i := range n {
		racers.Go(func() {
			<-start
			answers[i] = send(i)
		})
	}
	close(start)
	racers.Wait()
	return answers
}

// tally counts answers by status and word: error, state or token_type.
func tally(answers []*providertest.Reply) map[string]int {
	counts := make(map[string]int)
	for _, a := range answers {
		counts[strconv.Itoa(a.Status)+" "+a.Text("error")+a.Text("state")+a.Text("token_type")]++
	}
	return counts
}

func wantTally(t *testing.T, answers []*providertest.Reply, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, tally(answers)); diff != "" {
		t.Error(diff)
	}
}

// gate is a store that lets the next reads of a session or of a token through only together, so
// that every racer has seen the state that only one of them can use.
type gate struct {
	storage.Store
	left atomic.Int64
	open chan struct{}
}

func (g *gate) wrap(inner storage.Store) storage.Store { g.Store = inner; return g }

// holdBack holds the next n reads until all of them are there.
func (g *gate) holdBack(n int) {
	g.open = make(chan struct{})
	g.left.Store(int64(n))
}

func (g *gate) pass() {
	switch left := g.left.Add(-1); {
	case left == 0:
		close(g.open)
	case left > 0:
		<-g.open
	}
}

func (g *gate) QRSession(ctx context.Context, id storage.QRID) (*storage.QRSession, error) {
	q, err := g.Store.QRSession(ctx, id)
	g.pass()
	return q, err
}

func (g *gate) Token(ctx context.Context, kind storage.TokenKind, sig storage.TokenSignature) (*storage.Token, error) {
	token, err := g.Store.Token(ctx, kind, sig)
	g.pass()
	return token, err
}

// TestRaceOfRedemptions: of 64 polls that all read APPROVED exactly one gets tokens, and the
// others are no replay, bound or not.
//
// Mutation: with the compare taken out of the compare-and-swap, so that Redeem redeems a session
// that is REDEEMED by the time it has the lock (storage.QRSession.Redeem: "case QRPollReady,
// QRPollUsed, QRPollReplayed:" and the answer QRPollReady), this test says, for cli and for tv,
//
//   - "200 Bearer":        1,
//   - "200 Bearer":        64,
//   - "400 invalid_grant": 63,
//     64 redemptions in the audit trail
//
// and TestRaceOfRedemptionAgainstDenialAndCancellation fails beside it. Without the check of
// Token.Active in bolt.Store.UseToken, TestRaceOfRefreshesOfARedemption says the same of 64
// refreshes.
func TestRaceOfRedemptions(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"cli", "tv"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			store := &gate{}
			s := providertest.NewServer(t, providertest.Options{HTTP: true, Wrap: store.wrap})
			p := newPhone(t, s)
			for range 3 {
				c := openQR(t, s, client, url.Values{"scope": {"openid offline_access"}})
				c.approve(p)
				store.holdBack(racing)
				answers := atOnce(racing, func(int) *providertest.Reply { return c.poll(t.Context()) })
				wantTally(t, answers, map[string]int{"200 Bearer": 1, "400 invalid_grant": racing - 1})
				won := answers[slices.IndexFunc(answers, func(a *providertest.Reply) bool { return a.Status == http.StatusOK })]
				if !active(t, s, won.Text("access_token")) || refreshed(t, s, client, won.Text("refresh_token")).Status != http.StatusOK {
					t.Error("the losers killed the winner's tokens")
				}
				if n := count(rowTypes(t, s, c), storage.EventQRRedeemed); n != 1 {
					t.Errorf("%d redemptions in the audit trail", n)
				}
			}
		})
	}
}

func count(types []string, event string) int {
	n := 0
	for _, e := range types {
		if e == event {
			n++
		}
	}
	return n
}

// TestRaceOfScansByOnePhone: one claim and five repeats, and one handle that is alive.
func TestRaceOfScansByOnePhone(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: roomy})
	p := newPhone(t, s)
	c := openQR(t, s, "cli", nil)
	scans := atOnce(racing, func(int) *providertest.Reply { return p.scan(payload(c.opened), "scanner") })
	wantTally(t, scans, map[string]int{"200 ": 6, "429 rate_limited": racing - 6})
	code := c.poll(t.Context()).Text("check_code")
	alive := 0
	for _, scan := range scans {
		if scan.Status == http.StatusOK && p.decide(scan, "approve", code).Status == http.StatusOK {
			alive++
		}
	}
	if alive != 1 {
		t.Errorf("%d handles decide", alive)
	}
}

// TestRaceOfIdenticalDecisions: one move, equal answers.
func TestRaceOfIdenticalDecisions(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: roomy})
	p := newPhone(t, s)
	for verdict, row := range map[string]string{"approve": storage.EventQRApproved, "deny": storage.EventQRDenied, "report": storage.EventQRReported} {
		c := openQR(t, s, "cli", nil)
		scan, code := c.claim(p)
		answers := atOnce(racing, func(int) *providertest.Reply { return p.decide(scan, verdict, code) })
		for _, answer := range answers {
			wantSame(t, verdict, answer, answers[0])
		}
		if answers[0].Status != http.StatusOK {
			t.Errorf("%s: %d %s", verdict, answers[0].Status, answers[0].Body)
		}
		if diff := cmp.Diff([]string{storage.EventQROpened, storage.EventQRScanned, row}, rowTypes(t, s, c)); diff != "" {
			t.Errorf("%s:\n%s", verdict, diff)
		}
		if verdict == "approve" {
			tokensOf(t, c.poll(t.Context()))
		}
		s.Clock.Advance(1) // past the cool-down of roomy
	}
}

// TestRaceOfMixedDecisions: whatever comes first, a no wins until the tokens are out.
func TestRaceOfMixedDecisions(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: roomy})
	p := newPhone(t, s)
	verdicts := []string{"approve", "deny", "report", "approve"}
	for range 4 {
		s.Clock.Advance(1)
		c := openQR(t, s, "cli", nil)
		scan, code := c.claim(p)
		answers := atOnce(racing, func(i int) *providertest.Reply { return p.decide(scan, verdicts[i%len(verdicts)], code) })
		for i, answer := range answers {
			word := answer.Text("state") + answer.Text("error")
			if approve := i%len(verdicts)%3 == 0; approve && word != "approved" && word != "gone" || !approve && word != "denied" {
				t.Errorf("%s: %d %s", verdicts[i%len(verdicts)], answer.Status, answer.Body)
			}
		}
		if got := c.record(); got.State != storage.QRDenied || !got.Reported {
			t.Errorf("the session is %s, reported %t", got.State, got.Reported)
		}
		wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
		wantError(t, p.decide(scan, "approve", code), http.StatusGone, "gone")
		types := rowTypes(t, s, c)
		ends := count(types, storage.EventQRDenied) + count(types, storage.EventQRReported)
		if count(types, storage.EventQRApproved) > 1 || count(types, storage.EventQRReported) != 1 || ends > 2 {
			t.Errorf("audit rows %q", types)
		}
	}
}

// TestRaceOfRedemptionAgainstDenialAndCancellation: one of the two happened, and both sides
// were told the same.
func TestRaceOfRedemptionAgainstDenialAndCancellation(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: roomy})
	p := newPhone(t, s)
	for round := range 24 {
		c := openQR(t, s, "cli", nil)
		scan, _ := c.approve(p)
		against := []string{"deny", "cancel"}[round%2]
		answers := atOnce(8, func(i int) *providertest.Reply {
			switch {
			case (i+round)%2 == 0:
				return c.poll(t.Context())
			case against == "deny":
				return p.decide(scan, "deny", "")
			}
			return c.cancel(t.Context())
		})
		got, end := tally(answers), c.record().State
		want := map[string]map[string]int{
			"deny redeemed":    {"200 Bearer": 1, "400 invalid_grant": 3, "410 gone": 4},
			"cancel redeemed":  {"200 Bearer": 1, "400 invalid_grant": 3, "409 already_redeemed": 4},
			"deny denied":      {"200 denied": 4},
			"cancel cancelled": {"200 ": 4},
		}[against+" "+end.String()]
		if end != storage.QRRedeemed {
			// A poll that read APPROVED and came too late says invalid_grant, a later one why.
			if lost := got["400 invalid_grant"] + got["400 access_denied"]; lost != 4 {
				t.Errorf("%s: %d polls lost: %v", against, lost, got)
			}
			delete(got, "400 invalid_grant")
			delete(got, "400 access_denied")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, ended %s:\n%s", against, end, diff)
		}
	}
}

// TestRaceOfWrongVerifiers: five failures end the session, however many come at once.
func TestRaceOfWrongVerifiers(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true})
	c := openQR(t, s, "cli", nil)
	answers := atOnce(racing, func(i int) *providertest.Reply {
		form := c.tokenForm()
		form.Set("code_verifier", fmt.Sprintf("guess-%058d", i))
		return c.post(t.Context(), "/token", form, nil)
	})
	wantTally(t, answers, map[string]int{"400 invalid_grant": racing})
	if got := c.record(); got.State != storage.QRAborted || got.BindingFailures != 5 {
		t.Errorf("%s after %d failures", got.State, got.BindingFailures)
	}
	if n := count(rowTypes(t, s, c), storage.EventQRBindingFailed); n != 5 {
		t.Errorf("%d failures in the audit trail", n)
	}
}

// TestRaceOfWrongCheckCodes: all 90 codes at once are three tries.
func TestRaceOfWrongCheckCodes(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: roomy})
	p := newPhone(t, s)
	for entry, tries := range map[string]int{"scanner": 3, "link": 1, "typed": 1} {
		c := openQR(t, s, "cli", nil)
		scan := p.scan(payload(c.opened), entry)
		right := c.poll(t.Context()).Text("check_code")
		answers := atOnce(90, func(i int) *providertest.Reply {
			code := strconv.Itoa(10 + i)
			if code == right {
				code = "09" // malformed, no try
			}
			return p.decide(scan, "approve", code)
		})
		got := tally(answers)
		if got["422 check_code_mismatch"] != tries || got["200 approved"] != 0 {
			t.Errorf("%s: %v", entry, got)
		}
		left := make([]string, 0, tries)
		for _, answer := range answers {
			if answer.Text("error") == "check_code_mismatch" {
				left = append(left, fmt.Sprint(answer.JSON()["tries_left"]))
			}
		}
		slices.Sort(left)
		if want := []string{"0", "1", "2"}[:tries]; !slices.Equal(left, want) {
			t.Errorf("%s: tries left %q, want %q", entry, left, want)
		}
		if c.record().State != storage.QRAborted {
			t.Errorf("%s: %s", entry, c.record().State)
		}
		wantError(t, p.decide(scan, "approve", right), http.StatusGone, "gone")
		wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
	}
}

// TestRaceOfUserCodeGuesses: five tries per person, whatever the address says, however fast.
func TestRaceOfUserCodeGuesses(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: func(c *provider.Config) { c.QRLimits.Scans = 1 << 20 }})
	p := newPhone(t, s)
	answers := atOnce(racing, func(i int) *providertest.Reply {
		guess := *p
		guess.header = http.Header{"X-Forwarded-For": {fmt.Sprintf("10.%d.0.1", i)}, "Forwarded": {fmt.Sprintf("for=10.%d.0.1", i)}, "X-Real-Ip": {fmt.Sprintf("10.%d.0.1", i)}}
		return guess.scanCode("BCDF-GH" + string("BCDFGHJKLMNPQRSTVWXZ"[i%20]) + string("BCDFGHJKLMNPQRSTVWXZ"[i/20]))
	})
	wantTally(t, answers, map[string]int{"404 unknown_code": 5, "429 rate_limited": racing - 5})
	// Four people share the network's twenty.
	for _, person := range []string{"bob", "carol", "dave"} {
		other := newPhoneOf(t, s, person)
		for range 5 {
			wantError(t, other.scanCode("ZZZZ-ZZZZ"), http.StatusNotFound, "unknown_code")
		}
	}
	fifth := newPhoneOf(t, s, "erin")
	fifth.header = http.Header{"X-Forwarded-For": {"192.0.2.7"}}
	limited := fifth.scanCode("ZZZZ-ZZZZ")
	wantError(t, limited, http.StatusTooManyRequests, "rate_limited")
	if limited.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	// The right code does not get past the limit either.
	wantError(t, p.scanCode(openQR(t, s, "tv", nil).userCode()), http.StatusTooManyRequests, "rate_limited")
}

// TestRaceOfRefreshesOfARedemption: one refresh token of a QR sign-in is used once, though all
// 64 requests have seen it unused.
func TestRaceOfRefreshesOfARedemption(t *testing.T) {
	t.Parallel()
	store := &gate{}
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Wrap: store.wrap})
	_, tokens := signIn(t, s, "cli", url.Values{"scope": {"openid offline_access"}})
	store.holdBack(racing)
	answers := atOnce(racing, func(int) *providertest.Reply { return refreshed(t, s, "cli", tokens.RefreshToken) })
	wantTally(t, answers, map[string]int{"200 Bearer": 1, "400 invalid_grant": racing - 1})
}

// TestRaceOfEverythingAtOnce lets all that can happen to one session happen at once: nothing
// fails, and at most one answer has tokens.
func TestRaceOfEverythingAtOnce(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: roomy})
	p, bob := newPhone(t, s), newPhoneOf(t, s, "bob")
	for range 6 {
		s.Clock.Advance(1)
		c := openQR(t, s, "cli", nil)
		scan, code := c.claim(p)
		answers := atOnce(racing, func(i int) *providertest.Reply {
			switch i % 8 {
			case 0:
				return p.decide(scan, "approve", code)
			case 1:
				return c.poll(t.Context())
			case 2:
				return p.scan(payload(c.opened), "scanner")
			case 3:
				return bob.scan(payload(c.opened), "scanner")
			case 4:
				return p.decide(scan, "approve", wrongCode(code))
			case 5:
				return bob.scanCode(c.userCode())
			case 6:
				return c.post(t.Context(), "/token", c.tokenForm(), http.Header{"Prefer": {"wait=4"}})
			}
			if i < 32 {
				return p.decide(scan, "deny", "")
			}
			return c.cancel(t.Context())
		})
		issued := 0
		for i, answer := range answers {
			if answer.Status >= http.StatusInternalServerError {
				t.Errorf("call %d: %d %s", i, answer.Status, answer.Body)
			}
			if answer.Text("access_token") != "" {
				issued++
			}
		}
		state := c.record().State
		if redeemed := state == storage.QRRedeemed; issued > 1 || (issued == 1) != redeemed {
			t.Errorf("%d token answers, the session is %s", issued, state)
		}
		if types := rowTypes(t, s, c); count(types, storage.EventQRScanned) != 1 || count(types, storage.EventQRApproved) > 1 || strings.Count(strings.Join(types, " "), storage.EventQRRedeemed) != issued {
			t.Errorf("audit rows %q", types)
		}
	}
}
