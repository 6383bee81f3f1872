package provider_test

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/storage"
)

// receiver is a relying party's back-channel logout endpoint over HTTPS.
type receiver struct {
	*httptest.Server
	got chan *http.Request
	// answers are given in turn; after them always is the status, 200 when it is zero.
	answers chan func(http.ResponseWriter)
	always  atomic.Int64
	// hang, when set, holds every answer back until it is closed. now and peak count those
	// under way.
	hang      atomic.Pointer[chan struct{}]
	now, peak atomic.Int64
}

func newReceiver(t *testing.T, answers ...func(http.ResponseWriter)) *receiver {
	t.Helper()
	r := &receiver{got: make(chan *http.Request, 16), answers: make(chan func(http.ResponseWriter), 16)}
	for _, answer := range answers {
		r.answers <- answer
	}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := req.ParseForm(); err != nil {
			t.Errorf("receiver: %v", err)
		}
		for n := r.now.Add(1); n > r.peak.Load(); {
			r.peak.Store(n)
		}
		defer r.now.Add(-1)
		if held := r.hang.Load(); held != nil {
			<-*held
		}
		select {
		case answer := <-r.answers:
			answer(w)
		default:
			if always := r.always.Load(); always != 0 {
				w.WriteHeader(int(always))
			}
		}
		r.got <- req
	}))
	// A handshake that fails is what one test wants.
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

// wait returns the next request.
func (r *receiver) wait(t *testing.T) *http.Request {
	t.Helper()
	select {
	case req := <-r.got:
		return req
	case <-t.Context().Done():
	case <-time.After(30 * time.Second):
	}
	t.Fatal("no logout token came")
	return nil
}

// withReceiver is a provider whose two clients listen at the receiver.
func withReceiver(t *testing.T, r *receiver, change func(*provider.Config)) *op {
	t.Helper()
	clients := opClients()
	for _, c := range clients {
		c.BackchannelLogoutURI, c.BackchannelLogoutSessionRequired = r.URL+"/"+c.ID+"?x=1", true
	}
	clients[1].IDTokenAlg = "ES256"
	return newOP(t, "query", clients, func(c *provider.Config) {
		r.reachable(c)
		if change != nil {
			change(c)
		}
	})
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

func TestOPBackchannelRPInitiatedLogoutDiscoveryEndpointVerification(t *testing.T) {
	t.Parallel()
	document := newOP(t, "query", opClients(), nil)
	got := document.Get(t.Context(), document.Client(), "/.well-known/openid-configuration").JSON()
	if got["backchannel_logout_supported"] != true || got["backchannel_logout_session_supported"] != true || got["end_session_endpoint"] == nil {
		t.Errorf("%v", got)
	}
}

func TestOPBackchannelRPInitiatedLogout(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	tokens, members := o.tokens()
	o.tokens("client_id", "rp2")
	o.tokens() // takes part once however often it asks
	reply := o.leave(url.Values{"id_token_hint": {tokens.IDToken}, "post_logout_redirect_uri": {opBye}, "state": {"x"}})
	if got := reply.Header.Get("Location"); got != opBye+"&state=x" {
		t.Errorf("%q", got)
	}
	o.wantLeft()
	told := map[string]bool{}
	for range 2 {
		req := r.wait(t)
		client := strings.TrimPrefix(req.URL.Path, "/")
		told[client] = true
		if req.Method != http.MethodPost || req.URL.RawQuery != "x=1" || len(req.PostForm) != 1 || req.TLS.Version < tls.VersionTLS12 ||
			req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("%s %s %v", req.Method, req.URL, req.PostForm)
		}
		token := req.PostForm.Get("logout_token")
		got := o.verified(token, "logout+jwt")
		var header struct{ Alg string }
		decodeSegment(t, token, 0, &header)
		if want := map[string]string{"rp": "RS256", "rp2": "ES256"}[client]; header.Alg != want {
			t.Errorf("%s: alg %s, want %s", client, header.Alg, want)
		}
		now := float64(o.Clock.Now().Unix())
		want := map[string]any{
			"iss": o.Issuer, "aud": client, "sub": members["sub"], "sid": members["sid"], "iat": now, "exp": now + 120, "jti": got["jti"],
			"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
		}
		if diff := cmp.Diff(want, got); diff != "" || got["jti"] == "" || got["jti"] == nil {
			t.Errorf("%s: %s", client, diff)
		}
		// It is no ID token, though it is signed by the same keys.
		if code := o.refusal("id_token_hint", token); code != "invalid_request" {
			t.Errorf("a logout token as a hint: %q", code)
		}
	}
	if !told["rp"] || !told["rp2"] || len(r.got) != 0 {
		t.Errorf("told %v, %d more", told, len(r.got))
	}
}

// "Not me" and reports end sign-ins too, and a client that took no part hears nothing.
func TestBackchannelTellsOfEveryEnd(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	o.tokens("client_id", "rp2")
	page := o.Get(t.Context(), o.browser, "/device")
	token := page.Body[strings.LastIndex(page.Body, `name="csrf" value="`)+len(`name="csrf" value="`):]
	o.wantSignedOutPage(o.Post(t.Context(), o.browser, "/logout", url.Values{"csrf": {token[:strings.IndexByte(token, '"')]}}))
	if req := r.wait(t); req.URL.Path != "/rp2" {
		t.Errorf("told %s", req.URL.Path)
	}
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != 0 {
		t.Errorf("%d more", len(r.got))
	}
}

// untilWaiting returns once something waits for the clock.
func untilWaiting(t *testing.T, o *op) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); o.Clock.Timers() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing waits")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestBackchannelTriesAgain(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, status(503), status(429), status(500))
	o := withReceiver(t, r, nil)
	o.tokens()
	o.leave(nil)
	seen := map[any]bool{}
	for _, wait := range []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 0} {
		got := o.verified(r.wait(t).PostForm.Get("logout_token"), "logout+jwt")
		if seen[got["jti"]] || got["iat"] != float64(o.Clock.Now().Unix()) {
			t.Errorf("try %d: %v", len(seen)+1, got)
		}
		seen[got["jti"]] = true
		if wait > 0 {
			untilWaiting(t, o)
			o.Clock.Advance(wait - time.Millisecond)
			if o.Clock.Timers() == 0 {
				t.Errorf("it waits less than %s", wait)
			}
			o.Clock.Advance(time.Millisecond)
		}
	}
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != 0 {
		t.Errorf("it goes on after a success: %d", len(r.got))
	}
}

// What the client says is not read further than needed, and leads nowhere.
func TestBackchannelTakesNoOrders(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"a redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"a refusal":    status(http.StatusForbidden),
		"no content":   status(http.StatusNoContent),
		"endless body": func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 8<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, answer)
			o := withReceiver(t, r, nil)
			o.tokens()
			o.leave(nil)
			r.wait(t)
			wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
			if err := o.Provider.Close(); err != nil {
				t.Fatal(err)
			}
			if len(r.got) != 0 {
				t.Errorf("%d more requests", len(r.got))
			}
		})
	}
}

// The networks are the operator's to open: a client's address may be anything.
func TestBackchannelStaysOutOfPrivateNetworks(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, func(c *provider.Config) { c.BackchannelNetworks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	o.tokens()
	o.leave(nil)
	o.wantLeft()
	wantOutbox(t, o.Server, func(left []*storage.LogoutNotice) bool { return len(left) == 0 })
	if len(r.got) != 0 {
		t.Errorf("%d requests reached it", len(r.got))
	}
	wantGivenUp(t, o.Server, "refused")
}

// A certificate that nobody vouches for is no client's.
func TestBackchannelChecksCertificates(t *testing.T) {
	t.Parallel()
	r, log := newReceiver(t), &logbook{}
	o := withReceiver(t, r, func(c *provider.Config) { c.BackchannelRoots, c.Logger = nil, log.logger() })
	o.tokens()
	o.leave(nil)
	afterTry(t, o.Server, 1)
	// The address may have a secret of the client's in it.
	log.wantWithout(t, "address", "x=1")
	if len(r.got) != 0 {
		t.Error("a token went to a stranger")
	}
}

func TestCheckBackchannelLogoutURI(t *testing.T) {
	t.Parallel()
	for uri, good := range map[string]bool{
		"https://rp.example/logout": true, "https://rp.example:8443/logout?x=1": true, "http://127.0.0.1:8080/logout": true, "http://localhost/": true,
		"": false, "/logout": false, "http://rp.example/logout": false, "https://rp.example/#f": false, "https://user@rp.example/": false,
		"https:///logout": false, "ftp://rp.example/": false, "https://rp.example/%zz": false,
	} {
		if err := provider.CheckBackchannelLogoutURI(uri); (err == nil) != good {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

// A sign-in ends once, however often it is ended.
func TestBackchannelTellsOnce(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	old, first := o.tokens()
	o.leave(nil)
	_, second := o.tokens()
	o.leave(url.Values{"id_token_hint": {old.IDToken}})
	told := map[any]int{}
	for range 2 {
		told[o.verified(r.wait(t).PostForm.Get("logout_token"), "logout+jwt")["sid"]]++
	}
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if told[first["sid"]] != 1 || told[second["sid"]] != 1 || len(r.got) != 0 {
		t.Errorf("told %v, %d more", told, len(r.got))
	}
}
