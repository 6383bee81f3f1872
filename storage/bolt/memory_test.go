package bolt_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// instant has nanoseconds, which must come back.
func instant() time.Time { return time.Date(2026, time.November, 22, 12, 0, 0, 123456789, time.UTC) }

func claim(qs *storage.QRSession) {
	qs.Scan(qs.OpenedAt.Add(time.Second), storage.QRScan{Subject: "ann", Entry: storage.QREntryScanner, FrameFresh: true})
}

func step(t *testing.T, s storage.Store, id storage.QRID, do func(*storage.QRSession)) {
	t.Helper()
	if err := s.UpdateQRSession(t.Context(), id, func(qs *storage.QRSession) error {
		do(qs)
		return nil
	}); err != nil {
		t.Fatalf("UpdateQRSession: %v", err)
	}
}

func TestAnOpenedSessionIsNotWritten(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	before := store.Transactions()
	qs := opening(1, instant())
	if err := store.CreateQRSession(t.Context(), qs); err != nil {
		t.Fatal(err)
	}
	step(t, store, qs.ID, func(*storage.QRSession) {})
	if store.Transactions() != before {
		t.Error("an opening was committed")
	}
	got, err := store.QRSession(t.Context(), qs.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(qs, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(storage.QRSession{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAClaimIsWrittenByTheNextSweep(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	before := store.Transactions()
	qs := opening(1, instant())
	if err := store.CreateQRSession(t.Context(), qs); err != nil {
		t.Fatal(err)
	}
	sweepAt := func(at time.Duration) {
		t.Helper()
		if n, more, err := store.Sweep(t.Context(), instant().Add(at), 100); n != 0 || more || err != nil {
			t.Fatalf("Sweep: %d, %t, %v", n, more, err)
		}
	}
	sweepAt(30 * time.Second)
	step(t, store, qs.ID, claim)
	if store.Transactions() != before || store.Stats().PendingSessions != 1 {
		t.Error("a claim was committed")
	}
	sweepAt(2 * time.Second)
	if got, err := store.OnDisk(qs.ID); err != nil || got.State != storage.QRScanned {
		t.Fatalf("on disk: %v, %v", got, err)
	}
	if pending, codes := store.Stats().PendingSessions, store.Codes(); pending != 0 || codes != 0 {
		t.Errorf("%d sessions and %d user codes are left in memory", pending, codes)
	}
	after := store.Transactions()
	sweepAt(3 * time.Second)
	if store.Transactions() != after {
		t.Error("a claim on disk was written again")
	}
	// A repeated scan comes back into memory and leaves it again.
	step(t, store, qs.ID, claim)
	if pending := store.Stats().PendingSessions; pending != 1 {
		t.Errorf("%d sessions in memory after a repeated scan", pending)
	}
	sweepAt(4 * time.Second)
	if got, err := store.OnDisk(qs.ID); err != nil || got.Version != 3 || store.Stats().PendingSessions != 0 {
		t.Errorf("on disk: %v, %v; %d are left in memory", got, err, store.Stats().PendingSessions)
	}
}

func TestADecidedClaimIsWrittenOnce(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	before := store.Transactions()
	qs := opening(1, instant())
	if err := store.CreateQRSession(t.Context(), qs); err != nil {
		t.Fatal(err)
	}
	step(t, store, qs.ID, claim)
	step(t, store, qs.ID, decideYes)
	if _, _, err := store.Sweep(t.Context(), instant().Add(3*time.Second), 100); err != nil {
		t.Fatal(err)
	}
	if n := store.Transactions() - before; n != 1 {
		t.Errorf("%d commits, want that of the decision", n)
	}
	rows, _, err := store.Events(t.Context(), nil, 10)
	var got []string
	for _, row := range rows {
		got = append(got, row.Type)
	}
	// The decision of the fixture is a second older than the scan.
	want := []string{storage.EventQROpened, storage.EventQRApproved, storage.EventQRScanned}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestASweepBesideScansLosesNone repeats scans while sweeps write them: neither may hide the
// version of the other, and each row is written once (mustOpen checks that).
func TestASweepBesideScansLosesNone(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	ids := make([]storage.QRID, 50)
	for n := range ids {
		qs := opening(n, instant())
		if err := store.CreateQRSession(t.Context(), qs); err != nil {
			t.Fatal(err)
		}
		ids[n] = qs.ID
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for _, id := range ids {
				step(t, store, id, claim)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if _, _, err := store.Sweep(t.Context(), instant().Add(2*time.Second), 7); err != nil {
				t.Errorf("Sweep: %v", err)
			}
		}
	})
	wg.Wait()
	for at := 3 * time.Second; store.Stats().PendingSessions > 0 && at < time.Minute; at += time.Second {
		if _, _, err := store.Sweep(t.Context(), instant().Add(at), 100); err != nil {
			t.Fatalf("Sweep: %v", err)
		}
	}
	for _, id := range ids {
		if got, err := store.OnDisk(id); err != nil || got.Version != 4 {
			t.Errorf("on disk: %v, %v", got, err)
		}
	}
	rows, _, err := store.Events(t.Context(), nil, 1000)
	if err != nil || len(rows) != 2*len(ids) {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

func TestMemoryIsLimited(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{MaxPending: 3})
	create := func(n int) error { return store.CreateQRSession(t.Context(), opening(n, instant())) }
	for n := range 3 {
		if err := create(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := create(3); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("the fourth of three: %v", err)
	}
	if _, err := store.QRSession(t.Context(), opening(3, instant()).ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the refused session: %v", err)
	}
	// A failed unit, a refused code and a decision all give their place back.
	rollback := errors.New("roll back")
	step(t, store, opening(0, instant()).ID, func(qs *storage.QRSession) { qs.Cancel(instant()) })
	for range 5 {
		err := store.Tx(t.Context(), func(ctx context.Context) error {
			return errors.Join(store.CreateQRSession(ctx, opening(4, instant())), rollback)
		})
		if !errors.Is(err, rollback) || errors.Is(err, storage.ErrFull) {
			t.Fatalf("the unit: %v", err)
		}
		twin := opening(5, instant())
		twin.UserCodeHash = opening(1, instant()).UserCodeHash
		if err := store.CreateQRSession(t.Context(), twin); !errors.Is(err, storage.ErrConflict) {
			t.Fatalf("a taken user code: %v", err)
		}
	}
	if err := create(6); err != nil {
		t.Errorf("after one was decided: %v", err)
	}
	if err := create(7); !errors.Is(err, storage.ErrFull) {
		t.Errorf("beyond the limit again: %v", err)
	}
}

func TestASessionOpenedInADurableUnitLeavesMemory(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	qs := opening(1, instant())
	if err := store.Tx(t.Context(), func(ctx context.Context) error {
		err := errors.Join(store.CreateQRSession(ctx, qs), store.PutClient(ctx, &storage.Client{ID: "c"}))
		// The caller may reuse its record; the index rows are still those of what it gave.
		qs.UserCodeHash, qs.OpenedAt = storage.UserCodeHash{9}, qs.OpenedAt.Add(time.Hour)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OnDisk(qs.ID); err != nil {
		t.Errorf("on disk: %v", err)
	}
	if pending, codes := store.Stats().PendingSessions, store.Codes(); pending != 0 || codes != 0 {
		t.Errorf("%d sessions and %d user codes are left in memory", pending, codes)
	}
}

func TestAnOpeningInAUnitHoldsItsUserCode(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	twin := opening(2, instant())
	twin.UserCodeHash = opening(1, instant()).UserCodeHash
	if err := store.Tx(t.Context(), func(ctx context.Context) error {
		if err := store.CreateQRSession(ctx, opening(1, instant())); err != nil {
			return err
		}
		if err := store.CreateQRSession(t.Context(), twin); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("the same code outside the unit: %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestUnscannedSessionsAreForgottenAndCounted(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	before := store.Transactions()
	for n := range 100 {
		if err := store.CreateQRSession(t.Context(), opening(n, instant().Add(time.Duration(n/50)*time.Minute))); err != nil {
			t.Fatal(err)
		}
	}
	forgotten := instant().Add(storage.QRLifetime + 5*time.Minute)
	for _, want := range []struct {
		now   time.Time
		limit int
		n     int
		more  bool
	}{
		{forgotten.Add(-time.Second), 1000, 0, false},
		{forgotten.Add(time.Second), 20, 20, true},
		{forgotten.Add(time.Second), 1000, 30, false},
		{forgotten.Add(61 * time.Second), 50, 50, false},
	} {
		n, more, err := store.Sweep(t.Context(), want.now, want.limit)
		if err != nil || n != want.n || more != want.more {
			t.Errorf("at %v: %d, %t, %v; want %d, %t", want.now, n, more, err, want.n, want.more)
		}
	}
	stats := store.Stats()
	if stats.ExpiredUnscanned != 100 || stats.PendingSessions != 0 || store.Codes() != 0 {
		t.Errorf("%+v, %d codes", stats, store.Codes())
	}
	if store.Transactions() != before {
		t.Error("sessions nobody scanned were written")
	}
}

func TestCloseWritesWhatMemoryHas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	store := mustOpen(t, path, bolt.Options{})
	for n := range 1200 {
		if err := store.CreateQRSession(t.Context(), opening(n, instant())); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = mustOpen(t, path, bolt.Options{})
	for n := range 1200 {
		if _, err := store.QRSession(t.Context(), opening(n, instant()).ID); err != nil {
			t.Fatalf("session %d: %v", n, err)
		}
	}
	gone := instant().Add(storage.QRLifetime + 24*time.Hour)
	if n, more, err := store.Sweep(t.Context(), gone, 5000); n != 1200 || more || err != nil {
		t.Errorf("Sweep: %d, %t, %v", n, more, err)
	}
}

func TestABusySecondSessionOfAUnitIsAConflict(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	first, second := opening(1, instant()), opening(2, instant())
	for _, qs := range []*storage.QRSession{first, second} {
		if err := store.CreateQRSession(t.Context(), qs); err != nil {
			t.Fatal(err)
		}
	}
	cancel := func(ctx context.Context, id storage.QRID) error {
		return store.UpdateQRSession(ctx, id, func(qs *storage.QRSession) error {
			qs.Cancel(instant())
			return nil
		})
	}
	err := store.Tx(t.Context(), func(one context.Context) error {
		return store.Tx(context.WithoutCancel(t.Context()), func(other context.Context) error {
			if err := errors.Join(cancel(one, first.ID), cancel(other, second.ID)); err != nil {
				return err
			}
			return cancel(one, second.ID)
		})
	})
	if !errors.Is(err, storage.ErrConflict) {
		t.Errorf("error %v", err)
	}
	if err := store.Tx(t.Context(), func(ctx context.Context) error {
		return errors.Join(cancel(ctx, first.ID), cancel(ctx, second.ID))
	}); err != nil {
		t.Errorf("two free sessions in one unit: %v", err)
	}
}
