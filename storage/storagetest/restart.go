package storagetest

import (
	"context"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func restartTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a clean restart loses nothing":                 restartKeeps,
		"a login goes on over restarts":                 restartLogin,
		"a healthy store says so, a closed one refuses": restartHealth,
	}
}

func restartKeeps(t *testing.T, open Open) {
	s, reopen := open(t)
	var want []*storage.QRSession
	for n := range 20 {
		qs := pending(n)
		create(t, s, qs)
		if n%4 > 0 {
			scan(t, s, qs.ID, time.Second, "ann")
		}
		if n%4 > 1 {
			approve(t, s, qs.ID, 2*time.Second, "ann")
		}
		if n%4 > 2 {
			redeem(t, s, qs.ID, 3*time.Second)
		}
		want = append(want, mustRead(t, s, qs.ID))
	}
	s = reopen()
	for _, qs := range want {
		wantEqual(t, mustRead(t, s, qs.ID), qs)
		byCode, err := s.QRSessionByUserCode(t.Context(), qs.UserCodeHash)
		wantErr(t, err, nil)
		wantEqual(t, byCode, qs)
	}
	wantEqual(t, len(events(t, s)), 20+15+10+5)
}

func restartLogin(t *testing.T, open Open) {
	s, reopen := open(t)
	id := create(t, s, pending(1)).ID
	s = reopen()
	scan(t, s, id, time.Second, "ann")
	s = reopen()
	scan(t, s, id, 2*time.Second, "ann")
	s = reopen()
	approve(t, s, id, 3*time.Second, "ann")
	s = reopen()
	redeem(t, s, id, 4*time.Second)
	s = reopen()
	wantEqual(t, mustRead(t, s, id).State, storage.QRRedeemed)
	wantEqual(t, events(t, s), []string{storage.EventQROpened, storage.EventQRScanned, storage.EventQRApproved, storage.EventQRRedeemed})
}

func restartHealth(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	wantErr(t, s.Health(t.Context()), nil)
	wantErr(t, s.Close(), nil)
	wantErr(t, s.Close(), nil)
	for name, call := range map[string]func(ctx context.Context) error{
		"Health":          s.Health,
		"PutClient":       func(ctx context.Context) error { return s.PutClient(ctx, &storage.Client{ID: "c"}) },
		"Client":          func(ctx context.Context) error { _, err := s.Client(ctx, "c"); return err },
		"DeleteClient":    func(ctx context.Context) error { return s.DeleteClient(ctx, "c") },
		"UseOnce":         func(ctx context.Context) error { return useOnce(ctx, s, 1, 0) },
		"CreateQRSession": func(ctx context.Context) error { return s.CreateQRSession(ctx, pending(2)) },
		"UpdateQRSession": func(ctx context.Context) error { return cancelIn(ctx, s, id) },
	} {
		if call(t.Context()) == nil {
			t.Errorf("%s succeeded on a closed store", name)
		}
	}
}
