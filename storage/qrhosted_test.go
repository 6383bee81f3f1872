package storage_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/qrgrant/qrgrant/storage"
)

// hosted is a session that the sign-in page opened, asked for a minute earlier.
func hosted() (s *storage.QRSession, cookie, foreign [32]byte) {
	opened := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cookie, foreign = sha256.Sum256([]byte("own")), sha256.Sum256([]byte("foreign"))
	return &storage.QRSession{
		ID: storage.QRID{1}, Version: 1, State: storage.QRPending, Grant: storage.QRGrantCode, ClientID: "shop",
		OpenedAt: opened, Lifetime: storage.QRLifetime, Interval: storage.PollInterval, CheckCode: true,
		Door: storage.QRDoorHosted, Hosted: &storage.QRHosted{CookieHash: cookie, RequestedAt: opened.Add(-time.Minute)},
	}, cookie, foreign
}

func phoneOf(authTime time.Time) storage.QRScan {
	return storage.QRScan{
		Subject: "alice", ClientID: "app", SessionID: "phone", AuthTime: authTime, HandleHash: sha256.Sum256([]byte("handle")),
		Entry: storage.QREntryScanner, FrameFresh: true,
	}
}

func TestHostedSessionIsRedeemedByItsCookieOnly(t *testing.T) {
	t.Parallel()
	s, cookie, foreign := hosted()
	now := s.OpenedAt.Add(5 * time.Second)
	scan := phoneOf(now)
	if got := s.Scan(now, scan); got != storage.QRScanClaimed {
		t.Fatalf("scan: %d", got)
	}
	got := s.Decide(now, storage.QRDecision{
		Verdict: storage.QRApprove, HandleHash: scan.HandleHash, Subject: "alice", ClientID: "app", SessionID: "phone",
		DigestEqual: true, CodeEqual: true, Approval: storage.QRApproval{ResultSID: "new"},
	})
	if got != storage.QRDecideApproved {
		t.Fatalf("decision: %d", got)
	}
	for name, proof := range map[string]storage.QRProof{
		"nothing":                {},
		"a foreign cookie":       {CookieHash: &foreign},
		"a verifier":             {Verifier: "a-verifier-of-forty-three-characters-or-more"},
		"the cookie and a key":   {CookieHash: &cookie, JKT: "key"},
		"the cookie, a verifier": {CookieHash: &cookie, Verifier: "a-verifier-of-forty-three-characters-or-more"},
	} {
		if s.Proves(proof) {
			t.Errorf("%s proves the session", name)
		}
		if got := s.Clone().Redeem(now, proof, storage.QRRedeeming{}); got != storage.QRPollUnproved {
			t.Errorf("%s: outcome %d", name, got)
		}
	}
	if got := s.Redeem(now, storage.QRProof{CookieHash: &cookie}, storage.QRRedeeming{SessionID: "new"}); got != storage.QRPollReady {
		t.Errorf("the cookie: outcome %d", got)
	}
	// A button pressed twice is a lost answer; a copy of the cookie used later is a replay.
	if got := s.Poll(now, storage.QRProof{CookieHash: &cookie}, false); got != storage.QRPollUsed {
		t.Errorf("twice: outcome %d", got)
	}
	if got := s.Poll(now.Add(time.Minute), storage.QRProof{CookieHash: &cookie}, false); got != storage.QRPollReplayed {
		t.Errorf("a minute later: outcome %d", got)
	}
}

func TestCookieProvesNothingAtTheDirectDoor(t *testing.T) {
	t.Parallel()
	s, cookie, _ := hosted()
	s.Door, s.Hosted = storage.QRDoorDirect, nil
	if s.Proves(storage.QRProof{CookieHash: &cookie}) || s.OpenedBy(&cookie) || !s.Proves(storage.QRProof{}) {
		t.Error("a cookie proved a direct session")
	}
}

func TestHostedStepUpCountsFromTheRequest(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		before time.Duration
		want   storage.QRScanOutcome
	}{
		"signed in before the request":                  {time.Minute + time.Second, storage.QRScanStepUp},
		"signed in since the request":                   {time.Minute, storage.QRScanClaimed},
		"signed in since the opening of a renewed code": {0, storage.QRScanClaimed},
	} {
		s, _, _ := hosted()
		s.MaxAge = new(int64)
		if got := s.Scan(s.OpenedAt.Add(time.Second), phoneOf(s.OpenedAt.Add(-row.before))); got != row.want {
			t.Errorf("%s: outcome %d, want %d", name, got, row.want)
		}
	}
}

func TestHostedClone(t *testing.T) {
	t.Parallel()
	s, _, foreign := hosted()
	clone, want := s.Clone(), s.Clone()
	s.Hosted.CookieHash = foreign
	if diff := cmp.Diff(want, clone, cmpopts.IgnoreUnexported(storage.QRSession{})); diff != "" {
		t.Error(diff)
	}
}
