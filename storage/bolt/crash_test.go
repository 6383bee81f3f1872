package bolt_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// crashFile names the file that a child process writes until it is killed.
const crashFile = "QRGRANT_TEST_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		fmt.Fprintln(os.Stderr, crashChild(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// crashChild logs people in for ever and acknowledges each step once the store has.
func crashChild(path string) error {
	store, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		return err
	}
	clients, err := store.Clients(context.Background())
	if err != nil {
		return err
	}
	round := len(clients)
	if err := store.PutClient(context.Background(), &storage.Client{ID: fmt.Sprint("round ", round)}); err != nil {
		return err
	}
	failed := make(chan error)
	var out sync.Mutex
	for worker := range 16 {
		go func() {
			for n := 0; ; n++ {
				if err := crashLogin(store, round<<24|worker<<16|n, &out); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// scatter spreads numbers as random ids and hashes would be, each to another.
func scatter(n int) uint64 { return uint64(n) * 0x9e3779b97f4a7c15 }

func crashSession(n int) *storage.QRSession {
	qs := opening(n, instant())
	qs.Challenge = ""
	binary.BigEndian.PutUint64(qs.ID[:], scatter(n))
	binary.BigEndian.PutUint64(qs.ID[8:], uint64(n))
	binary.BigEndian.PutUint64(qs.UserCodeHash[:], 7*scatter(n))
	return qs
}

func crashToken(n int, kind storage.TokenKind) *storage.Token {
	t := &storage.Token{
		Kind: kind, RequestID: fmt.Sprintf("%x family", scatter(n)), Subject: "ann", SessionID: fmt.Sprintf("%x sid", 3*scatter(n)),
		Active: true, ExpiresAt: instant(),
	}
	binary.BigEndian.PutUint64(t.Signature[:], scatter(n))
	return t
}

func crashLogin(store *bolt.Store, n int, out *sync.Mutex) error {
	ctx := context.Background()
	acknowledge := func(what string) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(what, n)
	}
	qs := crashSession(n)
	do := func(ctx context.Context, step func(*storage.QRSession)) error {
		return store.UpdateQRSession(ctx, qs.ID, func(qs *storage.QRSession) error {
			step(qs)
			return nil
		})
	}
	decide := func(qs *storage.QRSession) {
		qs.Decide(instant(), storage.QRDecision{Verdict: storage.QRApprove, Subject: "ann", DigestEqual: true, CodeEqual: true})
	}
	err := errors.Join(store.CreateQRSession(ctx, qs), do(ctx, claim), do(ctx, decide))
	if err != nil {
		return err
	}
	acknowledge("approved")
	err = store.Tx(ctx, func(ctx context.Context) error {
		return errors.Join(
			do(ctx, func(qs *storage.QRSession) {
				qs.Redeem(instant(), storage.QRProof{}, storage.QRRedeeming{RequestID: "f"})
			}),
			store.PutToken(ctx, crashToken(n, storage.TokenAccess)),
			store.PutToken(ctx, crashToken(n, storage.TokenRefresh)),
		)
	})
	if err != nil {
		return err
	}
	acknowledge("redeemed")
	return nil
}

// TestCrash kills a writing process a few times. Whatever it had acknowledged must be there.
func TestCrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "crash.db")
	acknowledged := map[string]bool{}
	for _, enough := range []int{1, 50, 300, 777, 1500} {
		for _, line := range killAfter(t, path, enough) {
			acknowledged[line] = true
		}
		store := mustOpen(t, path, bolt.Options{})
		if err := store.Check(); err != nil {
			t.Fatalf("after %d acknowledgements: %v", enough, err)
		}
		for line := range acknowledged {
			checkAcknowledged(t, store, line)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter runs a child until it has acknowledged enough, kills it, and returns every line
// that came through, also those written while the signal was on its way.
func killAfter(t *testing.T, path string, enough int) (lines []string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), crashFile+"="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			// A line without its end was not acknowledged.
			break
		}
		if lines = append(lines, strings.TrimSpace(line)); len(lines) == enough {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); len(lines) < enough {
		t.Fatalf("the child ended after %d lines: %v", len(lines), err)
	}
	return lines
}

func checkAcknowledged(t *testing.T, store *bolt.Store, line string) {
	t.Helper()
	var what string
	var n int
	if _, err := fmt.Sscan(line, &what, &n); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	qs, err := store.QRSession(t.Context(), crashSession(n).ID)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	stored := 0
	for _, kind := range []storage.TokenKind{storage.TokenAccess, storage.TokenRefresh} {
		if _, err := store.Token(t.Context(), kind, crashToken(n, kind).Signature); err == nil {
			stored++
		}
	}
	if redeemed := qs.State == storage.QRRedeemed; what == "redeemed" && !redeemed || redeemed != (stored == 2) || stored == 1 {
		t.Errorf("%s: %s with %d tokens", line, qs.State, stored)
	}
}
