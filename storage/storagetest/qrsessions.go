package storagetest

import (
	"errors"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func qrTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"an opened session comes back with version one":      qrRoundTrip,
		"an id is taken once":                                qrConflict,
		"a login goes from opening to redemption":            qrLogin,
		"an update that fails leaves the record":             qrUpdateFails,
		"an update that panics leaves the record usable":     qrUpdatePanics,
		"an update that changes nothing keeps the version":   qrUpdateNothing,
		"a change without a new version is refused":          qrUpdateWithoutVersion,
		"returned sessions are copies":                       qrCopies,
		"each move has one audit row, in order":              qrAudit,
		"a raised interval and a counted failure are stored": qrCounters,
	}
}

func qrRoundTrip(t *testing.T, open Open) {
	s, _ := open(t)
	age := int64(300)
	full := pending(1)
	full.Challenge, full.JKT, full.Nonce, full.MaxAge = "challenge", "jkt", "n-0S6", &age
	full.ACRValues, full.Hinted, full.HintSubject = []string{"acr"}, true, "ann"
	full.BindingMessage, full.DeviceName, full.Image, full.TypeUserCode = "Ärger 7", "tv", "svg", true
	full.Door, full.Hosted = storage.QRDoorHosted, &storage.QRHosted{
		CookieHash: digest("cookie"), Browser: "b", Request: digest("request"), RequestedAt: after(-time.Minute),
		RelyingParty: "Shop", Origin: "https://shop.example",
	}
	bare := &storage.QRSession{ID: storage.QRID{1}, OpenedAt: opened(), Lifetime: time.Minute}
	for _, given := range []*storage.QRSession{full, bare} {
		want := given.Clone()
		want.Version, want.State = 1, storage.QRPending
		wantEqual(t, create(t, s, given), want)
		wantEqual(t, given, want)
		byCode, err := s.QRSessionByUserCode(t.Context(), given.UserCodeHash)
		wantErr(t, err, nil)
		wantEqual(t, byCode, want)
	}
}

func qrConflict(t *testing.T, open Open) {
	s, reopen := open(t)
	create(t, s, pending(1))
	again := pending(1)
	again.UserCodeHash = storage.UserCodeHash{1}
	wantErr(t, s.CreateQRSession(t.Context(), again), storage.ErrConflict)
	scan(t, s, again.ID, 0, "ann")
	approve(t, s, again.ID, 0, "ann")
	wantErr(t, s.CreateQRSession(t.Context(), again), storage.ErrConflict)
	wantErr(t, reopen().CreateQRSession(t.Context(), again), storage.ErrConflict)
}

func qrLogin(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	var states []string
	note := func() {
		qs := mustRead(t, s, id)
		states = append(states, qs.State.String())
		wantEqual(t, qs.Version, uint64(len(states)))
	}
	note()
	scan(t, s, id, time.Second, "ann")
	note()
	approve(t, s, id, 2*time.Second, "ann")
	note()
	redeem(t, s, id, 3*time.Second)
	note()
	wantEqual(t, states, []string{"pending", "scanned", "approved", "redeemed"})
	got := mustRead(t, s, id)
	wantEqual(t, got.Redemption, &storage.QRRedeeming{At: after(3 * time.Second), RequestID: "family", SessionID: "result"})
	wantEqual(t, got.Claim.Version, uint64(2))
}

func qrUpdateFails(t *testing.T, open Open) {
	s, _ := open(t)
	want := create(t, s, pending(1))
	cause := errors.New("no")
	err := s.UpdateQRSession(t.Context(), want.ID, func(qs *storage.QRSession) error {
		qs.Scan(opened(), scanBy("ann"))
		return cause
	})
	wantErr(t, err, cause)
	wantEqual(t, mustRead(t, s, want.ID), want)
}

func qrUpdatePanics(t *testing.T, open Open) {
	s, _ := open(t)
	want := create(t, s, pending(1))
	func() {
		defer func() { wantEqual(t, recover(), any("boom")) }()
		update(t, s, want.ID, func(qs *storage.QRSession) {
			qs.Cancel(opened())
			panic("boom")
		})
	}()
	wantEqual(t, mustRead(t, s, want.ID), want)
	scan(t, s, want.ID, 0, "ann")
	wantEqual(t, mustRead(t, s, want.ID).State, storage.QRScanned)
}

func qrUpdateNothing(t *testing.T, open Open) {
	s, _ := open(t)
	want := create(t, s, pending(1))
	update(t, s, want.ID, func(qs *storage.QRSession) { qs.Poll(opened(), storage.QRProof{}, false) })
	wantEqual(t, mustRead(t, s, want.ID), want)
}

func qrUpdateWithoutVersion(t *testing.T, open Open) {
	s, _ := open(t)
	want := create(t, s, pending(1))
	err := s.UpdateQRSession(t.Context(), want.ID, func(qs *storage.QRSession) error {
		qs.DeviceName = "changed"
		return nil
	})
	if err == nil {
		t.Error("a change that kept the version was accepted")
	}
	wantEqual(t, mustRead(t, s, want.ID), want)
}

func qrCopies(t *testing.T, open Open) {
	s, _ := open(t)
	given := pending(1)
	create(t, s, given)
	given.Scopes[0], given.UserCodeSealed[0] = "changed", 0xff
	want := pending(1)
	want.Version, want.State = 1, storage.QRPending
	for range 2 {
		got := mustRead(t, s, want.ID)
		wantEqual(t, got, want)
		got.Scopes[0], got.State = "changed", storage.QRApproved
		got.UserCodeSealed[0] ^= 0xff
	}
	decision := decisionBy("ann", storage.QRApprove)
	scan(t, s, want.ID, 0, "ann")
	update(t, s, want.ID, func(qs *storage.QRSession) { qs.Decide(opened(), decision) })
	decision.Approval.Scopes[0] = "changed"
	wantEqual(t, mustRead(t, s, want.ID).Approval.Scopes, []string{"openid"})
}

func qrAudit(t *testing.T, open Open) {
	s, reopen := open(t)
	id := create(t, s, pending(1)).ID
	scan(t, s, id, 1*time.Second, "ann")
	scan(t, s, id, 2*time.Second, "ann")
	update(t, s, id, func(qs *storage.QRSession) {
		wrong := decisionBy("ann", storage.QRApprove)
		wrong.CodeEqual = false
		qs.Decide(after(3*time.Second), wrong)
	})
	approve(t, s, id, 4*time.Second, "ann")
	redeem(t, s, id, 5*time.Second)
	want := []string{
		storage.EventQROpened, storage.EventQRScanned, storage.EventQRCodeFailed,
		storage.EventQRApproved, storage.EventQRRedeemed,
	}
	wantEqual(t, events(t, s), want)
	rows, _, err := s.Events(t.Context(), nil, 2)
	wantErr(t, err, nil)
	wantEqual(t, rows[1], storage.AuditEvent{
		At: after(time.Second), Type: storage.EventQRScanned, QRSession: id.Hash(), ClientID: "tv",
		Subject: "ann", ApproverID: "app", SessionID: "sid-ann",
	})
	wantEqual(t, events(t, reopen()), want)
}

func qrCounters(t *testing.T, open Open) {
	s, reopen := open(t)
	bound := pending(1)
	bound.JKT = "key"
	id := create(t, s, bound).ID
	update(t, s, id, func(qs *storage.QRSession) { qs.Poll(opened(), storage.QRProof{JKT: "key"}, true) })
	update(t, s, id, func(qs *storage.QRSession) { qs.Poll(opened(), storage.QRProof{JKT: "other"}, false) })
	got := mustRead(t, reopen(), id)
	wantEqual(t, got.Interval, storage.PollInterval+5*time.Second)
	wantEqual(t, got.BindingFailures, uint8(1))
	wantEqual(t, got.Version, uint64(3))
}
