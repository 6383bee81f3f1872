package provider_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// TestThreatT09TheFirstPhoneWins: 64 phones of 64 people scan one code at once.
func TestThreatT09TheFirstPhoneWins(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	phones := make([]*phone, 64)
	for i := range phones {
		phones[i] = newPhoneOf(t, s, fmt.Sprintf("person-%02d", i))
	}
	c := openQR(t, s, "cli", nil)
	scans := make([]*providertest.Reply, len(phones))
	var racers sync.WaitGroup
	for i, p := range phones {
		racers.Go(func() { scans[i] = p.scan(payload(c.opened), "scanner") })
	}
	racers.Wait()

	winner := -1
	for i, scan := range scans {
		switch {
		case scan.Status == http.StatusOK && winner < 0:
			winner = i
		case scan.Status == http.StatusOK:
			t.Errorf("phones %d and %d hold the session", winner, i)
		default:
			wantError(t, scan, http.StatusConflict, "already_claimed")
			if diff := cmp.Diff(map[string]string{"title": "string", "status": "number", "error": "string"}, members(scan)); diff != "" {
				t.Errorf("phone %d was told more:\n%s", i, diff)
			}
		}
	}
	if winner < 0 {
		t.Fatal("nobody claimed the session")
	}
	code := c.poll(t.Context()).Text("check_code")
	for i, p := range phones[:8] {
		if i == winner {
			continue
		}
		wantError(t, p.decide(scans[winner], "deny", ""), http.StatusNotFound, "not_found")
		wantError(t, p.scan(payload(c.opened), "scanner"), http.StatusConflict, "already_claimed")
		wantError(t, p.scanCode(c.userCode()), http.StatusNotFound, "unknown_code")
	}
	if reply := phones[winner].decide(scans[winner], "approve", code); reply.Status != http.StatusOK {
		t.Fatalf("the winner's approval: %d %s", reply.Status, reply.Body)
	}
	tokens := tokensOf(t, c.poll(t.Context()))
	if got, want := claims(t, tokens.IDToken)["sub"], fmt.Sprintf("person-%02d", winner); got != want {
		t.Errorf("signed in %v, want %s", got, want)
	}
}

// TestThreatT10TheHandleIsBoundToItsClaimer: a stolen handle is worth nothing to another
// person, another sign-in, another app, or at another session.
func TestThreatT10TheHandleIsBoundToItsClaimer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy, Clients: []*storage.Client{{
		ID: "app2", SecretHashes: providertest.Clients()[0].SecretHashes, RedirectURIs: []string{providertest.RedirectURI}, FirstParty: true,
		Approver: true, GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", qr.ApproveScope},
	}}})
	browser, approve := s.Browser(), "openid offline_access "+qr.ApproveScope
	tokens := s.SignedIn(t.Context(), browser, "phone", approve)
	claimer := &phone{t: t, s: s, token: tokens.AccessToken}
	c, other := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	scan, code := c.claim(claimer)
	otherScan, _ := other.claim(claimer)
	was, wasOther := c.record(), other.record()

	unknown := claimer.post(t.Context(), "/qr/decision", map[string]string{"confirm_handle": randomSecret(nil), "decision": "approve", "check_code": code})
	wantError(t, unknown, http.StatusNotFound, "not_found")
	thieves := map[string]*phone{
		"another person":                         newPhoneOf(t, s, "mallory"),
		"another sign-in of the person":          newPhone(t, s),
		"another app on the same sign-in":        {t: t, s: s, token: s.SignedIn(t.Context(), browser, "app2", "openid "+qr.ApproveScope).AccessToken},
		"another app, other sign-in of the same": {t: t, s: s, token: s.SignedIn(t.Context(), s.Browser(), "app2", "openid "+qr.ApproveScope).AccessToken},
	}
	for who, thief := range thieves {
		for _, verdict := range []string{"approve", "deny", "report"} {
			wantSame(t, who+", "+verdict, thief.decide(scan, verdict, code), unknown)
		}
		wantError(t, thief.scan(payload(c.opened), "scanner"), http.StatusConflict, "already_claimed")
	}
	// The secret of one handle behind the reference of another session.
	moved := decision(scan, "approve", code)
	moved["confirm_handle"] = base64.RawURLEncoding.EncodeToString(append(other.id[:], secretHalf(t, scan.Text("confirm_handle"))...))
	wantSame(t, "the handle at another session", claimer.post(t.Context(), "/qr/decision", moved), unknown)
	// The context of one session with the handle of another.
	mixed := decision(scan, "approve", code)
	mixed["context_digest"] = otherScan.Text("context_digest")
	wantError(t, claimer.post(t.Context(), "/qr/decision", mixed), http.StatusConflict, "context_changed")
	wantUnmoved(t, c, was)
	wantUnmoved(t, other, wasOther)

	// The same sign-in with a refreshed token is still the claimer.
	again := tokensOf(t, refreshed(t, s, "phone", tokens.RefreshToken))
	if reply := (&phone{t: t, s: s, token: again.AccessToken}).decide(scan, "approve", code); reply.Status != http.StatusOK {
		t.Errorf("the claimer after a refresh: %d %s", reply.Status, reply.Body)
	}
}

// step is one call in T11, and what each state answers to it: status, the word in the body and
// the state after it.
type step struct {
	name    string
	answers map[string]stepAnswer
}

type stepAnswer struct {
	status int
	word   string
	next   string
}

// steps is protocol §3 from SCANNED on, for the claimer with its handle and the right device.
func steps() []step {
	refusal := func(word string) map[string]stepAnswer {
		denied := stepAnswer{200, "denied", "denied"}
		return map[string]stepAnswer{
			"scanned": denied, "approved": denied, "denied": denied,
			"redeemed": {410, word, "redeemed"}, "cancelled": {410, word, "cancelled"},
		}
	}
	return []step{
		{"approve", map[string]stepAnswer{
			"scanned": {200, "approved", "approved"}, "approved": {200, "approved", "approved"}, "redeemed": {200, "approved", "redeemed"},
			"denied": {410, "gone", "denied"}, "cancelled": {410, "gone", "cancelled"},
		}},
		{"deny", refusal("gone")},
		{"report", refusal("gone")},
		{"cancel", map[string]stepAnswer{
			"scanned": {200, "", "cancelled"}, "approved": {200, "", "cancelled"}, "redeemed": {409, "already_redeemed", "redeemed"},
			"denied": {200, "", "denied"}, "cancelled": {200, "", "cancelled"},
		}},
		{"redeem", map[string]stepAnswer{
			"scanned": {400, "authorization_pending", "scanned"}, "approved": {200, "Bearer", "redeemed"}, "redeemed": {400, "invalid_grant", "redeemed"},
			"denied": {400, "access_denied", "denied"}, "cancelled": {400, "access_denied", "cancelled"},
		}},
	}
}

// TestThreatT11EveryOrderOfTwoAndThreeSteps: ends are final, and a no beats a yes until the
// tokens are out.
func TestThreatT11EveryOrderOfTwoAndThreeSteps(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: lasting})
	p, all := newPhone(t, s), steps()
	for _, first := range all {
		for _, second := range all {
			playSteps(t, s, p, []step{first, second})
			for _, third := range all {
				playSteps(t, s, p, []step{first, second, third})
			}
		}
	}
}

func playSteps(t *testing.T, s *providertest.Server, p *phone, order []step) {
	t.Helper()
	s.Clock.Advance(time.Second) // past the cool-down of a report
	c := openQR(t, s, "cli", nil)
	scan, code := c.claim(p)
	state, name, tokens := "scanned", "", 0
	var token string
	for _, step := range order {
		// Past the claim's own poll and the limit of polls, within every deadline.
		s.Clock.Advance(storage.PollInterval)
		name += " " + step.name
		want := step.answers[state]
		var reply *providertest.Reply
		switch step.name {
		case "cancel":
			reply = c.cancel(t.Context())
		case "redeem":
			reply = c.poll(t.Context())
		default:
			reply = p.decide(scan, step.name, code)
		}
		word := reply.Text("error") + reply.Text("state") + reply.Text("token_type")
		if reply.Status != want.status || word != want.word {
			t.Errorf("%s from %s: %d %s, want %d %s", name, state, reply.Status, reply.Body, want.status, want.word)
		}
		if reply.Text("access_token") != "" {
			tokens++
			token = reply.Text("access_token")
		}
		if state = want.next; c.record().State.String() != state {
			t.Errorf("%s: the session is %s, want %s", name, c.record().State, state)
		}
	}
	if redeemed := state == "redeemed"; tokens > 1 || (tokens == 1) != redeemed {
		t.Errorf("%s: %d token answers, state %s", name, tokens, state)
	} else if redeemed && !active(t, s, token) {
		t.Errorf("%s: the tokens were revoked", name)
	}
}

// TestThreatT12WhatWasSeenIsWhatIsApproved changes what the person saw between the scan and the
// decision.
func TestThreatT12WhatWasSeenIsWhatIsApproved(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*storage.Client){
		"another name":             func(c *storage.Client) { c.Name = "Your Bank" },
		"a name of a look-alike":   func(c *storage.Client) { c.Name = "Command\u00a0Line" },
		"no name":                  func(c *storage.Client) { c.Name = "" },
		"a scope taken away":       func(c *storage.Client) { c.Scopes = []string{"openid", "email"} },
		"the policy is narrower":   func(c *storage.Client) { c.QR.AllowedScopes = []string{"openid"} },
		"the policy is empty":      func(c *storage.Client) { c.QR.AllowedScopes = nil },
		"the policy allows others": func(c *storage.Client) { c.QR.AllowedScopes = []string{"profile", "phone"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			p := newPhone(t, s)
			c := openQR(t, s, "cli", url.Values{"scope": {"openid profile email"}})
			scan, code := c.claim(p)
			was := c.record()
			mustChange(t, s, "cli", change)

			wantError(t, p.decide(scan, "approve", code), http.StatusConflict, "context_changed")
			// The digest is looked at before the code: a wrong one costs no try.
			wantError(t, p.decide(scan, "approve", wrongCode(code)), http.StatusConflict, "context_changed")
			wantUnmoved(t, c, was)
			if tries := c.record().Claim.TriesLeft; tries != 3 {
				t.Errorf("%d tries are left", tries)
			}
			again := p.scan(payload(c.opened), "scanner")
			if again.Status != http.StatusOK || again.Text("context_digest") == scan.Text("context_digest") {
				t.Fatalf("the second scan: %d %s", again.Status, again.Body)
			}
			// The old handle died, the old digest stays wrong.
			wantError(t, p.decide(scan, "approve", code), http.StatusNotFound, "not_found")
			stale := decision(again, "approve", code)
			stale["context_digest"] = scan.Text("context_digest")
			wantError(t, p.post(t.Context(), "/qr/decision", stale), http.StatusConflict, "context_changed")
			if reply := p.decide(again, "approve", code); reply.Status != http.StatusOK {
				t.Fatalf("after the second scan: %d %s", reply.Status, reply.Body)
			}
			if diff := cmp.Diff(shownScopes(again), tokensOf(t, c.poll(t.Context())).Scope); diff != "" {
				t.Errorf("granted is not what was shown:\n%s", diff)
			}
		})
	}
}

// shownScopes are the scopes of a scan's context, as a token answer spells them.
func shownScopes(scan *providertest.Reply) string {
	seen, _ := scan.JSON()["context"].(map[string]any)
	scopes, _ := seen["scopes"].([]any)
	names := ""
	for _, scope := range scopes {
		name, _ := scope.(map[string]any)["name"].(string)
		if names != "" {
			names += " "
		}
		names += name
	}
	return names
}

// TestThreatT12TheDigestIsNobodysToMake: a changed digest never approves, and a decision only
// narrows.
func TestThreatT12TheDigestIsNobodysToMake(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	c := openQR(t, s, "cli", url.Values{"scope": {"openid profile offline_access"}})
	scan, code := c.claim(p)
	was, digest := c.record(), scan.Text("context_digest")
	for what, text := range map[string]string{
		"none": "", "cut": digest[:len(digest)-1], "longer": digest + "A", "flipped": flip(digest[0]) + digest[1:],
		"padded": digest + "=", "another case": swapCase(digest), "the handle": scan.Text("confirm_handle"),
	} {
		body := decision(scan, "approve", code)
		body["context_digest"] = text
		if reply := p.post(t.Context(), "/qr/decision", body); reply.Status != http.StatusConflict || reply.Text("error") != "context_changed" {
			t.Errorf("%s: %d %s", what, reply.Status, reply.Body)
		}
	}
	for _, scope := range []string{
		"openid profile offline_access email", "email", qr.ApproveScope, "openid " + qr.ApproveScope, "OPENID", "*", "openid,profile", "openid\u00a0profile x",
	} {
		body := decision(scan, "approve", code)
		body["scope"] = scope
		wantError(t, p.post(t.Context(), "/qr/decision", body), http.StatusBadRequest, "invalid_request")
	}
	wantUnmoved(t, c, was)

	body := decision(scan, "approve", code)
	body["scope"] = "openid openid"
	if reply := p.post(t.Context(), "/qr/decision", body); reply.Status != http.StatusOK {
		t.Fatalf("narrowed: %d %s", reply.Status, reply.Body)
	}
	// A second decision cannot widen what the first one granted.
	body["scope"] = "openid profile offline_access"
	if reply := p.post(t.Context(), "/qr/decision", body); reply.Status != http.StatusOK {
		t.Errorf("repeated: %d %s", reply.Status, reply.Body)
	}
	tokens := tokensOf(t, c.poll(t.Context()))
	if tokens.Scope != "openid" || tokens.RefreshToken != "" {
		t.Errorf("scope %q, refresh token %q", tokens.Scope, tokens.RefreshToken)
	}
}
