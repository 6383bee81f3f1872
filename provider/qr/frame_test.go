package qr_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const frameIssuer = "https://login.example"

var (
	frameKey    = bytes.Repeat([]byte{7}, 32)
	frameOpened = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

func frameSession() *storage.QRSession {
	q := &storage.QRSession{OpenedAt: frameOpened}
	for i := range q.ID {
		q.ID[i] = byte(i)
	}
	return q
}

func drawn(t *testing.T, at time.Duration) string {
	t.Helper()
	text, err := qr.Payload(frameIssuer, frameKey, frameSession(), frameOpened.Add(at))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The vector that other implementations of the frame check themselves against: server key
// 32 × 0x07, reference 00 01 … 0f, issuer https://login.example, 25 s after the opening.
func TestFrameVector(t *testing.T) {
	t.Parallel()
	const want = "https://login.example/Q#1AAAQEAYEAUDAOCAJBIFQYDIOB4ACLUIBQVVIGLW7YLJ6"
	if got := drawn(t, 25*time.Second); got != want {
		t.Errorf("payload = %q, want %q", got, want)
	}
}

func TestFrameRotates(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name           string
		drawn, scanned time.Duration
		fresh          bool
	}{
		{"the current frame", 0, 9999 * time.Millisecond, true},
		{"the previous frame", 9 * time.Second, 19999 * time.Millisecond, true},
		{"the frame before the previous one", 9 * time.Second, 20 * time.Second, false},
		{"the first frame at the end of the claim window", 0, 179 * time.Second, false},
		{"a frame that is not due yet", 11 * time.Second, 9 * time.Second, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			genuine, fresh := qr.Genuine(frameIssuer, frameKey, frameSession(), frameOpened.Add(row.scanned), drawn(t, row.drawn))
			if !genuine || fresh != row.fresh {
				t.Errorf("genuine, fresh = %v, %v, want true, %v", genuine, fresh, row.fresh)
			}
		})
	}
}

// Every single character counts: no other spelling of a frame passes for it.
func TestFrameRefusesEveryOtherCharacter(t *testing.T) {
	t.Parallel()
	good := drawn(t, 25*time.Second)
	for i := range good {
		for _, c := range "Aa2z/#= " {
			bad := good[:i] + string(c) + good[i+1:]
			if bad == good {
				continue
			}
			if genuine, _ := qr.Genuine(frameIssuer, frameKey, frameSession(), frameOpened, bad); genuine {
				t.Errorf("%q passes for %q", bad, good)
			}
		}
	}
	for _, bad := range []string{"", good + "=", good + "\n", strings.ToLower(good), good[:len(good)-1], " " + good} {
		if genuine, _ := qr.Genuine(frameIssuer, frameKey, frameSession(), frameOpened, bad); genuine {
			t.Errorf("%q passes for %q", bad, good)
		}
	}
}

func TestFrameOfAnotherKeyOrIssuer(t *testing.T) {
	t.Parallel()
	q := frameSession()
	other, err := qr.Payload(frameIssuer, bytes.Repeat([]byte{8}, 32), q, frameOpened)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := qr.Payload("https://evil.example", frameKey, q, frameOpened)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{other, foreign, strings.Replace(foreign, "evil", "login", 1)} {
		if genuine, _ := qr.Genuine(frameIssuer, frameKey, q, frameOpened, text); genuine {
			t.Errorf("%q passes", text)
		}
	}
}

func FuzzFrame(f *testing.F) {
	q := frameSession()
	good, err := qr.Payload(frameIssuer, frameKey, q, frameOpened)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(strings.ToLower(good))
	f.Add(good[:40])
	f.Fuzz(func(t *testing.T, text string) {
		again, ok := qr.ParsedAgain(frameIssuer, text)
		if ok && again != text {
			t.Errorf("%q is read as %q: two spellings of one frame", text, again)
		}
	})
}
