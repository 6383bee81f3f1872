package qr

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/storage"
)

// Events answers POST /qr/events (protocol §4): the messages of a session as Server-Sent Events,
// to be read with fetch, because the device_code must not stand in a URL. It checks what
// the token endpoint checks, in the same order, but for the verifier, which only a redemption
// needs. Rotating frames belong to the QR grant: a client of the device grant is refused with
// unauthorized_client, and polls. A session that is bound to a key needs a proof of it, which is
// checked here and once: it says who opens the stream, and nothing of how long that lasts.
//
// A stream and polls do not disturb each other: a PC with a stream redeems at the token
// endpoint, and may hold a long poll beside it. A second stream of the session replaces the first.
// A stream never outlives its session, so that a peer that vanished costs it minutes at most.
func (s *Server) Events(w http.ResponseWriter, r *http.Request) {
	q, fault := s.askedStream(w, r)
	if fault == nil {
		fault = s.serveEvents(w, r, q, nil)
	}
	if fault != nil {
		s.refuse(r.Context(), w, fault)
	}
}

func (s *Server) askedStream(w http.ResponseWriter, r *http.Request) (*storage.QRSession, *TokenError) {
	values, client, fault := s.formRequest(w, r)
	if fault != nil {
		return nil, fault
	}
	return s.streamOf(r, client, values, r.Header.Values(dpop.Header))
}

// streamOf finds the session that an authenticated client may stream, with a proof of its key.
func (s *Server) streamOf(r *http.Request, client fosite.Client, values url.Values, proofs []string) (*storage.QRSession, *TokenError) {
	if grant, ok := grantOf(client); !ok || grant != storage.QRGrantCode {
		return nil, tokenError(http.StatusBadRequest, "unauthorized_client", "The client may not use this grant.")
	}
	if values.Get("device_code") == "" {
		return nil, invalidRequest("The device_code is missing.")
	}
	q, fault := s.sessionOf(r.Context(), client, values.Get("device_code"))
	switch {
	case fault != nil:
		return nil, fault
	case q.Grant != storage.QRGrantCode:
		return nil, invalidGrant()
	}
	return q, s.holdsKey(r, q, values, proofs)
}

// HostedEvents is Events for the browser of a flow (protocol §5). name gives the name that
// goes with approved, which this browser may know and nobody else. An error means that nothing was
// written: it wraps storage.ErrNotFound when there is no such session for this browser, or is a
// *TokenError.
func (s *Server) HostedEvents(w http.ResponseWriter, r *http.Request, f Flow, name func(ctx context.Context, subject string) (string, error)) error {
	q, _, err := s.flow(r.Context(), f)
	if err != nil {
		return err
	}
	if fault := s.serveEvents(w, r, q, name); fault != nil {
		return fault
	}
	return nil
}

// serveEvents streams until the session ends, or returns why it did not begin.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request, q *storage.QRSession, name namer) *TokenError {
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	if !implements[http.Flusher](w) && !implements[interface{ FlushError() error }](w) || !implements[deadliner](w) {
		return cannotStream()
	}
	own, fault := s.enter(q)
	if fault != nil {
		return fault
	}
	defer s.streams.leave(own)
	// The body is read; a time limit for reading the request would end the stream.
	_ = out.control.SetReadDeadline(time.Time{}) // where there is none, there is no limit
	// Not before now: a refusal keeps the server's time limit.
	if out.control.SetWriteDeadline(time.Time{}) != nil {
		return cannotStream()
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
	out.retry = int64(s.comeBack() / time.Millisecond)
	s.follow(r.Context(), own, out, name)
	return nil
}

// deadliner is what http.ResponseController looks for to set the deadline of writes.
type deadliner interface {
	SetWriteDeadline(deadline time.Time) error
}

func cannotStream() *TokenError {
	e := tokenError(http.StatusNotImplemented, "server_error", "This server cannot stream here. Poll instead.")
	e.cause = errors.New("qr: the http.ResponseWriter has no Flush or no SetWriteDeadline")
	return e
}

// implements reports whether w or what it wraps is a T, as http.ResponseController looks for it.
func implements[T any](w http.ResponseWriter) bool {
	for {
		if _, ok := w.(T); ok {
			return true
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = wrapper.Unwrap()
	}
}

// eventWriter writes Server-Sent Events (WHATWG HTML §9.2). There is no padding in front: a proxy that
// buffers would let go of the padded first event and keep the others, and its client would
// believe in the stream. Without it the client sees no first event, and polls.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	// retry is how long an EventSource waits before it reconnects by itself, in milliseconds; it goes
	// with the first event.
	retry int64
}

func (o *eventWriter) send(_ context.Context, m *Message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	text := make([]byte, 0, len(data)+64)
	if o.retry > 0 {
		text = append(strconv.AppendInt(append(text, "retry: "...), o.retry, 10), '\n')
		o.retry = 0
	}
	text = append(append(text, "event: "...), m.Type...)
	text = strconv.AppendUint(append(text, "\nid: "...), m.Seq, 10)
	text = append(append(append(text, "\ndata: "...), data...), "\n\n"...)
	return o.write(text)
}

func (o *eventWriter) beat(context.Context) error { return o.write([]byte(":\n\n")) }

// write gives each write a deadline of its own. Between two of them there is none: over
// HTTP/2 it would end the stream, and a server's WriteTimeout would do so over both.
func (o *eventWriter) write(text []byte) error {
	if err := o.control.SetWriteDeadline(kernelTime().Add(writeWait)); err != nil {
		return err
	}
	if _, err := o.w.Write(text); err != nil { //nolint:gosec // G705: an event stream of JSON is no page
		return err
	}
	if err := o.control.Flush(); err != nil {
		return err
	}
	return o.control.SetWriteDeadline(time.Time{})
}

// kernelTime is the time by which deadlines of connections count, whatever clock is configured.
func kernelTime() time.Time { return time.Now() } //nolint:forbidigo // see above
