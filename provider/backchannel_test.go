package provider_test

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// outbox returns what clients are still to be told.
func outbox(t *testing.T, s *providertest.Server) []*storage.LogoutNotice {
	t.Helper()
	clients, err := s.Store.LogoutNoticeClients(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []*storage.LogoutNotice
	for _, id := range clients {
		notices, err := s.Store.LogoutNotices(t.Context(), id, 1000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, notices...)
	}
	return all
}

// wantOutbox waits until the outbox is as wanted.
func wantOutbox(t *testing.T, s *providertest.Server, wanted func(left []*storage.LogoutNotice) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !wanted(outbox(t, s)); {
		if time.Now().After(deadline) {
			t.Fatalf("the outbox never came to this: %+v", outbox(t, s))
		}
		time.Sleep(time.Millisecond)
	}
}

// afterTry waits until the n-th try of the only notice is over, and returns the pause before the
// next one; zero when there is none.
func afterTry(t *testing.T, s *providertest.Server, n int) (pause time.Duration) {
	t.Helper()
	wantOutbox(t, s, func(left []*storage.LogoutNotice) bool {
		if len(left) == 0 {
			pause = 0
			return true
		}
		pause = left[0].DueAt.Sub(s.Clock.Now())
		// A minute is for how long the notice is taken.
		return left[0].Tries == n && pause != time.Minute
	})
	return pause
}

// wantGivenUp checks that the audit trail tells of one client that was not told.
func wantGivenUp(t *testing.T, s *providertest.Server, detail string) {
	t.Helper()
	var found []storage.AuditEvent
	// The row is written behind.
	for deadline := time.Now().Add(10 * time.Second); len(found) == 0 && time.Now().Before(deadline); {
		events, _, err := s.Store.Events(t.Context(), nil, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Type == storage.EventLogoutGivenUp {
				found = append(found, e)
			}
		}
	}
	if len(found) != 1 || found[0].Detail != detail || found[0].ClientID != "rp" || found[0].SessionID == "" || found[0].Subject != providertest.AliceSubject {
		t.Errorf("audit rows %+v, want one %q", found, detail)
	}
}

// A client that cannot be reached is tried for a day, ever more rarely.
func TestBackchannelGivesUp(t *testing.T) {
	t.Parallel()
	log := &logbook{}
	r := newReceiver(t)
	o := withReceiver(t, r, func(c *provider.Config) { c.Logger = log.logger() })
	r.always.Store(http.StatusServiceUnavailable)
	o.tokens()
	began := o.Clock.Now()
	o.leave(nil)
	var pauses []string
	for n := 1; ; n++ {
		token := r.wait(t).PostForm.Get("logout_token")
		log.wantWithout(t, "logout token", token)
		pause := afterTry(t, o.Server, n)
		if pause == 0 {
			break
		}
		pauses = append(pauses, pause.String())
		o.Clock.Advance(pause)
	}
	if got, want := strings.Join(pauses, " "), "1s 5s 30s 2m0s 10m0s 30m0s 1h0m0s 2h0m0s 4h0m0s 4h0m0s 4h0m0s 4h0m0s 4h0m0s"; got != want {
		t.Errorf("it waits %s", got)
	}
	if after := o.Clock.Now().Sub(began); after > day || after < 20*time.Hour {
		t.Errorf("given up after %s", after)
	}
	wantGivenUp(t, o.Server, "unreachable")
	log.wantWithout(t, "query of the address", "x=1")
	if !strings.Contains(log.text(), "no more tries are made") {
		t.Errorf("the log: %s", log.text())
	}
}

// 400 is all a client can say when the logout failed there, also when it did not understand:
// it is asked a third time and no more.
func TestBackchannelRefusedThere(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	r.always.Store(http.StatusBadRequest)
	o.tokens()
	o.leave(nil)
	for n := 1; n <= 3; n++ {
		r.wait(t)
		o.Clock.Advance(afterTry(t, o.Server, n))
	}
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
	wantGivenUp(t, o.Server, "refused")
	if len(r.got) != 0 {
		t.Errorf("%d more requests", len(r.got))
	}
}

// What was not delivered is delivered by the next process on the same file.
func TestBackchannelSurvivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	open := func() storage.Store {
		store, err := bolt.Open(path, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	r := newReceiver(t, status(503))
	clients := opClients()
	clients[0].BackchannelLogoutURI = r.URL + "/rp"
	serve := func(store storage.Store, issuer string) *op {
		s := providertest.NewServer(t, providertest.Options{Store: store, Clients: clients, Change: func(c *provider.Config) {
			r.reachable(c)
			if issuer != "" {
				c.Issuer = issuer
			}
		}})
		return opOn(t, s, "query")
	}
	store := open()
	first := serve(store, "")
	_, members := first.tokens()
	first.leave(nil)
	before := first.verified(r.wait(t).PostForm.Get("logout_token"), "logout+jwt")
	afterTry(t, first.Server, 1)
	if err := first.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = open()
	t.Cleanup(func() { _ = store.Close() })
	second := serve(store, first.Issuer)
	second.Clock.Advance(time.Second)
	second.Provider.TellClients()
	// The keys are those of the store; the first server still publishes them.
	var got map[string]any
	decodeSegment(t, r.wait(t).PostForm.Get("logout_token"), 1, &got)
	if got["sid"] != members["sid"] || got["aud"] != "rp" || got["jti"] == before["jti"] || got["iat"] != float64(second.Clock.Now().Unix()) {
		t.Errorf("told %v after %v", got, before)
	}
	wantOutbox(t, second.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
}

// Who disables an account ends its sign-ins, also those that were born of its approvals, and the
// clients hear of it.
func TestBackchannelTellsOfADisabledAccount(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	for _, id := range []string{"cli", "phone"} {
		c, err := o.Store.Client(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		c.BackchannelLogoutURI = r.URL + "/" + id
		if err := o.Store.PutClient(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	tokens, members := o.tokens()
	_, born := signIn(t, o.Server, "cli", nil)
	if err := provider.EndStoredSignIns(t.Context(), o.Store, providertest.AliceSubject, o.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	o.Provider.TellClients()
	told := map[string]any{}
	for range 3 {
		req := r.wait(t)
		told[strings.TrimPrefix(req.URL.Path, "/")] = o.verified(req.PostForm.Get("logout_token"), "logout+jwt")["sid"]
	}
	if told["rp"] != members["sid"] || told["cli"] != claims(t, born.IDToken)["sid"] || told["phone"] == nil {
		t.Errorf("told %v", told)
	}
	o.wantLeft()
	for name, token := range map[string]string{"the browser's": tokens.AccessToken, "the QR-born": born.AccessToken} {
		if active(t, o.Server, token) {
			t.Errorf("%s token is active", name)
		}
	}
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
	if err := provider.EndStoredSignIns(t.Context(), o.Store, providertest.AliceSubject, o.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	if left := outbox(t, o.Server); len(left) != 0 {
		t.Errorf("told again: %+v", left)
	}
}

// A report and a replay end sign-ins by themselves.
func TestBackchannelTellsOfRevokedFamilies(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *providertest.Server, c *consumption, p *phone, scan *providertest.Reply){
		"a replayed device code": func(s *providertest.Server, c *consumption, _ *phone, _ *providertest.Reply) {
			s.Clock.Advance(11 * time.Second)
			c.poll(c.t.Context())
		},
		"a report": func(s *providertest.Server, c *consumption, p *phone, _ *providertest.Reply) {
			again := openQR(c.t, s, "cli", nil)
			scan, _ := again.claim(p)
			p.decide(scan, "report", "")
		},
		"Not me": func(_ *providertest.Server, c *consumption, _ *phone, tokens *providertest.Reply) {
			c.post(c.t.Context(), "/revoke", url.Values{"token": {tokens.Text("access_token")}}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t)
			o := withReceiver(t, r, nil)
			cli, err := o.Store.Client(t.Context(), "cli")
			if err != nil {
				t.Fatal(err)
			}
			cli.BackchannelLogoutURI = r.URL + "/cli"
			if err := o.Store.PutClient(t.Context(), cli); err != nil {
				t.Fatal(err)
			}
			c, p := openQR(t, o.Server, "cli", nil), newPhone(t, o.Server)
			c.approve(p)
			tokens := c.poll(t.Context())
			end(o.Server, c, p, tokens)
			got := o.verified(r.wait(t).PostForm.Get("logout_token"), "logout+jwt")
			if got["sid"] != claims(t, tokens.Text("id_token"))["sid"] {
				t.Errorf("told %v", got)
			}
		})
	}
}

// A client that never answers holds up neither the person, nor another client, nor the end.
func TestBackchannelHangs(t *testing.T) {
	t.Parallel()
	slow, quick := newReceiver(t), newReceiver(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	slow.hang.Store(&release)
	clients := opClients()
	clients[0].BackchannelLogoutURI, clients[1].BackchannelLogoutURI = slow.URL+"/rp", quick.URL+"/rp2"
	o := newOP(t, "query", clients, slow.reachable)
	const ends = 5
	for range ends {
		o.tokens()
		o.tokens("client_id", "rp2")
		began := time.Now()
		o.leave(nil)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the person waited %s", took)
		}
	}
	for range ends {
		quick.wait(t)
	}
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool {
		taken := 0
		for _, n := range left {
			taken += n.Tries
		}
		return len(left) == ends && taken == 2
	})
	if n := slow.peak.Load(); n > 2 {
		t.Errorf("%d requests at once at one client", n)
	}
	began := time.Now()
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4500*time.Millisecond {
		t.Errorf("the end took %s", took)
	}
	for _, n := range outbox(t, o.Server) {
		if n.Tries != 0 || n.DueAt.After(o.Clock.Now()) {
			t.Errorf("the next start does not begin with %+v", n)
		}
	}
}

// Of two processes on one store one tells a client, however long it takes and however often the
// other looks.
func TestBackchannelTellsOnceFromTwoProcesses(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	release := make(chan struct{})
	r.hang.Store(&release)
	o := withReceiver(t, r, nil)
	other := providertest.NewServer(t, providertest.Options{Store: o.Store, Change: r.reachable})
	o.tokens()
	o.leave(nil)
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 1 && left[0].Tries == 1 })
	for range 5 {
		sweep(t, other)
		sweep(t, o.Server)
	}
	close(release)
	r.wait(t)
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
	for _, p := range []*provider.Provider{o.Provider, other.Provider} {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.got) != 0 || r.peak.Load() != 1 {
		t.Errorf("%d more requests, %d at once", len(r.got), r.peak.Load())
	}
}

// Two processes that look at the same moment do not both take what is due.
func TestBackchannelIsTakenOnce(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	other := providertest.NewServer(t, providertest.Options{Store: o.Store, Change: r.reachable})
	const ends = 12
	for range ends {
		o.tokens("prompt", "login")
	}
	if err := provider.EndStoredSignIns(t.Context(), o.Store, providertest.AliceSubject, o.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	o.Provider.TellClients()
	other.Provider.TellClients()
	told := map[any]int{}
	for range ends {
		var claims map[string]any
		decodeSegment(t, r.wait(t).PostForm.Get("logout_token"), 1, &claims)
		told[claims["sid"]]++
	}
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
	for _, p := range []*provider.Provider{o.Provider, other.Provider} {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != ends || len(r.got) != 0 {
		t.Errorf("%d sign-ins told, %d requests more", len(told), len(r.got))
	}
}

// noticesFull is a store that takes no change of a notice while it is full, and counts them.
type noticesFull struct {
	storage.Store
	full    atomic.Bool
	refused atomic.Int32
}

func (f *noticesFull) UpdateLogoutNotice(ctx context.Context, sid, clientID string, change func(*storage.LogoutNotice) error) error {
	if f.full.Load() {
		f.refused.Add(1)
		return storage.ErrFull
	}
	return f.Store.UpdateLogoutNotice(ctx, sid, clientID, change)
}

// A full store is not tried again before a minute is over, however often somebody looks.
func TestBackchannelRestsWhenTheStoreIsFull(t *testing.T) {
	t.Parallel()
	r, store, rests := newReceiver(t), &noticesFull{}, make(chan time.Duration, 100)
	clients := opClients()
	clients[0].BackchannelLogoutURI = r.URL + "/rp"
	s := providertest.NewServer(t, providertest.Options{
		Clients: clients,
		Wrap:    func(inner storage.Store) storage.Store { store.Store = inner; return store },
		Change: func(c *provider.Config) {
			r.reachable(c)
			after := c.After
			c.After = func(d time.Duration) <-chan time.Time {
				rings := after(d)
				rests <- d
				return rings
			}
		},
	})
	o := opOn(t, s, "query")
	o.tokens()
	store.full.Store(true)
	o.leave(nil)
	for n := int32(1); n <= 2; n++ {
		select {
		case d := <-rests:
			if d != time.Minute {
				t.Errorf("it rests for %s", d)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%d tries without a rest", store.refused.Load())
		}
		sweep(t, s)
		s.Provider.TellClients()
		if got := store.refused.Load(); got != n {
			t.Errorf("%d tries, not %d", got, n)
		}
		store.full.Store(n < 2)
		s.Clock.Advance(time.Minute)
	}
	r.wait(t)
	wantOutbox(t, s, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
}

// A client that is not to be told any more is not.
func TestBackchannelForgetsClientsThatLeft(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, status(503))
	o := withReceiver(t, r, nil)
	o.tokens()
	o.leave(nil)
	r.wait(t)
	pause := afterTry(t, o.Server, 1)
	c, err := o.Store.Client(t.Context(), "rp")
	if err != nil {
		t.Fatal(err)
	}
	c.Disabled = true
	if err := o.Store.PutClient(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	o.Clock.Advance(pause)
	o.Provider.TellClients()
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
	if len(r.got) != 0 {
		t.Errorf("%d more requests", len(r.got))
	}
}

// reachable lets a provider call the receiver.
func (r *receiver) reachable(c *provider.Config) {
	c.BackchannelNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c.BackchannelRoots = r.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}
