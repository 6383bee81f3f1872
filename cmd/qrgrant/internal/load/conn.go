package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// maxAnswer bounds an answer with its header; nothing that is measured comes near it.
	maxAnswer    = 1 << 20
	firstBuffer  = 4 << 10
	dialDeadline = 5 * time.Second
)

// ErrNotLoopback refuses to send load to another machine.
var ErrNotLoopback = errors.New("load is sent to loopback addresses only")

var errMalformed = errors.New("load: the answer is not HTTP/1.1 as net/http sends it")

// Conn is one kept-alive connection. It is for one goroutine.
type Conn struct {
	net net.Conn
	// in[used:] has been read and not been looked at.
	in   []byte
	used int
	out  []byte
}

// Answer is one response. Body is valid until the connection is used again.
type Answer struct {
	Status int
	// Held says that the server applied a preference, which is what a held poll says.
	Held bool
	Body []byte
}

// Dial connects to HOST:PORT, where HOST is localhost or a loopback address.
func Dial(ctx context.Context, address string) (*Conn, error) {
	if err := Loopback(address); err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: dialDeadline}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	// The name localhost is only a promise; the address is a fact.
	if err := Loopback(c.RemoteAddr().String()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Conn{net: c, in: make([]byte, 0, firstBuffer), out: make([]byte, 0, firstBuffer)}, nil
}

// Loopback returns ErrNotLoopback unless address is HOST:PORT on this machine.
func Loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s: %w", host, ErrNotLoopback)
}

// Close closes the connection.
func (c *Conn) Close() error { return c.net.Close() }

// Deadline bounds everything on the connection until it is called again.
func (c *Conn) Deadline(t time.Time) error { return c.net.SetDeadline(t) }

// Do sends a request and reads its answer.
func (c *Conn) Do(request []byte) (Answer, error) {
	if err := c.Send(request); err != nil {
		return Answer{}, err
	}
	return c.Receive()
}

// Send writes a request without waiting for its answer.
func (c *Conn) Send(request []byte) error {
	_, err := c.net.Write(request)
	return err
}

// Receive reads the next answer.
func (c *Conn) Receive() (Answer, error) {
	c.in = c.in[:copy(c.in, c.in[c.used:])]
	c.used = 0
	end, err := c.until(0, "\r\n\r\n")
	if err != nil {
		return Answer{}, err
	}
	answer, length, err := parseHeader(c.in[:end-2])
	switch {
	case err != nil:
		return Answer{}, err
	case length < 0:
		answer.Body, err = c.chunks(end)
		return answer, err
	}
	if err := c.fill(end + length); err != nil {
		return Answer{}, err
	}
	answer.Body = c.in[end : end+length]
	c.used = end + length
	return answer, nil
}

// chunks reads a chunked body that begins at in[at:].
func (c *Conn) chunks(at int) ([]byte, error) {
	var body []byte
	for {
		end, err := c.until(at, "\r\n")
		if err != nil {
			return nil, err
		}
		size, err := strconv.ParseUint(string(c.in[at:end-2]), 16, 20)
		if err != nil {
			return nil, errMalformed
		}
		at = end + int(size) + 2
		if err := c.fill(at); err != nil {
			return nil, err
		}
		body = append(body, c.in[end:end+int(size)]...)
		if size == 0 {
			c.used = at
			return body, nil
		}
	}
}

// until reads up to the first mark at or behind in[from:] and returns where it ends.
func (c *Conn) until(from int, mark string) (int, error) {
	for {
		if i := bytes.Index(c.in[from:], []byte(mark)); i >= 0 {
			return from + i + len(mark), nil
		}
		if err := c.fill(len(c.in) + 1); err != nil {
			return 0, err
		}
	}
}

// fill reads until in holds n bytes.
func (c *Conn) fill(n int) error {
	for len(c.in) < n {
		if n > maxAnswer {
			return errMalformed
		}
		if n > cap(c.in) || len(c.in) == cap(c.in) {
			c.in = append(make([]byte, 0, max(2*cap(c.in), n)), c.in...)
		}
		read, err := c.net.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+read]
		if err != nil && len(c.in) < n {
			return err
		}
	}
	return nil
}

// parseHeader reads the header up to its last line's end. length is -1 for a chunked body.
func parseHeader(header []byte) (answer Answer, length int, err error) {
	status, rest, _ := bytes.Cut(header, []byte("\r\n"))
	if len(status) < len("HTTP/1.1 200") || string(status[:9]) != "HTTP/1.1 " {
		return Answer{}, 0, errMalformed
	}
	if answer.Status, err = strconv.Atoi(string(status[9:12])); err != nil {
		return Answer{}, 0, errMalformed
	}
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch string(name) {
		case "Content-Length":
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > maxAnswer {
				return Answer{}, 0, errMalformed
			}
		case "Transfer-Encoding":
			length = -1
		case "Preference-Applied":
			answer.Held = true
		}
	}
	return answer, length, nil
}
