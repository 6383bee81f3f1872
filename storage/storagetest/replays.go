package storagetest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func replayTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"of sixty-four who use an identifier one wins":         replayRace,
		"an identifier may be used again after its time":       replayAgain,
		"identifiers do not stand in each other's way":         replayApart,
		"an identifier stays used over a clean restart":        replayRestart,
		"an identifier stays used when its unit fails":         replayUnit,
		"a sweep removes identifiers that are due, not others": replaySweep,
		"an ended context uses no identifier":                  replayCancelled,
	}
}

// useOnce marks the n-th identifier as used for a minute from at.
func useOnce(ctx context.Context, s storage.Store, n int, at time.Duration) error {
	return s.UseOnce(ctx, digest("replay", n), after(at+time.Minute), after(at))
}

func replayRace(t *testing.T, open Open) {
	s, _ := open(t)
	for n := range 20 {
		var wins atomic.Int64
		race(64, func(int) {
			err := useOnce(t.Context(), s, n, 0)
			if err == nil {
				wins.Add(1)
			} else {
				wantErr(t, err, storage.ErrConflict)
			}
		})
		wantEqual(t, wins.Load(), int64(1))
	}
}

func replayAgain(t *testing.T, open Open) {
	s, reopen := open(t)
	wantErr(t, useOnce(t.Context(), s, 1, 0), nil)
	wantErr(t, useOnce(t.Context(), s, 1, time.Minute-time.Microsecond), storage.ErrConflict)
	wantErr(t, useOnce(t.Context(), s, 1, time.Minute), nil)
	wantErr(t, useOnce(t.Context(), s, 1, time.Minute), storage.ErrConflict)
	// What the first use has left neither ends the second nor outlives a sweep of it.
	sweep(t, s, after(90*time.Second))
	wantErr(t, useOnce(t.Context(), s, 1, 90*time.Second), storage.ErrConflict)
	s = reopen()
	wantErr(t, useOnce(t.Context(), s, 1, 90*time.Second), storage.ErrConflict)
	wantErr(t, useOnce(t.Context(), s, 1, 2*time.Minute), nil)
}

func replayApart(t *testing.T, open Open) {
	s, _ := open(t)
	var first, last [32]byte
	first[0], last[31] = 1, 1
	for _, id := range [][32]byte{{}, first, last} {
		wantErr(t, s.UseOnce(t.Context(), id, after(time.Minute), opened()), nil)
	}
	for _, id := range [][32]byte{{}, first, last} {
		wantErr(t, s.UseOnce(t.Context(), id, after(time.Minute), opened()), storage.ErrConflict)
	}
}

func replayRestart(t *testing.T, open Open) {
	s, reopen := open(t)
	for n := range 50 {
		wantErr(t, useOnce(t.Context(), s, n, 0), nil)
	}
	for range 2 {
		s = reopen()
		for n := range 50 {
			wantErr(t, useOnce(t.Context(), s, n, time.Second), storage.ErrConflict)
		}
	}
	wantErr(t, useOnce(t.Context(), s, 1, time.Minute), nil)
}

func replayUnit(t *testing.T, open Open) {
	s, reopen := open(t)
	for n, end := range []error{errRollback, nil} {
		wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
			wantErr(t, useOnce(ctx, s, n, 0), nil)
			wantErr(t, useOnce(ctx, s, n, 0), storage.ErrConflict)
			return end
		}), end)
	}
	s = reopen()
	for n := range 2 {
		wantErr(t, useOnce(t.Context(), s, n, 0), storage.ErrConflict)
	}
}

func replaySweep(t *testing.T, open Open) {
	s, reopen := open(t)
	for n := range 25 {
		wantErr(t, useOnce(t.Context(), s, n, 0), nil)
	}
	for n := range 5 {
		wantErr(t, useOnce(t.Context(), s, 100+n, time.Hour), nil)
	}
	// Every row is in place after a restart.
	s = reopen()
	wantEqual(t, sweep(t, s, after(time.Minute-time.Microsecond)), 0)
	for i, want := range []struct {
		removed int
		more    bool
	}{{10, true}, {10, true}, {5, false}, {0, false}} {
		removed, more, err := s.Sweep(t.Context(), after(time.Minute), 10)
		wantErr(t, err, nil)
		if removed != want.removed || more != want.more {
			t.Errorf("sweep %d: removed %d, more %t; want %d, %t", i, removed, more, want.removed, want.more)
		}
	}
	for n := range 5 {
		wantErr(t, useOnce(t.Context(), s, 100+n, time.Hour), storage.ErrConflict)
	}
	wantErr(t, useOnce(t.Context(), s, 1, 2*time.Minute), nil)
}

func replayCancelled(t *testing.T, open Open) {
	s, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := useOnce(ctx, s, 1, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	wantErr(t, useOnce(t.Context(), s, 1, 0), nil)
}
