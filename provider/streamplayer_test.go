package provider_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// patience bounds what a test waits for in real time.
const patience = 20 * time.Second

// feed is the PC's end of a stream, whatever its transport.
type feed struct {
	t        *testing.T
	messages chan qr.Message
	// beats counts the comments of an event stream.
	beats chan struct{}
	// hangUp ends the connection from the PC's side.
	hangUp context.CancelFunc

	mu sync.Mutex
	// raw is every byte that came; err why no more came.
	raw strings.Builder
	err error
}

func newFeed(t *testing.T, hangUp context.CancelFunc) *feed {
	t.Helper()
	t.Cleanup(hangUp)
	return &feed{t: t, messages: make(chan qr.Message, 64), beats: make(chan struct{}, 64), hangUp: hangUp}
}

// next is the next message; it fails the test when there is none.
func (f *feed) next() qr.Message {
	f.t.Helper()
	m, ok := f.read()
	if !ok {
		f.t.Fatalf("the stream ended: %v", f.reason())
	}
	return m
}

// read is the next message; false at the end of the stream.
func (f *feed) read() (qr.Message, bool) {
	f.t.Helper()
	select {
	case m, ok := <-f.messages:
		return m, ok
	case <-time.After(patience):
		f.t.Fatal("nothing came")
	}
	return qr.Message{}, false
}

// wantNext checks the type of the next message and returns it.
func (f *feed) wantNext(kind string) qr.Message {
	f.t.Helper()
	m := f.next()
	if m.Type != kind {
		f.t.Fatalf("message %+v, want %s", m, kind)
	}
	return m
}

// wantEnd checks that nothing more comes.
func (f *feed) wantEnd() {
	f.t.Helper()
	if m, ok := f.read(); ok {
		f.t.Fatalf("message %+v, want the end", m)
	}
}

func (f *feed) bytes() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.raw.String()
}

func (f *feed) reason() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *feed) note(text string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw.WriteString(text)
	f.err = err
}

func (f *feed) take(text, data string) {
	f.note(text, nil)
	decoder := json.NewDecoder(strings.NewReader(data))
	decoder.DisallowUnknownFields()
	var m qr.Message
	if err := decoder.Decode(&m); err != nil {
		f.t.Errorf("message %q: %v", data, err)
	}
	f.messages <- m
}

// readEvents pumps an event stream until it ends. It checks the fields around each message.
func (f *feed) readEvents(body io.ReadCloser) {
	defer close(f.messages)
	defer func() { _ = body.Close() }()
	lines, fields, text := bufio.NewReader(body), url.Values{}, ""
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			f.note(text+line, err)
			return
		}
		text += line
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		switch {
		case line == "\n" && fields.Has("data"):
			f.take(text, fields.Get("data"))
			var m qr.Message
			_ = json.Unmarshal([]byte(fields.Get("data")), &m)
			if fields.Get("event") != m.Type || fields.Get("id") != jsonNumber(m.Seq) {
				f.t.Errorf("event %v holds %+v", fields, m)
			}
			fields, text = url.Values{}, ""
		case line == ":\n":
			f.beats <- struct{}{}
		case line != "\n":
			fields.Set(name, strings.TrimPrefix(value, " "))
		}
	}
}

func jsonNumber(n uint64) string {
	text, _ := json.Marshal(n)
	return string(text)
}

// readSocket pumps a WebSocket until it ends.
func (f *feed) readSocket(ctx context.Context, ws *websocket.Conn) {
	defer close(f.messages)
	for {
		kind, data, err := ws.Read(ctx)
		if err != nil {
			f.note("", err)
			_ = ws.CloseNow()
			return
		}
		if kind != websocket.MessageText {
			f.t.Errorf("a message of kind %s", kind)
		}
		f.take(string(data), string(data))
	}
}

// line is a network between PC and server that can be cut.
type line struct {
	client *http.Client

	mu    sync.Mutex
	conns []net.Conn
}

// newLine connects a PC of its own to the server.
func newLine(s *providertest.Server) *line {
	l := &line{}
	transport := s.HTTP.Client().Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			l.mu.Lock()
			l.conns = append(l.conns, conn)
			l.mu.Unlock()
		}
		return conn, err
	}
	l.client = &http.Client{Transport: transport}
	return l
}

// cut closes every connection without a word of HTTP, TLS or WebSocket.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
	l.conns = nil
}

// frame is the QR code that the screen shows now.
func (c *consumption) frame(t *testing.T) string {
	t.Helper()
	f := c.events(t, newLine(c.s))
	defer f.hangUp()
	return f.wantNext("qr").Frame.Payload
}

// streamForm is what a stream of this session is asked for with.
func (c *consumption) streamForm() url.Values {
	return url.Values{"client_id": {c.client.ID}, "device_code": {c.deviceCode()}}
}

// askEvents asks for the session's event stream; the answer may be a refusal.
func askEvents(ctx context.Context, t *testing.T, client *http.Client, address string, form url.Values, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// events opens the session's event stream.
func (c *consumption) events(t *testing.T, l *line) *feed {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	resp := askEvents(ctx, t, l.client, c.s.URL("/qr/events"), c.streamForm(), nil)
	return startEvents(t, resp, hangUp)
}

func startEvents(t *testing.T, resp *http.Response, hangUp context.CancelFunc) *feed {
	t.Helper()
	f := newFeed(t, hangUp)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("stream: %d %s", resp.StatusCode, body)
	}
	go f.readEvents(resp.Body)
	return f
}

// dialSocket does the handshake of a WebSocket.
func dialSocket(ctx context.Context, t *testing.T, s *providertest.Server, client *http.Client, header http.Header) *websocket.Conn {
	t.Helper()
	ws, resp, err := websocket.Dial(ctx, "wss"+strings.TrimPrefix(s.URL("/qr/ws"), "https"), &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
	if err != nil {
		t.Fatalf("handshake: %v %v", err, resp)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// object writes a form as the first frame of a WebSocket.
func object(t *testing.T, form url.Values) string {
	t.Helper()
	members := map[string]string{}
	for name := range form {
		members[name] = form.Get(name)
	}
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// socket opens the session's WebSocket.
func (c *consumption) socket(t *testing.T, l *line) *feed {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	ws := dialSocket(ctx, t, c.s, l.client, nil)
	if err := ws.Write(ctx, websocket.MessageText, []byte(object(t, c.streamForm()))); err != nil {
		t.Fatal(err)
	}
	f := newFeed(t, hangUp)
	go f.readSocket(ctx, ws)
	return f
}

// hostedEvents opens the event stream of the page's flow.
func (b *tab) hostedEvents(l *line, cookies map[string]string) *feed {
	b.t.Helper()
	ctx, hangUp := context.WithCancel(b.t.Context())
	resp := b.askHosted(ctx, l.client, cookies, http.Header{"Sec-Fetch-Site": {"same-origin"}})
	return startEvents(b.t, resp, hangUp)
}

func (b *tab) askHosted(ctx context.Context, client *http.Client, cookies map[string]string, header http.Header) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.s.URL("/login/qr/events?flow="+b.flow()), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	for name, value := range cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	resp, err := client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp
}

// armed waits until the server has set more timers than before: a stream or poll waits.
func armed(t *testing.T, s *providertest.Server, before int) {
	t.Helper()
	for end := time.Now().Add(patience); s.Clock.Timers() <= before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("nothing waits")
		}
	}
}
