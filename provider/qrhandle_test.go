package provider_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// TestScanRepeats: the claimer may repeat its scan five times; each repeat has the same context
// and tries, a fresh handle, and kills the older ones. The sixth is refused, the handle lives.
func TestScanRepeats(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: manyTries})
	c, p := openQR(t, s, "cli", nil), newPhone(t, s)
	first, code := c.claim(p)
	wantRefusal(t, p.decide(first, "approve", wrongCode(code)), http.StatusUnprocessableEntity, "check_code_mismatch")
	s.Clock.Advance(30 * time.Second) // the frame rotates away; a repeat does not look at its age
	answers := []*providertest.Reply{first}
	for i := range 5 {
		reply := p.scan(payload(c.opened), "typed") // nor does the entry of a repeat count
		mustAnswer(t, reply, http.StatusOK)
		for _, older := range answers {
			if older.Text("confirm_handle") == reply.Text("confirm_handle") {
				t.Errorf("repeat %d got an old handle", i)
			}
			wantRefusal(t, p.decide(older, "deny", ""), http.StatusNotFound, "not_found")
		}
		before, now := contextOf(t, first), contextOf(t, reply)
		delete(before, "age_seconds")
		delete(now, "age_seconds")
		if diff := cmp.Diff(before, now); diff != "" {
			t.Error(diff)
		}
		if reply.Text("context_digest") != first.Text("context_digest") {
			t.Error("the digest of the same context changed")
		}
		answers = append(answers, reply)
	}
	before := c.record()
	if before.Claim.TriesLeft != 2 {
		t.Errorf("tries left = %d", before.Claim.TriesLeft)
	}
	sixth := p.scan(payload(c.opened), "scanner")
	wantRefusal(t, sixth, http.StatusTooManyRequests, "rate_limited")
	if got := sixth.Header.Get("Retry-After"); got != "90" {
		t.Errorf("Retry-After = %q", got)
	}
	wantUnchanged(t, before, c.record())
	if got := c.poll(t.Context()).Text("check_code"); got != code {
		t.Errorf("the check code changed from %s to %s", code, got)
	}
	mustAnswer(t, p.decide(answers[5], "approve", code), http.StatusOK)
}

// TestClaimIsBoundToTheSignIn: another sign-in of the same person is another phone.
func TestClaimIsBoundToTheSignIn(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c, claimer, second := openQR(t, s, "cli", nil), newPhone(t, s), newPhone(t, s)
	scan, code := c.claim(claimer)
	before := c.record()
	wantRefusal(t, second.scan(payload(c.opened), "scanner"), http.StatusConflict, "already_claimed")
	wantRefusal(t, second.decide(scan, "approve", code), http.StatusNotFound, "not_found")
	wantRefusal(t, second.decide(scan, "report", ""), http.StatusNotFound, "not_found")
	wantUnchanged(t, before, c.record())
}

// TestDecisionOrder: digest before code, a malformed code is no try, deny and report need only
// the handle, scope may only narrow.
func TestDecisionOrder(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: manyTries})
	p := newPhone(t, s)
	c := openQR(t, s, "cli", nil)
	scan, code := c.claim(p)
	for _, row := range []struct {
		name    string
		change  map[string]string
		status  int
		code    string
		changed bool
	}{
		{"another digest with a wrong code is no try", map[string]string{"context_digest": "x", "check_code": wrongCode(code)}, 409, "context_changed", false},
		{"no digest", map[string]string{"context_digest": ""}, 409, "context_changed", false},
		{"no check code", map[string]string{"check_code": ""}, 400, "invalid_request", false},
		{"a check code of three digits", map[string]string{"check_code": "123"}, 400, "invalid_request", false},
		{"a check code under ten", map[string]string{"check_code": "07"}, 400, "invalid_request", false},
		{"a check code with space", map[string]string{"check_code": " " + code}, 400, "invalid_request", false},
		{"a wider scope", map[string]string{"scope": "openid profile email"}, 400, "invalid_request", false},
		{"an unknown verdict", map[string]string{"decision": "maybe"}, 400, "invalid_request", false},
		{"a handle of another session", map[string]string{"confirm_handle": openHandle(t, s, p)}, 404, "not_found", false},
		{"a malformed handle", map[string]string{"confirm_handle": "x"}, 404, "not_found", false},
		{"a wrong code", map[string]string{"check_code": wrongCode(code)}, 422, "check_code_mismatch", true},
		{"fewer scopes", map[string]string{"scope": "openid"}, 200, "", true},
	} {
		before := c.record()
		body := decision(scan, "approve", code)
		for name, value := range row.change {
			body[name] = value
		}
		reply := p.post(t.Context(), "/qr/decision", body)
		if reply.Status != row.status || reply.Text("error") != row.code {
			t.Errorf("%s: %d %s", row.name, reply.Status, reply.Body)
		}
		if !row.changed {
			wantUnchanged(t, before, c.record())
		}
	}
	if tokens := c.poll(t.Context()); tokens.Text("scope") != "openid" {
		t.Errorf("scope = %q: %s", tokens.Text("scope"), tokens.Body)
	}
}

// openHandle is a handle of the same phone for a session of its own, with a random half that
// belongs to no session.
func openHandle(t *testing.T, s *providertest.Server, p *phone) string {
	t.Helper()
	c := openQR(t, s, "cli", nil)
	scan, _ := c.claim(p)
	raw, err := base64.RawURLEncoding.DecodeString(scan.Text("confirm_handle"))
	if err != nil {
		t.Fatal(err)
	}
	raw[20] ^= 1
	return base64.RawURLEncoding.EncodeToString(raw)
}

// TestWrongVerifierCounts: the fifth wrong or missing verifier ends the session.
func TestWrongVerifierCounts(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		client string
		change url.Values
	}{
		"a wrong verifier":       {"cli", url.Values{"code_verifier": {strings.Repeat("w", 43)}}},
		"no verifier":            {"cli", url.Values{"code_verifier": {""}}},
		"an unexpected verifier": {"tv", url.Values{"code_verifier": {strings.Repeat("w", 43)}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c := openQR(t, s, row.client, nil)
			c.approve(newPhone(t, s))
			for range 4 {
				wantRefusal(t, c.post(t.Context(), "/token", mergeForm(c.tokenForm(), row.change), nil), http.StatusBadRequest, "invalid_grant")
			}
			if q := c.record(); q.State != storage.QRApproved || q.BindingFailures != 4 {
				t.Fatalf("after four: %s, %d failures", q.State, q.BindingFailures)
			}
			wantRefusal(t, c.post(t.Context(), "/token", mergeForm(c.tokenForm(), row.change), nil), http.StatusBadRequest, "invalid_grant")
			wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
			if q := c.record(); q.State != storage.QRAborted {
				t.Errorf("after five: %s", q.State)
			}
		})
	}
}

// TestHandleOutlivesTheDecision: 120 s, to repeat it, to deny or to report; then it is unknown.
func TestHandleOutlivesTheDecision(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		state, verdict string
		after          time.Duration
		status         int
		code           string
	}{
		{"approved redeemed", "approve", 119 * time.Second, 200, ""},
		{"approved redeemed", "approve", 120 * time.Second, 404, "not_found"},
		{"approved redeemed", "deny", 120 * time.Second, 404, "not_found"},
		{"scanned denied", "deny", 119 * time.Second, 200, ""},
		{"scanned denied", "deny", 120 * time.Second, 404, "not_found"},
		{"scanned denied", "report", 119 * time.Second, 200, ""},
		{"scanned denied", "report", 121 * time.Second, 404, "not_found"},
		// An approval nobody redeemed is over after 30 s.
		{"approved", "report", 29 * time.Second, 200, ""},
		{"approved", "report", 30 * time.Second, 410, "gone"},
	} {
		t.Run(row.state+": "+row.verdict+" "+row.after.String()+" later", func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: manyTries})
			sc := stage(t, s, "cli", row.state, newPhone(t, s), nil)
			s.Clock.Advance(row.after)
			reply := sc.decide(t, sc.claimer, row.verdict, sc.code)
			if reply.Status != row.status || reply.Text("error") != row.code {
				t.Errorf("got %d %s, want %d %s", reply.Status, reply.Body, row.status, row.code)
			}
		})
	}
}

// TestEndsAnswerUntilSwept: for a day an end answers as such; then nothing is known of it.
func TestEndsAnswerUntilSwept(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: manyTries})
	sc := stage(t, s, "cli", "scanned cancelled", newPhone(t, s), nil)
	for _, step := range []struct {
		pause       time.Duration
		token, scan string
		cancelled   int
	}{
		{24*time.Hour - time.Second, "access_denied", "gone", http.StatusOK},
		{time.Second, "invalid_grant", "not_found", http.StatusBadRequest},
	} {
		s.Clock.Advance(step.pause)
		if _, err := s.Provider.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The claimer's token is over by then, too.
		got := []string{sc.poll(t.Context()).Text("error"), newPhone(t, s).scan(payload(sc.opened), "scanner").Text("error")}
		if diff := cmp.Diff([]string{step.token, step.scan}, got); diff != "" {
			t.Error(diff)
		}
		if reply := sc.cancel(t.Context()); reply.Status != step.cancelled {
			t.Errorf("cancel: %d %s", reply.Status, reply.Body)
		}
	}
}
