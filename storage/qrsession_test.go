package storage_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/storage"
)

func TestProves(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		challenge, jkt string
		proof          storage.QRProof
		want           bool
	}{
		"nothing for an unbound session":     {"", "", storage.QRProof{}, true},
		"an unexpected verifier":             {"", "", storage.QRProof{Verifier: verifier}, false},
		"an unexpected key":                  {"", "", storage.QRProof{JKT: "key"}, false},
		"the verifier":                       {challenge(), "", storage.QRProof{Verifier: verifier}, true},
		"a wrong verifier":                   {challenge(), "", storage.QRProof{Verifier: "x"}, false},
		"the challenge itself":               {challenge(), "", storage.QRProof{Verifier: challenge()}, false},
		"no verifier":                        {challenge(), "", storage.QRProof{}, false},
		"the key":                            {"", "key", storage.QRProof{JKT: "key"}, true},
		"a wrong key of the same length":     {"", "key", storage.QRProof{JKT: "yek"}, false},
		"no key":                             {"", "key", storage.QRProof{}, false},
		"verifier and key":                   {challenge(), "key", storage.QRProof{Verifier: verifier, JKT: "key"}, true},
		"the verifier with a wrong key":      {challenge(), "key", storage.QRProof{Verifier: verifier, JKT: "yek"}, false},
		"the key with a wrong verifier":      {challenge(), "key", storage.QRProof{Verifier: "x", JKT: "key"}, false},
		"the verifier of a session with key": {challenge(), "key", storage.QRProof{Verifier: verifier}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open()
			s.Challenge, s.JKT = test.challenge, test.jkt
			if got := s.Proves(test.proof); got != test.want {
				t.Errorf("Proves = %t, want %t", got, test.want)
			}
			if bound := test.challenge != "" || test.jkt != ""; s.Bound() != bound {
				t.Errorf("Bound = %t", s.Bound())
			}
		})
	}
}

func TestWhoTheClaimerIs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		jkt   string
		again func(*storage.QRScan)
		want  string
	}{
		"the same sign-in":                          {"", func(*storage.QRScan) {}, "repeated"},
		"not another sign-in of the person":         {"", func(s *storage.QRScan) { s.SessionID = "other" }, "taken"},
		"the same key in another sign-in":           {"key", func(s *storage.QRScan) { s.SessionID = "other" }, "repeated"},
		"not another key":                           {"key", func(s *storage.QRScan) { s.JKT = "other" }, "taken"},
		"not the sign-in without its key":           {"key", func(s *storage.QRScan) { s.JKT = "" }, "taken"},
		"not another person with the same key":      {"key", func(s *storage.QRScan) { s.Subject = "bob" }, "taken"},
		"not another person with the same sid":      {"", func(s *storage.QRScan) { s.Subject = "bob" }, "taken"},
		"not another client with the same key":      {"key", func(s *storage.QRScan) { s.ClientID = "other" }, "taken"},
		"the same phone with a frame that is older": {"", func(s *storage.QRScan) { s.FrameFresh = false }, "repeated"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open()
			scan := phone("ann", 1)
			scan.JKT = test.jkt
			s.Scan(at(10), scan)
			test.again(&scan)
			if got := scanWord(s.Scan(at(11), scan)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestSweepAt checks when a record is looked at by the sweep, and what may wait for the disk.
func TestSweepAt(t *testing.T) {
	t.Parallel()
	const day = 24 * 60 * 60
	want := map[string]struct {
		sweep int
		lazy  bool
	}{
		"pending": {240 + day, true}, "scanned": {130, true}, "approved": {50, false},
		"redeemed just now": {25 + day, false}, "redeemed before": {25 + day, false}, "denied": {25 + day, false},
		"cancelled": {25 + day, false}, "aborted": {25 + day, false},
		"expired pending": {240 + day, true}, "expired scanned": {130, true}, "expired approved": {50, false},
	}
	for _, column := range columns() {
		t.Run(column.name, func(t *testing.T) {
			t.Parallel()
			s := open()
			for _, step := range column.steps {
				step(s)
			}
			if got := s.SweepAt(); !got.Equal(at(want[column.name].sweep)) {
				t.Errorf("SweepAt = %v", got.Sub(start()))
			}
			if got := s.Lazy(); got != want[column.name].lazy {
				t.Errorf("Lazy = %t", got)
			}
			if s.LogExpiry(at(column.event)) && !s.SweepAt().Equal(at(240+day)) {
				t.Errorf("after the expiry was logged SweepAt = %v", s.SweepAt().Sub(start()))
			}
		})
	}
}

func TestWhatMustNotBeLostIsNotLazy(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]func(*storage.QRSession){
		"a raised interval": func(s *storage.QRSession) { s.Poll(at(11), proof(), true) },
		"a failed binding":  func(s *storage.QRSession) { s.Poll(at(11), storage.QRProof{}, false) },
		"a wrong code": func(s *storage.QRSession) {
			s.Decide(at(11), decisionWith(func(d *storage.QRDecision) { d.CodeEqual = false }))
		},
		"an expiry that was logged":  func(s *storage.QRSession) { s.LogExpiry(at(500)) },
		"a session that was refused": func(s *storage.QRSession) { s.Decide(at(11), decision(storage.QRDeny, "ann", 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open()
			s.Scan(at(10), phone("ann", 1))
			s.Scan(at(10), phone("ann", 1))
			if !s.Lazy() {
				t.Fatal("a repeated scan is not lazy")
			}
			if step(s); s.Lazy() {
				t.Error("lazy")
			}
		})
	}
}

func TestCloneIsDeep(t *testing.T) {
	t.Parallel()
	age := int64(5)
	s := open()
	s.UserCodeSealed, s.Scopes, s.ACRValues, s.MaxAge = []byte{1}, []string{"openid"}, []string{"acr"}, &age
	s.Audience = []string{"https://api.example/"}
	scan := phone("ann", 1)
	scan.ACR = "acr"
	s.Scan(at(1), scan)
	d := decision(storage.QRApprove, "ann", 1)
	d.Approval = storage.QRApproval{Scopes: []string{"openid"}, AMR: []string{"pwd"}}
	s.Decide(at(2), d)
	s.Redeem(at(3), proof(), storage.QRRedeeming{RequestID: "family"})
	clone, want := s.Clone(), s.Clone()
	clone.UserCodeSealed[0], clone.Scopes[0], clone.ACRValues[0], *clone.MaxAge = 9, "x", "x", 9
	clone.Audience[0] = "x"
	clone.Claim.Subject, clone.Approval.Scopes[0], clone.Approval.AMR[0] = "x", "x", "x"
	clone.Redemption.RequestID = "x"
	if events := clone.TakeEvents(); len(events) != 3 {
		t.Errorf("%d events in the clone", len(events))
	}
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(storage.QRSession{})); diff != "" {
		t.Errorf("a change of the clone reached the record:\n%s", diff)
	}
	// A slice that both share would be the same in want too.
	for _, text := range []string{s.Scopes[0], s.ACRValues[0], s.Audience[0], s.Approval.Scopes[0], s.Approval.AMR[0]} {
		if text == "x" {
			t.Errorf("a slice of the clone is the record's: %+v", s)
		}
	}
	if events := s.TakeEvents(); len(events) != 3 || len(s.TakeEvents()) != 0 {
		t.Errorf("%d events, taken once", len(events))
	}
}

// A client that asks for a kind of sign-in gets it or is told, never less.
func TestScanStepsUpForACRValues(t *testing.T) {
	t.Parallel()
	for acr, want := range map[string]storage.QRScanOutcome{
		"": storage.QRScanStepUp, "low": storage.QRScanStepUp, "high": storage.QRScanClaimed, "higher": storage.QRScanClaimed,
	} {
		s := open()
		s.ACRValues = []string{"high", "higher"}
		scan := phone("ann", 1)
		scan.ACR = acr
		if got := s.Scan(at(1), scan); got != want {
			t.Errorf("a phone with acr %q: %v, want %v", acr, got, want)
		}
	}
}

// A sign-in made for this request serves whatever max_age says.
func TestScanAcceptsASignInSinceTheOpening(t *testing.T) {
	t.Parallel()
	for since, want := range map[int]storage.QRScanOutcome{-1: storage.QRScanStepUp, 0: storage.QRScanClaimed, 20: storage.QRScanClaimed} {
		s, none := open(), int64(0)
		s.MaxAge = &none
		scan := phone("ann", 1)
		scan.AuthTime = at(since)
		if got := s.Scan(at(60), scan); got != want {
			t.Errorf("signed in %d s after the opening: %v, want %v", since, got, want)
		}
	}
}

// A replay is acted on once: what it revoked stays revoked, and the next one writes nothing.
func TestReplayIsNotedOnce(t *testing.T) {
	t.Parallel()
	s := open()
	s.Scan(at(1), phone("ann", 1))
	if s.Revoked(at(1)) {
		t.Error("a family was revoked before there was one")
	}
	s.Decide(at(2), decision(storage.QRApprove, "ann", 1))
	s.Redeem(at(3), proof(), storage.QRRedeeming{RequestID: "family"})
	if got := s.Poll(at(60), proof(), false); got != storage.QRPollReplayed {
		t.Fatalf("the replay: %v", got)
	}
	s.TakeEvents()
	version := s.Version
	if !s.Revoked(at(60)) || s.Revoked(at(61)) {
		t.Error("noted not once")
	}
	if events := s.TakeEvents(); len(events) != 1 || events[0].Type != storage.EventQRReplayed || s.Version != version+1 {
		t.Errorf("events %v at version %d, want one qr.replayed", events, s.Version)
	}
	if got := s.Poll(at(62), proof(), false); got != storage.QRPollUsed || s.Version != version+1 {
		t.Errorf("the replay after it: %v", got)
	}
}

func TestVerifierMatches(t *testing.T) {
	t.Parallel()
	good := strings.Repeat("aZ9-._~", 7)
	challenge := func(verifier string) string {
		sum := sha256.Sum256([]byte(verifier))
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	for _, row := range []struct {
		name, verifier string
		want           bool
	}{
		{"every allowed character", good, true},
		{"43 characters", good[:43], true},
		{"42 characters", good[:42], false},
		{"128 characters", strings.Repeat("a", 128), true},
		{"129 characters", strings.Repeat("a", 129), false},
		{"a character that is not unreserved", good[:43] + "+", false},
		{"nothing", "", false},
	} {
		if got := storage.VerifierMatches(challenge(row.verifier), row.verifier); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
	if storage.VerifierMatches(challenge(good), good[1:]+"a") {
		t.Error("another verifier matches")
	}
}

func TestSessionIsActiveUntilItEndsOrExpires(t *testing.T) {
	t.Parallel()
	s := &storage.Session{ExpiresAt: at(10)}
	edges(t, 10, func(now time.Time) string { return map[bool]string{true: "active", false: "over"}[s.ActiveAt(now)] }, "active", "over")
	s.EndedAt = at(5)
	if s.ActiveAt(at(6)) {
		t.Error("active after its end")
	}
}

func TestStatesHaveNames(t *testing.T) {
	t.Parallel()
	var got []string
	for s := storage.QRState(0); s <= storage.QRExpired+1; s++ {
		got = append(got, s.String())
	}
	want := []string{"none", "pending", "scanned", "approved", "redeemed", "denied", "cancelled", "aborted", "expired", "none"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
