package storagetest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func raceTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"of sixty-four who redeem a session one gets tokens":      redeemRace,
		"of sixty-four who scan a session one claims it":          scanRace,
		"approve against deny leaves one outcome":                 decideRace,
		"counted failures are all counted":                        countRace,
		"readers see whole records while a writer changes them":   readRace,
		"a redemption that fails to issue leaves the approval":    redeemFails,
		"a redemption that panics while issuing leaves the store": redeemPanics,
		"a waiter for a busy session gives up with its context":   lockContext,
	}
}

// redeemAndIssue is a redemption as the token endpoint does it: the session and the tokens
// are one unit. It reports whether this call won.
func redeemAndIssue(ctx context.Context, s storage.Store, id storage.QRID, tokens ...*storage.Token) (won bool, err error) {
	err = s.Tx(ctx, func(ctx context.Context) error {
		won = false
		err := s.UpdateQRSession(ctx, id, func(qs *storage.QRSession) error {
			won = qs.Redeem(after(time.Second), storage.QRProof{}, storage.QRRedeeming{RequestID: "family"}) == storage.QRPollReady
			return nil
		})
		if err != nil || !won {
			return err
		}
		for _, tok := range tokens {
			if err := s.PutToken(ctx, tok); err != nil {
				return err
			}
		}
		return nil
	})
	return won && err == nil, err
}

func approved(t *testing.T, s storage.Store, n int) storage.QRID {
	t.Helper()
	id := create(t, s, pending(n)).ID
	scan(t, s, id, 0, "ann")
	approve(t, s, id, 0, "ann")
	return id
}

func redeemRace(t *testing.T, open Open) {
	s, _ := open(t)
	for n := range 20 {
		id := approved(t, s, n)
		var wins atomic.Int64
		race(64, func(i int) {
			won, err := redeemAndIssue(t.Context(), s, id, token(storage.TokenAccess, 100*n+i), token(storage.TokenRefresh, 100*n+i))
			wantErr(t, err, nil)
			if won {
				wins.Add(1)
			}
		})
		wantEqual(t, wins.Load(), int64(1))
		wantEqual(t, mustRead(t, s, id).Version, uint64(4))
		stored := 0
		for i := range 64 {
			for _, kind := range []storage.TokenKind{storage.TokenAccess, storage.TokenRefresh} {
				if _, err := s.Token(t.Context(), kind, digest("token", 100*n+i)); err == nil {
					stored++
				}
			}
		}
		wantEqual(t, stored, 2)
	}
}

func scanRace(t *testing.T, open Open) {
	s, _ := open(t)
	for n := range 20 {
		id := create(t, s, pending(n)).ID
		var claims, taken atomic.Int64
		race(64, func(i int) {
			var outcome storage.QRScanOutcome
			err := s.UpdateQRSession(t.Context(), id, func(qs *storage.QRSession) error {
				outcome = qs.Scan(opened(), scanBy(string(rune('A'+i))))
				return nil
			})
			wantErr(t, err, nil)
			claims.Add(count(outcome == storage.QRScanClaimed))
			taken.Add(count(outcome == storage.QRScanTaken))
		})
		wantEqual(t, []int64{claims.Load(), taken.Load()}, []int64{1, 63})
	}
}

func count(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

func decideRace(t *testing.T, open Open) {
	s, _ := open(t)
	for n := range 20 {
		id := create(t, s, pending(n)).ID
		scan(t, s, id, 0, "ann")
		race(8, func(i int) {
			verdict := storage.QRApprove
			if i%2 == 1 {
				verdict = storage.QRDeny
			}
			err := s.UpdateQRSession(t.Context(), id, func(qs *storage.QRSession) error {
				qs.Decide(after(time.Second), decisionBy("ann", verdict))
				return nil
			})
			wantErr(t, err, nil)
		})
		// Until redemption a denial beats an approval, whichever came first.
		wantEqual(t, mustRead(t, s, id).State, storage.QRDenied)
	}
}

func countRace(t *testing.T, open Open) {
	s, _ := open(t)
	qs := pending(1)
	qs.JKT = "key"
	id := create(t, s, qs).ID
	race(4, func(int) {
		err := s.UpdateQRSession(t.Context(), id, func(qs *storage.QRSession) error {
			qs.Poll(opened(), storage.QRProof{JKT: "other"}, false)
			return nil
		})
		wantErr(t, err, nil)
	})
	got := mustRead(t, s, id)
	wantEqual(t, got.BindingFailures, uint8(4))
	wantEqual(t, got.Version, uint64(5))
}

func readRace(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	race(9, func(i int) {
		if i == 0 {
			scan(t, s, id, 0, "ann")
			approve(t, s, id, 0, "ann")
			redeem(t, s, id, 0)
			return
		}
		seen := uint64(0)
		for range 200 {
			qs, err := s.QRSession(t.Context(), id)
			if err != nil {
				t.Errorf("QRSession: %v", err)
				return
			}
			if qs.Version < seen || (qs.State >= storage.QRScanned) != (qs.Claim != nil) || (qs.State >= storage.QRApproved) != (qs.Approval != nil) {
				t.Errorf("torn or older record: version %d after %d in %s", qs.Version, seen, qs.State)
			}
			seen = qs.Version
		}
	})
}

func redeemFails(t *testing.T, open Open) {
	s, _ := open(t)
	id := approved(t, s, 1)
	putToken(t, s, token(storage.TokenRefresh, 1))
	_, err := redeemAndIssue(t.Context(), s, id, token(storage.TokenAccess, 1), token(storage.TokenRefresh, 1))
	wantErr(t, err, storage.ErrConflict)
	wantEqual(t, mustRead(t, s, id).State, storage.QRApproved)
	_, err = s.Token(t.Context(), storage.TokenAccess, digest("token", 1))
	wantErr(t, err, storage.ErrNotFound)
	won, err := redeemAndIssue(t.Context(), s, id, token(storage.TokenAccess, 2))
	wantErr(t, err, nil)
	wantEqual(t, won, true)
}

func redeemPanics(t *testing.T, open Open) {
	s, _ := open(t)
	id := approved(t, s, 1)
	func() {
		defer func() { wantEqual(t, recover(), any("boom")) }()
		_ = s.Tx(t.Context(), func(ctx context.Context) error {
			wantErr(t, s.UpdateQRSession(ctx, id, func(qs *storage.QRSession) error {
				qs.Redeem(opened(), storage.QRProof{}, storage.QRRedeeming{})
				return nil
			}), nil)
			panic("boom")
		})
	}()
	wantEqual(t, mustRead(t, s, id).State, storage.QRApproved)
	redeem(t, s, id, 0)
	wantEqual(t, mustRead(t, s, id).State, storage.QRRedeemed)
}

func lockContext(t *testing.T, open Open) {
	s, _ := open(t)
	id := approved(t, s, 1)
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		err := s.UpdateQRSession(ctx, id, func(qs *storage.QRSession) error {
			qs.Cancel(opened())
			return nil
		})
		if err != nil {
			return err
		}
		// Somebody else, whose context ends while this unit is still running.
		other, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err = s.UpdateQRSession(other, id, func(qs *storage.QRSession) error {
			qs.Cancel(opened())
			return nil
		})
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a busy session: %v", err)
		}
		return nil
	})
	// A driver without locks lets the other one through and fails the unit instead.
	if err != nil {
		wantErr(t, err, storage.ErrConflict)
	}
}
