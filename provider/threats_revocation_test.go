package provider_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// withinASecond runs what must have taken effect a second after the revocation was answered.
func withinASecond(t *testing.T, check func()) {
	t.Helper()
	start := time.Now()
	check()
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// TestThreatT24NothingOutlivesARevocation: the phone ends a sign-in at the hosted door, and at once
// every artefact of it is dead: tokens, code, cookie; the client is told.
func TestThreatT24NothingOutlivesARevocation(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	clients := shopClients()
	clients[0].BackchannelLogoutURI = r.URL + "/shop"
	s := providertest.NewServer(t, providertest.Options{Clients: clients, Change: func(c *provider.Config) { r.reachable(c) }})
	p := newPhone(t, s)
	b := visit(t, s, s.Browser(), "shop", "scope", "openid profile offline_access")
	tokens := b.signedIn(p)
	silent := visit(t, s, b.browser, "shop", "prompt", "none")
	if silent.page.Location().Query().Get("code") == "" || tokens.RefreshToken == "" {
		t.Fatalf("%v %v", silent.page.Header, tokens)
	}
	rotated := tokensOf(t, refresh(t, s, "shop", tokens.RefreshToken, nil))
	sid := claims(t, tokens.IDToken)["sid"].(string)
	alive(t, s, true, map[string]string{"access": tokens.AccessToken, "refreshed": rotated.AccessToken})

	wantStatus(t, p.send(http.MethodDelete, "/sessions/"+sid), http.StatusNoContent)
	withinASecond(t, func() {
		alive(t, s, false, map[string]string{"access": tokens.AccessToken, "refreshed": rotated.AccessToken})
		for name, token := range map[string]string{"access": tokens.AccessToken, "refreshed": rotated.AccessToken, "refresh": rotated.RefreshToken} {
			if reply := s.PostAs(t.Context(), "shop", "/introspect", url.Values{"token": {token}}); reply.Status != http.StatusOK || reply.JSON()["active"] != false || len(reply.JSON()) != 1 {
				t.Errorf("introspection of %s: %d %s", name, reply.Status, reply.Body)
			}
		}
		for _, token := range []string{tokens.RefreshToken, rotated.RefreshToken} {
			wantError(t, refresh(t, s, "shop", token, nil), http.StatusBadRequest, "invalid_grant")
		}
		wantError(t, s.Redeem(t.Context(), "shop", silent.page, silent.verifier), http.StatusBadRequest, "invalid_grant")
		if got := visit(t, s, b.browser, "shop", "prompt", "none").page.Location().Query().Get("error"); got != "login_required" {
			t.Errorf("the cookie: %q", got)
		}
		if page := s.Get(t.Context(), b.browser, "/account"); page.Hidden("next") == "" || strings.Contains(page.Body, "Alice") {
			t.Errorf("the account page: %s", page.Body)
		}
	})
	told := r.wait(t)
	if token := told.PostForm.Get("logout_token"); told.URL.Path != "/shop" || claims(t, token)["sid"] != sid {
		t.Errorf("told %s %v", told.URL, claims(t, token))
	}
	// The phone goes on.
	if got := p.sids(); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// TestThreatT24WaitersAreTold: with the phone's sign-in ends what it has claimed and approved, and
// every screen that waits for it is told, whatever its transport.
func TestThreatT24WaitersAreTold(t *testing.T) {
	t.Parallel()
	for name, revoke := range map[string]func(p *phone) *providertest.Reply{
		"lost":   func(p *phone) *providertest.Reply { return p.lost() },
		"revoke": func(p *phone) *providertest.Reply { return p.send(http.MethodDelete, "/sessions/"+p.sids()[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, providertest.Options{Change: roomy})
			p := newPhone(t, s)
			streamed, socketed, polled, approved := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil), openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
			b := visit(t, s, s.Browser(), "shop")
			for _, c := range []*consumption{streamed, socketed, polled} {
				c.claim(p)
			}
			approved.approve(p)
			if scan := p.scan(b.scanned(), "scanner"); scan.Status != http.StatusOK {
				t.Fatalf("%d %s", scan.Status, scan.Body)
			}
			events, socket := streamed.events(t, newLine(s)), socketed.socket(t, newLine(s))
			events.wantNext("scanned")
			socket.wantNext("scanned")
			s.Clock.Advance(6 * time.Second) // a poll at once would be the repeat of the last
			held := polled.hold(t.Context(), 25)
			page := b.hold(seqOf(b.state()))

			wantStatus(t, revoke(p), http.StatusNoContent)
			withinASecond(t, func() {
				events.wantNext("denied")
				socket.wantNext("denied")
				wantError(t, <-held, http.StatusBadRequest, "access_denied")
				wantError(t, approved.poll(t.Context()), http.StatusBadRequest, "access_denied")
				if state := <-page; state.Text("qr_status") != "denied" {
					t.Errorf("the page: %s", state.Body)
				}
			})
		})
	}
}

// TestRaceOfRevocationsAndARefresh: however a refresh falls among 64 revocations, nothing of the
// sign-in lives afterwards.
func TestRaceOfRevocationsAndARefresh(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	sid, tokens := linked(t, s, p, "cli")
	start := make(chan struct{})
	var racers sync.WaitGroup
	for range 64 {
		racers.Go(func() {
			<-start
			wantStatus(t, p.send(http.MethodDelete, "/sessions/"+sid), http.StatusNoContent)
		})
	}
	var reply *providertest.Reply
	racers.Go(func() {
		<-start
		reply = refreshed(t, s, "cli", tokens.RefreshToken)
	})
	close(start)
	racers.Wait()
	dead := []string{tokens.AccessToken}
	left := []string{tokens.RefreshToken}
	if reply.Status == http.StatusOK {
		dead, left = append(dead, reply.Text("access_token")), append(left, reply.Text("refresh_token"))
	} else {
		wantError(t, reply, http.StatusBadRequest, "invalid_grant")
	}
	for _, token := range dead {
		alive(t, s, false, map[string]string{"access": token})
	}
	for _, token := range left {
		wantError(t, refreshed(t, s, "cli", token), http.StatusBadRequest, "invalid_grant")
	}
	stored, err := s.Store.Session(t.Context(), sid)
	if err != nil || stored.EndedAt.IsZero() {
		t.Errorf("%+v %v", stored, err)
	}
}

// TestRaceOfALostPhoneAndARedemption: a device that redeems while the phone that approved it is
// reported lost is signed out, or was never signed in.
func TestRaceOfALostPhoneAndARedemption(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	won := 0
	for range 16 {
		p := newPhone(t, s)
		c := openQR(t, s, "cli", url.Values{"scope": {"openid offline_access"}})
		c.approve(p)
		var reply *providertest.Reply
		var racers sync.WaitGroup
		start := make(chan struct{})
		racers.Go(func() {
			<-start
			reply = c.poll(t.Context())
		})
		racers.Go(func() {
			<-start
			wantStatus(t, p.lost(), http.StatusNoContent)
		})
		close(start)
		racers.Wait()
		if reply.Status != http.StatusOK {
			continue
		}
		won++
		alive(t, s, false, map[string]string{"access": reply.Text("access_token")})
		wantError(t, refreshed(t, s, "cli", reply.Text("refresh_token")), http.StatusBadRequest, "invalid_grant")
	}
	t.Logf("%d of 16 redemptions came first", won)
	sessions, err := s.Store.SessionsBySubject(t.Context(), providertest.AliceSubject)
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range sessions {
		if left.EndedAt.IsZero() {
			t.Errorf("%+v lasts", left)
		}
	}
}

// lateCommit holds a redemption back, once armed, between its last step and its commit, until
// open is closed. touched is closed when somebody else wants the session meanwhile.
type lateCommit struct {
	storage.Store
	armed, holds  atomic.Bool
	held, open    chan struct{}
	touched       chan struct{}
	once, touches sync.Once
}

type inTx struct{}

func (l *lateCommit) Tx(ctx context.Context, fn func(context.Context) error) error {
	outermost := ctx.Value(inTx{}) == nil
	return l.Store.Tx(ctx, func(ctx context.Context) error {
		err := fn(context.WithValue(ctx, inTx{}, true))
		if l.armed.Load() && outermost && err == nil {
			l.once.Do(func() {
				l.holds.Store(true)
				close(l.held)
				<-l.open
			})
		}
		return err
	})
}

func (l *lateCommit) UpdateQRSession(ctx context.Context, id storage.QRID, fn func(*storage.QRSession) error) error {
	if l.holds.Load() && ctx.Value(inTx{}) == nil {
		l.touches.Do(func() { close(l.touched) })
	}
	return l.Store.UpdateQRSession(ctx, id, fn)
}

// A redemption that is about to be committed when the phone is reported lost is waited for: what
// it made is on the list of what ends.
func TestLostPhoneWaitsForARedemption(t *testing.T) {
	t.Parallel()
	late := &lateCommit{held: make(chan struct{}), open: make(chan struct{}), touched: make(chan struct{})}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { late.Store = inner; return late }})
	p := newPhone(t, s)
	c := openQR(t, s, "cli", nil)
	c.approve(p)
	late.armed.Store(true)
	redeemed, lost := make(chan *providertest.Reply, 1), make(chan *providertest.Reply, 1)
	go func() { redeemed <- c.poll(t.Context()) }()
	<-late.held
	go func() { lost <- p.lost() }()
	select {
	case <-late.touched:
	case reply := <-lost:
		t.Error("the phone was answered before it was known what became of the redemption")
		lost <- reply
	}
	close(late.open)
	wantStatus(t, <-lost, http.StatusNoContent)
	reply := <-redeemed
	wantStatus(t, reply, http.StatusOK)
	alive(t, s, false, map[string]string{"what was redeemed": reply.Text("access_token")})
}

// TestThreatT28SessionsTellNoSecret: what the list and the page show opens nothing: no token, no
// hash, no cookie.
func TestThreatT28SessionsTellNoSecret(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	_, cli := linked(t, s, p, "cli")
	b := visit(t, s, s.Browser(), "shop")
	shop := b.signedIn(p)
	browser := s.Browser()
	secrets := map[string]string{"token": p.token, "device token": cli.AccessToken, "device refresh": cli.RefreshToken, "shop token": shop.AccessToken}
	for name, value := range b.cookies() {
		secrets[name] = value
	}
	answers := map[string]string{
		"list": p.send(http.MethodGet, "/sessions").Body, "page": accountPage(t, s, browser).Body,
	}
	if !strings.Contains(answers["list"], "Shop") || !strings.Contains(answers["page"], "Shop") {
		t.Fatalf("%v", answers)
	}
	for name, secret := range secrets {
		for where, body := range answers {
			if secret != "" && strings.Contains(body, secret) {
				t.Errorf("the %s holds %s", where, name)
			}
		}
	}
	for _, row := range revokedRows(t, s) {
		t.Errorf("looking ended %+v", row)
	}
}
