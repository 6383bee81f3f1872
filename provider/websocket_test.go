package provider_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// closeOf reads a WebSocket to its end and returns how it was closed, and whether a message came
// before.
func closeOf(t *testing.T, ws *websocket.Conn) (code websocket.StatusCode, reason string, answered bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	_, _, err := ws.Read(ctx)
	if err == nil {
		return 0, "", true
	}
	var closed websocket.CloseError
	if !errors.As(err, &closed) {
		t.Fatalf("ended without a close: %v", err)
	}
	return closed.Code, closed.Reason, false
}

// The first frame is strict; whatever is wrong with it has a code of its own.
func TestFirstFrame(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: socketClients()})
	c, desk, tv := openQR(t, s, "cli", nil), openQR(t, s, "desk", nil), openQR(t, s, "tv", nil)
	redeemed, _ := signIn(t, s, "cli", nil)
	code := c.deviceCode()
	good := object(t, c.streamForm())
	header := http.Header{"Authorization": {basic("desk", providertest.ClientSecret)}}
	for _, row := range []struct {
		name   string
		kind   websocket.MessageType
		frame  string
		header http.Header
		code   websocket.StatusCode
		reason string
	}{
		{"a public client", websocket.MessageText, good, nil, 0, ""},
		{"a secret in the frame", websocket.MessageText, object(t, url.Values{"client_id": {"desk"}, "client_secret": {providertest.ClientSecret}, "device_code": {desk.deviceCode()}}), nil, 0, ""},
		{"a secret in the handshake", websocket.MessageText, object(t, url.Values{"device_code": {desk.deviceCode()}}), header, 0, ""},
		{"a member that nobody knows", websocket.MessageText, `{"x":"y",` + good[1:], nil, 0, ""},
		{"a secret in both", websocket.MessageText, object(t, url.Values{"client_secret": {providertest.ClientSecret}, "device_code": {desk.deviceCode()}}), header, 4400, "invalid_request"},
		{"binary", websocket.MessageBinary, good, nil, 1003, "invalid_request"},
		{"too large", websocket.MessageText, `{"x":"` + strings.Repeat("x", 4<<10) + `",` + good[1:], nil, 1009, ""},
		{"empty", websocket.MessageText, "", nil, 4400, "invalid_request"},
		{"no JSON", websocket.MessageText, "device_code=" + code, nil, 4400, "invalid_request"},
		{"an array", websocket.MessageText, "[" + good + "]", nil, 4400, "invalid_request"},
		{"a string", websocket.MessageText, `"` + code + `"`, nil, 4400, "invalid_request"},
		{"two objects", websocket.MessageText, good + good, nil, 4400, "invalid_request"},
		{"a member twice", websocket.MessageText, `{"client_id":"cli",` + good[1:], nil, 4400, "invalid_request"},
		{"a number", websocket.MessageText, `{"x":1,` + good[1:], nil, 4400, "invalid_request"},
		{"null", websocket.MessageText, `{"x":null,` + good[1:], nil, 4400, "invalid_request"},
		{"an object inside", websocket.MessageText, `{"x":{},` + good[1:], nil, 4400, "invalid_request"},
		{"NUL", websocket.MessageText, `{"x":"\u0000",` + good[1:], nil, 4400, "invalid_request"},
		{"no UTF-8", websocket.MessageText, "{\"x\":\"\xff\"," + good[1:], nil, 4400, "invalid_request"},
		{"no device_code", websocket.MessageText, `{"client_id":"cli"}`, nil, 4400, "invalid_request"},
		{"no client", websocket.MessageText, `{"device_code":"` + code + `"}`, nil, 4401, "invalid_client"},
		{"an unknown client", websocket.MessageText, `{"client_id":"nobody","device_code":"` + code + `"}`, nil, 4401, "invalid_client"},
		{"a wrong secret", websocket.MessageText, `{"client_id":"desk","client_secret":"x","device_code":"` + code + `"}`, nil, 4401, "invalid_client"},
		{"a wrong secret in the handshake", websocket.MessageText, `{"device_code":"` + code + `"}`, http.Header{"Authorization": {basic("desk", "x")}}, 4401, "invalid_client"},
		{"another client's device_code", websocket.MessageText, object(t, url.Values{"client_id": {"cli"}, "device_code": {desk.deviceCode()}}), nil, 4400, "invalid_grant"},
		{"a device_code that is none", websocket.MessageText, `{"client_id":"cli","device_code":"x"}`, nil, 4400, "invalid_grant"},
		{"a redeemed session", websocket.MessageText, object(t, redeemed.streamForm()), nil, 4400, "invalid_grant"},
		{"a client of the device grant", websocket.MessageText, object(t, tv.streamForm()), nil, 4400, "unauthorized_client"},
		{"a resource", websocket.MessageText, `{"resource":"https://a.example",` + good[1:], nil, 4400, "invalid_target"},
		{"DPoP", websocket.MessageText, good, http.Header{"Dpop": {"x"}}, 4400, "invalid_dpop_proof"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ws := dialSocket(t.Context(), t, s, s.Client(), row.header)
			if err := ws.Write(t.Context(), row.kind, []byte(row.frame)); err != nil {
				t.Fatal(err)
			}
			code, reason, answered := closeOf(t, ws)
			if row.code == 0 {
				if !answered {
					t.Errorf("closed with %d %q", code, reason)
				}
				return
			}
			if answered || code != row.code || row.reason != "" && reason != row.reason {
				t.Errorf("closed with %d %q, answered %v; want %d %q", code, reason, answered, row.code, row.reason)
			}
			if strings.Contains(reason, row.frame) && row.frame != "" {
				t.Errorf("the reason %q repeats the frame", reason)
			}
		})
	}
}

// A browser's page may open a socket for the client whose page it is, and for no other.
func TestSocketOrigin(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: socketClients()})
	c, cli := openQR(t, s, "desk", nil), openQR(t, s, "cli", nil)
	desk := url.Values{"client_id": {"desk"}, "client_secret": {providertest.ClientSecret}, "device_code": {c.deviceCode()}}
	for _, row := range []struct {
		name    string
		form    url.Values
		origins []string
		allowed bool
	}{
		{"none: no browser", desk, nil, true},
		{"the client's", desk, []string{"https://desk.example"}, true},
		{"the client's with the default port", desk, []string{"https://desk.example:443"}, false},
		{"in capitals", desk, []string{"https://DESK.example"}, false},
		{"another scheme", desk, []string{"http://desk.example"}, false},
		{"another port", desk, []string{"https://desk.example:8443"}, false},
		{"a longer host", desk, []string{"https://desk.example.evil.example"}, false},
		{"another client's", desk, []string{"https://web.example"}, false},
		{"the issuer's", desk, []string{s.Issuer}, false},
		{"null", desk, []string{"null"}, false},
		{"empty", desk, []string{""}, false},
		{"two", desk, []string{"https://desk.example", "https://desk.example"}, false},
		{"of a client without any", cli.streamForm(), []string{"https://desk.example"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			header := http.Header{}
			if row.origins != nil {
				header["Origin"] = row.origins
			}
			ws := dialSocket(t.Context(), t, s, s.Client(), header)
			if err := ws.Write(t.Context(), websocket.MessageText, []byte(object(t, row.form))); err != nil {
				t.Fatal(err)
			}
			code, _, answered := closeOf(t, ws)
			if answered != row.allowed || !answered && code != websocket.StatusPolicyViolation {
				t.Errorf("answered %v, closed with %d", answered, code)
			}
		})
	}
}

// Credentials that come late come too late, and a client that says more than them is closed.
func TestSocketClientsThatSayTooLittleOrTooMuch(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", nil)
	late := dialSocket(t.Context(), t, s, s.Client(), nil)
	armed(t, s, 0)
	s.Clock.Advance(5*time.Second - time.Millisecond)
	if s.Clock.Timers() == 0 {
		t.Error("late before its time")
	}
	s.Clock.Advance(time.Millisecond)
	if code, _, answered := closeOf(t, late); answered || code != 4408 {
		t.Errorf("a late client: closed with %d", code)
	}
	chatty := dialSocket(t.Context(), t, s, s.Client(), nil)
	for i, text := range []string{object(t, c.streamForm()), "hello"} {
		if err := chatty.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if code, _, answered := closeOf(t, chatty); answered != (i == 0) || i == 1 && code != websocket.StatusPolicyViolation {
			t.Errorf("frame %d: answered %v, closed with %d", i, answered, code)
		}
	}
}

// What is no handshake is refused in our own words.
func TestHandshakeRefusals(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	full := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
	for name, row := range map[string]struct {
		change string
		value  string
		status int
	}{
		"a plain GET":      {"Upgrade", "", http.StatusUpgradeRequired},
		"another upgrade":  {"Upgrade", "h2c", http.StatusUpgradeRequired},
		"no connection":    {"Connection", "keep-alive", http.StatusUpgradeRequired},
		"another version":  {"Sec-WebSocket-Version", "8", http.StatusUpgradeRequired},
		"no key":           {"Sec-WebSocket-Key", "", http.StatusBadRequest},
		"a malformed key":  {"Sec-WebSocket-Key", "canary", http.StatusBadRequest},
		"a key too short":  {"Sec-WebSocket-Key", "AAAA", http.StatusBadRequest},
		"everything there": {"Connection", "keep-alive, upgrade", http.StatusSwitchingProtocols},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL("/qr/ws"), nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range full {
				req.Header.Set(name, value)
			}
			req.Header.Set(row.change, row.value)
			if row.value == "" {
				req.Header.Del(row.change)
			}
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != row.status {
				t.Fatalf("status %d", resp.StatusCode)
			}
			if row.status == http.StatusSwitchingProtocols {
				return
			}
			body := make([]byte, 1024)
			n, _ := resp.Body.Read(body)
			if text := string(body[:n]); !strings.Contains(text, `"error":"invalid_request"`) || strings.Contains(text, "canary") {
				t.Errorf("body %s", text)
			}
		})
	}
}

// stalled is a connection whose peer reads nothing: its write deadlines come at once, and those
// who set none hang.
type stalled struct {
	net.Conn
	closed chan<- struct{}
}

func (c stalled) Close() error {
	select {
	case c.closed <- struct{}{}:
	default:
	}
	return c.Conn.Close()
}

func (c stalled) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() {
		at = time.Now().Add(10 * time.Millisecond)
	}
	return c.Conn.SetWriteDeadline(at)
}

// A peer that reads nothing ends its stream and gives its place back.
func TestPeersThatReadNothing(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"SSE", "WebSocket"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c := openQR(t, s, "cli", nil)
			listener := newPipeListener()
			server := &http.Server{Handler: s.Provider, ReadHeaderTimeout: patience}
			t.Cleanup(func() { _ = server.Close() })
			closed := make(chan struct{}, 1)
			go func() { _ = server.Serve(stallingListener{listener, closed}) }()
			client := &http.Client{Transport: &http.Transport{DialContext: listener.dial, MaxIdleConnsPerHost: -1}}
			if transport == "SSE" {
				peer, err := listener.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				body := c.streamForm().Encode()
				request := "POST /qr/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: " + jsonNumber(uint64(len(body))) + "\r\n\r\n" + body
				if _, err := peer.Write([]byte(request)); err != nil {
					t.Fatal(err)
				}
			} else {
				ws, _, err := websocket.Dial(t.Context(), "ws://x/qr/ws", &websocket.DialOptions{HTTPClient: client})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = ws.CloseNow() }()
				if err := ws.Write(t.Context(), websocket.MessageText, []byte(object(t, c.streamForm()))); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-closed:
			case <-time.After(patience):
				t.Fatal("the stream does not end")
			}
			other := openQR(t, s, "cli", nil)
			other.events(t, newLine(s)).wantNext(qr.MessageQR)
		})
	}
}

type stallingListener struct {
	*pipeListener
	closed chan<- struct{}
}

func (l stallingListener) Accept() (net.Conn, error) {
	conn, err := l.pipeListener.Accept()
	if err != nil {
		return nil, err
	}
	return stalled{conn, l.closed}, nil
}
