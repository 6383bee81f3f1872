package playground

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"net"
	"net/http"
	"time"
)

// Hijack implements http.Hijacker, so that the messages of a WebSocket are seen too.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	watched := &socket{Conn: conn, told: a.told}
	buffered.Writer.Reset(watched)
	return watched, buffered, nil
}

// told records a message of the server on a WebSocket.
func (a *answer) told(message []byte) {
	var head struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(message, &head) != nil {
		return
	}
	of := &a.seen.entry
	a.recorder.put(&Entry{
		Of: of.ID, At: time.Now(), Actor: of.Actor, Path: of.Path, Event: publicWord(head.Type),
		Answer: bodyLines("application/json", message, len(message)), Steps: stepsOfMessage(head.Type),
	})
}

// socket reads the frames that a server writes (RFC 6455 §5.2), which are never masked.
type socket struct {
	net.Conn
	told    func(message []byte)
	pending []byte
	message []byte
	lost    bool
}

// The bits of a frame's first octet.
const (
	frameFinal      = 0x80
	frameCompressed = 0x40
	frameOpcode     = 0x0f
	frameText       = 1
	frameMore       = 0
)

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	if s.lost = s.lost || len(s.pending)+len(s.message)+len(p) > maxBody; !s.lost {
		s.pending = append(s.pending, p...)
		for s.frame() {
		}
	}
	return s.Conn.Write(p)
}

// frame takes one whole frame; false when there is none yet.
func (s *socket) frame() bool {
	if len(s.pending) < 2 {
		return false
	}
	head, size, from := s.pending[0], uint64(s.pending[1]&0x7f), 2
	switch {
	case size == 126 && len(s.pending) >= 4:
		size, from = uint64(binary.BigEndian.Uint16(s.pending[2:])), 4
	case size == 127 && len(s.pending) >= 10:
		size, from = binary.BigEndian.Uint64(s.pending[2:]), 10
	case size >= 126:
		return false
	}
	if size > maxBody || uint64(len(s.pending)-from) < size { //nolint:gosec // G115: from is at most the length.
		return false
	}
	to := from + int(size)
	if opcode := head & frameOpcode; head&frameCompressed == 0 && (opcode == frameText || opcode == frameMore) {
		s.message = append(s.message, s.pending[from:to]...)
		if head&frameFinal != 0 {
			s.told(s.message)
			s.message = nil
		}
	}
	s.pending = append([]byte(nil), s.pending[to:]...)
	return true
}
