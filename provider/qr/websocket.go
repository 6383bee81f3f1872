package qr

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/form"
)

const (
	// firstFrameWait is how long a client may take to send its credentials.
	firstFrameWait = 5 * time.Second
	// firstFrameLimit bounds them in bytes.
	firstFrameLimit = 4 << 10
	// socketBuffer is the size of a socket's two buffers. net/http's are 4 KiB each, which
	// would be half of what a waiting socket takes.
	socketBuffer = 256
	// closeRefused and an HTTP status make a close code of the range for private use.
	closeRefused websocket.StatusCode = 4000
	// closeWait bounds the closing handshake.
	closeWait = 2 * time.Second
)

// WebSocket answers GET /qr/ws (protocol §4): the messages of a session over a WebSocket. The
// client sends the members of the form of POST /qr/events as one JSON object in its first
// frame: text, within 5 s, 4 KiB at most, every member a string and none twice. A client with
// a secret may send it in an Authorization header of the handshake instead. A browser's Origin must be
// one of the client's.
//
// A session that is bound to a DPoP key needs a proof of it, in the member dpop of the first frame
// or, where a client can set one, in the header DPoP of the handshake: htm is GET, and htu this
// endpoint with the scheme wss or https (ws or http without TLS). The nonce is that of any
// answer of this server; the answer to the handshake has it too.
//
// After the first frame the client sends nothing more. Only HTTP/1.1 is
// served: the handshake of HTTP/2 (RFC 8441) is not.
//
// The close codes:
//
//	1000  nothing more will come, as the last message said; do not reconnect
//	1003  the first frame was not text
//	1008  the Origin is not one of the client's, or the client sent a second frame
//	1009  the first frame was too large
//	1011  the server failed; poll
//	1012  the server stops; reconnect as the message said
//	1013  a limit is reached; poll, or come back later
//	4400  refused: 4000 and the status that POST /qr/events answers the same request with; the
//	4401  reason is the OAuth error code
//	4408  the first frame was late
func (s *Server) WebSocket(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		methodNotAllowed(w, http.MethodGet)
		return
	}
	if fault := handshakeFault(w, r); fault != nil {
		s.refuse(r.Context(), w, fault)
		return
	}
	if !s.sockets.enter() {
		e := tokenError(http.StatusServiceUnavailable, "temporarily_unavailable", "The server is stopping. Come back later.")
		e.RetryAfter = s.comeBack()
		e.write(w)
		return
	}
	if s.config.Proofs != nil {
		// Whether the session is bound is known when it is too late for a header.
		w.Header().Set(dpop.HeaderNonce, s.config.Proofs.Nonce())
	}
	conn, err := acceptSocket(w, r)
	if err != nil {
		s.sockets.leave()
		s.config.Logger.DebugContext(r.Context(), "websocket handshake failed", "error", err)
		return
	}
	own, code, reason := s.admit(r, conn)
	if own == nil {
		conn.finish(code, reason)
		s.sockets.leave()
		return
	}
	// The rest runs without the handler, whose request, buffers and stack net/http then frees.
	go s.serveSocket(context.WithoutCancel(r.Context()), conn, own)
}

func (s *Server) serveSocket(ctx context.Context, conn *socket, own *stream) {
	defer s.sockets.leave()
	// Reading answers pings and notices a close; a second frame of data closes with 1008.
	how := s.follow(conn.ws.CloseRead(ctx), own, conn, nil)
	// First the place: a client that sees the close may come back at once.
	s.streams.leave(own)
	switch how {
	case endedOver:
		conn.finish(websocket.StatusNormalClosure, "")
	case endedDrained:
		conn.finish(websocket.StatusServiceRestart, "")
	case endedFailed:
		conn.finish(websocket.StatusInternalError, "server_error")
	case endedGone:
		conn.drop()
	}
}

// admit reads the first frame and registers the stream it asks for. Without one it returns what
// to close with.
func (s *Server) admit(r *http.Request, conn *socket) (*stream, websocket.StatusCode, string) {
	values, code, reason := s.firstFrame(r.Context(), conn)
	if values == nil {
		return nil, code, reason
	}
	own, fault := s.askedSocket(r, values)
	switch {
	case fault == nil:
		return own, 0, ""
	case fault.Status == http.StatusForbidden:
		return nil, websocket.StatusPolicyViolation, "origin"
	case fault.Status == http.StatusTooManyRequests || fault.Status == http.StatusServiceUnavailable:
		return nil, websocket.StatusTryAgainLater, fault.Code
	case fault.Status >= http.StatusInternalServerError:
		s.config.Logger.ErrorContext(r.Context(), "qr endpoint failed", "error", fault.cause)
		return nil, websocket.StatusInternalError, fault.Code
	}
	return nil, closeRefused + websocket.StatusCode(fault.Status), fault.Code
}

// firstFrame reads the credentials, or returns what to close with.
func (s *Server) firstFrame(ctx context.Context, conn *socket) (url.Values, websocket.StatusCode, string) {
	read, gone := make(chan struct{}), make(chan struct{})
	late := make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-s.config.After(firstFrameWait):
			close(late)
		case <-s.paces.drain:
		case <-read:
			return
		}
		// A deadline and not a context: a context would end the connection without a word.
		_ = conn.net.SetReadDeadline(kernelTime()) // it fails when there is nothing to end
	}()
	kind, frame, err := conn.ws.Read(context.WithoutCancel(ctx))
	// The watcher may be about to set its deadline, which must not end the stream that follows.
	close(read)
	<-gone
	_ = conn.net.SetReadDeadline(time.Time{}) // it fails when there is nothing to keep
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		select {
		case <-late:
			return nil, closeRefused + http.StatusRequestTimeout, "invalid_request"
		default:
			return nil, websocket.StatusServiceRestart, ""
		}
	case err != nil:
		return nil, websocket.StatusPolicyViolation, "" // whatever it was, the library has closed for it
	case kind != websocket.MessageText:
		return nil, websocket.StatusUnsupportedData, "invalid_request"
	}
	values, err := form.Members(frame)
	if err != nil {
		return nil, closeRefused + http.StatusBadRequest, "invalid_request"
	}
	return values, 0, ""
}

// askedSocket makes the checks of POST /qr/events in their order, and the Origin's once it is
// known whose it should be: status 403 is that of a foreign one.
func (s *Server) askedSocket(r *http.Request, values url.Values) (*stream, *TokenError) {
	if fault := s.unsupported(r, values); fault != nil {
		return nil, fault
	}
	client, err := s.config.Authenticate(r.Context(), r, values)
	if err != nil {
		return nil, asTokenError(err)
	}
	if origin := r.Header.Values("Origin"); len(origin) > 1 || len(origin) == 1 && !slices.Contains(s.config.Origins(client), origin[0]) {
		return nil, tokenError(http.StatusForbidden, "invalid_request", "The origin is none of the client's.")
	}
	proofs := slices.Clone(r.Header.Values(dpop.Header))
	if member := values.Get("dpop"); member != "" {
		proofs = append(proofs, member)
	}
	q, fault := s.streamOf(r, client, values, proofs)
	if fault != nil {
		return nil, fault
	}
	return s.enter(q)
}

// handshakeFault refuses what is no handshake. The library would answer with its own words and with
// parts of the request in them.
func handshakeFault(w http.ResponseWriter, r *http.Request) *TokenError {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Header.Get("Sec-WebSocket-Key")))
	switch {
	case r.ProtoMajor != 1 || r.ProtoMinor < 1 || !hasToken(r.Header, "Connection", "Upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		return tokenError(http.StatusUpgradeRequired, "invalid_request", "This endpoint answers WebSocket handshakes over HTTP/1.1 only.")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		return tokenError(http.StatusUpgradeRequired, "invalid_request", "The WebSocket version must be 13.")
	case err != nil || len(key) != 16 || len(r.Header.Values("Sec-WebSocket-Key")) != 1:
		return invalidRequest("The Sec-WebSocket-Key is malformed.")
	case !implements[http.Hijacker](w):
		e := tokenError(http.StatusNotImplemented, "server_error", "This server cannot open WebSockets here. Poll instead.")
		e.cause = errors.New("qr: the http.ResponseWriter has no Hijack")
		return e
	}
	return nil
}

// hasToken reports whether a header that lists tokens holds this one.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// socket is a WebSocket and the connection below it.
type socket struct {
	ws  *websocket.Conn
	net net.Conn
}

func acceptSocket(w http.ResponseWriter, r *http.Request) (*socket, error) {
	taker := &taker{ResponseWriter: w}
	ws, err := websocket.Accept(taker, r, &websocket.AcceptOptions{
		// The Origin is judged when the client is known.
		InsecureSkipVerify: true,
		// Check codes beside what an attacker could choose would be measurable by their size, and a compressor costs memory.
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(firstFrameLimit)
	return &socket{ws: ws, net: taker.conn}, nil
}

// taker hands a connection over with small buffers.
type taker struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (t *taker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, taken, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	t.conn = conn
	early, _ := taken.Peek(taken.Reader.Buffered()) // what is buffered can be peeked at
	reader := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn), max(socketBuffer, len(early)))
	_, _ = reader.Peek(len(early)) // the library keeps what is buffered and nothing else
	return conn, bufio.NewReadWriter(reader, bufio.NewWriterSize(conn, socketBuffer)), nil
}

func (c *socket) send(ctx context.Context, m *Message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := c.net.SetWriteDeadline(kernelTime().Add(writeWait)); err != nil {
		return err
	}
	if err := c.ws.Write(ctx, websocket.MessageText, data); err != nil {
		return err
	}
	return c.net.SetWriteDeadline(time.Time{})
}

// beat pings. A peer that answers nothing for writeWait is gone.
func (c *socket) beat(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, writeWait)
	defer stop()
	return c.ws.Ping(ctx)
}

// finish closes with a code. It waits for the peer's answer, but not for long.
func (c *socket) finish(code websocket.StatusCode, reason string) {
	_ = c.net.SetDeadline(kernelTime().Add(closeWait)) // fails only when there is nothing to close
	_ = c.ws.Close(code, reason)
	c.drop()
}

func (c *socket) drop() { _ = c.ws.CloseNow() } // the peer is away

// sockets counts the connections that net/http no longer knows of, for the drain.
type sockets struct {
	mu     sync.Mutex
	closed bool
	open   sync.WaitGroup
}

// enter reports whether another connection may begin; it must then leave.
func (t *sockets) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.open.Add(1)
	}
	return !t.closed
}

func (t *sockets) leave() { t.open.Done() }

// close lets none begin any more and waits until all have ended.
func (t *sockets) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.open.Wait()
}

// redirectOrigins lists the web origins of the client's redirect URIs, spelt as browsers do.
func redirectOrigins(redirects []string) []string {
	var origins []string
	for _, redirect := range redirects {
		u, err := url.Parse(redirect)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			continue
		}
		port := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
		origins = append(origins, u.Scheme+"://"+strings.TrimSuffix(strings.ToLower(u.Host), port))
	}
	return origins
}

var _ outlet = (*socket)(nil)
