package provider_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// A stream is asked for as tokens are, and refused as they are.
func TestEventsRefusals(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: socketClients()})
	c, tv, foreign := openQR(t, s, "cli", nil), openQR(t, s, "tv", nil), openQR(t, s, "desk", nil)
	redeemed, _ := signIn(t, s, "cli", nil)
	for _, row := range []struct {
		name   string
		form   url.Values
		header http.Header
		status int
		code   string
	}{
		{"no client", url.Values{"device_code": {c.deviceCode()}}, nil, 401, "invalid_client"},
		{"an unknown client", url.Values{"client_id": {"nobody"}, "device_code": {c.deviceCode()}}, nil, 401, "invalid_client"},
		{"a wrong secret", url.Values{"client_id": {"desk"}, "client_secret": {"wrong"}, "device_code": {foreign.deviceCode()}}, nil, 401, "invalid_client"},
		{"no device_code", url.Values{"client_id": {"cli"}}, nil, 400, "invalid_request"},
		{"a device_code that is none", url.Values{"client_id": {"cli"}, "device_code": {"x"}}, nil, 400, "invalid_grant"},
		{"another client's device_code", url.Values{"client_id": {"cli"}, "device_code": {foreign.deviceCode()}}, nil, 400, "invalid_grant"},
		{"a redeemed session", redeemed.streamForm(), nil, 400, "invalid_grant"},
		{"a client of the device grant", tv.streamForm(), nil, 400, "unauthorized_client"},
		{"a parameter twice", url.Values{"client_id": {"cli", "cli"}, "device_code": {c.deviceCode()}}, nil, 400, "invalid_request"},
		{"DPoP", c.streamForm(), http.Header{"Dpop": {"x"}}, 400, "invalid_dpop_proof"},
		{"a resource", url.Values{"client_id": {"cli"}, "device_code": {c.deviceCode()}, "resource": {"https://a.example"}}, nil, 400, "invalid_target"},
	} {
		t.Run(row.name, func(t *testing.T) {
			resp := askEvents(t.Context(), t, s.Client(), s.URL("/qr/events"), row.form, row.header)
			body, _ := io.ReadAll(resp.Body)
			reply := &providertest.Reply{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
			wantRefusal(t, reply, row.status, row.code)
			if got := reply.Header.Get("WWW-Authenticate") != ""; got != (row.status == 401) {
				t.Errorf("WWW-Authenticate: %v", got)
			}
		})
	}
}

// socketClients is a desktop client with a secret and a web origin, for the QR grant.
func socketClients() []*storage.Client {
	secrets := providertest.Clients()[0].SecretHashes
	return []*storage.Client{{
		ID: "desk", Name: "Desk", SecretHashes: secrets, GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid", "profile"},
		RedirectURIs: []string{"https://Desk.example:443/callback", "app.desk:/callback"}, QR: storage.QRPolicy{Enabled: true},
	}}
}

// No event holds a token or a device_code, at either door; the name is for the bound cookie only.
func TestEventsHoldNoSecret(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"SSE", "WebSocket"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c, p := openQR(t, s, "cli", url.Values{"scope": {"openid profile offline_access"}, "qr_image": {"svg"}}), newPhone(t, s)
			f := c.open(t, transport, newLine(s))
			first := f.wantNext(qr.MessageQR)
			if first.Seq != 1 || first.ExpiresIn != 180 || first.Frame.RotateIn != 10 || !strings.HasPrefix(first.Frame.Image, "data:image/svg+xml") {
				t.Errorf("first message %+v", first)
			}
			scan := p.scan(first.Frame.Payload, "scanner")
			scanned := f.wantNext(qr.MessageScanned)
			if scanned.ExpiresIn != 120 || scanned.Frame != nil {
				t.Errorf("message %+v", scanned)
			}
			mustAnswer(t, p.decide(scan, "approve", scanned.CheckCode), http.StatusOK)
			if m := f.wantNext(qr.MessageApproved); m.Name != "" || m.ExpiresIn != 30 {
				t.Errorf("message %+v", m)
			}
			tokens := c.poll(t.Context())
			mustAnswer(t, tokens, http.StatusOK)
			f.wantEnd()
			for _, secret := range []string{tokens.Text("access_token"), tokens.Text("id_token"), tokens.Text("refresh_token"), c.deviceCode(), c.verifier, "Alice", providertest.AliceSubject, "_token"} {
				if secret == "" || strings.Contains(f.bytes(), secret) {
					t.Errorf("%q in %s", secret, f.bytes())
				}
			}
		})
	}
	t.Run("hosted", func(t *testing.T) {
		t.Parallel()
		s := newShop(t, providertest.Options{})
		b := visit(t, s, s.Browser(), "shop")
		f := b.hostedEvents(newLine(s), b.cookies())
		b.approve(newPhone(t, s))
		for m := f.next(); m.Type != qr.MessageApproved || m.Name != "Alice Arden"; m = f.next() {
			if m.Name != "" {
				t.Fatalf("message %+v", m)
			}
		}
		b.press("continue")
		f.wantEnd()
		for name, value := range b.cookies() {
			if strings.Contains(f.bytes(), value) {
				t.Errorf("the cookie %s in %s", name, f.bytes())
			}
		}
	})
}

// open opens the session's stream by the named transport.
func (c *consumption) open(t *testing.T, transport string, l *line) *feed {
	t.Helper()
	if transport == "SSE" {
		return c.events(t, l)
	}
	return c.socket(t, l)
}

// A session has one stream: the newest. The one before is told so, whatever their transports.
func TestNewerStreamReplacesTheOlder(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", nil)
	var last *feed
	for _, transport := range []string{"SSE", "WebSocket", "WebSocket", "SSE", "SSE"} {
		f := c.open(t, transport, newLine(s))
		f.wantNext(qr.MessageQR)
		if last != nil {
			last.wantNext(qr.MessageReplaced)
			last.wantEnd()
			if code := websocket.CloseStatus(last.reason()); code != -1 && code != websocket.StatusNormalClosure {
				t.Errorf("closed with %d", code)
			}
		}
		last = f
	}
	mustAnswer(t, newPhone(t, s).scan(payload(c.opened), "scanner"), http.StatusOK)
	last.wantNext(qr.MessageScanned)
}

// New frames come when they are due, and a silent stream has a comment every 15 s.
func TestEventsByTheClock(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", nil)
	f := c.events(t, newLine(s))
	first := f.wantNext(qr.MessageQR)
	armed(t, s, 0)
	s.Clock.Advance(10*time.Second - time.Millisecond)
	if s.Clock.Timers() == 0 {
		t.Error("a frame before it was due")
	}
	s.Clock.Advance(time.Millisecond)
	second := f.wantNext(qr.MessageQR)
	if second.Frame.Payload == first.Frame.Payload || second.ExpiresIn != 170 || second.Seq != 1 {
		t.Errorf("frame %+v after %+v", second, first)
	}
	armed(t, s, 0)
	mustAnswer(t, newPhone(t, s).scan(second.Frame.Payload, "scanner"), http.StatusOK)
	before := s.Clock.Timers()
	f.wantNext(qr.MessageScanned)
	armed(t, s, before-1)
	for range 3 {
		armed(t, s, 0)
		s.Clock.Advance(15 * time.Second)
		select {
		case <-f.beats:
		case <-time.After(patience):
			t.Fatal("no comment")
		}
	}
}

// Streams and held polls share their limits; what is beyond them is refused and may come back.
func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*provider.Config){
		"per client": func(c *provider.Config) { c.QRLimits.HeldPollsPerClient = 1 },
		"in total":   func(c *provider.Config) { c.QRLimits.HeldPolls = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: limit})
			first, second := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
			f := first.events(t, newLine(s))
			f.wantNext(qr.MessageQR)
			wantHeld(t, <-second.hold(t.Context(), 25), "")
			resp := askEvents(t.Context(), t, s.Client(), s.URL("/qr/events"), second.streamForm(), nil)
			body, _ := io.ReadAll(resp.Body)
			wantRefusal(t, &providertest.Reply{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, http.StatusTooManyRequests, "temporarily_unavailable")
			if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || after < 1 || after > 10 {
				t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
			}
			refused := second.socket(t, newLine(s))
			refused.wantEnd()
			if code := websocket.CloseStatus(refused.reason()); code != websocket.StatusTryAgainLater {
				t.Errorf("closed with %v", refused.reason())
			}
			// The session that has the place may replace its own stream, and its end frees it.
			again := first.socket(t, newLine(s))
			again.wantNext(qr.MessageQR)
			f.wantNext(qr.MessageReplaced)
			mustAnswer(t, first.cancel(t.Context()), http.StatusOK)
			again.wantNext(qr.MessageCancelled)
			again.wantEnd()
			second.events(t, newLine(s)).wantNext(qr.MessageQR)
		})
	}
}

// Close tells every stream to come back at a time of its own, and returns when the WebSockets,
// which no http.Server knows, have ended.
func TestCloseDrainsStreams(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	a, c := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	feeds := []*feed{a.events(t, newLine(s)), c.socket(t, newLine(s)), b.hostedEvents(newLine(s), b.cookies())}
	for _, f := range feeds {
		f.wantNext(qr.MessageQR)
	}
	silent := dialSocket(t.Context(), t, s, s.Client(), nil)
	silentEnd := make(chan error, 1)
	go func() {
		_, _, err := silent.Read(t.Context())
		silentEnd <- err
	}()
	if err := s.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if code := websocket.CloseStatus(<-silentEnd); code != websocket.StatusServiceRestart {
		t.Errorf("a socket without credentials was closed with %d", code)
	}
	for _, f := range feeds {
		if m := f.wantNext(qr.MessageReconnect); m.After < 1 || m.After > 10 {
			t.Errorf("message %+v", m)
		}
		f.wantEnd()
	}
	if code := websocket.CloseStatus(feeds[1].reason()); code != websocket.StatusServiceRestart {
		t.Errorf("closed with %v", feeds[1].reason())
	}
	resp := askEvents(t.Context(), t, s.Client(), s.URL("/qr/events"), a.streamForm(), nil)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a stream of a closed server: %d", resp.StatusCode)
	}
	_, resp, err := websocket.Dial(t.Context(), "wss"+strings.TrimPrefix(s.URL("/qr/ws"), "https"), &websocket.DialOptions{HTTPClient: s.Client()})
	if err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a socket of a closed server: %v", err)
	}
}

// What the phone's sign-in has claimed ends with it, and whoever waits is told at once.
func TestEndOfTheApprovingSignInEndsStreams(t *testing.T) {
	t.Parallel()
	for _, approved := range []bool{false, true} {
		for _, transport := range []string{"SSE", "WebSocket"} {
			t.Run(transport+" approved "+strconv.FormatBool(approved), func(t *testing.T) {
				t.Parallel()
				s := providertest.NewServer(t, providertest.Options{})
				c, other, p := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil), newPhone(t, s)
				f, untouched := c.open(t, transport, newLine(s)), other.open(t, transport, newLine(s))
				f.wantNext(qr.MessageQR)
				untouched.wantNext(qr.MessageQR)
				scan := p.scan(payload(c.opened), "scanner")
				mustAnswer(t, newPhone(t, s).scan(payload(other.opened), "scanner"), http.StatusOK)
				untouched.wantNext(qr.MessageScanned)
				if code := f.wantNext(qr.MessageScanned).CheckCode; approved {
					mustAnswer(t, p.decide(scan, "approve", code), http.StatusOK)
					f.wantNext(qr.MessageApproved)
				}
				if err := s.Provider.EndSignIn(t.Context(), c.record().Claim.SessionID); err != nil {
					t.Fatal(err)
				}
				f.wantNext(qr.MessageDenied)
				f.wantEnd()
				if state := c.record().State; state != storage.QRAborted {
					t.Errorf("state %s", state)
				}
				wantRefusal(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
				mustAnswer(t, other.cancel(t.Context()), http.StatusOK)
				untouched.wantNext(qr.MessageCancelled)
			})
		}
	}
}

// The hosted stream is for the page that holds the cookie, and for no other site's.
func TestHostedEventsAreBound(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	other := visit(t, s, s.Browser(), "shop")
	for _, row := range []struct {
		name    string
		cookies map[string]string
		header  http.Header
		status  int
	}{
		{"our page, as EventSource asks", b.cookies(), http.Header{"Sec-Fetch-Site": {"same-origin"}}, 200},
		{"our page by its Origin", b.cookies(), http.Header{"Origin": {s.Issuer}}, 200},
		{"neither Origin nor Sec-Fetch-Site", b.cookies(), nil, 404},
		{"typed into the address bar", b.cookies(), http.Header{"Sec-Fetch-Site": {"none"}}, 404},
		{"a sibling site", b.cookies(), http.Header{"Sec-Fetch-Site": {"same-site"}}, 404},
		{"another site", b.cookies(), http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {s.Issuer}}, 404},
		{"another Origin", b.cookies(), http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"https://web.example"}}, 404},
		{"the Origin null", b.cookies(), http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}, 404},
		{"without the cookie", nil, http.Header{"Sec-Fetch-Site": {"same-origin"}}, 404},
		{"another browser's cookie", other.cookies(), http.Header{"Sec-Fetch-Site": {"same-origin"}}, 404},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			resp := b.askHosted(ctx, s.Client(), row.cookies, row.header)
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != row.status || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			if row.status == http.StatusOK && (resp.Header.Get("X-Accel-Buffering") != "no" || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Content-Encoding") != "") {
				t.Errorf("%v", resp.Header)
			}
		})
	}
}

// A stream works over HTTP/2, and outlives the time limits of its server over both.
func TestEventsOverHTTP2AndTimeLimits(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		t.Run("HTTP/"+strconv.Itoa(version), func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c, p := openQR(t, s, "cli", nil), newPhone(t, s)
			server := httptest.NewUnstartedServer(s.Provider)
			server.EnableHTTP2 = version == 2
			server.Config.ReadTimeout, server.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
			server.StartTLS()
			t.Cleanup(func() {
				server.CloseClientConnections()
				server.Close()
			})
			ctx, hangUp := context.WithCancel(t.Context())
			resp := askEvents(ctx, t, server.Client(), server.URL+"/qr/events", c.streamForm(), nil)
			if resp.ProtoMajor != version {
				t.Errorf("HTTP/%d", resp.ProtoMajor)
			}
			f := startEvents(t, resp, hangUp)
			f.wantNext(qr.MessageQR)
			// A connection that says nothing shows when the limits are over, twice.
			for range 2 {
				waitForReadTimeout(t, server)
			}
			mustAnswer(t, p.scan(payload(c.opened), "scanner"), http.StatusOK)
			f.wantNext(qr.MessageScanned)
		})
	}
}

// waitForReadTimeout returns when the server's time limits have passed once: when it hangs up on
// a connection that says nothing.
func waitForReadTimeout(t *testing.T, server *httptest.Server) {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn) // to its end
	_ = conn.Close()
}

// Behind a middleware that hides Flush there is no stream, and says so.
func TestEventsNeedAFlusher(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", nil)
	for name, row := range map[string]struct {
		wrap   func(w http.ResponseWriter) http.ResponseWriter
		status int
	}{
		"hidden":              {func(w http.ResponseWriter) http.ResponseWriter { return struct{ http.ResponseWriter }{w} }, http.StatusNotImplemented},
		"with deadlines only": {func(w http.ResponseWriter) http.ResponseWriter { return deadlines{w} }, http.StatusNotImplemented},
		"unwrapped":           {func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{w} }, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.Provider.ServeHTTP(row.wrap(w), r) }))
			defer server.Close()
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			resp := askEvents(ctx, t, server.Client(), server.URL+"/qr/events", c.streamForm(), nil)
			if resp.StatusCode != row.status {
				t.Errorf("status %d", resp.StatusCode)
			}
			ws, answer, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http")+"/qr/ws", nil)
			if got := answer.StatusCode; (got == http.StatusNotImplemented) != (name != "unwrapped") {
				t.Errorf("handshake: %d %v", got, err)
			}
			if ws != nil {
				_ = ws.CloseNow()
			}
			hangUp()
		})
	}
}

// deadlines hides everything but deadlines.
type deadlines struct{ http.ResponseWriter }

func (d deadlines) SetWriteDeadline(at time.Time) error {
	return http.NewResponseController(d.ResponseWriter).SetWriteDeadline(at)
}

// unwrapping is a middleware's writer as it should be.
type unwrapping struct{ w http.ResponseWriter }

func (u unwrapping) Header() http.Header         { return u.w.Header() }
func (u unwrapping) Write(b []byte) (int, error) { return u.w.Write(b) }
func (u unwrapping) WriteHeader(status int)      { u.w.WriteHeader(status) }
func (u unwrapping) Unwrap() http.ResponseWriter { return u.w }

// When every stream has ended, nothing of them is left.
func TestStreamsLeaveNoGoroutine(t *testing.T) { //nolint:paralleltest // it counts the goroutines of the process
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", nil)
	sessions := []*consumption{c}
	for range 9 {
		sessions = append(sessions, openQR(t, s, "cli", nil))
	}
	s.HTTP.Client().CloseIdleConnections()
	before := runtime.NumGoroutine()
	var lines []*line
	var feeds []*feed
	for i, c := range sessions {
		l := newLine(s)
		f := c.open(t, []string{"SSE", "WebSocket"}[i%2], l)
		f.wantNext(qr.MessageQR)
		lines, feeds = append(lines, l), append(feeds, f)
	}
	for i, f := range feeds {
		switch i % 3 {
		case 0:
			f.hangUp()
		case 1:
			lines[i].cut()
		case 2:
			mustAnswer(t, sessions[i].cancel(t.Context()), http.StatusOK)
		}
	}
	for i, f := range feeds {
		for range f.messages { // to the end
		}
		lines[i].client.CloseIdleConnections()
	}
	s.HTTP.Client().CloseIdleConnections()
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
