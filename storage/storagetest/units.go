package storagetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func unitTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a unit is applied as a whole":                          unitApplied,
		"a unit that fails applies nothing":                     unitFails,
		"a unit with a lost condition applies nothing":          unitConflict,
		"a unit inside a unit joins it":                         unitJoins,
		"an inner failure fails the whole":                      unitInnerFails,
		"a read inside a unit sees the store as it was":         unitReads,
		"a second change of a session in a unit sees the first": unitRestages,
		"a session created in a unit can be changed in it":      unitCreates,
		"a unit with an ended context commits nothing":          unitCancelled,
		"revocation survives the failure of its unit":           unitRevokes,
		"an audit row survives the failure of its unit":         unitRecords,
		"a context outlives its unit without effect":            unitOver,
	}
}

var errRollback = errors.New("storagetest: roll back")

func cancelIn(ctx context.Context, s storage.Store, id storage.QRID) error {
	return s.UpdateQRSession(ctx, id, func(qs *storage.QRSession) error {
		qs.Cancel(opened())
		return nil
	})
}

// everything writes one record of each kind.
func everything(ctx context.Context, s storage.Store, id storage.QRID) error {
	return errors.Join(
		cancelIn(ctx, s, id),
		s.CreateQRSession(ctx, pending(2)),
		s.PutToken(ctx, token(storage.TokenAccess, 2)),
		s.UseToken(ctx, storage.TokenCode, digest("token", 1), opened()),
		s.PutClient(ctx, &storage.Client{ID: "c"}),
		s.PutUser(ctx, &storage.User{Subject: "u", Login: "u"}),
		s.PutSession(ctx, signIn("new", "u", 0)),
		s.EndSession(ctx, "old", opened()),
		s.PutKey(ctx, &storage.Key{ID: "k", Secret: []byte{1}}),
	)
}

// found lists what everything has written.
func found(t *testing.T, s storage.Store, id storage.QRID) (names []string) {
	t.Helper()
	ctx := t.Context()
	note := func(name string, is bool, err error) {
		if err != nil {
			wantErr(t, err, storage.ErrNotFound)
		} else if is {
			names = append(names, name)
		}
	}
	qs, err := s.QRSession(ctx, id)
	note("cancelled", err == nil && qs.State == storage.QRCancelled, err)
	_, err = s.QRSession(ctx, pending(2).ID)
	note("opened", true, err)
	_, err = s.QRSessionByUserCode(ctx, pending(2).UserCodeHash)
	note("user code", true, err)
	_, err = s.Token(ctx, storage.TokenAccess, digest("token", 2))
	note("token", true, err)
	code, err := s.Token(ctx, storage.TokenCode, digest("token", 1))
	note("code used", err == nil && !code.Active, err)
	_, err = s.Client(ctx, "c")
	note("client", true, err)
	_, err = s.UserByLogin(ctx, "u")
	note("user", true, err)
	_, err = s.Session(ctx, "new")
	note("sign-in", true, err)
	old, err := s.Session(ctx, "old")
	note("sign-in ended", err == nil && !old.EndedAt.IsZero(), err)
	keys, err := s.Keys(ctx)
	note("key", len(keys) > 0, err)
	return names
}

func whole() []string {
	return []string{"cancelled", "opened", "user code", "token", "code used", "client", "user", "sign-in", "sign-in ended", "key"}
}

// prepared returns a store with what everything changes.
func prepared(t *testing.T, open Open) (storage.Store, func() storage.Store, storage.QRID) {
	t.Helper()
	s, reopen := open(t)
	putToken(t, s, token(storage.TokenCode, 1))
	wantErr(t, s.PutSession(t.Context(), signIn("old", "u", 0)), nil)
	return s, reopen, approved(t, s, 1)
}

func unitApplied(t *testing.T, open Open) {
	s, reopen, id := prepared(t, open)
	wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error { return everything(ctx, s, id) }), nil)
	wantEqual(t, found(t, s, id), whole())
	wantEqual(t, found(t, reopen(), id), whole())
}

func unitFails(t *testing.T, open Open) {
	s, reopen, id := prepared(t, open)
	for range 2 {
		err := s.Tx(t.Context(), func(ctx context.Context) error {
			wantErr(t, everything(ctx, s, id), nil)
			return errRollback
		})
		wantErr(t, err, errRollback)
		wantEqual(t, found(t, s, id), []string(nil))
	}
	wantEqual(t, found(t, reopen(), id), []string(nil))
}

func unitConflict(t *testing.T, open Open) {
	s, _, id := prepared(t, open)
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, everything(ctx, s, id), nil)
		return s.UseToken(t.Context(), storage.TokenCode, digest("token", 1), opened())
	})
	wantErr(t, err, storage.ErrConflict)
	wantEqual(t, found(t, s, id), []string{"code used"})
}

func unitJoins(t *testing.T, open Open) {
	s, _, id := prepared(t, open)
	inner := func(ctx context.Context) error {
		return s.Tx(ctx, func(ctx context.Context) error { return everything(ctx, s, id) })
	}
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, inner(ctx), nil)
		wantEqual(t, found(t, s, id), []string(nil))
		return errRollback
	})
	wantErr(t, err, errRollback)
	wantEqual(t, found(t, s, id), []string(nil))
	wantErr(t, s.Tx(t.Context(), inner), nil)
	wantEqual(t, found(t, s, id), whole())
}

func unitInnerFails(t *testing.T, open Open) {
	s, _, id := prepared(t, open)
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, s.PutClient(ctx, &storage.Client{ID: "c"}), nil)
		err := s.Tx(ctx, func(ctx context.Context) error {
			wantErr(t, s.PutKey(ctx, &storage.Key{ID: "k", Secret: []byte{1}}), nil)
			return errRollback
		})
		wantErr(t, err, errRollback)
		return nil
	})
	wantErr(t, err, errRollback)
	wantEqual(t, found(t, s, id), []string(nil))
}

func unitReads(t *testing.T, open Open) {
	s, _, id := prepared(t, open)
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, everything(ctx, s, id), nil)
		qs, err := s.QRSession(ctx, id)
		wantErr(t, err, nil)
		wantEqual(t, qs.State, storage.QRApproved)
		_, err = s.Client(ctx, "c")
		wantErr(t, err, storage.ErrNotFound)
		return nil
	})
	wantErr(t, err, nil)
}

func unitRestages(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		for want, step := range []func(*storage.QRSession){
			func(qs *storage.QRSession) { qs.Scan(opened(), scanBy("ann")) },
			func(qs *storage.QRSession) { qs.Decide(opened(), decisionBy("ann", storage.QRApprove)) },
			func(qs *storage.QRSession) { qs.Redeem(opened(), storage.QRProof{}, storage.QRRedeeming{}) },
		} {
			err := s.UpdateQRSession(ctx, id, func(qs *storage.QRSession) error {
				wantEqual(t, qs.Version, uint64(want+1))
				step(qs)
				return nil
			})
			wantErr(t, err, nil)
		}
		return nil
	})
	wantErr(t, err, nil)
	wantEqual(t, mustRead(t, s, id).State, storage.QRRedeemed)
	wantEqual(t, events(t, s), []string{storage.EventQROpened, storage.EventQRScanned, storage.EventQRApproved, storage.EventQRRedeemed})
}

func unitCreates(t *testing.T, open Open) {
	s, _ := open(t)
	for n, end := range []error{errRollback, nil} {
		err := s.Tx(t.Context(), func(ctx context.Context) error {
			given := pending(1)
			wantErr(t, s.CreateQRSession(ctx, given), nil)
			given.ClientID, given.UserCodeHash = "changed", storage.UserCodeHash{}
			wantErr(t, s.CreateQRSession(ctx, pending(1)), storage.ErrConflict)
			_, err := s.QRSession(ctx, pending(1).ID)
			wantErr(t, err, storage.ErrNotFound)
			wantErr(t, cancelIn(ctx, s, pending(1).ID), nil)
			return end
		})
		wantErr(t, err, end)
		_, err = s.QRSession(t.Context(), pending(1).ID)
		if (err == nil) != (n == 1) {
			t.Errorf("after a unit that returned %v: %v", end, err)
		}
	}
	wantEqual(t, mustRead(t, s, pending(1).ID).State, storage.QRCancelled)
	_, err := s.QRSessionByUserCode(t.Context(), pending(1).UserCodeHash)
	wantErr(t, err, nil)
	rows, _, err := s.Events(t.Context(), nil, 10)
	wantErr(t, err, nil)
	for _, row := range rows {
		wantEqual(t, row.ClientID, "tv")
	}
	wantEqual(t, len(rows), 2)
}

func unitCancelled(t *testing.T, open Open) {
	s, _, id := prepared(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Tx(ctx, func(ctx context.Context) error {
		wantErr(t, everything(ctx, s, id), nil)
		cancel()
		return nil
	})
	wantErr(t, err, context.Canceled)
	wantEqual(t, found(t, s, id), []string(nil))
	wantErr(t, s.PutClient(ctx, &storage.Client{ID: "c"}), context.Canceled)
	wantErr(t, cancelIn(ctx, s, id), context.Canceled)
	wantEqual(t, found(t, s, id), []string(nil))
}

func unitRevokes(t *testing.T, open Open) {
	s, reopen, _ := prepared(t, open)
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		n, err := s.RevokeTokens(ctx, storage.TokenFilter{RequestID: "family"}, after(time.Second))
		wantErr(t, err, nil)
		wantEqual(t, n, 1)
		return errRollback
	})
	wantErr(t, err, errRollback)
	wantEqual(t, active(t, reopen(), token(storage.TokenCode, 1)), false)
}

func unitRecords(t *testing.T, open Open) {
	s, reopen := open(t)
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		s.RecordEvent(ctx, storage.AuditEvent{At: opened(), Type: storage.EventQRRateLimited})
		return errRollback
	})
	wantErr(t, err, errRollback)
	wantEqual(t, events(t, reopen()), []string{storage.EventQRRateLimited})
}

func unitOver(t *testing.T, open Open) {
	s, _, id := prepared(t, open)
	var leaked context.Context
	wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
		leaked = ctx
		return nil
	}), nil)
	if everything(leaked, s, id) == nil {
		t.Error("writes with the context of an ended unit were accepted")
	}
	wantEqual(t, found(t, s, id), []string(nil))
}
