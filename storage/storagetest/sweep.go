package storagetest

import (
	"context"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func sweepTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a claimed session's expiry is logged once":            sweepLogs,
		"an approved session's expiry is logged once":          sweepLogsApproved,
		"an unscanned session is forgotten without a row":      sweepForgets,
		"an ended session is kept a day":                       sweepTombstone,
		"a sweep removes at most its limit and says so":        sweepLimit,
		"a sweep of nothing due does not depend on the rows":   sweepCost,
		"a session expires at its deadline, before any sweep":  sweepDeadline,
		"old audit rows are removed":                           sweepEvents,
		"a sweep beside redemptions harms none of them":        sweepRace,
		"an opened session survives a restart and then sweeps": sweepRestarted,
	}
}

func sweepLogs(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	scan(t, s, id, 0, "ann")
	sweep(t, s, after(120*time.Second-time.Microsecond))
	want := []string{storage.EventQROpened, storage.EventQRScanned, storage.EventQRExpired}
	wantEqual(t, mustRead(t, s, id).ExpiryLogged, false)
	for range 2 {
		wantEqual(t, sweep(t, s, after(122*time.Second)), 0)
		wantEqual(t, events(t, s), want)
	}
	qs := mustRead(t, s, id)
	wantEqual(t, []any{qs.ExpiryLogged, qs.Version, qs.StateAt(after(122 * time.Second))}, []any{true, uint64(3), storage.QRExpired})
	sweep(t, s, qs.ExpiresAt().Add(24*time.Hour-time.Second))
	mustRead(t, s, id)
	wantEqual(t, sweep(t, s, qs.ExpiresAt().Add(24*time.Hour)), 1)
	_, err := s.QRSession(t.Context(), id)
	wantErr(t, err, storage.ErrNotFound)
	wantEqual(t, events(t, s), want)
}

func sweepLogsApproved(t *testing.T, open Open) {
	s, _ := open(t)
	id := approved(t, s, 1)
	sweep(t, s, after(30*time.Second-time.Microsecond))
	wantEqual(t, mustRead(t, s, id).ExpiryLogged, false)
	sweep(t, s, after(30*time.Second))
	wantEqual(t, mustRead(t, s, id).ExpiryLogged, true)
	// A redemption that read its clock before the sweep comes too late.
	won, err := redeemAndIssue(t.Context(), s, id, token(storage.TokenAccess, 1))
	wantErr(t, err, nil)
	wantEqual(t, won, false)
	wantEqual(t, events(t, s), []string{storage.EventQROpened, storage.EventQRScanned, storage.EventQRApproved, storage.EventQRExpired})
}

func sweepForgets(t *testing.T, open Open) {
	s, reopen := open(t)
	id := create(t, s, pending(1)).ID
	sweep(t, s, after(storage.QRLifetime))
	wantEqual(t, mustRead(t, s, id).StateAt(after(storage.QRLifetime)), storage.QRExpired)
	wantEqual(t, sweep(t, s, after(storage.QRLifetime+24*time.Hour+time.Second)), 1)
	_, err := s.QRSession(t.Context(), id)
	wantErr(t, err, storage.ErrNotFound)
	_, err = s.QRSessionByUserCode(t.Context(), pending(1).UserCodeHash)
	wantErr(t, err, storage.ErrNotFound)
	for _, event := range events(t, reopen()) {
		if event == storage.EventQRExpired {
			t.Error("an unscanned session's expiry was logged")
		}
	}
}

func sweepTombstone(t *testing.T, open Open) {
	s, _ := open(t)
	id := approved(t, s, 1)
	redeem(t, s, id, 10*time.Second)
	sweep(t, s, after(24*time.Hour+10*time.Second-time.Microsecond))
	wantEqual(t, mustRead(t, s, id).State, storage.QRRedeemed)
	wantEqual(t, sweep(t, s, after(24*time.Hour+10*time.Second)), 1)
	_, err := s.QRSession(t.Context(), id)
	wantErr(t, err, storage.ErrNotFound)
}

// fill stores n tokens that expire at a time.
func fill(t *testing.T, s storage.Store, from, n int, expires time.Time) {
	t.Helper()
	for n > 0 {
		chunk := min(n, 1000)
		err := s.Tx(t.Context(), func(ctx context.Context) error {
			for i := range chunk {
				tok := token(storage.TokenAccess, from+i)
				tok.ExpiresAt = expires
				if err := s.PutToken(ctx, tok); err != nil {
					return err
				}
			}
			return nil
		})
		wantErr(t, err, nil)
		from, n = from+chunk, n-chunk
	}
}

func sweepLimit(t *testing.T, open Open) {
	s, _ := open(t)
	fill(t, s, 0, 25, after(time.Minute))
	fill(t, s, 100, 5, after(time.Hour))
	for i, want := range []struct {
		removed int
		more    bool
	}{{10, true}, {10, true}, {5, false}, {0, false}} {
		removed, more, err := s.Sweep(t.Context(), after(2*time.Minute), 10)
		wantErr(t, err, nil)
		if removed != want.removed || more != want.more {
			t.Errorf("sweep %d: removed %d, more %t; want %d, %t", i, removed, more, want.removed, want.more)
		}
	}
}

func sweepCost(t *testing.T, open Open) {
	s, _ := open(t)
	fill(t, s, 0, 20_000, after(time.Hour))
	fastest := time.Hour
	for range 20 {
		start := time.Now()
		wantEqual(t, sweep(t, s, after(time.Minute)), 0)
		fastest = min(fastest, time.Since(start))
	}
	// Reading twenty thousand rows takes several times as long on any machine.
	if fastest > 5*time.Millisecond {
		t.Errorf("a sweep with nothing due took %v at 20,000 rows", fastest)
	}
}

func sweepDeadline(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	deadline := storage.QRLifetime - time.Minute
	var outcome storage.QRScanOutcome
	update(t, s, id, func(qs *storage.QRSession) { outcome = qs.Scan(after(deadline), scanBy("ann")) })
	wantEqual(t, outcome, storage.QRScanGone)
	update(t, s, id, func(qs *storage.QRSession) { outcome = qs.Scan(after(deadline-time.Microsecond), scanBy("ann")) })
	wantEqual(t, outcome, storage.QRScanClaimed)
}

func sweepEvents(t *testing.T, open Open) {
	s, reopen := open(t)
	s.RecordEvent(t.Context(), storage.AuditEvent{At: opened(), Type: storage.EventQRRateLimited})
	s.RecordEvent(t.Context(), storage.AuditEvent{At: after(10 * 365 * 24 * time.Hour), Type: storage.EventQRStepUp})
	s = reopen()
	sweep(t, s, after(10*365*24*time.Hour))
	wantEqual(t, events(t, s), []string{storage.EventQRStepUp})
}

func sweepRace(t *testing.T, open Open) {
	s, _ := open(t)
	var ids []storage.QRID
	for n := range 20 {
		ids = append(ids, approved(t, s, n))
	}
	race(len(ids)+4, func(i int) {
		if i >= len(ids) {
			sweep(t, s, after(25*time.Second))
			return
		}
		won, err := redeemAndIssue(t.Context(), s, ids[i], token(storage.TokenAccess, i))
		wantErr(t, err, nil)
		wantEqual(t, won, true)
	})
	race(8, func(int) { sweep(t, s, after(25*time.Hour)) })
	for _, id := range ids {
		_, err := s.QRSession(t.Context(), id)
		wantErr(t, err, storage.ErrNotFound)
	}
}

func sweepRestarted(t *testing.T, open Open) {
	s, reopen := open(t)
	want := create(t, s, pending(1))
	s = reopen()
	wantEqual(t, mustRead(t, s, want.ID), want)
	wantEqual(t, sweep(t, s, want.ExpiresAt().Add(24*time.Hour)), 1)
	_, err := s.QRSession(t.Context(), want.ID)
	wantErr(t, err, storage.ErrNotFound)
}
