package provider_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// wantHeld checks that an answer says it was held as asked, or that it was not ("").
func wantHeld(t *testing.T, reply *providertest.Reply, applied string) {
	t.Helper()
	if got := reply.Header.Get("Preference-Applied"); got != applied {
		t.Errorf("Preference-Applied = %q, want %q: %s", got, applied, reply.Body)
	}
}

// wantWaiting checks that a poll is still being held.
func wantWaiting(t *testing.T, s *providertest.Server, answer <-chan *providertest.Reply) {
	t.Helper()
	if s.Clock.Timers() == 0 || len(answer) != 0 {
		t.Fatal("the poll is no longer held")
	}
}

// A held poll ends when the session moves, and says what happened. On an approval it redeems.
func TestHeldPollEndsWithTheMove(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		// claimed says how the session is claimed before the poll is held; "" is not.
		claimed string
		move    func(c *consumption, p *phone, scan *providertest.Reply, code string) *providertest.Reply
		status  int
		code    string
		applied string
	}{
		{"a scan", "", func(c *consumption, p *phone, _ *providertest.Reply, _ string) *providertest.Reply {
			return p.scan(payload(c.opened), "scanner")
		}, 400, "authorization_pending", "wait=25"},
		{"an approval", "scanner", func(_ *consumption, p *phone, scan *providertest.Reply, code string) *providertest.Reply {
			return p.decide(scan, "approve", code)
		}, 200, "", ""},
		{"a denial", "scanner", func(_ *consumption, p *phone, scan *providertest.Reply, _ string) *providertest.Reply {
			return p.decide(scan, "deny", "")
		}, 400, "access_denied", ""},
		{"a cancellation", "", func(c *consumption, _ *phone, _ *providertest.Reply, _ string) *providertest.Reply {
			return c.cancel(c.t.Context())
		}, 400, "access_denied", ""},
		{"the last wrong code", "typed", func(_ *consumption, p *phone, scan *providertest.Reply, code string) *providertest.Reply {
			p.decide(scan, "approve", wrongCode(code))
			return p.decide(scan, "deny", "") // gone
		}, 400, "access_denied", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c, p := openQR(t, s, "cli", nil), newPhone(t, s)
			scan, code := &providertest.Reply{}, ""
			if row.claimed != "" {
				scan = p.scan(payload(c.opened), row.claimed)
				code = c.poll(t.Context()).Text("check_code")
				s.Clock.Advance(5 * time.Second)
			}
			held := c.hold(t.Context(), 25)
			wantWaiting(t, s, held)
			row.move(c, p, scan, code)
			reply := <-held
			wantHeld(t, reply, row.applied)
			if row.status == http.StatusOK {
				if reply.Text("access_token") == "" || reply.Text("id_token") == "" || c.record().State != storage.QRRedeemed {
					t.Errorf("no tokens: %d %s", reply.Status, reply.Body)
				}
				return
			}
			wantRefusal(t, reply, row.status, row.code)
			if code := reply.Text("check_code"); row.applied != "" && (len(code) != 2 || reply.Text("qr_status") != "scanned" || reply.JSON()["qr"] != nil) {
				t.Errorf("after the scan: %s", reply.Body)
			}
		})
	}
}

// A held poll ends by the clock: when a new frame is due, after N seconds, or at a deadline.
func TestHeldPollEndsByTheClock(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		scanned bool
		start   time.Duration
		wait    int
		// held is how long it is held; applied what it says.
		held    time.Duration
		code    string
		applied string
		told    string
	}{
		{"until a new frame is due", false, 0, 25, 10 * time.Second, "authorization_pending", "wait=25", ""},
		{"until a new frame is due, opened in the middle of one", false, 13 * time.Second, 25, 7 * time.Second, "authorization_pending", "wait=25", ""},
		{"for N seconds while pending", false, 0, 5, 5 * time.Second, "authorization_pending", "wait=5", ""},
		{"for N seconds while scanned, when there is no frame", true, 0, 20, 20 * time.Second, "authorization_pending", "wait=20", "wait=20"},
		{"for at most 25 s", true, 0, 3600, 25 * time.Second, "authorization_pending", "wait=25", "wait=25"},
		{"until the claim deadline", false, 175 * time.Second, 25, 5 * time.Second, "expired_token", "", ""},
		{"until the decision deadline", true, 112 * time.Second, 25, 8 * time.Second, "expired_token", "", "wait=25"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c := openQR(t, s, "cli", nil)
			if row.scanned {
				mustAnswer(t, newPhone(t, s).scan(payload(c.opened), "scanner"), http.StatusOK)
				// The poll after the scan learns of it at once and counts as held.
				told := <-c.hold(t.Context(), row.wait)
				wantHeld(t, told, row.told)
				if told.Text("qr_status") != "scanned" || told.Text("check_code") == "" {
					t.Errorf("the poll after the scan says %s", told.Body)
				}
			}
			s.Clock.Advance(row.start)
			held := c.hold(t.Context(), row.wait)
			s.Clock.Advance(row.held - time.Millisecond)
			wantWaiting(t, s, held)
			s.Clock.Advance(time.Millisecond)
			reply := <-held
			wantRefusal(t, reply, http.StatusBadRequest, row.code)
			wantHeld(t, reply, row.applied)
			if row.code == "authorization_pending" && !row.scanned && row.wait > 5 && payload(reply) == payload(c.opened) {
				t.Error("the same frame again")
			}
		})
	}
}

// What is not held is answered at once and does not say otherwise.
func TestPollsThatAreNotHeld(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, client string
		prefer       []string
		seq          int
	}{
		{"without the header", "cli", nil, 0},
		{"a wait under 5 s", "cli", []string{"wait=4"}, 0},
		{"a wait that is no number", "cli", []string{"wait=x"}, 0},
		{"another preference", "cli", []string{"respond-async"}, 0},
		{"an older qr_seq", "cli", []string{"wait=25"}, 1},
		{"a device grant, which is never held", "tv", []string{"wait=25"}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c := openQR(t, s, row.client, nil)
			if row.seq != 0 {
				mustAnswer(t, newPhone(t, s).scan(payload(c.opened), "scanner"), http.StatusOK)
			}
			form := c.tokenForm()
			if row.seq != 0 {
				form.Set("qr_seq", strconv.Itoa(row.seq))
			}
			// And it exempts nothing: a repeat is free, then it is early.
			for _, code := range []string{"authorization_pending", "authorization_pending", "slow_down"} {
				answer := c.holdWith(t.Context(), form, http.Header{"Prefer": row.prefer})
				if s.Clock.Timers() != 0 {
					t.Error("it is held")
					s.Clock.Advance(25 * time.Second)
				}
				reply := <-answer
				wantRefusal(t, reply, http.StatusBadRequest, code)
				wantHeld(t, reply, "")
			}
		})
	}
}

// A client that sends the qr_seq it saw is held, and never misses a move in between.
func TestSequenceNumber(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c, p := openQR(t, s, "cli", nil), newPhone(t, s)
	form := c.tokenForm()
	form.Set("qr_seq", "1")
	held := c.holdForm(t.Context(), 25, form)
	wantWaiting(t, s, held)
	scan := p.scan(payload(c.opened), "scanner")
	reply := <-held
	wantHeld(t, reply, "wait=25")
	if seq := reply.JSON()["qr_seq"]; seq != 2.0 {
		t.Fatalf("qr_seq = %v", seq)
	}
	// The poll after a held answer is not early.
	form.Set("qr_seq", "2")
	held = c.holdForm(t.Context(), 25, form)
	wantWaiting(t, s, held)
	mustAnswer(t, p.decide(scan, "approve", reply.Text("check_code")), http.StatusOK)
	mustAnswer(t, <-held, http.StatusOK)
}

// A wrong code changes the record but not the state: the poll stays held.
func TestHeldPollSleepsThroughWhatIsNoMove(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c, p := openQR(t, s, "cli", nil), newPhone(t, s)
	scan, code := c.claim(p)
	s.Clock.Advance(5 * time.Second)
	held := c.hold(t.Context(), 25)
	p.decide(scan, "approve", wrongCode(code))
	scan = p.scan(payload(c.opened), "scanner")
	wantWaiting(t, s, held)
	mustAnswer(t, p.decide(scan, "approve", code), http.StatusOK)
	mustAnswer(t, <-held, http.StatusOK)
}

// A newer held poll replaces the older one, which ends pending and not held.
func TestNewerHeldPollReplacesTheOlder(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", nil)
	older := c.hold(t.Context(), 25)
	newer := c.hold(t.Context(), 25)
	reply := <-older
	wantRefusal(t, reply, http.StatusBadRequest, "authorization_pending")
	wantHeld(t, reply, "")
	wantWaiting(t, s, newer)
	mustAnswer(t, newPhone(t, s).scan(payload(c.opened), "scanner"), http.StatusOK)
	reply = <-newer
	wantRefusal(t, reply, http.StatusBadRequest, "authorization_pending")
	wantHeld(t, reply, "wait=25")
}

// At the limit of held polls a poll is answered at once; the place is free again afterwards.
func TestHeldPollsAreLimited(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*provider.Config){
		"per client": func(c *provider.Config) { c.QRLimits.HeldPollsPerClient = 1 },
		"in total":   func(c *provider.Config) { c.QRLimits.HeldPolls = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: limit})
			first, second := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
			held := first.hold(t.Context(), 25)
			for _, code := range []string{"authorization_pending", "authorization_pending", "slow_down"} {
				reply := <-second.hold(t.Context(), 25)
				wantRefusal(t, reply, http.StatusBadRequest, code)
				wantHeld(t, reply, "")
			}
			// The session that is held already may replace its own poll.
			again := first.hold(t.Context(), 25)
			wantHeld(t, <-held, "")
			s.Clock.Advance(10 * time.Second)
			wantHeld(t, <-again, "wait=25")
			held = second.hold(t.Context(), 25)
			wantWaiting(t, s, held)
			s.Clock.Advance(10 * time.Second)
			wantHeld(t, <-held, "wait=25")
		})
	}
}

// holdDirectly sends a held poll straight to the handler, with a context the test can end.
func holdDirectly(ctx context.Context, c *consumption) <-chan *httptest.ResponseRecorder {
	before := c.s.Clock.Timers()
	form := mergeForm(c.tokenForm(), url.Values{"client_id": {c.client.ID}})
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, c.s.URL("/token"), strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Prefer", "wait=25")
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		w := httptest.NewRecorder()
		c.s.Provider.ServeHTTP(w, req)
		answer <- w
	}()
	for c.s.Clock.Timers() <= before && len(answer) == 0 {
		runtime.Gosched()
	}
	return answer
}

// A poll whose connection is gone redeems nothing: the tokens would be lost.
func TestLostConnectionDoesNotRedeem(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c, p := openQR(t, s, "cli", nil), newPhone(t, s)
	scan, code := c.claim(p)
	s.Clock.Advance(5 * time.Second)
	ctx, hangUp := context.WithCancel(t.Context())
	held := holdDirectly(ctx, c)
	hangUp()
	// Never an empty 200: the context may have ended while somebody still reads.
	if w := <-held; w.Code != http.StatusServiceUnavailable {
		t.Errorf("a dead connection got %d %s", w.Code, w.Body)
	}
	mustAnswer(t, p.decide(scan, "approve", code), http.StatusOK)
	if q := c.record(); q.State != storage.QRApproved {
		t.Fatalf("state = %s", q.State)
	}
	mustAnswer(t, c.poll(t.Context()), http.StatusOK)
}

// lateStore ends a context in the moment the approval is read.
type lateStore struct {
	storage.Store
	hangUp atomic.Pointer[context.CancelFunc]
}

func (l *lateStore) QRSession(ctx context.Context, id storage.QRID) (*storage.QRSession, error) {
	q, err := l.Store.QRSession(ctx, id)
	if hangUp := l.hangUp.Load(); err == nil && q.State == storage.QRApproved && hangUp != nil {
		(*hangUp)()
	}
	return q, err
}

// The connection may end just as the approval wakes the poll.
func TestConnectionLostWhileWakingUp(t *testing.T) {
	t.Parallel()
	var late *lateStore
	s := providertest.NewServer(t, providertest.Options{Wrap: func(store storage.Store) storage.Store {
		late = &lateStore{Store: store}
		return late
	}})
	c, p := openQR(t, s, "cli", nil), newPhone(t, s)
	scan, code := c.claim(p)
	s.Clock.Advance(5 * time.Second)
	ctx, hangUp := context.WithCancel(t.Context())
	held := holdDirectly(ctx, c)
	late.hangUp.Store(&hangUp)
	mustAnswer(t, p.decide(scan, "approve", code), http.StatusOK)
	// Never an empty 200: the context may have ended while somebody still reads.
	if w := <-held; w.Code != http.StatusServiceUnavailable {
		t.Errorf("a dead connection got %d %s", w.Code, w.Body)
	}
	if q := c.record(); q.State != storage.QRApproved {
		t.Errorf("state = %s", q.State)
	}
	mustAnswer(t, c.poll(t.Context()), http.StatusOK)
}

// Close ends every held poll and holds none from then on; the provider still answers.
func TestCloseEndsHeldPolls(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	a, b := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	first, second := a.hold(t.Context(), 25), b.hold(t.Context(), 25)
	if err := s.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	var codes []string
	s.Clock.Advance(5 * time.Second)
	for _, answer := range []<-chan *providertest.Reply{first, second, a.hold(t.Context(), 25)} {
		reply := <-answer
		codes = append(codes, reply.Text("error"))
		wantHeld(t, reply, "")
	}
	if diff := cmp.Diff([]string{"authorization_pending", "authorization_pending", "authorization_pending"}, codes); diff != "" {
		t.Error(diff)
	}
}

// countingStore counts what is written to sessions.
type countingStore struct {
	storage.Store
	updates atomic.Int64
}

func (c *countingStore) UpdateQRSession(ctx context.Context, id storage.QRID, fn func(*storage.QRSession) error) error {
	c.updates.Add(1)
	return c.Store.UpdateQRSession(ctx, id, fn)
}

// A pending poll writes nothing, held or not.
func TestPendingPollWritesNothing(t *testing.T) {
	t.Parallel()
	var counting *countingStore
	s := providertest.NewServer(t, providertest.Options{Wrap: func(store storage.Store) storage.Store {
		counting = &countingStore{Store: store}
		return counting
	}})
	for _, client := range []string{"tv", "cli"} {
		c := openQR(t, s, client, nil)
		for range 4 {
			held := c.hold(t.Context(), 10)
			s.Clock.Advance(10 * time.Second)
			wantRefusal(t, <-held, http.StatusBadRequest, "authorization_pending")
		}
	}
	if n := counting.updates.Load(); n != 0 {
		t.Errorf("%d updates", n)
	}
}
