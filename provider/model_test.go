package provider_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// TestModelOverHTTP walks at random through what a consumption device, two phones, an attacker
// with a client of its own and the clock can do, and checks the invariants of protocol §12
// after every step. A failure names its seed and the steps that led to it.
func TestModelOverHTTP(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: lasting})
			phones := []*phone{newPhone(t, s), newPhoneOf(t, s, "bob")}
			random := rand.New(rand.NewPCG(seed, 12))
			ends := make(map[string]int)
			for range 60 {
				w := newWalk(t, s, random, phones)
				for range 20 {
					w.step()
				}
				ends[w.finish()]++
				if t.Failed() {
					t.Fatalf("steps: %s", strings.Join(w.steps, ", "))
				}
			}
			// A walk that never gets anywhere proves nothing.
			for _, end := range []string{"redeemed", "denied", "cancelled", "aborted", "expired"} {
				if ends[end] == 0 {
					t.Errorf("no walk ended %s: %v", end, ends)
				}
			}
		})
	}
}

// walk is one session and what the model knows of it.
type walk struct {
	t      *testing.T
	s      *providertest.Server
	random *rand.Rand
	phones []*phone
	scans  []*providertest.Reply
	pc     *consumption
	thief  *consumption
	frame  string
	code   string
	hinted bool
	// approver is who approved last, allowed what that person ticked.
	approver string
	allowed  []string
	refused  bool
	tokens   *providertest.Reply
	// rows are the audit rows that the moves seen so far should have.
	rows  []string
	steps []string
}

func newWalk(t *testing.T, s *providertest.Server, random *rand.Rand, phones []*phone) *walk {
	t.Helper()
	w := &walk{t: t, s: s, random: random, phones: phones, scans: make([]*providertest.Reply, len(phones)), rows: []string{storage.EventQROpened}}
	client := []string{"cli", "cli", "tv"}[random.IntN(3)]
	w.hinted = random.IntN(4) == 0
	extra := url.Values{"scope": {"openid profile email"}}
	if w.hinted {
		extra.Set("login_hint", providertest.AliceLogin)
	}
	s.Clock.Advance(time.Second)
	w.pc, w.thief = openQR(t, s, client, extra), openQR(t, s, "cli", nil)
	w.frame = payload(w.pc.opened)
	w.steps = []string{client, fmt.Sprint("hinted ", w.hinted)}
	return w
}

// deed is one thing somebody can do: right says that it carries all that an approval needs.
type deed struct {
	name   string
	byPC   bool
	person string
	right  bool
	scopes []string
	reply  *providertest.Reply
}

// step does one thing and checks what became of the session.
func (w *walk) step() {
	w.t.Helper()
	before := w.pc.record()
	d := w.act()
	w.steps = append(w.steps, d.name)
	after := w.pc.record()
	if d.reply != nil && d.reply.Status >= http.StatusInternalServerError {
		w.t.Errorf("%s: %d %s", d.name, d.reply.Status, d.reply.Body)
	}
	w.checkMove(d, before, after)
	w.checkAnswer(d, before, after)
	w.rows = append(w.rows, rowsOf(before, after)...)
}

func (w *walk) act() deed {
	w.t.Helper()
	who := w.random.IntN(len(w.phones))
	p := w.phones[who]
	person := []string{providertest.AliceSubject, "bob"}[who]
	switch n := w.random.IntN(40); {
	case n < 8:
		return w.polls()
	case n < 9:
		return deed{name: "the PC cancels", byPC: true, reply: w.pc.cancel(w.t.Context())}
	case n < 13:
		return w.attacks()
	case n < 19:
		return w.scanned(who, "scans", func() *providertest.Reply { return p.scan(w.frame, "scanner") })
	case n < 21:
		return w.scanned(who, "types the code", func() *providertest.Reply { return p.scanCode(w.pc.userCode()) })
	case n < 24:
		return deed{name: fmt.Sprint(person, " refuses"), person: person, reply: p.decide(w.held(who), []string{"deny", "deny", "report"}[w.random.IntN(3)], "")}
	case n < 34:
		return w.decides(who, person)
	case n < 35:
		_, err := w.s.Provider.Sweep(w.t.Context())
		if err != nil {
			w.t.Error(err)
		}
		return deed{name: "the sweep"}
	}
	d := []time.Duration{time.Second, 3 * time.Second, 9 * time.Second, 10 * time.Second, 20 * time.Second, 31 * time.Second, 61 * time.Second, 120 * time.Second}[w.random.IntN(8)]
	w.s.Clock.Advance(d)
	return deed{name: fmt.Sprint("the clock moves ", d)}
}

func (w *walk) polls() deed {
	w.t.Helper()
	reply := w.pc.poll(w.t.Context())
	if frame := payload(reply); frame != "" {
		w.frame = frame
	}
	if code := reply.Text("check_code"); code != "" {
		w.code = code
	}
	return deed{name: "the PC polls", byPC: true, reply: reply}
}

// attacks is somebody who knows everything but the verifier or the client.
func (w *walk) attacks() deed {
	w.t.Helper()
	form := w.pc.tokenForm()
	switch w.random.IntN(3) {
	case 0:
		form.Set("code_verifier", "wrong-"+strings.Repeat("x", 43))
		return deed{name: "a poll with a wrong verifier", reply: w.pc.post(w.t.Context(), "/token", form, nil)}
	case 1:
		form.Set("client_id", map[string]string{"cli": "tv", "tv": "cli"}[w.pc.client.ID])
		return deed{name: "a poll by another client", reply: w.thief.post(w.t.Context(), "/token", form, nil)}
	}
	form = url.Values{"device_code": {randomSecret(w.pc.id[:])}}
	return deed{name: "a cancellation with the reference", reply: w.pc.post(w.t.Context(), "/qr/cancel", form, nil)}
}

func (w *walk) scanned(who int, how string, scan func() *providertest.Reply) deed {
	w.t.Helper()
	reply := scan()
	if reply.Status == http.StatusOK {
		w.scans[who] = reply
	}
	return deed{name: fmt.Sprintf("phone %d %s", who, how), reply: reply}
}

// held is what a phone decides on: its own scan, or another's when it has none.
func (w *walk) held(who int) *providertest.Reply {
	for _, scan := range []*providertest.Reply{w.scans[who], w.scans[0], w.scans[1]} {
		if scan != nil {
			return scan
		}
	}
	return &providertest.Reply{Body: `{"confirm_handle":"` + randomSecret(w.pc.id[:]) + `","context_digest":"x"}`}
}

// decides approves, mostly as it should be done.
func (w *walk) decides(who int, person string) deed {
	w.t.Helper()
	scan := w.held(who)
	d := deed{name: fmt.Sprint(person, " approves"), person: person, right: true, scopes: []string{"openid", "profile", "email"}}
	body := decision(scan, "approve", w.code)
	asked := w.pc.client.ID == "cli"
	if asked && w.code == "" {
		// Two digits might be the right ones.
		body["check_code"], d.right, d.name = "9", false, d.name+" without knowing the code"
	}
	switch w.random.IntN(9) {
	case 0, 3, 4:
		if !asked || w.code != "" {
			body["check_code"], d.right, d.name = wrongCode(w.code), !asked, d.name+" with a wrong code"
		}
	case 1:
		body["context_digest"], d.right, d.name = "AAAA", false, d.name+" with another digest"
	case 2:
		body["scope"], d.scopes, d.name = "openid", []string{"openid"}, d.name+" and narrows"
	}
	d.reply = w.phones[who].post(w.t.Context(), "/qr/decision", body)
	return d
}

// checkMove holds what the record may do in one step.
func (w *walk) checkMove(d deed, before, after *storage.QRSession) {
	w.t.Helper()
	now := w.s.Clock.Now()
	if after.Version < before.Version {
		w.t.Errorf("%s: the version went back", d.name)
	}
	// An end may still take a note: a report after a denial, a replay, the expiry in the log.
	noted := after.State == storage.QRDenied || after.State == storage.QRRedeemed || after.ExpiryLogged
	if !before.Live(now) && (after.State != before.State || after.Version != before.Version && !noted) {
		w.t.Errorf("I4, I6: %s moved a session that is %s from %s to %s", d.name, before.StateAt(now), before.State, after.State)
	}
	if before.Claim != nil && (after.Claim.Subject != before.Claim.Subject || after.Claim.SessionID != before.Claim.SessionID) {
		w.t.Errorf("I7: %s gave the session to %s", d.name, after.Claim.Subject)
	}
	if w.hinted && after.Claim != nil && after.Claim.Subject != providertest.AliceSubject {
		w.t.Errorf("I10: %s claimed for %s", d.name, after.Claim.Subject)
	}
	if before.State != storage.QRApproved && after.State == storage.QRApproved {
		if !d.right || d.person != before.Claim.Subject {
			w.t.Errorf("I1, I8, I9: %s approved a session of %s", d.name, before.Claim.Subject)
		}
		w.approver, w.allowed = d.person, d.scopes
	}
	if after.State == storage.QRDenied {
		w.refused = true
	}
}

// checkAnswer holds what may be said to whom.
func (w *walk) checkAnswer(d deed, before, after *storage.QRSession) {
	w.t.Helper()
	if d.reply == nil {
		return
	}
	if d.reply.Text("access_token") == "" {
		if after.State == storage.QRRedeemed && before.State != storage.QRRedeemed {
			w.t.Errorf("I2: %s redeemed and got %d %s", d.name, d.reply.Status, d.reply.Body)
		}
		for _, personal := range personalData(w.t) {
			if d.person == "" && len(personal) > 6 && strings.Contains(d.reply.Body, personal) {
				w.t.Errorf("I13: %s was told %q: %s", d.name, personal, d.reply.Body)
			}
		}
		return
	}
	sub := claims(w.t, d.reply.Text("id_token"))["sub"]
	switch {
	case !d.byPC:
		w.t.Errorf("I3: %s got tokens", d.name)
	case w.tokens != nil:
		w.t.Errorf("I2: %s got tokens again", d.name)
	case before.State != storage.QRApproved || sub != w.approver || sub != before.Claim.Subject:
		w.t.Errorf("I1: tokens of %v from %s, approved by %q", sub, before.State, w.approver)
	case w.refused:
		w.t.Errorf("I5: tokens after a refusal")
	}
	for _, scope := range strings.Fields(d.reply.Text("scope")) {
		if !slices.Contains(w.allowed, scope) {
			w.t.Errorf("I11: %q was granted, %q was ticked", scope, w.allowed)
		}
	}
	w.tokens = d.reply
}

// rowsOf are the audit rows that the step from one record to the next should have.
func rowsOf(before, after *storage.QRSession) []string {
	var rows []string
	add := func(is bool, event string) bool {
		if is {
			rows = append(rows, event)
		}
		return is
	}
	ended := before.State != after.State
	failedCode := add(before.Claim != nil && after.Claim.TriesLeft < before.Claim.TriesLeft, storage.EventQRCodeFailed)
	failedProof := add(after.BindingFailures > before.BindingFailures, storage.EventQRBindingFailed)
	add(after.Reported && !before.Reported, storage.EventQRReported)
	add(after.ExpiryLogged && !before.ExpiryLogged, storage.EventQRExpired)
	switch after.State {
	case storage.QRScanned:
		add(ended, storage.EventQRScanned)
	case storage.QRApproved:
		add(ended, storage.EventQRApproved)
	case storage.QRRedeemed:
		add(ended, storage.EventQRRedeemed)
	case storage.QRDenied:
		add(ended && !after.Reported, storage.EventQRDenied)
	case storage.QRCancelled:
		add(ended, storage.EventQRCancelled)
	case storage.QRAborted:
		add(ended && !failedCode && !failedProof, storage.EventQRRevoked)
	case storage.QRPending, storage.QRExpired:
	}
	return rows
}

// finish brings the session to an end on disk, compares its audit rows and returns how it ended.
func (w *walk) finish() string {
	w.t.Helper()
	before := w.pc.record()
	end := before.StateAt(w.s.Clock.Now()).String()
	if before.Live(w.s.Clock.Now()) {
		w.pc.cancel(w.t.Context())
		end = "given up"
	} else if _, err := w.s.Provider.Sweep(w.t.Context()); err != nil {
		w.t.Error(err)
	}
	w.rows = append(w.rows, rowsOf(before, w.pc.record())...)
	moves := slices.DeleteFunc(rowTypes(w.t, w.s, w.pc), func(event string) bool {
		return slices.Contains([]string{
			storage.EventQRFrameRejected, storage.EventQRClaimConflict, storage.EventQRStepUp, storage.EventQRRateLimited, storage.EventQRReplayed,
		}, event)
	})
	// A session that expires with nothing but its opening is counted, not logged.
	if diff := cmp.Diff(w.rows, moves); diff != "" && (len(moves) > 0 || len(w.rows) > 1) {
		w.t.Errorf("I12: audit rows:\n%s", diff)
	}
	if w.tokens != nil {
		thief := &phone{t: w.t, s: w.s, token: w.tokens.Text("access_token")}
		if reply := thief.scan(payload(w.thief.opened), "scanner"); reply.Status != http.StatusForbidden && reply.Status != http.StatusUnauthorized {
			w.t.Errorf("I14: a token of the session scans: %d %s", reply.Status, reply.Body)
		}
	}
	return end
}
