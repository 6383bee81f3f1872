package storage_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/storage"
)

// start is when every session of these tests was opened.
func start() time.Time { return time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC) }

func at(seconds int) time.Time { return start().Add(time.Duration(seconds) * time.Second) }

const verifier = "the-verifier-of-the-tests-is-43-characters-long"

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func proof() storage.QRProof { return storage.QRProof{Verifier: verifier} }

// open returns a session of the QR grant as its opening leaves it, bound to a verifier.
func open() *storage.QRSession {
	return &storage.QRSession{
		ID: storage.QRID{1}, Version: 1, State: storage.QRPending, Grant: storage.QRGrantCode, ClientID: "tv",
		OpenedAt: start(), Lifetime: storage.QRLifetime, Challenge: challenge(), Interval: storage.PollInterval,
	}
}

// hostedOpen is open at the hosted door, bound to a browser's cookie.
func hostedOpen() *storage.QRSession {
	s := open()
	s.Challenge, s.Door = "", storage.QRDoorHosted
	s.Hosted = &storage.QRHosted{CookieHash: cookieHash(), RequestedAt: start()}
	return s
}

func cookieHash() [32]byte { return sha256.Sum256([]byte("the cookie of the tests")) }

func cookieProof() storage.QRProof {
	hash := cookieHash()
	return storage.QRProof{CookieHash: &hash}
}

// phone scans with the person's current handle; handles differ by their number.
func phone(subject string, handle byte) storage.QRScan {
	return storage.QRScan{
		Subject: subject, ClientID: "app", SessionID: "sid-" + subject, AuthTime: start().Add(-time.Second),
		HandleHash: [32]byte{handle}, Entry: storage.QREntryScanner, FrameFresh: true,
	}
}

func decision(verdict storage.QRVerdict, subject string, handle byte) storage.QRDecision {
	return storage.QRDecision{
		Verdict: verdict, HandleHash: [32]byte{handle}, Subject: subject, ClientID: "app",
		SessionID: "sid-" + subject, DigestEqual: true, CodeEqual: true,
	}
}

func pollWord(o storage.QRPollOutcome) string {
	return map[storage.QRPollOutcome]string{
		storage.QRPollPending: "pending", storage.QRPollSlowDown: "slow_down", storage.QRPollReady: "ready",
		storage.QRPollDenied: "denied", storage.QRPollExpired: "expired", storage.QRPollUsed: "used",
		storage.QRPollReplayed: "replayed", storage.QRPollUnproved: "unproved",
	}[o]
}

func scanWord(o storage.QRScanOutcome) string {
	return map[storage.QRScanOutcome]string{
		storage.QRScanGone: "gone", storage.QRScanTaken: "taken", storage.QRScanDecided: "decided",
		storage.QRScanRepeatLimit: "limit", storage.QRScanRepeated: "repeated", storage.QRScanStale: "stale",
		storage.QRScanWrongAccount: "wrong_account", storage.QRScanStepUp: "step_up", storage.QRScanClaimed: "claimed",
	}[o]
}

func decideWord(o storage.QRDecideOutcome) string {
	return map[storage.QRDecideOutcome]string{
		storage.QRDecideUnknown: "unknown", storage.QRDecideGone: "gone", storage.QRDecideContextChanged: "changed",
		storage.QRDecideMalformed: "malformed", storage.QRDecideMismatch: "mismatch",
		storage.QRDecideApproved: "approved", storage.QRDecideDenied: "denied",
	}[o]
}

func cancelWord(o storage.QRCancelOutcome) string {
	return map[storage.QRCancelOutcome]string{storage.QRCancelDone: "done", storage.QRCancelRedeemed: "redeemed"}[o]
}

// columns are the states of the matrix: how ann's session gets there (scan at 10 s, decision
// at 20 s, end at 25 s) and when the event meets it.
func columns() []struct {
	name  string
	event int
	steps []func(*storage.QRSession)
} {
	scanned := func(s *storage.QRSession) { s.Scan(at(10), phone("ann", 1)) }
	approved := func(s *storage.QRSession) { s.Decide(at(20), decision(storage.QRApprove, "ann", 1)) }
	redeemed := func(s *storage.QRSession) { s.Redeem(at(25), proof(), storage.QRRedeeming{RequestID: "family"}) }
	denied := func(s *storage.QRSession) { s.Decide(at(25), decision(storage.QRDeny, "ann", 1)) }
	cancelled := func(s *storage.QRSession) { s.Cancel(at(25)) }
	aborted := func(s *storage.QRSession) { _ = s.Abort(at(25), "subject") }
	return []struct {
		name  string
		event int
		steps []func(*storage.QRSession)
	}{
		{"pending", 30, nil},
		{"scanned", 30, []func(*storage.QRSession){scanned}},
		{"approved", 30, []func(*storage.QRSession){scanned, approved}},
		{"redeemed just now", 30, []func(*storage.QRSession){scanned, approved, redeemed}},
		{"redeemed before", 35, []func(*storage.QRSession){scanned, approved, redeemed}},
		{"denied", 30, []func(*storage.QRSession){scanned, denied}},
		{"cancelled", 30, []func(*storage.QRSession){scanned, cancelled}},
		{"aborted", 30, []func(*storage.QRSession){scanned, aborted}},
		{"expired pending", 180, nil},
		{"expired scanned", 130, []func(*storage.QRSession){scanned}},
		{"expired approved", 50, []func(*storage.QRSession){scanned, approved}},
	}
}

type event struct {
	name string
	step func(s *storage.QRSession, now time.Time) string
	// cells has one cell per column: the outcome, and for a move "> state row".
	cells string
}

func poll(p storage.QRProof, early bool) func(*storage.QRSession, time.Time) string {
	return func(s *storage.QRSession, now time.Time) string { return pollWord(s.Poll(now, p, early)) }
}

func redeeming(p storage.QRProof) func(*storage.QRSession, time.Time) string {
	return func(s *storage.QRSession, now time.Time) string {
		return pollWord(s.Redeem(now, p, storage.QRRedeeming{RequestID: "late"}))
	}
}

func scanning(subject string, fresh bool) func(*storage.QRSession, time.Time) string {
	return func(s *storage.QRSession, now time.Time) string {
		scan := phone(subject, 2)
		scan.FrameFresh = fresh
		return scanWord(s.Scan(now, scan))
	}
}

func deciding(d storage.QRDecision) func(*storage.QRSession, time.Time) string {
	return func(s *storage.QRSession, now time.Time) string { return decideWord(s.Decide(now, d)) }
}

func decisionWith(change func(*storage.QRDecision)) storage.QRDecision {
	d := decision(storage.QRApprove, "ann", 1)
	change(&d)
	return d
}

const (
	bindingFailed = "unproved > pending qr.binding_failed | unproved > scanned qr.binding_failed | unproved > approved qr.binding_failed"
	unknown       = "unknown | unknown | unknown | unknown | unknown | unknown | unknown | unknown | unknown | unknown | unknown"
	// ended is every column from the redemption on, for a call that has no business there.
	ended = " | gone | gone | gone | gone | gone | gone | gone | gone"
)

func waitEvents() []event {
	late := " | denied | denied | denied | expired | expired | expired"
	return []event{
		{"poll in time", poll(proof(), false), "pending | pending | ready | used | replayed" + late},
		{"poll early", poll(proof(), true), "slow_down > pending - | slow_down > scanned - | ready | used | replayed" + late},
		{
			"poll with a wrong verifier", poll(storage.QRProof{Verifier: "x"}, false),
			bindingFailed + " | replayed | replayed | unproved | unproved | unproved | unproved | unproved | unproved",
		},
		{
			"poll without the verifier, early", poll(storage.QRProof{}, true),
			bindingFailed + " | replayed | replayed | unproved | unproved | unproved | unproved | unproved | unproved",
		},
		{
			"poll with an unexpected key", poll(storage.QRProof{Verifier: verifier, JKT: "k"}, false),
			bindingFailed + " | replayed | replayed | unproved | unproved | unproved | unproved | unproved | unproved",
		},
		{"redeem", redeeming(proof()), "pending | pending | ready > redeemed qr.redeemed | used | used" + late},
		{
			"redeem with a wrong verifier", redeeming(storage.QRProof{Verifier: "x"}),
			bindingFailed + " | used | used | unproved | unproved | unproved | unproved | unproved | unproved",
		},
		{
			"cancel", func(s *storage.QRSession, now time.Time) string { return cancelWord(s.Cancel(now)) },
			"done > cancelled qr.cancelled | done > cancelled qr.cancelled | done > cancelled qr.cancelled | redeemed | redeemed | done | done | done | done | done | done",
		},
		{
			"abort", aborting,
			"ok > aborted qr.revoked | ok > aborted qr.revoked | ok > aborted qr.revoked | redeemed | redeemed | denied | cancelled | aborted | expired | expired | expired",
		},
		{"sweep", sweeping, "no | no | no | no | no | no | no | no | no | logged > expired qr.expired | logged > expired qr.expired"},
	}
}

func phoneEvents() []event {
	decided := " | approved | approved | approved | gone | gone | gone | unknown | gone | gone"
	return []event{
		{"scan by ann", scanning("ann", true), "claimed > scanned qr.scanned | repeated > scanned - | decided" + ended},
		{"scan by ann with an old frame", scanning("ann", false), "stale | repeated > scanned - | decided" + ended},
		{"scan by bob", scanning("bob", true), "claimed > scanned qr.scanned | taken | taken" + ended},
		{"scan by bob with an old frame", scanning("bob", false), "stale | taken | taken" + ended},
		{"approve", deciding(decision(storage.QRApprove, "ann", 1)), "unknown | approved > approved qr.approved" + decided},
		{
			"deny", deciding(decision(storage.QRDeny, "ann", 1)),
			"unknown | denied > denied qr.denied | denied > denied qr.denied | gone | gone | denied | gone | gone | unknown | gone | gone",
		},
		{
			"report", deciding(decision(storage.QRReport, "ann", 1)),
			"unknown | denied > denied qr.reported | denied > denied qr.reported | gone | gone | denied > denied qr.reported | gone | gone | unknown | gone | gone",
		},
		{
			"approve with a wrong code", deciding(decisionWith(func(d *storage.QRDecision) { d.CodeEqual = false })),
			"unknown | mismatch > scanned qr.code_failed" + decided,
		},
		{
			"approve with a malformed code", deciding(decisionWith(func(d *storage.QRDecision) { d.CodeMalformed, d.CodeEqual = true, false })),
			"unknown | malformed" + decided,
		},
		{
			"approve another context with a wrong code", deciding(decisionWith(func(d *storage.QRDecision) { d.DigestEqual, d.CodeEqual = false, false })),
			"unknown | changed" + decided,
		},
		{"approve with another handle", deciding(decision(storage.QRApprove, "ann", 9)), unknown},
		{"deny with another handle", deciding(decision(storage.QRDeny, "ann", 9)), unknown},
		{"deny by bob with ann's handle", deciding(decision(storage.QRDeny, "bob", 1)), unknown},
		{"report from another client", deciding(decisionWith(func(d *storage.QRDecision) { d.Verdict, d.ClientID = storage.QRReport, "other" })), unknown},
		{"approve from another sign-in", deciding(decisionWith(func(d *storage.QRDecision) { d.SessionID = "other" })), unknown},
		{"approve with a key the scan had not", deciding(decisionWith(func(d *storage.QRDecision) { d.JKT = "k" })), unknown},
	}
}

func aborting(s *storage.QRSession, now time.Time) string {
	var illegal *storage.TransitionError
	if err := s.Abort(now, "client"); errors.As(err, &illegal) {
		return illegal.From.String()
	}
	return "ok"
}

func sweeping(s *storage.QRSession, now time.Time) string {
	if s.LogExpiry(now) {
		return "logged"
	}
	return "no"
}

// TestMatrix meets every state with every event (protocol §3).
func TestMatrix(t *testing.T) {
	t.Parallel()
	states := columns()
	for _, e := range append(waitEvents(), phoneEvents()...) {
		cells := strings.Split(e.cells, "|")
		if len(cells) != len(states) {
			t.Fatalf("%s: %d cells for %d states", e.name, len(cells), len(states))
		}
		for i, column := range states {
			t.Run(e.name+" when "+column.name, func(t *testing.T) {
				t.Parallel()
				s := open()
				for _, step := range column.steps {
					step(s)
				}
				s.TakeEvents()
				before := s.Clone()
				now := at(column.event)
				if got, want := move(e.step(s, now), before, s, now), strings.TrimSpace(cells[i]); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// move writes what a step did in the form of a cell; an unchanged record is the outcome alone.
func move(outcome string, before, after *storage.QRSession, now time.Time) string {
	rows := after.TakeEvents()
	if after.Version == before.Version {
		if diff := cmp.Diff(before, after, cmp.AllowUnexported(storage.QRSession{})); diff != "" || len(rows) > 0 {
			return outcome + " changed without a version: " + diff
		}
		return outcome
	}
	if after.Version != before.Version+1 {
		return outcome + " skipped a version"
	}
	row := "-"
	for i, e := range rows {
		if i > 0 || e.QRSession != after.ID.Hash() || e.ClientID != after.ClientID || !e.At.Equal(now) {
			return outcome + " wrong rows"
		}
		if after.Claim != nil && (e.Subject != after.Claim.Subject || e.ApproverID != after.Claim.ClientID || e.SessionID != after.Claim.SessionID) {
			return outcome + " wrong person in the row"
		}
		row = e.Type
	}
	return outcome + " > " + after.StateAt(now).String() + " " + row
}
