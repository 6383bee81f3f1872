package fetch_test

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/hostile"
)

const (
	media = "application/json"
	limit = 4 << 10
)

func open(t *testing.T) *fetch.Fetcher {
	t.Helper()
	return fetch.New(fetch.Config{Networks: hostile.Networks(), Roots: hostile.Roots(t)})
}

func TestGet(t *testing.T) {
	t.Parallel()
	body := []byte(`{"keys":[]}`)
	for name, content := range map[string]string{"the media type": media, "with a parameter": media + "; charset=utf-8", "in capitals": "Application/JSON", "another one of those": "application/b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			document, err := open(t).Get(t.Context(), hostile.Start(t, hostile.Document(content, body)), int64(len(body)), media, "application/b")
			if err != nil || string(document.Body) != string(body) || document.Header.Get("Content-Type") != content {
				t.Errorf("%v %v", document, err)
			}
		})
	}
}

// What a request says of us: nothing but what is wanted, and no compression.
func TestGetAsks(t *testing.T) {
	t.Parallel()
	var asked http.Header
	address := hostile.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Clone()
		hostile.Document(media, []byte("{}")).ServeHTTP(w, r)
	}))
	if _, err := open(t).Get(t.Context(), address, limit, media, "application/b"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(asked.Values("Accept"), ","); got != media+",application/b" || asked.Get("Accept-Encoding") != "" || asked.Get("Authorization")+asked.Get("Cookie") != "" {
		t.Errorf("%v", asked)
	}
}

func TestGetFromHostileServers(t *testing.T) {
	t.Parallel()
	for _, b := range hostile.Behaviours(media, []byte(`{"keys":[]}`)) {
		t.Run(b.Sentence, func(t *testing.T) {
			t.Parallel()
			config := fetch.Config{Networks: hostile.Networks(), Roots: hostile.Roots(t)}
			if b.Slow {
				config.Timeout = 300 * time.Millisecond
			}
			start := time.Now()
			document, err := fetch.New(config).Get(t.Context(), hostile.Start(t, b), limit, media)
			if err == nil || errors.Is(err, fetch.ErrRefused) != b.Refused {
				t.Errorf("%v %v", document, err)
			}
			if took := time.Since(start); took > 4*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestGetRefusesAddresses(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	address := hostile.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		hostile.Document(media, []byte("{}")).ServeHTTP(w, r)
	}))
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	public := fetch.New(fetch.Config{Roots: hostile.Roots(t)})
	for name, a := range map[string]string{
		"a private address":                 address,
		"a name that leads to one":          "https://localhost:" + u.Port(),
		"a private address in IPv6":         "https://[::1]:" + u.Port(),
		"one that is mapped into IPv6":      "https://[::ffff:127.0.0.1]:" + u.Port(),
		"one that is compatible with IPv6":  "https://[::127.0.0.1]:" + u.Port(),
		"one in a single number":            "https://2130706433:" + u.Port(),
		"the address of nobody":             "https://0.0.0.0:" + u.Port(),
		"the metadata of a cloud":           "https://169.254.169.254/latest",
		"no https":                          "http://" + u.Host,
		"a file":                            "file:///etc/passwd",
		"no host":                           "https:///path",
		"a password":                        "https://a:b@" + u.Host,
		"no address":                        "://",
		"a host with something in front":    "https:" + u.Host,
		"a host that is a socket elsewhere": "https://unix:/var/run/x",
	} {
		if _, err := public.Get(t.Context(), a, limit, media); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if _, err := open(t).Get(t.Context(), "http://"+u.Host, limit, media); !errors.Is(err, fetch.ErrRefused) {
		t.Errorf("without TLS: %v", err)
	}
	if reached.Load() != 0 {
		t.Error("a connection was made")
	}
	// The same address is good where it is open: nothing else was wrong with it.
	if _, err := open(t).Get(t.Context(), address, limit, media); err != nil {
		t.Error(err)
	}
}

func TestGetWantsACertificate(t *testing.T) {
	t.Parallel()
	address := hostile.Start(t, hostile.Document(media, []byte("{}")))
	if _, err := fetch.New(fetch.Config{Networks: hostile.Networks()}).Get(t.Context(), address, limit, media); err == nil {
		t.Error("a certificate of nobody was good")
	}
}

// One peer gets some of the places, all peers together get all of them; the places come back.
func TestGetAtOnce(t *testing.T) {
	t.Parallel()
	for _, place := range []struct {
		name  string
		peers []string
		most  int
	}{
		{"one peer", []string{"127.0.0.1"}, 8},
		{"five peers", []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"}, 32},
	} {
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			var held []string
			arrived := make(chan struct{}, 100)
			for _, peer := range place.peers {
				held = append(held, "https://"+mute(t, peer, arrived))
			}
			fetcher := fetch.New(fetch.Config{Networks: hostile.Networks(), Timeout: time.Minute})
			results := make(chan error, place.most)
			get := func(i int) error {
				_, err := fetcher.Get(t.Context(), held[i%len(held)], limit, media)
				return err
			}
			for i := range place.most {
				go func() { results <- get(i) }()
				<-arrived
			}
			for i := range held {
				if err := get(i); !errors.Is(err, fetch.ErrBusy) {
					t.Errorf("one more: %v", err)
				}
			}
		})
	}
}

// mute accepts connections, says so and never says anything on them, until the test ends.
func mute(t *testing.T, peer string, arrived chan<- struct{}) string {
	t.Helper()
	listener, err := net.Listen("tcp", peer+":0")
	if err != nil {
		t.Skip("this system has one loopback address only")
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			// The handshake has begun: the connection is counted.
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				arrived <- struct{}{}
			}
		}
	}()
	return listener.Addr().String()
}

func TestGetGivesPlacesBack(t *testing.T) {
	t.Parallel()
	fetcher := open(t)
	address := hostile.Start(t, hostile.Document(media, []byte("{}")))
	for range 100 {
		if _, err := fetcher.Get(t.Context(), address, limit, media); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPublicAddress(t *testing.T) {
	t.Parallel()
	for address, public := range map[string]bool{
		"9.9.9.9": true, "2620:fe::fe": true, "::ffff:9.9.9.9": true,
		"127.0.0.1": false, "::1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "255.255.255.255": false, "224.0.0.1": false, "fe80::1": false, "fd00::1": false, "ff02::1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::7f00:1": false, "::": false, "64:ff9b:1::1": false, "100::1": false, "fec0::1": false, "2001::1": false,
		"2001:db8::1": false, "3fff::1": false, "4000::1": false, "5f00::1": false, "fd00::1%eth0": false, "192.0.0.8": false, "198.18.0.1": false,
	} {
		if got := fetch.Public(netip.MustParseAddr(address)); got != public {
			t.Errorf("%s: %v", address, got)
		}
	}
}
