package qr_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/qr"
)

func TestPace(t *testing.T) {
	t.Parallel()
	type polls []struct {
		at   time.Duration
		want string
	}
	for name, sequence := range map[string]polls{
		"a steady poller": {{0, "pending"}, {5 * time.Second, "pending"}, {10 * time.Second, "pending"}},
		"a poll after three seconds raises the interval for good": {
			{0, "pending"},
			{3 * time.Second, "slow_down"},
			{9 * time.Second, "pending"}, // 10 s less a tenth
			{14 * time.Second, "slow_down"},
			{23 * time.Second, "pending"}, // 15 s less a tenth
		},
		"every poll sent twice is never slowed down": {
			{0, "pending"},
			{10 * time.Millisecond, "pending again"},
			{5 * time.Second, "pending"},
			{5010 * time.Millisecond, "pending again"},
		},
		"the repeat of a slow_down costs nothing more": {
			{0, "pending"},
			{3 * time.Second, "slow_down"},
			{3100 * time.Millisecond, "slow_down again"},
			{9 * time.Second, "pending"},
		},
		"there is one repeat": {
			{0, "pending"},
			{100 * time.Millisecond, "pending again"},
			{200 * time.Millisecond, "slow_down"},
		},
		"a repeat comes within two seconds": {{0, "pending"}, {2001 * time.Millisecond, "slow_down"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pacer := qr.NewPacer(frameOpened, qr.Limits{})
			for _, poll := range sequence {
				if got := pacer.Poll(frameOpened.Add(poll.at)); got != poll.want {
					t.Errorf("at %s: %s, want %s", poll.at, got, poll.want)
				}
			}
		})
	}
}

// D14: a poller that keeps the interval but for ten percent never locks itself out.
func TestD14SteadyPollerWithJitter(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(8628, 14))
	pacer, now := qr.NewPacer(frameOpened, qr.Limits{}), frameOpened
	for i := range 1000 {
		if got := pacer.Poll(now); got != "pending" {
			t.Fatalf("poll %d: %s", i, got)
		}
		now = now.Add(4500*time.Millisecond + time.Duration(random.Int64N(int64(time.Second))))
	}
}

func TestPaceOfHeldPolls(t *testing.T) {
	t.Parallel()
	t.Run("the poll after a held answer is not early", func(t *testing.T) {
		t.Parallel()
		pacer := qr.NewPacer(frameOpened, qr.Limits{})
		for i := range 5 {
			if !pacer.Held(frameOpened.Add(time.Duration(i)*time.Millisecond), time.Millisecond) {
				t.Fatalf("poll %d was not held", i)
			}
		}
	})
	t.Run("a newer held poll replaces the older, once an interval", func(t *testing.T) {
		t.Parallel()
		pacer := qr.NewPacer(frameOpened, qr.Limits{})
		_, first := pacer.Hold(frameOpened)
		verdict, second := pacer.Hold(frameOpened.Add(time.Second))
		if diff := cmp.Diff("held", verdict); diff != "" {
			t.Error(diff)
		}
		select {
		case <-first:
		default:
			t.Error("the older poll is still held")
		}
		if verdict, _ := pacer.Hold(frameOpened.Add(2 * time.Second)); verdict != "early" {
			t.Errorf("a third within the interval: %s, want early", verdict)
		}
		select {
		case <-second:
			t.Error("an early poll ended the held one")
		default:
		}
	})
	t.Run("at the limit nothing is held", func(t *testing.T) {
		t.Parallel()
		pacer := qr.NewPacer(frameOpened, qr.Limits{HeldPollsPerClient: -1})
		if pacer.Held(frameOpened, time.Second) {
			t.Error("held")
		}
	})
}
