package storagetest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func codeTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"the user code of a live session is taken":             codeTaken,
		"the user code of an ended session is free":            codeFreed,
		"the user code of an expired session is free":          codeExpired,
		"a user code that was taken over stays":                codeTakenOver,
		"of two racing openings with one user code one wins":   codeRace,
		"an ended session keeps its user code until it is due": codeKept,
	}
}

// sameCode returns the n-th session with the user code of the first.
func sameCode(n int) *storage.QRSession {
	qs := pending(n)
	qs.UserCodeHash = pending(1).UserCodeHash
	return qs
}

func codeTaken(t *testing.T, open Open) {
	s, reopen := open(t)
	id := create(t, s, pending(1)).ID
	second := sameCode(2)
	second.OpenedAt = after(storage.QRLifetime - time.Second)
	wantErr(t, s.CreateQRSession(t.Context(), second), storage.ErrConflict)
	scan(t, s, id, 0, "ann")
	wantErr(t, s.CreateQRSession(t.Context(), second), storage.ErrConflict)
	approve(t, s, id, 0, "ann")
	wantErr(t, s.CreateQRSession(t.Context(), second), storage.ErrConflict)
	s = reopen()
	wantErr(t, s.CreateQRSession(t.Context(), second), storage.ErrConflict)
	_, err := s.QRSession(t.Context(), second.ID)
	wantErr(t, err, storage.ErrNotFound)
}

func codeFreed(t *testing.T, open Open) {
	s, reopen := open(t)
	first := create(t, s, pending(1))
	update(t, s, first.ID, func(qs *storage.QRSession) { qs.Cancel(opened()) })
	second := create(t, s, sameCode(2))
	got, err := s.QRSessionByUserCode(t.Context(), first.UserCodeHash)
	wantErr(t, err, nil)
	wantEqual(t, got.ID, second.ID)
	s = reopen()
	got, err = s.QRSessionByUserCode(t.Context(), first.UserCodeHash)
	wantErr(t, err, nil)
	wantEqual(t, got.ID, second.ID)
	sweep(t, s, after(24*time.Hour))
	got, err = s.QRSessionByUserCode(t.Context(), first.UserCodeHash)
	wantErr(t, err, nil)
	wantEqual(t, got.ID, second.ID)
}

func codeExpired(t *testing.T, open Open) {
	s, reopen := open(t)
	create(t, s, pending(1))
	second := sameCode(2)
	second.OpenedAt = after(storage.QRLifetime)
	create(t, s, second)
	for range 2 {
		got, err := s.QRSessionByUserCode(t.Context(), second.UserCodeHash)
		wantErr(t, err, nil)
		wantEqual(t, got.ID, second.ID)
		s = reopen()
	}
}

func codeTakenOver(t *testing.T, open Open) {
	s, _ := open(t)
	create(t, s, pending(1))
	second := sameCode(2)
	second.OpenedAt = after(storage.QRLifetime)
	create(t, s, second)
	// Whatever a driver forgets of the first session here, the code is the second's.
	sweep(t, s, after(storage.QRLifetime+6*time.Minute))
	got, err := s.QRSessionByUserCode(t.Context(), second.UserCodeHash)
	wantErr(t, err, nil)
	wantEqual(t, got.ID, second.ID)
}

func codeRace(t *testing.T, open Open) {
	s, _ := open(t)
	var wins atomic.Int64
	race(64, func(i int) {
		err := s.CreateQRSession(t.Context(), sameCode(i+1))
		if err == nil {
			wins.Add(1)
			return
		}
		wantErr(t, err, storage.ErrConflict)
	})
	wantEqual(t, wins.Load(), int64(1))
}

func codeKept(t *testing.T, open Open) {
	s, _ := open(t)
	first := create(t, s, pending(1))
	update(t, s, first.ID, func(qs *storage.QRSession) { qs.Cancel(opened()) })
	sweep(t, s, after(24*time.Hour-time.Second))
	got, err := s.QRSessionByUserCode(t.Context(), first.UserCodeHash)
	wantErr(t, err, nil)
	wantEqual(t, got.State, storage.QRCancelled)
	sweep(t, s, after(24*time.Hour))
	_, err = s.QRSessionByUserCode(t.Context(), first.UserCodeHash)
	wantErr(t, err, storage.ErrNotFound)
}
