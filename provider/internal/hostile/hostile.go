// Package hostile is the other side of package fetch, for tests: https servers on loopback that do
// to whoever reads a document of theirs what the server of a client could do.
package hostile

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Behaviour is what a server does that is asked for a document.
type Behaviour struct {
	// Sentence says so, as the name of a test.
	Sentence string
	// Refused: another try would not help; otherwise the failure may pass.
	Refused bool
	// Slow ends only when whoever reads loses patience.
	Slow bool

	http.Handler
}

// Start serves over TLS on loopback until the test ends, and returns the address.
func Start(tb testing.TB, h http.Handler) string {
	tb.Helper()
	s := httptest.NewUnstartedServer(h)
	// A reader that hangs up is what these servers are for.
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	tb.Cleanup(s.Close)
	return s.URL
}

// Networks are where Start serves.
func Networks() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Roots verify the certificates of all servers that Start has started and will start.
func Roots(tb testing.TB) *x509.CertPool {
	tb.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return roots
}

// Document serves a document as it should be.
func Document(media string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		_, _ = w.Write(body)
	})
}

// Behaviours are what a server can do in place of answering with a document of a media type. Where
// it answers at all, it does so with that document as far as it goes: nothing else is wrong.
func Behaviours(media string, body []byte) []Behaviour {
	all := append(statuses(media, body), sizes(media, body)...)
	all = append(all, raw(media, body)...)
	return append(all,
		Behaviour{Sentence: "it never answers", Slow: true, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })},
		Behaviour{Sentence: "it drips its answer", Slow: true, Handler: drip(media, body)},
		Behaviour{Sentence: "it sends another media type", Refused: true, Handler: Document("text/html", body)},
		Behaviour{Sentence: "it sends a media type that cannot be read", Refused: true, Handler: Document("a/b/c;;", body)},
		Behaviour{Sentence: "it sends no media type", Refused: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = w.Write(body)
		})},
	)
}

// Bodies are documents that are none, as JSON goes.
func Bodies() map[string][]byte {
	return map[string][]byte{
		"nothing":                      {},
		"no JSON":                      []byte("<html>"),
		"half of a JSON object":        []byte(`{"keys":[{"kty":"EC"`),
		"null":                         []byte("null"),
		"a list":                       []byte("[]"),
		"a text":                       []byte(`"keys"`),
		"two objects":                  []byte("{}{}"),
		"what nests without an end":    []byte(strings.Repeat("[", 60_000)),
		"an object that nests deeply":  []byte(strings.Repeat(`{"keys":`, 7_000) + "[]" + strings.Repeat("}", 7_000)),
		"an object that is not UTF-8":  []byte("{\"keys\":[\"\xff\xfe\"]}"),
		"an object with a huge number": []byte(`{"keys":1e999999}`),
	}
}

func statuses(media string, body []byte) []Behaviour {
	status := func(code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(code)
			if code != http.StatusNoContent {
				_, _ = w.Write(body)
			}
		})
	}
	redirect := func(to string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/found" {
				Document(media, body).ServeHTTP(w, r)
				return
			}
			http.Redirect(w, r, to, http.StatusFound)
		})
	}
	return []Behaviour{
		{Sentence: "it fails", Handler: status(http.StatusInternalServerError)},
		{Sentence: "it is away", Handler: status(http.StatusServiceUnavailable)},
		{Sentence: "it asks for patience", Handler: status(http.StatusTooManyRequests)},
		{Sentence: "it finds nothing", Refused: true, Handler: status(http.StatusNotFound)},
		{Sentence: "it wants somebody to sign in", Refused: true, Handler: status(http.StatusUnauthorized)},
		{Sentence: "it has no content", Refused: true, Handler: status(http.StatusNoContent)},
		{Sentence: "it created something", Refused: true, Handler: status(http.StatusCreated)},
		{Sentence: "it redirects within itself", Refused: true, Handler: redirect("/found")},
		{Sentence: "it redirects to the metadata of a cloud", Refused: true, Handler: redirect("http://169.254.169.254/latest/meta-data/")},
		{Sentence: "it redirects to a file", Refused: true, Handler: redirect("file:///etc/passwd")},
	}
}

func sizes(media string, body []byte) []Behaviour {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(body)
	_, _ = io.CopyN(z, spaces{}, 32<<20)
	_ = z.Close()
	packed := func(packed []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			Document(media, packed).ServeHTTP(w, r)
		})
	}
	var small bytes.Buffer
	z = gzip.NewWriter(&small)
	_, _ = z.Write(body)
	_ = z.Close()
	return []Behaviour{
		{Sentence: "it sends a gzip bomb", Refused: true, Handler: packed(bomb.Bytes())},
		{Sentence: "it packs what was not to be packed", Refused: true, Handler: packed(small.Bytes())},
		{Sentence: "it goes on without an end", Refused: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", media)
			_, _ = w.Write(body)
			_, _ = io.Copy(w, io.LimitReader(spaces{}, 1<<30))
			<-r.Context().Done()
		})},
		{Sentence: "it announces a gigabyte", Refused: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1073741824")
			Document(media, body).ServeHTTP(w, r)
		})},
	}
}

// spaces are white space, which a JSON document may end with.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// raw are answers below HTTP.
func raw(media string, body []byte) []Behaviour {
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + media + "\r\n"
	return []Behaviour{
		{Sentence: "its header does not end", Handler: hijacked(head, "X-More: "+strings.Repeat("a", 1000)+"\r\n")},
		{Sentence: "a line of its header does not end", Handler: hijacked(head+"X-More: ", strings.Repeat("a", 1000))},
		{Sentence: "its early hints do not end", Handler: hijacked("", "HTTP/1.1 103 Early Hints\r\nLink: <"+strings.Repeat("a", 200)+">\r\n\r\n")},
		{Sentence: "its trailer does not end", Handler: hijacked(head+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "X-More: "+strings.Repeat("a", 1000)+"\r\n")},
		{Sentence: "it speaks something else", Handler: hijacked("220 mail.example ESMTP\r\n", "")},
		{Sentence: "it hangs up at once", Handler: hijacked("", "")},
		{Sentence: "it hangs up in the middle", Handler: hijacked(head+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body)+10, body), "")},
		{Sentence: "it has two lengths", Handler: hijacked(head+"Content-Length: 3\r\nContent-Length: 4\r\n\r\n"+string(body), "")},
	}
}

// hijacked writes first, then again for as long as somebody reads; nothing when again is empty.
func hijacked(first, again string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, err = io.WriteString(conn, first)
		for err == nil && again != "" {
			_, err = io.WriteString(conn, again)
		}
	})
}

// drip sends a byte now and then: every single read is quick.
func drip(media string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", media)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i = min(i+1, len(body)) {
			one := []byte{' '}
			if i < len(body) {
				one[0] = body[i]
			}
			if _, err := w.Write(one); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
}
