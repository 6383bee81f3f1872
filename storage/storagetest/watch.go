package storagetest

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func watchTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"every waiter of a session is woken by a change": watchAll,
		"a waiter is not woken by other sessions":        watchOthers,
		"a waiter is woken after the unit, not before":   watchUnit,
		"a stopped watch is not woken":                   watchStopped,
		"a thousand watches leave nothing behind":        watchMany,
	}
}

// woken reads a hint that must come; the test's own deadline is the time-out.
func woken(t *testing.T, hint <-chan struct{}) {
	t.Helper()
	select {
	case <-hint:
	case <-time.After(10 * time.Second):
		t.Error("a waiter was not woken")
	}
}

func idle(t *testing.T, hint <-chan struct{}) {
	t.Helper()
	select {
	case <-hint:
		t.Error("a waiter was woken without a change")
	default:
	}
}

func watchAll(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	var hints []<-chan struct{}
	for range 100 {
		hint, stop := s.WatchQRSession(id)
		defer stop()
		hints = append(hints, hint)
	}
	for want, step := range []func(){
		func() { scan(t, s, id, 0, "ann") },
		func() { approve(t, s, id, 0, "ann") },
		func() { redeem(t, s, id, 0) },
	} {
		step()
		for _, hint := range hints {
			woken(t, hint)
		}
		// A waiter reads the record after its hint, and finds the change.
		wantEqual(t, mustRead(t, s, id).Version, uint64(want+2))
	}
}

func watchOthers(t *testing.T, open Open) {
	s, _ := open(t)
	first, second := create(t, s, pending(1)).ID, create(t, s, pending(2)).ID
	hint, stop := s.WatchQRSession(first)
	defer stop()
	scan(t, s, second, 0, "ann")
	idle(t, hint)
	update(t, s, first, func(*storage.QRSession) {})
	idle(t, hint)
}

func watchUnit(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	hint, stop := s.WatchQRSession(id)
	defer stop()
	for _, end := range []error{errRollback, nil} {
		err := s.Tx(t.Context(), func(ctx context.Context) error {
			wantErr(t, cancelIn(ctx, s, id), nil)
			idle(t, hint)
			return end
		})
		wantErr(t, err, end)
		if end != nil {
			idle(t, hint)
		}
	}
	woken(t, hint)
}

func watchStopped(t *testing.T, open Open) {
	s, _ := open(t)
	id := create(t, s, pending(1)).ID
	hint, stop := s.WatchQRSession(id)
	kept, stopKept := s.WatchQRSession(id)
	defer stopKept()
	stop()
	stop()
	scan(t, s, id, 0, "ann")
	woken(t, kept)
	idle(t, hint)
}

func watchMany(t *testing.T, open Open) {
	s, _ := open(t)
	before := runtime.NumGoroutine()
	race(1000, func(i int) {
		id := storage.QRID(pending(i).ID)
		wantErr(t, s.CreateQRSession(t.Context(), pending(i)), nil)
		hint, stop := s.WatchQRSession(id)
		defer stop()
		scan(t, s, id, 0, "ann")
		woken(t, hint)
	})
	// Other tests run beside this one; a goroutine per watch would show all the same.
	if now := runtime.NumGoroutine(); now > before+900 {
		t.Errorf("%d goroutines, %d before a thousand watches", now, before)
	}
}
