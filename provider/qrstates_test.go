package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// scene is a session in some state, with the phone that claimed it and another person's.
type scene struct {
	*consumption
	claimer, other *phone
	scan           *providertest.Reply
	code           string
}

// call is one request of a scene.
type call func(t *testing.T, sc *scene) *providertest.Reply

// cell is one cell of the endpoint table of protocol §3: what the request gets, and where the
// session stands afterwards. Unless changed is set the record is the same as before.
type cell struct {
	name    string
	call    call
	status  int
	code    string
	after   storage.QRState
	changed bool
}

// freshPayload is the frame the screen shows now, or the complete URI of the device grant.
func (sc *scene) freshPayload(t *testing.T) string {
	t.Helper()
	if uri := sc.opened.Text("verification_uri_complete"); uri != "" {
		return uri
	}
	return payload(sc.opened)
}

// decide sends a verdict with the claimer's handle, or with one that was never given out.
func (sc *scene) decide(t *testing.T, p *phone, verdict, code string) *providertest.Reply {
	t.Helper()
	body := decision(sc.scan, verdict, code)
	if body["confirm_handle"] == "" {
		made := sha256.Sum256([]byte(t.Name()))
		body["confirm_handle"] = base64.RawURLEncoding.EncodeToString(append(sc.id[:], made[:]...))
	}
	return p.post(t.Context(), "/qr/decision", body)
}

func pollScene(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.poll(t.Context())
}

func cancelScene(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.cancel(t.Context())
}

func scanAsClaimer(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.claimer.scan(sc.freshPayload(t), "scanner")
}

func scanAsOther(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.other.scan(sc.freshPayload(t), "scanner")
}

func typeAsClaimer(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.claimer.scanCode(sc.userCode())
}

func typeAsOther(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.other.scanCode(sc.userCode())
}

func approveScene(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.decide(t, sc.claimer, "approve", sc.code)
}

func approveWithWrongCode(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.decide(t, sc.claimer, "approve", wrongCode(sc.code))
}

func denyScene(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.decide(t, sc.claimer, "deny", "")
}

func reportScene(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.decide(t, sc.claimer, "report", "")
}

func denyAsOther(t *testing.T, sc *scene) *providertest.Reply {
	t.Helper()
	return sc.decide(t, sc.other, "deny", "")
}

// stage opens a session and brings it into the named state.
func stage(t *testing.T, s *providertest.Server, client, state string, claimer, other *phone) *scene {
	t.Helper()
	sc := &scene{consumption: openQR(t, s, client, nil), claimer: claimer, other: other, scan: &providertest.Reply{}}
	origin, end, _ := strings.Cut(state, " ")
	if origin == "scanned" || origin == "approved" {
		sc.scan, sc.code = sc.claim(sc.claimer)
	}
	if origin == "approved" {
		mustAnswer(t, approveScene(t, sc), http.StatusOK)
	}
	switch end {
	case "redeemed":
		mustAnswer(t, pollScene(t, sc), http.StatusOK)
	case "denied":
		mustAnswer(t, denyScene(t, sc), http.StatusOK)
	case "reported":
		mustAnswer(t, reportScene(t, sc), http.StatusOK)
	case "cancelled":
		mustAnswer(t, cancelScene(t, sc), http.StatusOK)
	case "aborted":
		for range 3 {
			wrong := sc.tokenForm()
			wrong.Set("code_verifier", strings.Repeat("w", 43))
			sc.post(t.Context(), "/token", wrong, nil)
		}
		for range 2 {
			wrong := sc.tokenForm()
			wrong.Del("code_verifier")
			if sc.verifier == "" {
				wrong.Set("code_verifier", strings.Repeat("w", 43))
			}
			sc.post(t.Context(), "/token", wrong, nil)
		}
		if q := sc.record(); q.State != storage.QRAborted {
			t.Fatalf("after five wrong verifiers: %s", q.State)
		}
	case "expired":
		s.Clock.Advance(map[string]time.Duration{"pending": 10 * time.Minute, "scanned": 2 * time.Minute, "approved": 30 * time.Second}[origin])
	}
	return sc
}

func mustAnswer(t *testing.T, reply *providertest.Reply, status int) {
	t.Helper()
	if reply.Status != status {
		t.Fatalf("got %d %s, want %d", reply.Status, reply.Body, status)
	}
}

// TestEndpointTable is the table of protocol §3, cell by cell. An origin in front of an end
// ("approved denied") tells how it came about.
func TestEndpointTable(t *testing.T) {
	t.Parallel()
	const (
		pending, scanned, approved  = storage.QRPending, storage.QRScanned, storage.QRApproved
		redeemed, denied, cancelled = storage.QRRedeemed, storage.QRDenied, storage.QRCancelled
		aborted                     = storage.QRAborted
	)
	// ended is what an end without a success answers.
	ended := func(state storage.QRState, token string, decisionStatus int, decisionCode string) []cell {
		return []cell{
			{"poll", pollScene, 400, token, state, false},
			{"scan by the claimer", scanAsClaimer, 410, "gone", state, false},
			{"scan by another", scanAsOther, 410, "gone", state, false},
			{"code typed by the claimer", typeAsClaimer, 404, "unknown_code", state, false},
			{"code typed by another", typeAsOther, 404, "unknown_code", state, false},
			{"approve", approveScene, decisionStatus, decisionCode, state, false},
			{"deny", denyScene, decisionStatus, decisionCode, state, false},
			{"report", reportScene, decisionStatus, decisionCode, state, false},
			{"deny by another", denyAsOther, 404, "not_found", state, false},
			{"cancel", cancelScene, 200, "", state, false},
		}
	}
	deniedCells := func(reportChanges bool) []cell {
		cells := ended(denied, "access_denied", 410, "gone")
		cells[6] = cell{"deny", denyScene, 200, "", denied, false}
		cells[7] = cell{"report", reportScene, 200, "", denied, reportChanges}
		return cells
	}
	table := map[string][]cell{
		"pending": {
			{"poll", pollScene, 400, "authorization_pending", pending, false},
			{"scan", scanAsClaimer, 200, "", scanned, true},
			{"code typed", typeAsClaimer, 200, "", scanned, true},
			{"approve", approveScene, 404, "not_found", pending, false},
			{"deny", denyScene, 404, "not_found", pending, false},
			{"report", reportScene, 404, "not_found", pending, false},
			{"cancel", cancelScene, 200, "", cancelled, true},
		},
		"scanned": {
			{"poll", pollScene, 400, "authorization_pending", scanned, false},
			{"scan by the claimer", scanAsClaimer, 200, "", scanned, true},
			{"scan by another", scanAsOther, 409, "already_claimed", scanned, false},
			{"code typed by the claimer", typeAsClaimer, 200, "", scanned, true},
			{"code typed by another", typeAsOther, 404, "unknown_code", scanned, false},
			{"approve", approveScene, 200, "", approved, true},
			{"approve with a wrong code", approveWithWrongCode, 422, "check_code_mismatch", scanned, true},
			{"deny", denyScene, 200, "", denied, true},
			{"report", reportScene, 200, "", denied, true},
			{"deny by another", denyAsOther, 404, "not_found", scanned, false},
			{"cancel", cancelScene, 200, "", cancelled, true},
		},
		"approved": {
			{"poll", pollScene, 200, "", redeemed, true},
			{"scan by the claimer", scanAsClaimer, 409, "already_decided", approved, false},
			{"scan by another", scanAsOther, 409, "already_claimed", approved, false},
			{"code typed by the claimer", typeAsClaimer, 409, "already_decided", approved, false},
			{"code typed by another", typeAsOther, 404, "unknown_code", approved, false},
			{"approve", approveScene, 200, "", approved, false},
			{"deny", denyScene, 200, "", denied, true},
			{"report", reportScene, 200, "", denied, true},
			{"deny by another", denyAsOther, 404, "not_found", approved, false},
			{"cancel", cancelScene, 200, "", cancelled, true},
		},
		"approved redeemed": {
			{"poll", pollScene, 400, "invalid_grant", redeemed, false},
			{"scan by the claimer", scanAsClaimer, 410, "gone", redeemed, false},
			{"scan by another", scanAsOther, 410, "gone", redeemed, false},
			{"code typed by the claimer", typeAsClaimer, 404, "unknown_code", redeemed, false},
			{"code typed by another", typeAsOther, 404, "unknown_code", redeemed, false},
			{"approve", approveScene, 200, "", redeemed, false},
			{"deny", denyScene, 410, "gone", redeemed, false},
			{"report", reportScene, 410, "gone", redeemed, false},
			{"deny by another", denyAsOther, 404, "not_found", redeemed, false},
			{"cancel", cancelScene, 409, "already_redeemed", redeemed, false},
		},
		"scanned denied":     deniedCells(true),
		"scanned reported":   deniedCells(false),
		"approved denied":    deniedCells(true),
		"pending cancelled":  ended(cancelled, "access_denied", 404, "not_found"),
		"scanned cancelled":  ended(cancelled, "access_denied", 410, "gone"),
		"approved cancelled": ended(cancelled, "access_denied", 410, "gone"),
		"scanned aborted":    ended(aborted, "access_denied", 410, "gone"),
		"pending expired":    ended(pending, "expired_token", 404, "not_found"),
		"scanned expired":    ended(scanned, "expired_token", 410, "gone"),
		"approved expired":   ended(approved, "expired_token", 410, "gone"),
	}
	for state, cells := range table {
		for _, client := range []string{"cli", "tv"} {
			t.Run(state+"/"+client, func(t *testing.T) {
				t.Parallel()
				s := providertest.NewServer(t, providertest.Options{Change: manyTries})
				alice, bob := newPhone(t, s), newPhoneOf(t, s, "bob")
				for _, c := range cells {
					c = c.forGrant(client)
					if c.call != nil {
						t.Run(c.name, func(t *testing.T) { c.check(t, stage(t, s, client, state, alice, bob)) })
					}
				}
			})
		}
	}
}

// manyTries lifts the limits that are tested elsewhere and keeps phones signed in.
func manyTries(c *provider.Config) {
	longTokens(c)
	c.QRLimits.Scans, c.QRLimits.UserCodeTries, c.QRLimits.UserCodeTriesPerPrefix = 1000, 1000, 1000
	c.QRLimits.CoolDown = -1
}

// forGrant turns a cell of the QR grant into that of the device grant: its complete URI is a
// user code, and it has no check code that could be wrong.
func (c cell) forGrant(client string) cell {
	if client != "tv" {
		return c
	}
	if strings.HasPrefix(c.name, "scan") && slices.Contains([]string{"already_claimed", "gone"}, c.code) {
		c.status, c.code = http.StatusNotFound, "unknown_code"
	}
	if c.status == http.StatusUnprocessableEntity {
		c.call = nil
	}
	if c.name == "poll" && c.after == storage.QRRedeemed {
		c.changed = true // nothing was bound, so it is a replay, and the record remembers
	}
	return c
}

func (c cell) check(t *testing.T, sc *scene) {
	t.Helper()
	before := sc.record()
	reply := c.call(t, sc)
	switch {
	case c.status != http.StatusOK:
		wantRefusal(t, reply, c.status, c.code)
		if reply.JSON()["context"] != nil || reply.JSON()["access_token"] != nil {
			t.Errorf("a refusal tells more: %s", reply.Body)
		}
	case reply.Status != http.StatusOK:
		t.Errorf("got %d %s", reply.Status, reply.Body)
	}
	after := sc.record()
	if !c.changed {
		wantUnchanged(t, before, after)
	}
	if after.State != c.after || c.changed && after.Version != before.Version+1 {
		t.Errorf("%s at version %d, want %s, from version %d", after.State, after.Version, c.after, before.Version)
	}
}

// TestClockEdges: a deadline itself is already past; one second before it everything works.
func TestClockEdges(t *testing.T) {
	t.Parallel()
	const never = -1
	for _, row := range []struct {
		name, client string
		// scan, approve and poll are seconds since the opening.
		scan, approve, poll int
		slowDowns           int
		want                string
	}{
		{"QR: a scan one second before the claim deadline", "cli", 179, never, never, 0, ""},
		{"QR: a scan at the claim deadline", "cli", 180, never, never, 0, "gone"},
		{"QR: a scan one second after it", "cli", 181, never, never, 0, "gone"},
		{"device: a scan one second before the claim deadline", "tv", 539, never, never, 0, ""},
		{"device: a scan at the claim deadline", "tv", 540, never, never, 0, "unknown_code"},
		{"device: a scan one second after it", "tv", 541, never, never, 0, "unknown_code"},

		{"QR: a decision 119 s after the scan", "cli", 100, 219, never, 0, ""},
		{"QR: a decision 120 s after the scan", "cli", 100, 220, never, 0, "gone"},
		{"QR: a decision 121 s after the scan", "cli", 100, 221, never, 0, "gone"},
		{"QR: a decision one second before expires_in", "cli", 179, 239, never, 0, ""},
		{"QR: a decision at expires_in", "cli", 179, 240, never, 0, "gone"},
		{"device: a decision 119 s after the scan", "tv", 100, 219, never, 0, ""},
		{"device: a decision 121 s after the scan", "tv", 100, 221, never, 0, "gone"},
		{"device: a decision 16 s before expires_in", "tv", 530, 584, never, 0, ""},
		{"device: a decision 15 s before expires_in", "tv", 530, 585, never, 0, "gone"},

		{"QR: a redemption 29 s after the approval, past expires_in", "cli", 179, 239, 268, 0, ""},
		{"QR: a redemption 30 s after the approval", "cli", 179, 239, 269, 0, "expired_token"},
		{"QR: a redemption 31 s after the approval", "cli", 10, 20, 51, 0, "expired_token"},
		{"device: a redemption 29 s after the approval", "tv", 530, 584, 613, 0, ""},
		{"device: a redemption 31 s after the approval", "tv", 530, 584, 615, 0, "expired_token"},
		{"device: at an interval of 20 s a redemption 44 s after the approval", "tv", 30, 40, 84, 3, ""},
		{"device: at an interval of 20 s a redemption 45 s after the approval", "tv", 30, 40, 85, 3, "expired_token"},
		{"QR: at the longest interval a redemption 124 s after the approval", "cli", 60, 70, 194, 15, ""},
		{"QR: at the longest interval a redemption 125 s after the approval", "cli", 60, 70, 195, 15, "expired_token"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: longTokens})
			sc := &scene{consumption: openQR(t, s, row.client, nil), claimer: newPhone(t, s)}
			start := s.Clock.Now()
			at := func(second int) { s.Clock.Advance(start.Add(time.Duration(second) * time.Second).Sub(s.Clock.Now())) }
			if row.slowDowns > 0 {
				sc.poll(t.Context())
				pollEvery(t, sc.consumption, row.slowDowns, 3*time.Second)
			}
			last := ""
			step := func(second int, do func() *providertest.Reply) bool {
				if second == never || last != "" {
					return false
				}
				at(second)
				reply := do()
				last = reply.Text("error")
				return reply.Status == http.StatusOK
			}
			// The frame on screen is fetched a moment before the scan.
			frame := sc.opened
			if row.client == "cli" {
				at(min(row.scan, 179))
				frame = sc.poll(t.Context())
			}
			text := payload(frame) + sc.opened.Text("verification_uri_complete")
			step(row.scan, func() *providertest.Reply {
				sc.scan = sc.claimer.scan(text, "scanner")
				return sc.scan
			})
			if row.approve != never {
				sc.code = sc.poll(t.Context()).Text("check_code")
			}
			step(row.approve, func() *providertest.Reply { return approveScene(t, sc) })
			step(row.poll, func() *providertest.Reply { return pollScene(t, sc) })
			if last != row.want {
				t.Errorf("got %q, want %q", last, row.want)
			}
		})
	}
}
