package storagetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/qrgrant/qrgrant/storage"
)

// opened is when every QR session of the suite was opened.
func opened() time.Time { return time.Date(2026, time.November, 22, 12, 0, 0, 123456000, time.UTC) }

// after is d after every opening.
func after(d time.Duration) time.Time { return opened().Add(d) }

func digest(parts ...any) [32]byte { return sha256.Sum256([]byte(fmt.Sprint(parts...))) }

// pending returns the n-th QR session as its opening leaves it.
func pending(n int) *storage.QRSession {
	id, code, secret := digest("id", n), digest("code", n), digest("secret", n)
	return &storage.QRSession{
		ID: storage.QRID(id[:16]), Grant: storage.QRGrantCode, ClientID: "tv", KeyID: "server-1",
		OpenedAt: opened(), Lifetime: storage.QRLifetime, DeviceCodeHash: secret,
		UserCodeHash: storage.UserCodeHash(code[:16]), UserCodeSealed: code[16:],
		Scopes: []string{"openid", "profile"}, CheckCode: true, Interval: storage.PollInterval,
		Device: "Firefox on Linux", Address: "192.0.2.7",
	}
}

// create stores a session and returns it as stored.
func create(t *testing.T, s storage.Store, qs *storage.QRSession) *storage.QRSession {
	t.Helper()
	if err := s.CreateQRSession(t.Context(), qs); err != nil {
		t.Fatalf("CreateQRSession: %v", err)
	}
	return mustRead(t, s, qs.ID)
}

func mustRead(t *testing.T, s storage.Store, id storage.QRID) *storage.QRSession {
	t.Helper()
	qs, err := s.QRSession(t.Context(), id)
	if err != nil {
		t.Fatalf("QRSession: %v", err)
	}
	return qs
}

// update changes a session with a step that cannot fail.
func update(t *testing.T, s storage.Store, id storage.QRID, step func(*storage.QRSession)) {
	t.Helper()
	err := s.UpdateQRSession(t.Context(), id, func(qs *storage.QRSession) error {
		step(qs)
		return nil
	})
	if err != nil {
		t.Fatalf("UpdateQRSession: %v", err)
	}
}

// scanBy is the scan of a person's phone.
func scanBy(subject string) storage.QRScan {
	return storage.QRScan{
		Subject: subject, ClientID: "app", SessionID: "sid-" + subject, AuthTime: opened(),
		HandleHash: digest("handle", subject), Entry: storage.QREntryScanner, FrameFresh: true,
	}
}

// decisionBy is a decision of the person who scanned with scanBy.
func decisionBy(subject string, verdict storage.QRVerdict) storage.QRDecision {
	return storage.QRDecision{
		Verdict: verdict, HandleHash: digest("handle", subject), Subject: subject, ClientID: "app",
		SessionID: "sid-" + subject, DigestEqual: true, CodeEqual: true,
		Approval: storage.QRApproval{Scopes: []string{"openid"}, AuthTime: opened(), AMR: []string{"pwd", "mca"}, ResultSID: "result"},
	}
}

func scan(t *testing.T, s storage.Store, id storage.QRID, at time.Duration, subject string) {
	t.Helper()
	update(t, s, id, func(qs *storage.QRSession) { qs.Scan(after(at), scanBy(subject)) })
}

func approve(t *testing.T, s storage.Store, id storage.QRID, at time.Duration, subject string) {
	t.Helper()
	update(t, s, id, func(qs *storage.QRSession) { qs.Decide(after(at), decisionBy(subject, storage.QRApprove)) })
}

func redeem(t *testing.T, s storage.Store, id storage.QRID, at time.Duration) {
	t.Helper()
	update(t, s, id, func(qs *storage.QRSession) {
		qs.Redeem(after(at), storage.QRProof{}, storage.QRRedeeming{RequestID: "family", SessionID: "result"})
	})
}

// token returns the n-th token of a family.
func token(kind storage.TokenKind, n int) *storage.Token {
	return &storage.Token{
		Kind: kind, Signature: digest("token", n), RequestID: "family", ClientID: "tv", Subject: "ann",
		SessionID: "result", Active: true, ExpiresAt: after(10 * time.Minute), Data: []byte("data"),
	}
}

func putToken(t *testing.T, s storage.Store, tok *storage.Token) {
	t.Helper()
	if err := s.PutToken(t.Context(), tok); err != nil {
		t.Fatalf("PutToken: %v", err)
	}
}

// active reads whether a token is active.
func active(t *testing.T, s storage.Store, tok *storage.Token) bool {
	t.Helper()
	got, err := s.Token(t.Context(), tok.Kind, tok.Signature)
	if err != nil {
		t.Fatalf("Token: %v", err)
	}
	return got.Active
}

// events returns the types of every audit row with its detail, in order.
func events(t *testing.T, s storage.Store) []string {
	t.Helper()
	var types []string
	var from []byte
	for {
		rows, next, err := s.Events(t.Context(), from, 7)
		if err != nil {
			t.Fatalf("Events: %v", err)
		}
		for _, row := range rows {
			types = append(types, row.Type)
		}
		if len(rows) < 7 {
			return types
		}
		from = next
	}
}

// sweep sweeps until nothing is due.
func sweep(t *testing.T, s storage.Store, now time.Time) (removed int) {
	t.Helper()
	for {
		n, more, err := s.Sweep(t.Context(), now, 100)
		if err != nil {
			t.Fatalf("Sweep: %v", err)
		}
		removed += n
		if !more {
			return removed
		}
	}
}

// race runs n calls from one gate and returns when all have returned.
func race(n int, call func(i int)) {
	gate := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-gate
			call(i)
		})
	}
	close(gate)
	wg.Wait()
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("error = %v, want %v", got, want)
	}
}

// wantEqual compares records; nil and empty slices are the same to a store.
func wantEqual(t *testing.T, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(storage.QRSession{})); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
}
