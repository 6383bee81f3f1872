// Package fetch reads small documents from addresses that clients name: their keys, their
// metadata, their request objects. Whoever names the address is not trusted: what is read is
// bounded in size and time, no redirect is followed, and no name leads into a private network
// that the operator did not open.
package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// defaultTimeout bounds one document from the first packet to the last.
	defaultTimeout = 5 * time.Second
	// headerLimit bounds the header of an answer.
	headerLimit = 16 << 10
	// atOnce bounds the documents that are being read at the same time: an address that answers
	// slowly must not gather connections here.
	atOnce = 32
	// atPeer bounds those of them that come from one peer, so that one who has many addresses
	// cannot take all places.
	atPeer = 8
)

// ErrRefused says that the address or what was found there is nothing to use, and trying again at
// once would not help. Any other failure may pass.
var ErrRefused = errors.New("fetch: refused")

// ErrBusy says that so many documents are being read that this one was not asked for.
var ErrBusy = errors.New("fetch: too many documents are being read")

// ErrGone stands beside ErrRefused and says that nothing is at the address any more.
var ErrGone = errors.New("fetch: gone")

// Config wires a Fetcher. Its zero value reaches public addresses only.
type Config struct {
	// Networks are the private networks, loopback included, that may be reached.
	Networks []netip.Prefix
	// Roots verify the certificates; nil means the system's.
	Roots *x509.CertPool
	// Timeout bounds one document from the first packet to the last; zero means 5 s.
	Timeout time.Duration
}

// Fetcher reads documents. It is safe for concurrent use.
type Fetcher struct {
	client  *http.Client
	timeout time.Duration
	places  chan struct{}
	peers   peers
}

// New returns a Fetcher. It uses no proxy, whatever the environment says: a proxy would resolve
// the names, behind the back of Guard.
func New(c Config) *Fetcher {
	f := &Fetcher{timeout: cmp.Or(c.Timeout, defaultTimeout), places: make(chan struct{}, atOnce)}
	dialer := &net.Dialer{Timeout: f.timeout, Control: Guard(c.Networks)}
	f.client = &http.Client{
		Timeout:       f.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            f.peers.dial(dialer),
			TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    f.timeout,
			ResponseHeaderTimeout:  f.timeout,
			MaxResponseHeaderBytes: headerLimit,
			DisableKeepAlives:      true,
			// What is small when it arrives must not grow here.
			DisableCompression: true,
		},
	}
	return f
}

// Document is what was found at an address.
type Document struct {
	Body   []byte
	Header http.Header
}

// longestAge bounds what an answer can say of itself, so that a time.Duration holds it.
const longestAge = 1 << 31

// Age is for how long the answer says that the document is good (RFC 9111 §5.2.2): the shortest
// max-age, and zero where it is not to be stored. said is false where it says nothing that can be
// read, sound is false where something that it says cannot be.
func (d *Document) Age() (age time.Duration, said, sound bool) {
	sound = true
	for directive := range strings.SplitSeq(strings.Join(d.Header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		var seconds int64
		var err error
		switch name {
		case "no-store", "no-cache":
		case "max-age":
			seconds, err = strconv.ParseInt(strings.Trim(value, `"`), 10, 64)
		default:
			continue
		}
		if err != nil || seconds < 0 {
			sound = false
			continue
		}
		if one := time.Duration(min(seconds, longestAge)) * time.Second; !said || one < age {
			age, said = one, true
		}
	}
	return age, said, sound
}

// Get reads the document at an https address: an answer 200 of at most limit bytes, of one of
// the media types. An error that wraps ErrRefused says that it is not worth another try.
func (f *Fetcher) Get(ctx context.Context, address string, limit int64, media ...string) (*Document, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("%w: not an https address", ErrRefused)
	}
	select {
	case f.places <- struct{}{}:
		defer func() { <-f.places }()
	default:
		return nil, ErrBusy
	}
	// A document is read for more than the request that asked first, and in no more time.
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for _, m := range media {
		request.Header.Add("Accept", m)
	}
	response, err := f.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	document, err := read(response, limit, media)
	if ctx.Err() != nil {
		// A server that sees us hang up may end its answer in order before the connection is gone.
		return nil, fmt.Errorf("fetch: %w", ctx.Err())
	}
	return document, err
}

func read(response *http.Response, limit int64, media []string) (*Document, error) {
	switch {
	case response.StatusCode >= http.StatusInternalServerError || response.StatusCode == http.StatusTooManyRequests:
		return nil, fmt.Errorf("fetch: status %d", response.StatusCode)
	case response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusGone:
		return nil, fmt.Errorf("%w: %w: status %d", ErrRefused, ErrGone, response.StatusCode)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: status %d", ErrRefused, response.StatusCode)
	}
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(media, kind) {
		return nil, fmt.Errorf("%w: another media type", ErrRefused)
	}
	if encoding := response.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, fmt.Errorf("%w: a content encoding that was not asked for", ErrRefused)
	}
	if response.ContentLength > limit {
		return nil, fmt.Errorf("%w: too large", ErrRefused)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch: %w", err)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("%w: too large", ErrRefused)
	}
	return &Document{Body: body, Header: response.Header}, nil
}

// Guard is the Control of a net.Dialer that keeps connections out of private networks. It runs
// after the name was resolved and before the connection is made, so that no name can lead into a
// network that is not among those given.
func Guard(networks []netip.Prefix) func(network, address string, c syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		peer, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: address: %w", ErrRefused, err)
		}
		ip := peer.Addr().Unmap().WithZone("")
		open := slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) })
		if !open && !Public(ip) {
			return fmt.Errorf("%w: an address of a private network", ErrRefused)
		}
		return nil
	}
}

// Public reports whether an address belongs to the internet at large (RFC 6890).
func Public(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	// Nothing else is in use (RFC 4291 §2.4, IANA), and some of it holds an IPv4 address.
	if ip.Is6() && !netip.MustParsePrefix("2000::/3").Contains(ip) {
		return false
	}
	for _, special := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		if netip.MustParsePrefix(special).Contains(ip) {
			return false
		}
	}
	return true
}
