package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// The transports of a stream.
const (
	SSE       = "sse"
	WebSocket = "websocket"
)

// Audience is PCs that wait in streams, each on a connection of its own.
type Audience struct{ pcs *Crew }

// NewAudience connects a PC for each attempt and opens a stream on it. The attempts are
// scanned, which is what every stream says before this returns.
func NewAudience(ctx context.Context, t Target, f *Flow, transport string, attempts []*Attempt) (*Audience, error) {
	pcs, err := NewCrew(ctx, t.Address, len(attempts))
	if err != nil {
		return nil, fmt.Errorf("streams: %w", err)
	}
	w := &Audience{pcs: pcs}
	for i, pc := range pcs.conns {
		if err = pc.Deadline(time.Now().Add(grace)); err == nil && transport == SSE {
			err = f.openEvents(pc, attempts[i])
		} else if err == nil {
			err = f.openSocket(t, pc, attempts[i])
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s %d of %d: %w", transport, i+1, len(attempts), err), w.Close())
		}
	}
	return w, nil
}

// Close disconnects every PC.
func (w *Audience) Close() error { return w.pcs.Close() }

// scannedMessage stands in the first message of both transports.
const scannedMessage = `{"type":"scanned"`

func (f *Flow) openEvents(c *Conn, a *Attempt) error {
	c.out = compose(c.out, f.events, f.pollBody, a.deviceCode)
	return c.openStream(c.out, http.StatusOK, scannedMessage)
}

// openSocket does the handshake and sends the first frame (RFC 6455 §1.3, §5.2).
func (f *Flow) openSocket(t Target, c *Conn, a *Attempt) error {
	c.out = append(append(c.out[:0], t.head(http.MethodGet, "/qr/ws", "", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")...), "\r\n"...)
	if err := c.openStream(c.out, http.StatusSwitchingProtocols, "\r\n\r\n"); err != nil {
		return err
	}
	text := `{"client_id":"` + f.clientID + `","device_code":"` + a.deviceCode + `"}`
	// A final text frame, masked with a key of zeros: what is measured is no browser.
	frame := []byte{0x81, 0x80 | byte(min(len(text), 126))}
	if len(text) > 125 {
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(text))) //nolint:gosec // G115: two short strings
	}
	frame = append(append(frame, 0, 0, 0, 0), text...)
	return c.openStream(frame, 0, scannedMessage)
}

// openStream sends a request and reads as far as the mark. Nothing of a stream is kept.
func (c *Conn) openStream(request []byte, status int, mark string) error {
	if err := c.Send(request); err != nil {
		return err
	}
	c.in, c.used = c.in[:0], 0
	if status != 0 {
		end, err := c.until(0, "\r\n")
		if err != nil {
			return err
		}
		if want := fmt.Appendf(nil, "HTTP/1.1 %d ", status); !bytes.HasPrefix(c.in[:end], want) {
			return fmt.Errorf("the server answered %q", c.in[:end-2])
		}
	}
	_, err := c.until(0, mark)
	return err
}
