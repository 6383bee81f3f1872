package qr

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

const (
	// beatEvery is the longest silence on a stream.
	beatEvery = 15 * time.Second
	// writeWait bounds one write, so that a peer that reads nothing ends its stream.
	writeWait = 10 * time.Second
	// A drained client comes back after one to reconnectSpread seconds: all at once, they would be
	// a load of their own.
	reconnectSpread = 10
)

// The types of Message (protocol §4).
const (
	MessageQR        = "qr"
	MessageScanned   = "scanned"
	MessageApproved  = "approved"
	MessageDenied    = "denied"
	MessageExpired   = "expired"
	MessageCancelled = "cancelled"
	MessageReplaced  = "replaced"
	MessageReconnect = "reconnect"
)

// Message is what every stream sends, over SSE and WebSocket alike (protocol §4). It is a hint
// and never holds a token.
//
// The first message is the present state, so a client that was cut off misses nothing. After
// denied, expired and cancelled the stream ends. After approved it stays open until the session
// ends: silently with the redemption, or with denied, because until then a denial beats the
// approval. After replaced the stream ends too, and its client must not reconnect.
type Message struct {
	Type string `json:"type"`
	// Seq is the record's version.
	Seq uint64 `json:"qr_seq"`
	// Frame goes with qr.
	Frame *Frame `json:"qr,omitempty"`
	// CheckCode goes with scanned.
	CheckCode string `json:"check_code,omitempty"`
	// Name goes with approved at the hosted door: the person who approved.
	Name string `json:"name,omitempty"`
	// ExpiresIn is how long the state can last, in seconds, rounded up; absent at an end.
	ExpiresIn int64 `json:"expires_in,omitempty"`
	// After goes with reconnect: when to come back, in seconds.
	After int64 `json:"after,omitempty"`
}

// outlet is the transport of one stream.
type outlet interface {
	send(ctx context.Context, m *Message) error
	// beat breaks the silence, so that proxies keep the connection and a dead one is noticed.
	beat(ctx context.Context) error
}

// namer gives the name to show for a person; nil shows none.
type namer func(ctx context.Context, subject string) (string, error)

// ending says why a stream ended.
type ending uint8

const (
	// endedOver: nothing more will come, or nothing more for this stream.
	endedOver ending = iota
	// endedDrained: the server stops; the client is to come back.
	endedDrained
	// endedGone: the peer is away or does not read.
	endedGone
	// endedFailed: the store failed.
	endedFailed
)

// streams is the streams that wait, one for each session at most, whatever its transport.
type streams struct {
	places *places

	mu   sync.Mutex
	open map[storage.QRID]*stream
}

// stream is a registered stream; replaced is closed when another one takes its place.
type stream struct {
	id       storage.QRID
	clientID string
	replaced chan struct{}
}

func newStreams(places *places) *streams {
	return &streams{places: places, open: make(map[storage.QRID]*stream)}
}

// enter registers a stream and replaces the one before, whose place it takes. It returns nil
// when a limit is reached.
func (t *streams) enter(q *storage.QRSession) *stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.open[q.ID]; old != nil {
		close(old.replaced)
	} else if !t.places.take(q.ClientID) {
		return nil
	}
	own := &stream{id: q.ID, clientID: q.ClientID, replaced: make(chan struct{})}
	t.open[q.ID] = own
	return own
}

// leave ends a registration; that of a replaced stream has ended already.
func (t *streams) leave(own *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[own.id] == own {
		delete(t.open, own.id)
		t.places.leave(own.clientID)
	}
}

// enter makes the session's stream the one of this caller, who must leave it. What cannot be
// streamed is refused as the token endpoint does: a redeemed session is an invalid_grant.
func (s *Server) enter(q *storage.QRSession) (*stream, *TokenError) {
	if q.State == storage.QRRedeemed {
		return nil, invalidGrant()
	}
	select {
	case <-s.paces.drain:
		e := tokenError(http.StatusServiceUnavailable, "temporarily_unavailable", "The server is stopping. Come back later.")
		e.RetryAfter = s.comeBack()
		return nil, e
	default:
	}
	if own := s.streams.enter(q); own != nil {
		return own, nil
	}
	return nil, limited(s.comeBack())
}

// comeBack is a time of whole seconds, different for each caller.
func (s *Server) comeBack() time.Duration {
	var b [1]byte
	// Without randomness all come back together, which is no reason to fail.
	_, _ = io.ReadFull(s.config.Rand, b[:])
	return time.Duration(1+int(b[0])%reconnectSpread) * time.Second
}

// told is what a stream has sent last.
type told struct {
	state storage.QRState
	// count is the frame's number while pending.
	count int
	at    time.Time
}

// follow sends the session's states to out until it ends. Wake-ups are hints: the record is read
// again and decides. It reads and never writes.
func (s *Server) follow(ctx context.Context, own *stream, out outlet, name namer) ending {
	hint, stop := s.config.Store.WatchQRSession(own.id)
	defer stop()
	var last told
	for {
		q, err := s.config.Store.QRSession(ctx, own.id)
		if errors.Is(err, storage.ErrNotFound) {
			return endedOver
		}
		if err == nil {
			s.claims.add(q, s.config.Now())
			err = s.tell(ctx, q, &last, out, name)
		}
		var lost *lostError
		switch now := s.config.Now(); {
		case errors.As(err, &lost), ctx.Err() != nil:
			return endedGone
		case err != nil:
			s.config.Logger.ErrorContext(ctx, "qr stream failed", "error", err)
			return endedFailed
		case !q.Live(now) && q.StateAt(now) == last.state:
			s.ended(q)
			return endedOver
		}
		select {
		case <-hint:
		case <-s.config.After(s.holdUntil(q, last.at.Add(beatEvery).Sub(s.config.Now()))):
		case <-own.replaced:
			return s.dismiss(ctx, out, &Message{Type: MessageReplaced, Seq: q.Version}, endedOver)
		case <-s.paces.drain:
			return s.dismiss(ctx, out, &Message{Type: MessageReconnect, Seq: q.Version, After: int64(s.comeBack() / time.Second)}, endedDrained)
		case <-ctx.Done():
			return endedGone
		}
	}
}

// lostError is a write that failed: the peer's business, not ours.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "qr: stream: " + e.cause.Error() }

func (e *lostError) Unwrap() error { return e.cause }

// dismiss sends the last message of a stream whose session goes on.
func (s *Server) dismiss(ctx context.Context, out outlet, m *Message, how ending) ending {
	if out.send(ctx, m) != nil {
		return endedGone
	}
	return how
}

// tell sends what out does not know yet: the state, the frame that is current now, or a beat.
func (s *Server) tell(ctx context.Context, q *storage.QRSession, last *told, out outlet, name namer) error {
	now := s.config.Now()
	news := told{state: q.StateAt(now), at: now}
	if news.state == storage.QRPending {
		news.count = frameCount(q.OpenedAt, now)
	}
	var err error
	switch {
	case news.state != last.state || news.count != last.count:
		var m *Message
		if m, err = s.message(ctx, q, now, name); err != nil {
			return err
		}
		if m != nil {
			err = out.send(ctx, m)
		}
	case now.Sub(last.at) >= beatEvery:
		err = out.beat(ctx)
	default:
		return nil
	}
	if err != nil {
		return &lostError{err}
	}
	*last = news
	return nil
}

// message says the state of the session at now; nil when it has been redeemed, of which
// whoever redeemed it knows.
func (s *Server) message(ctx context.Context, q *storage.QRSession, now time.Time, name namer) (*Message, error) {
	m := &Message{Seq: q.Version}
	var err error
	switch q.StateAt(now) {
	case storage.QRPending:
		m.Type = MessageQR
		m.Frame, err = s.frame(q, now)
	case storage.QRScanned:
		m.Type = MessageScanned
		if q.CheckCode {
			var k *serverKey
			if k, err = s.key(q); err == nil {
				m.CheckCode = k.checkCode(q)
			}
		}
	case storage.QRApproved:
		m.Type = MessageApproved
		if name != nil {
			m.Name, err = name(ctx, q.Claim.Subject)
		}
	case storage.QRRedeemed:
		return nil, nil //nolint:nilnil // There is nothing to say, and that is no error.
	case storage.QRDenied, storage.QRAborted:
		m.Type = MessageDenied
	case storage.QRCancelled:
		m.Type = MessageCancelled
	case storage.QRExpired:
		m.Type = MessageExpired
	}
	if q.Live(now) {
		m.ExpiresIn = int64((deadline(q).Sub(now) + time.Second - 1) / time.Second)
	}
	return m, err
}
