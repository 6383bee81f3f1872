package storage_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/storage"
)

// edges calls try one second before, at and one second after a deadline.
func edges(t *testing.T, deadline int, try func(now time.Time) string, before, after string) {
	t.Helper()
	got := []string{try(at(deadline - 1)), try(at(deadline)), try(at(deadline + 1))}
	if diff := cmp.Diff([]string{before, after, after}, got); diff != "" {
		t.Errorf("one second before, at and after %d s (-want +got):\n%s", deadline, diff)
	}
}

// TestDeadlines checks the clock of protocol §3 at its edges, for both grants.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		grant                   storage.QRGrant
		lifetime                time.Duration
		claim, decide, lateScan int
	}{
		"the QR grant":                      {storage.QRGrantCode, storage.QRLifetime, 180, 240, 170},
		"the device grant":                  {storage.QRGrantDevice, storage.DeviceLifetime, 540, 585, 530},
		"the QR grant at its shortest":      {storage.QRGrantCode, storage.MinLifetime, 60, 120, 30},
		"the device grant at its shortest":  {storage.QRGrantDevice, storage.MinLifetime, 60, 105, 30},
		"the device grant as long as of QR": {storage.QRGrantDevice, storage.QRLifetime, 180, 225, 170},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			session := func(scanned int) *storage.QRSession {
				s := open()
				s.Grant, s.Lifetime = test.grant, test.lifetime
				if scanned >= 0 {
					s.Scan(at(scanned), phone("ann", 1))
				}
				return s
			}
			scan := func(now time.Time) string { return scanWord(session(-1).Scan(now, phone("ann", 1))) }
			edges(t, test.claim, scan, "claimed", "gone")
			poll := func(now time.Time) string { return pollWord(session(-1).Poll(now, proof(), false)) }
			edges(t, test.claim, poll, "pending", "expired")
			decide := func(scanned int) func(time.Time) string {
				return func(now time.Time) string {
					return decideWord(session(scanned).Decide(now, decision(storage.QRApprove, "ann", 1)))
				}
			}
			edges(t, test.decide, decide(test.lateScan), "approved", "gone")
			if first := 5; first+120 < test.decide {
				edges(t, first+120, decide(first), "approved", "gone")
			}
		})
	}
}

func TestRedemptionWindow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		early  int
		window int
	}{
		"the first interval":          {0, 30},
		"an interval of ten seconds":  {1, 30},
		"an interval of fifteen":      {2, 35},
		"an interval of thirty":       {5, 65},
		"the cap of sixty":            {11, 125},
		"beyond the cap it stays two": {20, 125},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redeem := func(now time.Time) string {
				s := open()
				for range test.early {
					s.Poll(at(1), proof(), true)
				}
				s.Scan(at(150), phone("ann", 1))
				s.Decide(at(230), decision(storage.QRApprove, "ann", 1))
				return pollWord(s.Redeem(now, proof(), storage.QRRedeeming{}))
			}
			// Longer than expires_in: an approval in the last second can still be redeemed.
			edges(t, 230+test.window, redeem, "ready", "expired")
		})
	}
}

// A person has to press a button, at whatever interval the page looks; the phone can deny for
// exactly as long.
func TestRedemptionWindowOfTheHostedDoor(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]int{"the first interval": 0, "the cap of sixty": 11} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			approved := func() *storage.QRSession {
				s := hostedOpen()
				for range early {
					s.Poll(at(1), cookieProof(), true)
				}
				s.Scan(at(150), phone("ann", 1))
				s.Decide(at(230), decision(storage.QRApprove, "ann", 1))
				return s
			}
			redeem := func(now time.Time) string {
				return pollWord(approved().Redeem(now, cookieProof(), storage.QRRedeeming{}))
			}
			edges(t, 230+120, redeem, "ready", "expired")
			edges(t, 230+120, func(now time.Time) string { return approved().StateAt(now).String() }, "approved", "expired")
			deny := func(now time.Time) string {
				return decideWord(approved().Decide(now, decision(storage.QRDeny, "ann", 1)))
			}
			edges(t, 230+120, deny, "denied", "unknown")
		})
	}
}

func TestIntervalStopsAtItsCap(t *testing.T) {
	t.Parallel()
	s := open()
	for range 11 {
		s.Poll(at(1), proof(), true)
	}
	if s.Interval != time.Minute || s.Version != 12 {
		t.Fatalf("interval %v, version %d; want 1m0s and 12", s.Interval, s.Version)
	}
	if outcome := s.Poll(at(1), proof(), true); outcome != storage.QRPollSlowDown || s.Version != 12 {
		t.Errorf("at the cap: %s, version %d; want slow_down and no change", pollWord(outcome), s.Version)
	}
}

func TestHandleOutlivesTheDecision(t *testing.T) {
	t.Parallel()
	after := func(verdict storage.QRVerdict) func(time.Time) string {
		return func(now time.Time) string {
			s := open()
			s.Scan(at(10), phone("ann", 1))
			s.Decide(at(20), decision(storage.QRApprove, "ann", 1))
			s.Redeem(at(21), proof(), storage.QRRedeeming{})
			return decideWord(s.Decide(now, decision(verdict, "ann", 1)))
		}
	}
	edges(t, 140, after(storage.QRApprove), "approved", "unknown")
	edges(t, 140, after(storage.QRDeny), "gone", "unknown")
	denied := func(now time.Time) string {
		s := open()
		s.Scan(at(10), phone("ann", 1))
		s.Decide(at(20), decision(storage.QRApprove, "ann", 1))
		s.Decide(at(40), decision(storage.QRDeny, "ann", 1))
		return decideWord(s.Decide(now, decision(storage.QRReport, "ann", 1)))
	}
	edges(t, 160, denied, "denied", "unknown")
}

func TestReplay(t *testing.T) {
	t.Parallel()
	again := func(bind func(*storage.QRSession), p storage.QRProof) func(time.Time) string {
		return func(now time.Time) string {
			s := open()
			bind(s)
			s.Scan(at(10), phone("ann", 1))
			s.Decide(at(20), decision(storage.QRApprove, "ann", 1))
			if s.Redeem(at(30), p, storage.QRRedeeming{}) != storage.QRPollReady {
				return "not redeemed"
			}
			return pollWord(s.Poll(now, p, false))
		}
	}
	edges(t, 40, again(func(*storage.QRSession) {}, proof()), "used", "replayed")
	key := func(s *storage.QRSession) { s.Challenge, s.JKT = "", "key" }
	edges(t, 40, again(key, storage.QRProof{JKT: "key"}), "used", "replayed")
	unbound := func(s *storage.QRSession) { s.Challenge = "" }
	edges(t, 31, again(unbound, storage.QRProof{}), "replayed", "replayed")
}

func TestTriesAreFixedByTheFirstClaim(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		entry storage.QREntry
		want  []string
	}{
		"a camera has three": {storage.QREntryScanner, []string{"scanned", "scanned", "aborted"}},
		"a link has one":     {storage.QREntryLink, []string{"aborted"}},
		"a code has one":     {storage.QREntryTyped, []string{"aborted"}},
		"no entry has one":   {0, []string{"aborted"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open()
			scan := phone("ann", 1)
			scan.Entry = test.entry
			s.Scan(at(10), scan)
			wrong := decisionWith(func(d *storage.QRDecision) { d.CodeEqual = false })
			for _, want := range test.want {
				// A repeated scan with another entry wins no try back.
				s.Scan(at(10), phone("ann", 1))
				if outcome := s.Decide(at(11), wrong); outcome != storage.QRDecideMismatch || s.State.String() != want {
					t.Errorf("%s in %s, want mismatch in %s", decideWord(outcome), s.State, want)
				}
			}
			if outcome := s.Decide(at(12), decision(storage.QRApprove, "ann", 1)); outcome != storage.QRDecideGone {
				t.Errorf("a right code after the last try: %s", decideWord(outcome))
			}
		})
	}
}

func TestTheClaimerRepeatsFiveTimes(t *testing.T) {
	t.Parallel()
	s := open()
	var got []string
	for handle := byte(1); handle <= 7; handle++ {
		got = append(got, scanWord(s.Scan(at(10), phone("ann", handle))))
	}
	want := []string{"claimed", "repeated", "repeated", "repeated", "repeated", "repeated", "limit"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.Claim.Version != 2 {
		t.Errorf("the check code moved to version %d", s.Claim.Version)
	}
	for handle := byte(1); handle <= 5; handle++ {
		if outcome := s.Decide(at(11), decision(storage.QRApprove, "ann", handle)); outcome != storage.QRDecideUnknown {
			t.Errorf("dead handle %d: %s", handle, decideWord(outcome))
		}
	}
	if outcome := s.Decide(at(11), decision(storage.QRApprove, "ann", 6)); outcome != storage.QRDecideApproved {
		t.Errorf("the current handle: %s", decideWord(outcome))
	}
}

func TestTheFifthBindingFailureEndsTheSession(t *testing.T) {
	t.Parallel()
	s := open()
	var states []string
	for range 6 {
		s.Poll(at(10), storage.QRProof{Verifier: "x"}, false)
		states = append(states, s.State.String())
	}
	want := []string{"pending", "pending", "pending", "pending", "aborted", "aborted"}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhoMayClaim(t *testing.T) {
	t.Parallel()
	age := int64(60)
	zero := int64(0)
	for name, test := range map[string]struct {
		change func(*storage.QRSession)
		now    int
		want   string
	}{
		"anybody without a hint":               {func(*storage.QRSession) {}, 10, "claimed"},
		"the person hinted at":                 {func(s *storage.QRSession) { s.Hinted, s.HintSubject = true, "ann" }, 10, "claimed"},
		"not another than the one hinted at":   {func(s *storage.QRSession) { s.Hinted, s.HintSubject = true, "bob" }, 10, "wrong_account"},
		"nobody when the hint meant nobody":    {func(s *storage.QRSession) { s.Hinted = true }, 10, "wrong_account"},
		"a sign-in exactly as old as max_age":  {func(s *storage.QRSession) { s.MaxAge = &age }, 59, "claimed"},
		"not a sign-in older than max_age":     {func(s *storage.QRSession) { s.MaxAge = &age }, 60, "step_up"},
		"not an old sign-in with max_age 0":    {func(s *storage.QRSession) { s.MaxAge = &zero }, 1, "step_up"},
		"the hint is asked before the sign-in": {func(s *storage.QRSession) { s.MaxAge, s.Hinted = &zero, true }, 1, "wrong_account"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open()
			test.change(s)
			if got := scanWord(s.Scan(at(test.now), phone("ann", 1))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if (s.Claim != nil) != (test.want == "claimed") {
				t.Error("a refused scan claimed, or a claim was lost")
			}
		})
	}
}

func TestALoggedExpiryIsFinal(t *testing.T) {
	t.Parallel()
	s := open()
	s.Scan(at(10), phone("ann", 1))
	s.Decide(at(20), decision(storage.QRApprove, "ann", 1))
	s.LogExpiry(at(50))
	if got := pollWord(s.Redeem(at(49), proof(), storage.QRRedeeming{})); got != "expired" {
		t.Errorf("a redemption that read its clock before the sweep: %s", got)
	}
	if s.Lazy() {
		t.Error("a logged expiry is lazy")
	}
}
