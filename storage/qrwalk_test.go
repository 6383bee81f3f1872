package storage_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// walk drives one record and the model through the same events.
type walk struct {
	t       *testing.T
	session *storage.QRSession
	model   model
	now     int
	trace   []string

	issued   int
	approved bool
	denied   bool
	owner    string
	ended    string
}

// newWalk reads how the session was opened from two bytes.
func newWalk(t *testing.T, a, b byte) *walk {
	t.Helper()
	w := &walk{t: t, session: open(), model: model{state: "pending", lifetime: 240, maxAge: -1, bound: true, interval: 5}}
	if a&1 != 0 {
		w.session.Grant, w.session.Lifetime = storage.QRGrantDevice, storage.DeviceLifetime
		w.model.device, w.model.lifetime = true, 600
	}
	if a&2 != 0 {
		w.session.Challenge, w.model.bound = "", false
	}
	if a&(1|16) == 16 {
		hosted := hostedOpen()
		w.session.Door, w.session.Hosted, w.session.Challenge = hosted.Door, hosted.Hosted, ""
		w.model.hosted, w.model.bound = true, true
	}
	switch a >> 2 & 3 {
	case 1:
		w.session.Hinted, w.session.HintSubject, w.model.hint = true, "ann", "ann"
	case 2:
		w.session.Hinted, w.model.hint = true, "nobody"
	}
	if b&1 != 0 {
		age := int64(b >> 1)
		w.session.MaxAge, w.model.maxAge = &age, int(age)
	}
	return w
}

// run reads events of two bytes: what happens, and how much later than the event before.
func (w *walk) run(data []byte) {
	for i := 0; i+1 < len(data) && !w.t.Failed(); i += 2 {
		w.step(data[i+1])
		w.event(data[i])
	}
}

// step moves the clock by a few seconds or to the edge of the current deadline.
func (w *walk) step(b byte) {
	steps := [...]int{0, 0, 0, 1, 2, 5, 9, 10, 11, 29, 31, 60, 119, 121}
	if i := int(b) % 20; i < len(steps) {
		w.now += steps[i]
		return
	} else if edge := w.model.deadline() + i - 16; edge < 10_000 {
		w.now = max(w.now, edge)
	}
}

func (w *walk) event(b byte) {
	before, seen := w.session.Clone(), w.model.at(w.now)
	who := []string{"ann", "bob"}[b>>4&1]
	handle := 1 + b>>5&1
	var name, outcome, row, got string
	now := at(w.now)
	switch b % 16 {
	case 0, 1, 2:
		name = "poll"
		proved, early := b%16 != 2, b%16 == 1
		outcome, row = w.model.poll(w.now, proved, early)
		got = pollWord(w.session.Poll(now, w.proof(proved), early))
	case 3, 4:
		name = "redeem"
		outcome, row = w.model.redeem(w.now, b%16 == 3)
		got = pollWord(w.session.Redeem(now, w.proof(b%16 == 3), storage.QRRedeeming{RequestID: "family"}))
	case 5, 6, 7:
		name = "scan by " + who
		outcome, row, got = w.scan(who, handle, b%16 == 6, b%16 != 7)
	case 8, 9, 10, 11, 12, 13:
		verdict := [...]string{"approve", "deny", "report", "approve", "approve", "approve"}[b%16-8]
		flaw := [...]string{"", "", "", "code", "digest", "form"}[b%16-8]
		name = verdict + " by " + who + " " + flaw
		outcome, row, got = w.decide(who, handle, verdict, flaw)
	case 14:
		if b&0x80 == 0 {
			name = "cancel"
			outcome, row = w.model.cancel(w.now)
			got = cancelWord(w.session.Cancel(now))
			break
		}
		name = "abort"
		outcome, row = w.model.abort(w.now)
		got = aborting(w.session, now)
	case 15:
		name = "sweep"
		outcome, row = w.model.sweep(w.now)
		got = sweeping(w.session, now)
	}
	w.trace = append(w.trace, fmt.Sprintf("%d s, %s: %s", w.now, name, got))
	w.compare(before, outcome, row, got)
	w.invariants(before, seen, name, got)
}

func (w *walk) proof(right bool) storage.QRProof {
	switch {
	case right && w.model.hosted:
		return cookieProof()
	case right && w.model.bound:
		return proof()
	case right:
		return storage.QRProof{}
	}
	return storage.QRProof{Verifier: "wrong"}
}

func (w *walk) scan(who string, handle byte, typed, fresh bool) (outcome, row, got string) {
	scan := phone(who, handle)
	scan.FrameFresh = fresh
	if typed {
		scan.Entry = storage.QREntryTyped
	}
	outcome, row = w.model.scan(w.now, who, handle, typed, fresh)
	return outcome, row, scanWord(w.session.Scan(at(w.now), scan))
}

func (w *walk) decide(who string, handle byte, verdict, flaw string) (outcome, row, got string) {
	verdicts := map[string]storage.QRVerdict{"approve": storage.QRApprove, "deny": storage.QRDeny, "report": storage.QRReport}
	d := decision(verdicts[verdict], who, handle)
	d.CodeEqual, d.CodeMalformed, d.DigestEqual = flaw != "code" && flaw != "form", flaw == "form", flaw != "digest"
	outcome, row = w.model.decide(w.now, who, handle, verdict, flaw)
	return outcome, row, decideWord(w.session.Decide(at(w.now), d))
}

// compare checks the record against the model: answer, state, and one row and version a move.
func (w *walk) compare(before *storage.QRSession, outcome, row, got string) {
	w.t.Helper()
	if got != outcome {
		w.fail("answered %q, the model %q", got, outcome)
	}
	if state := w.session.StateAt(at(w.now)).String(); state != w.model.at(w.now) {
		w.fail("state %s, the model's %s", state, w.model.at(w.now))
	}
	if w.session.Interval != time.Duration(w.model.interval)*time.Second {
		w.fail("interval %v, the model's %d s", w.session.Interval, w.model.interval)
	}
	rows, moves := w.session.TakeEvents(), w.session.Version-before.Version
	switch row {
	case "":
		if moves != 0 || len(rows) != 0 {
			w.fail("moved by %d with %d rows, the model did not", moves, len(rows))
		}
	case "-":
		if moves != 1 || len(rows) != 0 {
			w.fail("moved by %d with %d rows, want one change without a row", moves, len(rows))
		}
	default:
		// I12: one audit row per move.
		if moves != 1 || len(rows) != 1 || rows[0].Type != row {
			w.fail("moved by %d with rows %v, want one %s", moves, rows, row)
		}
	}
}

// invariants checks protocol §12 without the model's word for it.
func (w *walk) invariants(before *storage.QRSession, seen, name, got string) {
	w.t.Helper()
	s := w.session
	if name == "redeem" && got == "ready" {
		w.issued++
		if !w.approved || s.Claim == nil || s.Approval == nil {
			w.fail("I1: tokens without an approval")
		}
		if w.denied {
			w.fail("I5: tokens after a denial")
		}
	}
	if w.issued > 1 {
		w.fail("I2: tokens %d times", w.issued)
	}
	if w.ended != "" && s.State.String() != w.ended {
		w.fail("I4: %s became %s", w.ended, s.State)
	}
	if seen == "expired" && s.State != before.State {
		w.fail("I6: %s became %s past its clock", before.State, s.State)
	}
	if w.owner != "" && s.Claim.Subject != w.owner {
		w.fail("I7: the owner changed from %s to %s", w.owner, s.Claim.Subject)
	}
	if before.State != storage.QRApproved && s.State == storage.QRApproved {
		w.approved = true
		if name != "approve by "+s.Claim.Subject+" " {
			w.fail("I1, I9: approved by %q", name)
		}
	}
	if s.Claim != nil && s.Hinted && s.Claim.Subject != s.HintSubject {
		w.fail("I10: %s claimed a session for %q", s.Claim.Subject, s.HintSubject)
	}
	if s.Version < before.Version {
		w.fail("the version fell")
	}
	w.note()
}

// note remembers what must hold from here on.
func (w *walk) note() {
	if w.session.Claim != nil {
		w.owner = w.session.Claim.Subject
	}
	switch w.session.State {
	case storage.QRDenied:
		w.denied = true
		w.ended = w.session.State.String()
	case storage.QRRedeemed, storage.QRCancelled, storage.QRAborted:
		w.ended = w.session.State.String()
	case storage.QRPending, storage.QRScanned, storage.QRApproved, storage.QRExpired:
	}
}

func (w *walk) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("%s\nafter %q", fmt.Sprintf(format, args...), w.trace)
}

// FuzzQRSession reads an opening and a sequence of events from bytes.
func FuzzQRSession(f *testing.F) {
	scan, approve, redeem, deny, report, poll, early, wrong, sweep, cancel := byte(5), byte(8), byte(3), byte(9), byte(10), byte(0), byte(1), byte(2), byte(15), byte(14)
	soon, later, edge := byte(0), byte(6), byte(16)
	for _, seed := range [][]byte{
		{0, 0, poll, soon, scan, later, poll, soon, approve, soon, redeem, soon, redeem, soon},
		{0, 0, scan, soon, approve, soon, deny, soon, redeem, soon, report, soon},
		{1, 0, scan, edge, scan, edge - 1, approve, edge - 1, approve, edge, redeem, edge - 1, redeem, edge, sweep, soon},
		{16, 0, scan, soon, approve, soon, redeem, edge - 1, redeem, soon},
		{16, 0, scan, soon, approve, soon, poll, edge, redeem, soon, sweep, soon},
		{3, 0, scan, soon, scan + 32, soon, approve, soon, approve + 32, soon, redeem, later, redeem, later, poll, later},
		{4, 0, scan + 16, soon, scan, soon, scan + 16, soon, approve + 16, soon, approve, soon},
		{8, 0, scan, soon, scan + 16, soon},
		{0, 21, scan, later, scan, later},
		{0, 0, wrong, soon, wrong, soon, wrong, soon, wrong, soon, wrong, soon, poll, soon},
		{0, 0, early, soon, early, soon, early, soon, scan, soon, cancel, soon, cancel, soon},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2 {
			newWalk(t, data[0], data[1]).run(data[2:])
		}
	})
}

// fill makes a sequence in which logins have a chance: evenly drawn events cancel, deny or
// run out of time long before anybody redeems.
func fill(data []byte, random *rand.Rand) {
	const likely = "\x00\x00\x00\x00\x01\x01\x02\x03\x03\x03\x03\x04\x05\x05\x05\x05\x06\x07\x08\x08\x08\x08\x08\x08\x08\x0b\x0c\x0d\x0f"
	data[0], data[1] = byte(random.Uint32()), byte(random.Uint32())
	for i := 2; i+1 < len(data); i += 2 {
		data[i] = byte(random.Uint32())
		if random.IntN(8) > 0 {
			// The other person and the other handle come less often.
			data[i] = likely[random.IntN(len(likely))] | byte(random.Uint32()&random.Uint32()&random.Uint32())&0xf0
		}
		data[i+1] = byte(random.IntN(6))
		if random.IntN(10) == 0 {
			data[i+1] = byte(random.Uint32())
		}
	}
}

// TestRandomWalks explores far more than the fuzzer's seeds do in a plain test run.
func TestRandomWalks(t *testing.T) {
	t.Parallel()
	const sequences, length = 20_000, 2 + 2*30
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 2026))
			reached := map[string]int{}
			data := make([]byte, length)
			for range sequences / 4 {
				fill(data, random)
				w := newWalk(t, data[0], data[1])
				w.run(data[2:])
				if t.Failed() {
					return
				}
				reached[w.model.at(w.now)]++
				reached["issued"] += w.issued
			}
			// A walk that never gets anywhere proves nothing.
			for _, state := range []string{"redeemed", "denied", "cancelled", "aborted", "expired", "issued"} {
				if reached[state] < 20 {
					t.Errorf("%s was reached %d times", state, reached[state])
				}
			}
		})
	}
}
