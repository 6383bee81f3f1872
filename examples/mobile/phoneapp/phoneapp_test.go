package phoneapp_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/draw"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skip2/go-qrcode"

	"github.com/qrgrant/qrgrant/examples/mobile/phoneapp"
)

const own = "https://app.example"

func handler(tb testing.TB) http.Handler {
	tb.Helper()
	h, err := (&phoneapp.App{Issuer: "https://id.example/op", ClientID: "mobile", URL: own}).Handler()
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// get asks for a path without a network.
func get(tb testing.TB, h http.Handler, path string) *http.Response {
	tb.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(tb.Context(), http.MethodGet, path, nil))
	return w.Result()
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	for name, app := range map[string]phoneapp.App{
		"no issuer":           {ClientID: "c", URL: own},
		"issuer of no scheme": {Issuer: "id.example", ClientID: "c", URL: own},
		"no client":           {Issuer: own, URL: own},
		"no address":          {Issuer: own, ClientID: "c"},
		"address with a path": {Issuer: own, ClientID: "c", URL: own + "/app"},
		"address with slash":  {Issuer: own, ClientID: "c", URL: own + "/"},
		"address of an app":   {Issuer: own, ClientID: "c", URL: "com.example.app:/"},
	} {
		if _, err := app.Handler(); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// The camera belongs to the page that scans, and to nothing else.
func TestHeaders(t *testing.T) {
	t.Parallel()
	h := handler(t)
	for path, camera := range map[string]string{
		"/": "camera=(self)", "/devices": "camera=()", "/sw.js": "camera=()", "/nothing": "camera=()", "/decode": "camera=()",
	} {
		header := get(t, h, path).Header
		if got := header.Get("Permissions-Policy"); !strings.HasPrefix(got, camera+",") {
			t.Errorf("%s: %s", path, got)
		}
		policy := header.Get("Content-Security-Policy")
		for _, want := range []string{
			"default-src 'none'", "script-src 'self'", "connect-src 'self' https://id.example;", "worker-src 'self'", "manifest-src 'self'",
			"form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types worker",
		} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: no %s in %s", path, want, policy)
			}
		}
		if header.Get("Referrer-Policy") != "no-referrer" || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, header)
		}
	}
}

// Every file has an address of its version, and none of another; the worker knows them all.
func TestVersions(t *testing.T) {
	t.Parallel()
	h := handler(t)
	body := func(path string) string {
		reply := get(t, h, path)
		all, _ := io.ReadAll(reply.Body)
		if reply.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, reply.StatusCode)
		}
		return string(all)
	}
	page, worker := body("/"), body("/sw.js")
	_, rest, _ := strings.Cut(page, `data-static="`)
	base, _, _ := strings.Cut(rest, `"`)
	for name, media := range map[string]string{
		"app.js": "text/javascript", "text.zh.js": "text/javascript", "style.css": "text/css", "icon-512.png": "image/png",
		"icon.svg": "image/svg+xml", "manifest.webmanifest": "application/manifest+json",
	} {
		reply := get(t, h, base+"/"+name)
		if reply.StatusCode != http.StatusOK || !strings.HasPrefix(reply.Header.Get("Content-Type"), media) || !strings.Contains(reply.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", name, reply.StatusCode, reply.Header)
		}
		if !strings.Contains(worker, name) {
			t.Errorf("the worker does not keep %s", name)
		}
		if other := get(t, h, "/static/0123456789abcdef/"+name); other.StatusCode != http.StatusNotFound {
			t.Errorf("%s of another version: %d", name, other.StatusCode)
		}
	}
	for _, hidden := range []string{"/static/x/app.js", base + "/../phoneapp.go", base + "/nothing.js", "/phoneapp.go"} {
		if reply := get(t, h, hidden); reply.StatusCode == http.StatusOK {
			t.Errorf("%s: %d", hidden, reply.StatusCode)
		}
	}
	changed, err := (&phoneapp.App{Issuer: "https://other.example", ClientID: "mobile", URL: own}).Handler()
	if err != nil {
		t.Fatal(err)
	}
	if reply := get(t, changed, base+"/app.js"); reply.StatusCode != http.StatusNotFound {
		t.Error("an application for another provider has the same version")
	}
}

// post sends a frame as the application does; origin may be another.
func post(tb testing.TB, h http.Handler, query, origin string, body []byte) *httptest.ResponseRecorder {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/decode?"+query, bytes.NewReader(body))
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// grey draws a QR code in the middle of a frame.
func grey(tb testing.TB, text string, side, width, height int) []byte {
	tb.Helper()
	code, err := qrcode.New(text, qrcode.Medium)
	if err != nil {
		tb.Fatal(err)
	}
	frame := image.NewGray(image.Rect(0, 0, width, height))
	draw.Draw(frame, frame.Bounds(), image.White, image.Point{}, draw.Src)
	corner := image.Pt((width-side)/2, (height-side)/2)
	draw.Draw(frame, image.Rectangle{corner, corner.Add(image.Pt(side, side))}, code.Image(side), image.Point{}, draw.Src)
	return frame.Pix
}

func TestDecode(t *testing.T) {
	t.Parallel()
	const payload = "https://id.example/op/Q#1ABCDEFGHIJKLMNOPQRSTUVWXYZAABBBBBBBBBBBBBBBB"
	for _, size := range []struct{ side, width, height int }{
		{640, 640, 640}, {480, 640, 640}, {240, 640, 640}, {160, 640, 360}, {300, 360, 640}, {200, 200, 200}, {320, 321, 323}, {300, 1280, 320},
	} {
		w := post(t, handler(t), fmt.Sprintf("width=%d&height=%d", size.width, size.height), own, grey(t, payload, size.side, size.width, size.height))
		var answer struct{ Text string }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK || answer.Text != payload {
			t.Errorf("%v: %d %s", size, w.Code, w.Body)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", w.Header())
		}
	}
	blank := post(t, handler(t), "width=64&height=64", own, make([]byte, 64*64))
	if strings.TrimSpace(blank.Body.String()) != `{"text":""}` {
		t.Errorf("nothing is read as %d %s", blank.Code, blank.Body)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	square := make([]byte, 64*64)
	for name, row := range map[string]struct {
		query, origin string
		body          []byte
		want          int
	}{
		"no size":              {"", own, square, 400},
		"no number":            {"width=a&height=64", own, square, 400},
		"negative":             {"width=-64&height=-64", own, square, 400},
		"too small for a code": {"width=20&height=64", own, make([]byte, 20*64), 400},
		"too few octets":       {"width=64&height=64", own, square[1:], 400},
		"no octets":            {"width=64&height=64", own, nil, 400},
		"too many octets":      {"width=64&height=64", own, append(square, 0), 413},
		"too wide":             {"width=1281&height=64", own, square, 413},
		"too many pixels":      {"width=641&height=640", own, square, 413},
		"overflow":             {"width=4294967296&height=4294967296", own, square, 413},
		"another site":         {"width=64&height=64", "https://elsewhere.example", square, 403},
		"a site that is alike": {"width=64&height=64", own + ".elsewhere.example", square, 403},
		"no site":              {"width=64&height=64", "", square, 403},
	} {
		if w := post(t, handler(t), row.query, row.origin, row.body); w.Code != row.want {
			t.Errorf("%s: %d, want %d", name, w.Code, row.want)
		}
	}
	if reply := get(t, handler(t), "/decode?width=64&height=64"); reply.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", reply.StatusCode)
	}
}

// An address that sends frames faster than a phone does waits.
func TestDecodeLimits(t *testing.T) {
	t.Parallel()
	h := handler(t)
	for range 200 {
		w := post(t, h, "width=21&height=21", own, make([]byte, 21*21))
		if w.Code == http.StatusTooManyRequests {
			if w.Header().Get("Retry-After") != "1" {
				t.Errorf("headers %v", w.Header())
			}
			return
		}
	}
	t.Error("200 frames at once are read")
}

// FuzzDecode: whatever is sent, the answer is one of those that are documented.
func FuzzDecode(f *testing.F) {
	f.Add("21", "21", make([]byte, 21*21))
	f.Add("64", "64", grey(f, "HELLO", 64, 64, 64))
	f.Add("-1", "99999999999999999999", []byte("x"))
	noise := make([]byte, 100*80)
	source := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(source.IntN(256))
	}
	f.Add("100", "80", noise)
	h := handler(f)
	var sent atomic.Int64
	f.Fuzz(func(t *testing.T, width, height string, body []byte) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/decode", bytes.NewReader(body))
		query := r.URL.Query()
		query.Set("width", width)
		query.Set("height", height)
		r.URL.RawQuery = query.Encode()
		r.Header.Set("Origin", own)
		r.RemoteAddr = fmt.Sprintf("%d:1", sent.Add(1)) // each from elsewhere, so that none has to wait
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK:
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("not JSON: %q", w.Body)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		default:
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
