package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func benchStore(b *testing.B) *bolt.Store {
	b.Helper()
	store, err := bolt.Open(filepath.Join(b.TempDir(), "db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	return store
}

// writers runs the body from about n goroutines and numbers the calls.
func writers(b *testing.B, n int, body func(i int) error) {
	b.Helper()
	var calls atomic.Int64
	b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
	if n == 1 {
		for b.Loop() {
			if err := body(int(calls.Add(1))); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := body(int(calls.Add(1))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkGroupCommit is one durable write of one token.
func BenchmarkGroupCommit(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", n), func(b *testing.B) {
			store := benchStore(b)
			writers(b, n, func(i int) error {
				return store.PutToken(b.Context(), crashToken(i, storage.TokenAccess))
			})
		})
	}
}

func decideYes(qs *storage.QRSession) {
	qs.Decide(instant(), storage.QRDecision{Verdict: storage.QRApprove, Subject: "ann", DigestEqual: true, CodeEqual: true})
}

func benchStep(ctx context.Context, store *bolt.Store, id storage.QRID, step func(*storage.QRSession)) error {
	return store.UpdateQRSession(ctx, id, func(qs *storage.QRSession) error {
		step(qs)
		return nil
	})
}

func redeemInUnit(store *bolt.Store, i int, id storage.QRID) error {
	return store.Tx(context.Background(), func(ctx context.Context) error {
		won := false
		err := benchStep(ctx, store, id, func(qs *storage.QRSession) {
			won = qs.Redeem(instant(), storage.QRProof{}, storage.QRRedeeming{RequestID: "f"}) == storage.QRPollReady
		})
		if err == nil && !won {
			err = errors.New("not redeemed")
		}
		return errors.Join(err,
			store.PutToken(ctx, crashToken(i, storage.TokenAccess)),
			store.PutToken(ctx, crashToken(i, storage.TokenRefresh)),
		)
	})
}

// BenchmarkRedeem is a redemption with two tokens, of sessions approved before.
func BenchmarkRedeem(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", n), func(b *testing.B) {
			store := benchStore(b)
			const made = 200_000
			if b.N > made {
				b.Fatalf("more than %d redemptions", made)
			}
			for from := 1; from <= b.N; from += 500 {
				err := store.Tx(b.Context(), func(ctx context.Context) error {
					for i := from; i < min(from+500, b.N+1); i++ {
						qs := crashSession(i)
						err := errors.Join(store.CreateQRSession(ctx, qs), benchStep(ctx, store, qs.ID, claim), benchStep(ctx, store, qs.ID, decideYes))
						if err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			var calls atomic.Int64
			b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
			b.ResetTimer()
			if n == 1 {
				for i := 1; i <= b.N; i++ {
					if err := redeemInUnit(store, i, crashSession(i).ID); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := int(calls.Add(1))
					if err := redeemInUnit(store, i, crashSession(i).ID); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkLogin is a whole login: open, scan, approve, redeem with two tokens.
func BenchmarkLogin(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", n), func(b *testing.B) {
			store := benchStore(b)
			writers(b, n, func(i int) error {
				ctx, qs := b.Context(), crashSession(i)
				return errors.Join(
					store.CreateQRSession(ctx, qs), benchStep(ctx, store, qs.ID, claim),
					benchStep(ctx, store, qs.ID, decideYes), redeemInUnit(store, i, qs.ID),
				)
			})
		})
	}
}

// BenchmarkPendingRead is what a poll of an undecided session costs the store.
func BenchmarkPendingRead(b *testing.B) {
	store := benchStore(b)
	const sessions = 10_000
	for i := range sessions {
		if err := store.CreateQRSession(b.Context(), crashSession(i)); err != nil {
			b.Fatal(err)
		}
	}
	writers(b, runtime.GOMAXPROCS(0), func(i int) error {
		_, err := store.QRSession(b.Context(), crashSession(i%sessions).ID)
		return err
	})
}

// BenchmarkUseOnce is the mark on an identifier that was never used; B/identifier is the heap it
// keeps once its row is written.
func BenchmarkUseOnce(b *testing.B) {
	store, err := bolt.Open(filepath.Join(b.TempDir(), "db"), bolt.Options{MaxReplays: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	before, made := heapInUse(), 0
	for b.Loop() {
		made++
		if err := store.UseOnce(b.Context(), replayID(made), instant().Add(time.Minute), instant()); err != nil {
			b.Fatal(err)
		}
	}
	if err := store.PutClient(b.Context(), &storage.Client{ID: "c"}); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(heapInUse()-before)/float64(made), "B/identifier")
	runtime.KeepAlive(store)
}

// heapInUse is what the heap holds after a collection.
func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// BenchmarkOpening is the opening of a session; B/session is the heap it keeps.
func BenchmarkOpening(b *testing.B) {
	store := benchStore(b)
	before := heapInUse()
	i := 0
	for b.Loop() {
		if i++; i > 900_000 {
			b.Fatal("more sessions than memory may hold")
		}
		qs := opening(i, instant())
		if err := store.CreateQRSession(b.Context(), qs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heapInUse()-before)/float64(i), "B/session")
	runtime.KeepAlive(store)
}

// BenchmarkClose is the clean end of a store with 50,000 opened sessions, whose ids and user
// codes are in no order.
func BenchmarkClose(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		store := benchStore(b)
		for i := range 50_000 {
			qs := crashSession(i)
			qs.OpenedAt = qs.OpenedAt.Add(time.Duration(scatter(i) % uint64(storage.QRLifetime)))
			if err := store.CreateQRSession(b.Context(), qs); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
