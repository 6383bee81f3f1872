package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// deafLine is a connection to the provider on which requests arrive and no answer comes back:
// it is closed once the provider has answered.
type deafLine struct {
	t *testing.T
	h *httptest.Server
	// said is what the provider answered, heard by nobody but the test.
	said chan *providertest.Reply
}

func newDeafLine(t *testing.T, s *providertest.Server) *deafLine {
	t.Helper()
	l := &deafLine{t: t, said: make(chan *providertest.Reply, 16)}
	l.h = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		s.Provider.ServeHTTP(answer, r)
		l.said <- &providertest.Reply{Status: answer.Code, Header: answer.Header(), Body: answer.Body.String()}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(l.h.Close)
	return l
}

// send sends a request, loses its answer and returns what the answer was.
func (l *deafLine) send(path, contentType, token string, body []byte) *providertest.Reply {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, l.h.URL+path, bytes.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := l.h.Client().Do(req)
	if err == nil {
		_ = resp.Body.Close()
		l.t.Errorf("%s: the answer arrived", path)
	}
	return <-l.said
}

func (l *deafLine) poll(c *consumption) *providertest.Reply {
	l.t.Helper()
	form := c.tokenForm()
	form.Set("client_id", c.client.ID)
	return l.send("/token", "application/x-www-form-urlencoded", "", []byte(form.Encode()))
}

func (l *deafLine) cancel(c *consumption) *providertest.Reply {
	l.t.Helper()
	form := url.Values{"device_code": {c.deviceCode()}, "client_id": {c.client.ID}}
	return l.send("/qr/cancel", "application/x-www-form-urlencoded", "", []byte(form.Encode()))
}

func (l *deafLine) phone(p *phone, path string, body map[string]string) *providertest.Reply {
	l.t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.send(path, "application/json", p.token, encoded)
}

// TestLostAnswersNeverStrandTheLogin loses every answer of a login once and repeats the call.
func TestLostAnswersNeverStrandTheLogin(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"cli", "tv"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			p, line := newPhone(t, s), newDeafLine(t, s)
			c := openQR(t, s, client, nil)

			if lost := line.poll(c); lost.Text("error") != "authorization_pending" {
				t.Errorf("pending poll: %d %s", lost.Status, lost.Body)
			}
			// The repeat comes at once, which is what the free repeat is for.
			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "authorization_pending")

			body := map[string]string{"user_code": c.userCode(), "entry": "typed"}
			if frame := payload(c.opened); frame != "" {
				body = map[string]string{"payload": frame, "entry": "scanner"}
			}
			lostScan := line.phone(p, "/qr/scan", body)
			s.Clock.Advance(15 * time.Second) // the frame has rotated away meanwhile
			scan := p.post(t.Context(), "/qr/scan", body)
			if lostScan.Status != http.StatusOK || scan.Status != http.StatusOK {
				t.Fatalf("scan: %d, then %d %s", lostScan.Status, scan.Status, scan.Body)
			}
			code := line.poll(c).Text("check_code")
			s.Clock.Advance(storage.PollInterval)
			if again := c.poll(t.Context()).Text("check_code"); again != code {
				t.Errorf("the check code went from %q to %q", code, again)
			}
			wantError(t, p.decide(lostScan, "approve", code), http.StatusNotFound, "not_found")

			lostYes := line.phone(p, "/qr/decision", decision(scan, "approve", code))
			yes := p.decide(scan, "approve", code)
			if lostYes.Status != http.StatusOK || yes.Body != lostYes.Body {
				t.Errorf("decision: %d %s, then %d %s", lostYes.Status, lostYes.Body, yes.Status, yes.Body)
			}
			// An app that restarted before it heard the answer scans again.
			wantError(t, p.post(t.Context(), "/qr/scan", body), http.StatusConflict, "already_decided")
			tokens := tokensOf(t, c.poll(t.Context()))
			if got := claims(t, tokens.IDToken)["sid"]; got != yes.Text("sid") {
				t.Errorf("the phone was told sid %q, the tokens say %v", yes.Text("sid"), got)
			}
		})
	}
}

func TestLostAnswersOfEnds(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p, line := newPhone(t, s), newDeafLine(t, s)
	for _, verdict := range []string{"deny", "report"} {
		c := openQR(t, s, "cli", nil)
		scan, _ := c.claim(p)
		lost := line.phone(p, "/qr/decision", decision(scan, verdict, ""))
		again := p.decide(scan, verdict, "")
		if lost.Status != http.StatusOK || again.Body != lost.Body {
			t.Errorf("%s: %d %s, then %d %s", verdict, lost.Status, lost.Body, again.Status, again.Body)
		}
		wantError(t, line.poll(c), http.StatusBadRequest, "access_denied")
		wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
		s.Clock.Advance(time.Second) // past the cool-down
	}
	c := openQR(t, s, "cli", nil)
	if lost, again := line.cancel(c), c.cancel(t.Context()); lost.Status != http.StatusOK || again.Status != http.StatusOK {
		t.Errorf("cancel: %d, then %d %s", lost.Status, again.Status, again.Body)
	}
	wantError(t, p.scan(payload(c.opened), "scanner"), http.StatusGone, "gone")
}

// TestLostScansAreRepeatedFiveTimes: the claimer may lose five answers; what the sixth would
// have been stays closed, and the last handle still decides.
func TestLostScansAreRepeatedFiveTimes(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, line := newPhone(t, s), newDeafLine(t, s)
	c := openQR(t, s, "cli", nil)
	body := map[string]string{"payload": payload(c.opened), "entry": "scanner"}
	var last *providertest.Reply
	for range 6 {
		last = line.phone(p, "/qr/scan", body)
	}
	if last.Status != http.StatusOK {
		t.Fatalf("the fifth repeat: %d %s", last.Status, last.Body)
	}
	limited := p.post(t.Context(), "/qr/scan", body)
	wantError(t, limited, http.StatusTooManyRequests, "rate_limited")
	if limited.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	if reply := p.decide(last, "approve", c.poll(t.Context()).Text("check_code")); reply.Status != http.StatusOK {
		t.Errorf("the last handle: %d %s", reply.Status, reply.Body)
	}
	tokensOf(t, c.poll(t.Context()))
}

// TestLostTokenAnswer: the one answer that cannot be repeated. Within ten seconds nothing is
// revoked, later a repeat is a replay; the person signs in again either way.
func TestLostTokenAnswer(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		client string
		after  time.Duration
		lives  bool
	}{
		"at once":                   {"cli", 0, true},
		"just within ten seconds":   {"cli", 10*time.Second - time.Millisecond, true},
		"at ten seconds":            {"cli", 10 * time.Second, false},
		"nothing was bound, so now": {"tv", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			p, line := newPhone(t, s), newDeafLine(t, s)
			c := openQR(t, s, row.client, url.Values{"scope": {"openid offline_access"}})
			c.approve(p)
			lost := tokensOf(t, line.poll(c))
			s.Clock.Advance(row.after)

			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "invalid_grant")
			if active(t, s, lost.AccessToken) != row.lives {
				t.Errorf("the lost access token: active %t", !row.lives)
			}
			next := refreshed(t, s, row.client, lost.RefreshToken)
			if (next.Status == http.StatusOK) != row.lives {
				t.Errorf("the lost refresh token: %d %s", next.Status, next.Body)
			}
			if row.lives {
				// Later the same code is a replay, and the refreshed tokens go with the family.
				s.Clock.Advance(10 * time.Second)
				wantError(t, c.poll(t.Context()), http.StatusBadRequest, "invalid_grant")
				later := tokensOf(t, next)
				if active(t, s, later.AccessToken) || refreshed(t, s, row.client, later.RefreshToken).Status == http.StatusOK {
					t.Error("the family outlived a replay")
				}
			}
			fresh := openQR(t, s, row.client, nil)
			fresh.approve(p)
			if again := tokensOf(t, fresh.poll(t.Context())); !active(t, s, again.AccessToken) {
				t.Error("the new login does not work")
			}
		})
	}
}

// failingList is a store that can fail to list a person's sign-ins.
type failingList struct {
	storage.Store
	fails atomic.Bool
}

func (f *failingList) SessionsBySubject(ctx context.Context, subject string) ([]*storage.Session, error) {
	if f.fails.Load() {
		return nil, errors.New("the disk is gone")
	}
	return f.Store.SessionsBySubject(ctx, subject)
}

// TestReportThatFailedHalfWayIsRepeated: the denial stood already when the revocation failed;
// the phone that tries again must still be rid of what the asker had got from it.
func TestReportThatFailedHalfWayIsRepeated(t *testing.T) {
	t.Parallel()
	store := &failingList{}
	s := providertest.NewServer(t, providertest.Options{Change: roomy, Wrap: func(inner storage.Store) storage.Store {
		store.Store = inner
		return store
	}})
	_, tokens := signIn(t, s, "cli", nil)
	p := newPhone(t, s)
	c := openQR(t, s, "cli", nil)
	scan, _ := c.claim(p)
	store.fails.Store(true)
	if reply := p.decide(scan, "report", ""); reply.Status != http.StatusInternalServerError || !active(t, s, tokens.AccessToken) {
		t.Fatalf("report while the store fails: %d %s", reply.Status, reply.Body)
	}
	wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
	store.fails.Store(false)
	if reply := p.decide(scan, "report", ""); reply.Status != http.StatusOK {
		t.Errorf("the report again: %d %s", reply.Status, reply.Body)
	}
	if active(t, s, tokens.AccessToken) {
		t.Error("the asker kept what it had got from the reporter")
	}
	if diff := cmp.Diff([]string{storage.EventQROpened, storage.EventQRScanned, storage.EventQRReported}, rowTypes(t, s, c)); diff != "" {
		t.Error(diff)
	}
}
