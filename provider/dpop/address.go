package dpop

import (
	"net/url"
	"strings"
)

// sameURL compares two addresses without query and fragment (RFC 9449 §4.3 item 9), normalised
// as RFC 3986 §6.2.2 and §6.2.3 have it: the case of scheme and host, what is percent-encoded, and
// the default port. Paths are not resolved: no request that reaches us has dot segments.
func sameURL(sent, wanted string) bool {
	a, okA := normalised(sent)
	b, okB := normalised(wanted)
	return okA && okB && a == b
}

func normalised(raw string) (string, bool) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return "", false
	}
	var port string
	// A WebSocket is opened by an HTTP request, and is the same resource (RFC 6455 §3).
	scheme := strings.ToLower(u.Scheme)
	switch scheme {
	case "https", "wss":
		scheme, port = "https", "443"
	case "http", "ws":
		scheme, port = "http", "80"
	default:
		return "", false
	}
	if u.Port() != "" {
		port = u.Port()
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port + sameEscapes(path), true
}

// sameEscapes spells percent-encoding in one way: none for unreserved characters, upper case for
// the rest (RFC 3986 §6.2.2.1, §6.2.2.2).
func sameEscapes(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		escape := path[i : i+3]
		i += 2
		if char, err := url.PathUnescape(escape); err == nil && strings.Trim(char, base64URLDigits+".~") == "" {
			b.WriteString(char)
			continue
		}
		b.WriteString(strings.ToUpper(escape))
	}
	return b.String()
}
