package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// TestThreatT14StreamsOfOtherSites: a page of another site can neither listen to a session, by
// WebSocket, by event stream or by a form, nor end it, in a browser that holds its cookies.
func TestThreatT14StreamsOfOtherSites(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{Clients: socketClients()})
	const evil = "https://evil.example"
	desk, b := openQR(t, s, "desk", nil), visit(t, s, s.Browser(), "shop")
	was, wasHosted := desk.record(), b.record()

	t.Run("WebSocket", func(t *testing.T) {
		ws := dialSocket(t.Context(), t, s, s.Client(), http.Header{"Origin": {evil}})
		credentials := url.Values{"client_id": {"desk"}, "client_secret": {providertest.ClientSecret}, "device_code": {desk.deviceCode()}}
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(object(t, credentials))); err != nil {
			t.Fatal(err)
		}
		if code, _, answered := closeOf(t, ws); answered || code != websocket.StatusPolicyViolation {
			t.Errorf("answered %v, closed with %d", answered, code)
		}
	})
	t.Run("event stream", func(t *testing.T) {
		// Each mark of another site is enough, and so is a browser that marks nothing.
		for _, header := range []http.Header{{"Origin": {evil}}, {"Sec-Fetch-Site": {"cross-site"}}, nil} {
			resp := b.askHosted(t.Context(), s.Client(), b.cookies(), header)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusNotFound || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%v: %d %v", header, resp.StatusCode, resp.Header)
			}
		}
	})
	t.Run("fetch", func(t *testing.T) {
		for _, path := range []string{"/qr/events", "/qr/cancel", "/token"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, s.URL(path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Origin", evil)
			req.Header.Set("Access-Control-Request-Method", http.MethodPost)
			if reply := s.Do(b.browser, req); reply.Status != http.StatusForbidden || reply.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %d %v", path, reply.Status, reply.Header)
			}
		}
	})
	t.Run("form", func(t *testing.T) {
		header := http.Header{"Origin": {evil}, "Sec-Fetch-Site": {"cross-site"}}
		form := url.Values{"csrf": {b.page.Hidden("csrf")}, "flow": {b.flow()}}
		for _, path := range []string{"/login/qr/continue", "/login/qr/not-me", "/login/qr/new"} {
			if reply := sendForm(t, s, b.browser, path, form, header); reply.Status != http.StatusForbidden {
				t.Errorf("%s: %d %s", path, reply.Status, reply.Body)
			}
		}
		// Simple requests need no preflight, but they cannot say who asks: no cookie does.
		for _, path := range []string{"/qr/events", "/qr/cancel"} {
			if reply := sendForm(t, s, b.browser, path, url.Values{"device_code": {desk.deviceCode()}}, header); reply.Status != http.StatusUnauthorized || reply.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %d %v", path, reply.Status, reply.Header)
			}
		}
	})
	wantUnmoved(t, desk, was)
	if now := b.record(); now.Version != wasHosted.Version {
		t.Errorf("the hosted session moved: %s", now.State)
	}
}

// TestThreatT21OneSessionHasOneStream: who opens stream after stream with one device_code holds
// one place, whatever the transports, and who polls as fast as it can is only slowed down.
func TestThreatT21OneSessionHasOneStream(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.QRLimits.HeldPolls = 2 }})
	greedy, other := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	var last *feed
	for i := range 20 {
		f := greedy.open(t, []string{"SSE", "WebSocket", "WebSocket", "SSE"}[i%4], newLine(s))
		f.wantNext(qr.MessageQR)
		if last != nil {
			last.wantNext(qr.MessageReplaced)
			last.wantEnd()
		}
		last = f
	}
	// The other place of the two is still there for somebody else.
	neighbour := other.events(t, newLine(s))
	neighbour.wantNext(qr.MessageQR)

	// Beside its stream the same device polls every half second.
	slowed := 0
	for i := range 30 {
		reply := greedy.poll(t.Context())
		switch reply.Text("error") {
		case "slow_down":
			slowed++
		case "authorization_pending":
			// The first is on time, and one repeat of it is free.
			if i > 1 {
				t.Errorf("poll %d was early and is not told so: %s", i, reply.Body)
			}
		default:
			t.Fatalf("poll %d: %d %s", i, reply.Status, reply.Body)
		}
		s.Clock.Advance(500 * time.Millisecond)
	}
	if q := greedy.record(); slowed != 28 || q.Interval != time.Minute || q.State != storage.QRPending {
		t.Errorf("%d slow_downs, interval %s, state %s", slowed, q.Interval, q.State)
	}
	// Neither stream suffered: each has its next frame and its scan.
	for c, f := range map[*consumption]*feed{greedy: last, other: neighbour} {
		frame := f.wantNext(qr.MessageQR)
		mustAnswer(t, newPhone(t, s).scan(frame.Frame.Payload, "scanner"), http.StatusOK)
		if m := f.wantNext(qr.MessageScanned); m.CheckCode == "" || strings.Contains(c.opened.Body, "check_code") {
			t.Errorf("message %+v", m)
		}
	}
}
