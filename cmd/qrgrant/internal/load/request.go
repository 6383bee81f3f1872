package load

import (
	"bytes"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Target is where requests go: a server's address, and the path its routes begin with.
type Target struct {
	// Address is HOST:PORT.
	Address string
	// Path is the issuer's path, empty for most.
	Path string
}

// NewTarget reads an issuer URL. Only plain HTTP on this machine is accepted: TLS would be
// measured too.
func NewTarget(issuer string) (Target, error) {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return Target{}, fmt.Errorf("%q is not the URL of a server", issuer)
	case u.Scheme != "http":
		return Target{}, fmt.Errorf("%s: only plain http is measured, without the TLS proxy", issuer)
	}
	address := u.Host
	if u.Port() == "" {
		address += ":80"
	}
	return Target{Address: address, Path: strings.TrimSuffix(u.Path, "/")}, Loopback(address)
}

// head is everything of a request before the length of its body.
func (t Target) head(method, path, contentType string, headers ...string) []byte {
	head := method + " " + t.Path + path + " HTTP/1.1\r\nHost: " + t.Address + "\r\n"
	if contentType != "" {
		head += "Content-Type: " + contentType + "\r\n"
	}
	for _, header := range headers {
		head += header + "\r\n"
	}
	return []byte(head)
}

const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
)

// compose puts a request into dst, which is used again for the next one.
func compose(dst, head []byte, body ...string) []byte {
	length := 0
	for _, part := range body {
		length += len(part)
	}
	dst = append(dst[:0], head...)
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(length), 10)
	dst = append(dst, "\r\n\r\n"...)
	for _, part := range body {
		dst = append(dst, part...)
	}
	return dst
}

// Get returns a prepared GET.
func (t Target) Get(path string) []byte { return append(t.head("GET", path, ""), "\r\n"...) }

// member finds a string member of a JSON object that this server wrote: without spaces, and
// with nothing in the value that JSON escapes.
func member(object []byte, name string) (string, bool) {
	_, rest, found := bytes.Cut(object, []byte(`"`+name+`":"`))
	if !found {
		return "", false
	}
	value, _, found := bytes.Cut(rest, []byte(`"`))
	return string(value), found
}
